//! Accepting events.
//!
//! A writer takes what has queued and commits it as one transaction of two round trips: it locks the
//! logs of the shards and looks for keys that were seen before; then it writes the events under the
//! places that follow, and lets go of the logs with the commit. While a log is locked, nobody else
//! can accept events of its projects: so no key is missed, and no place becomes visible before the
//! one in front of it.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Instant,
};

use super::{
    Accepts, Duty,
    batch_queue::{BatchReceiver, Call, CallBatch},
    connect::{BEGIN, COMMIT, Session, Values},
    core::{Core, session},
    error::{is_about_values, is_worth_another_try},
    gate::{First, GateHashes, GateLookup, KNOWN, TAKEN, first_of, without_order},
    rows::{NewDeliveries, NewEntries},
    values::{self, Uuid, seq_to_row},
};
use crate::{
    model::{DeliverySeq, DestinationId, Entry, Event, EventId, EventSeq, Lane, NewEvent, Place},
    store::{Appended, NodeMessage, Result, StoreError},
};

/// Events on their way, accepted together or not at all.
#[derive(Clone)]
pub(super) struct Accept {
    pub offered: Vec<PendingEvent>,
    /// For one event that was sent already.
    pub recorded: Option<Recorded>,
}

#[derive(Clone)]
pub(super) struct PendingEvent {
    pub event: NewEvent,
    pub shard: u16,
    /// Of the payload.
    pub digest: i64,
    pub hashes: GateHashes,
    /// For an event that has none.
    pub id: EventId,
}

#[derive(Clone)]
pub(super) struct Recorded {
    pub destination: DestinationId,
    pub entries: Vec<Entry>,
}

/// What became of them.
#[derive(Default)]
pub(super) struct Accepted {
    pub answers: Vec<Appended>,
    /// The places of those that were first, for each duplicate.
    pub firsts: Vec<EventSeq>,
}

/// What one transaction takes at most.
const BYTES: usize = 4 << 20;
const CALLS: usize = 4096;

const LOCK: &str =
    "SELECT shard, last, room FROM logs WHERE shard = ANY($1) ORDER BY shard FOR UPDATE";
pub(super) const EVENTS: &str = "INSERT INTO events (seq, received_at, timestamp, digest, id, project, source, \
     type, key, metadata, payload) SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], \
     $4::bigint[], $5::uuid[], $6::uuid[], $7::uuid[], $8::text[], $9::text[], $10::bytea[], \
     $11::bytea[])";
const KEYS: &str = "INSERT INTO gate (hash, id, seq) \
     SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::bigint[])";
const EXPIRED: &str = "DELETE FROM gate WHERE hash = ANY($1)";
const MOVE: &str = "UPDATE logs SET last = w.last FROM unnest($1::int[], $2::bigint[]) \
     AS w (shard, last) WHERE logs.shard = w.shard";

/// A writer, until its lane is closed.
pub(super) async fn run(
    core: Arc<Core>,
    hints: Arc<[Accepts]>,
    mut queue: BatchReceiver<Accept, Accepted>,
) {
    let mut kept = None;
    while let Some(CallBatch { calls, flushes }) = queue.take(BYTES, CALLS).await {
        metrics::histogram!("tidegate_store_batch", "work" => "append").record(calls.len() as f64);
        let begun = Instant::now();
        commit(&core, &hints, &mut kept, calls).await;
        metrics::histogram!("tidegate_store_commit_seconds").record(begun.elapsed());
        flushes.answer();
    }
}

async fn commit(
    core: &Core,
    hints: &[Accepts],
    kept: &mut Option<Session>,
    calls: Vec<Call<Accept, Accepted>>,
) {
    if calls.is_empty() {
        return;
    }
    let mut tries = 1;
    let mut tried = try_commit(core, hints, kept, &calls).await;
    while let Err(failed) = &tried
        && is_worth_another_try(&failed.error, tries)
    {
        tries += 1;
        tried = try_commit(core, hints, kept, &calls).await;
    }
    let failed = match tried {
        Ok(accepted) => {
            core.set_full(false);
            for (call, accepted) in calls.into_iter().zip(accepted) {
                call.answer(Ok(accepted));
            }
            return;
        }
        Err(failed) => failed,
    };
    if calls.len() > 1 && failed.is_about_values {
        for call in calls {
            Box::pin(commit(core, hints, kept, vec![call])).await;
        }
        return;
    }
    core.set_full(matches!(failed.error, StoreError::Full));
    metrics::counter!("tidegate_store_commits_failed_total").increment(1);
    let mut error = Some(failed.error);
    for call in calls {
        let error = error.take().unwrap_or_else(|| match core.is_full() {
            true => StoreError::Full,
            false => super::error::unavailable("the commit failed"),
        });
        call.answer(Err(error));
    }
}

/// Why a transaction failed.
pub(super) struct Failed {
    pub error: StoreError,
    pub is_about_values: bool,
}

impl From<tokio_postgres::Error> for Failed {
    fn from(error: tokio_postgres::Error) -> Self {
        Self { is_about_values: is_about_values(&error), error: error.into() }
    }
}

impl From<StoreError> for Failed {
    fn from(error: StoreError) -> Self {
        Self { error, is_about_values: false }
    }
}

async fn try_commit(
    core: &Core,
    hints: &[Accepts],
    kept: &mut Option<Session>,
    calls: &[Call<Accept, Accepted>],
) -> Result<Vec<Accepted>, Failed> {
    let connection = session(core, kept).await?;
    let offered = || calls.iter().flat_map(|it| &it.input.offered);
    let mut shards: Vec<i32> = offered().map(|it| i32::from(it.shard)).collect();
    shards.sort_unstable();
    shards.dedup();
    let asked = GateLookup::of(offered());
    let mut turn = loop {
        let turn = begin(connection, &shards, &asked, calls).await;
        match turn {
            Ok(turn) => match turn.without_room() {
                None => break turn,
                Some((shard, wanted)) => {
                    connection.roll_back().await;
                    make_room(core, connection, shard, wanted).await?;
                }
            },
            Err(failed) => {
                connection.roll_back().await;
                return Err(failed);
            }
        }
    };
    if let Err(failed) = turn.write(connection).await {
        connection.roll_back().await;
        return Err(failed);
    }
    for (shard, events) in std::mem::take(&mut turn.accepted) {
        if !core.leases.holds(Duty::Pipeline, shard) {
            core.notifier.notify(NodeMessage::Events(shard));
        } else if let Some(hints) = hints.get(usize::from(shard)) {
            hints.send(events);
        }
    }
    Ok(turn.answers)
}

/// Makes partitions up to a place.
async fn make_room(
    core: &Core,
    connection: &mut Session,
    shard: i32,
    wanted: i64,
) -> Result<(), Failed> {
    let sql = "SELECT make_room($1, $2, $3)";
    connection.execute(sql, &[&shard, &wanted, &core.partition_events]).await?;
    Ok(())
}

/// Locks the logs, and finds a place for every event that is new.
async fn begin<'a>(
    connection: &mut Session,
    shards: &Vec<i32>,
    asked: &GateLookup,
    calls: &'a [Call<Accept, Accepted>],
) -> Result<AppendBatch<'a>, Failed> {
    let mut steps: Vec<(&'static str, Values<'_>)> = vec![(BEGIN, &[])];
    let shard_values: Values<'_> = &[shards];
    let hash_values: Values<'_> = &[&asked.hashes];
    let id_values: Values<'_> = &[&asked.low, &asked.high];
    steps.push((LOCK, shard_values));
    if !asked.hashes.is_empty() {
        steps.push((KNOWN, hash_values));
    }
    // An event that brings an id has a hash, too.
    if !asked.low.is_empty() {
        steps.push((TAKEN, id_values));
    }
    let found = connection.pipeline(&steps).await?;
    let mut logs = BTreeMap::new();
    for row in found.get(1).into_iter().flatten() {
        let shard: i32 = row.try_get(0)?;
        let log = ShardPosition { last: row.try_get(1)?, room: row.try_get(2)? };
        logs.insert(shard as u16, log);
    }
    let mut known = HashMap::new();
    for row in found.get(2).into_iter().flatten() {
        let (hash, first) = first_of(row)?;
        known.insert(hash, first);
    }
    let mut taken = HashMap::new();
    for row in found.get(3).into_iter().flatten() {
        let project: Uuid = row.try_get(0)?;
        let first = first_of(row)?.1;
        taken.insert((project, without_order(first.id)), first);
    }
    let mut turn = AppendBatch { logs, known, taken, ..AppendBatch::default() };
    for call in calls {
        turn.accept(&call.input)?;
    }
    Ok(turn)
}

struct ShardPosition {
    last: i64,
    room: i64,
}

/// What one transaction writes.
#[derive(Default)]
struct AppendBatch<'a> {
    logs: BTreeMap<u16, ShardPosition>,
    known: HashMap<Uuid, First>,
    /// Events that have an id which is brought here, by project and id.
    taken: HashMap<(Uuid, u128), First>,
    new: Vec<(Arc<Event>, &'a PendingEvent)>,
    keys: (Vec<Uuid>, Vec<Uuid>, Vec<i64>),
    /// Keys that do not count any more.
    expired: Vec<Uuid>,
    deliveries: NewDeliveries,
    entries: NewEntries,
    answers: Vec<Accepted>,
    accepted: BTreeMap<u16, Vec<Arc<Event>>>,
}

impl<'a> AppendBatch<'a> {
    fn accept(&mut self, accept: &'a Accept) -> Result<()> {
        let mut accepted = Accepted::default();
        for offered in &accept.offered {
            if let Some(hash) = offered.hashes.key
                && self.known.get(&hash).is_some_and(|it| !it.counts(&offered.event))
            {
                // The key is taken again, and means the new event from now on.
                self.known.remove(&hash);
                self.expired.push(hash);
            }
            if let Some(first) = self.first(offered) {
                // 0: its body is erased, and with it the answer.
                let same_body = first.digest.filter(|it| *it != 0).map(|it| it == offered.digest);
                let same_type = first.event_type.as_ref().map(|it| *it == offered.event.event_type);
                accepted.answers.push(Appended::Duplicate { id: first.id, same_body, same_type });
                accepted.firsts.push(first.seq);
                continue;
            }
            let event = self.place(offered)?;
            if let Some(recorded) = &accept.recorded {
                self.record(&event, recorded);
            }
            accepted.answers.push(Appended::New(event));
        }
        self.answers.push(accepted);
        Ok(())
    }

    /// The event that had the key first, or else the id.
    fn first(&self, offered: &PendingEvent) -> Option<&First> {
        let known = offered.hashes.iter().find_map(|it| self.known.get(&it));
        known.or_else(|| {
            let id = offered.event.id?;
            self.taken.get(&(offered.event.project.into(), without_order(id)))
        })
    }

    fn place(&mut self, offered: &'a PendingEvent) -> Result<Arc<Event>> {
        let log = self.logs.get_mut(&offered.shard).ok_or(StoreError::Damaged { what: "log" })?;
        log.last += 1;
        let event = Arc::new(accepted(offered, EventSeq(log.last as u64)));
        for hash in offered.hashes.iter() {
            let first = First {
                id: event.id,
                seq: event.seq,
                digest: Some(offered.digest),
                event_type: Some(event.event_type.clone()),
            };
            self.known.insert(hash, first);
            self.keys.0.push(hash);
            self.keys.1.push(event.id.into());
            self.keys.2.push(log.last);
        }
        self.new.push((event.clone(), offered));
        self.accepted.entry(offered.shard).or_default().push(event.clone());
        Ok(event)
    }

    /// It has neither a pipeline nor a replay, which tells it from all others.
    fn record(&mut self, event: &Event, recorded: &Recorded) {
        let seq = DeliverySeq::new(event.seq, 0);
        let place = Place { lane: Lane::NONE, position: 0 };
        self.deliveries.push(seq, place, event.project, recorded.destination);
        for (number, entry) in (1..).zip(&recorded.entries) {
            self.entries.push(
                &Entry { delivery: seq, number, ..entry.clone() },
                event.project,
                recorded.destination,
            );
        }
    }

    /// A shard whose partitions end before its events do, and how far they must reach.
    fn without_room(&self) -> Option<(i32, i64)> {
        let (shard, log) = self.logs.iter().find(|(_, it)| it.last > it.room)?;
        Some((i32::from(*shard), log.last))
    }

    /// Writes all of it, and commits.
    async fn write(&self, connection: &mut Session) -> Result<(), Failed> {
        if self.new.is_empty() {
            return Ok(connection.commit().await?);
        }
        let of = |it: fn(&Event) -> i64| self.new.iter().map(|(event, _)| it(event)).collect();
        let id = |it: fn(&Event) -> Uuid| self.new.iter().map(|(event, _)| it(event)).collect();
        let seqs: Vec<i64> = of(|it| seq_to_row(it.seq));
        let received: Vec<i64> = of(|it| values::micros(it.received_at));
        let timestamps: Vec<i64> = of(|it| values::micros(it.timestamp));
        let digests: Vec<i64> = self.new.iter().map(|it| it.1.digest).collect();
        let ids: Vec<Uuid> = id(|it| it.id.into());
        let projects: Vec<Uuid> = id(|it| it.project.into());
        let sources: Vec<Uuid> = id(|it| it.source.into());
        let types: Vec<&str> = self.new.iter().map(|it| it.0.event_type.as_str()).collect();
        let keys: Vec<Option<&str>> =
            self.new.iter().map(|it| it.0.key.as_ref().map(|it| it.as_str())).collect();
        let metadata: Vec<&[u8]> = self.new.iter().map(|it| &it.0.metadata.bytes()[..]).collect();
        let payloads: Vec<&[u8]> = self.new.iter().map(|it| &it.0.payload.bytes()[..]).collect();
        let (shards, lasts): (Vec<i32>, Vec<i64>) =
            self.logs.iter().map(|(shard, log)| (i32::from(*shard), log.last)).unzip();
        let events: Values<'_> = &[
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
        let key_values: Values<'_> = &[&self.keys.0, &self.keys.1, &self.keys.2];
        let moved: Values<'_> = &[&shards, &lasts];
        let deliveries = self.deliveries.values();
        let entries = self.entries.values();
        let mut steps = vec![(EVENTS, events)];
        let expired: Values<'_> = &[&self.expired];
        if !self.expired.is_empty() {
            steps.push((EXPIRED, expired));
        }
        if !self.keys.0.is_empty() {
            steps.push((KEYS, key_values));
        }
        if !self.deliveries.is_empty() {
            steps.push((NewDeliveries::INSERT, &deliveries));
            steps.push((NewEntries::INSERT, &entries));
        }
        steps.push((MOVE, moved));
        steps.push((COMMIT, &[]));
        connection.pipeline(&steps).await?;
        Ok(())
    }
}

fn accepted(offered: &PendingEvent, seq: EventSeq) -> Event {
    let event = &offered.event;
    Event {
        seq,
        id: event.id.unwrap_or(offered.id),
        project: event.project,
        source: event.source,
        event_type: event.event_type.clone(),
        timestamp: values::rounded(event.timestamp.unwrap_or(event.received_at)),
        received_at: values::rounded(event.received_at),
        key: event.key.clone(),
        metadata: event.metadata.clone(),
        payload: event.payload.clone(),
    }
}
