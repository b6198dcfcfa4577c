//! One event, or one delivery, with what became of it.

use std::{ops::ControlFlow, sync::Arc};

use rusqlite::{Connection, OptionalExtension};

use super::{Archive, walk::Cursor};
use crate::{
    model::{
        DeliveryId, DeliverySeq, DeliveryState, Entry, EntryKind, EventId, EventSeq, ProjectId,
        Skipped, TypeName,
    },
    store::{
        DeliveryRecord, EventRecord, Result, StoreError,
        sqlite::{
            owed::OwedRow,
            segment::{
                rows::{self, DeliveryRow, ENTRY_COLUMNS, without_copy},
                segments::Segment,
            },
        },
    },
};

/// What lists say about an event.
#[derive(Clone, Debug)]
pub struct EventHead {
    pub id: EventId,
    pub event_type: TypeName,
    /// Microseconds since 1970.
    pub received_at: i64,
}

/// How a delivery stands, by its activity log.
#[derive(Clone, Copy, Debug, Default)]
pub struct DeliveryProgress {
    pub attempts: u16,
    /// The code of its end.
    pub ended: Option<i64>,
    /// The ordinal of the delivery that took its place.
    pub replayed: Option<u16>,
}

impl DeliveryProgress {
    pub fn state(self) -> Result<DeliveryState> {
        Ok(match (self.ended, self.attempts) {
            (Some(code), _) => rows::ended(rows::end_before(code))?.into(),
            (None, 0) => DeliveryState::Pending,
            (None, _) => DeliveryState::Retrying,
        })
    }
}

impl Archive {
    pub fn event(&self, project: ProjectId, id: EventId) -> Result<Option<EventRecord>> {
        let found = self.readers.find_by_id(id, |seq| {
            let event = self.readers.event(seq)?;
            Ok(event.filter(|it| it.id == id && it.project == project))
        })?;
        found.map(|event| self.record(event)).transpose()
    }

    fn record(&self, event: crate::model::Event) -> Result<EventRecord> {
        let about = self.readers.segments.about_event(event.seq)?;
        let head = EventHead {
            id: event.id,
            event_type: event.event_type.clone(),
            received_at: rows::micros(event.received_at),
        };
        let (mut rows, mut skipped) = (Vec::new(), None);
        for segment in &about {
            segment.read(|connection| {
                rows.extend(deliveries_in(connection, event.seq)?);
                // A later plan of the event replaces what an earlier one said.
                skipped = skipped_in(connection, event.seq)?.or(skipped.take());
                Ok(())
            })?;
        }
        rows.sort_unstable_by_key(|it| it.seq);
        let is_planned = |it: &DeliveryRow| it.replay.is_none() && it.pipeline.is_some();
        let planned = skipped.is_some() || rows.iter().any(is_planned);
        let deliveries = rows
            .into_iter()
            .map(|row| {
                let progress = self.progress(row.seq, &about)?;
                self.delivery_record(row, &head, progress)
            })
            .collect::<Result<_>>()?;
        let skipped = skipped.unwrap_or_default();
        Ok(EventRecord { event: Arc::new(event), planned, skipped, deliveries })
    }

    pub fn delivery(&self, project: ProjectId, seq: DeliverySeq) -> Result<Option<DeliveryRecord>> {
        let Some(row) = self.readers.delivery(seq)? else { return Ok(None) };
        if Some(row.project) != self.readers.control.known_number(project) {
            return Ok(None);
        }
        let Some(own) = self.readers.segments.of_event(seq.event()) else { return Ok(None) };
        let Some(head) = own.read(|it| head_in(it, seq.event()))? else { return Ok(None) };
        let mut entries: Vec<Entry> = Vec::new();
        for segment in self.readers.segments.about_event(seq.event())? {
            segment.read(|it| entries_in(it, seq, &mut entries))?;
        }
        entries.sort_unstable_by_key(|it| it.number);
        let progress = DeliveryProgress::of(&entries);
        let copy = row.copy.as_deref().map(rows::copy).transpose()?;
        let record = self.delivery_record(row, &head, progress)?;
        Ok(Some(DeliveryRecord { copy, entries, ..record }))
    }

    pub fn delivery_by_id(
        &self,
        project: ProjectId,
        id: DeliveryId,
    ) -> Result<Option<DeliveryRecord>> {
        // All but the order bits are the event's, and those bits are the ordinal.
        self.readers.find_by_id(EventId::from_bits(id.bits()), |seq| {
            let Some(own) = self.readers.segments.of_event(seq) else { return Ok(None) };
            let Some(head) = own.read(|it| head_in(it, seq))? else { return Ok(None) };
            if id.order() >= DeliverySeq::PER_EVENT || DeliveryId::of(head.id, id.order()) != id {
                return Ok(None);
            }
            self.delivery(project, DeliverySeq::new(seq, id.order()))
        })
    }

    /// Without its log and its copy.
    pub fn delivery_record(
        &self,
        row: DeliveryRow,
        head: &EventHead,
        progress: DeliveryProgress,
    ) -> Result<DeliveryRecord> {
        let control = &self.readers.control;
        let state = progress.state()?;
        let due = match state {
            DeliveryState::Retrying => self.due(&row)?,
            DeliveryState::Pending
            | DeliveryState::Delivered
            | DeliveryState::Dead
            | DeliveryState::Expired
            | DeliveryState::Cancelled => None,
        };
        Ok(DeliveryRecord {
            seq: row.seq,
            event: head.id,
            event_type: head.event_type.clone(),
            received_at: rows::time(head.received_at)?,
            destination: control.id(row.destination)?,
            pipeline: row.pipeline.map(|it| control.id(it)).transpose()?,
            pipeline_version: row.version,
            replay: row.replay.map(|it| control.id(it)).transpose()?,
            state,
            replayed_as: progress.replayed,
            attempts: progress.attempts,
            due: due.map(rows::time).transpose()?,
            copy: None,
            entries: Vec::new(),
        })
    }

    /// When it is attempted again, as far as `owed.db` has followed.
    fn due(&self, row: &DeliveryRow) -> Result<Option<i64>> {
        let wanted = OwedRow {
            destination: row.destination,
            place: row.place,
            seq: row.seq,
            attempts: 0,
            entries: 0,
            due: None,
            accepted_at: 0,
        };
        Ok(self.owed.these(&[wanted])?.first().and_then(|it| it.due))
    }

    /// How a delivery stands, by the segments that may know.
    pub fn progress(&self, seq: DeliverySeq, about: &[Arc<Segment>]) -> Result<DeliveryProgress> {
        let mut progress = DeliveryProgress::default();
        // The newest knows most.
        for segment in about.iter().rev() {
            let (attempts, ended, replayed): (Option<u16>, Option<i64>, Option<u16>) = segment
                .read(|connection| {
                    let sql = "SELECT max(attempt), max(ended), \
                               max(CASE WHEN ended > 4 THEN duration END) \
                               FROM activity WHERE delivery = ?";
                    let read =
                        |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?, row.get(2)?));
                    Ok(connection.prepare_cached(sql)?.query_row([seq.bits() as i64], read)?)
                })?;
            progress.attempts = progress.attempts.max(attempts.unwrap_or(0));
            progress.ended = progress.ended.max(ended);
            progress.replayed = progress.replayed.max(replayed);
        }
        Ok(progress)
    }
}

impl DeliveryProgress {
    fn of(entries: &[Entry]) -> Self {
        let attempts = entries.iter().map(|it| match it.kind {
            EntryKind::Attempt { number, .. } => number,
            EntryKind::Note { .. } | EntryKind::Replayed { .. } => 0,
        });
        let replayed = entries.iter().filter_map(|it| match it.kind {
            EntryKind::Replayed { by, .. } => Some(by),
            EntryKind::Note { .. } | EntryKind::Attempt { .. } => None,
        });
        Self {
            attempts: attempts.max().unwrap_or(0),
            ended: entries.iter().find_map(|it| it.ended).map(rows::ended_code),
            replayed: replayed.max(),
        }
    }
}

/// What lists say about an event, from the file that holds it.
pub fn head_in(connection: &Connection, seq: EventSeq) -> Result<Option<EventHead>> {
    let sql = "SELECT coalesce(given_id, id), type, received_at FROM events WHERE seq = ?";
    let found = connection
        .prepare_cached(sql)?
        .query_row([seq.0 as i64], |row| {
            Ok((row.get::<_, [u8; 16]>(0)?, row.get::<_, String>(1)?, row.get(2)?))
        })
        .optional()?;
    Ok(found.map(|(id, event_type, received_at)| EventHead {
        id: EventId::from_bits(u128::from_be_bytes(id)),
        event_type: TypeName::trusted(&event_type),
        received_at,
    }))
}

fn deliveries_in(connection: &Connection, event: EventSeq) -> Result<Vec<DeliveryRow>> {
    let columns = without_copy();
    let sql = format!("SELECT {columns} FROM deliveries WHERE seq BETWEEN ? AND ? ORDER BY seq");
    let mut statement = connection.prepare_cached(&sql)?;
    let mut rows = statement.query(rows::deliveries_of(event))?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        found.push(rows::delivery(row)?);
    }
    Ok(found)
}

pub(in crate::store::sqlite) fn skipped_in(
    connection: &Connection,
    event: EventSeq,
) -> Result<Option<Vec<Skipped>>> {
    let reasons: Option<String> = connection
        .prepare_cached("SELECT reasons FROM skipped WHERE event = ?")?
        .query_row([event.0 as i64], |row| row.get(0))
        .optional()?;
    reasons
        .map(|it| serde_json::from_str(&it))
        .transpose()
        .map_err(|_| StoreError::Damaged { what: "reason why an event was skipped" })
}

fn entries_in(connection: &Connection, seq: DeliverySeq, found: &mut Vec<Entry>) -> Result<()> {
    let sql = format!("SELECT {ENTRY_COLUMNS} FROM activity WHERE delivery = ?");
    let mut statement = connection.prepare_cached(&sql)?;
    let mut rows = statement.query([seq.bits() as i64])?;
    while let Some(row) = rows.next()? {
        found.push(rows::entry(row)?);
    }
    Ok(())
}

/// The heads of events that are asked for in order, of which several rows in a row are about one.
#[derive(Default)]
pub struct Heads(Option<(EventSeq, Option<EventHead>)>);

impl Heads {
    /// `own` holds the event, if it is still there.
    pub fn of(&mut self, own: &Connection, cursor: Cursor) -> Result<Option<EventHead>> {
        let event = DeliverySeq::from_bits(cursor.0).event();
        if let Some((last, head)) = &self.0
            && *last == event
        {
            return Ok(head.clone());
        }
        let head = head_in(own, event)?;
        self.0 = Some((event, head.clone()));
        Ok(head)
    }
}

/// Whether a list has enough, after one more row.
pub fn push<T>(list: &mut Vec<T>, item: T, limit: usize) -> ControlFlow<()> {
    list.push(item);
    if list.len() >= limit { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
}
