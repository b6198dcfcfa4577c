//! Leaves an endpoint alone for a while when it fails, and comes back to it gently.
//!
//! Closed → open → half-open, with one real delivery as the probe → slow start, in which as many
//! are in flight as were accepted before, doubling up to the cap → closed.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::{chance, earlier, later};
use crate::model::{Breaker as Policy, DeliverySeq};

#[derive(Clone, Debug)]
pub struct Breaker {
    state: State,
    /// Failures since the last success.
    in_a_row: u32,
    /// Attempts and failures of the last minute.
    minute: Minute,
    /// Times in a row that it opened; each doubles the wait.
    opened: u32,
    /// Sets the jitter of this endpoint apart from others'.
    salt: u64,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum State {
    Closed,
    Open {
        until: Timestamp,
    },
    /// The probe may go (`None`), or is under way.
    HalfOpen {
        probe: Option<DeliverySeq>,
    },
    SlowStart {
        limit: u32,
        accepted: u32,
    },
}

/// What the breaker allows at a moment.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Allows {
    /// So many in flight at once.
    UpTo(u32),
    NothingBefore(Timestamp),
}

impl Breaker {
    pub fn new(salt: u64) -> Self {
        Self { state: State::Closed, in_a_row: 0, minute: Minute::default(), opened: 0, salt }
    }

    pub fn state(&self) -> State {
        self.state
    }

    /// Much may wait, and nothing is known of the endpoint: as after a failure.
    pub fn start_slowly(&mut self) {
        if self.state == State::Closed {
            self.state = State::SlowStart { limit: 1, accepted: 0 };
        }
    }

    /// The clock was set back by so much.
    pub fn set_back(&mut self, by: SignedDuration) {
        if let State::Open { until } = &mut self.state {
            *until = earlier(*until, by);
        }
    }

    pub fn allows(&mut self, now: Timestamp) -> Allows {
        if let State::Open { until } = self.state {
            if now < until {
                return Allows::NothingBefore(until);
            }
            self.state = State::HalfOpen { probe: None };
        }
        match self.state {
            State::Closed | State::Open { .. } => Allows::UpTo(u32::MAX),
            // Attempts from before it opened may still be in flight beside the probe.
            State::HalfOpen { probe: None } => Allows::UpTo(u32::MAX),
            State::HalfOpen { probe: Some(_) } => Allows::UpTo(0),
            State::SlowStart { limit, .. } => Allows::UpTo(limit),
        }
    }

    pub fn started(&mut self, delivery: DeliverySeq) {
        if self.state == (State::HalfOpen { probe: None }) {
            self.state = State::HalfOpen { probe: Some(delivery) };
        }
    }

    /// An attempt ended that says nothing about the endpoint.
    pub fn ended_without_verdict(&mut self, delivery: DeliverySeq) {
        if self.state == (State::HalfOpen { probe: Some(delivery) }) {
            self.state = State::HalfOpen { probe: None };
        }
    }

    pub fn succeeded(&mut self, delivery: DeliverySeq, cap: u32, now: Timestamp) {
        self.in_a_row = 0;
        match &mut self.state {
            State::Closed => self.minute.add(now, false),
            // It started before the endpoint was left alone: the probe will tell.
            State::Open { .. } => (),
            State::HalfOpen { probe } => {
                if *probe == Some(delivery) {
                    self.minute = Minute::default();
                    self.state = State::SlowStart { limit: 1, accepted: 0 };
                    self.grow(cap);
                }
            }
            State::SlowStart { .. } => {
                self.minute.add(now, false);
                self.grow(cap);
            }
        }
    }

    pub fn failed(&mut self, policy: &Policy, delivery: DeliverySeq, now: Timestamp) {
        self.in_a_row = self.in_a_row.saturating_add(1);
        match &mut self.state {
            State::Closed => self.minute.add(now, true),
            State::SlowStart { limit, accepted } => {
                (*limit, *accepted) = ((*limit / 2).max(1), 0);
                self.minute.add(now, true);
            }
            State::Open { .. } => return,
            State::HalfOpen { probe } => {
                if *probe == Some(delivery) {
                    self.open(policy, now);
                }
                return;
            }
        }
        let (attempts, failures) = self.minute.sum(now);
        let too_many = attempts >= policy.attempts_at_least.get()
            && f64::from(failures) >= policy.failure_share * f64::from(attempts);
        if self.in_a_row >= policy.failures_in_a_row.get() || too_many {
            self.open(policy, now);
        }
    }

    fn open(&mut self, policy: &Policy, now: Timestamp) {
        let doubled = policy.open_for.saturating_mul(1 << self.opened.min(20));
        let wait = doubled.min(policy.open_at_most);
        let jitter = 0.8 + 0.4 * chance(self.salt, u64::from(self.opened), 0);
        self.opened = self.opened.saturating_add(1);
        self.state = State::Open { until: later(now, wait.mul_f64(jitter)) };
    }

    fn grow(&mut self, cap: u32) {
        if let State::SlowStart { limit, accepted } = &mut self.state {
            *accepted += 1;
            if *accepted >= *limit {
                (*limit, *accepted) = (limit.saturating_mul(2), 0);
            }
            if *limit >= cap {
                self.state = State::Closed;
                self.opened = 0;
            }
        }
    }
}

/// Counts over the last minute, in six parts.
#[derive(Clone, Debug, Default)]
struct Minute {
    /// Of the newest part, in tens of seconds since 1970.
    newest: i64,
    parts: [(u32, u32); 6],
}

impl Minute {
    const PART: Duration = Duration::from_secs(10);

    fn turn_to(&mut self, now: Timestamp) {
        let current = now.as_second() / Self::PART.as_secs() as i64;
        let passed = current.saturating_sub(self.newest).clamp(0, 6);
        for _ in 0..passed {
            self.parts.rotate_right(1);
            self.parts[0] = (0, 0);
        }
        self.newest = current;
    }

    fn add(&mut self, now: Timestamp, failed: bool) {
        self.turn_to(now);
        self.parts[0].0 += 1;
        self.parts[0].1 += u32::from(failed);
    }

    fn sum(&mut self, now: Timestamp) -> (u32, u32) {
        self.turn_to(now);
        self.parts.iter().fold((0, 0), |sum, part| (sum.0 + part.0, sum.1 + part.1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CAP: u32 = 8;

    fn seq(number: u64) -> DeliverySeq {
        DeliverySeq::from_bits(number)
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_000_000 + second).unwrap()
    }

    /// A breaker that five failures at second 0 opened, and when it lets a probe through.
    fn opened() -> (Breaker, Timestamp) {
        let mut breaker = Breaker::new(1);
        for number in 0..5 {
            assert_eq!(breaker.allows(at(0)), Allows::UpTo(u32::MAX));
            breaker.failed(&Policy::default(), seq(number), at(0));
        }
        let Allows::NothingBefore(until) = breaker.allows(at(0)) else { panic!("still closed") };
        (breaker, until)
    }

    #[test]
    fn five_failures_in_a_row_open_it_for_about_five_seconds() {
        let (_, until) = opened();
        assert!((at(4)..=at(6)).contains(&until), "{until}");
    }

    #[test]
    fn half_of_a_minutes_attempts_failing_opens_it_and_less_does_not() {
        let mut breaker = Breaker::new(1);
        for number in 0..60 {
            breaker.succeeded(seq(number), CAP, at(0));
            breaker.succeeded(seq(number), CAP, at(0));
            breaker.failed(&Policy::default(), seq(number), at(0));
        }
        assert_eq!(breaker.state(), State::Closed);
        for number in 0..60 {
            breaker.succeeded(seq(number), CAP, at(100));
            breaker.failed(&Policy::default(), seq(number), at(100));
        }
        assert!(matches!(breaker.state(), State::Open { .. }));
    }

    #[test]
    fn one_probe_goes_and_its_failure_doubles_the_wait() {
        let (mut breaker, until) = opened();
        assert_eq!(breaker.allows(until), Allows::UpTo(u32::MAX));
        breaker.started(seq(9));
        assert_eq!(breaker.allows(until), Allows::UpTo(0));
        // One from before it opened says nothing now.
        breaker.failed(&Policy::default(), seq(8), until);
        assert_eq!(breaker.allows(until), Allows::UpTo(0));
        breaker.failed(&Policy::default(), seq(9), until);
        let Allows::NothingBefore(next) = breaker.allows(until) else { panic!("not open") };
        assert!((8..=12).contains(&next.duration_since(until).as_secs()), "{next}");
    }

    #[test]
    fn after_the_probe_it_starts_slowly() {
        let (mut breaker, until) = opened();
        breaker.allows(until);
        breaker.started(seq(9));
        breaker.succeeded(seq(9), CAP, until);
        let mut limits = Vec::new();
        for number in 10..20 {
            match breaker.allows(until) {
                Allows::UpTo(limit) => limits.push(limit),
                Allows::NothingBefore(_) => panic!("open"),
            }
            breaker.succeeded(seq(number), CAP, until);
        }
        assert_eq!(limits, [2, 2, 4, 4, 4, 4, u32::MAX, u32::MAX, u32::MAX, u32::MAX]);
    }
}
