//! What the dispatcher counts. The labels are few and fixed.

use std::{sync::Arc, time::Duration};

use jiff::SignedDuration;
use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};

use super::later;
use crate::{
    clock::Clock,
    model::{Class, DestinationId, Ended, EntryKind},
    store::{Next, Settlement, Store, StoreError},
};

/// Handles, looked up once: the hot path counts without searching a registry.
pub struct Meters {
    classes: [Counter; CLASSES.len()],
    states: [Counter; STATES.len()],
    attempt_seconds: Histogram,
    delivery_seconds: Histogram,
    pub in_flight: Gauge,
    pub held: Gauge,
}

const CLASSES: [(Class, &str); 12] = [
    (Class::Accepted, "accepted"),
    (Class::Status, "status"),
    (Class::Timeout, "timeout"),
    (Class::Dns, "dns"),
    (Class::Connect, "connect"),
    (Class::Tls, "tls"),
    (Class::Broken, "broken"),
    (Class::Denied, "denied"),
    (Class::Config, "config"),
    (Class::Gone, "gone"),
    (Class::Abort, "abort"),
    (Class::Unknown, "unknown"),
];
const STATES: [(Ended, &str); 4] = [
    (Ended::Delivered, "delivered"),
    (Ended::Dead, "dead"),
    (Ended::Expired, "expired"),
    (Ended::Cancelled, "cancelled"),
];

impl Meters {
    pub fn new() -> Self {
        Self {
            classes: CLASSES
                .map(|(_, class)| counter!("tidegate_attempts_total", "class" => class)),
            states: STATES
                .map(|(_, state)| counter!("tidegate_deliveries_total", "state" => state)),
            attempt_seconds: histogram!("tidegate_attempt_seconds"),
            delivery_seconds: histogram!("tidegate_delivery_seconds"),
            in_flight: gauge!("tidegate_in_flight"),
            held: gauge!("tidegate_deliveries_held"),
        }
    }

    pub fn count(&self, settlement: &Settlement) {
        if let EntryKind::Attempt { outcome, .. } = &settlement.entry.kind {
            if let Some(place) = CLASSES.iter().position(|(it, _)| *it == outcome.class) {
                self.classes[place].increment(1);
            }
            self.attempt_seconds.record(outcome.duration.as_secs_f64());
        }
        if let Next::Ended(ended) = settlement.next {
            if let Some(place) = STATES.iter().position(|(it, _)| *it == ended) {
                self.states[place].increment(1);
            }
            if ended == Ended::Delivered {
                let taken = settlement.entry.at.duration_since(settlement.owed.accepted_at);
                self.delivery_seconds.record(taken.as_secs_f64().max(0.0));
            }
        }
    }
}

/// Keeps the gauges of all that is owed to the destinations that `is_ours`, in memory or not. Runs until
/// the store is closed.
pub async fn watch_backlog(
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    is_ours: impl Fn(DestinationId) -> bool,
) {
    const EVERY: Duration = Duration::from_secs(15);
    /// Counting a long backlog takes a while: at most a fiftieth of the time is spent on it.
    const REST: u32 = 50;
    let owed = gauge!("tidegate_backlog");
    let age = gauge!("tidegate_oldest_pending_seconds");
    loop {
        let (before, begun) = (clock.now(), clock.steady());
        match store.backlog().await {
            Ok(mut backlog) => {
                backlog.retain(|it| is_ours(it.destination));
                owed.set(backlog.iter().map(|it| it.owed).sum::<u64>() as f64);
                let oldest = backlog.iter().map(|it| it.oldest).min();
                let since = oldest.map_or(SignedDuration::ZERO, |it| before.duration_since(it));
                age.set(since.as_secs_f64().max(0.0));
            }
            Err(StoreError::Closed) => return,
            // Whoever needs the store says so.
            Err(_) => (),
        }
        let took = clock.steady().duration_since(begun).unsigned_abs();
        clock.sleep_until(later(clock.now(), took.saturating_mul(REST).max(EVERY))).await;
    }
}
