//! What follows when an attempt ends, when its settlement is on disk, and when someone cancels.

use jiff::{SignedDuration, Timestamp};

use super::{
    CANCELLED, DELETED, DeliveryPhase, DestinationQueue, NOT_KEPT, QueuedDelivery, ReadyEntry,
    Removal, StepContext,
};
use crate::{
    dispatch::{
        earlier,
        input::Action,
        later,
        retry::{self, RetryVerdict},
    },
    model::{Class, DeliverySeq, Ended, Entry, EntryKind, Lane, Outcome, Owed, Standing},
    store::{Next, Settlement},
};

/// Failures since the last success, as far as this process knows.
#[derive(Clone, Copy, Debug, Default)]
pub struct Failing {
    since: Option<Timestamp>,
    count: u32,
}

/// A destination that fails for so long is disabled,
const TOO_LONG_DAYS: u64 = 5;
const DAY: u64 = 24 * 60 * 60;
/// … if it was tried at least so often; or after a day, if it was tried so often.
const FEW: u32 = 10;
const MANY: u32 = 100;

impl Failing {
    pub fn set_back(&mut self, by: SignedDuration) {
        self.since = self.since.map(|it| earlier(it, by));
    }

    pub fn since(&self) -> Option<Timestamp> {
        self.since
    }

    /// Counts a failure, and says why the destination is to be disabled, if it is.
    fn add(&mut self, now: Timestamp, expires: bool) -> Option<String> {
        let since = *self.since.get_or_insert(now);
        self.count = self.count.saturating_add(1);
        let days = now.duration_since(since).as_secs().max(0) as u64 / DAY;
        let is_too_long = days >= TOO_LONG_DAYS && self.count >= FEW;
        // What expires by itself does not pile up, and a disabled destination would hold it instead.
        let is_too_often = days >= 1 && self.count >= MANY && !expires;
        (is_too_long || is_too_often)
            .then(|| format!("{} attempts in a row have failed since {since:.0}", self.count))
    }
}

impl DestinationQueue {
    /// An attempt has ended. `false` when there was none.
    pub fn finished(
        &mut self,
        seq: DeliverySeq,
        outcome: Outcome,
        step: &mut StepContext<'_>,
    ) -> bool {
        let Some(row) =
            self.rows.get(&seq).copied().filter(|it| it.state == DeliveryPhase::InFlight)
        else {
            return false;
        };
        step.totals.in_flight -= 1;
        let outcome = self.in_context(&[seq], outcome);
        self.learn(seq, &outcome, step);
        self.conclude(row, outcome, seq, None, step);
        true
    }

    /// What follows for one delivery. When it is tried again, that is when; at latest `at_latest`.
    /// Those for which `like` is the same wait for as long, if they were tried as often.
    pub(super) fn conclude(
        &mut self,
        row: QueuedDelivery,
        mut outcome: Outcome,
        like: DeliverySeq,
        at_latest: Option<Timestamp>,
        step: &mut StepContext<'_>,
    ) -> Option<Timestamp> {
        let (owed, seq) = (row.owed, row.owed.seq);
        let mut verdict =
            retry::next(&self.policy, &Owed { seq: like, ..owed }, &outcome, step.now);
        if row.is_doomed && verdict != RetryVerdict::Ended(Ended::Delivered, "") {
            let reason = if self.settings.is_none() { DELETED } else { CANCELLED };
            verdict = RetryVerdict::Ended(Ended::Cancelled, reason);
        }
        let standing = Standing {
            attempts: owed.standing.attempts.saturating_add(1),
            entries: owed.standing.entries.saturating_add(1),
            due: None,
        };
        let due = match verdict {
            RetryVerdict::Ended(..) => None,
            RetryVerdict::Again(due) => Some(at_latest.map_or(due, |it| it.min(due))),
            RetryVerdict::Held => Some(step.now),
        };
        let next = match verdict {
            RetryVerdict::Ended(ended, why) => {
                if !why.is_empty() {
                    outcome.reason = format!("{}; {why}", outcome.reason);
                }
                Next::Ended(ended)
            }
            RetryVerdict::Again(_) | RetryVerdict::Held => Next::Owed(Standing { due, ..standing }),
        };
        let kind = EntryKind::Attempt { number: standing.attempts, outcome };
        match next {
            Next::Ended(_) => self.turn_to(seq, DeliveryPhase::Ended),
            Next::Owed(standing) => self.wait(seq, standing, step),
        }
        self.settle(owed, kind, next, step);
        due
    }

    /// It was to be attempted, and was not: it is as it was before.
    pub fn returned(&mut self, seq: DeliverySeq, step: &mut StepContext<'_>) -> bool {
        let Some(row) =
            self.rows.get(&seq).copied().filter(|it| it.state == DeliveryPhase::InFlight)
        else {
            return false;
        };
        step.totals.in_flight -= 1;
        self.breaker.ended_without_verdict(seq);
        self.pace.ended_without_verdict();
        self.turn_to(seq, DeliveryPhase::Waiting);
        if row.is_doomed {
            self.end(seq, Ended::Cancelled, CANCELLED, step);
        } else {
            self.make_ready(seq);
        }
        true
    }

    /// There is no memory for it beside what is under way.
    pub fn too_much(&mut self, seq: DeliverySeq, step: &mut StepContext<'_>) -> bool {
        let Some(row) =
            self.rows.get(&seq).copied().filter(|it| it.state == DeliveryPhase::InFlight)
        else {
            return false;
        };
        step.totals.in_flight -= 1;
        self.breaker.ended_without_verdict(seq);
        self.turn_to(seq, DeliveryPhase::Ready);
        self.pace.fill(self.counts.in_flight);
        if row.is_doomed {
            self.end(seq, Ended::Cancelled, CANCELLED, step);
        } else if row.owed.place.lane == Lane::NONE {
            self.turns.push_front(ReadyEntry::Loose(seq));
        } else {
            self.put_back(row.owed.place.lane, &row.owed, step);
        }
        true
    }

    /// There is nothing to attempt: its event is no longer kept.
    pub fn missing(&mut self, seq: DeliverySeq, step: &mut StepContext<'_>) -> bool {
        if self.rows.get(&seq).is_none_or(|it| it.state != DeliveryPhase::InFlight) {
            return false;
        }
        step.totals.in_flight -= 1;
        self.breaker.ended_without_verdict(seq);
        self.pace.ended_without_verdict();
        self.end(seq, Ended::Dead, NOT_KEPT, step);
        true
    }

    /// What the outcome says about the endpoint.
    pub(super) fn learn(
        &mut self,
        seq: DeliverySeq,
        outcome: &Outcome,
        step: &mut StepContext<'_>,
    ) {
        let cap = self.policy.concurrency.get();
        self.pace.ended(outcome, self.counts.in_flight.saturating_sub(1), cap);
        match outcome.class {
            Class::Accepted | Class::Abort => {
                self.breaker.succeeded(seq, cap, step.now);
                self.failing = Failing::default();
            }
            // The endpoint had no part in it.
            Class::Config => self.breaker.ended_without_verdict(seq),
            Class::Gone => {
                self.breaker.ended_without_verdict(seq);
                self.disable(format!("it answered that it is gone: {}", outcome.reason), step);
            }
            Class::Status
            | Class::Timeout
            | Class::Dns
            | Class::Connect
            | Class::Tls
            | Class::Broken
            | Class::Denied
            | Class::Unknown => {
                self.breaker.failed(&self.policy.breaker, seq, step.now);
                let expires = retry::expires_at(&self.policy, step.now).is_some();
                if let Some(why) = self.failing.add(step.now, expires) {
                    self.disable(why, step);
                }
            }
        }
        // Of a URL that differs from message to message, it is about that one.
        if let Some(pause) = retry::asked_pause(&self.policy, outcome)
            && !self.has_template()
        {
            let until = later(step.now, pause);
            self.paused_until = Some(self.paused_until.map_or(until, |it| it.max(until)));
        }
    }

    fn has_template(&self) -> bool {
        self.settings.as_ref().is_some_and(|it| it.connection.is_template())
    }

    fn disable(&mut self, reason: String, step: &mut StepContext<'_>) {
        if let Some(settings) = &self.settings
            && self.disabled_at.is_none()
        {
            let version = settings.version;
            self.disabled_at = Some(version);
            step.actions.push(Action::Disable { destination: self.id, version, reason });
        }
    }

    /// It failed, and is tried again when it is due.
    pub(super) fn wait(
        &mut self,
        seq: DeliverySeq,
        standing: Standing,
        step: &mut StepContext<'_>,
    ) {
        let Some(row) = self.rows.get_mut(&seq) else { return };
        self.counts.retried += usize::from(row.owed.standing.due.is_none());
        (row.owed.standing, row.due) = (standing, standing.due);
        let lane = row.owed.place.lane;
        let due = standing.due.unwrap_or(step.now);
        let is_far = due > later(step.now, step.options.park_after);
        if lane == Lane::NONE && (is_far || self.counts.waiting_loose >= self.limit(step) / 4) {
            self.turn_to(seq, DeliveryPhase::Parking);
            return;
        }
        self.await_due(seq, due, step);
        if self.is_blocked(seq) {
            self.trim(lane, step);
        }
    }

    /// It is sent again, as soon as that is on disk.
    pub(super) fn go_at_once(
        &mut self,
        seq: DeliverySeq,
        standing: Standing,
        step: &StepContext<'_>,
    ) {
        let Some(row) = self.rows.get_mut(&seq) else { return };
        self.counts.retried += usize::from(row.owed.standing.due.is_none());
        row.owed.standing = standing;
        self.await_due(seq, standing.due.unwrap_or(step.now), step);
    }

    /// Its settlement is on disk.
    pub fn settled(&mut self, seq: DeliverySeq, step: &mut StepContext<'_>) {
        let Some(row) = self.rows.get_mut(&seq).filter(|it| it.is_unsettled) else { return };
        step.totals.unsettled -= 1;
        row.is_unsettled = false;
        let row = *row;
        if row.is_doomed && row.state != DeliveryPhase::Ended {
            let reason = if self.settings.is_none() { DELETED } else { CANCELLED };
            self.end(seq, Ended::Cancelled, reason, step);
            return;
        }
        let lane = row.owed.place.lane;
        match row.state {
            DeliveryPhase::Ended => {
                self.forget(seq, step);
                self.head_ended(lane, (row.owed.place.position, seq));
            }
            DeliveryPhase::Parking => {
                self.forget(seq, step);
                self.park(row.due.unwrap_or(step.now));
            }
            DeliveryPhase::Waiting | DeliveryPhase::Blocked => {
                if row.due.is_none_or(|due| due <= step.now) {
                    self.make_ready(seq);
                }
            }
            DeliveryPhase::Ready | DeliveryPhase::InFlight | DeliveryPhase::Together => (),
        }
    }

    /// What was to be settled will not be: it is owed as before, for all that is known here.
    pub fn refused(&mut self, seq: DeliverySeq, step: &mut StepContext<'_>) {
        let Some(row) = self.rows.get_mut(&seq).filter(|it| it.is_unsettled) else { return };
        step.totals.unsettled -= 1;
        row.is_unsettled = false;
        if !row.is_under_way() {
            self.release(seq, step);
        }
        self.evict(step);
        if self.settings.is_none() && !self.is_away {
            self.removal = Removal::From(None);
        }
    }

    fn forget(&mut self, seq: DeliverySeq, step: &mut StepContext<'_>) {
        self.release(seq, step);
        step.totals.early.leave(seq);
        if self.reading.is_some() {
            self.settled_meanwhile.insert(seq);
        }
    }

    /// Someone cancels a delivery. One in flight is cancelled if its attempt fails.
    pub fn cancel(&mut self, owed: Owed, step: &mut StepContext<'_>) {
        match self.rows.get_mut(&owed.seq) {
            None if self.settled_meanwhile.contains(&owed.seq) => (),
            None => self.end_without_row(owed, Ended::Cancelled, CANCELLED, step),
            Some(row) if row.state == DeliveryPhase::Ended => (),
            Some(row) if row.is_under_way() || row.is_unsettled => row.is_doomed = true,
            Some(_) => self.end(owed.seq, Ended::Cancelled, CANCELLED, step),
        }
    }

    /// Ends a delivery of which only the store knew.
    pub(super) fn end_without_row(
        &mut self,
        owed: Owed,
        ended: Ended,
        reason: &str,
        step: &mut StepContext<'_>,
    ) {
        self.hold(owed, DeliveryPhase::Ready, step);
        self.end(owed.seq, ended, reason, step);
    }

    /// Ends a delivery without an attempt.
    pub(super) fn end(
        &mut self,
        seq: DeliverySeq,
        ended: Ended,
        reason: &str,
        step: &mut StepContext<'_>,
    ) {
        self.turn_to(seq, DeliveryPhase::Ended);
        if let Some(owed) = self.rows.get(&seq).map(|it| it.owed) {
            let kind = EntryKind::Note { reason: reason.to_owned() };
            self.settle(owed, kind, Next::Ended(ended), step);
        }
    }

    pub(super) fn settle(
        &mut self,
        owed: Owed,
        kind: EntryKind,
        next: Next,
        step: &mut StepContext<'_>,
    ) {
        if let Some(row) = self.rows.get_mut(&owed.seq) {
            row.is_unsettled = true;
        }
        step.totals.unsettled += 1;
        let ended = match next {
            Next::Ended(ended) => Some(ended),
            Next::Owed(_) => None,
        };
        let number = owed.standing.entries.saturating_add(1);
        let entry = Entry { delivery: owed.seq, number, at: step.now, kind, ended };
        step.actions.push(Action::Settle(Settlement { owed, entry, next }));
    }
}
