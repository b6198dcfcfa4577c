//! Making new deliveries of old events. What can be read in advance is read beside the writer,
//! which then looks only at what may have changed since.

use std::sync::Arc;

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, params};

use super::{
    group_commit::{GroupCommit, NewOwed},
    requests::{DeadLetter, Prepared, PreparedItem},
};
use crate::{
    model::{DeliveryId, DeliverySeq, Ended, Entry, EntryKind, EventId, EventSeq, Owed, ReplayId},
    store::{
        ReplayProgress, ReplayStep, Result, StoreError,
        sqlite::{
            error::unavailable,
            owed::OwedRow,
            query::readers::{Readers, next_ordinal_in},
            segment::{
                blocks,
                rows::{self, DeliveryRow},
                segments::Segment,
            },
            wal::statements::Statement,
        },
    },
};

/// Reads what a step needs. Items whose event or delivery is gone are left out.
pub fn prepare(readers: &Readers, step: ReplayStep) -> Result<Prepared> {
    let all = readers.segments.all();
    let unseen = all.last().map_or(EventSeq(0), |it| it.first());
    let replay = readers.control.number(step.replay)?;
    let mut items = Vec::with_capacity(step.items.len());
    for item in &step.items {
        let Some((project, event)) = head_of(readers, item.event)? else { continue };
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
        let replaced = match &like {
            Some(like) => dead_letters(readers, like)?,
            None => Vec::new(),
        };
        let was_replayed = match item.like {
            Some(seq) => log_of(readers, seq)?.was_replayed(),
            None => false,
        };
        let (pipeline, version, copy) = match (&item.replanned, like) {
            (Some(replanned), _) => {
                let copy = replanned.copy.as_ref().map(|it| blocks::packed(&it.to_bytes()));
                let pipeline = readers.control.number(replanned.pipeline)?;
                (Some(pipeline), replanned.pipeline_version, copy.transpose()?)
            }
            (None, Some(like)) => (like.pipeline, like.version, like.copy),
            (None, None) => (None, 0, None),
        };
        let row = DeliveryRow {
            seq: DeliverySeq::first_of(item.event),
            project,
            destination: readers.control.number(item.destination)?,
            pipeline,
            version,
            place: item.place,
            // It waits from now on: an old event must not expire before its first attempt.
            accepted_at: Some(rows::micros(step.at)),
            replay: Some(replay),
            fresh_id: step.fresh_ids,
            copy,
        };
        let (destination, like) = (item.destination, item.like);
        items.push(PreparedItem { destination, row, ordinal, like, replaced, was_replayed, event });
    }
    let progress = progress_in(&all, replay)?;
    Ok(Prepared { items, replay, at: step.at, cursor: step.cursor, progress, unseen })
}

/// The project and the id of an event. `None`: it is gone, or its body is erased.
fn head_of(readers: &Readers, event: EventSeq) -> Result<Option<(i64, EventId)>> {
    let Some(segment) = readers.segments.of_event(event) else { return Ok(None) };
    let found: Option<(i64, [u8; 16])> = segment.read(|it| {
        let sql =
            "SELECT project, coalesce(given_id, id) FROM events WHERE seq = ? AND digest <> 0";
        let mut statement = it.prepare_cached(sql)?;
        let read = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?));
        Ok(statement.query_row([event.0 as i64], read).optional()?)
    })?;
    Ok(found.map(|(project, id)| (project, EventId::from_bits(u128::from_be_bytes(id)))))
}

/// The dead letters among the deliveries of an event to one destination that carry the same as `like`, itself
/// included: an older program did not note which of them were replayed.
fn dead_letters(readers: &Readers, like: &DeliveryRow) -> Result<Vec<DeadLetter>> {
    let about = readers.segments.about_event(like.seq.event())?;
    let mut found = Vec::new();
    for segment in &about {
        let seqs = segment.read(|it| alike_in(it, like))?;
        for seq in seqs {
            let log = log_of(readers, seq)?;
            if let Some(ended) = log.dead_letter()? {
                found.push(DeadLetter { seq, ended, last: log.last });
            }
        }
    }
    Ok(found)
}

fn log_of(readers: &Readers, seq: DeliverySeq) -> Result<DeliveryLog> {
    let mut log = DeliveryLog::default();
    for segment in readers.segments.about_event(seq.event())? {
        log = log.and(segment.read(|it| log_in(it, seq))?);
    }
    Ok(log)
}

fn alike_in(connection: &Connection, like: &DeliveryRow) -> Result<Vec<DeliverySeq>> {
    let sql = "SELECT seq FROM deliveries WHERE seq BETWEEN ? AND ? AND destination = ? \
               AND copy IS ? ORDER BY seq";
    let (first, _) = rows::deliveries_of(like.seq.event());
    let mut statement = connection.prepare_cached(sql)?;
    let values = params![first, like.seq.bits() as i64, like.destination, like.copy];
    let found = statement.query_map(values, |row| row.get::<_, i64>(0))?;
    let found = found.collect::<rusqlite::Result<Vec<i64>>>()?;
    Ok(found.into_iter().map(|it| DeliverySeq::from_bits(it as u64)).collect())
}

/// What a delivery's activity log says about its end.
#[derive(Clone, Copy, Debug, Default)]
struct DeliveryLog {
    /// The highest code.
    ended: Option<i64>,
    last: u16,
}

impl DeliveryLog {
    fn and(self, other: Self) -> Self {
        Self { ended: self.ended.max(other.ended), last: self.last.max(other.last) }
    }

    fn was_replayed(self) -> bool {
        self.ended.is_some_and(|it| rows::end_before(it) != it)
    }

    /// How it ended, if it is a dead letter.
    fn dead_letter(self) -> Result<Option<Ended>> {
        let Some(code) = self.ended.filter(|it| rows::end_before(*it) == *it) else {
            return Ok(None);
        };
        let ended = rows::ended(code)?;
        Ok(matches!(ended, Ended::Dead | Ended::Expired).then_some(ended))
    }
}

fn log_in(connection: &Connection, seq: DeliverySeq) -> Result<DeliveryLog> {
    let sql = "SELECT max(ended), max(number) FROM activity WHERE delivery = ?";
    let mut statement = connection.prepare_cached(sql)?;
    let read = |row: &rusqlite::Row<'_>| {
        Ok(DeliveryLog { ended: row.get(0)?, last: row.get::<_, Option<u16>>(1)?.unwrap_or(0) })
    };
    Ok(statement.query_row([seq.bits() as i64], read)?)
}

/// Show the progress of a replay. The active segment that knows is right.
pub fn progress(readers: &Readers, replay: ReplayId) -> Result<ReplayProgress> {
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

impl GroupCommit<'_> {
    pub fn replay(&mut self, step: &Prepared) -> Result<Result<Vec<Owed>>> {
        let ordinals = match self.ordinals(step)? {
            Ok(ordinals) => ordinals,
            Err(refusal) => return Ok(Err(refusal)),
        };
        let rolled = self.rolled(step);
        let mut owed = Vec::with_capacity(step.items.len());
        for (item, seq) in step.items.iter().zip(ordinals) {
            let Some(seq) = seq else { continue };
            let row = DeliveryRow { seq, copy: None, ..item.row };
            self.insert_delivery(&row, item.row.copy.as_deref())?;
            for dead in &item.replaced {
                // That it may be replayed itself was looked at before.
                if Some(dead.seq) == item.like || !self.was_replayed(dead.seq, &rolled)? {
                    self.replace(dead, item, seq, step.at)?;
                }
            }
            let new = NewOwed {
                seq,
                destination: item.destination,
                place: row.place,
                accepted_at: step.at,
            };
            owed.push(self.owe(new, row.destination));
        }
        // A step before this one may have been in the same batch, unseen by `prepare`.
        let before = self.memory.replays.get(&step.replay).copied().unwrap_or(step.progress);
        let progress =
            ReplayProgress { cursor: step.cursor, done: before.done + owed.len() as u64 };
        let cursor = progress.cursor.map(|it| it.bits() as i64);
        self.writes
            .execute(Statement::Replay, params![step.replay, cursor, progress.done as i64])?;
        self.memory.replays.insert(step.replay, progress);
        Ok(Ok(owed))
    }

    /// A dead letter is none any more.
    fn replace(
        &mut self,
        dead: &DeadLetter,
        item: &PreparedItem,
        by: DeliverySeq,
        at: Timestamp,
    ) -> Result<()> {
        let number = dead.last.saturating_add(1);
        let reason = format!("replayed as {}", DeliveryId::of(item.event, by.ordinal()));
        let entry = Entry {
            delivery: dead.seq,
            number,
            at,
            kind: EntryKind::Replayed { by: by.ordinal(), reason },
            ended: Some(dead.ended),
        };
        let new = NewOwed {
            seq: dead.seq,
            destination: item.destination,
            place: item.row.place,
            accepted_at: at,
        };
        let row = OwedRow::new(&new.owed(), item.row.destination);
        self.insert_entry(&entry, number, &row, item.row.project)
    }

    /// The segments that may not have been seen in advance, but for the newest: that is read through the
    /// transaction, which sees itself.
    fn rolled(&self, step: &Prepared) -> Vec<Arc<Segment>> {
        let all = self.memory.segments.all();
        let unseen = all.partition_point(|it| it.first() < step.unseen);
        all[unseen..all.len().saturating_sub(1).max(unseen)].to_vec()
    }

    /// Whether somebody else has replayed it meanwhile.
    fn was_replayed(&mut self, seq: DeliverySeq, rolled: &[Arc<Segment>]) -> Result<bool> {
        let mut log = log_in(self.writes.read()?, seq)?;
        for segment in rolled {
            log = log.and(segment.read(|it| log_in(it, seq))?);
        }
        Ok(log.was_replayed())
    }

    /// The places of the new deliveries: behind all that their events have, and behind each other. `None`
    /// where somebody else has replayed the dead letter.
    fn ordinals(&mut self, step: &Prepared) -> Result<Result<Vec<Option<DeliverySeq>>>> {
        if !self.memory.ledger.has_room() {
            return Ok(Err(StoreError::Full));
        }
        let rolled = self.rolled(step);
        let mut next = std::collections::HashMap::new();
        let mut likes = std::collections::HashSet::new();
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
            if let Some(like) = item.like
                && (item.was_replayed
                    || (!item.replaced.is_empty() && !likes.insert(like))
                    || self.was_replayed(like, &rolled)?)
            {
                found.push(None);
                continue;
            }
            let ordinal = match next.get(&event) {
                Some(ordinal) => *ordinal,
                None => {
                    let newest = self.writes.read()?;
                    let mut ordinal = item.ordinal.max(next_ordinal_in(newest, event)?);
                    for segment in &rolled {
                        ordinal = ordinal.max(segment.read(|it| next_ordinal_in(it, event))?);
                    }
                    ordinal
                }
            };
            if ordinal >= DeliverySeq::PER_EVENT {
                return Ok(Err(StoreError::TooManyDeliveries));
            }
            next.insert(event, ordinal + 1);
            found.push(Some(DeliverySeq::new(event, ordinal)));
        }
        Ok(Ok(found))
    }
}
