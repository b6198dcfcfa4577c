//! The gates in front of an attempt, and its start.

use std::time::Duration;

use jiff::Timestamp;

use super::{DeliveryPhase, DestinationQueue, Gate, ReadyEntry, StepContext};
use crate::{
    dispatch::{breaker::Allows, input::Action, later, retry},
    model::{DestinationState, Owed},
};

/// So much ahead of the loop's time an event may have been accepted, by a clock that is right.
const A_MOMENT: Duration = Duration::from_secs(1);

impl DestinationQueue {
    pub fn gate(&mut self, now: Timestamp) -> Gate {
        let is_active =
            self.settings.as_ref().is_some_and(|it| it.state == DestinationState::Active);
        if !is_active || self.is_away || self.disabled_at.is_some() || self.turns.is_empty() {
            return Gate::Shut;
        }
        if let Some(until) = self.paused_until {
            if now < until {
                return Gate::ShutUntil(until);
            }
            self.paused_until = None;
        }
        let places = match self.breaker.allows(now) {
            Allows::NothingBefore(until) => return Gate::ShutUntil(until),
            Allows::UpTo(limit) => limit.min(self.policy.concurrency.get()).min(self.pace.limit()),
        };
        if self.counts.in_flight >= places {
            return Gate::Shut;
        }
        if let shut @ (Gate::Shut | Gate::ShutUntil(_)) = self.linger(now) {
            return shut;
        }
        match self.bucket.as_mut().map(|it| it.next(now)) {
            Some(next) if next > now => Gate::ShutUntil(next),
            Some(_) | None => Gate::Open,
        }
    }

    /// Whether a batch is full, or the first of it has waited for others for long enough.
    fn linger(&mut self, now: Timestamp) -> Gate {
        let Some(batch) = self.policy.batch else { return Gate::Open };
        let first = loop {
            let row = match self.turns.front() {
                None => return Gate::Shut,
                Some(ReadyEntry::Loose(seq)) => self.rows.get(seq).filter(|row| row.can_go()),
                Some(ReadyEntry::Lane(lane)) => self.ready_head(*lane),
            };
            match row {
                Some(row) => break row.owed,
                // It was cancelled, or its lane has changed.
                None => self.drop_turn(),
            }
        };
        let until = later(first.accepted_at, batch.linger);
        // It was accepted while the clock was ahead.
        let is_odd = until > later(now, batch.linger + A_MOMENT);
        if self.counts.ready >= self.size.most(batch) || until <= now || is_odd {
            Gate::Open
        } else {
            Gate::ShutUntil(until)
        }
    }

    fn drop_turn(&mut self) {
        if let Some(ReadyEntry::Lane(lane)) = self.turns.pop_front() {
            self.forget_turn(lane);
        }
    }

    /// Starts an attempt of the first whose turn it is; `false` when there is none or a gate is shut.
    pub fn start(&mut self, step: &mut StepContext<'_>) -> bool {
        loop {
            if !matches!(self.gate(step.now), Gate::Open)
                || step.totals.unsettled >= step.options.unsettled_at_most
            {
                return false;
            }
            if let Some(batch) = self.policy.batch {
                if self.start_batch(batch, step) {
                    return true;
                }
                continue;
            }
            let Some(turn) = self.turns.pop_front() else { return false };
            let Some(owed) = self.choose(turn, step) else { continue };
            self.turn_to(owed.seq, DeliveryPhase::InFlight);
            step.totals.in_flight += 1;
            self.breaker.started(owed.seq);
            if let Some(bucket) = &mut self.bucket {
                bucket.take(step.now);
            }
            step.actions.push(Action::Attempt(owed));
            return true;
        }
    }

    fn choose(&mut self, turn: ReadyEntry, step: &mut StepContext<'_>) -> Option<Owed> {
        match turn {
            ReadyEntry::Loose(seq) => {
                let owed = self.rows.get(&seq).filter(|row| row.can_go())?.owed;
                match retry::too_late(&self.policy, &owed, step.now) {
                    None => Some(owed),
                    Some((ended, why)) => {
                        self.end(seq, ended, why, step);
                        None
                    }
                }
            }
            ReadyEntry::Lane(lane) => self.choose_of_lane(lane, step),
        }
    }

    /// Adds those of a turn to a batch of at most so many.
    pub(super) fn choose_many(
        &mut self,
        turn: ReadyEntry,
        most: usize,
        chosen: &mut Vec<Owed>,
        step: &mut StepContext<'_>,
    ) {
        match turn {
            ReadyEntry::Loose(_) => chosen.extend(self.choose(turn, step)),
            ReadyEntry::Lane(lane) => self.choose_many_of_lane(lane, most, chosen, step),
        }
    }
}
