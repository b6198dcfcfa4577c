//! What steps of pipelines remember, and what happened at each place of them: kept with the plans.

use std::collections::{BTreeMap, HashMap};

use jiff::Timestamp;

use super::{
    Duty,
    connect::{BEGIN, COMMIT, Values},
    core::Core,
    leases::CHECK,
    values::{self, Uuid},
};
use crate::{
    model::{Counted, Memory, MemoryKey, Passed, PipelineId, Remembered, StepId, Tally},
    store::{
        Result, StoreError,
        counts::{Counts, add_packed, pack},
    },
};

/// What one transaction changes of the memories. Of two changes of one, the later counts.
#[derive(Default)]
pub(super) struct Changes {
    latest: HashMap<(StepId, MemoryKey), (u16, Option<Memory>)>,
    kept: MemoryKeys,
    /// The shards and memories of those that are kept.
    now: (Vec<i32>, Vec<Vec<u8>>),
    gone: MemoryKeys,
}

/// Pipelines, steps and keys.
type MemoryKeys = (Vec<Uuid>, Vec<i64>, Vec<Vec<u8>>);

pub(super) const KEEP: &str = "INSERT INTO memories (pipeline, step, key, shard, memory) \
     SELECT * FROM unnest($1::uuid[], $2::bigint[], $3::bytea[], $4::int[], $5::bytea[]) \
     ON CONFLICT (pipeline, step, key) \
     DO UPDATE SET shard = excluded.shard, memory = excluded.memory";
pub(super) const FORGET: &str = "DELETE FROM memories m \
     USING unnest($1::uuid[], $2::bigint[], $3::bytea[]) AS w (pipeline, step, key) \
     WHERE m.pipeline = w.pipeline AND m.step = w.step AND m.key = w.key";

impl Changes {
    pub fn add(&mut self, shard: u16, changes: &[Remembered]) {
        for it in changes {
            self.latest.insert((it.step, it.key.clone()), (shard, it.memory.clone()));
        }
    }

    /// Makes columns of what was added.
    pub fn close(&mut self) {
        for ((step, key), (shard, memory)) in self.latest.drain() {
            let places = match memory {
                Some(memory) => {
                    self.now.0.push(i32::from(shard));
                    self.now.1.push(memory.to_bytes());
                    &mut self.kept
                }
                None => &mut self.gone,
            };
            places.0.push(step.pipeline.into());
            places.1.push(step.hash as i64);
            places.2.push(key.into_vec());
        }
    }

    pub fn has_kept(&self) -> bool {
        !self.kept.0.is_empty()
    }

    pub fn has_gone(&self) -> bool {
        !self.gone.0.is_empty()
    }

    pub fn kept(&self) -> [&(dyn tokio_postgres::types::ToSql + Sync); 5] {
        [&self.kept.0, &self.kept.1, &self.kept.2, &self.now.0, &self.now.1]
    }

    pub fn gone(&self) -> [&(dyn tokio_postgres::types::ToSql + Sync); 3] {
        [&self.gone.0, &self.gone.1, &self.gone.2]
    }
}

/// All that is remembered, or that of one shard.
pub(super) async fn all(core: &Core, shard: Option<u16>) -> Result<Vec<Remembered>> {
    let sql = "SELECT pipeline, step, key, memory FROM memories \
               WHERE $1::int IS NULL OR shard = $1 ORDER BY pipeline, step, key";
    let mut loan = core.pool.get().await?;
    let session = loan.session()?;
    let rows = session.query(sql, &[&shard.map(i32::from)]).await?;
    let mut found = Vec::with_capacity(rows.len());
    for row in rows {
        let pipeline: Uuid = row.try_get(0)?;
        let step: i64 = row.try_get(1)?;
        let key: Vec<u8> = row.try_get(2)?;
        let memory: Vec<u8> = row.try_get(3)?;
        let memory = Memory::from_bytes(&memory);
        let memory = Some(memory.ok_or(StoreError::Damaged { what: "memory of a step" })?);
        let step = StepId { pipeline: pipeline.id(), hash: step as u64 };
        found.push(Remembered { step, key: key.into(), memory });
    }
    Ok(found)
}

/// Changes some of it beside the plans, for the holder of a shard.
pub(super) async fn change(core: &Core, shard: u16, changes: &[Remembered]) -> Result<()> {
    let claim = core.leases.claim(Duty::Pipeline, [shard].into_iter())?;
    let mut all = Changes::default();
    all.add(shard, changes);
    all.close();
    let claimed: Values<'_> = &[&claim.duty, &claim.shards, &claim.epochs];
    let (kept, gone) = (all.kept(), all.gone());
    let mut steps: Vec<(&'static str, Values<'_>)> = vec![(BEGIN, &[]), (CHECK, claimed)];
    if all.has_kept() {
        steps.push((KEEP, &kept));
    }
    if all.has_gone() {
        steps.push((FORGET, &gone));
    }
    steps.push((COMMIT, &[]));
    let mut loan = core.pool.get().await?;
    let session = loan.session()?;
    let result = session.pipeline(&steps).await;
    if result.is_err() {
        session.roll_back().await;
    }
    Ok(result.map(drop)?)
}

/// What one transaction adds to the counts.
#[derive(Default)]
pub(super) struct Tallies {
    counts: BTreeMap<(Uuid, i64, u32), Counts>,
    columns: (Vec<Uuid>, Vec<i64>, Vec<i32>, Vec<Vec<u8>>),
}

impl Tallies {
    pub const INSERT: &str = "INSERT INTO tallies (pipeline, minute, version, counts) \
         SELECT * FROM unnest($1::uuid[], $2::bigint[], $3::int[], $4::bytea[])";

    pub fn add(&mut self, tally: &Tally, at: Timestamp) {
        let place = (tally.pipeline.into(), at.as_second().div_euclid(60), tally.version);
        let counts = self.counts.entry(place).or_default();
        for (edge, passed) in tally.edges.iter().zip(&tally.passed) {
            if *passed != Passed::default() {
                *counts.entry(*edge).or_default() += *passed;
            }
        }
    }

    pub fn is_empty(&self) -> bool {
        self.counts.is_empty()
    }

    pub fn values(&mut self) -> [&(dyn tokio_postgres::types::ToSql + Sync); 4] {
        for ((pipeline, minute, version), counts) in std::mem::take(&mut self.counts) {
            self.columns.0.push(pipeline);
            self.columns.1.push(minute);
            self.columns.2.push(i32::try_from(version).unwrap_or(i32::MAX));
            self.columns.3.push(pack(&counts));
        }
        let (pipelines, minutes, versions, counts) = &self.columns;
        [pipelines, minutes, versions, counts]
    }
}

const MINUTE: i64 = 60 * 1_000_000;

/// The counts of one pipeline, oldest first.
pub(super) async fn counts(
    core: &Core,
    pipeline: PipelineId,
    from: Timestamp,
    until: Timestamp,
) -> Result<Vec<Counted>> {
    let sql = "SELECT minute, version, counts FROM tallies \
               WHERE pipeline = $1 AND minute >= $2 AND minute < $3";
    // A minute counts when it begins in the range.
    let minute = |it: Timestamp| (values::micros(it) + MINUTE - 1).div_euclid(MINUTE);
    let (first, last) = (minute(from), minute(until));
    let mut loan = core.pool.get().await?;
    let session = loan.session()?;
    let mut minutes: BTreeMap<(i64, u32), Counts> = BTreeMap::new();
    for row in session.query(sql, &[&Uuid::from(pipeline), &first, &last]).await? {
        let version: i32 = row.try_get(1)?;
        let packed: Vec<u8> = row.try_get(2)?;
        let counts = minutes.entry((row.try_get(0)?, version as u32)).or_default();
        add_packed(&packed, counts)?;
    }
    let mut found = Vec::new();
    for ((minute, version), counts) in minutes {
        let start = Timestamp::from_second(minute * 60);
        let start = start.map_err(|_| StoreError::Damaged { what: "minute" })?;
        let counted = |(edge, passed)| Counted { start, version, edge, passed };
        found.extend(counts.into_iter().map(counted));
    }
    Ok(found)
}
