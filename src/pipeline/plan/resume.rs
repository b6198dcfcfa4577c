//! How an event goes through a step that detects, and how one that tells of an absence goes on behind it.

use super::{
    answers::Answers,
    planner::Planner,
    types::{At, Branches},
};
use crate::{
    expr::{EvalError, Facts},
    model::{Memory, Passed, Remembered, StepId},
    pipeline::{
        compile::{Active, CompiledPipeline},
        steps::{
            Next, Remembers, Step,
            detect::{Detect, Origin},
        },
    },
};

/// Where a step stands: its route, and which of the steps there it is.
type StepPosition<'a> = (Option<u16>, usize, &'a dyn Remembers);

impl Planner<'_> {
    pub(in crate::pipeline) fn detect(
        &mut self,
        detect: &dyn Remembers,
        facts: &Facts,
        answers: &dyn Answers,
    ) -> Result<Next, EvalError> {
        let (pipeline, mark) = self.scope;
        let step = detect.id(pipeline, mark);
        let Some(found) = detect.find(facts)? else {
            return Ok(Next::Stop("its key is missing or too long".to_owned()));
        };
        let before = self.recall(step, &found.key, answers);
        let at = self.event.received_at.as_millisecond();
        let (after, next) = detect.seen(facts, &found, before.as_ref(), at);
        self.remember(step, &found.key, after);
        Ok(next)
    }

    /// Goes on behind the step that missed something.
    pub(in crate::pipeline) fn resume(
        &mut self,
        origin: &Origin,
        active: &Active,
        pipeline: &CompiledPipeline,
        answers: &mut dyn Answers,
    ) {
        let Some((step, (route, place, detect))) = find(pipeline, origin) else {
            let reason = "the step that missed it was changed or removed".to_owned();
            return self.skip(At { pipeline, route: None }, Detect::ABSENCE, reason);
        };
        let at = At { pipeline, route };
        self.scope.1 = at.route().map_or(0, |it| it.mark);
        let key = detect.remembered_as(&origin.key);
        let before = self.recall(step, &key, answers);
        let facts = self.facts();
        let (after, next) = detect.over(&facts, &origin.key, before.as_ref(), origin.since);
        self.remember(step, &key, after);
        let passed = self.passed(at.edge(Some(place)));
        *passed += Passed { arrived: 1, ..Passed::default() };
        let branches: Branches = match next {
            Next::Stop(reason) => {
                passed.filtered += 1;
                return self.skip(at, Detect::ABSENCE, reason);
            }
            Next::Same => vec![Some(facts)],
            Next::Changed(facts) => vec![Some(facts)],
            Next::Several(parts) => parts.into_iter().map(Some).collect(),
        };
        passed.left += branches.len() as u64;
        match route {
            None => {
                let branches = self.steps(&pipeline.steps, place + 1, branches, at, answers);
                self.routes(active, pipeline, branches, answers);
            }
            Some(number) => match active.targets.get(usize::from(number)) {
                Some(Some(target)) => self.deliver(at, target, place + 1, branches, answers),
                Some(None) | None => {
                    self.skip(at, "route", "there is no such destination".to_owned());
                }
            },
        }
    }

    /// With what this event itself has changed so far.
    fn recall(&self, step: StepId, key: &[u8], answers: &dyn Answers) -> Option<Memory> {
        let own = self.made.remembered.iter().rev().find(|it| it.step == step && *it.key == *key);
        own.map_or_else(|| answers.recall(step, key), |it| it.memory.clone())
    }

    fn remember(&mut self, step: StepId, key: &[u8], memory: Option<Memory>) {
        let Some(memory) = memory else { return };
        let remembered = &mut self.made.remembered;
        match remembered.iter_mut().find(|it| it.step == step && *it.key == *key) {
            Some(it) => it.memory = Some(memory),
            None => remembered.push(Remembered { step, key: key.into(), memory: Some(memory) }),
        }
    }
}

/// The step that an event comes from, as its pipeline is now.
fn find<'a>(pipeline: &'a CompiledPipeline, origin: &Origin) -> Option<(StepId, StepPosition<'a>)> {
    let wanted = origin.step()?;
    let is_it = |step: &'a dyn Step, mark: u64| {
        step.remembers().filter(|it| it.id(pipeline.id, mark) == wanted)
    };
    for (place, step) in pipeline.steps.iter().enumerate() {
        if let Some(detect) = is_it(step.as_ref(), 0) {
            return Some((wanted, (None, place, detect)));
        }
    }
    for (number, route) in (0..).zip(&pipeline.routes) {
        for (place, step) in route.steps.iter().enumerate() {
            if let Some(detect) = is_it(step.as_ref(), route.mark) {
                return Some((wanted, (Some(number), place, detect)));
            }
        }
    }
    None
}
