//! Batches: attempts that carry many deliveries.
//!
//! A batch takes one place of the concurrency. The scheduler says which deliveries it may carry, and
//! does not know what they weigh nor which of them can share a request. Whoever carries it out cuts
//! it to its bytes, takes of each lane only the first run that can share one request, makes one
//! request after the other, and asks before each further one. What was not sent comes back, and has
//! not used an attempt.
//!
//! What comes back was read in vain. So the next batch gathers no more than this one could carry,
//! and from there on a little more each time.

use jiff::Timestamp;

use super::{
    CANCELLED, DELETED, DeliveryPhase, DestinationQueue, QueuedDelivery, ReadyEntry, StepContext,
};
use crate::{
    dispatch::{
        breaker::State as BreakerState,
        input::Action,
        retry::{self, RetryVerdict},
    },
    model::{
        Batch as Policy, Class, DeliverySeq, DestinationState, Ended, EntryKind, Lane, Outcome,
        Standing,
    },
    store::Next,
};

/// One that is under way.
#[derive(Debug)]
pub struct BatchInFlight {
    number: u32,
    /// Names it to the breaker, as no delivery is named.
    name: DeliverySeq,
    /// Those whose requests have not ended.
    members: Vec<DeliverySeq>,
    /// How many its requests have carried.
    carried: u32,
    was_cut: bool,
}

/// How many deliveries a batch gathers, when that is less than the policy allows.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// About as many as the last ones could carry.
    goal: u32,
    /// What the endpoint did not refuse as too large,
    ceiling: u32,
    /// … and how often in a row it took so many.
    taken: u32,
}

/// So many full batches are taken before a larger one is tried.
const OFTEN: u32 = 100;

impl Default for Size {
    fn default() -> Self {
        Self { goal: u32::MAX, ceiling: u32::MAX, taken: 0 }
    }
}

impl Size {
    pub fn most(self, policy: Policy) -> usize {
        policy.events.get().min(self.goal).min(self.ceiling) as usize
    }

    fn cut_to(&mut self, carried: usize) {
        self.goal = u32::try_from(carried).unwrap_or(u32::MAX).max(1);
    }

    fn grow(&mut self) {
        self.goal = self.goal.saturating_add(self.goal / 8 + 1);
    }

    /// The endpoint took so many at once.
    fn accepted(&mut self, count: usize) {
        if count as u64 >= u64::from(self.ceiling) {
            self.taken += 1;
            if self.taken >= OFTEN {
                self.taken = 0;
                self.ceiling = self.ceiling.saturating_add(self.ceiling / 8 + 1);
            }
        }
    }

    /// The endpoint refused so many at once.
    fn refused(&mut self, count: usize) {
        (self.ceiling, self.taken) = ((count as u32 / 2).max(1), 0);
    }
}

impl QueuedDelivery {
    /// How many may be in a request with this one, itself included.
    pub fn most_together(&self) -> usize {
        if self.together == 0 { usize::MAX } else { self.together.into() }
    }

    /// Whether it may be in a request behind so many others.
    pub fn fits_behind(&self, others: usize) -> bool {
        others < self.most_together()
    }
}

impl BatchInFlight {
    fn forget(&mut self, gone: &[DeliverySeq]) {
        if gone.len() >= self.members.len() {
            self.members.clear();
        } else {
            let mut gone = gone.to_vec();
            gone.sort_unstable();
            self.members.retain(|it| gone.binary_search(it).is_err());
        }
    }
}

impl DestinationQueue {
    /// Starts a batch of those whose turn it is; `false` when there are none.
    pub(super) fn start_batch(&mut self, policy: Policy, step: &mut StepContext<'_>) -> bool {
        let most = self.size.most(policy);
        let mut deliveries = Vec::with_capacity(most.min(self.counts.ready));
        // Those that were refused in a request with others bring down how many share this one.
        let mut limit = most;
        while deliveries.len() < limit
            && step.totals.unsettled < step.options.unsettled_at_most
            && let Some(turn) = self.turns.pop_front()
        {
            let before = deliveries.len();
            if let ReadyEntry::Loose(seq) = turn
                && self.rows.get(&seq).is_some_and(|it| !it.fits_behind(before))
            {
                self.turns.push_front(turn);
                break;
            }
            self.choose_many(turn, limit, &mut deliveries, step);
            if let ReadyEntry::Lane(lane) = turn
                && self.is_left_over(lane, before)
            {
                self.return_turn(lane);
                break;
            }
            for owed in &deliveries[before..] {
                limit = self.rows.get(&owed.seq).map_or(limit, |it| it.most_together().min(limit));
                self.turn_to(owed.seq, DeliveryPhase::Together);
            }
        }
        if deliveries.is_empty() {
            return false;
        }
        let number = self.batches_made;
        self.batches_made = self.batches_made.wrapping_add(1);
        let members = deliveries.iter().map(|it| it.seq).collect();
        let name = DeliverySeq::from_bits(u64::MAX - u64::from(number));
        self.batches.push(BatchInFlight { number, name, members, carried: 0, was_cut: false });
        self.counts.in_flight += 1;
        step.totals.in_flight += 1;
        self.breaker.started(name);
        if let Some(bucket) = &mut self.bucket {
            bucket.take(step.now);
        }
        let (destination, bytes) = (self.id, policy.bytes.get() as usize);
        step.actions.push(Action::Batch { destination, number, deliveries, bytes });
        true
    }

    /// A request of a batch has ended. `true`: the batch has, too.
    pub fn part_ended(
        &mut self,
        number: u32,
        deliveries: &[DeliverySeq],
        outcome: Outcome,
        step: &mut StepContext<'_>,
    ) -> bool {
        let Some(mut batch) = self.take_batch(number) else { return false };
        let outcome = &self.in_context(deliveries, outcome);
        batch.forget(deliveries);
        batch.carried += deliveries.len() as u32;
        let is_refused = outcome.class == Class::Status && outcome.status == Some(413);
        if is_refused && deliveries.len() > 1 {
            self.size.refused(deliveries.len());
            self.pace.ended_without_verdict();
            let why = format!("{} in one request are too many", deliveries.len());
            self.send_in_halves(deliveries, outcome, &why, step);
        } else if deliveries.len() > 1 && self.is_refused_for_good(deliveries, outcome, step) {
            // One of them may be what it refuses: they are distinguished until that one stands alone.
            let half = u16::try_from(deliveries.len() / 2).unwrap_or(u16::MAX);
            for seq in deliveries {
                if let Some(row) = self.rows.get_mut(seq) {
                    row.together = half;
                }
            }
            self.breaker.ended_without_verdict(batch.name);
            self.pace.ended_without_verdict();
            let why = format!("one of {} in its request may be why", deliveries.len());
            self.send_in_halves(deliveries, outcome, &why, step);
        } else {
            if outcome.class == Class::Accepted {
                self.size.accepted(deliveries.len());
            }
            self.learn(batch.name, outcome, step);
            self.conclude_together(deliveries, outcome, step);
        }
        if batch.members.is_empty() {
            self.end_batch(&batch, step);
            return true;
        }
        if self.may_go_on(&mut batch, step) {
            step.actions.push(Action::GoOn { destination: self.id, number });
            self.batches.push(batch);
            return false;
        }
        step.actions.push(Action::Leave { destination: self.id, number });
        self.break_off(batch, step);
        true
    }

    /// A batch was too heavy, or not all of it can go at once: these come back. `missing` are those
    /// whose events are no longer kept. `true`: nothing is left of it, and it has ended.
    pub fn cut(
        &mut self,
        number: u32,
        left: &[DeliverySeq],
        missing: &[DeliverySeq],
        step: &mut StepContext<'_>,
    ) -> bool {
        let Some(mut batch) = self.take_batch(number) else { return false };
        batch.forget(&[left, missing].concat());
        for &seq in missing {
            self.end(seq, Ended::Dead, super::NOT_KEPT, step);
        }
        self.put_all_back(left, step);
        if !left.is_empty() {
            batch.was_cut = true;
            if !batch.members.is_empty() {
                self.size.cut_to(batch.members.len());
            }
        }
        if batch.members.is_empty() {
            self.end_batch(&batch, step);
            if !left.is_empty() {
                // There was no memory for even one of them beside what is under way.
                self.pace.fill(self.counts.in_flight);
            }
            return true;
        }
        self.batches.push(batch);
        false
    }

    /// What remains of a batch was not sent, and will not be. `true`: there was such a batch.
    pub fn broken_off(&mut self, number: u32, step: &mut StepContext<'_>) -> bool {
        let Some(batch) = self.take_batch(number) else { return false };
        self.break_off(batch, step);
        true
    }

    fn take_batch(&mut self, number: u32) -> Option<BatchInFlight> {
        let index = self.batches.iter().position(|it| it.number == number)?;
        Some(self.batches.swap_remove(index))
    }

    fn break_off(&mut self, mut batch: BatchInFlight, step: &mut StepContext<'_>) {
        let members = std::mem::take(&mut batch.members);
        batch.was_cut = true;
        self.put_all_back(&members, step);
        self.end_batch(&batch, step);
    }

    fn end_batch(&mut self, batch: &BatchInFlight, step: &mut StepContext<'_>) {
        self.breaker.ended_without_verdict(batch.name);
        self.counts.in_flight -= 1;
        step.totals.in_flight -= 1;
        if batch.carried == 0 {
            self.pace.ended_without_verdict();
        } else if !batch.was_cut {
            self.size.grow();
        }
    }

    /// Whether the next request of a batch may go: the gates again, but for the place that it has.
    fn may_go_on(&mut self, batch: &mut BatchInFlight, step: &StepContext<'_>) -> bool {
        let is_active =
            self.settings.as_ref().is_some_and(|it| it.state == DestinationState::Active);
        let is_well = match self.breaker.state() {
            BreakerState::Closed => true,
            BreakerState::SlowStart { limit, .. } => self.counts.in_flight <= limit,
            BreakerState::Open { .. } | BreakerState::HalfOpen { .. } => false,
        };
        let is_asked_to_wait = self.paused_until.is_some_and(|it| it > step.now);
        let is_free = |seq: &DeliverySeq| {
            self.rows.get(seq).is_some_and(|row| {
                !row.is_doomed && retry::too_late(&self.policy, &row.owed, step.now).is_none()
            })
        };
        if step.totals.is_stopping
            || self.is_away
            || !is_active
            || self.disabled_at.is_some()
            || !is_well
            || is_asked_to_wait
            || self.counts.in_flight > self.policy.concurrency.get().min(self.pace.limit())
            || !batch.members.iter().all(is_free)
        {
            return false;
        }
        let Some(bucket) = &mut self.bucket else { return true };
        let is_there = bucket.next(step.now) <= step.now;
        if is_there {
            bucket.take(step.now);
        } else {
            self.size.cut_to(batch.carried as usize);
        }
        is_there
    }

    /// They are as they were before, in their order.
    fn put_all_back(&mut self, seqs: &[DeliverySeq], step: &mut StepContext<'_>) {
        for seq in seqs.iter().rev() {
            let Some(row) = self.rows.get(seq).copied() else { continue };
            let lane = row.owed.place.lane;
            self.turn_to(*seq, DeliveryPhase::Ready);
            if row.is_doomed {
                let reason = if self.settings.is_none() { DELETED } else { CANCELLED };
                self.end(*seq, Ended::Cancelled, reason, step);
            } else if lane == Lane::NONE {
                self.turns.push_front(ReadyEntry::Loose(*seq));
            } else {
                self.put_back(lane, &row.owed, step);
            }
        }
    }

    /// One outcome for all of them.
    fn conclude_together(
        &mut self,
        deliveries: &[DeliverySeq],
        outcome: &Outcome,
        step: &mut StepContext<'_>,
    ) {
        let Some(first) = deliveries.first() else { return };
        let mut outcome = outcome.clone();
        if deliveries.len() > 1 {
            outcome.reason =
                format!("{}; one of {} in its request", outcome.reason, deliveries.len());
        }
        let mut due: Option<(Lane, Timestamp)> = None;
        for seq in deliveries {
            let Some(row) = self.rows.get(seq).copied() else { continue };
            let lane = row.owed.place.lane;
            // Behind the head of a lane none waits for longer than the head.
            let at_latest = due.filter(|it| it.0 == lane && lane != Lane::NONE).map(|it| it.1);
            if let Some(at) = self.conclude(row, outcome.clone(), *first, at_latest, step) {
                due = Some((lane, at));
            }
        }
    }

    /// Whether the endpoint refused what is in the request, and would end at least one of these.
    fn is_refused_for_good(
        &self,
        deliveries: &[DeliverySeq],
        outcome: &Outcome,
        step: &StepContext<'_>,
    ) -> bool {
        let ends = |seq: &DeliverySeq| {
            self.rows.get(seq).is_some_and(|row| {
                let verdict = retry::next(&self.policy, &row.owed, outcome, step.now);
                matches!(verdict, RetryVerdict::Ended(Ended::Dead, _))
            })
        };
        retry::is_about_content(outcome) && deliveries.iter().any(ends)
    }

    /// The endpoint refused so many at once. That says nothing about any of them, so it uses no attempt.
    fn send_in_halves(
        &mut self,
        deliveries: &[DeliverySeq],
        outcome: &Outcome,
        why: &str,
        step: &mut StepContext<'_>,
    ) {
        let reason = format!("{}; {why}: in halves", outcome.reason);
        for seq in deliveries {
            let Some(row) = self.rows.get(seq).copied() else { continue };
            let owed = row.owed;
            let entries = owed.standing.entries.saturating_add(1);
            let standing = Standing { entries, due: Some(step.now), ..owed.standing };
            if row.is_doomed || entries >= retry::MOST_ENTRIES {
                let (ended, reason) = match row.is_doomed {
                    true => (Ended::Cancelled, CANCELLED),
                    false => (Ended::Dead, retry::LOG_IS_FULL),
                };
                self.end(*seq, ended, reason, step);
            } else {
                self.go_at_once(*seq, standing, step);
                let kind = EntryKind::Note { reason: reason.clone() };
                self.settle(owed, kind, Next::Owed(standing), step);
            }
        }
    }
}
