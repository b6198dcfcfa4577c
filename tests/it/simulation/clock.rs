//! The wall clock of the world, which people and NTP set while time goes on; and what came of attempts, as far
//! as only the scheduler knows it.

use jiff::{SignedDuration, Timestamp};
use tidegate::{
    dispatch::{Action, Input},
    model::{Class, DestinationId, EntryKind, Outcome, Owed},
};

use super::{batches::weight, world::World};

#[derive(Default)]
pub struct Wall {
    /// By how much it is behind the time that has passed.
    behind: SignedDuration,
    /// It was set back, and the loop has not looked at it since.
    unseen: SignedDuration,
    newest: Option<Timestamp>,
}

/// A request that has ended, of which the scheduler hears in this step.
pub struct End {
    pub first: Owed,
    pub carried: Vec<Owed>,
    pub outcome: Outcome,
    /// The batch that is over with it; `None`: it is an attempt of its own.
    pub batch: Option<(DestinationId, u32, bool)>,
}

impl World {
    /// What the wall clock says now.
    pub fn wall(&self) -> Timestamp {
        self.now - self.clock.behind
    }

    /// The time at which the clock, as it goes now, says so.
    pub fn true_time(&self, wall: Timestamp) -> Timestamp {
        wall + self.clock.behind
    }

    /// Somebody sets the clock.
    pub fn set_clock(&mut self) {
        self.rules.clock_is_set = true;
        let by = self.chance.seconds(60, 3 * 24 * 3_600);
        let by = SignedDuration::try_from(by).unwrap();
        let wall = self.wall();
        self.clock.newest = self.clock.newest.max(Some(wall));
        if self.chance.happens(70) {
            self.clock.behind += by;
            self.clock.unseen += by;
        } else {
            // What waited for a time of the wall goes at once, and rules that count lengths begin anew.
            self.clock.behind -= by;
            let all: Vec<_> = self.destinations.keys().copied().collect();
            all.iter().for_each(|it| self.rules.reset(*it));
            for id in all {
                self.rules.reset(id);
                self.step(Input::Poke(id));
            }
        }
    }

    /// What the loop tells the scheduler before everything else.
    pub fn set_back_unseen(&mut self) -> Option<Input> {
        let by = std::mem::take(&mut self.clock.unseen);
        by.is_positive().then_some(Input::SetBack(by))
    }

    /// What a new process finds out about the clock.
    pub fn set_back_at_start(&mut self) -> Option<Input> {
        self.clock.unseen = SignedDuration::ZERO;
        let by = self.clock.newest?.duration_since(self.wall());
        by.is_positive().then_some(Input::SetBack(by))
    }

    pub fn attempt_ends(&mut self, life: u32, owed: Owed, outcome: Outcome) {
        self.arrive(&[owed], &outcome);
        if life == self.life {
            self.give_back(owed.destination, weight(owed.seq));
            let (first, carried) = (owed, vec![owed]);
            self.ended = Some(End { first, carried, outcome: outcome.clone(), batch: None });
            let (destination, delivery) = (owed.destination, owed.seq);
            self.step(Input::Finished { destination, delivery, outcome });
            self.cancel_at_once(&owed);
        }
    }

    /// The endpoint has done its part, whether we live to hear of it or not.
    pub fn arrive(&mut self, carried: &[Owed], outcome: &Outcome) {
        if outcome.class == Class::Accepted {
            let now = self.now;
            for owed in carried {
                self.accepted.insert(owed.seq);
                self.arrivals.entry(owed.seq).or_insert(now);
            }
        }
    }

    /// Judges an end by what the scheduler made of it: whether a batch goes again in halves, and what a
    /// 410 meant.
    pub fn note_end(&mut self, end: End, actions: &[Action]) {
        let End { first, carried, mut outcome, batch } = end;
        let mut is_halved = false;
        let entries = actions.iter().filter_map(|it| match it {
            Action::Settle(it) if it.owed.seq == carried[0].seq => Some(&it.entry.kind),
            _ => None,
        });
        for kind in entries {
            match kind {
                EntryKind::Note { reason } => is_halved |= reason.ends_with(": in halves"),
                EntryKind::Replayed { .. } => (),
                EntryKind::Attempt { outcome: made, .. } => outcome.class = made.class,
            }
        }
        // One that its log has no room for ends without a word about halves.
        is_halved |= carried.len() > 1 && outcome.status == Some(413);
        self.counts.halved += u64::from(is_halved);
        self.counts.told_apart += u64::from(is_halved && outcome.status != Some(413));
        let destination = self.destinations.get(&first.destination);
        self.rules.note_end(&first, &carried, &outcome, is_halved, destination, self.now);
        match batch {
            None => self.rules.note_over(&first, true, false),
            Some((id, number, true)) => self.batch_over(id, number, false),
            Some(_) => (),
        }
    }
}
