//! Takes in what was read of lanes.

use super::{
    DeliveryPhase, DestinationQueue, StepContext,
    eras::era,
    lanes::Queue,
    reading::{BacklogRead, behind, key},
};
use crate::model::{DeliverySeq, IdSet, Lane, Owed};

impl DestinationQueue {
    pub(super) fn take_lane(
        &mut self,
        lane: Lane,
        rows: &[Owed],
        reading: &BacklogRead,
        settled: &IdSet<DeliverySeq>,
        step: &mut StepContext<'_>,
    ) {
        let count = rows.iter().take_while(|it| it.place.lane == lane).count();
        let is_cut = count >= reading.limit;
        if reading.shortened.contains(&lane) {
            self.feed(lane);
        } else if self.lanes.queues.contains_key(&lane) {
            self.take_group(lane, &rows[..count], is_cut, settled, step);
        }
    }

    pub(super) fn take_sweep(
        &mut self,
        rows: &[Owed],
        reading: &BacklogRead,
        settled: &IdSet<DeliverySeq>,
        step: &mut StepContext<'_>,
    ) {
        let is_full = rows.len() >= reading.limit;
        let mut rest = rows;
        while let Some(first) = rest.first() {
            let lane = first.place.lane;
            let count = rest.iter().take_while(|it| it.place.lane == lane).count();
            let (group, behind) = rest.split_at(count);
            let is_cut = count >= reading.per_lane || is_full && behind.is_empty();
            rest = behind;
            if lane == Lane::NONE {
                continue;
            } else if reading.shortened.contains(&lane) {
                self.feed(lane);
            } else if !self.take_group(lane, group, is_cut, settled, step) {
                self.lanes.untrusted.advance_to(lane);
                return;
            }
        }
        match rows.last() {
            Some(last) if is_full => {
                self.lanes.untrusted.advance_to(Lane(last.place.lane.0.wrapping_add(1)));
            }
            Some(_) | None => self.lanes.untrusted.advance_to_the_end(),
        }
    }

    /// What the store has of one lane, from its bound or from its beginning on. `is_cut`: there may
    /// be more. Returns `false` when there was no room for all of it.
    fn take_group(
        &mut self,
        lane: Lane,
        group: &[Owed],
        is_cut: bool,
        settled: &IdSet<DeliverySeq>,
        step: &mut StepContext<'_>,
    ) -> bool {
        if let Some(first) = group.first().map(era).filter(|it| *it < self.lanes.open) {
            self.go_back_to(first, step);
        }
        let (open, later) = group.split_at(self.lanes.open_part(group));
        let is_known = self.lanes.queues.contains_key(&lane);
        if !is_known && open.is_empty() && later.iter().all(|it| it.standing.due.is_none()) {
            return true;
        }
        if !is_known && self.room(step) == 0 {
            return false;
        }
        for owed in group {
            let is_new = !self.rows.contains_key(&owed.seq) && !settled.contains(&owed.seq);
            if is_new && owed.standing.due.is_some() {
                self.take_head(*owed, step);
            }
        }
        let queue = self.lanes.queues.entry(lane).or_insert_with(Queue::unread);
        let Some(until) = queue.until else { return true };
        if queue.sent_head().is_some_and(|it| self.is_blocked(it)) {
            return true;
        }
        // A group that ends with its lane: all of the lane is in memory now.
        let mut new_until = match later.is_empty() {
            true => is_cut.then(|| group.last().map_or(until, behind).max(until)),
            false => Some(self.lanes.end_of_open()),
        };
        let mut has_room = true;
        for owed in open {
            let is_sent = |it: &Queue| it.is_sent(key(owed));
            if settled.contains(&owed.seq) || self.lanes.queues.get(&lane).is_some_and(is_sent) {
                continue;
            }
            if self.rows.contains_key(&owed.seq) {
                // Below the bound it stands in its lane; behind, it waits for its cancelling to be on disk.
                if key(owed) >= until
                    && let Some(queue) = self.lanes.queues.get_mut(&lane)
                {
                    queue.insert(key(owed));
                }
                continue;
            }
            if self.room(step) == 0 {
                // What stands behind it must not go before it.
                self.truncate(lane, key(owed), step);
                new_until = Some(key(owed));
                has_room = false;
                break;
            }
            self.hold(*owed, DeliveryPhase::Ready, step);
            if let Some(queue) = self.lanes.queues.get_mut(&lane) {
                queue.insert(key(owed));
            }
        }
        if let Some(queue) = self.lanes.queues.get_mut(&lane) {
            queue.until = new_until;
        }
        self.advance(lane);
        self.feed(lane);
        has_room
    }
}
