//! Whole rows: how they are written, many at a time, and how they are read.

use std::{sync::Arc, time::Duration};

use tokio_postgres::{Row, types::ToSql};

use super::values::{self, Uuid, delivery_to_row, lane_of_row, lane_to_row};
use crate::{
    model::{
        Altered, DeliverySeq, DestinationId, Entry, EntryKind, Event, IdempotencyKey, Outcome,
        Owed, Place, ProjectId, RawJson, Snippet, Standing, TypeName, headers,
    },
    store::{
        Result, StoreError,
        codes::{class, class_code, ended, ended_code, reason_of_status},
    },
};

type Value<'a> = &'a (dyn ToSql + Sync);

/// Rows of `deliveries` to be written, by column.
#[derive(Default)]
pub(super) struct NewDeliveries {
    seqs: Vec<i64>,
    lanes: Vec<i64>,
    positions: Vec<i64>,
    projects: Vec<Uuid>,
    destinations: Vec<Uuid>,
    pub accepted: Vec<Option<i64>>,
    pub pipelines: Vec<Option<Uuid>>,
    pub replays: Vec<Option<Uuid>>,
    pub versions: Vec<i32>,
    pub fresh: Vec<bool>,
    pub copies: Vec<Option<Vec<u8>>>,
}

impl NewDeliveries {
    pub const INSERT: &str = "INSERT INTO deliveries (seq, lane, position, project, destination, \
         accepted_at, pipeline, replay, version, fresh_id, copy) SELECT * FROM \
         unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::uuid[], $5::uuid[], $6::bigint[], \
         $7::uuid[], $8::uuid[], $9::int[], $10::bool[], $11::bytea[])";

    /// One of no pipeline, no replay and no copy; what else it has is set behind this.
    pub fn push(
        &mut self,
        seq: DeliverySeq,
        place: Place,
        project: ProjectId,
        destination: DestinationId,
    ) {
        self.seqs.push(delivery_to_row(seq));
        self.lanes.push(lane_to_row(place.lane));
        self.positions.push(place.position);
        self.projects.push(project.into());
        self.destinations.push(destination.into());
        self.accepted.push(None);
        self.pipelines.push(None);
        self.replays.push(None);
        self.versions.push(0);
        self.fresh.push(false);
        self.copies.push(None);
    }

    pub fn is_empty(&self) -> bool {
        self.seqs.is_empty()
    }

    pub fn values(&self) -> [Value<'_>; 11] {
        [
            &self.seqs,
            &self.lanes,
            &self.positions,
            &self.projects,
            &self.destinations,
            &self.accepted,
            &self.pipelines,
            &self.replays,
            &self.versions,
            &self.fresh,
            &self.copies,
        ]
    }
}

/// Rows of `activity` to be written, by column.
#[derive(Default)]
pub(super) struct NewEntries {
    deliveries: Vec<i64>,
    pub numbers: Vec<i32>,
    times: Vec<i64>,
    projects: Vec<Option<Uuid>>,
    destinations: Vec<Uuid>,
    attempts: Vec<i32>,
    classes: Vec<Option<i32>>,
    statuses: Vec<Option<i32>>,
    durations: Vec<Option<i64>>,
    pub ends: Vec<Option<i32>>,
    reasons: Vec<Option<Vec<u8>>>,
    waits: Vec<Option<i64>>,
    responses: Vec<Option<Vec<u8>>>,
}

impl NewEntries {
    pub const INSERT: &str = "INSERT INTO activity (delivery, number, at, project, destination, \
         attempt, class, status, duration, ended, reason, retry_after, response) SELECT * FROM \
         unnest($1::bigint[], $2::int[], $3::bigint[], $4::uuid[], $5::uuid[], $6::int[], \
         $7::int[], $8::int[], $9::bigint[], $10::int[], $11::bytea[], $12::bigint[], $13::bytea[])";

    pub fn push(&mut self, entry: &Entry, project: ProjectId, destination: DestinationId) {
        self.push_of(entry, Some(project), destination);
    }

    /// `None`: the project is that of the delivery.
    pub fn push_of(
        &mut self,
        entry: &Entry,
        project: Option<ProjectId>,
        destination: DestinationId,
    ) {
        let (attempt, outcome, note, by) = match &entry.kind {
            EntryKind::Attempt { number, outcome } => (*number, Some(outcome), None, None),
            EntryKind::Note { reason } => (0, None, Some(reason.as_str()), None),
            // It has no end, which it had before; what took its place stands as the duration. A program that does
            // not know this takes it for a note.
            EntryKind::Replayed { by, reason } => (0, None, Some(reason.as_str()), Some(*by)),
        };
        let micros = |it: &Outcome| i64::try_from(it.duration.as_micros()).unwrap_or(i64::MAX);
        let reason = note.or_else(|| outcome.and_then(reason_to_keep));
        self.deliveries.push(delivery_to_row(entry.delivery));
        self.numbers.push(entry.number.into());
        self.times.push(values::micros(entry.at));
        self.projects.push(project.map(Uuid::from));
        self.destinations.push(destination.into());
        self.attempts.push(attempt.into());
        self.classes.push(outcome.map(|it| class_code(it.class) as i32));
        self.statuses.push(outcome.and_then(|it| it.status).map(i32::from));
        self.durations.push(by.map(i64::from).or_else(|| outcome.map(micros)));
        let ended = entry.ended.filter(|_| by.is_none());
        self.ends.push(ended.map(|it| ended_code(it) as i32));
        self.reasons.push(reason.map(|it| it.as_bytes().to_vec()));
        self.waits.push(
            outcome
                .and_then(|it| it.retry_after)
                .map(|it| i64::try_from(it.as_millis()).unwrap_or(i64::MAX)),
        );
        self.responses
            .push(outcome.and_then(|it| it.response.as_ref()).map(|it| it.bytes().to_vec()));
    }

    pub fn is_empty(&self) -> bool {
        self.deliveries.is_empty()
    }

    pub fn values(&self) -> [Value<'_>; 13] {
        [
            &self.deliveries,
            &self.numbers,
            &self.times,
            &self.projects,
            &self.destinations,
            &self.attempts,
            &self.classes,
            &self.statuses,
            &self.durations,
            &self.ends,
            &self.reasons,
            &self.waits,
            &self.responses,
        ]
    }
}

/// Most attempts are accepted, and say nothing that the status does not.
fn reason_to_keep(outcome: &Outcome) -> Option<&str> {
    let is_told = outcome.class == crate::model::Class::Accepted
        && outcome.status.is_some_and(|it| reason_of_status(it) == outcome.reason);
    (!is_told).then_some(outcome.reason.as_str())
}

/// The columns that [`entry`] reads; they stand first in a row.
macro_rules! entry_columns {
    () => {
        "a.delivery, a.number, a.at, a.attempt, a.class, a.status, a.duration, a.ended, a.reason, \
         a.retry_after, a.response"
    };
}

pub(super) fn entry(row: &Row) -> Result<Entry> {
    let number = |column: usize| -> Result<Option<u16>> {
        let found: Option<i32> = row.try_get(column)?;
        Ok(found.map(|it| it as u16))
    };
    let status = number(5)?;
    let reason: Option<Vec<u8>> = row.try_get(8)?;
    let reason = reason.map(|it| String::from_utf8_lossy(&it).into_owned());
    let kind = match number(3)?.unwrap_or(0) {
        0 => {
            let reason = reason.unwrap_or_default();
            match row.try_get::<_, Option<i64>>(6)? {
                Some(by) => EntryKind::Replayed { by: by as u16, reason },
                None => EntryKind::Note { reason },
            }
        }
        attempt => EntryKind::Attempt {
            number: attempt,
            outcome: Outcome {
                class: class(row.try_get::<_, Option<i32>>(4)?.unwrap_or(-1).into())?,
                status,
                reason: reason.or_else(|| status.map(reason_of_status)).unwrap_or_default(),
                retry_after: row
                    .try_get::<_, Option<i64>>(9)?
                    .map(|it| Duration::from_millis(it as u64)),
                duration: Duration::from_micros(
                    row.try_get::<_, Option<i64>>(6)?.unwrap_or(0) as u64
                ),
                response: row
                    .try_get::<_, Option<Vec<u8>>>(10)?
                    .and_then(|it| Snippet::of(&it.into())),
            },
        },
    };
    Ok(Entry {
        delivery: values::delivery_of_row(row.try_get(0)?),
        number: number(1)?.unwrap_or(0),
        at: values::time(row.try_get(2)?)?,
        kind,
        ended: row.try_get::<_, Option<i32>>(7)?.map(|it| ended(it.into())).transpose()?,
    })
}

/// The columns that [`event`] reads; they stand first in a row.
macro_rules! event_columns {
    () => {
        "e.seq, e.id, e.project, e.source, e.type, e.timestamp, e.received_at, e.key, e.metadata, \
         e.payload"
    };
}

pub(super) fn event(row: &Row) -> Result<Event> {
    let id = |column: usize| row.try_get::<_, Uuid>(column);
    let json = |column: usize| row.try_get::<_, Vec<u8>>(column).map(RawJson::trusted);
    Ok(Event {
        seq: values::event_of_row(row.try_get(0)?),
        id: id(1)?.id(),
        project: id(2)?.id(),
        source: id(3)?.id(),
        event_type: TypeName::trusted(row.try_get(4)?),
        timestamp: values::time(row.try_get(5)?)?,
        received_at: values::time(row.try_get(6)?)?,
        key: row.try_get::<_, Option<&str>>(7)?.map(IdempotencyKey::trusted),
        metadata: headers::without_hidden(json(8)?, &[]),
        payload: json(9)?,
    })
}

/// The columns that [`owed`] reads; they stand first in a row.
macro_rules! owed_columns {
    () => {
        "o.destination, o.lane, o.position, o.seq, o.accepted_at, o.due, o.attempts, o.entries"
    };
}

pub(super) use {entry_columns, event_columns, owed_columns};

pub(super) fn owed(row: &Row) -> Result<Owed> {
    let destination: Uuid = row.try_get(0)?;
    let number = |column: usize| row.try_get::<_, i32>(column).map(|it| it as u16);
    Ok(Owed {
        destination: destination.id(),
        place: Place { lane: lane_of_row(row.try_get(1)?), position: row.try_get(2)? },
        seq: values::delivery_of_row(row.try_get(3)?),
        accepted_at: values::time(row.try_get(4)?)?,
        standing: Standing {
            due: row.try_get::<_, Option<i64>>(5)?.map(values::time).transpose()?,
            attempts: number(6)?,
            entries: number(7)?,
        },
    })
}

/// Rows of `open` to be written, by column: nobody attempted them yet.
#[derive(Default)]
pub(super) struct NewOwed {
    destinations: Vec<Uuid>,
    lanes: Vec<i64>,
    positions: Vec<i64>,
    seqs: Vec<i64>,
    accepted: Vec<i64>,
    projects: Vec<Uuid>,
}

impl NewOwed {
    pub const INSERT: &str = "INSERT INTO open (destination, lane, position, seq, accepted_at, \
         project, attempts, entries) SELECT d, l, p, s, a, j, 0, 0 FROM unnest($1::uuid[], \
         $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[], $6::uuid[]) \
         AS w (d, l, p, s, a, j)";

    pub fn push(&mut self, owed: &Owed, project: ProjectId) {
        self.projects.push(project.into());
        self.destinations.push(owed.destination.into());
        self.lanes.push(lane_to_row(owed.place.lane));
        self.positions.push(owed.place.position);
        self.seqs.push(delivery_to_row(owed.seq));
        self.accepted.push(values::micros(owed.accepted_at));
    }

    pub fn is_empty(&self) -> bool {
        self.seqs.is_empty()
    }

    pub fn values(&self) -> [Value<'_>; 6] {
        let Self { destinations, lanes, positions, seqs, accepted, projects } = self;
        [destinations, lanes, positions, seqs, accepted, projects]
    }
}

pub(super) fn copy(bytes: Vec<u8>) -> Result<Arc<Altered>> {
    Altered::from_bytes(bytes).map(Arc::new).ok_or(StoreError::Damaged { what: "copy" })
}
