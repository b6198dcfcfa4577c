//! How many attempts at once a destination bears: what it answers sets the pace.
//!
//! Additive increase, multiplicative decrease, as in TCP: an answer that says "too much" (429, 503,
//! no answer in time) halves the number, and each time that as many as it were accepted it grows by
//! one, up to the destination's `concurrency`.

use crate::model::{Class, Outcome};

#[derive(Clone, Debug)]
pub struct Pace {
    /// `None`: nothing held it back lately.
    limit: Option<u32>,
    accepted: u32,
    /// Attempts that began before the last cut, and have not ended. They say nothing new.
    old: u32,
}

impl Pace {
    pub const FULL: Self = Self { limit: None, accepted: 0, old: 0 };

    pub fn limit(&self) -> u32 {
        self.limit.unwrap_or(u32::MAX)
    }

    /// An attempt has ended; `others` are still under way, and `most` is the configured number.
    pub fn ended(&mut self, outcome: &Outcome, others: u32, most: u32) {
        if self.old > 0 {
            self.old -= 1;
            return;
        }
        let is_too_much = match outcome.class {
            Class::Status => matches!(outcome.status, Some(429 | 503)),
            Class::Timeout => true,
            Class::Accepted
            | Class::Dns
            | Class::Connect
            | Class::Tls
            | Class::Broken
            | Class::Denied
            | Class::Config
            | Class::Gone
            | Class::Abort
            | Class::Unknown => false,
        };
        if is_too_much {
            self.cut_to(self.limit().min(most) / 2, others);
        } else if outcome.class == Class::Accepted
            && let Some(limit) = self.limit
        {
            self.accepted += 1;
            if self.accepted >= limit {
                self.accepted = 0;
                self.limit = Some(limit + 1).filter(|it| *it < most);
            }
        }
    }

    /// An attempt has ended of which nothing can be learnt.
    pub fn ended_without_verdict(&mut self) {
        self.old = self.old.saturating_sub(1);
    }

    /// What is under way is all that fits into memory.
    pub fn fill(&mut self, under_way: u32) {
        self.cut_to(self.limit().min(under_way), 0);
    }

    fn cut_to(&mut self, limit: u32, old: u32) {
        *self = Self { limit: Some(limit.max(1)), accepted: 0, old };
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn answer(status: u16) -> Outcome {
        Outcome {
            class: if status < 300 { Class::Accepted } else { Class::Status },
            status: Some(status),
            reason: String::new(),
            retry_after: None,
            duration: Duration::ZERO,
            response: None,
        }
    }

    #[test]
    fn it_is_halved_once_for_what_was_under_way_and_grows_by_one_a_window() {
        let mut pace = Pace::FULL;
        // Sixteen at once are asked to slow down.
        for others in (0..16).rev() {
            pace.ended(&answer(429), others, 16);
        }
        assert_eq!(pace.limit(), 8);
        let mut limits = Vec::new();
        for _ in 0..27 {
            limits.push(pace.limit());
            pace.ended(&answer(200), 0, 16);
        }
        assert_eq!((limits[7], limits[8], limits[16], limits[17]), (8, 9, 9, 10));
    }

    #[test]
    fn it_ends_at_one_and_at_the_configured_number() {
        let mut pace = Pace::FULL;
        for _ in 0..10 {
            pace.ended(&answer(503), 0, 4);
        }
        assert_eq!(pace.limit(), 1);
        for _ in 0..6 {
            pace.ended(&answer(200), 0, 4);
        }
        assert_eq!(pace.limit(), u32::MAX);
    }

    #[test]
    fn other_failures_leave_it_alone() {
        let mut pace = Pace::FULL;
        pace.ended(&answer(500), 3, 16);
        pace.ended(&answer(404), 3, 16);
        assert_eq!(pace.limit(), u32::MAX);
    }
}
