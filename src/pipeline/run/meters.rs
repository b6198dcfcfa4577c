//! What planning counts.

use metrics::{Counter, Histogram, counter, histogram};

use super::in_flight::Sent;
use crate::model::Plan;

/// Handles, looked up once: the hot path counts without searching a registry.
pub(super) struct Meters {
    planned: Counter,
    filtered: Counter,
    failures: Counter,
    pub seconds: Histogram,
}

impl Meters {
    pub fn new() -> Self {
        Self {
            planned: counter!("tidegate_planned_total"),
            filtered: counter!("tidegate_filtered_total"),
            failures: counter!("tidegate_expression_failures_total"),
            seconds: histogram!("tidegate_pipeline_seconds"),
        }
    }

    pub fn count(&self, plans: &[(Plan, Sent)], failures: u64) {
        let deliveries = plans.iter().map(|it| it.0.deliveries.len() as u64).sum();
        let skipped = |plan: &Plan| plan.skipped.iter().filter(|it| !it.waits()).count() as u64;
        self.planned.increment(deliveries);
        self.filtered.increment(plans.iter().map(|it| skipped(&it.0)).sum());
        self.failures.increment(failures);
    }
}
