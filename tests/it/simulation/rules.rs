//! What must hold at each moment, judged from outside of the scheduler.

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use tidegate::model::{
    Class, DeliverySeq, Destination, DestinationId, DestinationState, Lane, Outcome, Owed,
};

use super::store::ModelStore;

/// What the outside knows of a destination since its settings last changed or the process started.
#[derive(Default)]
pub struct Seen {
    pub in_flight: HashMap<DeliverySeq, Owed>,
    starts: VecDeque<Timestamp>,
    asked_until: Option<Timestamp>,
    failures_in_a_row: u32,
    /// When the failure came by which the breaker must be open.
    opened_at: Option<Timestamp>,
    since_opened: HashSet<DeliverySeq>,
}

#[derive(Default)]
pub struct Rules {
    pub seen: BTreeMap<DestinationId, Seen>,
    /// What the scheduler has been told of: hinted, lost, or from before the start.
    pub told: HashSet<DeliverySeq>,
    pub attempts: u64,
    /// Cancelled in this life. A crash may forget a cancel that was not yet on disk.
    pub cancelled: HashSet<DeliverySeq>,
}

impl Rules {
    /// A new process knows nothing of the one before.
    pub fn restart(&mut self, store: &ModelStore) {
        self.seen.clear();
        self.cancelled.clear();
        self.told = store.all().map(|it| it.seq).collect();
    }

    /// Settings changed, or a person asked for another try.
    pub fn reset(&mut self, destination: DestinationId) {
        let seen = self.seen.entry(destination).or_default();
        let in_flight = std::mem::take(&mut seen.in_flight);
        *seen = Seen { in_flight, ..Seen::default() };
    }

    pub fn in_flight(&self) -> usize {
        self.seen.values().map(|it| it.in_flight.len()).sum()
    }

    /// Every rule about the start of an attempt.
    pub fn check_start(
        &mut self,
        owed: &Owed,
        destination: Option<&Arc<Destination>>,
        store: &ModelStore,
        now: Timestamp,
    ) {
        self.attempts += 1;
        let stored = store.get(owed);
        assert_eq!(stored, Some(owed), "it is attempted, and is not owed so");
        assert!(owed.standing.due.is_none_or(|due| due <= now), "{owed:?} is not due");
        assert!(!self.cancelled.contains(&owed.seq), "{owed:?} goes on after it was cancelled");
        let destination = destination.expect("the destination is deleted");
        assert_eq!(destination.state, DestinationState::Active, "the destination is not active");
        let policy = &destination.policy;
        if let Some(after) = policy.expires_after {
            assert!(now < owed.accepted_at + after, "{owed:?} has expired");
        }
        self.check_lane(owed, store);

        let seen = self.seen.entry(owed.destination).or_default();
        assert!(!seen.in_flight.contains_key(&owed.seq), "{owed:?} is in flight already");
        seen.in_flight.insert(owed.seq, *owed);
        let concurrency = policy.concurrency.get() as usize;
        assert!(seen.in_flight.len() <= concurrency, "more than {concurrency} in flight");
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
            seen.since_opened.insert(owed.seq);
        }
    }

    /// Invariant 7: nothing of a lane goes before what stands ahead of it has ended.
    fn check_lane(&self, owed: &Owed, store: &ModelStore) {
        if owed.place.lane == Lane::NONE {
            return;
        }
        for other in store.lane(owed).filter(|it| it.seq != owed.seq) {
            assert_eq!(other.standing.attempts, 0, "{owed:?} goes, and {other:?} was sent before");
            let is_ahead = (other.place.position, other.seq) < (owed.place.position, owed.seq);
            if is_ahead && self.told.contains(&other.seq) && owed.standing.attempts == 0 {
                panic!("{owed:?} overtakes {other:?}");
            }
        }
        if let Some(seen) = self.seen.get(&owed.destination) {
            let is_in_lane = |it: &&Owed| it.place.lane == owed.place.lane;
            let other = seen.in_flight.values().find(is_in_lane);
            assert_eq!(other, None, "{owed:?} goes beside it");
        }
    }

    pub fn note_end(
        &mut self,
        owed: &Owed,
        outcome: &Outcome,
        destination: Option<&Arc<Destination>>,
        now: Timestamp,
    ) {
        let seen = self.seen.entry(owed.destination).or_default();
        seen.in_flight.remove(&owed.seq);
        let was_probe = seen.since_opened.remove(&owed.seq);
        let Some(destination) = destination else { return };
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
            let day = Duration::from_secs(24 * 60 * 60);
            let until = now + asked.clamp(Duration::from_secs(1), day);
            seen.asked_until = seen.asked_until.max(Some(until));
        }
    }
}
