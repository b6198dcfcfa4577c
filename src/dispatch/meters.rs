//! What the dispatcher counts. The labels are few and fixed.

use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};

use crate::{
    model::{Class, Ended, EntryKind},
    store::{Next, Settlement},
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
