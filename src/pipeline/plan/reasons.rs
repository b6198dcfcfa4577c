//! Why events did not go on, as people read it.

use super::types::{Branches, MOST_DELIVERIES};
use crate::expr::Facts;

/// With those that are dead letters from the start.
const MOST_PLANNED: usize = MOST_DELIVERIES + MOST_DELIVERIES / 2;

/// How many branches did not go on, and why the first of them did not.
pub(in crate::pipeline) struct StopReasons {
    pub count: usize,
    pub of: usize,
    pub first: Option<String>,
}

impl StopReasons {
    pub fn of(branches: usize) -> Self {
        Self { count: 0, of: branches, first: None }
    }

    pub fn add(&mut self, reason: impl FnOnce() -> String) {
        self.count += 1;
        let reason = reason();
        self.first.get_or_insert(reason);
    }
}

/// Why one more delivery is a dead letter from the start, when an event has so many; an error says why it is left
/// out altogether. Beyond what an event may have, as many are dead letters as can each be replayed once.
pub(in crate::pipeline) fn of_limit(
    planned: usize,
    facts: Option<&Facts>,
) -> Result<Option<String>, String> {
    if planned < MOST_DELIVERIES {
        return Ok(None);
    }
    // What is dead already was counted when that was found.
    if facts.and_then(Facts::doom).is_none() {
        count(1);
    }
    if planned < MOST_PLANNED {
        Ok(Some(format!("an event has at most {MOST_DELIVERIES} deliveries: replay this one")))
    } else {
        Err(format!("an event has at most {MOST_PLANNED} deliveries, the dead included"))
    }
}

/// Whether a step has made more parts of an event than it may become, with those that wait unseen behind them: they
/// are left out, which is said and counted.
pub(in crate::pipeline) fn cut(
    parts: &mut Branches,
    unseen: usize,
    stopped: &mut StopReasons,
) -> bool {
    let Some(over) = parts.len().checked_sub(MOST_PLANNED).filter(|it| *it > 0) else {
        return false;
    };
    count(over + unseen);
    parts.truncate(MOST_PLANNED);
    stopped.add(|| format!("an event becomes at most {MOST_PLANNED} parts, the dead included"));
    true
}

/// Parts beyond what an event may become go on as they are, and each of their deliveries is a dead letter.
pub(in crate::pipeline) fn doom_rest(parts: &mut Branches) {
    for part in parts.iter_mut().skip(MOST_DELIVERIES).flatten() {
        if part.doom().is_none() {
            count(1);
            let most = MOST_DELIVERIES;
            *part = part.doomed(&format!("an event becomes at most {most} parts: replay this one"));
        }
    }
}

fn count(over: usize) {
    metrics::counter!("tidegate_deliveries_over_limit_total").increment(over as u64);
}
