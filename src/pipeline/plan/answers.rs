//! Where the planner gets from what an event does not say: answers of others, and memories.

use std::{
    sync::Arc,
    task::{Context, Poll, Waker},
};

use crate::{
    model::{Memory, ProjectId, StepId},
    pipeline::{
        ask::{LookupAnswer, LookupStatus, Lookups, Question},
        steps::Asks,
    },
};

/// Which question of a pipeline.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(in crate::pipeline) struct QuestionSlot {
    pub(in crate::pipeline) version: u32,
    pub(in crate::pipeline) route: Option<u16>,
    pub(in crate::pipeline) step: u16,
    /// Of those that a step before made of the event.
    pub(in crate::pipeline) branch: u16,
}

/// Where the planner gets answers from.
pub(in crate::pipeline) trait Answers {
    /// `None`: it is not known yet.
    fn answer(
        &mut self,
        slot: QuestionSlot,
        step: &dyn Asks,
        question: Question,
    ) -> Option<LookupAnswer>;

    /// What a step remembers of the events before this one.
    fn recall(&self, step: StepId, key: &[u8]) -> Option<Memory>;
}

/// Nobody is there to ask.
pub(in crate::pipeline) struct Nobody;

impl Answers for Nobody {
    fn answer(&mut self, _: QuestionSlot, _: &dyn Asks, _: Question) -> Option<LookupAnswer> {
        Some(LookupAnswer::of(LookupStatus::NotFound))
    }

    fn recall(&self, _: StepId, _: &[u8]) -> Option<Memory> {
        None
    }
}

/// Knows what the world outside knows at once.
pub(in crate::pipeline) struct AtOnce<'a> {
    pub lookups: &'a dyn Lookups,
    pub project: ProjectId,
}

impl Answers for AtOnce<'_> {
    fn answer(
        &mut self,
        _: QuestionSlot,
        _: &dyn Asks,
        question: Question,
    ) -> Option<LookupAnswer> {
        let mut asked = self.lookups.ask(self.project, Arc::new(question));
        match asked.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(answer) => Some(answer),
            Poll::Pending => Some(LookupAnswer::of(LookupStatus::Overloaded)),
        }
    }

    fn recall(&self, _: StepId, _: &[u8]) -> Option<Memory> {
        None
    }
}
