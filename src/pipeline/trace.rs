//! What happens to one event in one pipeline, step by step, for people who try it. Where nobody looks,
//! it costs one comparison a step.

use std::time::{Duration, Instant};

use super::{
    answers::{Answers, QuestionSlot},
    plan::Planner,
    steps::{Next, Step, StepLog},
};
use crate::expr::{EvalError, Facts};

/// Applications of steps that are kept. The rest is counted.
const MOST: usize = 1024;

#[derive(Default)]
pub(super) struct Trace {
    /// In their order.
    pub steps: Vec<Applied>,
    pub omitted: usize,
    /// Each route that was reached, with the deliveries and reasons that there were before it.
    pub routes: Vec<(usize, usize)>,
}

/// What one step did with one event.
pub(super) struct Applied {
    pub slot: QuestionSlot,
    pub kind: &'static str,
    pub before: Facts,
    pub went: Went,
    pub heard: StepLog,
    pub took: Duration,
}

pub(super) enum Went {
    Same,
    Changed(Facts),
    Several(Vec<Facts>),
    Stopped(String),
    Failed(String),
}

impl Went {
    fn of(result: &Result<Next, EvalError>) -> Self {
        match result {
            Ok(Next::Same) => Self::Same,
            Ok(Next::Changed(after)) => Self::Changed(after.clone()),
            Ok(Next::Several(parts)) => Self::Several(parts.clone()),
            Ok(Next::Stop(reason)) => Self::Stopped(reason.clone()),
            Err(error) => Self::Failed(error.to_string()),
        }
    }
}

impl Trace {
    pub fn enter(&mut self, deliveries: usize, skipped: usize) {
        self.routes.push((deliveries, skipped));
    }
}

impl Planner<'_> {
    /// Applies a step, and notes what it did if somebody looks.
    pub(super) fn applied(
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
}
