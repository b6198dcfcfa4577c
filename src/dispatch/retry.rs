//! What follows from an attempt, as a pure function.
//!
//! A schedule says how long to wait after each failed attempt; when it is used up, the delivery is
//! dead. Lists of waits have ±20 % jitter and exponential ones full jitter, so that deliveries that
//! failed together do not come back together. The jitter is a hash of the delivery and the attempt:
//! it is the same after a restart.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::{
    chance, earlier, later,
    schedules::{HOUR, MINUTE, RetryAfterRule, schedule},
};
use crate::model::{Class, Ended, Outcome, Owed, Policy, Retry, RetryOn, Standing};

/// An endpoint may not ask for less than this, nor for more than a day: the number is a stranger's.
const SHORTEST_ASKED: Duration = Duration::from_secs(1);
const LONGEST_ASKED: Duration = Duration::from_secs(24 * HOUR);
/// The last attempt before a delivery expires is made this long before.
const LAST_CALL: Duration = Duration::from_secs(5);
/// What a person must mend (a certificate, a denied address, a bad template) is not tried sooner.
const SLOW_TAIL: Duration = Duration::from_secs(30 * MINUTE);
/// The log of a delivery numbers its entries up to 4095, and its last one is kept for the end.
pub const MOST_ENTRIES: u16 = 4094;

pub const LOG_IS_FULL: &str = "its log is full";
const TIME_IS_OVER: &str = "the time for attempts is over";

/// What follows from an attempt.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RetryVerdict {
    /// Not before this time.
    Again(Timestamp),
    /// When its destination is enabled again.
    Held,
    /// With why, where the outcome alone does not say.
    Ended(Ended, &'static str),
}

/// When a delivery expires.
pub fn expires_at(policy: &Policy, accepted_at: Timestamp) -> Option<Timestamp> {
    let of_preset = match &policy.retry {
        Retry::Preset(preset) => schedule(*preset).expires_after,
        Retry::Waits(_) | Retry::Exponential(_) => None,
    };
    policy.expires_after.or(of_preset).map(|after| later(accepted_at, after))
}

/// When the last retry must have begun. The first attempt is made whenever it can be.
fn retried_until(policy: &Policy, accepted_at: Timestamp) -> Option<Timestamp> {
    let within = match &policy.retry {
        Retry::Preset(preset) => schedule(*preset).within,
        Retry::Waits(_) => None,
        Retry::Exponential(it) => it.within,
    };
    within.map(|within| later(accepted_at, within))
}

/// How a delivery that waited for its turn ends instead of being attempted `now`, and why. `None`:
/// it may go.
pub fn too_late(policy: &Policy, owed: &Owed, now: Timestamp) -> Option<(Ended, &'static str)> {
    let is_past = |end: Option<Timestamp>| end.is_some_and(|it| now >= it);
    if is_past(expires_at(policy, owed.accepted_at)) {
        Some((Ended::Expired, "its time was over"))
    } else if owed.standing.attempts > 0 && is_past(retried_until(policy, owed.accepted_at)) {
        Some((Ended::Dead, TIME_IS_OVER))
    } else {
        None
    }
}

/// How long the endpoint as a whole is to be left alone after this answer.
pub fn asked_pause(policy: &Policy, outcome: &Outcome) -> Option<Duration> {
    let is_about_the_endpoint = matches!(outcome.status, Some(429 | 503));
    outcome
        .retry_after
        .filter(|_| is_about_the_endpoint && outcome.class == Class::Status)
        .map(|asked| asked.clamp(SHORTEST_ASKED, policy.retry_after_at_most.max(SHORTEST_ASKED)))
}

/// When a delivery that failed may go, by the due time that the store has for it: a moment of the wall
/// clock, which may have been set back since, by `set_back` as far as that is known. No delivery waits for longer
/// than its schedule lets it wait.
pub fn bounded(
    policy: &Policy,
    owed: &Owed,
    due: Timestamp,
    now: Timestamp,
    set_back: SignedDuration,
) -> Timestamp {
    if due <= now {
        return due;
    }
    let standing = Standing { attempts: owed.standing.attempts.saturating_sub(1), ..owed.standing };
    let planned = wait(&policy.retry, &Owed { standing, ..*owed }).unwrap_or_default();
    // Later than planned: the endpoint asked for more time, or the clock was ahead.
    let due = if due > later(now, planned) { earlier(due, set_back) } else { due };
    let longest = (longest(&policy.retry) * 2).max(LONGEST_ASKED);
    if due > later(now, longest) { now } else { due.max(now) }
}

/// Whether the answer may be about one message of several in a request, and not about the endpoint,
/// who may speak to it, or how much.
pub fn is_about_content(outcome: &Outcome) -> bool {
    const OTHERWISE: [u16; 11] = [401, 402, 403, 404, 405, 407, 408, 410, 423, 425, 429];
    let status = outcome.status.unwrap_or_default();
    match outcome.class {
        Class::Abort => true,
        Class::Status => (400..500).contains(&status) && !OTHERWISE.contains(&status),
        Class::Accepted | Class::Gone | Class::Timeout | Class::Dns | Class::Connect => false,
        Class::Tls | Class::Broken | Class::Denied | Class::Config | Class::Unknown => false,
    }
}

/// What follows from an attempt that ended `now`. `owed` is the delivery as it stood before.
pub fn next(policy: &Policy, owed: &Owed, outcome: &Outcome, now: Timestamp) -> RetryVerdict {
    match outcome.class {
        Class::Accepted => return RetryVerdict::Ended(Ended::Delivered, ""),
        Class::Gone => return RetryVerdict::Held,
        // The reason of the outcome says it already.
        Class::Abort => return RetryVerdict::Ended(Ended::Dead, ""),
        Class::Status
        | Class::Timeout
        | Class::Dns
        | Class::Connect
        | Class::Tls
        | Class::Broken
        | Class::Denied
        | Class::Config
        | Class::Unknown => (),
    }
    if !is_retried(policy.retry_on, outcome) {
        return RetryVerdict::Ended(Ended::Dead, "this is not retried");
    }
    if owed.standing.entries >= MOST_ENTRIES {
        return RetryVerdict::Ended(Ended::Dead, LOG_IS_FULL);
    }
    let Some(planned) = wait(&policy.retry, owed) else {
        return RetryVerdict::Ended(Ended::Dead, "no attempt is left");
    };
    let mut due = later(now, stretch(planned, &policy.retry, outcome));
    if let Some(end) = retried_until(policy, owed.accepted_at)
        && due > end
    {
        due = end.checked_sub(LAST_CALL).unwrap_or(end);
        if due < later(now, SHORTEST_ASKED) {
            return RetryVerdict::Ended(Ended::Dead, TIME_IS_OVER);
        }
    }
    if let Some(end) = expires_at(policy, owed.accepted_at)
        && due >= end
    {
        due = end.checked_sub(LAST_CALL).unwrap_or(end);
        if due < later(now, SHORTEST_ASKED) {
            return RetryVerdict::Ended(Ended::Expired, "it expires before another attempt");
        }
    }
    RetryVerdict::Again(due)
}

/// Nothing was sent where the certificate or the address did not hold; that is neither a time-out nor
/// a broken connection, so only [`RetryOn::All`] tries it again.
fn is_retried(retry_on: RetryOn, outcome: &Outcome) -> bool {
    let is_answered = match outcome.class {
        Class::Status => true,
        Class::Timeout | Class::Dns | Class::Connect | Class::Broken | Class::Unknown => false,
        Class::Accepted | Class::Tls | Class::Denied => return retry_on == RetryOn::All,
        Class::Config | Class::Gone | Class::Abort => return retry_on == RetryOn::All,
    };
    let status = outcome.status.unwrap_or(500);
    match retry_on {
        RetryOn::All => true,
        RetryOn::Temporary => {
            let is_temporary = matches!(status, 408 | 423 | 425 | 429 | 500.. if status != 501);
            !is_answered || is_temporary
        }
        RetryOn::ServerErrors => !is_answered || status >= 500,
    }
}

/// The planned wait after the attempt that follows `owed`, with its jitter; `None` when that was the last.
fn wait(retry: &Retry, owed: &Owed) -> Option<Duration> {
    let failed_before = usize::from(owed.standing.attempts);
    let chance = chance(owed.seq.bits(), u64::from(owed.standing.attempts), 1);
    let around = |wait: Duration| wait.mul_f64(0.8 + 0.4 * chance);
    match retry {
        Retry::Preset(preset) => {
            let schedule = schedule(*preset);
            let index = match schedule.repeats {
                true => failed_before.min(schedule.waits.len().saturating_sub(1)),
                false => failed_before,
            };
            schedule.waits.get(index).map(|&it| around(Duration::from_secs(it)))
        }
        Retry::Waits(waits) => waits.get(failed_before).map(|&it| around(it.into_inner())),
        Retry::Exponential(it) => {
            let made = u32::from(owed.standing.attempts) + 1;
            let grown = it.base.as_secs_f64() * it.factor.max(1.0).powf(f64::from(made - 1));
            let whole = grown.min(it.max.as_secs_f64()).clamp(0.0, 1e9);
            (made < it.attempts.get()).then(|| Duration::from_secs_f64(whole * chance))
        }
    }
}

/// The wait with what the outcome asks for.
fn stretch(planned: Duration, retry: &Retry, outcome: &Outcome) -> Duration {
    let asked = match retry {
        Retry::Preset(preset) => schedule(*preset).asked,
        Retry::Waits(_) | Retry::Exponential(_) => RetryAfterRule::Lengthens,
    };
    let is_for_people = matches!(outcome.class, Class::Tls | Class::Denied | Class::Config);
    let wait = match is_for_people {
        true => planned.max(SLOW_TAIL.min(longest(retry))),
        false => planned,
    };
    match asked {
        RetryAfterRule::Lengthens => {
            outcome.retry_after.map_or(wait, |it| wait.max(it.clamp(SHORTEST_ASKED, LONGEST_ASKED)))
        }
        RetryAfterRule::AtMostDoubles => {
            let is_busy = outcome.status == Some(429) || outcome.class == Class::Timeout;
            let wait = if is_busy { wait.max(Duration::from_secs(MINUTE)) } else { wait };
            outcome.retry_after.map_or(wait, |it| it.clamp(wait, wait * 2))
        }
    }
}

fn longest(retry: &Retry) -> Duration {
    match retry {
        Retry::Preset(preset) => {
            Duration::from_secs(schedule(*preset).waits.iter().copied().max().unwrap_or(0))
        }
        Retry::Waits(waits) => waits.iter().map(|it| it.into_inner()).max().unwrap_or_default(),
        Retry::Exponential(it) => it.max,
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::*;
    use crate::model::{
        DeliverySeq, DestinationId, EventSeq, Exponential, Lane, Place, RetryPreset,
    };

    fn outcome(class: Class, status: Option<u16>, retry_after: Option<u64>) -> Outcome {
        Outcome {
            class,
            status,
            reason: "a reason".to_owned(),
            retry_after: retry_after.map(Duration::from_secs),
            duration: Duration::ZERO,
            response: None,
        }
    }

    fn owed(attempts: u16) -> Owed {
        Owed {
            seq: DeliverySeq::new(EventSeq(7), 0),
            destination: DestinationId::from_bits(1),
            place: Place { lane: Lane::NONE, position: 0 },
            accepted_at: Timestamp::UNIX_EPOCH,
            standing: Standing { attempts, entries: attempts, due: None },
        }
    }

    fn preset(preset: RetryPreset) -> Policy {
        Policy { retry: Retry::Preset(preset), ..Policy::default() }
    }

    /// The verdict on attempt `number`, made when the event was accepted; waits in seconds, each
    /// `±` its jitter.
    #[track_caller]
    fn check(policy: &Policy, number: u16, outcome: &Outcome, expected: &str) {
        let actual = match next(policy, &owed(number - 1), outcome, Timestamp::UNIX_EPOCH) {
            RetryVerdict::Again(due) => {
                let seconds = due.duration_since(Timestamp::UNIX_EPOCH).as_secs_f64();
                let bounds = expected.strip_prefix("in ").and_then(|it| it.split_once(".."));
                let Some((low, high)) = bounds else { panic!("in {seconds} s, not {expected}") };
                let is_within =
                    low.parse::<f64>().unwrap() <= seconds && seconds <= high.parse().unwrap();
                assert!(is_within, "in {seconds} s, not {expected}");
                return;
            }
            RetryVerdict::Held => "held".to_owned(),
            RetryVerdict::Ended(ended, reason) => format!("{ended:?}: {reason}"),
        };
        assert_eq!(actual, expected);
    }

    #[test]
    fn waits_are_used_in_order_and_then_the_delivery_is_dead() {
        let (standard, failed) =
            (preset(RetryPreset::Standard), outcome(Class::Status, Some(500), None));
        check(&standard, 1, &failed, "in 4..6");
        check(&standard, 2, &failed, "in 240..360");
        check(&standard, 9, &failed, "in 69120..103680");
        check(&standard, 10, &failed, "Dead: no attempt is left");
        check(&preset(RetryPreset::Never), 1, &failed, "Dead: no attempt is left");
        check(&preset(RetryPreset::Admin24h), 30, &failed, "in 240..360");
    }

    #[test]
    fn the_schedules_last_as_long_as_their_names_say() {
        for (preset, hours) in [
            (RetryPreset::Standard, 75.0..76.0),
            (RetryPreset::Svix, 27.0..28.0),
            (RetryPreset::Shopify4h, 4.0..4.01),
            (RetryPreset::Segment4h, 4.0..4.01),
            (RetryPreset::Stripe3d, 60.0..72.0),
        ] {
            let total = schedule(preset).waits.iter().sum::<u64>() as f64 / HOUR as f64;
            assert!(hours.contains(&total), "{preset:?}: {total} h");
        }
    }

    #[test]
    fn an_endpoint_may_ask_for_more_time_but_not_for_less_nor_for_ever() {
        let asks = |seconds| outcome(Class::Status, Some(503), Some(seconds));
        let standard = preset(RetryPreset::Standard);
        check(&standard, 1, &asks(30), "in 30..30");
        check(&standard, 1, &asks(0), "in 4..6");
        check(&standard, 1, &asks(u64::MAX), "in 86400..86400");
        for (asked, paused) in [(0, 1), (30, 30), (7_200, 3_600)] {
            assert_eq!(asked_pause(&standard, &asks(asked)), Some(Duration::from_secs(paused)));
        }
        let svix = preset(RetryPreset::Svix);
        check(&svix, 2, &asks(u64::MAX), "in 480..720");
        check(&svix, 1, &outcome(Class::Status, Some(429), None), "in 60..60");
    }

    #[test]
    fn a_due_time_that_a_wrong_clock_wrote_is_bounded_by_its_schedule() {
        let (standard, now) = (preset(RetryPreset::Standard), Timestamp::UNIX_EPOCH);
        let seconds = SignedDuration::from_secs;
        for (attempts, due, set_back, expected) in [
            // Past, and as planned: as it is.
            (1, -5, 0, -5),
            (1, 4, 3_600, 4),
            // Of an hour ahead.
            (1, 3_605, 3_600, 5),
            (1, 3_000, 3_600, 0),
            // The endpoint asked for that much, as far as anybody knows.
            (1, 3_605, 0, 3_605),
            // No schedule has a wait of a month.
            (1, 30 * 86_400, 0, 0),
        ] {
            let due =
                bounded(&standard, &owed(attempts), now + seconds(due), now, seconds(set_back));
            assert_eq!(due, now + seconds(expected), "{attempts} {expected}");
        }
    }

    #[test]
    fn some_outcomes_end_a_delivery_at_once_and_some_wait_for_people() {
        let standard = preset(RetryPreset::Standard);
        check(&standard, 1, &outcome(Class::Accepted, Some(204), None), "Delivered: ");
        check(&standard, 1, &outcome(Class::Gone, Some(410), None), "held");
        check(&standard, 1, &outcome(Class::Abort, Some(500), None), "Dead: ");
        check(&standard, 1, &outcome(Class::Tls, None, None), "in 1800..1800");
        check(&standard, 1, &outcome(Class::Status, Some(400), None), "in 4..6");
    }

    #[test]
    fn failures_without_retry_are_dead_at_once() {
        let answers = [
            (Class::Status, Some(301), [true, false, false]),
            (Class::Status, Some(400), [true, false, false]),
            (Class::Status, Some(408), [true, true, false]),
            (Class::Status, Some(423), [true, true, false]),
            (Class::Status, Some(425), [true, true, false]),
            (Class::Status, Some(429), [true, true, false]),
            (Class::Status, Some(500), [true, true, true]),
            (Class::Status, Some(501), [true, false, true]),
            (Class::Status, Some(503), [true, true, true]),
            (Class::Status, Some(599), [true, true, true]),
            (Class::Timeout, None, [true, true, true]),
            (Class::Connect, None, [true, true, true]),
            (Class::Dns, None, [true, true, true]),
            (Class::Broken, None, [true, true, true]),
            (Class::Tls, None, [true, false, false]),
            (Class::Denied, None, [true, false, false]),
            (Class::Config, None, [true, false, false]),
        ];
        for (class, status, expected) in answers {
            let kinds = [RetryOn::All, RetryOn::Temporary, RetryOn::ServerErrors];
            for (retry_on, expected) in kinds.into_iter().zip(expected) {
                let policy = Policy { retry_on, ..Policy::default() };
                let verdict =
                    next(&policy, &owed(0), &outcome(class, status, None), Timestamp::UNIX_EPOCH);
                let is_retried = matches!(verdict, RetryVerdict::Again(_));
                assert_eq!(is_retried, expected, "{class:?} {status:?} with {retry_on:?}");
                if !is_retried {
                    assert_eq!(verdict, RetryVerdict::Ended(Ended::Dead, "this is not retried"));
                }
            }
        }
    }

    #[test]
    fn segments_last_attempt_is_within_four_hours_of_the_events_acceptance() {
        let (policy, accepted_at) = (preset(RetryPreset::Segment4h), Timestamp::UNIX_EPOCH);
        let failed = outcome(Class::Timeout, None, None);
        for event in 1..200 {
            let mut owed = Owed { seq: DeliverySeq::new(EventSeq(event), 0), ..owed(0) };
            let mut now = accepted_at;
            // Every attempt takes its five seconds.
            while let RetryVerdict::Again(due) =
                next(&policy, &owed, &failed, later(now, SECONDS_5))
            {
                now = due;
                owed.standing.attempts += 1;
                assert_eq!(too_late(&policy, &owed, now), None);
            }
            let hours = now.duration_since(accepted_at).as_secs_f64() / HOUR as f64;
            assert!((3.0..4.0).contains(&hours), "{hours} h after {}", owed.standing.attempts);
        }
        // Whatever held it back: a retry is not made later, a first attempt is.
        let late = later(accepted_at, Duration::from_secs(5 * HOUR));
        assert_eq!(too_late(&policy, &owed(1), late), Some((Ended::Dead, TIME_IS_OVER)));
        assert_eq!(too_late(&policy, &owed(0), late), None);
    }

    const SECONDS_5: Duration = Duration::from_secs(5);

    #[test]
    fn the_last_attempt_comes_shortly_before_the_delivery_expires() {
        let policy = Policy { expires_after: Some(Duration::from_secs(100)), ..Policy::default() };
        let failed = outcome(Class::Timeout, None, None);
        check(&policy, 2, &failed, "in 95..95");
        let policy = Policy { expires_after: Some(Duration::from_secs(5)), ..Policy::default() };
        check(&policy, 2, &failed, "Expired: it expires before another attempt");
    }

    #[test]
    fn exponential_waits_have_full_jitter_and_both_bounds() {
        let exponential = Exponential {
            base: Duration::from_secs(10),
            factor: 2.0,
            max: Duration::from_secs(30),
            attempts: NonZeroU32::new(5).unwrap(),
            within: None,
        };
        let retry = Retry::Exponential(exponential.clone());
        let policy = Policy { retry, ..Policy::default() };
        let failed = outcome(Class::Timeout, None, None);
        check(&policy, 1, &failed, "in 0..10");
        check(&policy, 4, &failed, "in 0..30");
        check(&policy, 5, &failed, "Dead: no attempt is left");
        let within = Exponential { within: Some(Duration::ZERO), ..exponential };
        let policy = Policy { retry: Retry::Exponential(within), ..Policy::default() };
        check(&policy, 1, &failed, "Dead: the time for attempts is over");
    }
}
