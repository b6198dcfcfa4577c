//! The schedules that have a name: their numbers, and where they come from.

use std::time::Duration;

use crate::model::RetryPreset;

pub const MINUTE: u64 = 60;
pub const HOUR: u64 = 60 * MINUTE;

/// The numbers behind a name.
pub struct Schedule {
    /// Seconds.
    pub waits: &'static [u64],
    /// Whether the last wait is repeated until the delivery expires.
    pub repeats: bool,
    pub expires_after: Option<Duration>,
    /// After its event was accepted, it is retried for so long, however many waits are left.
    pub within: Option<Duration>,
    pub asked: RetryAfterRule,
}

/// What a `Retry-After` may do to the planned wait.
#[derive(Clone, Copy, PartialEq)]
pub enum RetryAfterRule {
    Lengthens,
    /// As Svix: at most to twice the wait, and at least a minute after 429 and timeouts.
    AtMostDoubles,
}

const fn listed(waits: &'static [u64]) -> Schedule {
    Schedule {
        waits,
        repeats: false,
        expires_after: None,
        within: None,
        asked: RetryAfterRule::Lengthens,
    }
}

/// Standard Webhooks' recommendation: ten attempts in about three days.
const STANDARD: Schedule = listed(&[
    5,
    5 * MINUTE,
    30 * MINUTE,
    2 * HOUR,
    5 * HOUR,
    10 * HOUR,
    14 * HOUR,
    20 * HOUR,
    24 * HOUR,
]);
/// Svix 1.100: eight attempts in about 28 hours.
const SVIX: Schedule = Schedule {
    asked: RetryAfterRule::AtMostDoubles,
    ..listed(&[5, 5 * MINUTE, 30 * MINUTE, 2 * HOUR, 5 * HOUR, 10 * HOUR, 10 * HOUR])
};
/// Shopify documents eight retries in four hours, without their waits: these add up to four hours.
const SHOPIFY: Schedule = listed(&[
    MINUTE,
    3 * MINUTE,
    6 * MINUTE,
    15 * MINUTE,
    30 * MINUTE,
    45 * MINUTE,
    60 * MINUTE,
    80 * MINUTE,
]);
/// Segment documents four hours, without their waits. These add up to that, and the last attempt is
/// brought forward to be within it. What is retried at all is `retry_on`'s business.
const SEGMENT: Schedule = Schedule {
    within: Some(Duration::from_secs(4 * HOUR)),
    ..listed(&[
        MINUTE,
        2 * MINUTE,
        4 * MINUTE,
        8 * MINUTE,
        16 * MINUTE,
        32 * MINUTE,
        60 * MINUTE,
        60 * MINUTE,
        57 * MINUTE,
    ])
};
/// Admin documents exponential backoff and a cache of 24 hours that is replayed by itself once the
/// endpoint is back. Only the head of its line is tried, so it is tried every five minutes in the
/// end, which is also the breaker's longest wait: that is how soon the line moves again.
const ADMIN: Schedule = Schedule {
    repeats: true,
    expires_after: Some(Duration::from_secs(24 * HOUR)),
    ..listed(&[5, 10, 20, 40, 80, 160, 5 * MINUTE])
};
/// Stripe documents up to three days, exponential, without its waits.
const STRIPE: Schedule = listed(&[
    5 * MINUTE,
    30 * MINUTE,
    2 * HOUR,
    5 * HOUR,
    10 * HOUR,
    12 * HOUR,
    12 * HOUR,
    12 * HOUR,
    12 * HOUR,
]);
const NEVER: Schedule = listed(&[]);

pub const fn schedule(preset: RetryPreset) -> &'static Schedule {
    match preset {
        RetryPreset::Standard => &STANDARD,
        RetryPreset::Svix => &SVIX,
        RetryPreset::Shopify4h => &SHOPIFY,
        RetryPreset::Segment4h => &SEGMENT,
        RetryPreset::Admin24h => &ADMIN,
        RetryPreset::Stripe3d => &STRIPE,
        RetryPreset::Never => &NEVER,
    }
}
