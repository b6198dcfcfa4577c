//! Lanes: queues in which each waits until the one before has ended.
//!
//! Of each lane in memory, everything below a bound is in memory, and everything from there on is
//! in the store. Of lanes that are not in memory it is known that they are empty, but for those in
//! a range that is swept in a circle, so that every lane has its turn.

use std::collections::{HashMap, VecDeque};

use super::{
    DeliveryPhase, DestinationQueue, QueuedDelivery, ReadyEntry, StepContext,
    eras::{Later, era},
};
use crate::{
    dispatch::retry,
    model::{DeliverySeq, Era, Lane, Owed},
};

/// The order within a lane.
pub type Key = (i64, DeliverySeq);
/// Before every place.
pub const FIRST: Key = (i64::MIN, DeliverySeq::from_bits(0));

#[derive(Default)]
pub struct Lanes {
    pub queues: HashMap<Lane, Queue>,
    /// Lanes of which more is in the store, and little or nothing in memory.
    pub hungry: VecDeque<Lane>,
    pub untrusted: Untrusted,
    /// Nothing of a later one is in memory that was not attempted.
    pub open: Era,
    pub later: Later,
}

/// What is in memory of one lane.
#[derive(Debug, Default)]
pub struct Queue {
    /// First those that were attempted or chosen and have not ended: they keep their place, whatever
    /// comes. Then the others. Each part is in its order.
    keys: VecDeque<Key>,
    /// How many there are of the former.
    sent: usize,
    /// From here on the lane is in the store only. `None`: all of it is in memory.
    pub until: Option<Key>,
    pub is_queued: bool,
    pub is_hungry: bool,
}

/// A circular range of lanes: one that is not in memory may yet have deliveries in the store.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Untrusted {
    from: u64,
    /// Up to the whole circle, which is one more than a `u64` holds.
    length: u128,
}

impl Untrusted {
    pub const ALL: Self = Self { from: 1, length: 1 << 64 };

    pub fn is_empty(self) -> bool {
        self.length == 0
    }

    pub fn contains(self, lane: Lane) -> bool {
        u128::from(lane.0.wrapping_sub(self.from)) < self.length
    }

    pub fn add(&mut self, lane: Lane) {
        if self.length == 0 {
            *self = Self { from: lane.0, length: 1 };
        } else if !self.contains(lane) {
            self.length = u128::from(lane.0.wrapping_sub(self.from)) + 1;
        }
    }

    /// The lane before its first, from behind which a sweep goes on.
    pub fn before(self) -> Lane {
        Lane(self.from.saturating_sub(1))
    }

    /// Everything before this lane has been swept.
    pub fn advance_to(&mut self, lane: Lane) {
        let swept = lane.0.wrapping_sub(self.from);
        self.length = self.length.saturating_sub(u128::from(swept));
        self.from = lane.0;
        // There is no lane 0 to sweep: the loose ones have bounds of their own.
        if self.from == 0 {
            self.from = 1;
            self.length = self.length.saturating_sub(1);
        }
    }

    pub fn advance_to_the_end(&mut self) {
        self.advance_to(Lane(0));
    }
}

impl Lanes {
    pub fn are_spilled(&self) -> bool {
        !self.untrusted.is_empty() || !self.hungry.is_empty() || self.later != Later::No
    }

    /// Forgets all but the heads that are still held.
    pub fn forget(&mut self, is_held: impl Fn(DeliverySeq) -> bool) {
        self.queues.retain(|_, queue| {
            let mut keys = std::mem::take(&mut queue.keys);
            keys.truncate(queue.sent);
            keys.retain(|(_, seq)| is_held(*seq));
            let sent = keys.len();
            *queue = Queue { keys, sent, until: Some(FIRST), ..Queue::default() };
            sent > 0
        });
        self.queues.shrink_to_fit();
        self.hungry.clear();
        self.untrusted = Untrusted::default();
    }
}

impl DestinationQueue {
    pub(super) fn plan_laned(&mut self, owed: Owed, step: &mut StepContext<'_>) {
        let (lane, key) = (owed.place.lane, (owed.place.position, owed.seq));
        let era = era(&owed);
        if era != self.lanes.open && !self.opens(lane, era, step) {
            self.stash(owed);
            return;
        }
        let has_room = self.room(step) > 0;
        let is_held = match self.lanes.queues.get(&lane) {
            Some(queue) => {
                let is_spilled = queue.until.is_some_and(|until| key >= until);
                let is_blocked = queue.sent_head().is_some_and(|it| self.is_blocked(it));
                if !is_spilled && (is_blocked || !has_room) {
                    self.truncate(lane, key, step);
                }
                !is_spilled && !is_blocked && has_room
            }
            None if self.lanes.untrusted.contains(lane) => false,
            None if has_room => true,
            None => {
                self.lanes.untrusted.add(lane);
                false
            }
        };
        if is_held {
            self.hold(owed, DeliveryPhase::Ready, step);
            self.lanes.queues.entry(lane).or_default().insert(key);
            self.advance(lane);
        } else {
            self.stash(owed);
        }
    }

    /// Whether the head of a lane waits for so long that the rest of it leaves memory.
    pub(super) fn is_blocked(&self, sent: DeliverySeq) -> bool {
        self.rows.get(&sent).is_some_and(|row| row.state == DeliveryPhase::Blocked)
    }

    /// Leaves a lane from `key` on to the store.
    pub(super) fn truncate(&mut self, lane: Lane, key: Key, step: &mut StepContext<'_>) {
        let Some(queue) = self.lanes.queues.get_mut(&lane) else { return };
        queue.until = Some(queue.until.map_or(key, |until| until.min(key)));
        if let Some(reading) = &mut self.reading {
            reading.shortened.insert(lane);
        }
        for (_, seq) in queue.split_off(key) {
            if self.rows.get(&seq).is_some_and(|row| row.state == DeliveryPhase::Ready) {
                self.release(seq, step);
            }
        }
        self.feed(lane);
    }

    /// Leaves the rest of a lane to the store, since its head waits for long.
    pub(super) fn trim(&mut self, lane: Lane, step: &mut StepContext<'_>) {
        if let Some(queue) = self.lanes.queues.get(&lane)
            && let Some(&first) = queue.keys.get(queue.sent)
        {
            self.truncate(lane, first, step);
        }
    }

    /// Hints from this position on were dropped: what stands behind it cannot be relied on.
    pub(super) fn lose_lanes(&mut self, position: i64, step: &mut StepContext<'_>) {
        if let Some(reading) = &mut self.reading {
            reading.lost = Some(reading.lost.map_or(position, |it| it.min(position)));
        }
        let era = Era::of(position);
        if era != self.lanes.open {
            self.lanes.later = Later::Ask;
        }
        if era > self.lanes.open {
            return;
        }
        if era < self.lanes.open {
            self.go_back_to(era, step);
        }
        for lane in self.lanes.known() {
            self.truncate(lane, (position, DeliverySeq::from_bits(0)), step);
            self.advance(lane);
        }
        self.lanes.untrusted = Untrusted::ALL;
    }

    /// The head of a lane, if it can go.
    pub(super) fn choose_of_lane(
        &mut self,
        lane: Lane,
        step: &mut StepContext<'_>,
    ) -> Option<Owed> {
        let queue = self.lanes.queues.get_mut(&lane)?;
        queue.is_queued = false;
        let &(_, head) = queue.keys.front()?;
        let Some(owed) = self.rows.get(&head).map(|row| row.owed) else {
            self.advance(lane);
            return None;
        };
        if queue.sent > 1 || retry::too_late(&self.policy, &owed, step.now).is_some() {
            let mut chosen = Vec::new();
            self.choose_many_of_lane(lane, 1, &mut chosen, step);
            return chosen.pop();
        }
        self.rows.get(&head).filter(|row| row.can_go())?;
        queue.mark_sent(1);
        self.feed(lane);
        Some(owed)
    }

    /// The first of a lane that can go, up to `most` with those that were chosen before.
    pub(super) fn choose_many_of_lane(
        &mut self,
        lane: Lane,
        most: usize,
        chosen: &mut Vec<Owed>,
        step: &mut StepContext<'_>,
    ) {
        let Some(queue) = self.lanes.queues.get_mut(&lane) else { return };
        queue.is_queued = false;
        let is_under_way =
            |key: &Key| self.rows.get(&key.1).is_some_and(QueuedDelivery::is_under_way);
        if queue.keys.range(..queue.sent).any(is_under_way) {
            return;
        }
        let (mut count, mut late, mut most) = (0, Vec::new(), most);
        while chosen.len() < most
            && let Some(&(_, seq)) = queue.keys.get(count)
        {
            match self.rows.get(&seq) {
                // It was cancelled, and has left memory, but not the queue.
                None if count >= queue.sent => drop(queue.keys.remove(count)),
                Some(row) if row.can_go() && row.fits_behind(chosen.len()) => {
                    match retry::too_late(&self.policy, &row.owed, step.now) {
                        // The lane goes on when their end is on disk.
                        Some(end) if count == late.len() => late.push((seq, end)),
                        None if late.is_empty() => {
                            most = most.min(row.most_together());
                            chosen.push(row.owed);
                        }
                        Some(_) | None => break,
                    }
                    count += 1;
                }
                None | Some(_) => break,
            }
        }
        queue.mark_sent(count);
        for (seq, (ended, why)) in late {
            self.end(seq, ended, why, step);
        }
        self.feed(lane);
    }

    /// Whether its head could go in another request, but not behind so many others.
    pub(super) fn is_left_over(&self, lane: Lane, others: usize) -> bool {
        self.ready_head(lane).is_some_and(|it| it.can_go() && !it.fits_behind(others))
    }

    /// Its turn is the next one.
    pub(super) fn return_turn(&mut self, lane: Lane) {
        if let Some(queue) = self.lanes.queues.get_mut(&lane)
            && !queue.is_queued
        {
            queue.is_queued = true;
            self.turns.push_front(ReadyEntry::Lane(lane));
        }
    }

    /// Its turn has come, and it has nothing that can go.
    pub(super) fn forget_turn(&mut self, lane: Lane) {
        let Some(queue) = self.lanes.queues.get_mut(&lane) else { return };
        queue.is_queued = false;
        let head = queue.keys.front().map(|(_, seq)| *seq);
        if head.is_some_and(|it| !self.rows.contains_key(&it)) {
            self.advance(lane);
        }
    }

    /// One that was chosen comes back without an attempt.
    pub(super) fn put_back(&mut self, lane: Lane, owed: &Owed, step: &mut StepContext<'_>) {
        let key = (owed.place.position, owed.seq);
        if let Some(queue) = self.lanes.queues.get_mut(&lane)
            && owed.standing.due.is_none()
        {
            queue.remove_sent(key);
            if queue.until.is_some_and(|until| key >= until) {
                self.release(owed.seq, step);
            } else {
                queue.insert(key);
            }
        }
        self.advance(lane);
        self.feed(lane);
    }

    /// A lane's head has ended.
    pub(super) fn head_ended(&mut self, lane: Lane, key: Key) {
        if let Some(queue) = self.lanes.queues.get_mut(&lane) {
            queue.remove_sent(key);
            self.advance(lane);
        }
    }

    /// Lets the next of a lane take its turn, or forgets the lane when it is empty.
    pub(super) fn advance(&mut self, lane: Lane) {
        let Some(queue) = self.lanes.queues.get_mut(&lane) else { return };
        if let Some(head) = queue.sent_head() {
            if self.rows.get(&head).is_some_and(|row| row.state == DeliveryPhase::Ready) {
                self.queue_lane(lane);
            }
            return;
        }
        // What was cancelled has left memory, but not the queue.
        while let Some((_, seq)) = queue.keys.front()
            && !self.rows.contains_key(seq)
        {
            queue.keys.pop_front();
        }
        let (is_empty, until) = (queue.keys.is_empty(), queue.until);
        if is_empty && !self.lanes.goes_on(until) {
            self.lanes.queues.remove(&lane);
        } else if is_empty {
            self.feed(lane);
        } else {
            self.queue_lane(lane);
        }
    }

    /// The head of a lane, if it is ready.
    pub(super) fn ready_head(&self, lane: Lane) -> Option<&QueuedDelivery> {
        let (_, seq) = self.lanes.queues.get(&lane)?.keys.front()?;
        self.rows.get(seq).filter(|row| row.state == DeliveryPhase::Ready)
    }

    pub(super) fn queue_lane(&mut self, lane: Lane) {
        if let Some(queue) = self.lanes.queues.get_mut(&lane)
            && !queue.is_queued
        {
            queue.is_queued = true;
            self.turns.push_back(ReadyEntry::Lane(lane));
        }
        self.feed(lane);
    }

    /// Asks for more of a lane when little of it is left in memory.
    pub(super) fn feed(&mut self, lane: Lane) {
        let Some(queue) = self.lanes.queues.get(&lane) else { return };
        let is_low = queue.keys.len() - queue.sent <= self.per_lane / 2;
        if is_low
            && !queue.is_hungry
            && self.lanes.goes_on(queue.until)
            && let Some(queue) = self.lanes.queues.get_mut(&lane)
        {
            queue.is_hungry = true;
            self.lanes.hungry.push_back(lane);
        }
    }
}

impl Queue {
    /// All of it is in the store.
    pub fn unread() -> Self {
        Self { until: Some(FIRST), ..Self::default() }
    }

    /// The first eras of those that were attempted or chosen, and of the others.
    pub fn eras(&self) -> impl Iterator<Item = Era> {
        let others = self.keys.get(self.sent);
        self.keys.front().into_iter().chain(others).map(|it| Era::of(it.0))
    }

    /// The first that was attempted or chosen.
    pub fn sent_head(&self) -> Option<DeliverySeq> {
        self.keys.front().filter(|_| self.sent > 0).map(|(_, seq)| *seq)
    }

    pub fn is_sent(&self, key: Key) -> bool {
        let place = self.place_among_sent(key);
        place < self.sent && self.keys[place] == key
    }

    /// Adds one that was not attempted.
    pub fn insert(&mut self, key: Key) {
        if self.keys.len() == self.sent || self.keys.back().is_none_or(|&last| last < key) {
            self.keys.push_back(key);
        } else {
            let place = self.place_between(self.sent, self.keys.len(), key);
            self.keys.insert(place, key);
        }
    }

    /// Adds one that was attempted before.
    pub fn insert_sent(&mut self, key: Key) {
        let place = self.place_among_sent(key);
        self.keys.insert(place, key);
        self.sent += 1;
    }

    /// The first `count` have been chosen.
    fn mark_sent(&mut self, count: usize) {
        if count > self.sent {
            self.sent = count;
            // Late ones stand between those from which they were late, from now on.
            if !self.keys.range(..count).is_sorted() {
                self.keys.make_contiguous()[..count].sort_unstable();
            }
        }
    }

    fn remove_sent(&mut self, key: Key) {
        let place = self.place_among_sent(key);
        if place < self.sent && self.keys[place] == key {
            self.keys.remove(place);
            self.sent -= 1;
        }
    }

    /// Takes away those from `key` on that were not attempted.
    fn split_off(&mut self, key: Key) -> VecDeque<Key> {
        self.keys.split_off(self.place_between(self.sent, self.keys.len(), key))
    }

    fn place_among_sent(&self, key: Key) -> usize {
        self.place_between(0, self.sent, key)
    }

    fn place_between(&self, mut from: usize, mut to: usize, key: Key) -> usize {
        while from < to {
            let middle = usize::midpoint(from, to);
            if self.keys[middle] < key { from = middle + 1 } else { to = middle }
        }
        from
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_grows_by_what_is_added_and_shrinks_as_it_is_swept() {
        let mut range = Untrusted::default();
        range.add(Lane(100));
        range.add(Lane(200));
        assert!(range.contains(Lane(150)) && !range.contains(Lane(201)));
        range.advance_to(Lane(150));
        assert!(!range.contains(Lane(149)) && range.contains(Lane(150)));
        // Behind the sweep: it comes to it after the end of the line.
        range.add(Lane(20));
        assert!(range.contains(Lane(u64::MAX)) && range.contains(Lane(20)));
        range.advance_to_the_end();
        assert!(!range.contains(Lane(150)) && range.contains(Lane(20)));
        range.advance_to(Lane(21));
        assert!(range.is_empty());
    }

    #[test]
    fn the_whole_range_is_swept_in_one_circle() {
        let mut range = Untrusted::ALL;
        assert!(range.contains(Lane(1)) && range.contains(Lane(u64::MAX - 1)));
        range.advance_to(Lane(77));
        range.advance_to_the_end();
        assert!(range.is_empty());
    }

    #[test]
    fn a_lane_just_behind_the_sweep_is_still_in_the_circle() {
        let mut range = Untrusted::default();
        range.add(Lane(500));
        range.add(Lane(499));
        assert!(range.contains(Lane(499)) && range.contains(Lane(500)));
    }
}
