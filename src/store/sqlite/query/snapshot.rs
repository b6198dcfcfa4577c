//! Everything that the store holds, a batch at a time and in an order that is the same each time, for
//! whoever takes it to another database. Nobody else has the folder open meanwhile.

use std::{collections::HashMap, path::Path, sync::Arc};

use rusqlite::{Connection, OptionalExtension as _, Row};

use super::readers::{EVENT_COLUMNS, Readers};
use crate::{
    clock::Clock,
    hint,
    model::{
        DeliverySeq, DestinationId, Entry, Event, EventId, EventSeq, Owed, PipelineId, Place,
        ProjectId, Remembered, ReplayId,
    },
    store::{
        Document, Entity, Result, StoreError,
        sqlite::{
            Options, RandomSource, SqliteStore,
            keys::{KeyHash, Runs, gate::GateKeys},
            segment::{
                blocks,
                rows::{self, DELIVERY_COLUMNS, DeliveryRow, ENTRY_COLUMNS},
                segments::Segment,
            },
            write::memory::memories,
        },
    },
};

/// Bytes of bodies behind which a batch ends.
const BYTES: usize = 8 << 20;

/// A store that is only read from now on.
#[derive(Clone)]
pub struct Snapshot {
    store: Arc<SqliteStore>,
    /// Of a batch, at most.
    rows: usize,
    runs: Runs,
    /// The last event that a pipeline has seen.
    pub planned_through: EventSeq,
    pub waiting: Arc<Vec<EventSeq>>,
}

/// Some rows, and where they end: `None` at the end of the file. Rows about events that are gone are
/// left out.
pub struct SnapshotChunk<T> {
    pub rows: Vec<T>,
    pub end: Option<(i64, i64)>,
}

pub struct ExportedEvent {
    pub event: Event,
    /// 0: its body is erased.
    pub digest: i64,
    /// What makes it unique.
    pub hashes: Vec<u128>,
}

pub struct ExportedDelivery {
    pub seq: DeliverySeq,
    pub project: ProjectId,
    pub destination: DestinationId,
    pub pipeline: Option<PipelineId>,
    pub replay: Option<ReplayId>,
    pub place: Place,
    pub version: u32,
    pub accepted_at: Option<i64>,
    pub fresh_id: bool,
    pub copy: Option<Vec<u8>>,
}

pub struct ExportedEntry {
    pub entry: Entry,
    pub project: ProjectId,
    pub destination: DestinationId,
}

/// Planned, delivered, failed attempts, dead, dropped, and the seven ranges of durations.
pub struct ExportedMinute {
    pub destination: DestinationId,
    pub minute: i64,
    pub counts: [i64; 12],
}

pub struct ExportedTally {
    pub pipeline: PipelineId,
    pub minute: i64,
    pub version: u32,
    pub counts: Vec<u8>,
}

/// How many rows there are of what there is much of.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sizes {
    pub events: u64,
    pub rows: u64,
    pub keys: u64,
}

impl Snapshot {
    /// Opens the store of this folder, which must be there. It fails while a gateway has it open.
    pub async fn open(
        path: &Path,
        rows: usize,
        clock: Arc<dyn Clock>,
        random: RandomSource,
    ) -> Result<Self> {
        if !path.join("control.db").exists() {
            return Err(crate::store::sqlite::error::unavailable(
                "there is no store in this folder",
            ));
        }
        let path = path.to_owned();
        let store = crate::store::sqlite::blocking(move || {
            let (accepted, _) = hint::channel(1);
            let options = Options { reserve_bytes: 0, ..Options::default() };
            SqliteStore::open(&path, options, clock, random, accepted)
        })
        .await?;
        // What is owed follows the commits at a distance: here it has arrived.
        store.read_owed(|_, _| Ok(())).await?;
        let planned_through = store.status.planned_through();
        let waiting = Arc::new(store.status.waiting());
        let runs = store.keys.runs();
        Ok(Self { store: Arc::new(store), rows, runs, planned_through, waiting })
    }

    /// Works on a thread that may block.
    pub async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Self) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let this = self.clone();
        crate::store::sqlite::blocking(move || read(&this)).await
    }

    fn readers(&self) -> &Readers {
        &self.store.readers
    }

    /// What the keys' hashes are made with. Whoever has it can go on with them.
    pub fn secret(&self) -> Result<[u8; 32]> {
        const MISSING: StoreError = StoreError::Damaged { what: "secret of key hashes" };
        let secret = self.readers().control.secret("key_hash", || [0; 32])?;
        if secret == [0; 32] { Err(MISSING) } else { Ok(secret) }
    }

    pub fn documents(&self) -> Result<Vec<Document>> {
        self.readers().control.load()
    }

    pub fn memories(&self) -> Result<Vec<Remembered>> {
        memories::read(self.readers())
    }

    /// The files, from old to new, by their first events.
    pub fn segments(&self) -> Vec<EventSeq> {
        self.readers().segments.all().iter().map(|it| it.first()).collect()
    }

    fn segment(&self, first: EventSeq) -> Result<Arc<Segment>> {
        let all = self.readers().segments.all();
        let found = all.iter().find(|it| it.first() == first).cloned();
        found.ok_or(StoreError::Damaged { what: "list of segments" })
    }

    pub fn sizes(&self) -> Result<Sizes> {
        let mut sizes = Sizes { keys: self.store.keys.count(), ..Sizes::default() };
        for segment in self.readers().segments.all().iter() {
            let sql = "SELECT (SELECT count(*) FROM events), (SELECT count(*) FROM deliveries) + \
                       (SELECT count(*) FROM activity) + (SELECT count(*) FROM skipped)";
            let (events, rows): (i64, i64) = segment
                .read(|it| Ok(it.query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?)))?))?;
            sizes.events += events as u64;
            sizes.rows += rows as u64;
        }
        Ok(sizes)
    }

    /// Of the events that no pipeline has seen, the places by project.
    pub fn unplanned(&self) -> Result<HashMap<ProjectId, Vec<EventSeq>>> {
        let mut found: HashMap<ProjectId, Vec<EventSeq>> = HashMap::new();
        for segment in self.readers().segments.all().iter() {
            let sql = "SELECT seq, project FROM events WHERE seq > ? ORDER BY seq";
            let rows: Vec<(i64, i64)> = segment.read(|it| {
                many(it, sql, self.planned_through.0 as i64, |row| Ok((row.get(0)?, row.get(1)?)))
            })?;
            for (seq, project) in rows {
                let project = self.readers().control.id(project)?;
                found.entry(project).or_default().push(EventSeq(seq as u64));
            }
        }
        Ok(found)
    }

    /// The projects that have events.
    pub fn projects(&self) -> Result<Vec<ProjectId>> {
        let mut found = std::collections::BTreeSet::new();
        for segment in self.readers().segments.all().iter() {
            let sql = "SELECT DISTINCT project FROM events WHERE seq > ?";
            for number in segment.read(|it| many(it, sql, -1, |row| row.get::<_, i64>(0)))? {
                found.insert(self.readers().control.id(number)?);
            }
        }
        Ok(found.into_iter().collect())
    }

    /// Whose event it is; `None` when it is gone.
    pub fn project_of(&self, event: EventSeq) -> Result<Option<ProjectId>> {
        let Some(segment) = self.readers().segments.of_event(event) else { return Ok(None) };
        let number: Option<i64> = segment.read(|it| {
            let mut statement = it.prepare_cached("SELECT project FROM events WHERE seq = ?")?;
            Ok(statement.query_row([event.0 as i64], |row| row.get(0)).optional()?)
        })?;
        number.map(|it| self.readers().control.id(it)).transpose()
    }

    pub fn events(&self, segment: EventSeq, after: i64) -> Result<SnapshotChunk<ExportedEvent>> {
        let sql = format!(
            "SELECT {EVENT_COLUMNS}, given_id FROM events NOT INDEXED WHERE seq > ? \
             ORDER BY seq LIMIT {}",
            self.rows
        );
        let keys = &self.store.keys;
        self.segment(segment)?.read(|connection| {
            let mut statement = connection.prepare_cached(&sql)?;
            let mut rows = statement.query([after])?;
            let (mut found, mut bytes) = (SnapshotChunk { rows: Vec::new(), end: None }, 0);
            while let Some(row) = rows.next()? {
                let event = self.readers().event_of_row(connection, row)?;
                let given = row.get::<_, Option<[u8; 16]>>(10)?.map(|_| event.id);
                let hash = GateKeys::of(keys, event.project, event.key.as_ref(), given);
                bytes += event.weight();
                found.end = Some((event.seq.0 as i64, 0));
                let hashes = hash.iter().map(KeyHash::bits).collect();
                found.rows.push(ExportedEvent { digest: row.get(9)?, hashes, event });
                if bytes >= BYTES {
                    break;
                }
            }
            Ok(found)
        })
    }

    pub fn deliveries(
        &self,
        segment: EventSeq,
        after: i64,
    ) -> Result<SnapshotChunk<ExportedDelivery>> {
        let sql = format!(
            "SELECT {DELIVERY_COLUMNS} FROM deliveries NOT INDEXED WHERE seq > ? \
             ORDER BY seq LIMIT {}",
            self.rows
        );
        let taken = self.segment(segment)?.read(|connection| {
            let mut statement = connection.prepare_cached(&sql)?;
            let mut rows = statement.query([after])?;
            let (mut found, mut bytes) = (Vec::new(), 0);
            while bytes < BYTES
                && let Some(row) = rows.next()?
            {
                let row = rows::delivery(row)?;
                bytes += row.copy.as_ref().map_or(0, Vec::len);
                found.push(row);
            }
            Ok(found)
        })?;
        let end = taken.last().map(|it| (it.seq.bits() as i64, 0));
        let mut found = SnapshotChunk { rows: Vec::with_capacity(taken.len()), end };
        for row in taken {
            if self.project_of(row.seq.event())?.is_some() {
                found.rows.push(self.delivery(row)?);
            }
        }
        Ok(found)
    }

    fn delivery(&self, row: DeliveryRow) -> Result<ExportedDelivery> {
        let control = &self.readers().control;
        Ok(ExportedDelivery {
            seq: row.seq,
            project: control.id(row.project)?,
            destination: control.id(row.destination)?,
            pipeline: row.pipeline.map(|it| control.id(it)).transpose()?,
            replay: row.replay.map(|it| control.id(it)).transpose()?,
            place: row.place,
            version: row.version,
            accepted_at: row.accepted_at,
            fresh_id: row.fresh_id,
            copy: row.copy.map(|it| blocks::unpack(&it)).transpose()?,
        })
    }

    pub fn activity(
        &self,
        segment: EventSeq,
        after: (i64, i64),
    ) -> Result<SnapshotChunk<ExportedEntry>> {
        let sql = format!(
            "SELECT {ENTRY_COLUMNS}, project, destination FROM activity \
             WHERE (delivery, number) > (?, ?) ORDER BY delivery, number LIMIT {}",
            self.rows
        );
        let control = &self.readers().control;
        let taken = self.segment(segment)?.read(|connection| {
            let mut statement = connection.prepare_cached(&sql)?;
            let mut rows = statement.query([after.0, after.1])?;
            let mut found = Vec::new();
            while let Some(row) = rows.next()? {
                found.push(ExportedEntry {
                    entry: rows::entry(row)?,
                    project: control.id(row.get(11)?)?,
                    destination: control.id(row.get(12)?)?,
                });
            }
            Ok(found)
        })?;
        let end = taken.last().map(|it| (it.entry.delivery.bits() as i64, it.entry.number.into()));
        let mut found = SnapshotChunk { rows: Vec::with_capacity(taken.len()), end };
        for it in taken {
            if self.project_of(it.entry.delivery.event())?.is_some() {
                found.rows.push(it);
            }
        }
        Ok(found)
    }

    /// Events with the reasons why their plans went no further.
    pub fn skipped(
        &self,
        segment: EventSeq,
        after: i64,
    ) -> Result<SnapshotChunk<(EventSeq, ProjectId, String)>> {
        let sql = format!(
            "SELECT event, reasons FROM skipped WHERE event > ? ORDER BY event LIMIT {}",
            self.rows
        );
        let read = |row: &Row<'_>| Ok((row.get::<_, i64>(0)?, row.get::<_, String>(1)?));
        let taken = self.segment(segment)?.read(|it| many(it, &sql, after, read))?;
        let mut found = SnapshotChunk { rows: Vec::new(), end: taken.last().map(|it| (it.0, 0)) };
        for (event, reasons) in taken {
            let event = EventSeq(event as u64);
            if let Some(project) = self.project_of(event)? {
                found.rows.push((event, project, reasons));
            }
        }
        Ok(found)
    }

    pub fn minutes(&self, segment: EventSeq) -> Result<Vec<ExportedMinute>> {
        let sql = "SELECT destination, minute, planned, delivered, failed_attempts, dead, dropped, \
                   below_10ms, below_50ms, below_100ms, below_500ms, below_1s, below_5s, longer \
                   FROM minutes WHERE minute > ?";
        let read = |row: &Row<'_>| {
            let mut counts = [0; 12];
            for (place, count) in (2..).zip(&mut counts) {
                *count = row.get(place)?;
            }
            Ok((row.get::<_, i64>(0)?, row.get(1)?, counts))
        };
        let taken = self.segment(segment)?.read(|it| many(it, sql, i64::MIN, read))?;
        let minute = |(number, minute, counts)| {
            let destination = self.readers().control.id(number)?;
            Ok(ExportedMinute { destination, minute, counts })
        };
        taken.into_iter().map(minute).collect()
    }

    pub fn tallies(&self, segment: EventSeq) -> Result<Vec<ExportedTally>> {
        let sql = "SELECT pipeline, minute, version, counts FROM tallies WHERE minute > ?";
        let read = |row: &Row<'_>| {
            Ok((row.get::<_, i64>(0)?, row.get(1)?, row.get(2)?, row.get::<_, Vec<u8>>(3)?))
        };
        let taken = self.segment(segment)?.read(|it| many(it, sql, i64::MIN, read))?;
        let tally = |(number, minute, version, counts)| {
            let pipeline = self.readers().control.id(number)?;
            Ok(ExportedTally { pipeline, minute, version, counts })
        };
        taken.into_iter().map(tally).collect()
    }

    /// Replays with their place and how many deliveries they made, as this file tells it.
    pub fn replays(&self, segment: EventSeq) -> Result<Vec<(ReplayId, Option<DeliverySeq>, u64)>> {
        let sql = "SELECT replay, cursor, done FROM replays WHERE replay > ?";
        let read = |row: &Row<'_>| {
            Ok((row.get::<_, i64>(0)?, row.get::<_, Option<i64>>(1)?, row.get::<_, i64>(2)?))
        };
        let taken = self.segment(segment)?.read(|it| many(it, sql, i64::MIN, read))?;
        let replay = |(number, cursor, done): (i64, Option<i64>, i64)| {
            let cursor = cursor.map(|it| DeliverySeq::from_bits(it as u64));
            Ok((self.readers().control.id(number)?, cursor, done as u64))
        };
        taken.into_iter().map(replay).collect()
    }

    /// What a destination is owed behind a place, in the order of (place, seq).
    pub fn owed(
        &self,
        number: i64,
        after: Option<(Place, DeliverySeq)>,
    ) -> Result<Vec<(Owed, ProjectId)>> {
        let mut found = Vec::new();
        for row in self.store.owed.line(number, after, usize::MAX, self.rows)? {
            // An event that is owed is never forgotten.
            if let Some(project) = self.project_of(row.seq.event())? {
                found.push((row.to_owed(&self.readers().control)?, project));
            }
        }
        Ok(found)
    }

    /// The destinations that are owed something, as `owed.db` calls them.
    pub fn owing(&self) -> Result<Vec<i64>> {
        let mut found: Vec<i64> = self.store.owed.backlog()?.into_iter().map(|it| it.0).collect();
        found.sort_unstable();
        Ok(found)
    }

    /// Rows of the directory behind a place, in their order.
    pub fn entities(
        &self,
        after: &(ProjectId, String, String),
    ) -> Result<Vec<(ProjectId, String, Entity)>> {
        self.store.directory.behind(after, self.rows)
    }

    /// The runs of keys, from new to old, in which forgotten events have theirs.
    pub fn runs(&self) -> usize {
        self.runs.len()
    }

    /// A part of a run, from its `from`-th key on, in the order of the hashes.
    pub fn keys(&self, run: usize, from: usize) -> Result<Vec<(u128, EventId)>> {
        let items = self.runs.items(run, from, 4 * self.rows)?;
        Ok(items.into_iter().map(|(hash, id)| (hash.bits(), id)).collect())
    }
}

fn many<T>(
    connection: &Connection,
    sql: &str,
    after: i64,
    read: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
) -> Result<Vec<T>> {
    let mut statement = connection.prepare(sql)?;
    let rows = statement.query_map([after], read)?;
    Ok(rows.collect::<Result<_, _>>()?)
}
