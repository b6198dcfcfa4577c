//! How an event goes through steps, one after the other.

use std::time::Instant;

use super::{
    answers::{Answers, QuestionSlot},
    planner::Planner,
    reasons::{self, StopReasons},
    trace::{Applied, MOST, Went},
    types::{At, Branches},
};
use crate::{
    expr::{EvalError, Facts},
    model::Passed,
    pipeline::{
        ask::{LookupAnswer, LookupStatus},
        steps::{Next, Step, StepLog},
    },
};

impl Planner<'_> {
    /// What the steps leave, behind the first few. Where a step makes several of one event, each goes its
    /// own way from there.
    pub(super) fn steps(
        &mut self,
        steps: &[Box<dyn Step>],
        from: usize,
        mut branches: Branches,
        at: At<'_>,
        answers: &mut dyn Answers,
    ) -> Branches {
        for (step, place) in steps.iter().zip(0..).skip(from) {
            if branches.is_empty() {
                break;
            }
            let mut next = Branches::with_capacity(branches.len());
            let (mut has_parts, mut stopped) = (false, StopReasons::of(branches.len()));
            let mut passed = Passed { arrived: branches.len() as u64, ..Passed::default() };
            for (branch, number) in branches.into_iter().zip(0..) {
                let before = branch.unwrap_or_else(|| self.facts());
                let version = at.pipeline.version;
                let slot = QuestionSlot { version, route: at.route, step: place, branch: number };
                let errors = self.errors;
                match self.applied(step.as_ref(), slot, &before, answers) {
                    Ok(Next::Same) => next.push(Some(before)),
                    Ok(Next::Changed(after)) => next.push(Some(after)),
                    Ok(Next::Several(parts)) => {
                        has_parts = true;
                        next.extend(parts.into_iter().map(Some));
                    }
                    Ok(Next::Stop(reason)) => stopped.add(|| reason),
                    Err(error) => match self.after_failure(step.as_ref(), &before, &error) {
                        Ok(after) => next.push(Some(after)),
                        Err(reason) => stopped.add(|| reason),
                    },
                }
                passed.errored += u64::from(self.errors != errors);
                if reasons::cut(&mut next, stopped.of - 1 - usize::from(number), &mut stopped) {
                    break;
                }
            }
            if has_parts {
                number(&mut next);
            }
            reasons::doom_rest(&mut next);
            (passed.filtered, passed.left) = (stopped.count as u64, next.len() as u64);
            *self.passed(at.edge(Some(usize::from(place)))) += passed;
            self.say(stopped, step.kind(), at);
            branches = next;
        }
        branches
    }

    /// Applies a step, and notes what it did if somebody looks.
    fn applied(
        &mut self,
        step: &dyn Step,
        slot: QuestionSlot,
        before: &Facts,
        answers: &mut dyn Answers,
    ) -> Result<Next, EvalError> {
        if self.trace.is_none() {
            return self.apply(step, slot, before, answers, None);
        }
        let mut heard = StepLog::default();
        let start = Instant::now();
        let result = self.apply(step, slot, before, answers, Some(&mut heard));
        let took = start.elapsed();
        if let Some(trace) = &mut self.trace {
            if trace.steps.len() < MOST {
                let (before, went) = (before.clone(), Went::of(&result));
                trace.steps.push(Applied { slot, kind: step.kind(), before, went, heard, took });
            } else {
                trace.omitted += 1;
            }
        }
        result
    }

    fn apply(
        &mut self,
        step: &dyn Step,
        slot: QuestionSlot,
        facts: &Facts,
        answers: &mut dyn Answers,
        heard: Option<&mut StepLog>,
    ) -> Result<Next, EvalError> {
        if let Some(detect) = step.remembers() {
            return self.detect(detect, facts, answers);
        }
        let Some(enrich) = step.asks() else {
            return heard.map_or_else(|| step.apply(facts), |it| step.apply_heard(facts, it));
        };
        let answer = match enrich.question(facts)? {
            None => LookupAnswer::of(LookupStatus::NoKey),
            Some(question) => match answers.answer(slot, enrich, question) {
                Some(answer) => answer,
                None => {
                    // Other routes may have more to ask, at the same time.
                    self.waits = true;
                    return Ok(Next::Stop(String::new()));
                }
            },
        };
        self.errors += u64::from(answer.status.is_failure());
        Ok(enrich.answered(facts, &answer))
    }
}

/// Numbers the parts of an event, in their order: it becomes part of the message id of each.
fn number(branches: &mut Branches) {
    for (branch, part) in branches.iter_mut().zip(1..) {
        *branch = branch.as_ref().map(|it| it.as_part(part));
    }
}
