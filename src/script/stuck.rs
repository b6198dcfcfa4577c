//! When a script that could not be stopped is run again, and how many threads its owner may leave behind.
//! Pure: the pool asks, and says what time it is.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

/// Threads that the scripts of one owner may hold on to before one that was stuck lately is not run.
const MOST_OF_SUSPECTS: usize = 2;
/// Threads that the scripts of one owner may hold on to before none of them is run.
const MOST_OF_OWNER: usize = 4;
/// Threads that all scripts may hold on to before an owner that has one gets no second.
const MOST: usize = 8;
/// Threads that all scripts may hold on to, whoever they belong to.
const MOST_OF_ALL: usize = 64;

/// The wait after a script was stuck for the second time in a row; it doubles.
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(300);
/// So long after it was stuck last, a script is as good as new.
pub(super) const FORGOTTEN_AFTER: Duration = Duration::from_secs(600);

/// How often a script was stuck lately.
#[derive(Debug, Default)]
pub(super) struct Stuck {
    times: u32,
    last: Option<Instant>,
}

impl Stuck {
    pub fn note(&mut self, now: Instant) {
        let is_forgotten = self.last.is_none_or(|it| now.duration_since(it) >= FORGOTTEN_AFTER);
        self.times = if is_forgotten { 1 } else { self.times.saturating_add(1) };
        self.last = Some(now);
    }

    /// Whether it was stuck lately.
    pub fn is_suspect(&self, now: Instant) -> bool {
        self.last.is_some_and(|it| now.duration_since(it) < FORGOTTEN_AFTER)
    }

    pub fn was_ever(&self) -> bool {
        self.last.is_some()
    }

    /// How long it is not run from now on. The first time it is run again at once, since most often one
    /// event is to blame.
    pub fn waits(&self, now: Instant) -> Option<Duration> {
        let doublings = self.times.checked_sub(2)?.min(16);
        let wait = (FIRST_WAIT * 2_u32.pow(doublings)).min(LONGEST_WAIT);
        let end = self.last? + wait;
        end.checked_duration_since(now).filter(|it| !it.is_zero())
    }
}

/// Threads that are left behind in calls that cannot be stopped, by owner.
#[derive(Debug, Default)]
pub(super) struct LostThreads(HashMap<u128, usize>);

impl LostThreads {
    pub fn all(&self) -> usize {
        self.0.values().sum()
    }

    pub fn of(&self, owner: u128) -> usize {
        self.0.get(&owner).copied().unwrap_or_default()
    }

    pub fn add(&mut self, owner: u128) {
        *self.0.entry(owner).or_default() += 1;
    }

    /// One of them has ended.
    pub fn remove(&mut self, owner: u128) {
        if let Some(count) = self.0.get_mut(&owner) {
            *count -= 1;
            if *count == 0 {
                self.0.remove(&owner);
            }
        }
    }

    /// Why a script of this owner may not run now. A suspect was stuck lately.
    pub fn refuses(&self, owner: u128, is_suspect: bool) -> Option<&'static str> {
        let (own, all) = (self.of(owner), self.all());
        if own >= if is_suspect { MOST_OF_SUSPECTS } else { MOST_OF_OWNER } {
            return Some("scripts of this project are stuck; it waits until one of them ends");
        }
        if all >= MOST_OF_ALL || (all >= MOST && own > 0) {
            return Some("too many scripts are stuck; it waits until one of them ends");
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stuck_script_is_tried_again_after_a_growing_wait() {
        let start = Instant::now();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let mut stuck = Stuck::default();
        assert_eq!(stuck.waits(at(0)), None, "it was never stuck");
        stuck.note(at(0));
        assert_eq!(stuck.waits(at(0)), None, "one event may be to blame");
        for (seconds, wait) in [(1, 1), (10, 2), (20, 4), (30, 8)] {
            stuck.note(at(seconds));
            assert_eq!(stuck.waits(at(seconds)), Some(Duration::from_secs(wait)));
            assert_eq!(stuck.waits(at(seconds + wait)), None, "it is tried again");
        }
        (0..40).for_each(|_| stuck.note(at(40)));
        assert_eq!(stuck.waits(at(40)), Some(LONGEST_WAIT));
        stuck.note(at(40 + 600));
        assert_eq!(stuck.waits(at(640)), None, "ten quiet minutes are forgotten");
    }

    #[test]
    fn threads_are_shared_out_by_owner() {
        let mut lost = LostThreads::default();
        for _ in 0..2 {
            assert_eq!(lost.refuses(1, true), None);
            lost.add(1);
        }
        assert!(lost.refuses(1, true).is_some(), "an owner's suspects have two");
        assert_eq!(lost.refuses(1, false), None, "its other scripts go on");
        (2..8).for_each(|owner| lost.add(owner));
        assert_eq!(lost.all(), 8);
        assert!(lost.refuses(2, false).is_some(), "no second one for anybody when many are stuck");
        assert_eq!(lost.refuses(9, false), None, "others go on");
        lost.remove(1);
        assert_eq!(lost.of(1), 1);
        (100..200).for_each(|owner| lost.add(owner));
        assert!(lost.refuses(9, false).is_some(), "all of them together have a bound");
    }
}
