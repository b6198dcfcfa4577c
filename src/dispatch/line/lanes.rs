//! Lanes: queues in which each waits until the one before has ended.
//!
//! Of each lane in memory, everything below a bound is in memory, and everything from there on is
//! in the store. Of lanes that are not in memory it is known that they are empty, but for those in
//! a range that is swept in a circle, so that every lane has its turn.

use std::collections::{HashMap, VecDeque};

use super::{Line, State, Step, Turn};
use crate::model::{DeliverySeq, Lane, Owed};

/// The order within a lane.
pub type Key = (i64, DeliverySeq);
pub const FIRST: Key = (i64::MIN, DeliverySeq::from_bits(0));

#[derive(Default)]
pub struct Lanes {
    pub queues: HashMap<Lane, Queue>,
    /// Lanes of which more is in the store, and little or nothing in memory.
    pub hungry: VecDeque<Lane>,
    pub untrusted: Untrusted,
}

#[derive(Debug, Default)]
pub struct Queue {
    /// The head that was attempted or chosen, and has not ended. It keeps its place, whatever comes.
    pub sent: Option<DeliverySeq>,
    pub rest: VecDeque<Key>,
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
        !self.untrusted.is_empty() || !self.hungry.is_empty()
    }

    /// Forgets all but the heads that are still held.
    pub fn forget(&mut self, is_held: impl Fn(DeliverySeq) -> bool) {
        self.queues.retain(|_, queue| queue.sent.is_some_and(&is_held));
        self.queues.shrink_to_fit();
        for queue in self.queues.values_mut() {
            let sent = queue.sent;
            *queue = Queue { sent, until: Some(FIRST), ..Queue::default() };
        }
        self.hungry.clear();
        self.untrusted = Untrusted::default();
    }
}

impl Line {
    pub(super) fn plan_laned(&mut self, owed: Owed, step: &mut Step<'_>) {
        let (lane, key) = (owed.place.lane, (owed.place.position, owed.seq));
        let has_room = self.room(step) > 0;
        let is_held = match self.lanes.queues.get(&lane) {
            Some(queue) => {
                let is_spilled = queue.until.is_some_and(|until| key >= until);
                let is_blocked = queue.sent.is_some_and(|it| self.is_blocked(it));
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
            self.hold(owed, State::Ready, step);
            self.lanes.queues.entry(lane).or_default().insert(key);
            self.advance(lane);
        } else {
            self.stash(owed);
        }
    }

    /// Whether the head of a lane waits for so long that the rest of it leaves memory.
    pub(super) fn is_blocked(&self, sent: DeliverySeq) -> bool {
        self.rows.get(&sent).is_some_and(|row| row.state == State::Blocked)
    }

    /// Leaves a lane from `key` on to the store.
    pub(super) fn truncate(&mut self, lane: Lane, key: Key, step: &mut Step<'_>) {
        let Some(queue) = self.lanes.queues.get_mut(&lane) else { return };
        queue.until = Some(queue.until.map_or(key, |until| until.min(key)));
        if let Some(reading) = &mut self.reading {
            reading.shortened.insert(lane);
        }
        let kept = queue.rest.partition_point(|&it| it < key);
        for (_, seq) in queue.rest.split_off(kept) {
            if self.rows.get(&seq).is_some_and(|row| row.state == State::Ready) {
                self.release(seq, step);
            }
        }
        self.feed(lane);
    }

    /// Leaves the rest of a lane to the store, since its head waits for long.
    pub(super) fn trim(&mut self, lane: Lane, step: &mut Step<'_>) {
        if let Some(queue) = self.lanes.queues.get(&lane)
            && let Some(&first) = queue.rest.front()
        {
            self.truncate(lane, first, step);
        }
    }

    /// Hints from this position on were dropped: what stands behind it cannot be relied on.
    pub(super) fn lose_lanes(&mut self, position: i64, step: &mut Step<'_>) {
        let lanes: Vec<Lane> = self.lanes.queues.keys().copied().collect();
        for lane in lanes {
            self.truncate(lane, (position, DeliverySeq::from_bits(0)), step);
            self.advance(lane);
        }
        self.lanes.untrusted = Untrusted::ALL;
        if let Some(reading) = &mut self.reading {
            reading.lost = Some(reading.lost.map_or(position, |it| it.min(position)));
        }
    }

    pub(super) fn choose_of_lane(&mut self, lane: Lane) -> Option<DeliverySeq> {
        let queue = self.lanes.queues.get_mut(&lane)?;
        queue.is_queued = false;
        let is_ready = |seq| self.rows.get(&seq).is_some_and(|row| row.state == State::Ready);
        if let Some(sent) = queue.sent {
            return is_ready(sent).then_some(sent);
        }
        let &(_, seq) = queue.rest.front()?;
        if !is_ready(seq) {
            return None;
        }
        queue.rest.pop_front();
        queue.sent = Some(seq);
        self.feed(lane);
        Some(seq)
    }

    /// A lane's head has ended.
    pub(super) fn head_ended(&mut self, lane: Lane, seq: DeliverySeq) {
        if let Some(queue) = self.lanes.queues.get_mut(&lane) {
            if queue.sent == Some(seq) {
                queue.sent = None;
            }
            self.advance(lane);
        }
    }

    /// Lets the next of a lane take its turn, or forgets the lane when it is empty.
    pub(super) fn advance(&mut self, lane: Lane) {
        let Some(queue) = self.lanes.queues.get_mut(&lane) else { return };
        if queue.sent.is_some() {
            return;
        }
        // What was cancelled has left memory, but not the queue.
        while let Some((_, seq)) = queue.rest.front()
            && !self.rows.contains_key(seq)
        {
            queue.rest.pop_front();
        }
        if queue.rest.is_empty() && queue.until.is_none() {
            self.lanes.queues.remove(&lane);
        } else if queue.rest.is_empty() {
            self.feed(lane);
        } else {
            self.queue_lane(lane);
        }
    }

    pub(super) fn queue_lane(&mut self, lane: Lane) {
        if let Some(queue) = self.lanes.queues.get_mut(&lane)
            && !queue.is_queued
        {
            queue.is_queued = true;
            self.turns.push_back(Turn::Lane(lane));
        }
        self.feed(lane);
    }

    /// Asks for more of a lane when little of it is left in memory.
    pub(super) fn feed(&mut self, lane: Lane) {
        let Some(queue) = self.lanes.queues.get_mut(&lane) else { return };
        let is_low = queue.rest.len() <= self.per_lane / 2;
        if queue.until.is_some() && is_low && !queue.is_hungry {
            queue.is_hungry = true;
            self.lanes.hungry.push_back(lane);
        }
    }
}

impl Queue {
    pub fn insert(&mut self, key: Key) {
        if self.rest.back().is_none_or(|&last| last < key) {
            self.rest.push_back(key);
        } else {
            let place = self.rest.partition_point(|&it| it < key);
            self.rest.insert(place, key);
        }
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
