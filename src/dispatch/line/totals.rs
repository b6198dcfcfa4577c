//! What all lines share: the step that is being made, and what is counted over all of them.

use std::collections::BTreeSet;

use jiff::Timestamp;

use crate::{
    dispatch::{Options, scheduler::Action},
    model::{DeliverySeq, EventSeq},
};

/// What one step of the scheduler gives a line to work with.
pub struct Step<'a> {
    pub now: Timestamp,
    pub options: &'a Options,
    pub totals: &'a mut Totals,
    pub actions: &'a mut Vec<Action>,
}

/// Over all lines.
#[derive(Debug, Default)]
pub struct Totals {
    pub held: usize,
    /// Attempts, each of one delivery or of a batch.
    pub in_flight: usize,
    pub unsettled: usize,
    pub reads: usize,
    pub early: Early,
    /// Nothing new is to be attempted.
    pub is_stopping: bool,
}

/// What was read from the store and left memory again before its hint came in: a hint that comes
/// late must not bring it back.
#[derive(Debug, Default)]
pub struct Early {
    /// Hints come in accept order, and have come up to here.
    hinted: EventSeq,
    left: BTreeSet<DeliverySeq>,
}

impl Early {
    /// Far more than can be between the store and the hints. The oldest are forgotten first: their
    /// hints were never to come, since their events are from before the start.
    const MOST: usize = 50_000;

    pub fn has_ended(&self, seq: DeliverySeq) -> bool {
        !self.left.is_empty() && self.left.contains(&seq)
    }

    pub fn hinted(&mut self, event: EventSeq) {
        self.hinted = self.hinted.max(event);
        if !self.left.is_empty() {
            self.left = self.left.split_off(&DeliverySeq::first_of(EventSeq(self.hinted.0 + 1)));
        }
    }

    pub fn leave(&mut self, seq: DeliverySeq) {
        if seq.event() > self.hinted {
            self.left.insert(seq);
            if self.left.len() > Self::MOST {
                self.left.pop_first();
            }
        }
    }
}
