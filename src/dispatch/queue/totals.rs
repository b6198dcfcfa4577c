//! What all lines share: the step that is being made, and what is counted over all of them.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};

use crate::{
    dispatch::{Options, input::Action},
    model::{DeliverySeq, EventSeq},
};

/// What one step of the scheduler gives a line to work with.
pub struct StepContext<'a> {
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
    /// By how much the clock was set back, since the start and before it as far as that is known.
    pub set_back: SignedDuration,
}

/// What was read from the store and left memory again before its hint came in: a hint that comes
/// late must not bring it back.
#[derive(Debug, Default)]
pub struct Early {
    /// Hints of each log come in accept order, and have come up to here.
    hinted: Vec<EventSeq>,
    left: BTreeSet<DeliverySeq>,
}

impl Early {
    /// Far more than can be between the store and the hints. The oldest are forgotten first: their
    /// hints were never to come, since their events are from before the start.
    const MOST: usize = 50_000;
    /// In front of these bits of an event's place stands its log; the embedded store has one.
    const LOG: u32 = 40;
    /// There are no more logs.
    const LOGS: usize = 1 << 10;

    pub fn has_ended(&self, seq: DeliverySeq) -> bool {
        !self.left.is_empty() && self.left.contains(&seq)
    }

    pub fn hinted(&mut self, event: EventSeq) {
        let log = (event.0 >> Self::LOG) as usize;
        if self.hinted.len() <= log && log < Self::LOGS {
            self.hinted.resize(log + 1, EventSeq(0));
        }
        let Some(hinted) = self.hinted.get_mut(log) else { return };
        *hinted = event.max(*hinted);
        if !self.left.is_empty() {
            let first = DeliverySeq::first_of(EventSeq((log as u64) << Self::LOG));
            let end = DeliverySeq::first_of(EventSeq(hinted.0 + 1));
            let come: Vec<DeliverySeq> = self.left.range(first..end).copied().collect();
            for it in come {
                self.left.remove(&it);
            }
        }
    }

    pub fn leave(&mut self, seq: DeliverySeq) {
        let log = (seq.event().0 >> Self::LOG) as usize;
        if self.hinted.get(log).is_none_or(|it| seq.event() > *it) {
            self.left.insert(seq);
            if self.left.len() > Self::MOST {
                self.left.pop_first();
            }
        }
    }
}
