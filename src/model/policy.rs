//! How hard a destination is tried, in what order, and how fast. Data only: `dispatch` decides by it.

use std::{num::NonZeroU32, time::Duration};

use serde::{Deserialize, Serialize};

/// Every value can be set on the destination; what is not set has the default.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Policy {
    pub ordering: Ordering,
    pub retry: Retry,
    /// Which failures are tried again at all.
    pub retry_on: RetryOn,
    /// How long after its event was accepted a delivery may still be tried; then it expires.
    #[serde(with = "humantime_serde::option")]
    pub expires_after: Option<Duration>,
    /// Attempts in flight at once.
    pub concurrency: NonZeroU32,
    pub rate_limit: Option<RateLimit>,
    /// One deadline over connect, TLS, headers and body of one attempt.
    #[serde(with = "humantime_serde")]
    pub timeout: Duration,
    pub breaker: Breaker,
    /// For how long an endpoint may have the whole destination wait by a `Retry-After`.
    #[serde(with = "humantime_serde")]
    pub retry_after_at_most: Duration,
    /// Several messages in one request. `None`: each has a request of its own, and a body that is
    /// not a list.
    pub batch: Option<Batch>,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            ordering: Ordering::None,
            retry: Retry::default(),
            expires_after: None,
            concurrency: NonZeroU32::MIN.saturating_add(31),
            rate_limit: None,
            timeout: Duration::from_secs(15),
            breaker: Breaker::default(),
            retry_after_at_most: Duration::from_secs(60 * 60),
            batch: None,
            retry_on: RetryOn::default(),
        }
    }
}

/// Which deliveries wait for which.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ordering {
    /// Each on its own.
    #[default]
    None,
    /// One after the other, by event time.
    Fifo,
    /// One after the other among those for which the expression gives the same value.
    Key(String),
}

/// The waits between attempts: `{ preset: standard }`, `{ waits: [5s, 5m] }` or `{ exponential: … }`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Retry {
    Preset(RetryPreset),
    /// These waits, in order; ±20 % jitter.
    Waits(Vec<humantime_serde::Serde<Duration>>),
    Exponential(Exponential),
}

/// `base · factorⁿ`, at most `max`, with full jitter, until `attempts` are made or `within` is over.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Exponential {
    #[serde(with = "humantime_serde")]
    pub base: Duration,
    pub factor: f64,
    #[serde(with = "humantime_serde")]
    pub max: Duration,
    pub attempts: NonZeroU32,
    #[serde(default, with = "humantime_serde::option")]
    pub within: Option<Duration>,
}

impl Default for Retry {
    fn default() -> Self {
        Self::Preset(RetryPreset::Standard)
    }
}

/// Schedules with a name; `dispatch::retry` holds their numbers and where they come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RetryPreset {
    Standard,
    Svix,
    #[serde(rename = "shopify-4h")]
    Shopify4h,
    #[serde(rename = "segment-4h")]
    Segment4h,
    #[serde(rename = "admin-24h")]
    Admin24h,
    #[serde(rename = "stripe-3d")]
    Stripe3d,
    /// One attempt, and no other.
    Never,
}

/// Which failures are tried again. The others end a delivery as dead at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RetryOn {
    /// Everything that is not 2xx.
    #[default]
    All,
    /// No answer, 408, 423, 425, 429, and 5xx but for 501.
    Temporary,
    /// No answer (connection errors and timeouts) and 5xx.
    ServerErrors,
}

/// One request carries a JSON array of up to so many messages, also when it is only one. Whichever
/// bound is reached first sends it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Batch {
    /// At most 1000.
    pub events: NonZeroU32,
    /// Bytes of the messages' payloads, together.
    pub bytes: NonZeroU32,
    /// How long the first message may wait for others.
    #[serde(with = "humantime_serde")]
    pub linger: Duration,
}

impl Default for Batch {
    fn default() -> Self {
        Self {
            events: NonZeroU32::MIN.saturating_add(999),
            bytes: NonZeroU32::MIN.saturating_add((5 << 20) - 1),
            linger: Duration::from_secs(1),
        }
    }
}

/// At most `events` in any span of `per`, evened out: a token bucket that holds what comes in a
/// second, or a hundredth of `events` if that is less.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RateLimit {
    pub events: NonZeroU32,
    #[serde(with = "humantime_serde")]
    pub per: Duration,
}

/// When an endpoint is left alone for a while. Waiting behind an open breaker uses no attempt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Breaker {
    /// Opens after this many failures in a row.
    pub failures_in_a_row: NonZeroU32,
    /// … or when this share of the attempts of the last minute failed,
    pub failure_share: f64,
    /// of at least this many.
    pub attempts_at_least: NonZeroU32,
    /// The first wait; it doubles up to `open_at_most`.
    #[serde(with = "humantime_serde")]
    pub open_for: Duration,
    #[serde(with = "humantime_serde")]
    pub open_at_most: Duration,
}

impl Default for Breaker {
    fn default() -> Self {
        Self {
            failures_in_a_row: NonZeroU32::MIN.saturating_add(4),
            failure_share: 0.5,
            attempts_at_least: NonZeroU32::MIN.saturating_add(19),
            open_for: Duration::from_secs(5),
            open_at_most: Duration::from_secs(5 * 60),
        }
    }
}
