//! Why events did not go on, as people read it.

use super::plan::MOST_DELIVERIES;

/// How many branches did not go on, and why the first of them did not.
pub(super) struct Stopped {
    pub count: usize,
    pub of: usize,
    pub first: Option<String>,
}

impl Stopped {
    pub fn of(branches: usize) -> Self {
        Self { count: 0, of: branches, first: None }
    }

    pub fn add(&mut self, reason: impl FnOnce() -> String) {
        self.count += 1;
        let reason = reason();
        self.first.get_or_insert(reason);
    }
}

/// What people read when a condition does not hold.
pub(super) fn does_not_hold(source: &str) -> String {
    /// How much of the condition is repeated.
    const SHOWN: usize = 200;
    let shown: String = source.chars().take(SHOWN).collect();
    let more = if shown.len() < source.len() { "…" } else { "" };
    format!("`{shown}{more}` does not hold")
}

/// Why one more delivery is a dead letter from the start, when an event has so many; an error says why it is left
/// out altogether. Beyond what an event may have, as many are dead letters as can each be replayed once.
pub(super) fn of_limit(planned: usize) -> Result<Option<String>, String> {
    const MOST_PLANNED: usize = MOST_DELIVERIES + MOST_DELIVERIES / 2;
    if planned < MOST_DELIVERIES {
        return Ok(None);
    }
    metrics::counter!("tidegate_deliveries_over_limit_total").increment(1);
    if planned < MOST_PLANNED {
        Ok(Some(format!("an event has at most {MOST_DELIVERIES} deliveries: replay this one")))
    } else {
        Err(format!("an event has at most {MOST_PLANNED} deliveries, the dead included"))
    }
}
