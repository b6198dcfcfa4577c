//! The rate limit of one destination: a token bucket, kept as one moment in time.

use jiff::{SignedDuration, Timestamp};

use crate::model::RateLimit;

/// Holds to "at most `events` in any span of `per`", also across a burst.
///
/// A bucket that holds `b` tokens and fills at the full rate would let `events + b - 1` through in
/// some span. So it fills a little slower, by what it holds: at most a hundredth of the rate.
#[derive(Clone, Debug)]
pub struct Bucket {
    /// Between two tokens.
    interval: i128,
    /// How far ahead of its time a token may be taken: all tokens of a full bucket but the first.
    slack: i128,
    /// When the bucket would be full again, in nanoseconds since 1970.
    full_at: i128,
}

impl Bucket {
    pub fn new(limit: &RateLimit) -> Self {
        const SECOND: i128 = 1_000_000_000;
        let events = i128::from(limit.events.get());
        let per = (limit.per.as_nanos() as i128).max(1);
        let holds = (events * SECOND / per).min(events / 100).max(1);
        // Rounded up, so that rounding never lets one more through.
        let interval = (per + events - holds) / (events - holds + 1);
        Self { interval, slack: interval * (holds - 1), full_at: i64::MIN.into() }
    }

    /// When the next token can be taken; now or earlier means at once.
    pub fn next(&mut self, now: Timestamp) -> Timestamp {
        let now = now.as_nanosecond();
        // Only a clock that stepped back finds the bucket emptier than it can be.
        self.full_at = self.full_at.min(now + self.slack + self.interval);
        let nanoseconds = (self.full_at - self.slack).max(now);
        Timestamp::from_nanosecond(nanoseconds).unwrap_or(Timestamp::MAX)
    }

    /// The clock was set back by so much.
    pub fn set_back(&mut self, by: SignedDuration) {
        self.full_at -= by.as_nanos();
    }

    pub fn take(&mut self, now: Timestamp) {
        self.full_at = self.full_at.max(now.as_nanosecond()) + self.interval;
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::VecDeque, num::NonZeroU32, time::Duration};

    use super::*;

    /// Takes as fast as it may and looks at every span.
    #[track_caller]
    fn check(events: u32, per: Duration, at_least: usize) {
        let limit = RateLimit { events: NonZeroU32::new(events).unwrap(), per };
        let mut bucket = Bucket::new(&limit);
        let (mut now, mut taken, mut span) = (Timestamp::UNIX_EPOCH, 0, VecDeque::new());
        let end = now + per * 10;
        while now < end {
            let next = bucket.next(now);
            if next > now {
                now = next;
                continue;
            }
            bucket.take(now);
            taken += 1;
            span.push_back(now);
            while span.front().is_some_and(|&first| now.duration_since(first).unsigned_abs() >= per)
            {
                span.pop_front();
            }
            assert!(span.len() <= events as usize, "{} within {per:?}", span.len());
        }
        assert!(taken >= at_least, "only {taken} in ten spans");
    }

    #[test]
    fn no_span_holds_more_than_the_limit_and_the_rate_is_used() {
        check(1, Duration::from_secs(1), 10);
        check(10, Duration::from_secs(1), 100);
        check(3, Duration::from_secs(60), 30);
        check(6_000, Duration::from_secs(60), 59_000);
        check(10_000, Duration::from_secs(1), 99_000);
        check(7, Duration::from_millis(1), 69);
    }

    #[test]
    fn a_clock_that_steps_back_does_not_stop_it() {
        let limit = RateLimit { events: NonZeroU32::MIN, per: Duration::from_secs(60) };
        let mut bucket = Bucket::new(&limit);
        let late = Timestamp::from_second(100_000).unwrap();
        bucket.take(late);
        let early = Timestamp::from_second(10).unwrap();
        assert_eq!(bucket.next(early).as_second(), 70);
    }
}
