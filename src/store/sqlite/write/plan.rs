//! Writing what the pipelines made of events.

use std::collections::HashMap;

use rusqlite::params;

use super::group_commit::{GroupCommit, NewOwed};
use crate::{
    model::{DeliverySeq, Ended, Entry, EntryKind, EventSeq, Owed, Plan, RawJson},
    store::{
        Result, StoreError,
        sqlite::{
            error::unavailable,
            owed::OwedRow,
            query::readers::next_ordinal_in,
            segment::rows::{self, DeliveryRow},
            wal::statements::Statement,
        },
    },
};

/// The ordinals at which later parts of plans begin.
type Bases = HashMap<EventSeq, u16>;

impl GroupCommit<'_> {
    pub fn plan(&mut self, plans: &[Plan]) -> Result<Result<Vec<Owed>>> {
        let mut bases = match self.check(plans)? {
            Ok(bases) => bases,
            Err(refusal) => return Ok(Err(refusal)),
        };
        let mut owed = Vec::new();
        for plan in plans {
            let seq = plan.event.seq;
            if seq > self.memory.marks.planned_through {
                self.plan_event(plan, 0, &mut owed)?;
                self.write_reasons(plan, plan.deliveries.is_empty())?;
                self.memory.marks.planned_through = seq;
            } else if let Some(base) = bases.get_mut(&seq)
                && plan.is_rest
                && self.memory.waiting.contains(seq)
            {
                self.plan_event(plan, *base, &mut owed)?;
                // Also when there are none: what the plan said before must not stay.
                self.write_reasons(plan, true)?;
                *base += plan.deliveries.len() as u16;
            } else {
                continue;
            }
            self.memory.waiting.set(seq, plan.waits());
            self.memory.memories.change(&plan.remembered);
            self.count(plan)?;
        }
        let marks = &mut self.memory.marks;
        let through = marks.planned_through;
        marks.written +=
            self.memory.waiting.note(&mut self.writes, self.segment.first(), through)?;
        Ok(Ok(owed))
    }

    /// What the pipelines did counts with the plan that says so.
    fn count(&mut self, plan: &Plan) -> Result<()> {
        for tally in &plan.tallies {
            let pipeline = self.memory.control.number(tally.pipeline)?;
            let place = (&mut self.writes, self.segment.first());
            self.memory.tallies.add(place, pipeline, tally, self.now)?;
        }
        Ok(())
    }

    /// Nothing may be left out: events up to the last planned one count as planned for ever. A call
    /// that comes after one that failed is refused for this reason, too.
    ///
    /// The outer error ends the transaction, the inner one is the caller's.
    fn check(&mut self, plans: &[Plan]) -> Result<Result<Bases>> {
        if !self.memory.ledger.has_room() {
            return Ok(Err(StoreError::Full));
        }
        let mut through = self.memory.marks.planned_through;
        let mut bases = Bases::new();
        let mut ends: HashMap<EventSeq, usize> = HashMap::new();
        for plan in plans {
            let seq = plan.event.seq;
            let is_next = seq.0 == through.0 + 1 && !plan.is_rest;
            if seq > through && !is_next {
                return Ok(Err(unavailable("an event before this one has no plan yet")));
            }
            if seq >= self.memory.marks.next_event {
                return Ok(Err(unavailable("the event is not in the store")));
            }
            let base = match ends.get(&seq) {
                Some(_) if !plan.is_rest => continue,
                Some(end) => *end,
                None if is_next => 0,
                None if !plan.is_rest => continue,
                None if self.memory.waiting.contains(seq) => usize::from(self.next_ordinal(seq)?),
                None => continue,
            };
            let end = base + plan.deliveries.len();
            if end > usize::from(DeliverySeq::PER_EVENT) {
                return Ok(Err(StoreError::TooManyDeliveries));
            }
            ends.insert(seq, end);
            through = through.max(seq);
            // It is at most 2048.
            bases.entry(seq).or_insert(if is_next { end as u16 } else { base as u16 });
        }
        Ok(Ok(bases))
    }

    /// The first ordinal of an event that is free, replays included.
    fn next_ordinal(&mut self, event: EventSeq) -> Result<u16> {
        let mut next = next_ordinal_in(self.writes.read()?, event)?;
        for segment in self.memory.segments.about_event(event)? {
            // The newest was read through the transaction, which sees itself.
            if segment.first() != self.segment.first() {
                next = next.max(segment.read(|it| next_ordinal_in(it, event))?);
            }
        }
        Ok(next)
    }

    fn plan_event(&mut self, plan: &Plan, base: u16, owed: &mut Vec<Owed>) -> Result<()> {
        let event = &plan.event;
        let project = self.memory.control.number(event.project)?;
        for (ordinal, delivery) in (base..).zip(&plan.deliveries) {
            let seq = DeliverySeq::new(event.seq, ordinal);
            let destination = self.memory.control.number(delivery.destination)?;
            let row = DeliveryRow {
                seq,
                project,
                destination,
                pipeline: Some(self.memory.control.number(delivery.pipeline)?),
                version: delivery.pipeline_version,
                place: delivery.place,
                accepted_at: None,
                replay: None,
                fresh_id: false,
                copy: None,
            };
            let copy = match &delivery.copy {
                Some(copy) => Some(self.memory.packer.pack(&copy.to_bytes())?.to_vec()),
                None => None,
            };
            self.insert_delivery(&row, copy.as_deref())?;
            let new = NewOwed {
                seq,
                destination: delivery.destination,
                place: delivery.place,
                accepted_at: event.received_at,
            };
            match &delivery.dead {
                None => owed.push(self.owe(new, destination)),
                Some(reason) => self.dead_letter(new, (destination, project), reason)?,
            }
        }
        Ok(())
    }

    /// A delivery that is dead before anybody attempted it.
    fn dead_letter(
        &mut self,
        new: NewOwed,
        (destination, project): (i64, i64),
        reason: &str,
    ) -> Result<()> {
        let entry = Entry {
            delivery: new.seq,
            number: 1,
            at: self.now,
            kind: EntryKind::Note { reason: reason.to_owned() },
            ended: Some(Ended::Dead),
        };
        self.memory.minutes.entry(destination, &entry);
        self.insert_entry(&entry, 1, &OwedRow::new(&new.owed(), destination), project)
    }

    /// An event without deliveries has a row here in any case: it tells that there is a plan.
    fn write_reasons(&mut self, plan: &Plan, in_any_case: bool) -> Result<()> {
        if in_any_case || !plan.skipped.is_empty() {
            let event = plan.event.seq;
            let reasons = RawJson::of(&plan.skipped);
            self.writes.execute(Statement::Skipped, params![event.0 as i64, reasons.as_str()])?;
            self.memory.marks.written += 16 + reasons.bytes().len();
            self.note(event);
        }
        Ok(())
    }
}

/// Where the plans stand, by the rows of a segment; `None` when it has none.
pub fn planned_through(segment: &rusqlite::Connection) -> Result<Option<EventSeq>> {
    let skipped: Option<i64> =
        segment.query_row("SELECT max(event) FROM skipped", [], |row| row.get(0))?;
    // Replays come later than the plan of their event, and what was recorded earlier: so they say
    // nothing about it.
    let sql = "SELECT max(seq) FROM (SELECT seq FROM deliveries WHERE replay IS NULL \
               AND pipeline IS NOT NULL ORDER BY seq DESC LIMIT 1)";
    let delivery: Option<i64> = segment.query_row(sql, [], |row| row.get(0))?;
    let delivery = delivery.map(|it| rows::event_of(it).0);
    Ok(delivery.max(skipped.map(|it| it as u64)).map(EventSeq))
}
