//! Erasing what events say about a person.

use std::time::Duration;

use async_trait::async_trait;
use tokio_postgres::Row;

use super::{
    Duty, PostgresStore,
    connect::{BEGIN, COMMIT, Session, Values},
    core::Core,
    error::unavailable,
    leases::CHECK,
    values::{self, Uuid, delivery_of_row, event_of_row, first_of, seq_to_row, shard_of},
};
use crate::{
    model::{EventSeq, Person, ProjectId, RawJson, SourceId},
    store::{Eraser, Result, ScannedRange, codes::ERASED_METADATA},
};

/// Events and bytes that are looked at in one stretch.
const EVENTS: i64 = 20_000;
const BYTES: usize = 32 << 20;
/// How long plans in the making are waited for.
const TIMEOUT: Duration = Duration::from_secs(30);

const LOOK: &str = "SELECT e.seq, e.payload FROM events e WHERE e.seq > $1 AND e.seq <= $2 \
     AND e.project = $3 AND e.source <> $4 AND e.digest <> 0 ORDER BY e.seq LIMIT $5";
const OPEN: &str = "SELECT d.seq FROM unnest($1::bigint[]) AS w (event) \
     JOIN deliveries d ON d.seq >= w.event << 11 AND d.seq < (w.event + 1) << 11 \
     JOIN open o ON o.destination = d.destination AND o.lane = d.lane \
     AND o.position = d.position AND o.seq = d.seq ORDER BY d.seq";
const LOCK: &str = "SELECT 1 FROM plans WHERE shard = $1 FOR UPDATE";
const BODIES: &str = "UPDATE events e SET payload = 'null', metadata = $2, key = NULL, digest = 0 \
     FROM unnest($1::bigint[]) AS w (seq) WHERE e.seq = w.seq AND e.digest <> 0";
/// Of all that are erased: what was written since about those of before goes, too.
const COPIES: &str = "UPDATE deliveries d SET copy = NULL FROM events e WHERE e.digest = 0 \
     AND e.seq > $1 AND e.seq <= $2 AND d.seq >= e.seq << 11 AND d.seq < (e.seq + 1) << 11 \
     AND d.copy IS NOT NULL";
const RESPONSES: &str = "UPDATE activity a SET response = NULL FROM events e WHERE e.digest = 0 \
     AND e.seq > $1 AND e.seq <= $2 AND a.delivery >= e.seq << 11 \
     AND a.delivery < (e.seq + 1) << 11 AND a.response IS NOT NULL";

#[async_trait]
impl Eraser for PostgresStore {
    /// Of the last shard that has any: it is behind the events of every shard.
    async fn last_event(&self) -> Result<EventSeq> {
        let mut loan = self.core.session().await?;
        let sql = "SELECT max(last) FROM logs WHERE last & ((1::bigint << 40) - 1) <> 0";
        let found = loan.session()?.query(sql, &[]).await?;
        let last = found.first().map(|it| it.try_get::<_, Option<i64>>(0)).transpose()?;
        Ok(last.flatten().map_or(EventSeq(0), event_of_row))
    }

    async fn find_person(
        &self,
        project: ProjectId,
        person: &Person,
        after: EventSeq,
        until: EventSeq,
    ) -> Result<Option<ScannedRange>> {
        let mut loan = self.core.session().await?;
        let session = loan.session()?;
        let shard = values::shard_of_project(project, self.core.shards);
        let sql = "SELECT last FROM logs WHERE shard = $1";
        let last = session.query(sql, &[&i32::from(shard)]).await?;
        let last = last.first().map_or(Ok(0), |it| it.try_get::<_, i64>(0))?;
        let after = seq_to_row(after.max(first_of(shard)));
        let end = last.min(seq_to_row(until));
        if after >= end {
            return Ok(None);
        }
        let mut stretch = look(session, project, person, (after, end)).await?;
        let events: Vec<i64> = stretch.events.iter().map(|it| seq_to_row(*it)).collect();
        for row in session.query(OPEN, &[&events]).await? {
            stretch.open.push(delivery_of_row(row.try_get(0)?));
        }
        Ok(Some(stretch))
    }

    async fn erase(&self, stretch: &ScannedRange) -> Result<u64> {
        wait_until_planned(&self.core, stretch.through).await?;
        let mut loan = self.core.session().await?;
        let session = loan.session()?;
        let result = erase(&self.core, session, stretch).await;
        if result.is_err() {
            session.roll_back().await;
        }
        let count = result?;
        metrics::counter!("tidegate_store_events_erased_total").increment(count);
        Ok(count)
    }
}

async fn look(
    session: &mut Session,
    project: ProjectId,
    person: &Person,
    (after, end): (i64, i64),
) -> Result<ScannedRange> {
    let statement = session.statement(LOOK).await?;
    let (project, system) = (Uuid::from(project), Uuid::from(SourceId::SYSTEM));
    let values: Values<'_> = &[&after, &end, &project, &system, &EVENTS];
    let mut stretch = ScannedRange { through: event_of_row(end), ..ScannedRange::default() };
    let (mut count, mut bytes) = (0, 0);
    let take = |row: &Row| {
        let seq = event_of_row(row.try_get(0)?);
        let payload = RawJson::trusted(row.try_get::<_, Vec<u8>>(1)?);
        if person.is_meant_by(&payload) {
            stretch.events.push(seq);
        }
        count += 1;
        bytes += payload.bytes().len();
        if count >= EVENTS || bytes >= BYTES {
            stretch.through = seq;
            return Ok(false);
        }
        Ok(true)
    };
    session.read(&statement, values, take).await?;
    Ok(stretch)
}

/// A plan in the making has the bodies in memory, and writes copies of them.
async fn wait_until_planned(core: &Core, through: EventSeq) -> Result<()> {
    let sql = "SELECT p.through >= $1 AND NOT EXISTS (SELECT 1 FROM waiting w \
               WHERE w.event > $2 AND w.event <= $1) FROM plans p WHERE p.shard = $3";
    let shard = shard_of(through);
    let (first, through) = (seq_to_row(first_of(shard)), seq_to_row(through));
    let until = core.clock.steady() + jiff::SignedDuration::try_from(TIMEOUT).unwrap_or_default();
    loop {
        let mut loan = core.session().await?;
        let found = loan.session()?.query(sql, &[&through, &first, &i32::from(shard)]).await?;
        drop(loan);
        // No such shard: nothing is there to wait for.
        let is_planned = found.first().map(|it| it.try_get::<_, bool>(0)).transpose()?;
        if is_planned.unwrap_or(true) {
            return Ok(());
        }
        if core.clock.steady() >= until {
            return Err(unavailable("events that are to be erased have no plan yet"));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn erase(core: &Core, session: &mut Session, stretch: &ScannedRange) -> Result<u64> {
    let shard = shard_of(stretch.through);
    let claim = core.leases.claim(Duty::Upkeep, std::iter::once(0))?;
    let events: Vec<i64> = stretch.events.iter().map(|it| seq_to_row(*it)).collect();
    let (first, through) = (seq_to_row(first_of(shard)), seq_to_row(stretch.through));
    let claimed: Values<'_> = &[&claim.duty, &claim.shards, &claim.epochs];
    // While it is locked, no replay of these events begins.
    let number = i32::from(shard);
    session.pipeline(&[(BEGIN, &[]), (CHECK, claimed), (LOCK, &[&number])]).await?;
    let erased = session.execute(BODIES, &[&events, &ERASED_METADATA]).await?;
    let range: Values<'_> = &[&first, &through];
    session.pipeline(&[(COPIES, range), (RESPONSES, range), (COMMIT, &[])]).await?;
    Ok(erased)
}
