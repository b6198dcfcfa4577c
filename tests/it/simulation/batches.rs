//! What the loop does with batches and with bytes, in the world of the simulation.

use std::collections::VecDeque;

use tidegate::{
    dispatch::{Input, split},
    model::{Class, DeliverySeq, DestinationId, Ended, EntryKind, Outcome, Owed},
    store::{Next, Settlement},
};

use super::clock::End;
use super::{
    rules::is_retried,
    world::{Happening, World},
};

/// One that is under way.
#[derive(Debug)]
pub struct Batch {
    pub first: Owed,
    pub parts: VecDeque<Vec<Owed>>,
    pub was_made: bool,
    /// After which telling its deliveries were chosen.
    pub decided: u64,
}

/// What has happened, so that a test can see that it did.
#[derive(Debug, Default)]
pub struct Counts {
    pub batches: u64,
    pub further_requests: u64,
    pub cut: u64,
    pub halved: u64,
    pub too_much: u64,
    pub not_retried: u64,
    /// Batches of which one was refused, sent again in halves.
    pub told_apart: u64,
    pub clocks_set: u64,
    /// Deliveries that were planned while some of an earlier ordering were owed.
    pub waits_for_eras: u64,
}

/// What a delivery weighs.
pub fn weight(seq: DeliverySeq) -> usize {
    (seq.bits().wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as usize % 1_000 + 1
}

impl World {
    pub fn batch(
        &mut self,
        destination: DestinationId,
        number: u32,
        deliveries: Vec<Owed>,
        bytes: usize,
    ) {
        self.counts.batches += 1;
        // A name of its own: its first delivery may be in another before this one is over.
        let seq = DeliverySeq::from_bits(u64::MAX - u64::from(number));
        let first = Owed { seq, ..deliveries[0] };
        let settings = self.destinations.get(&destination);
        self.rules.check_start(&first, settings, self.now);
        let events = settings.and_then(|it| it.policy.batch).map(|it| it.events.get() as usize);
        assert!(Some(deliveries.len()) <= events, "more together than {events:?}");

        let (mut loaded, mut left, mut missing) = (Vec::new(), VecDeque::new(), Vec::new());
        let mut sum = 0;
        for owed in deliveries {
            let heavy = weight(owed.seq);
            let fits = left.is_empty() && (loaded.is_empty() || sum + heavy <= bytes);
            if self.rules.forgotten.contains(&owed.seq) && fits {
                missing.push(owed.seq);
            } else if fits && self.take(destination, heavy) {
                sum += heavy;
                loaded.push(owed);
            } else {
                left.push_back(owed.seq);
            }
        }
        let groups = self.groups;
        let group = |seq: DeliverySeq| (seq.bits().wrapping_mul(0x2545_f491) >> 20) % groups;
        let (parts, others) = split(loaded, |it| (it.place.lane, group(it.seq)));
        for owed in others.iter().rev() {
            self.give_back(destination, weight(owed.seq));
            left.push_front(owed.seq);
        }
        let is_cut = !left.is_empty() || !missing.is_empty();
        let batch =
            Batch { first, parts: parts.into(), was_made: false, decided: self.rules.tellings };
        self.batches.insert((destination, number), batch);
        if is_cut {
            self.counts.cut += 1;
            let (life, left) = (self.life, left.into());
            let wait = self.chance.millis(0, 1);
            self.after(wait, Happening::Cut { life, destination, batch: number, left, missing });
        }
        self.send_part(destination, number);
    }

    pub fn cut(
        &mut self,
        destination: DestinationId,
        batch: u32,
        left: Vec<DeliverySeq>,
        missing: Vec<DeliverySeq>,
    ) {
        let is_over = self
            .batches
            .get(&(destination, batch))
            .is_some_and(|it| it.parts.is_empty() && !it.was_made);
        if is_over {
            self.batch_over(destination, batch, !left.is_empty());
        }
        self.step(Input::Cut { destination, batch, left, missing });
    }

    /// Makes the next request, if there is one.
    fn send_part(&mut self, destination: DestinationId, number: u32) {
        let Some(batch) = self.batches.get_mut(&(destination, number)) else { return };
        let Some(part) = batch.parts.pop_front() else { return };
        batch.was_made = true;
        let decided = batch.decided;
        let settings = self.destinations.get(&destination);
        self.rules.check_carried(decided, &part, settings, &self.store, self.wall());
        let seqs: Vec<DeliverySeq> = part.iter().map(|it| it.seq).collect();
        let outcome = self.endpoints[&destination].answer(&seqs, self.now, &mut self.chance);
        let life = self.life;
        let wait = outcome.duration.max(std::time::Duration::from_millis(2));
        self.after(wait, Happening::PartEnds { life, destination, batch: number, part, outcome });
    }

    pub fn part_ends(
        &mut self,
        life: u32,
        destination: DestinationId,
        batch: u32,
        part: Vec<Owed>,
        outcome: Outcome,
    ) {
        self.arrive(&part, &outcome);
        if life != self.life {
            return;
        }
        let Some(under_way) = self.batches.get(&(destination, batch)) else { return };
        let (first, is_last) = (under_way.first, under_way.parts.is_empty());
        self.give_back(destination, part.iter().map(|it| weight(it.seq)).sum());
        let (outcome_too, over) = (outcome.clone(), Some((destination, batch, is_last)));
        self.ended = Some(End { first, carried: part.clone(), outcome: outcome_too, batch: over });
        let deliveries = part.iter().map(|it| it.seq).collect();
        self.step(Input::PartEnded { destination, batch, deliveries, outcome });
        self.cancel_at_once(&part[0]);
    }

    pub fn go_on(&mut self, destination: DestinationId, number: u32) {
        self.counts.further_requests += 1;
        let life = self.life;
        if self.chance.happens(2) {
            let now = self.now;
            return self.at(now, Happening::BreaksOff { life, destination, batch: number });
        }
        let Some(first) = self.batches.get(&(destination, number)).map(|it| it.first) else {
            panic!("it goes on and is over")
        };
        self.rules.check_request(&first, self.destinations.get(&destination), self.now);
        self.send_part(destination, number);
    }

    pub fn batch_over(&mut self, destination: DestinationId, number: u32, too_much: bool) {
        let Some(batch) = self.batches.remove(&(destination, number)) else { return };
        let rest = batch.parts.iter().flatten().map(|it| weight(it.seq)).sum();
        self.give_back(destination, rest);
        self.rules.note_over(&batch.first, batch.was_made, too_much);
    }

    /// Room in memory for so much.
    pub fn take(&mut self, destination: DestinationId, weight: usize) -> bool {
        let taken = self.bytes.entry(destination).or_default();
        let fits = *taken == 0 || *taken + weight <= self.line_bytes;
        *taken += if fits { weight } else { 0 };
        fits
    }

    pub fn give_back(&mut self, destination: DestinationId, weight: usize) {
        *self.bytes.entry(destination).or_default() -= weight;
    }

    /// What follows from an outcome is what the policy says.
    pub fn check_verdict(&mut self, settlement: &Settlement) {
        let Some(settings) = self.told.get(&settlement.owed.destination) else { return };
        let accepted_at = settlement.owed.accepted_at;
        if settlement.next == Next::Ended(Ended::Expired) {
            // The last attempt may fail some seconds before the end.
            let after = settings.policy.expires_after.or(self.presets_end(settings));
            let end = accepted_at + after.expect("it has no end");
            let shortly = std::time::Duration::from_secs(6);
            assert!(self.wall() >= end - shortly, "it expires too early: {settlement:?}");
        }
        let EntryKind::Attempt { outcome, .. } = &settlement.entry.kind else { return };
        let is_final = matches!(outcome.class, Class::Accepted | Class::Gone | Class::Abort);
        let is_retried = is_retried(settings.policy.retry_on, outcome);
        if !is_final && !is_retried {
            self.counts.not_retried += 1;
            let is_dead = Next::Ended(Ended::Dead);
            let is_cancelled = Next::Ended(Ended::Cancelled);
            assert!(
                settlement.next == is_dead || settlement.next == is_cancelled,
                "{settlement:?}"
            );
        } else {
            assert!(!outcome.reason.contains("not retried"), "{settlement:?}");
        }
    }

    fn presets_end(&self, settings: &tidegate::model::Destination) -> Option<std::time::Duration> {
        use tidegate::model::{Retry, RetryPreset};
        let is_admin = settings.policy.retry == Retry::Preset(RetryPreset::Admin24h);
        is_admin.then(|| std::time::Duration::from_secs(24 * 3_600))
    }
}
