//! Making new deliveries of old events. What can be read in advance is read beside the writer,
//! which then looks only at what may have changed since.

use std::sync::Arc;

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, params};

use super::{
    error::unavailable,
    readers::{Readers, next_ordinal_in},
    rows::{self, DeliveryRow},
    segments::Segment,
    turn::{NewOwed, Turn},
    writes::Write,
};
use crate::{
    model::{DeliverySeq, DestinationId, EventSeq, Owed, ReplayId},
    store::{ReplayProgress, ReplayStep, Result, StoreError},
};

/// A step with what it takes over from old deliveries.
pub(super) struct Prepared {
    pub items: Vec<PreparedItem>,
    replay: i64,
    at: Timestamp,
    cursor: Option<DeliverySeq>,
    progress: ReplayProgress,
    /// What was written to segments from this one on may not have been seen.
    unseen: EventSeq,
}

pub(super) struct PreparedItem {
    destination: DestinationId,
    /// Complete but for the ordinal in `seq`.
    pub row: DeliveryRow,
    /// The lowest ordinal that may be free; [`DeliverySeq::PER_EVENT`] when there is none.
    ordinal: u16,
}

/// Reads what a step needs. Items whose event or delivery is gone are left out.
pub(super) fn prepare(readers: &Readers, step: ReplayStep) -> Result<Prepared> {
    let all = readers.segments.all();
    let unseen = all.last().map_or(EventSeq(0), |it| it.first());
    let replay = readers.control.number(step.replay)?;
    let mut items = Vec::with_capacity(step.items.len());
    for item in &step.items {
        let Some(project) = project_of(readers, item.event)? else { continue };
        let like = match item.like {
            Some(seq) => match readers.delivery(seq)? {
                Some(row) => Some(row),
                None => continue,
            },
            None => None,
        };
        let mut about = readers.segments.about_event(item.event)?;
        about.retain(|it| it.first() < unseen);
        let ordinal = readers.next_ordinal(item.event, &about)?;
        let row = DeliveryRow {
            seq: DeliverySeq::first_of(item.event),
            project,
            destination: readers.control.number(item.destination)?,
            pipeline: like.as_ref().and_then(|it| it.pipeline),
            version: like.as_ref().map_or(0, |it| it.version),
            place: item.place,
            // It waits from now on: an old event must not expire before its first attempt.
            accepted_at: Some(rows::micros(step.at)),
            replay: Some(replay),
            fresh_id: step.fresh_ids,
            copy: like.and_then(|it| it.copy),
        };
        items.push(PreparedItem { destination: item.destination, row, ordinal });
    }
    let progress = progress_in(&all, replay)?;
    Ok(Prepared { items, replay, at: step.at, cursor: step.cursor, progress, unseen })
}

/// `None`: the event is gone, or its body is erased.
fn project_of(readers: &Readers, event: EventSeq) -> Result<Option<i64>> {
    let Some(segment) = readers.segments.of_event(event) else { return Ok(None) };
    segment.read(|it| {
        let sql = "SELECT project FROM events WHERE seq = ? AND digest <> 0";
        let mut statement = it.prepare_cached(sql)?;
        Ok(statement.query_row([event.0 as i64], |row| row.get(0)).optional()?)
    })
}

/// How far a replay has come. The newest segment that knows is right.
pub(super) fn progress(readers: &Readers, replay: ReplayId) -> Result<ReplayProgress> {
    match readers.control.known_number(replay) {
        Some(number) => progress_in(&readers.segments.all(), number),
        None => Ok(ReplayProgress::default()),
    }
}

fn progress_in(segments: &[Arc<Segment>], replay: i64) -> Result<ReplayProgress> {
    for segment in segments.iter().rev() {
        if let Some(found) = segment.read(|it| progress_row(it, replay))? {
            return Ok(found);
        }
    }
    Ok(ReplayProgress::default())
}

fn progress_row(connection: &Connection, replay: i64) -> Result<Option<ReplayProgress>> {
    let mut statement =
        connection.prepare_cached("SELECT cursor, done FROM replays WHERE replay = ?")?;
    let read = |row: &rusqlite::Row<'_>| {
        let cursor: Option<i64> = row.get(0)?;
        Ok(ReplayProgress {
            cursor: cursor.map(|it| DeliverySeq::from_bits(it as u64)),
            done: row.get::<_, i64>(1)? as u64,
        })
    };
    Ok(statement.query_row([replay], read).optional()?)
}

impl Turn<'_> {
    pub fn replay(&mut self, step: &Prepared) -> Result<Result<Vec<Owed>>> {
        let ordinals = match self.ordinals(step)? {
            Ok(ordinals) => ordinals,
            Err(refusal) => return Ok(Err(refusal)),
        };
        let mut owed = Vec::with_capacity(step.items.len());
        for (item, seq) in step.items.iter().zip(ordinals) {
            let row = DeliveryRow { seq, copy: None, ..item.row };
            self.insert_delivery(&row, item.row.copy.as_deref())?;
            let new = NewOwed {
                seq,
                destination: item.destination,
                place: row.place,
                accepted_at: step.at,
            };
            owed.push(self.owe(new, row.destination));
        }
        // A step before this one may have been in the same turn, unseen by `prepare`.
        let before = self.memory.replays.get(&step.replay).copied().unwrap_or(step.progress);
        let progress =
            ReplayProgress { cursor: step.cursor, done: before.done + owed.len() as u64 };
        let cursor = progress.cursor.map(|it| it.bits() as i64);
        self.writes.execute(Write::Replay, params![step.replay, cursor, progress.done as i64])?;
        self.memory.replays.insert(step.replay, progress);
        Ok(Ok(owed))
    }

    /// The places of the new deliveries: behind all that their events have, and behind each other.
    fn ordinals(&mut self, step: &Prepared) -> Result<Result<Vec<DeliverySeq>>> {
        if !self.memory.ledger.has_room() {
            return Ok(Err(StoreError::Full));
        }
        let all = self.memory.segments.all();
        let unseen = all.partition_point(|it| it.first() < step.unseen);
        // The newest is read through the transaction, which sees itself.
        let rolled = &all[unseen..all.len().saturating_sub(1).max(unseen)];
        let mut next = std::collections::HashMap::new();
        let mut found = Vec::with_capacity(step.items.len());
        for item in &step.items {
            let event = item.row.seq.event();
            if event > self.memory.marks.planned_through {
                // Its plan numbers its deliveries from 0.
                return Ok(Err(unavailable("the event has no plan yet")));
            }
            if self.memory.segments.is_held(event) {
                // Asked again, the step does without it, unless it stays after all.
                return Ok(Err(unavailable("the event is being forgotten")));
            }
            let ordinal = match next.get(&event) {
                Some(ordinal) => *ordinal,
                None => {
                    let newest = self.writes.read()?;
                    let mut ordinal = item.ordinal.max(next_ordinal_in(newest, event)?);
                    for segment in rolled {
                        ordinal = ordinal.max(segment.read(|it| next_ordinal_in(it, event))?);
                    }
                    ordinal
                }
            };
            if ordinal >= DeliverySeq::PER_EVENT {
                return Ok(Err(StoreError::TooManyDeliveries));
            }
            next.insert(event, ordinal + 1);
            found.push(DeliverySeq::new(event, ordinal));
        }
        Ok(Ok(found))
    }
}
