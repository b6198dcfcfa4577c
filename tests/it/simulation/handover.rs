//! A destination goes to another node and comes back, with what was on its way to the disk refused.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use jiff::Timestamp;
use tidegate::{
    dispatch::{Input, Spilled},
    model::{DeliverySeq, DestinationId, DestinationState, Owed},
    store::Settlement,
};

use super::world::{Happening, World};

/// Which destinations another node has, and which have just come back from it.
#[derive(Default)]
pub struct Elsewhere {
    pub away: HashSet<DestinationId>,
    back: HashMap<DestinationId, Timestamp>,
    pub refused: u64,
}

impl World {
    /// It goes, or comes back.
    pub fn hand_over(&mut self, id: DestinationId) {
        if !self.elsewhere.away.contains(&id) {
            self.elsewhere.away.insert(id);
            self.step(Input::Left(vec![id]));
        } else {
            self.come_back(id);
        }
    }

    pub fn come_back(&mut self, id: DestinationId) {
        if !self.elsewhere.away.remove(&id) {
            return;
        }
        self.elsewhere.back.insert(id, self.now);
        self.rules.reset(id);
        let all: Vec<DeliverySeq> =
            self.store.all().filter(|it| it.destination == id).map(|it| it.seq).collect();
        let is_owed = !all.is_empty();
        self.rules.tell(all.into_iter());
        self.step(Input::Back(vec![id]));
        if let Some(destination) = self.destinations.get(&id).cloned() {
            self.tell(destination);
        }
        // The store was asked who is owed something, also of those that are deleted.
        if is_owed {
            self.step(Input::Backlog(vec![id]));
        }
    }

    /// Hints of what another node delivers go there.
    pub fn ours(&self, owed: Vec<Owed>) -> Vec<Owed> {
        owed.into_iter().filter(|it| !self.elsewhere.away.contains(&it.destination)).collect()
    }

    pub fn our_loss(&self, mut lost: Spilled) -> Spilled {
        lost.0.retain(|it, _| !self.elsewhere.away.contains(it));
        lost
    }

    /// What the store takes. The rest was decided by a node that had lost its lease, and is refused.
    pub fn taken(&mut self, life: u32, settlements: Vec<Settlement>) -> Vec<Settlement> {
        let mut taken = Vec::new();
        let mut refused = Vec::new();
        for it in settlements {
            let id = it.owed.destination;
            let just_back = |at: &Timestamp| {
                self.now.duration_since(*at).unsigned_abs() < Duration::from_millis(50)
            };
            let is_doubtful = self.elsewhere.away.contains(&id)
                || self.elsewhere.back.get(&id).is_some_and(just_back);
            if is_doubtful && self.chance.happens(50) {
                // Whoever cancelled it was not heard.
                self.rules.cancelled.remove(&it.owed.seq);
                refused.push((id, it.owed.seq));
            } else {
                taken.push(it);
            }
        }
        self.elsewhere.refused += refused.len() as u64;
        if !refused.is_empty() {
            let wait = self.chance.millis(0, 3);
            self.after(wait, Happening::Refuse { life, refused });
        }
        taken
    }

    pub fn is_inactive(&self, id: DestinationId) -> bool {
        self.destinations.get(&id).is_some_and(|it| it.state != DestinationState::Active)
    }

    /// A new process has everything.
    pub fn all_is_here(&mut self) {
        self.elsewhere.away.clear();
        self.elsewhere.back.clear();
    }
}
