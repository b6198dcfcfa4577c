//! The line of one destination: what waits for it in memory, what is left in the store, and the gates.
//!
//! Deliveries without a lane are *loose*: they go in any order, about as they came. A failed one
//! with a long wait is *parked*: forgotten here, found again in the store by its due time.
//! Deliveries with a lane wait behind the head of their lane; see [`lanes`].
//!
//! Where the policy has a batch, one attempt carries many of them; see [`batch`].
//!
//! What is not in memory is known by bounds only: see [`reading`].

mod totals;
mod lanes;
mod eras;
mod reading;
mod taking;
mod start;
mod waits;
mod batch;
mod outcome;

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque},
    sync::Arc,
};

use jiff::Timestamp;

pub use self::totals::{StepContext, Totals};
use self::{
    batch::{BatchInFlight, Size},
    lanes::Lanes,
    reading::BacklogRead,
    waits::Gone,
};
use super::{
    breaker::{Breaker, State as BreakerState},
    pace::Pace,
    rate::Bucket,
    spilled::SpilledRange,
    status::LineStatus,
};
use crate::model::{
    DeliverySeq, Destination, DestinationId, DestinationState, Ended, IdMap, IdSet, Lane, Ordering,
    Owed, Policy,
};

/// However full the memory is, a destination may hold this many.
const LEAST_HELD: usize = 16;

pub const DELETED: &str = "its destination was deleted";
const NOT_KEPT: &str =
    "its event is no longer kept, or is damaged: the log and `tidegate check` say which";
const CANCELLED: &str = "cancelled";

pub struct DestinationQueue {
    pub id: DestinationId,
    /// `None`: it was deleted, or never known, and what it is owed is cancelled.
    settings: Option<Arc<Destination>>,
    /// Stays after the destination is deleted, for what is still in flight.
    policy: Policy,
    /// How much of a lane is read at once.
    per_lane: usize,
    rows: IdMap<DeliverySeq, QueuedDelivery>,
    /// What can go as soon as the gates are open.
    turns: VecDeque<ReadyEntry>,
    waiting: BinaryHeap<Reverse<(Timestamp, DeliverySeq)>>,
    counts: PhaseCounts,
    lanes: Lanes,
    /// Loose deliveries from this place on may be in the store only.
    loose_from: Option<DeliverySeq>,
    /// The earliest due time of what is parked.
    parked: Option<Timestamp>,
    /// Nothing is known of what the store holds for it: the next read begins at the beginning.
    unread: bool,
    reading: Option<BacklogRead>,
    /// Settled while a read was under way, which may have seen them as they were before.
    settled_meanwhile: IdSet<DeliverySeq>,
    read_not_before: Option<Timestamp>,
    /// Rotates what is read next, so that no want starves another.
    read_turn: u8,
    /// Where the cancelling of a deleted destination's deliveries has come to.
    removal: Removal,
    /// Under way, in no order.
    batches: Vec<BatchInFlight>,
    batches_made: u32,
    size: Size,
    breaker: Breaker,
    pace: Pace,
    bucket: Option<Bucket>,
    /// The endpoint asked to be left alone.
    paused_until: Option<Timestamp>,
    failing: outcome::Failing,
    gone: Gone,
    /// The version at which it was found to be disabled; a newer one lifts it.
    disabled_at: Option<u32>,
    /// Another node delivers to it. What is in flight here ends, and nothing more is begun or read.
    is_away: bool,
}

#[derive(Clone, Copy, Debug)]
struct QueuedDelivery {
    owed: Owed,
    /// When it is due, which a clock that is set back moves; in `owed` it stands as the store has it.
    due: Option<Timestamp>,
    /// It was refused in a request with others: so many may share the next one. 0: any number.
    together: u16,
    state: DeliveryPhase,
    /// A settlement of it is not yet on disk. Nothing else is done with it until then.
    is_unsettled: bool,
    /// To be cancelled as soon as that is possible.
    is_doomed: bool,
}

impl QueuedDelivery {
    fn ready(owed: Owed, due: Option<Timestamp>) -> Self {
        let (is_unsettled, is_doomed) = (false, false);
        Self { owed, due, together: 0, state: DeliveryPhase::Ready, is_unsettled, is_doomed }
    }

    fn is_under_way(&self) -> bool {
        matches!(self.state, DeliveryPhase::InFlight | DeliveryPhase::Together)
    }

    fn can_go(&self) -> bool {
        self.state == DeliveryPhase::Ready && !self.is_unsettled
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum DeliveryPhase {
    Ready,
    InFlight,
    /// In a batch that is under way.
    Together,
    /// Failed, and due again soon.
    Waiting,
    /// The head of a lane that waits for long: the rest of its lane has left memory.
    Blocked,
    /// Failed with a long wait: leaves memory when that is on disk.
    Parking,
    /// Leaves memory when its end is on disk.
    Ended,
}

#[derive(Clone, Copy, Debug)]
enum ReadyEntry {
    Loose(DeliverySeq),
    Lane(Lane),
}

#[derive(Clone, Copy, Debug, Default)]
struct PhaseCounts {
    /// Attempts, each of one delivery or of a batch.
    in_flight: u32,
    ready: usize,
    waiting_loose: usize,
    blocked: usize,
    /// Rows in memory that have a due time in the store, or soon will.
    retried: usize,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Removal {
    /// From behind here on.
    From(Option<(crate::model::Place, DeliverySeq)>),
    Done,
}

pub enum Gate {
    Open,
    Shut,
    ShutUntil(Timestamp),
}

impl DestinationQueue {
    /// A destination of which nothing is owed.
    pub fn new(id: DestinationId) -> Self {
        Self {
            id,
            settings: None,
            policy: Policy::default(),
            per_lane: 1,
            rows: IdMap::default(),
            turns: VecDeque::new(),
            waiting: BinaryHeap::new(),
            counts: PhaseCounts::default(),
            lanes: Lanes::default(),
            loose_from: None,
            parked: None,
            unread: false,
            reading: None,
            settled_meanwhile: IdSet::default(),
            read_not_before: None,
            read_turn: 0,
            removal: Removal::Done,
            batches: Vec::new(),
            batches_made: 0,
            size: Size::default(),
            breaker: Breaker::new((id.bits() ^ id.bits() >> 64) as u64),
            pace: Pace::FULL,
            bucket: None,
            paused_until: None,
            failing: outcome::Failing::default(),
            gone: Gone::default(),
            disabled_at: None,
            is_away: false,
        }
    }

    /// The store holds deliveries for it of which nothing is known. Nor is it known how the endpoint
    /// does: it is approached as after a failure.
    pub fn mark_unread(&mut self) {
        self.unread = true;
        self.removal = Removal::From(None);
        self.breaker.start_slowly();
    }

    pub fn is_away(&self) -> bool {
        self.is_away
    }

    /// Another node delivers to it from now on.
    pub fn leave(&mut self, step: &mut StepContext<'_>) {
        self.is_away = true;
        self.removal = Removal::Done;
        self.evict(step);
    }

    /// This node delivers to it again. What the store owes is read again.
    pub fn come_back(&mut self) {
        if std::mem::take(&mut self.is_away) {
            self.mark_unread();
        }
    }

    /// Whether nothing is in flight, or on its way to the disk.
    pub fn is_quiet(&self) -> bool {
        let is_busy = |it: &QueuedDelivery| it.is_under_way() || it.is_unsettled;
        !self.rows.values().any(is_busy)
    }

    /// New or changed settings. They also end what held the endpoint back: a person may have mended it.
    pub fn configure(&mut self, destination: Arc<Destination>, step: &mut StepContext<'_>) {
        let was_known = self.settings.is_some();
        let changed = self.settings.as_ref().is_none_or(|it| it.version != destination.version);
        if self.disabled_at.is_some_and(|version| version != destination.version) {
            self.disabled_at = None;
        }
        if changed {
            self.unpause();
            self.size = Size::default();
            self.bucket = destination.policy.rate_limit.as_ref().map(Bucket::new);
            self.policy = destination.policy.clone();
            // A single lane may fill the window; many share it.
            self.per_lane = match self.policy.ordering {
                Ordering::Fifo => step.options.window.max(1),
                Ordering::None | Ordering::Key(_) => step.options.per_lane.max(1),
            };
        }
        let is_active = destination.state == DestinationState::Active;
        if changed && is_active && was_known && self.unread {
            // It was held for a while, and much may wait for it.
            self.breaker.start_slowly();
        }
        if changed && is_active {
            self.let_others_go_first(step);
        }
        self.settings = Some(destination);
        if !is_active && was_known {
            self.evict(step);
        } else if !is_active {
            self.unread = true;
        }
    }

    pub fn unpause(&mut self) {
        self.paused_until = None;
        self.failing = outcome::Failing::default();
        self.breaker = Breaker::new((self.id.bits() ^ self.id.bits() >> 64) as u64);
        self.pace = Pace::FULL;
    }

    /// The destination was deleted: everything that it is owed is cancelled, in chunks.
    pub fn remove(&mut self, step: &mut StepContext<'_>) {
        if self.settings.take().is_none() {
            return;
        }
        self.evict(step);
        self.removal = Removal::From(None);
        for row in self.rows.values_mut() {
            row.is_doomed = true;
        }
    }

    /// Whether nothing is left to do for a deleted destination.
    pub fn is_gone(&self) -> bool {
        self.settings.is_none()
            && self.rows.is_empty()
            && self.reading.is_none()
            && self.removal == Removal::Done
    }

    /// Deliveries that the store has just taken on.
    pub fn plan(&mut self, owed: Owed, step: &mut StepContext<'_>) {
        let is_known =
            self.rows.contains_key(&owed.seq) || self.settled_meanwhile.contains(&owed.seq);
        if is_known || self.is_away {
            return;
        }
        if self.settings.is_none() {
            self.end_without_row(owed, Ended::Cancelled, DELETED, step);
        } else if self.unread {
            // It is in the store, and everything there is yet to be read.
        } else if owed.place.lane == Lane::NONE {
            self.plan_loose(owed, step);
        } else {
            self.plan_laned(owed, step);
        }
    }

    fn plan_loose(&mut self, owed: Owed, step: &mut StepContext<'_>) {
        // Behind what was spilled the line is in the store; it would wait its turn there. Only while
        // a read is under way it is held, since the read may have missed it.
        let reserved = self.reading.as_ref().map_or(0, BacklogRead::reserved);
        let may_hold = self.loose_from.is_none() || self.is_reading_loose();
        if may_hold && self.room(step) > reserved {
            self.hold(owed, DeliveryPhase::Ready, step);
            self.turns.push_back(ReadyEntry::Loose(owed.seq));
        } else {
            self.leave_loose(owed.seq);
        }
    }

    /// Hints of these were dropped; the store has them.
    pub fn lost(&mut self, missed: &SpilledRange, step: &mut StepContext<'_>) {
        if self.is_away {
            return;
        }
        if self.settings.is_none() {
            self.removal = Removal::From(None);
            if let Some(reading) = &mut self.reading {
                reading.is_stale = true;
            }
        }
        if self.unread {
            return;
        }
        if let Some(seq) = missed.loose {
            self.leave_loose(seq);
        }
        if let Some(position) = missed.laned {
            self.lose_lanes(position, step);
        }
    }

    /// When it has to be looked at again, if nothing happens before.
    pub fn alarm(&mut self, now: Timestamp) -> Option<Timestamp> {
        let gate = match self.gate(now) {
            Gate::ShutUntil(until) => Some(until),
            Gate::Open | Gate::Shut => None,
        };
        let waiting = self.waiting.peek().map(|Reverse((due, _))| *due);
        let can_read = self.reading.is_none() && self.settings.is_some() && !self.unread;
        let parked = self.parked.filter(|&due| can_read && due > now);
        let read = self.read_not_before.filter(|&at| at > now);
        [gate, waiting, parked, read].into_iter().flatten().min()
    }

    pub fn status(&mut self, now: Timestamp) -> LineStatus {
        let breaker_opens_at = match self.breaker.state() {
            BreakerState::Open { until } => Some(until),
            BreakerState::Closed
            | BreakerState::HalfOpen { .. }
            | BreakerState::SlowStart { .. } => None,
        };
        LineStatus {
            in_flight: self.counts.in_flight,
            held: self.rows.len(),
            ready: self.turns.len(),
            blocked_lanes: self.counts.blocked,
            reads_from_store: self.unread || self.loose_from.is_some() || self.lanes.are_spilled(),
            breaker: self.breaker.state().into(),
            breaker_opens_at,
            paused_until: self.paused_until.filter(|&it| it > now),
            failing_since: self.failing.since(),
        }
    }

    /// How many more may be held. The fuller the memory is, the less each may have of it.
    fn room(&self, step: &StepContext<'_>) -> usize {
        self.limit(step).saturating_sub(self.used(step))
    }

    fn limit(&self, step: &StepContext<'_>) -> usize {
        let free = step.options.held_at_most.saturating_sub(step.totals.held);
        free.max(LEAST_HELD).min(step.options.window).max(1)
    }

    /// Blocked heads are not counted up to a limit of their own, so that they cannot fill the window.
    fn used(&self, step: &StepContext<'_>) -> usize {
        self.rows.len() - self.counts.blocked.min(step.options.window)
    }

    fn hold(&mut self, owed: Owed, state: DeliveryPhase, step: &mut StepContext<'_>) {
        let due = self.due_of(&owed, step);
        self.rows.insert(owed.seq, QueuedDelivery::ready(owed, due));
        self.counts.ready += 1;
        step.totals.held += 1;
        self.counts.retried += usize::from(owed.standing.due.is_some());
        self.turn_to(owed.seq, state);
    }

    fn release(&mut self, seq: DeliverySeq, step: &mut StepContext<'_>) {
        self.turn_to(seq, DeliveryPhase::Ended);
        if let Some(row) = self.rows.remove(&seq) {
            step.totals.held -= 1;
            self.counts.retried -= usize::from(row.owed.standing.due.is_some());
        }
    }

    /// Changes a row's state, and what is counted by it.
    fn turn_to(&mut self, seq: DeliverySeq, state: DeliveryPhase) {
        let Some(row) = self.rows.get_mut(&seq) else { return };
        let is_loose = row.owed.place.lane == Lane::NONE;
        let counts = &mut self.counts;
        match row.state {
            DeliveryPhase::Ready => counts.ready -= 1,
            DeliveryPhase::InFlight => counts.in_flight -= 1,
            DeliveryPhase::Waiting => counts.waiting_loose -= usize::from(is_loose),
            DeliveryPhase::Blocked => counts.blocked -= 1,
            DeliveryPhase::Together | DeliveryPhase::Parking | DeliveryPhase::Ended => (),
        }
        row.state = state;
        match state {
            DeliveryPhase::Ready => counts.ready += 1,
            DeliveryPhase::InFlight => counts.in_flight += 1,
            DeliveryPhase::Waiting => counts.waiting_loose += usize::from(is_loose),
            DeliveryPhase::Blocked => counts.blocked += 1,
            DeliveryPhase::Together | DeliveryPhase::Parking | DeliveryPhase::Ended => (),
        }
    }

    /// Forgets what is neither in flight nor on its way to the disk: the store has it.
    fn evict(&mut self, step: &mut StepContext<'_>) {
        let leaves = |row: &QueuedDelivery| !row.is_under_way() && !row.is_unsettled;
        let leaving: Vec<DeliverySeq> =
            self.rows.iter().filter(|(_, row)| leaves(row)).map(|(seq, _)| *seq).collect();
        for seq in leaving {
            self.release(seq, step);
        }
        self.rows.shrink_to_fit();
        self.turns = VecDeque::new();
        let rows = &self.rows;
        self.waiting.retain(|Reverse((_, seq))| rows.contains_key(seq));
        self.lanes.forget(|seq| rows.contains_key(&seq));
        self.loose_from = None;
        self.parked = None;
        self.unread = true;
        if let Some(reading) = &mut self.reading {
            reading.is_stale = true;
        }
    }
}
