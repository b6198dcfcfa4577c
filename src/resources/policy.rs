//! The policy of a destination, as people write it, and the limits of what it may say.

use std::{num::NonZeroU32, time::Duration};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{Invalid, Setting, Span};
use crate::{
    destinations::kind,
    model::{Batch, Breaker, Ordering, Policy, RateLimit, Retry, RetryOn},
};

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

/// When a destination of any kind is attempted. What is left out is as usual for the kind.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PolicySpec {
    /// Which deliveries wait for which: `none`, `fifo`, or `key: <expression>`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub ordering: Option<Ordering>,
    /// `preset: standard`, `waits: [5s, 5m]`, or `exponential: { base, factor, max, attempts }`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub retry: Option<Retry>,
    /// Which failures are tried again: `all`, `temporary` or `server_errors`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub retry_on: Option<RetryOn>,
    /// How long after its event was accepted a delivery may still be tried, or `false`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Value>, example = "24h")]
    pub expires_after: Option<Setting<Span>>,
    /// Several messages in one request, as a JSON array: `true`, `{ events, bytes, linger }`, or
    /// `false`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Value>)]
    pub batch: Option<Setting<Batch>>,
    /// Attempts in flight at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u32>)]
    pub concurrency: Option<NonZeroU32>,
    /// `{ events: 100, per: 1s }`, or `false`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Value>)]
    pub rate_limit: Option<Setting<RateLimit>>,
    /// One deadline over connect, TLS, headers and body of one attempt.
    #[serde(default, with = "humantime_serde::option", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, example = "15s")]
    pub timeout: Option<Duration>,
    /// For how long a `Retry-After` may hold up the whole destination.
    #[serde(default, with = "humantime_serde::option", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, example = "1h")]
    pub retry_after_at_most: Option<Duration>,
    /// When the endpoint is left alone for a while.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub breaker: Option<Breaker>,
}

impl PolicySpec {
    /// Every value of a policy.
    pub fn of(policy: &Policy) -> Self {
        let policy = policy.clone();
        Self {
            ordering: Some(policy.ordering),
            retry: Some(policy.retry),
            retry_on: Some(policy.retry_on),
            expires_after: Some(Setting::of(policy.expires_after.map(Span::from))),
            concurrency: Some(policy.concurrency),
            rate_limit: Some(Setting::of(policy.rate_limit)),
            timeout: Some(policy.timeout),
            retry_after_at_most: Some(policy.retry_after_at_most),
            breaker: Some(policy.breaker),
            batch: Some(Setting::of(policy.batch)),
        }
    }

    /// The fields as JSON.
    pub fn written(&self) -> Map<String, Value> {
        kind::written(self)
    }

    /// Without the values that are usual.
    pub(super) fn brief(mut self, usual: &Policy) -> Self {
        fn keep<T: PartialEq>(own: &mut Option<T>, usual: &Option<T>) {
            if own == usual {
                *own = None;
            }
        }
        let usual = Self::of(usual);
        keep(&mut self.retry_after_at_most, &usual.retry_after_at_most);
        keep(&mut self.ordering, &usual.ordering);
        keep(&mut self.retry, &usual.retry);
        keep(&mut self.retry_on, &usual.retry_on);
        keep(&mut self.expires_after, &usual.expires_after);
        keep(&mut self.concurrency, &usual.concurrency);
        keep(&mut self.rate_limit, &usual.rate_limit);
        keep(&mut self.timeout, &usual.timeout);
        keep(&mut self.breaker, &usual.breaker);
        keep(&mut self.batch, &usual.batch);
        self
    }

    pub(super) fn resolved(&self, usual: &Policy) -> Policy {
        let expires_after = self.expires_after.map(|it| match it {
            Setting::Off => Setting::Off,
            Setting::On(span) => Setting::On(span.into_inner()),
        });
        Policy {
            ordering: self.ordering.clone().unwrap_or_else(|| usual.ordering.clone()),
            retry: self.retry.clone().unwrap_or_else(|| usual.retry.clone()),
            retry_on: self.retry_on.unwrap_or(usual.retry_on),
            expires_after: resolved(expires_after, || usual.expires_after),
            concurrency: self.concurrency.unwrap_or(usual.concurrency),
            rate_limit: resolved(self.rate_limit, || usual.rate_limit),
            timeout: self.timeout.unwrap_or(usual.timeout),
            breaker: self.breaker.clone().unwrap_or_else(|| usual.breaker.clone()),
            retry_after_at_most: self.retry_after_at_most.unwrap_or(usual.retry_after_at_most),
            batch: resolved(self.batch, || usual.batch),
        }
    }
}

fn resolved<T>(given: Option<Setting<T>>, usual: impl FnOnce() -> Option<T>) -> Option<T> {
    given.map_or_else(usual, Setting::into_option)
}

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
