//! Opening the store: what the writer must know is read from the files, where the last commit left it.

use std::{collections::HashMap, sync::Arc};

use rusqlite::{Connection, OptionalExtension};

use super::{
    group_commit::{self, WriterState},
    memory::{
        memories::Memories,
        minutes::Minutes,
        tallies::Tallies,
        waiting::{self, WaitingPlans},
    },
    plan,
};
use crate::{
    clock::Clock,
    model::{EventId, EventSeq, IdMap, IdSequence, IdempotencyKey},
    store::{
        Result,
        sqlite::{
            error::in_file,
            folder::{files::Folder, lost, manifest::ManifestFile, marks::Marks},
            keys::{KeyIndex, gate::GateKeys, unsynced::UnsyncedKeys},
            owed::{self, Ledger, OwedFile},
            registry::control::Control,
            segment::{active::ActiveSegment, blocks::Packer, segments::Segments},
            status::StoreStatus,
            wal::journal::Journal,
        },
    },
};

pub struct Recovered {
    pub memory: WriterState,
    pub newest: ActiveSegment,
    pub journal: Journal,
    pub owed: OwedFile,
}

#[allow(clippy::too_many_arguments, reason = "each is a part of the store that is being opened")]
pub fn recover(
    folder: &Folder,
    manifest: &ManifestFile,
    marks: &Marks,
    control: Arc<Control>,
    segments: Arc<Segments>,
    status: Arc<StoreStatus>,
    clock: Arc<dyn Clock>,
    secret: [u8; 32],
) -> Result<Recovered> {
    let segment = segments.newest();
    let file = format!("segments/{:016}.db", segment.first().0);
    let newest = ActiveSegment::open(segment.clone()).map_err(in_file(&file, lost::SEGMENTS))?;
    let sync = || newest.log.sync();
    let journal = Journal::open(folder.path(), segment.first(), &newest.connection, marks, sync);
    let journal = journal.map_err(in_file("journal", lost::JOURNAL))?;
    let last = last_event(&segments)?;
    let next_event = EventSeq(last.map_or(0, |it| it.0.0).max(segment.first().0 - 1) + 1);
    let (planned_through, waiting) = planned(&segments, next_event)?;
    let places = group_commit::HighWaterMarks {
        next_event,
        planned_through,
        oldest: segment.oldest()?,
        trimmed: trimmed(&newest.connection)?,
        written: 0,
    };
    let keys = KeyIndex::open(&folder.keys(), secret, status.clone());
    let mut keys = keys.map_err(in_file("keys/", lost::KEYS))?;
    manifest.check_keys(keys.covered())?;
    catch_up(&mut keys, &control, &segments)?;
    let (owed, number) = owed::open(&folder.owed(), &segments)?;
    let ledger = Ledger::new(owed.clone(), number, status)?;
    let memories = Memories::open(&segments)?;
    let memory = WriterState {
        control,
        segments,
        clock,
        keys,
        unsynced: UnsyncedKeys::default(),
        ids: last.map_or_else(IdSequence::default, |it| IdSequence::after(it.1)),
        packer: Packer::new()?,
        ledger,
        minutes: Minutes::default(),
        tallies: Tallies::default(),
        memories,
        replays: HashMap::new(),
        waiting,
        projects: IdMap::default(),
        marks: places,
    };
    Ok(Recovered { memory, newest, journal, owed })
}

/// The last event that there is, with the id that we gave it.
fn last_event(segments: &Segments) -> Result<Option<(EventSeq, EventId)>> {
    for segment in segments.all().iter().rev() {
        let last: Option<(i64, [u8; 16])> = segment.read(|it| {
            let sql = "SELECT seq, id FROM events ORDER BY seq DESC LIMIT 1";
            Ok(it.query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?))).optional()?)
        })?;
        if let Some((seq, id)) = last {
            return Ok(Some((EventSeq(seq as u64), EventId::from_bits(u128::from_be_bytes(id)))));
        }
    }
    Ok(None)
}

/// Up to where events have a plan, and which plans wait. Plans come in accept order, so the newest
/// segment that has one has the last, but for later parts of plans that waited: with those the
/// segment also says how far the others had come. Events that are forgotten had been planned, so
/// that the next event that is still there is the first without.
fn planned(segments: &Segments, next_event: EventSeq) -> Result<(EventSeq, WaitingPlans)> {
    let all = segments.all();
    let (mut through, mut waiting) = (EventSeq(0), WaitingPlans::default());
    for segment in all.iter().rev() {
        if let Some(found) = segment.read(plan::planned_through)? {
            let noted = segment.read(waiting::noted)?;
            if let Some((noted_through, events)) = noted {
                through = noted_through;
                waiting = WaitingPlans::of(existing(segments, events)?);
            }
            through = through.max(found);
            break;
        }
    }
    Ok((first_without(segments, through, next_event)?, waiting))
}

/// Those that are still there.
fn existing(segments: &Segments, events: Vec<EventSeq>) -> Result<Vec<EventSeq>> {
    let mut found = Vec::with_capacity(events.len());
    for event in events {
        let Some(segment) = segments.of_event(event) else { continue };
        let is_there = segment.read(|it| {
            let mut statement = it.prepare_cached("SELECT 1 FROM events WHERE seq = ?")?;
            Ok(statement.exists([event.0 as i64])?)
        })?;
        if is_there {
            found.push(event);
        }
    }
    Ok(found)
}

/// The place before the first event behind `through` that is still there.
fn first_without(segments: &Segments, through: EventSeq, next_event: EventSeq) -> Result<EventSeq> {
    let all = segments.all();
    let start = all.partition_point(|it| it.first() <= through).saturating_sub(1);
    for segment in &all[start..] {
        let next: Option<i64> = segment.read(|it| {
            let sql = "SELECT min(seq) FROM events WHERE seq > ?";
            Ok(it.query_row(sql, [through.0 as i64], |row| row.get(0))?)
        })?;
        if let Some(next) = next {
            return Ok(EventSeq(next as u64 - 1));
        }
    }
    Ok(EventSeq(next_event.0 - 1))
}

/// Redo rows below the first that is still there are deleted.
fn trimmed(connection: &Connection) -> Result<u64> {
    let first: Option<i64> =
        connection.query_row("SELECT min(number) FROM redo", [], |row| row.get(0))?;
    Ok(first.map_or(0, |it| it as u64 - 1))
}

/// Tells the index the keys that it did not have on disk yet.
fn catch_up(keys: &mut KeyIndex, control: &Control, segments: &Segments) -> Result<()> {
    let reader = keys.reader();
    let mut covered = keys.covered();
    let all = segments.all();
    let start = all.partition_point(|it| it.first() <= covered).saturating_sub(1);
    for segment in &all[start..] {
        segment.read(|connection| {
            let mut statement = connection.prepare(
                "SELECT seq, project, key, id, given_id FROM events WHERE seq > ? ORDER BY seq",
            )?;
            let mut rows = statement.query([covered.0 as i64])?;
            while let Some(row) = rows.next()? {
                let id = |bytes: [u8; 16]| EventId::from_bits(u128::from_be_bytes(bytes));
                let key: Option<String> = row.get(2)?;
                let given = row.get::<_, Option<_>>(4)?.map(id);
                let key = key.as_deref().map(IdempotencyKey::trusted);
                let project = control.id(row.get(1)?)?;
                covered = EventSeq(row.get::<_, i64>(0)? as u64);
                let id = given.map_or_else(|| row.get(3).map(id), Ok)?;
                for hash in GateKeys::of(&reader, project, key.as_ref(), given).iter() {
                    keys.add(hash, id, covered);
                }
                keys.pass(covered);
            }
            Ok(())
        })?;
    }
    Ok(())
}
