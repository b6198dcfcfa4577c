//! Taking in what another store had: rows as they are, in batches, each with a mark in the same
//! transaction that says where to go on. A database that is not whole yet is refused by gateways.

mod finish;

pub use self::finish::Rest;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::{
    Options,
    address::Address,
    append::EVENTS,
    connect::{BEGIN, COMMIT, Connector, Session, Values},
    core, migrate,
    rows::NewEntries,
    values::{self, Uuid, delivery_to_row, first_of, lane_to_row, micros, seq_to_row},
};
use crate::{
    model::{DeliverySeq, EventSeq, ProjectId, RawJson, ReplayId},
    store::{
        Result, StoreError,
        sqlite::snapshot::{
            ExportedDelivery, ExportedEntry, ExportedEvent, ExportedMinute, ExportedTally,
        },
    },
};

/// Where a transfer stands, kept in the database that it fills.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Mark {
    /// Tells one source from another.
    source: String,
    /// How the source was when it began.
    state: String,
    pub place: IntakeCursor,
    /// What was taken in, to be compared with what is there at the end.
    totals: BTreeMap<String, Total>,
    is_done: bool,
}

/// Of a file of the source, the part that is being taken in, and behind which row to go on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct IntakeCursor {
    pub segment: u64,
    pub part: u32,
    pub after: (i64, i64),
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Total {
    count: i64,
    sum: i64,
}

/// Why a database does not take a store in.
#[derive(Debug, thiserror::Error)]
pub enum IntakeError {
    #[error("the database holds something else already")]
    Foreign,
    #[error("the embedded store has changed since its transfer began")]
    Changed,
    #[error("a gateway, or another transfer, uses the database")]
    InUse,
    #[error("table `{table}`: the database has {found:?} (rows, checksum), expected {given:?}")]
    Mismatch { table: String, given: (i64, i64), found: (i64, i64) },
    #[error("the database failed")]
    Store(#[from] StoreError),
}

impl From<tokio_postgres::Error> for IntakeError {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Store(error.into())
    }
}

const MARK: &str = "transfer";
const KEEP_MARK: &str = "INSERT INTO meta (name, value) VALUES ($1, $2) \
     ON CONFLICT (name) DO UPDATE SET value = $2";
const SESSION: &str = "SET statement_timeout = 0; SET lock_timeout = 0; \
     SET idle_in_transaction_session_timeout = '60s'; SET synchronous_commit = off; \
     SET enable_seqscan = on; SET enable_hashjoin = on";
const OTHERS: &str = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
     AND application_name = 'tidegate' AND pid <> pg_backend_pid()";
const IS_EMPTY: &str = "SELECT NOT EXISTS (SELECT 1 FROM documents) AND NOT EXISTS (SELECT 1 FROM gate) \
     AND NOT EXISTS (SELECT 1 FROM entities) AND NOT EXISTS (SELECT 1 FROM events)";
/// A key that was taken again means its newest event.
const KEYS: &str = "INSERT INTO gate (hash, id, seq) \
     SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::bigint[]) \
     ON CONFLICT (hash) DO UPDATE SET id = excluded.id, seq = excluded.seq";
const DELIVERIES: &str = "INSERT INTO deliveries (seq, lane, position, project, destination, \
     accepted_at, pipeline, replay, version, fresh_id, copy) SELECT * FROM unnest($1::bigint[], \
     $2::bigint[], $3::bigint[], $4::uuid[], $5::uuid[], $6::bigint[], $7::uuid[], $8::uuid[], \
     $9::int[], $10::bool[], $11::bytea[])";
const SKIPPED: &str = "INSERT INTO skipped (event, reasons) \
     SELECT * FROM unnest($1::bigint[], $2::text[]) \
     ON CONFLICT (event) DO UPDATE SET reasons = excluded.reasons";
const MINUTES: &str = "INSERT INTO minutes SELECT d, m, c[1], c[2], c[3], c[4], c[5], c[6:12] \
     FROM (SELECT $1::uuid AS d, $2::bigint AS m, $3::bigint[] AS c) AS w";
const TALLIES: &str = "INSERT INTO tallies (pipeline, minute, version, counts) \
     SELECT * FROM unnest($1::uuid[], $2::bigint[], $3::int[], $4::bytea[])";
const REPLAYS: &str = "INSERT INTO replays (replay, cursor, done) VALUES ($1, $2, $3) \
     ON CONFLICT (replay) DO UPDATE SET cursor = $2, done = $3";
/// Refuses a database that a transfer has not filled to the end.
pub(super) async fn check_whole(connection: &mut Session) -> Result<()> {
    match read_mark(connection).await? {
        Some(mark) if !mark.is_done => Err(StoreError::Unfinished),
        Some(_) | None => Ok(()),
    }
}

async fn read_mark(connection: &mut Session) -> Result<Option<Mark>> {
    let rows = connection.query("SELECT value FROM meta WHERE name = $1", &[&MARK]).await?;
    let Some(row) = rows.first() else { return Ok(None) };
    let value: Vec<u8> = row.try_get(0)?;
    let mark = serde_json::from_slice(&value);
    mark.map(Some).map_err(|_| StoreError::Damaged { what: "mark of a transfer" })
}

/// Where events of the source stand here.
#[derive(Default)]
pub struct EventMapping {
    shards: u16,
    /// Those that have events.
    used: BTreeSet<u16>,
    /// Events up to here keep their numbers, within the shard of their project.
    through: EventSeq,
    /// The others are numbered behind it, without gaps: a plan is made of the next one only.
    rest: HashMap<u16, Vec<EventSeq>>,
}

impl EventMapping {
    fn shard(&self, project: ProjectId) -> u16 {
        values::shard_of_project(project, self.shards)
    }

    pub fn event(&self, event: EventSeq, project: ProjectId) -> EventSeq {
        let shard = self.shard(project);
        let first = first_of(shard).0;
        if event <= self.through {
            return EventSeq(first + event.0);
        }
        let rank = self.rest.get(&shard).map_or(0, |it| it.partition_point(|it| *it < event));
        EventSeq(first + self.through.0 + 1 + rank as u64)
    }

    fn delivery(&self, seq: DeliverySeq, project: ProjectId) -> DeliverySeq {
        DeliverySeq::new(self.event(seq.event(), project), seq.ordinal())
    }

    /// The last event of a shard.
    fn last(&self, shard: u16) -> EventSeq {
        let rest = self.rest.get(&shard).map_or(0, Vec::len);
        EventSeq(first_of(shard).0 + self.through.0 + rest as u64)
    }
}

/// A database that takes in a store.
pub struct Intake {
    connection: Session,
    mark: Mark,
    places: EventMapping,
    partition_events: i64,
    /// Events whose body is erased: their rows do not say any more which key they had.
    erased: HashMap<Uuid, i64>,
}

impl Intake {
    /// Takes hold of a database that is empty, or in which a transfer from the same source has begun.
    pub async fn open(
        address: &Address,
        options: &Options,
        secret: [u8; 32],
        state: String,
    ) -> Result<Self, IntakeError> {
        let connector = std::sync::Arc::new(Connector::new(address)?);
        let mut connection = connector.connect().await?;
        connection.be_patient();
        connection.batch(SESSION).await?;
        let held = connection.query("SELECT pg_try_advisory_lock(7234003, 2)", &[]).await?;
        let others = connection.query(OTHERS, &[]).await?;
        let is_ours = held.first().is_some_and(|it| it.try_get(0).unwrap_or(false));
        let is_quiet = others.first().is_some_and(|it| it.try_get::<_, i64>(0).unwrap_or(1) == 0);
        if !is_ours || !is_quiet {
            return Err(IntakeError::InUse);
        }
        migrate::migrate(&mut connection).await?;
        let source =
            hex::encode(Sha256::new().chain_update(b"source").chain_update(secret).finalize());
        let mark = match read_mark(&mut connection).await? {
            Some(mark) if mark.source == source && !mark.is_done && mark.state != state => {
                return Err(IntakeError::Changed);
            }
            Some(mark) if mark.source == source => mark,
            Some(_) => return Err(IntakeError::Foreign),
            None => {
                let empty = connection.query(IS_EMPTY, &[]).await?;
                if !empty.first().is_some_and(|it| it.try_get(0).unwrap_or(false)) {
                    return Err(IntakeError::Foreign);
                }
                let mark = Mark { source, state, ..Mark::default() };
                let value = RawJson::of(&mark);
                let secret: Values<'_> = &[&"key_hash", &&secret[..]];
                let kept: Values<'_> = &[&MARK, &&value.bytes()[..]];
                let steps = [(BEGIN, &[] as Values<'_>), (KEEP_MARK, secret), (KEEP_MARK, kept)];
                connection.pipeline(&[&steps[..], &[(COMMIT, &[])]].concat()).await?;
                mark
            }
        };
        let shards = core::shards(&mut connection, options.shards).await?;
        let partition_events = i64::try_from(options.partition_events).unwrap_or(i64::MAX);
        let partition_events = partition_events.clamp(1, 1 << 30);
        let places = EventMapping { shards, ..EventMapping::default() };
        Ok(Self { connection, mark, places, partition_events, erased: HashMap::new() })
    }

    pub fn is_done(&self) -> bool {
        self.mark.is_done
    }

    /// Where it goes on.
    pub fn place(&self) -> IntakeCursor {
        self.mark.place
    }

    /// Rows that were taken in before.
    pub fn taken(&self) -> u64 {
        let tables = ["events", "deliveries", "activity", "skipped"];
        let total = |it: &str| self.mark.totals.get(it).map_or(0, |it| it.count.unsigned_abs());
        tables.into_iter().map(total).sum()
    }

    /// Makes room for the events of these projects: the first of them has this number, and those
    /// behind `through` have no plan.
    pub async fn make_room(
        &mut self,
        projects: &[ProjectId],
        first: EventSeq,
        through: EventSeq,
        unplanned: HashMap<ProjectId, Vec<EventSeq>>,
    ) -> Result<()> {
        self.places.through = through;
        for (project, events) in unplanned {
            self.places.rest.entry(self.places.shard(project)).or_default().extend(events);
        }
        self.places.rest.values_mut().for_each(|it| it.sort_unstable());
        let shards: BTreeSet<u16> = projects.iter().map(|it| self.places.shard(*it)).collect();
        // The numbers of the source are spread over the shards.
        let size = self.partition_events.saturating_mul(shards.len() as i64).min(1 << 30);
        self.places.used.clone_from(&shards);
        for shard in shards {
            let number = i32::from(shard);
            let begin = seq_to_row(first_of(shard)) + first.0.saturating_sub(1) as i64;
            let sql = "UPDATE logs SET room = $2 WHERE shard = $1 AND room < $2 \
                       AND room & ((1::bigint << 40) - 1) = 0";
            self.connection.execute(sql, &[&number, &begin]).await?;
            let last = seq_to_row(self.places.last(shard));
            loop {
                let sql = "SELECT room FROM logs WHERE shard = $1";
                let found = self.connection.query(sql, &[&number]).await?;
                let room: i64 = found.first().map_or(Ok(i64::MAX), |it| it.try_get(0))?;
                if room >= last {
                    break;
                }
                let sql = "SELECT make_room($1, $2, $3)";
                self.connection.execute(sql, &[&number, &(room + 1), &size]).await?;
            }
        }
        Ok(())
    }

    /// Writes a batch and where to go on behind it.
    async fn write(
        &mut self,
        steps: &[(&'static str, Values<'_>)],
        place: IntakeCursor,
        totals: &[(&str, i64, i64)],
    ) -> Result<()> {
        let mut mark = Mark { place, ..self.mark.clone() };
        for (table, count, sum) in totals {
            let total = mark.totals.entry((*table).to_owned()).or_default();
            *total = Total { count: total.count + count, sum: total.sum + sum };
        }
        let value = RawJson::of(&mark);
        let kept: Values<'_> = &[&MARK, &&value.bytes()[..]];
        let mut all: Vec<(&'static str, Values<'_>)> = vec![(BEGIN, &[])];
        all.extend(steps);
        all.extend([(KEEP_MARK, kept), (COMMIT, &[] as Values<'_>)]);
        self.connection.pipeline(&all).await?;
        self.mark = mark;
        Ok(())
    }

    pub async fn events(&mut self, rows: &[ExportedEvent], place: IntakeCursor) -> Result<()> {
        let seq =
            |it: &ExportedEvent| seq_to_row(self.places.event(it.event.seq, it.event.project));
        let seqs: Vec<i64> = rows.iter().map(seq).collect();
        let of = |it: fn(&ExportedEvent) -> i64| rows.iter().map(it).collect::<Vec<i64>>();
        let id = |it: fn(&ExportedEvent) -> Uuid| rows.iter().map(it).collect::<Vec<Uuid>>();
        let types: Vec<&str> = rows.iter().map(|it| it.event.event_type.as_str()).collect();
        let keys: Vec<Option<&str>> =
            rows.iter().map(|it| it.event.key.as_ref().map(|it| it.as_str())).collect();
        let metadata: Vec<&[u8]> = rows.iter().map(|it| &it.event.metadata.bytes()[..]).collect();
        let payloads: Vec<&[u8]> = rows.iter().map(|it| &it.event.payload.bytes()[..]).collect();
        let (received, timestamps, digests) = (
            of(|it| micros(it.event.received_at)),
            of(|it| micros(it.event.timestamp)),
            of(|it| it.digest),
        );
        let (ids, projects, sources) = (
            id(|it| it.event.id.into()),
            id(|it| it.event.project.into()),
            id(|it| it.event.source.into()),
        );
        let values: Values<'_> = &[
            &seqs,
            &received,
            &timestamps,
            &digests,
            &ids,
            &projects,
            &sources,
            &types,
            &keys,
            &metadata,
            &payloads,
        ];
        let mut gate: BTreeMap<Uuid, (Uuid, i64)> = BTreeMap::new();
        for (row, seq) in rows.iter().zip(&seqs) {
            for hash in &row.hashes {
                gate.insert(Uuid(*hash), (row.event.id.into(), *seq));
            }
        }
        let hashes: Vec<Uuid> = gate.keys().copied().collect();
        let (firsts, places): (Vec<Uuid>, Vec<i64>) = gate.into_values().unzip();
        let sum = rows.iter().map(|it| body_sum(&it.event)).sum();
        let keyed: Values<'_> = &[&hashes, &firsts, &places];
        let steps = [(EVENTS, values), (KEYS, keyed)];
        self.write(&steps, place, &[("events", rows.len() as i64, sum)]).await
    }

    pub async fn deliveries(
        &mut self,
        rows: &[ExportedDelivery],
        place: IntakeCursor,
    ) -> Result<()> {
        let of = |it: &dyn Fn(&ExportedDelivery) -> i64| rows.iter().map(it).collect::<Vec<i64>>();
        let seqs = of(&|it| delivery_to_row(self.places.delivery(it.seq, it.project)));
        let lanes = of(&|it| lane_to_row(it.place.lane));
        let positions = of(&|it| it.place.position);
        let projects: Vec<Uuid> = rows.iter().map(|it| it.project.into()).collect();
        let destinations: Vec<Uuid> = rows.iter().map(|it| it.destination.into()).collect();
        let accepted: Vec<Option<i64>> = rows.iter().map(|it| it.accepted_at).collect();
        let pipelines: Vec<Option<Uuid>> =
            rows.iter().map(|it| it.pipeline.map(Uuid::from)).collect();
        let replays: Vec<Option<Uuid>> = rows.iter().map(|it| it.replay.map(Uuid::from)).collect();
        let versions: Vec<i32> =
            rows.iter().map(|it| i32::try_from(it.version).unwrap_or(i32::MAX)).collect();
        let fresh: Vec<bool> = rows.iter().map(|it| it.fresh_id).collect();
        let copies: Vec<Option<&[u8]>> = rows.iter().map(|it| it.copy.as_deref()).collect();
        let values: Values<'_> = &[
            &seqs,
            &lanes,
            &positions,
            &projects,
            &destinations,
            &accepted,
            &pipelines,
            &replays,
            &versions,
            &fresh,
            &copies,
        ];
        let sum = |it: &ExportedDelivery| {
            let copy = it.copy.as_ref().map_or(0, Vec::len) as i64;
            i64::from(it.seq.ordinal()) + i64::from(it.version) + copy
        };
        let total = ("deliveries", rows.len() as i64, rows.iter().map(sum).sum());
        self.write(&[(DELIVERIES, values)], place, &[total]).await
    }

    pub async fn activity(&mut self, rows: &[ExportedEntry], place: IntakeCursor) -> Result<()> {
        let mut entries = NewEntries::default();
        let mut sum = 0;
        for ExportedEntry { entry, project, destination } in rows {
            let delivery = self.places.delivery(entry.delivery, *project);
            let entry = crate::model::Entry { delivery, ..entry.clone() };
            sum += micros(entry.at) % 65521 + i64::from(entry.number);
            entries.push(&entry, *project, *destination);
        }
        let total = ("activity", rows.len() as i64, sum);
        self.write(&[(NewEntries::INSERT, &entries.values())], place, &[total]).await
    }

    pub async fn skipped(
        &mut self,
        rows: &[(EventSeq, ProjectId, String)],
        place: IntakeCursor,
    ) -> Result<()> {
        let seq = |it: &(EventSeq, ProjectId, String)| seq_to_row(self.places.event(it.0, it.1));
        let events: Vec<i64> = rows.iter().map(seq).collect();
        let reasons: Vec<&str> = rows.iter().map(|it| it.2.as_str()).collect();
        let total = ("skipped", rows.len() as i64, 0);
        self.write(&[(SKIPPED, &[&events, &reasons])], place, &[total]).await
    }

    /// The counts and replays of one file, all of them at once.
    pub async fn counts(
        &mut self,
        minutes: &[ExportedMinute],
        tallies: &[ExportedTally],
        replays: &[(ReplayId, ProjectId, Option<DeliverySeq>, u64)],
        place: IntakeCursor,
    ) -> Result<()> {
        let columns: Vec<(Uuid, i64, Vec<i64>)> = minutes
            .iter()
            .map(|it| (it.destination.into(), it.minute, it.counts.to_vec()))
            .collect();
        let minutes: Vec<[&(dyn tokio_postgres::types::ToSql + Sync); 3]> =
            columns.iter().map(|(a, b, c)| [a as _, b as _, c as _]).collect();
        let mut steps: Vec<(&'static str, Values<'_>)> =
            minutes.iter().map(|it| (MINUTES, &it[..])).collect();
        let pipelines: Vec<Uuid> = tallies.iter().map(|it| it.pipeline.into()).collect();
        let times: Vec<i64> = tallies.iter().map(|it| it.minute).collect();
        let versions: Vec<i32> =
            tallies.iter().map(|it| i32::try_from(it.version).unwrap_or(i32::MAX)).collect();
        let counts: Vec<&[u8]> = tallies.iter().map(|it| &it.counts[..]).collect();
        let tallies: Values<'_> = &[&pipelines, &times, &versions, &counts];
        steps.push((TALLIES, tallies));
        let cursors: Vec<(Uuid, Option<i64>, i64)> = replays
            .iter()
            .map(|(replay, project, cursor, done)| {
                let cursor = cursor.map(|it| delivery_to_row(self.places.delivery(it, *project)));
                ((*replay).into(), cursor, *done as i64)
            })
            .collect();
        let replays: Vec<[&(dyn tokio_postgres::types::ToSql + Sync); 3]> =
            cursors.iter().map(|(a, b, c)| [a as _, b as _, c as _]).collect();
        steps.extend(replays.iter().map(|it| (REPLAYS, &it[..])));
        self.write(&steps, place, &[]).await
    }
}

/// As [`SUMS`] has it.
fn body_sum(event: &crate::model::Event) -> i64 {
    let digest = Sha256::new()
        .chain_update(event.metadata.bytes())
        .chain_update(event.payload.bytes())
        .finalize();
    let (first, _) = digest.split_at(4);
    first.iter().fold(0, |sum, byte| sum << 8 | i64::from(*byte))
}
