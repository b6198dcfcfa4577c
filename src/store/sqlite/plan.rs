//! Writing what the pipelines made of events.

use super::{
    error::unavailable,
    rows::{self, DeliveryRow},
    turn::{NewOwed, Turn},
};
use crate::{
    model::{DeliverySeq, EventSeq, Owed, Plan, RawJson},
    store::{Result, StoreError},
};

impl Turn<'_> {
    pub fn plan(&mut self, plans: &[Plan]) -> Result<Result<Vec<Owed>>> {
        if let Err(refusal) = self.check(plans) {
            return Ok(Err(refusal));
        }
        let mut owed = Vec::new();
        for plan in plans {
            if plan.event.seq > self.memory.marks.planned_through {
                self.plan_event(plan, &mut owed)?;
                self.memory.marks.planned_through = plan.event.seq;
            }
        }
        Ok(Ok(owed))
    }

    /// Nothing may be left out: events up to the last planned one count as planned for ever. A call
    /// that comes after one that failed is refused for this reason, too.
    fn check(&self, plans: &[Plan]) -> Result<()> {
        if !self.memory.ledger.has_room() {
            return Err(StoreError::Full);
        }
        let mut through = self.memory.marks.planned_through;
        for plan in plans {
            let seq = plan.event.seq;
            if seq <= through {
                continue;
            }
            if seq.0 != through.0 + 1 {
                return Err(unavailable("an event before this one has no plan yet"));
            }
            if plan.deliveries.len() > usize::from(DeliverySeq::PER_EVENT) {
                return Err(StoreError::TooManyDeliveries);
            }
            if seq >= self.memory.marks.next_event {
                return Err(unavailable("the event is not in the store"));
            }
            through = EventSeq(seq.0);
        }
        Ok(())
    }

    fn plan_event(&mut self, plan: &Plan, owed: &mut Vec<Owed>) -> Result<()> {
        let event = &plan.event;
        let project = self.memory.control.number(event.project)?;
        for (ordinal, delivery) in (0..).zip(&plan.deliveries) {
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
            owed.push(self.owe(new, destination));
        }
        // An event without deliveries has a row here in any case: it tells that there is a plan.
        if !plan.skipped.is_empty() || plan.deliveries.is_empty() {
            let reasons = RawJson::of(&plan.skipped);
            self.insert_skipped.execute((event.seq.0 as i64, reasons.as_str()))?;
            self.memory.marks.written += 16 + reasons.bytes().len();
            self.note(event.seq);
        }
        Ok(())
    }
}

/// Where the plans stand, by the rows of a segment; `None` when it has none.
pub(super) fn planned_through(segment: &rusqlite::Connection) -> Result<Option<EventSeq>> {
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
