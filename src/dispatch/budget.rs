//! How many bytes may be under way, of one destination and of all.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use crate::model::DestinationId;

/// A destination may always have one message under way, however heavy. So the bound over all can be
/// passed by one message for each destination.
pub struct Budget {
    of_one: usize,
    of_all: usize,
    taken: Mutex<BytesTaken>,
}

#[derive(Default)]
struct BytesTaken {
    lines: HashMap<DestinationId, usize>,
    all: usize,
}

impl Budget {
    /// What weighs less is not counted where it goes alone: the bound on attempts bounds that too.
    pub const LIGHT: usize = 16 * 1024;

    pub fn new(of_one: usize, of_all: usize) -> Self {
        Self { of_one, of_all, taken: Mutex::default() }
    }

    /// `false`: it would be too much beside what is under way.
    pub fn take(&self, destination: DestinationId, weight: usize) -> bool {
        let mut taken = self.taken();
        let all = taken.all + weight;
        let line = taken.lines.entry(destination).or_default();
        if *line > 0 && (*line + weight > self.of_one || all > self.of_all) {
            return false;
        }
        *line += weight;
        taken.all = all;
        true
    }

    pub fn give_back(&self, destination: DestinationId, weight: usize) {
        let mut taken = self.taken();
        taken.all = taken.all.saturating_sub(weight);
        if let Some(line) = taken.lines.get_mut(&destination) {
            *line = line.saturating_sub(weight);
            if *line == 0 {
                taken.lines.remove(&destination);
            }
        }
    }

    fn taken(&self) -> MutexGuard<'_, BytesTaken> {
        // Nothing that holds the lock can panic half-way.
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_destination_has_its_bound_and_all_have_one_but_one_message_always_goes() {
        let budget = Budget::new(100, 150);
        let of = DestinationId::from_bits;
        assert!(budget.take(of(1), 500), "alone");
        assert!(!budget.take(of(1), 1));
        budget.give_back(of(1), 500);
        assert!(budget.take(of(1), 60) && budget.take(of(1), 40));
        assert!(!budget.take(of(1), 1), "its own bound");
        assert!(budget.take(of(2), 40));
        assert!(!budget.take(of(2), 40), "the bound of all");
        assert!(budget.take(of(3), 40), "its first");
        budget.give_back(of(1), 60);
        assert!(budget.take(of(2), 10));
    }
}
