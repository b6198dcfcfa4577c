//! Events whose plan is not whole yet: some of their pipelines wait for answers from outside.
//!
//! They are few, and all of them are noted in the segment that is newest, in the same transaction
//! as the plan that changes them. So the active segment with a plan tells which there are.

use std::collections::BTreeSet;

use rusqlite::{Connection, OptionalExtension, params};

use crate::{
    model::{EventSeq, packed},
    store::{
        self, Result, StoreError,
        sqlite::{
            query::{readers::Readers, records::event::skipped_in},
            wal::{statement_buffer::StatementWriter, statements::Statement},
        },
    },
};

/// What the writer knows of them.
#[derive(Default)]
pub struct WaitingPlans {
    events: BTreeSet<EventSeq>,
    /// What this batch changed, to be undone when it fails: came (`true`) or went.
    changes: Vec<(EventSeq, bool)>,
    /// The segment, by its first event, that tells which there are.
    noted_in: Option<EventSeq>,
}

impl WaitingPlans {
    pub fn of(events: Vec<EventSeq>) -> Self {
        Self { events: events.into_iter().collect(), ..Self::default() }
    }

    pub fn events(&self) -> Vec<EventSeq> {
        self.events.iter().copied().collect()
    }

    pub fn contains(&self, event: EventSeq) -> bool {
        self.events.contains(&event)
    }

    pub fn begin(&mut self) {
        self.changes.clear();
    }

    pub fn has_changed(&self) -> bool {
        !self.changes.is_empty()
    }

    /// An event has a plan which waits, or which is whole now.
    pub fn set(&mut self, event: EventSeq, waits: bool) {
        let is_change = if waits { self.events.insert(event) } else { self.events.remove(&event) };
        if is_change {
            self.changes.push((event, waits));
            self.noted_in = None;
        }
    }

    pub fn roll_back(&mut self) {
        for (event, came) in self.changes.drain(..).rev() {
            if came {
                self.events.remove(&event);
            } else {
                self.events.insert(event);
            }
        }
        // What was noted in the transaction is not there.
        self.noted_in = None;
    }

    /// Notes them, and how far the other plans have come, if this segment does not tell yet. Returns
    /// how many bytes that took.
    pub fn note(
        &mut self,
        writes: &mut StatementWriter<'_>,
        segment: EventSeq,
        through: EventSeq,
    ) -> Result<usize> {
        if self.noted_in == Some(segment) || self.events.is_empty() && self.changes.is_empty() {
            return Ok(0);
        }
        let packed = pack(through, &self.events);
        writes.execute(Statement::Waiting, params![packed])?;
        self.noted_in = Some(segment);
        Ok(packed.len())
    }
}

/// What a segment tells: up to where events had a plan, and which of those waited.
pub fn noted(connection: &Connection) -> Result<Option<(EventSeq, Vec<EventSeq>)>> {
    let found: Option<Vec<u8>> = connection
        .query_row("SELECT value FROM facts WHERE name = 'waiting'", [], |row| row.get(0))
        .optional()?;
    found
        .map(|it| unpack(&it).ok_or(StoreError::Damaged { what: "list of events that wait" }))
        .transpose()
}

/// Of these events, the first few that are still there.
pub fn read(
    readers: &Readers,
    events: &[EventSeq],
    limit: usize,
) -> Result<Vec<store::WaitingEvent>> {
    /// Bodies that are read at once, however many events are asked for.
    const BYTES: usize = 8 << 20;

    let (mut found, mut weight) = (Vec::new(), 0);
    for seq in events {
        if found.len() >= limit || weight >= BYTES {
            break;
        }
        let Some(event) = readers.event(*seq)? else { continue };
        let mut skipped = None;
        for segment in readers.segments.about_event(*seq)? {
            skipped = segment.read(|it| skipped_in(it, *seq))?.or(skipped);
        }
        weight += event.weight();
        let skipped = skipped.unwrap_or_default();
        found.push(store::WaitingEvent { event: std::sync::Arc::new(event), skipped });
    }
    Ok(found)
}

/// How far the plans have come, and then differences.
fn pack(through: EventSeq, events: &BTreeSet<EventSeq>) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(8 + 2 * events.len());
    packed::put(&mut bytes, through.0);
    let mut last = 0;
    for event in events {
        packed::put(&mut bytes, event.0 - last);
        last = event.0;
    }
    bytes
}

fn unpack(mut bytes: &[u8]) -> Option<(EventSeq, Vec<EventSeq>)> {
    let through = EventSeq(packed::take(&mut bytes)?);
    let (mut last, mut events) = (0, Vec::new());
    while !bytes.is_empty() {
        last += packed::take(&mut bytes)?;
        events.push(EventSeq(last));
    }
    Some((through, events))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_plans_are_read_back() {
        for events in [vec![], vec![1], vec![5, 6, 300, 1 << 39]] {
            let events: BTreeSet<EventSeq> = events.into_iter().map(EventSeq).collect();
            let packed = pack(EventSeq(1 << 39), &events);
            let expected = (EventSeq(1 << 39), events.into_iter().collect());
            assert_eq!(unpack(&packed), Some(expected));
        }
        assert_eq!(unpack(&[]), None);
        assert_eq!(unpack(&[0x80]), None);
    }
}
