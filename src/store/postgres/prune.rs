//! Retention: forgetting events that are older than their project wants, and all that is about them.
//!
//! A partition of which nothing must stay is dropped; one of which a good part may go loses it row by
//! row, in small steps. An event of which something is owed, or that has no whole plan yet, stays.
//! Each node does it for the shards whose pipelines it runs.

use jiff::{SignedDuration, Timestamp};

use super::{
    Duty,
    connect::Session,
    core::Core,
    error::unavailable,
    leases::CHECK,
    lock, minutes,
    values::{self, Uuid, first_of, seq_to_row},
};
use crate::{
    model::ProjectId,
    store::{Result, StoreError},
};

/// Of a partition's events, the share that must be gone before the rest is worth the work.
const WORTHWHILE_PERCENT: i64 = 30;
/// Events that go in one transaction.
const STEP: i64 = 2_000;

/// A partition of one shard: its events are those from `first` on and before `end`.
struct Partition {
    shard: u16,
    /// What its tables are called behind `events_`.
    suffix: String,
    first: i64,
    end: i64,
}

/// Before which time the events of each project may go, by column.
struct Horizons {
    projects: Vec<Uuid>,
    times: Vec<i64>,
}

const PARTITIONS: &str = "SELECT substr(c.relname, length('events_') + 1)::text \
     FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid WHERE i.inhparent = 'events'::regclass";
const OLDEST: &str =
    "SELECT received_at FROM events WHERE seq >= $1 AND seq < $2 ORDER BY seq LIMIT 1";
const TALLY: &str = "SELECT count(*), count(*) FILTER (WHERE e.received_at < h.time) FROM events e \
     LEFT JOIN unnest($3::uuid[], $4::bigint[]) AS h (project, time) ON h.project = e.project \
     WHERE e.seq >= $1 AND e.seq < $2";
/// Whether something in the partition is still to be done.
const BUSY: &str = "SELECT EXISTS (SELECT 1 FROM open WHERE seq >= $1::bigint << 11 \
     AND seq < $2::bigint << 11) OR EXISTS (SELECT 1 FROM waiting WHERE event >= $1 AND event < $2) \
     OR (SELECT through FROM plans WHERE shard = $3) < $2 - 1";
const LOCK: &str = "SELECT 1 FROM plans WHERE shard = $1 FOR UPDATE";
const FORGET: &str = "WITH old AS MATERIALIZED (SELECT e.seq FROM events e \
     JOIN unnest($3::uuid[], $4::bigint[]) AS h (project, time) ON h.project = e.project \
     WHERE e.seq >= $1 AND e.seq < $2 AND e.received_at < h.time \
     AND e.seq <= (SELECT through FROM plans WHERE shard = $5) \
     AND NOT EXISTS (SELECT 1 FROM waiting w WHERE w.event = e.seq) \
     AND NOT EXISTS (SELECT 1 FROM deliveries d JOIN open o ON o.destination = d.destination \
     AND o.lane = d.lane AND o.position = d.position AND o.seq = d.seq \
     WHERE d.seq >= e.seq << 11 AND d.seq < (e.seq + 1) << 11) ORDER BY e.seq LIMIT $6), \
     deliveries AS (DELETE FROM deliveries d USING old \
     WHERE d.seq >= old.seq << 11 AND d.seq < (old.seq + 1) << 11), \
     activity AS (DELETE FROM activity a USING old \
     WHERE a.delivery >= old.seq << 11 AND a.delivery < (old.seq + 1) << 11), \
     skipped AS (DELETE FROM skipped s USING old WHERE s.event = old.seq) \
     DELETE FROM events e USING old WHERE e.seq = old.seq RETURNING e.seq";

pub(super) async fn prune(core: &Core, horizons: &[(ProjectId, Timestamp)]) -> Result<u64> {
    let horizons = Horizons {
        projects: horizons.iter().map(|it| it.0.into()).collect(),
        times: horizons.iter().map(|it| values::micros(it.1)).collect(),
    };
    let mut loan = core.session().await?;
    let session = loan.session()?;
    // Here whole partitions are read, and compared with a list of projects.
    session.batch("SET enable_hashjoin = on").await?;
    let count = prune_in(core, session, &horizons).await;
    session.batch("SET enable_hashjoin = off").await?;
    count
}

async fn prune_in(core: &Core, session: &mut Session, horizons: &Horizons) -> Result<u64> {
    let now = core.clock.now();
    minutes::fold(session, now.as_second().div_euclid(60) - 1).await?;
    let mut count = 0;
    for partition in partitions(core, session).await? {
        core.check_open()?;
        let rest = lock(&core.unworthy).get(&partition.suffix).copied();
        if rest.is_some_and(|it| core.clock.steady() < it) {
            continue;
        }
        let gone = forget(core, session, &partition, horizons).await;
        if gone.is_err() {
            session.roll_back().await;
        }
        count += gone?;
    }
    metrics::counter!("tidegate_store_events_forgotten_total").increment(count);
    Ok(count)
}

/// Those of the shards whose pipelines this node runs.
async fn partitions(core: &Core, session: &mut Session) -> Result<Vec<Partition>> {
    let mut found = Vec::new();
    for row in session.query(PARTITIONS, &[]).await? {
        let suffix: String = row.try_get(0)?;
        let numbers = suffix.split_once('_').and_then(|(shard, first)| {
            Some((shard.parse::<u16>().ok()?, first.parse::<i64>().ok()?))
        });
        let (shard, first) = numbers.ok_or(StoreError::Damaged { what: "name of a partition" })?;
        if core.leases.holds(Duty::Pipeline, shard) {
            let first = seq_to_row(first_of(shard)) + first;
            found.push(Partition { shard, suffix, first, end: i64::MAX });
        }
    }
    found.sort_unstable_by_key(|it| it.first);
    let mut next: Option<(u16, i64)> = None;
    for partition in found.iter_mut().rev() {
        // Behind the last one of a shard nothing is written before there is another.
        partition.end = match next {
            Some((shard, first)) if shard == partition.shard => first,
            _ => seq_to_row(first_of(partition.shard + 1)),
        };
        next = Some((partition.shard, partition.first));
    }
    Ok(found)
}

async fn forget(
    core: &Core,
    session: &mut Session,
    partition: &Partition,
    horizons: &Horizons,
) -> Result<u64> {
    /// Counting takes a while: what is kept is looked at so rarely.
    const REST: SignedDuration = SignedDuration::from_mins(10);
    let (first, end) = (partition.first, partition.end);
    let oldest = session.query(OLDEST, &[&first, &end]).await?;
    let oldest = oldest.first().map(|it| it.try_get::<_, i64>(0)).transpose()?;
    let latest = horizons.times.iter().max();
    if let (Some(oldest), Some(latest)) = (oldest, latest)
        && oldest >= *latest
    {
        return Ok(0);
    }
    let Horizons { projects, times } = horizons;
    let tally = session.query(TALLY, &[&first, &end, projects, times]).await?;
    let tally = tally.first().ok_or_else(|| unavailable("no count"))?;
    let (all, old): (i64, i64) = (tally.try_get(0)?, tally.try_get(1)?);
    let is_last = end == seq_to_row(first_of(partition.shard + 1));
    if all == old && !is_last && drop_partition(core, session, partition).await? {
        return Ok(all as u64);
    }
    if old == 0 || old * 100 < all * WORTHWHILE_PERCENT {
        let until = core.clock.steady().checked_add(REST).unwrap_or(Timestamp::MAX);
        lock(&core.unworthy).insert(partition.suffix.clone(), until);
        return Ok(0);
    }
    let mut count = 0;
    loop {
        core.check_open()?;
        let gone = step(core, session, partition, horizons).await?;
        count += gone;
        if gone < STEP as u64 {
            return Ok(count);
        }
    }
}

/// `false`: something in it is still to be done, or somebody reads it for long.
async fn drop_partition(core: &Core, session: &mut Session, partition: &Partition) -> Result<bool> {
    begin(core, session, partition.shard).await?;
    let Partition { shard, suffix, first, end } = partition;
    let busy = session.query(BUSY, &[first, end, &i32::from(*shard)]).await?;
    let is_busy = busy.first().is_none_or(|it| it.try_get(0).unwrap_or(true));
    if is_busy {
        session.roll_back().await;
        return Ok(false);
    }
    // Whoever comes meanwhile waits behind this, and so it must not wait for long itself.
    let sql = format!(
        "SET LOCAL lock_timeout = '500ms'; \
         DROP TABLE events_{suffix}, deliveries_{suffix}, activity_{suffix}, skipped_{suffix}"
    );
    if let Err(error) = session.batch(&sql).await {
        let error = super::error::DatabaseMessage::of(&error);
        tracing::warn!(%error, "a partition could not be dropped; trying again later");
        session.roll_back().await;
        return Ok(false);
    }
    session.commit().await?;
    Ok(true)
}

async fn step(
    core: &Core,
    session: &mut Session,
    partition: &Partition,
    horizons: &Horizons,
) -> Result<u64> {
    begin(core, session, partition.shard).await?;
    let Horizons { projects, times } = horizons;
    let (first, end, shard) = (partition.first, partition.end, i32::from(partition.shard));
    let gone = session.execute(FORGET, &[&first, &end, projects, times, &shard, &STEP]).await?;
    session.commit().await?;
    Ok(gone)
}

/// While it is locked, no replay makes a delivery of an event that goes.
async fn begin(core: &Core, session: &mut Session, shard: u16) -> Result<()> {
    let claim = core.leases.claim(Duty::Pipeline, std::iter::once(shard))?;
    session.begin().await?;
    session.query(CHECK, &[&claim.duty, &claim.shards, &claim.epochs]).await?;
    session.query(LOCK, &[&i32::from(shard)]).await?;
    Ok(())
}
