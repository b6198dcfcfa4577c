//! Whose turn it is in planning: a project whose events took long lets those of others go first.
//!
//! Events are planned in the order in which they were accepted. A project that has used up its turn has
//! its pipelines set aside, as if they waited for an answer, so that the next project's event is planned.

use std::{collections::HashMap, time::Duration};

use crate::model::ProjectId;

/// How long planning for one project may take before it is another's turn.
pub(in crate::pipeline) const TURN: Duration = Duration::from_millis(50);
/// Less than this is not worth counting: nearly every event is planned in microseconds.
const WORTH_COUNTING: Duration = Duration::from_micros(500);

/// What planning took in this round, of projects where that is worth counting.
#[derive(Debug, Default)]
pub(in crate::pipeline) struct Turns {
    spent: HashMap<ProjectId, Duration>,
}

impl Turns {
    pub fn note(&mut self, project: ProjectId, took: Duration) {
        if took >= WORTH_COUNTING {
            *self.spent.entry(project).or_default() += took;
        }
    }

    /// What is left of the project's turn in this round.
    pub fn left(&self, project: ProjectId) -> Duration {
        TURN.saturating_sub(self.spent.get(&project).copied().unwrap_or_default())
    }

    /// Whether the project has had its turn in this round.
    pub fn is_over(&self, project: ProjectId) -> bool {
        !self.spent.is_empty() && self.spent.get(&project).is_some_and(|it| *it >= TURN)
    }

    pub fn next_round(&mut self) {
        self.spent.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_ends_for_the_project_that_took_long() {
        let (dear, cheap) = (ProjectId::from_bits(1), ProjectId::from_bits(2));
        let mut turns = Turns::default();
        (0..1_000_000).for_each(|_| turns.note(cheap, Duration::from_micros(5)));
        (0..4).for_each(|_| turns.note(dear, TURN / 5));
        assert!(!turns.is_over(dear) && !turns.is_over(cheap));
        turns.note(dear, TURN / 5);
        assert!(turns.is_over(dear) && !turns.is_over(cheap));
        turns.next_round();
        assert!(!turns.is_over(dear));
    }
}
