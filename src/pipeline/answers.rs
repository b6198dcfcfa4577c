//! Where the planner gets from what an event does not say: answers of others, and memories.

use std::{
    sync::Arc,
    task::{Context, Poll, Waker},
};

use super::{
    ask::{Answer, Lookups, Question, Status},
    enrich::Enrich,
};
use crate::model::{Memory, ProjectId, StepId};

/// Which question of a pipeline.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Slot {
    pub(super) version: u32,
    pub(super) route: Option<u16>,
    pub(super) step: u16,
    /// Of those that a step before made of the event.
    pub(super) branch: u16,
}

/// Where the planner gets answers from.
pub(super) trait Answers {
    /// `None`: it is not known yet.
    fn answer(&mut self, slot: Slot, step: &Enrich, question: Question) -> Option<Answer>;

    /// What a step remembers of the events before this one.
    fn recall(&self, step: StepId, key: &[u8]) -> Option<Memory>;
}

/// Nobody is there to ask.
pub(super) struct Nobody;

impl Answers for Nobody {
    fn answer(&mut self, _: Slot, _: &Enrich, _: Question) -> Option<Answer> {
        Some(Answer::of(Status::NotFound))
    }

    fn recall(&self, _: StepId, _: &[u8]) -> Option<Memory> {
        None
    }
}

/// Knows what the world outside knows at once.
pub(super) struct AtOnce<'a> {
    pub lookups: &'a dyn Lookups,
    pub project: ProjectId,
}

impl Answers for AtOnce<'_> {
    fn answer(&mut self, _: Slot, _: &Enrich, question: Question) -> Option<Answer> {
        let mut asked = self.lookups.ask(self.project, Arc::new(question));
        match asked.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(answer) => Some(answer),
            Poll::Pending => Some(Answer::of(Status::Overloaded)),
        }
    }

    fn recall(&self, _: StepId, _: &[u8]) -> Option<Memory> {
        None
    }
}
