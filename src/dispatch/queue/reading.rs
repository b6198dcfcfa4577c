//! Reads from the store what is owed but not in memory: one read at a time, one page each.
//!
//! A read sees the store as it was at some moment between its start and its answer. What is settled
//! in between is remembered, so that it is not taken for owed again; what is planned in between is
//! held back, and decided on after the answer, so that nothing falls between the two.

use std::collections::HashSet;

use jiff::Timestamp;

use super::{
    DeliveryPhase, DestinationQueue, ReadyEntry, Removal, StepContext,
    eras::Later,
    lanes::{FIRST, Key, Queue, Untrusted},
};
use crate::{
    dispatch::later,
    model::{DeliverySeq, DestinationState, Ended, Lane, Owed, Place},
    store::OwedQuery,
};

#[derive(Debug)]
pub struct BacklogRead {
    pub kind: ReadKind,
    pub limit: usize,
    pub per_lane: usize,
    /// What it reads was forgotten meanwhile: its answer counts for nothing.
    pub is_stale: bool,
    /// Laned deliveries that were planned meanwhile.
    stash: Vec<Owed>,
    /// More were planned than the stash holds, so the page cannot be relied on.
    has_overflowed: bool,
    /// Lanes of which some left memory meanwhile. The page may begin behind that, or be older.
    pub shortened: HashSet<Lane>,
    /// Hints from this position on were dropped meanwhile.
    pub lost: Option<i64>,
    /// Loose deliveries from here on were left to the store meanwhile.
    missed: Option<DeliverySeq>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ReadKind {
    /// What failed before, so that the lanes know their heads. The first read of a destination.
    Heads,
    /// Parked deliveries that are due.
    Due,
    /// What stands first of all lanes.
    First,
    Loose,
    /// A lane from its bound on.
    Lane(Lane),
    Sweep,
    /// To be cancelled, since the destination was deleted.
    Removal,
}

/// Behind every delivery, also where a database counts with a sign.
const LAST: DeliverySeq = DeliverySeq::from_bits(i64::MAX as u64);
const MOST_STASHED: usize = 4_096;

impl BacklogRead {
    /// Room that its answer may fill.
    pub fn reserved(&self) -> usize {
        if self.kind == ReadKind::Loose { self.limit } else { 0 }
    }
}

impl DestinationQueue {
    /// Whether it wants to read, by its bounds and the room it has.
    pub fn wants_to_read(&self, step: &StepContext<'_>) -> bool {
        if self.is_away
            || self.reading.is_some()
            || self.read_not_before.is_some_and(|it| it > step.now)
        {
            return false;
        }
        let Some(settings) = &self.settings else {
            return self.removal != Removal::Done
                && step.totals.unsettled <= step.options.unsettled_at_most / 2;
        };
        if settings.state != DestinationState::Active {
            return false;
        }
        self.unread || self.wants_era() || (0..4).any(|turn| self.wants(turn, step))
    }

    /// Whether the wants of the turn (due, lane, loose, sweep) are there, and room for them.
    fn wants(&self, turn: u8, step: &StepContext<'_>) -> bool {
        let limit = self.limit(step);
        let used = self.used(step);
        let has_some_room = used < limit && limit - used >= limit / 4;
        match turn {
            0 => has_some_room && self.parked.is_some_and(|due| due <= step.now),
            1 => has_some_room && !self.lanes.hungry.is_empty(),
            2 => used <= limit / 2 && self.loose_from.is_some(),
            3 => used <= limit / 2 && !self.lanes.untrusted.is_empty(),
            _ => false,
        }
    }

    /// The next read, which is then under way.
    pub fn read(&mut self, step: &mut StepContext<'_>) -> Option<OwedQuery> {
        if !self.wants_to_read(step) {
            return None;
        }
        let page = step.options.page.max(1);
        let (kind, query) = if self.settings.is_none() {
            let Removal::From(after) = self.removal else { return None };
            (ReadKind::Removal, self.line(after, page, page))
        } else if self.unread {
            self.parked = None;
            (ReadKind::Heads, self.due(step.options.heads_at_most))
        } else if self.wants_era() {
            self.lanes.later = Later::No;
            (ReadKind::First, OwedQuery::First { destination: self.id })
        } else {
            let turn = (0..4).map(|it| (self.read_turn + it) % 4).find(|&it| self.wants(it, step));
            self.read_turn = (turn? + 1) % 4;
            match turn? {
                0 => {
                    self.parked = None;
                    (ReadKind::Due, self.due(self.counts.retried + page))
                }
                1 => match self.read_hungry(page.min(self.room(step))) {
                    Some(read) => read,
                    // Nobody was hungry after all, so something else may be wanted.
                    None => return self.read(step),
                },
                2 => {
                    let before = self.loose_from?.bits().checked_sub(1);
                    let place = Place { lane: Lane::NONE, position: 0 };
                    let after = before.map(|it| (place, DeliverySeq::from_bits(it)));
                    let limit = page.min(self.room(step).div_ceil(2));
                    (ReadKind::Loose, self.line(after, limit, limit))
                }
                _ => {
                    let before = self.lanes.untrusted.before();
                    let after = (Place { lane: before, position: i64::MAX }, LAST);
                    (ReadKind::Sweep, self.line(Some(after), self.per_lane, page))
                }
            }
        };
        let (limit, per_lane) = match query {
            OwedQuery::Line { per_lane, limit, .. } => (limit, per_lane),
            OwedQuery::Due { limit, .. } => (limit, usize::MAX),
            OwedQuery::First { .. } | OwedQuery::These(_) => (1, usize::MAX),
        };
        self.reading = Some(BacklogRead {
            kind,
            limit,
            per_lane,
            is_stale: false,
            stash: Vec::new(),
            has_overflowed: false,
            shortened: HashSet::new(),
            lost: None,
            missed: None,
        });
        step.totals.reads += 1;
        Some(query)
    }

    fn line(
        &self,
        after: Option<(Place, DeliverySeq)>,
        per_lane: usize,
        limit: usize,
    ) -> OwedQuery {
        OwedQuery::Line { destination: self.id, after, per_lane, limit }
    }

    fn due(&self, limit: usize) -> OwedQuery {
        OwedQuery::Due { destination: self.id, until: Timestamp::MAX, limit }
    }

    /// The rest of a lane of which little is left in memory.
    fn read_hungry(&mut self, limit: usize) -> Option<(ReadKind, OwedQuery)> {
        while let Some(lane) = self.lanes.hungry.pop_front() {
            let Some(queue) = self.lanes.queues.get_mut(&lane) else { continue };
            queue.is_hungry = false;
            let (sent, until) = (queue.sent_head(), queue.until);
            if sent.is_some_and(|it| self.is_blocked(it)) {
                continue;
            }
            if until.is_some() {
                // From its beginning on, and not only from the bound: the store may be ahead of the
                // hints, and what it has below the bound goes before what it has behind.
                let known = self.held_of(lane);
                let limit = limit.min(self.per_lane).max(1) + known;
                let after = Some(just_before(lane, FIRST));
                return Some((ReadKind::Lane(lane), self.line(after, limit, limit)));
            }
        }
        None
    }

    /// How many of a lane are in memory, which the store may have, too.
    fn held_of(&self, lane: Lane) -> usize {
        self.rows.values().filter(|it| it.owed.place.lane == lane).count()
    }

    pub(super) fn is_reading_loose(&self) -> bool {
        self.reading.as_ref().is_some_and(|it| it.kind == ReadKind::Loose)
    }

    /// Leaves a laned delivery to the store. A read that is under way may have missed it.
    pub(super) fn stash(&mut self, owed: Owed) {
        if let Some(reading) = &mut self.reading
            && matches!(reading.kind, ReadKind::Lane(_) | ReadKind::Sweep | ReadKind::First)
        {
            if reading.stash.len() < MOST_STASHED {
                reading.stash.push(owed);
            } else {
                reading.has_overflowed = true;
            }
        }
    }

    /// Leaves a loose delivery to the store.
    pub(super) fn leave_loose(&mut self, seq: DeliverySeq) {
        self.loose_from = Some(self.loose_from.map_or(seq, |it| it.min(seq)));
        if let Some(reading) = &mut self.reading {
            reading.missed = Some(reading.missed.map_or(seq, |it| it.min(seq)));
        }
    }

    /// The answer to a read; `None` when it failed.
    pub fn refilled(&mut self, rows: Option<Vec<Owed>>, step: &mut StepContext<'_>) {
        let Some(reading) = self.reading.take() else { return };
        step.totals.reads -= 1;
        let settled = std::mem::take(&mut self.settled_meanwhile);
        if reading.is_stale {
            return;
        }
        match rows {
            Some(rows) if !reading.has_overflowed => {
                let is_new =
                    |it: &Self, seq| !it.rows.contains_key(&seq) && !settled.contains(&seq);
                match reading.kind {
                    ReadKind::Heads | ReadKind::Due => self.take_due(&rows, &reading, is_new, step),
                    ReadKind::First => self.take_first(&rows, step),
                    ReadKind::Loose => self.take_loose(&rows, &reading, is_new, step),
                    ReadKind::Lane(lane) => self.take_lane(lane, &rows, &reading, &settled, step),
                    ReadKind::Sweep => self.take_sweep(&rows, &reading, &settled, step),
                    ReadKind::Removal => self.take_removal(&rows, &reading, is_new, step),
                }
            }
            Some(_) => self.read_in_vain(&reading, step),
            None => {
                self.read_not_before = Some(later(step.now, step.options.retry_store_after));
                self.read_in_vain(&reading, step);
            }
        }
        if let Some(position) = reading.lost {
            self.lose_lanes(position, step);
        }
        for owed in reading.stash {
            self.plan(owed, step);
        }
    }

    /// Wants the same again.
    fn read_in_vain(&mut self, reading: &BacklogRead, step: &StepContext<'_>) {
        match reading.kind {
            ReadKind::Due => self.parked = Some(step.now),
            ReadKind::First => self.lanes.later = Later::Ask,
            ReadKind::Lane(lane) => self.feed(lane),
            ReadKind::Heads | ReadKind::Loose | ReadKind::Sweep | ReadKind::Removal => (),
        }
    }

    fn take_due(
        &mut self,
        rows: &[Owed],
        reading: &BacklogRead,
        is_new: impl Fn(&Self, DeliverySeq) -> bool,
        step: &mut StepContext<'_>,
    ) {
        for owed in rows {
            if !is_new(self, owed.seq) {
                continue;
            }
            let due = self.due_of(owed, step).unwrap_or(step.now);
            if owed.place.lane != Lane::NONE {
                self.take_head(*owed, step);
            } else if due <= step.now && self.room(step) > 0 {
                self.hold(*owed, DeliveryPhase::Ready, step);
                self.turns.push_back(ReadyEntry::Loose(owed.seq));
            } else {
                self.park(due);
            }
        }
        if rows.len() >= reading.limit
            && let Some(last) = rows.last()
        {
            self.park(self.due_behind(last, step));
        }
        if reading.kind == ReadKind::Heads {
            self.unread = false;
            self.loose_from = Some(DeliverySeq::from_bits(0));
            self.lanes.untrusted = Untrusted::ALL;
            self.forget_eras();
            self.wake_known(step.now);
        }
    }

    pub(super) fn park(&mut self, due: Timestamp) {
        self.parked = Some(self.parked.map_or(due, |it| it.min(due)));
    }

    /// One of a lane that failed before: its head, or one that was in a batch with it.
    pub(super) fn take_head(&mut self, owed: Owed, step: &mut StepContext<'_>) {
        let lane = owed.place.lane;
        let queue = self.lanes.queues.entry(lane).or_insert_with(Queue::unread);
        queue.insert_sent(key(&owed));
        self.hold(owed, DeliveryPhase::Waiting, step);
        match self.due_of(&owed, step) {
            Some(due) if due > step.now => self.await_due(owed.seq, due, step),
            Some(_) | None => self.make_ready(owed.seq),
        }
    }

    fn take_loose(
        &mut self,
        rows: &[Owed],
        reading: &BacklogRead,
        is_new: impl Fn(&Self, DeliverySeq) -> bool,
        step: &mut StepContext<'_>,
    ) {
        let loose = rows.iter().take_while(|it| it.place.lane == Lane::NONE);
        let mut next = None;
        let mut count = 0;
        for owed in loose {
            count += 1;
            if !is_new(self, owed.seq) {
                continue;
            }
            match self.due_of(owed, step) {
                Some(due) if due > step.now => self.park(due),
                Some(_) | None if self.room(step) > 0 => {
                    self.hold(*owed, DeliveryPhase::Ready, step);
                    self.turns.push_back(ReadyEntry::Loose(owed.seq));
                }
                Some(_) | None => {
                    next = Some(owed.seq);
                    break;
                }
            }
        }
        if next.is_none() && count >= reading.limit {
            next = rows.last().map(|it| DeliverySeq::from_bits(it.seq.bits() + 1));
        }
        self.loose_from = match (next, reading.missed) {
            (Some(next), Some(missed)) => Some(next.min(missed)),
            (next, missed) => next.or(missed),
        };
    }

    fn take_removal(
        &mut self,
        rows: &[Owed],
        reading: &BacklogRead,
        is_new: impl Fn(&Self, DeliverySeq) -> bool,
        step: &mut StepContext<'_>,
    ) {
        for owed in rows {
            if is_new(self, owed.seq) {
                self.end_without_row(*owed, Ended::Cancelled, super::DELETED, step);
            }
        }
        self.removal = match rows.last() {
            Some(last) if rows.len() >= reading.limit => {
                Removal::From(Some((last.place, last.seq)))
            }
            Some(_) | None => Removal::Done,
        };
    }
}

pub fn key(owed: &Owed) -> Key {
    (owed.place.position, owed.seq)
}

pub fn behind(owed: &Owed) -> Key {
    (owed.place.position, DeliverySeq::from_bits(owed.seq.bits() + 1))
}

/// The last place before `key` of a lane.
fn just_before(lane: Lane, key: Key) -> (Place, DeliverySeq) {
    let (position, seq) = key;
    match (seq.bits().checked_sub(1), position.checked_sub(1)) {
        (Some(seq), _) => (Place { lane, position }, DeliverySeq::from_bits(seq)),
        (None, Some(position)) => (Place { lane, position }, LAST),
        (None, None) => (Place { lane: Lane(lane.0.saturating_sub(1)), position: i64::MAX }, LAST),
    }
}
