//! What all projects share, such that none can use it up: so many at once, and half of them for one project.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{IdMap, ProjectId};

/// Turns that are taken and given back.
#[derive(Clone)]
pub struct Shares(Arc<Shared>);

struct Shared {
    turns: usize,
    taken: Mutex<IdMap<ProjectId, usize>>,
}

/// One turn, given back when it is dropped.
pub struct ShareSlot {
    shares: Shares,
    project: ProjectId,
}

impl Shares {
    pub fn new(turns: usize) -> Self {
        Self(Arc::new(Shared { turns, taken: Mutex::default() }))
    }

    /// A turn for this project, if there is one, and if it has not half of all already.
    pub fn take(&self, project: ProjectId) -> Option<ShareSlot> {
        let mut taken = self.lock();
        let own = taken.get(&project).copied().unwrap_or(0);
        if own >= self.0.turns.div_ceil(2) || taken.values().sum::<usize>() >= self.0.turns {
            return None;
        }
        taken.insert(project, own + 1);
        Some(ShareSlot { shares: self.clone(), project })
    }

    fn lock(&self) -> MutexGuard<'_, IdMap<ProjectId, usize>> {
        self.0.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for ShareSlot {
    fn drop(&mut self) {
        let mut taken = self.shares.lock();
        if let Some(own) = taken.get_mut(&self.project) {
            *own -= 1;
            if *own == 0 {
                taken.remove(&self.project);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_project_takes_half_of_the_turns_at_most() {
        let shares = Shares::new(5);
        let take = |project: u128, times: usize| -> Vec<ShareSlot> {
            (0..times).filter_map(|_| shares.take(ProjectId::from_bits(project))).collect()
        };
        let first = take(1, 9);
        let second = take(2, 9);
        assert_eq!((first.len(), second.len(), take(3, 1).len()), (3, 2, 0));
        drop(first);
        assert_eq!(take(3, 9).len(), 3);
        drop(second);
        assert!(shares.lock().is_empty());
        assert!(Shares::new(1).take(ProjectId::from_bits(1)).is_some());
    }
}
