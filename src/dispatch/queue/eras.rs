//! What was planned under an earlier ordering goes before what was planned under a later one.
//!
//! Lanes of two orderings know nothing of each other, so the line delivers one era after the other. Of those with
//! a lane that were not attempted, only such of the open era are in memory; what is of a later one stays in the
//! store until nothing of the open one is left, here or there. Then the store is asked for the first that
//! there is, and its era is the open one. What was attempted before goes on, whatever its era.

use super::{
    DestinationQueue, StepContext,
    lanes::{Key, Lanes, Queue, Untrusted},
    reading::ReadKind,
};
use crate::model::{DeliverySeq, Era, Lane, Owed};

/// Whether the store has deliveries of an era behind the open one.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Later {
    #[default]
    No,
    /// It is asked when nothing of the open era is left.
    Perhaps,
    /// The open era is not known either: it is asked now.
    Ask,
}

pub fn era(owed: &Owed) -> Era {
    Era::of(owed.place.position)
}

impl Lanes {
    /// Whether the store may have some of the open era from here on.
    pub fn goes_on(&self, until: Option<Key>) -> bool {
        until.is_some_and(|(position, _)| Era::of(position) <= self.open)
    }

    /// Those of which something is in memory, in an order that is the same each time.
    pub fn known(&self) -> Vec<Lane> {
        let mut known: Vec<Lane> = self.queues.keys().copied().collect();
        known.sort_unstable();
        known
    }

    fn leaves_some(&mut self) {
        if self.later == Later::No {
            self.later = Later::Perhaps;
        }
    }

    /// How many of a group of one lane are of the open era. The others stay in the store.
    pub fn open_part(&mut self, group: &[Owed]) -> usize {
        let count = group.partition_point(|it| era(it) <= self.open);
        if count < group.len() {
            self.leaves_some();
        }
        count
    }

    /// Where the open era ends in every lane.
    pub fn end_of_open(&self) -> Key {
        (self.open.end(), DeliverySeq::from_bits(0))
    }

    /// Whether nothing of the open era is left, in memory or in the store.
    fn are_done(&self) -> bool {
        let is_done = |it: &Queue| !self.goes_on(it.until) && !self.has_open(it);
        self.untrusted.is_empty() && self.hungry.is_empty() && self.queues.values().all(is_done)
    }

    fn has_open(&self, queue: &Queue) -> bool {
        queue.eras().any(|it| it <= self.open)
    }
}

impl DestinationQueue {
    /// Everything is to be read from the store.
    pub(super) fn forget_eras(&mut self) {
        let era = self.settings.as_ref().map_or(Era::FIRST, |it| it.era);
        self.lanes.open = Era::FIRST;
        // Without it, all lanes are looked at once for an era in which nothing may be left.
        self.lanes.later = if era == Era::FIRST { Later::No } else { Later::Ask };
    }

    /// Whether one of this era, which is not the open one, may be held.
    pub(super) fn opens(&mut self, lane: Lane, era: Era, step: &mut StepContext<'_>) -> bool {
        if era < self.lanes.open {
            // Planned by settings that were old already.
            self.go_back_to(era, step);
            return true;
        }
        // Hints come in accept order: before the first of an era is that of each of an earlier one.
        let is_certain = self.lanes.later == Later::No && !self.is_reading_lanes();
        if is_certain && self.lanes.are_done() {
            self.lanes.open = era;
            return true;
        }
        if self.lanes.queues.contains_key(&lane) {
            self.truncate(lane, self.lanes.end_of_open(), step);
        }
        self.lanes.leaves_some();
        false
    }

    /// Leaves to the store what is of later eras.
    pub(super) fn go_back_to(&mut self, era: Era, step: &mut StepContext<'_>) {
        self.lanes.open = era;
        self.lanes.leaves_some();
        for lane in self.lanes.known() {
            self.truncate(lane, self.lanes.end_of_open(), step);
            self.advance(lane);
        }
    }

    pub(super) fn wants_era(&self) -> bool {
        match self.lanes.later {
            Later::No => false,
            Later::Perhaps => self.lanes.are_done(),
            Later::Ask => true,
        }
    }

    /// What stands first of all lanes, as the store has it.
    pub(super) fn take_first(&mut self, rows: &[Owed], step: &mut StepContext<'_>) {
        let Some(first) = rows.first().map(era) else { return };
        if first < self.lanes.open {
            self.go_back_to(first, step);
        } else {
            // What has been planned meanwhile may be held already.
            let held = self.lanes.queues.values().flat_map(Queue::eras).min();
            self.lanes.open = held.map_or(first, |it| it.min(first));
            if self.lanes.open < first {
                self.lanes.leaves_some();
            }
        }
        self.lanes.untrusted = Untrusted::ALL;
    }

    fn is_reading_lanes(&self) -> bool {
        self.reading.as_ref().is_some_and(|it| it.kind != ReadKind::Loose)
    }

    /// Whether what a message waits for may be the only one that can go.
    pub(super) fn is_alone(&self) -> bool {
        self.lanes.later != Later::No && self.lanes.queues.len() <= 1
    }
}
