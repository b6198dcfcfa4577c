//! The limits of what a destination's policy may say.

use std::time::Duration;

use super::Invalid;
use crate::model::{Batch, Breaker, Policy, RateLimit, Retry};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// Attempts of one delivery. The activity log numbers up to 4095 entries.
const MOST_ATTEMPTS: usize = 4000;
const LONGEST_WAIT: Duration = Duration::from_secs(7 * 24 * 60 * 60);
const LONGEST_TIMEOUT: Duration = Duration::from_secs(5 * 60);
const SHORTEST_TIMEOUT: Duration = Duration::from_millis(10);
const LONGEST_EXPIRY: Duration = Duration::from_secs(366 * 24 * 60 * 60);
const MOST_CONCURRENT: u32 = 1000;
const MOST_IN_BATCH: u32 = 1000;
const LARGEST_BATCH: u32 = 16 << 20;
const LONGEST_LINGER: Duration = Duration::from_secs(5 * 60);

/// What is wrong with the numbers of a policy. Paths are those of the destination's fields.
pub(super) fn check(policy: &Policy) -> Vec<Invalid> {
    let mut wrong = Vec::new();
    check_retry(&policy.retry, &mut wrong);
    if let Some(limit) = &policy.rate_limit {
        check_rate_limit(limit, &mut wrong);
    }
    check_breaker(&policy.breaker, &mut wrong);
    if let Some(batch) = &policy.batch {
        check_batch(batch, &mut wrong);
    }
    let mut refuse = |path: &str, rule: &str, found: &str| {
        wrong.push(Invalid::new(path, rule, found));
    };
    if !(SHORTEST_TIMEOUT..=LONGEST_TIMEOUT).contains(&policy.timeout) {
        refuse("timeout", "must be 10ms to 5m", "another duration");
    }
    if policy.concurrency.get() > MOST_CONCURRENT {
        refuse("concurrency", "must be 1 to 1000", "a larger number");
    }
    if policy.expires_after.is_some_and(|it| it < Duration::from_secs(1) || it > LONGEST_EXPIRY) {
        refuse("expires_after", "must be 1s to 366d", "another duration");
    }
    wrong
}

fn check_retry(retry: &Retry, wrong: &mut Vec<Invalid>) {
    let mut refuse = |path: String, rule: &str, found: &str| {
        wrong.push(Invalid::new(path, rule, found));
    };
    match retry {
        Retry::Preset(_) => (),
        Retry::Waits(waits) => {
            if waits.len() >= MOST_ATTEMPTS {
                refuse("retry.waits".to_owned(), "must hold fewer than 4000 waits", "more");
            }
            for (place, wait) in waits.iter().enumerate() {
                if wait.into_inner() > LONGEST_WAIT {
                    refuse(format!("retry.waits[{place}]"), "must be at most 7d", "a longer wait");
                }
            }
        }
        Retry::Exponential(it) => {
            let path = |field: &str| format!("retry.exponential.{field}");
            if it.base.is_zero() || it.base > it.max {
                refuse(path("base"), "must be above zero and at most `max`", "another duration");
            }
            if it.max > LONGEST_WAIT {
                refuse(path("max"), "must be at most 7d", "a longer wait");
            }
            if !(1.0..=100.0).contains(&it.factor) {
                refuse(path("factor"), "must be 1 to 100", "another number");
            }
            if it.attempts.get() as usize > MOST_ATTEMPTS {
                refuse(path("attempts"), "must be 1 to 4000", "a larger number");
            }
            if it.within.is_some_and(|it| it.is_zero() || it > LONGEST_EXPIRY) {
                refuse(path("within"), "must be above zero and at most 366d", "another duration");
            }
        }
    }
}

fn check_rate_limit(limit: &RateLimit, wrong: &mut Vec<Invalid>) {
    if limit.per < Duration::from_millis(1) || limit.per > DAY {
        wrong.push(Invalid::new("rate_limit.per", "must be 1ms to 1d", "another duration"));
    }
}

fn check_batch(batch: &Batch, wrong: &mut Vec<Invalid>) {
    if batch.events.get() > MOST_IN_BATCH {
        wrong.push(Invalid::new("batch.events", "must be 1 to 1000", "a larger number"));
    }
    if batch.bytes.get() > LARGEST_BATCH {
        wrong.push(Invalid::new("batch.bytes", "must be 1 to 16777216", "a larger number"));
    }
    if batch.linger > LONGEST_LINGER {
        wrong.push(Invalid::new("batch.linger", "must be at most 5m", "a longer wait"));
    }
}

fn check_breaker(breaker: &Breaker, wrong: &mut Vec<Invalid>) {
    if !(breaker.failure_share > 0.0 && breaker.failure_share <= 1.0) {
        let rule = "must be above 0 and at most 1";
        wrong.push(Invalid::new("breaker.failure_share", rule, "another number"));
    }
    if breaker.open_for.is_zero() || breaker.open_for > breaker.open_at_most {
        let rule = "must be above zero and at most `open_at_most`";
        wrong.push(Invalid::new("breaker.open_for", rule, "another duration"));
    }
    if breaker.open_at_most > DAY {
        wrong.push(Invalid::new("breaker.open_at_most", "must be at most 1d", "a longer wait"));
    }
}
