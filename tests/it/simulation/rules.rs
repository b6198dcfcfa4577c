//! What must hold at each moment, judged from outside of the scheduler.

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use tidegate::model::{
    Class, DeliverySeq, Destination, DestinationId, DestinationState, Era, Lane, Outcome, Owed,
    RetryOn,
};

use super::store::ModelStore;

/// What the outside knows of a destination since its settings last changed or the process started.
#[derive(Default)]
pub struct Seen {
    pub in_flight: HashMap<DeliverySeq, Owed>,
    /// Attempts, each by the first of its deliveries.
    attempts: HashSet<DeliverySeq>,
    starts: VecDeque<Timestamp>,
    asked_until: Option<Timestamp>,
    failures_in_a_row: u32,
    /// When the failure came by which the breaker must be open.
    opened_at: Option<Timestamp>,
    since_opened: HashSet<DeliverySeq>,
    /// Since a start with a backlog: how many requests were accepted, until one failed.
    slow_start: Option<usize>,
    pace: Pace,
}

/// How many at once may go, by what was answered.
#[derive(Default)]
struct Pace {
    limit: Option<usize>,
    accepted: usize,
    /// Attempts from before the last "too much", whose ends say nothing new.
    old: usize,
}

impl Pace {
    fn note(&mut self, outcome: &Outcome, others: usize, concurrency: usize) {
        if self.old > 0 {
            self.old -= 1;
        } else if outcome.class == Class::Timeout || matches!(outcome.status, Some(429 | 503)) {
            let limit = self.limit.unwrap_or(concurrency).min(concurrency) / 2;
            *self = Self { limit: Some(limit.max(1)), accepted: 0, old: others };
        } else if outcome.class == Class::Accepted
            && let Some(limit) = self.limit
        {
            self.accepted += 1;
            if self.accepted == limit {
                (self.limit, self.accepted) = (Some(limit + 1), 0);
            }
        }
    }
}

#[derive(Default)]
pub struct Rules {
    pub seen: BTreeMap<DestinationId, Seen>,
    /// What the scheduler has been told of (hinted, lost, or from before the start), and when.
    pub told: HashMap<DeliverySeq, u64>,
    /// Counts what it was told, for "before" and "after".
    pub tellings: u64,
    pub attempts: u64,
    /// Their events are no longer kept, so nothing can be sent of them.
    pub forgotten: HashSet<DeliverySeq>,
    /// Somebody sets the clock: a time that the store has says less.
    pub clock_is_set: bool,
    /// Cancelled in this life. A crash may forget a cancel that was not yet on disk.
    pub cancelled: HashSet<DeliverySeq>,
}

/// Replays have ordinals from here on.
pub const FIRST_OF_REPLAYS: u16 = 10;

impl Rules {
    /// A new process knows nothing of the one before.
    pub fn restart(&mut self, store: &ModelStore) {
        self.seen.clear();
        self.cancelled.clear();
        self.told = store.all().map(|it| (it.seq, 0)).collect();
    }

    pub fn tell(&mut self, seqs: impl Iterator<Item = DeliverySeq>) {
        self.tellings += 1;
        let telling = self.tellings;
        self.told.extend(seqs.map(|it| (it, telling)));
    }

    /// Settings changed, or a person asked for another try.
    pub fn reset(&mut self, destination: DestinationId) {
        let seen = self.seen.entry(destination).or_default();
        let in_flight = std::mem::take(&mut seen.in_flight);
        let attempts = std::mem::take(&mut seen.attempts);
        *seen = Seen { in_flight, attempts, ..Seen::default() };
    }

    pub fn in_flight(&self) -> usize {
        self.seen.values().map(|it| it.attempts.len()).sum()
    }

    /// After a start, these are owed something.
    pub fn start_slowly(&mut self, destination: DestinationId) {
        self.seen.entry(destination).or_default().slow_start = Some(0);
    }

    /// Every rule about the start of an attempt, which is named by its first delivery.
    pub fn check_start(
        &mut self,
        first: &Owed,
        destination: Option<&Arc<Destination>>,
        now: Timestamp,
    ) {
        let seen = self.seen.entry(first.destination).or_default();
        assert!(seen.attempts.insert(first.seq), "{first:?} is in flight already");
        if let Some(policy) = destination.map(|it| &it.policy) {
            let concurrency = policy.concurrency.get() as usize;
            let under_way = seen.attempts.len();
            assert!(under_way <= concurrency, "more than {concurrency} in flight");
            let limit = seen.pace.limit.unwrap_or(concurrency);
            assert!(under_way <= limit, "{under_way} in flight, where {limit} were too much");
            if let Some(accepted) = seen.slow_start {
                assert!(under_way <= accepted + 1, "{under_way} after {accepted} were accepted");
            }
        }
        self.check_request(first, destination, now);
    }

    /// Every rule about a request, be it the first of an attempt or a further one of a batch.
    pub fn check_request(
        &mut self,
        first: &Owed,
        destination: Option<&Arc<Destination>>,
        now: Timestamp,
    ) {
        self.attempts += 1;
        let destination = destination.expect("the destination is deleted");
        assert_eq!(destination.state, DestinationState::Active, "the destination is not active");
        let policy = &destination.policy;
        let seen = self.seen.entry(first.destination).or_default();
        assert!(seen.asked_until.is_none_or(|it| it <= now), "it asked to be left alone");
        if let Some(limit) = &policy.rate_limit {
            seen.starts.push_back(now);
            let is_past = |it: &Timestamp| now.duration_since(*it).unsigned_abs() >= limit.per;
            while seen.starts.front().is_some_and(is_past) {
                seen.starts.pop_front();
            }
            assert!(seen.starts.len() <= limit.events.get() as usize, "above the rate limit");
        }
        if let Some(opened_at) = seen.opened_at
            && policy.breaker.failure_share > 1.0
        {
            let shortest = policy.breaker.open_for.mul_f64(0.8);
            assert!(now >= opened_at + shortest, "an attempt behind an open breaker");
            assert!(seen.since_opened.is_empty(), "more than one probe");
            seen.since_opened.insert(first.seq);
        }
    }

    /// Every rule about what one request carries; `decided`: after which telling it was chosen.
    pub fn check_carried(
        &mut self,
        decided: u64,
        deliveries: &[Owed],
        destination: Option<&Arc<Destination>>,
        store: &ModelStore,
        now: Timestamp,
    ) {
        let expires_after = destination.and_then(|it| it.policy.expires_after);
        let together: HashSet<DeliverySeq> = deliveries.iter().map(|it| it.seq).collect();
        assert_eq!(together.len(), deliveries.len(), "it is carried twice");
        for owed in deliveries {
            let stored = store.get(owed);
            assert_eq!(stored, Some(owed), "it is attempted, and is not owed so");
            let is_due = owed.standing.due.is_none_or(|due| due <= now);
            assert!(is_due || self.clock_is_set, "{owed:?} is not due");
            let goes_on = self.cancelled.contains(&owed.seq);
            assert!(!goes_on, "{owed:?} goes on after it was cancelled");
            if let Some(after) = expires_after {
                assert!(now < owed.accepted_at + after, "{owed:?} has expired");
            }
            self.check_lane(owed, decided, &together, store);
            self.check_era(owed, decided, store);
        }
        let order = |it: &Owed| (it.standing.due.is_none(), it.place.position, it.seq);
        let mut last: HashMap<Lane, &Owed> = HashMap::new();
        for owed in deliveries.iter().filter(|it| it.place.lane != Lane::NONE) {
            if let Some(before) = last.insert(owed.place.lane, owed) {
                assert!(order(before) < order(owed), "{before:?} stands before {owed:?}");
            }
        }
        for owed in deliveries {
            let seen = self.seen.entry(owed.destination).or_default();
            let other = seen.in_flight.insert(owed.seq, *owed);
            assert_eq!(other, None, "{owed:?} is in flight already");
        }
    }

    /// Invariant 7: nothing of a lane goes before what stands ahead of it has ended, or goes with it.
    fn check_lane(
        &self,
        owed: &Owed,
        decided: u64,
        together: &HashSet<DeliverySeq>,
        store: &ModelStore,
    ) {
        if owed.place.lane == Lane::NONE {
            return;
        }
        let was_sent = owed.standing.due.is_some();
        // One that comes too late for the batch queues behind it.
        let is_told = |it: &Owed| self.told.get(&it.seq).is_some_and(|at| *at <= decided);
        // What was planned before it is there for whoever knows of it, told or not: it may have been read.
        let is_of_a_plan = |it: &Owed| it.seq.ordinal() < FIRST_OF_REPLAYS;
        let was_before =
            |it: &Owed| is_of_a_plan(it) && is_of_a_plan(owed) && it.seq.event() < owed.seq.event();
        let counts = |it: &&Owed| !together.contains(&it.seq) && !self.forgotten.contains(&it.seq);
        for other in store.lane(owed).filter(counts) {
            let is_ahead = (other.place.position, other.seq) < (owed.place.position, owed.seq);
            if other.standing.due.is_some() {
                let is_in_order = was_sent && !is_ahead;
                assert!(is_in_order, "{owed:?} goes, and {other:?} was sent before");
            } else if is_ahead && !was_sent && (is_told(other) || was_before(other)) {
                panic!("{owed:?} overtakes {other:?}");
            }
        }
        if let Some(seen) = self.seen.get(&owed.destination) {
            let is_in_lane = |it: &&Owed| it.place.lane == owed.place.lane;
            let other = seen.in_flight.values().find(is_in_lane);
            assert_eq!(other, None, "{owed:?} goes beside it");
        }
    }

    /// What was planned under an earlier ordering goes before what was planned under a later one.
    fn check_era(&self, owed: &Owed, decided: u64, store: &ModelStore) {
        let era = |it: &Owed| Era::of(it.place.position);
        if owed.place.lane == Lane::NONE || owed.standing.due.is_some() || era(owed) == Era::FIRST {
            return;
        }
        let is_told = |it: &Owed| self.told.get(&it.seq).is_some_and(|at| *at <= decided);
        let is_of_a_plan = |it: &Owed| it.seq.ordinal() < FIRST_OF_REPLAYS;
        let was_before =
            |it: &Owed| is_of_a_plan(it) && is_of_a_plan(owed) && it.seq.event() < owed.seq.event();
        let counts = |it: &&Owed| {
            it.destination == owed.destination
                && it.place.lane != Lane::NONE
                && !self.forgotten.contains(&it.seq)
                && !self.cancelled.contains(&it.seq)
        };
        for other in store.all().filter(counts).filter(|it| era(it) < era(owed)) {
            assert!(!is_told(other) && !was_before(other), "{owed:?} overtakes {other:?}");
        }
    }

    /// A request has ended, of the attempt that is named by its first delivery.
    pub fn note_end(
        &mut self,
        first: &Owed,
        carried: &[Owed],
        outcome: &Outcome,
        is_halved: bool,
        destination: Option<&Arc<Destination>>,
        now: Timestamp,
    ) {
        let seen = self.seen.entry(first.destination).or_default();
        for owed in carried {
            seen.in_flight.remove(&owed.seq);
        }
        let others = seen.attempts.len().saturating_sub(1);
        let was_probe = seen.since_opened.remove(&first.seq);
        let Some(destination) = destination else { return };
        if is_halved {
            seen.pace.old = seen.pace.old.saturating_sub(1);
            return;
        }
        seen.pace.note(outcome, others, destination.policy.concurrency.get() as usize);
        if outcome.class == Class::Accepted {
            seen.slow_start = seen.slow_start.map(|it| it + 1);
        } else {
            // It goes on from less than that, but how much less is not for the outside to know.
            seen.slow_start = None;
        }
        match outcome.class {
            // What started before the breaker opened says nothing about it.
            _ if seen.opened_at.is_some() && !was_probe => (),
            Class::Accepted | Class::Abort => {
                (seen.failures_in_a_row, seen.opened_at) = (0, None);
            }
            Class::Gone | Class::Config => (),
            _ => {
                seen.failures_in_a_row += 1;
                let needed = destination.policy.breaker.failures_in_a_row.get();
                let opens = seen.opened_at.is_none() && seen.failures_in_a_row >= needed;
                if opens || was_probe {
                    seen.opened_at = Some(now);
                }
            }
        }
        if let (Some(429 | 503), Some(asked)) = (outcome.status, outcome.retry_after) {
            let most = destination.policy.retry_after_at_most;
            let until = now + asked.clamp(Duration::from_secs(1), most);
            seen.asked_until = seen.asked_until.max(Some(until));
        }
    }

    /// An attempt is over. `was_made`: a request was. `too_much`: there was no memory for it.
    pub fn note_over(&mut self, first: &Owed, was_made: bool, too_much: bool) {
        let seen = self.seen.entry(first.destination).or_default();
        seen.attempts.remove(&first.seq);
        seen.since_opened.remove(&first.seq);
        if !was_made {
            seen.pace.old = seen.pace.old.saturating_sub(1);
        }
        if too_much {
            seen.in_flight.remove(&first.seq);
            let under_way = seen.attempts.len().max(1);
            let limit = seen.pace.limit.map_or(under_way, |it| it.min(under_way));
            seen.pace = Pace { limit: Some(limit), accepted: 0, old: 0 };
        }
    }
}

/// Whether a failure is to be tried again, as the documents say it.
pub fn is_retried(retry_on: RetryOn, outcome: &Outcome) -> bool {
    let is_unanswered =
        matches!(outcome.class, Class::Timeout | Class::Dns | Class::Connect | Class::Broken);
    let status = outcome.status.unwrap_or(0);
    match retry_on {
        RetryOn::All => true,
        RetryOn::Temporary => {
            is_unanswered
                || [408, 423, 425, 429].contains(&status)
                || status >= 500 && status != 501
        }
        RetryOn::ServerErrors => is_unanswered || status >= 500,
    }
}
