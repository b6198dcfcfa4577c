//! How long what failed waits: for a length, whatever the clock says meanwhile.
//!
//! A due time in the store is a moment of the wall clock. Where that was set back, it may lie far ahead of
//! what was meant, so what is read is bounded by how long its own schedule lets it wait.

use std::cmp::Reverse;

use jiff::{SignedDuration, Timestamp};

use super::{DeliveryPhase, DestinationQueue, QueuedDelivery, ReadyEntry, StepContext};
use crate::{
    dispatch::{earlier, later, retry},
    model::{Class, DeliverySeq, IdMap, Lane, Ordering, Outcome, Owed},
};

/// Deliveries for which the endpoint answered that it is gone, since a person enabled it last.
#[derive(Debug, Default)]
pub struct Gone {
    /// When each may go again.
    held: IdMap<DeliverySeq, Timestamp>,
    /// Others were accepted since then.
    accepted: bool,
}

impl Gone {
    fn forget(&mut self, seqs: &[DeliverySeq]) {
        for seq in seqs {
            self.held.remove(seq);
        }
    }
}

/// After `enable`, others go first for so long.
const OTHERS_FIRST: std::time::Duration = std::time::Duration::from_secs(10);
const MOST_HELD: usize = 4_096;

impl DestinationQueue {
    /// Moves what has become due.
    pub fn wake(&mut self, now: Timestamp) {
        while let Some(&Reverse((due, seq))) = self.waiting.peek()
            && due <= now
        {
            self.waiting.pop();
            if self.rows.get(&seq).is_some_and(|row| row.due == Some(due)) {
                self.make_ready(seq);
            }
        }
    }

    /// A retry whose time has come, unless its last settlement is not yet on disk.
    pub(super) fn make_ready(&mut self, seq: DeliverySeq) {
        let Some(row) = self.rows.get(&seq) else { return };
        if row.is_unsettled || !matches!(row.state, DeliveryPhase::Waiting | DeliveryPhase::Blocked)
        {
            return;
        }
        let lane = row.owed.place.lane;
        // What stands before it in its lane may be in the store only.
        if self.unread && lane != Lane::NONE {
            return;
        }
        self.turn_to(seq, DeliveryPhase::Ready);
        if lane == Lane::NONE {
            self.turns.push_back(ReadyEntry::Loose(seq));
        } else {
            self.advance(lane);
        }
    }

    /// The heads of the lanes are known: those may go that waited for this.
    pub(super) fn wake_known(&mut self, now: Timestamp) {
        let is_due = |row: &QueuedDelivery| row.due.is_none_or(|it| it <= now);
        let due: Vec<DeliverySeq> =
            self.rows.iter().filter(|(_, row)| is_due(row)).map(|(seq, _)| *seq).collect();
        for seq in due {
            self.make_ready(seq);
        }
    }

    /// Waits in memory for its due time.
    pub(super) fn await_due(&mut self, seq: DeliverySeq, due: Timestamp, step: &StepContext<'_>) {
        let is_loose = self.rows.get(&seq).is_some_and(|it| it.owed.place.lane == Lane::NONE);
        let is_far = due > later(step.now, step.options.park_after);
        self.turn_to(
            seq,
            if is_far && !is_loose { DeliveryPhase::Blocked } else { DeliveryPhase::Waiting },
        );
        self.waiting.push(Reverse((due, seq)));
        if let Some(row) = self.rows.get_mut(&seq) {
            row.due = Some(due);
        }
    }

    /// The clock was set back by so much.
    pub fn set_back(&mut self, by: SignedDuration) {
        let back = |time: &mut Option<Timestamp>| *time = time.map(|it| earlier(it, by));
        self.breaker.set_back(by);
        if let Some(bucket) = &mut self.bucket {
            bucket.set_back(by);
        }
        for time in [&mut self.paused_until, &mut self.parked, &mut self.read_not_before] {
            back(time);
        }
        self.failing.set_back(by);
        for row in self.rows.values_mut() {
            back(&mut row.due);
        }
        for time in self.gone.held.values_mut() {
            *time = earlier(*time, by);
        }
        let waiting = std::mem::take(&mut self.waiting).into_iter();
        self.waiting =
            waiting.map(|Reverse((due, seq))| Reverse((earlier(due, by), seq))).collect();
    }

    /// When a delivery that the store has is due in truth.
    pub(super) fn due_of(&self, owed: &Owed, step: &StepContext<'_>) -> Option<Timestamp> {
        let due = owed.standing.due?;
        let due = retry::bounded(&self.policy, owed, due, step.now, step.totals.set_back);
        Some(self.gone.held.get(&owed.seq).map_or(due, |it| due.max(*it)))
    }

    /// When to look for what stands behind the last of a page. Where the clock was set back, the order in the
    /// store is not that in which they are due, and a page that is read again at once would be the same.
    pub(super) fn due_behind(&self, last: &Owed, step: &StepContext<'_>) -> Timestamp {
        const REST: std::time::Duration = std::time::Duration::from_secs(1);
        let due = self.due_of(last, step).unwrap_or(step.now);
        if Some(due) == last.standing.due { due } else { due.max(later(step.now, REST)) }
    }

    /// What an answer means, by those before it. One that says that the endpoint is gone is about the
    /// message when it is given again after a person has enabled the destination, while others were accepted, or
    /// none could be since it is the head of the only lane.
    pub(super) fn in_context(&mut self, seqs: &[DeliverySeq], mut outcome: Outcome) -> Outcome {
        match outcome.class {
            Class::Accepted => {
                self.gone.accepted = true;
                if !self.gone.held.is_empty() {
                    self.gone.forget(seqs);
                }
            }
            Class::Gone => {
                let was_held = seqs.iter().any(|it| self.gone.held.contains_key(it));
                let is_only_lane = self.policy.ordering == Ordering::Fifo || self.is_alone();
                if was_held && (self.gone.accepted || is_only_lane) {
                    outcome.class = Class::Abort;
                    outcome.reason.push_str(", again, after the destination was enabled");
                    if seqs.len() == 1 {
                        self.gone.forget(seqs);
                    }
                } else {
                    if self.gone.held.len() >= MOST_HELD {
                        self.gone.held.clear();
                    }
                    self.gone.held.extend(seqs.iter().map(|it| (*it, Timestamp::MIN)));
                    self.gone.accepted = false;
                }
            }
            Class::Status
            | Class::Timeout
            | Class::Dns
            | Class::Connect
            | Class::Tls
            | Class::Broken
            | Class::Denied
            | Class::Abort
            | Class::Config
            | Class::Unknown => (),
        }
        outcome
    }

    /// A person has enabled the destination: what was answered with 410 lets others go first.
    pub(super) fn let_others_go_first(&mut self, step: &StepContext<'_>) {
        if self.policy.ordering == Ordering::Fifo {
            return;
        }
        let due = later(step.now, OTHERS_FIRST);
        let held: Vec<DeliverySeq> = self.gone.held.keys().copied().collect();
        for seq in held {
            self.gone.held.insert(seq, due);
            let Some(row) = self.rows.get_mut(&seq).filter(|it| !it.is_under_way()) else {
                continue;
            };
            row.due = Some(due);
            if row.state == DeliveryPhase::Ready {
                self.turn_to(seq, DeliveryPhase::Waiting);
            }
            self.waiting.push(Reverse((due, seq)));
        }
    }
}
