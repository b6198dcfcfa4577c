//! Leaves a service alone for a while when it fails again and again.

use std::sync::{Mutex, PoisonError};

use jiff::{SignedDuration, Timestamp};

/// Failures in a row that open it.
const FAILURES: u32 = 5;
const FIRST_PAUSE: SignedDuration = SignedDuration::from_secs(5);
const LONGEST_PAUSE: SignedDuration = SignedDuration::from_mins(5);

#[derive(Default)]
pub struct ServiceBreaker(Mutex<State>);

#[derive(Default)]
struct State {
    failures: u32,
    /// Pauses in a row; each is twice as long as the one before.
    pauses: u32,
    open_until: Option<Timestamp>,
}

impl ServiceBreaker {
    /// Whether the service may be asked now. After a pause one question goes first, and the others
    /// wait for what comes of it.
    pub fn allows(&self, now: Timestamp) -> bool {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match state.open_until {
            None => true,
            Some(until) if now < until => false,
            Some(_) => {
                state.open_until = Some(now + pause(state.pauses));
                true
            }
        }
    }

    pub fn succeeded(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = State::default();
    }

    pub fn failed(&self, now: Timestamp) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.failures = state.failures.saturating_add(1);
        if state.failures >= FAILURES {
            state.open_until = Some(now + pause(state.pauses));
            state.pauses = state.pauses.saturating_add(1);
            // The next one that fails after the pause opens it again.
            state.failures = FAILURES - 1;
        }
    }
}

fn pause(pauses: u32) -> SignedDuration {
    FIRST_PAUSE.saturating_mul(1 << pauses.min(16)).min(LONGEST_PAUSE)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn it_opens_after_failures_in_a_row_and_lets_one_through_after_each_pause() {
        let breaker = ServiceBreaker::default();
        for _ in 0..4 {
            breaker.failed(at(0));
        }
        breaker.succeeded();
        for _ in 0..4 {
            breaker.failed(at(0));
            assert!(breaker.allows(at(0)));
        }
        breaker.failed(at(0));
        assert!(!breaker.allows(at(4)));
        assert!(breaker.allows(at(5)) && !breaker.allows(at(5)));
        breaker.failed(at(5));
        assert!(!breaker.allows(at(14)) && breaker.allows(at(15)));
        breaker.succeeded();
        assert!(breaker.allows(at(15)) && breaker.allows(at(15)));
    }
}
