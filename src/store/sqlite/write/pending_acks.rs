//! What a batch promises: that the events are kept, and what must last as long as they do. It is answered
//! once no power cut can undo it.

use std::{sync::Arc, time::Instant};

use super::requests::ReplyTo;
use crate::{
    hint,
    model::{Event, Owed},
    store::{Appended, Result, sqlite::error::failed},
};

/// Where accepted events go on their way, in accept order.
pub type AcceptedHints = hint::Sender<Vec<Arc<Event>>, bool>;

pub struct PendingAcks {
    pub appends: Vec<Ack<Vec<Appended>>>,
    pub works: Vec<Ack<Vec<Owed>>>,
    pub accepted: Vec<Arc<Event>>,
    /// When its turn began.
    pub begun: Instant,
}

/// What whoever asked is to hear.
pub struct Ack<T> {
    pub request: ReplyTo<T>,
    pub answer: Result<T>,
}

impl PendingAcks {
    pub fn is_empty(&self) -> bool {
        self.appends.is_empty() && self.works.is_empty() && self.accepted.is_empty()
    }

    /// Whether it is about something that its own batch did, and not only about earlier events.
    pub fn is_of_its_batch(&self) -> bool {
        !(self.accepted.is_empty() && self.works.is_empty())
    }

    /// What it is about is on disk.
    pub fn ack(self, outlet: &AcceptedHints) {
        metrics::histogram!("tidegate_store_commit_seconds").record(self.begun.elapsed());
        metrics::histogram!("tidegate_store_commit_events").record(self.accepted.len() as f64);
        self.appends.into_iter().for_each(|it| it.request.answer(it.answer));
        self.works.into_iter().for_each(|it| it.request.answer(it.answer));
        if !self.accepted.is_empty() {
            outlet.send(self.accepted);
        }
    }

    /// Nobody knows whether its turn is on disk.
    pub fn fail(self) {
        self.appends.into_iter().for_each(|it| it.request.answer(Err(failed())));
        self.works.into_iter().for_each(|it| it.request.answer(Err(failed())));
    }
}
