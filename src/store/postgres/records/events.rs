//! One event with what became of it, and the list of events.

use std::sync::Arc;

use tokio_postgres::Row;

use super::{LARGEST_PAGE, bounds, deliveries, filter::SqlCondition};
use crate::{
    model::{Event, EventId, EventSeq, IdempotencyKey, ProjectId},
    store::{
        EventFilter, EventRecord, PAGE_BYTES, Page, Result,
        postgres::{
            connect::Session,
            core::Core,
            rows::{self, event_columns},
            unplanned::reasons,
            values::{Uuid, seq_to_row, shard_of},
        },
    },
};

pub(super) async fn one(
    core: &Core,
    project: ProjectId,
    id: EventId,
) -> Result<Option<EventRecord>> {
    let sql = concat!(
        "SELECT ",
        event_columns!(),
        " FROM events e WHERE e.id = $1 AND e.project = $2 AND e.seq > $3 AND e.seq < $4"
    );
    let (first, end) = bounds(core, project);
    let mut loan = core.session().await?;
    let session = loan.session()?;
    let values: crate::store::postgres::connect::Values<'_> =
        &[&Uuid::from(id), &Uuid::from(project), &first, &end];
    let found = session.query(sql, values).await?;
    let Some(row) = found.first() else { return Ok(None) };
    record(session, rows::event(row)?).await.map(Some)
}

pub(super) async fn by_key(
    core: &Core,
    project: ProjectId,
    key: &IdempotencyKey,
) -> Result<Option<EventRecord>> {
    let sql = concat!(
        "SELECT ",
        event_columns!(),
        " FROM gate g JOIN events e ON e.seq = g.seq WHERE g.hash = $1"
    );
    let Some(hash) = core.gate_hashes(project, Some(key), None).key else { return Ok(None) };
    let mut loan = core.session().await?;
    let session = loan.session()?;
    let found = session.query(sql, &[&hash]).await?;
    let Some(row) = found.first() else { return Ok(None) };
    record(session, rows::event(row)?).await.map(Some)
}

async fn record(session: &mut Session, event: Event) -> Result<EventRecord> {
    let sql = "SELECT p.through >= $1, (SELECT s.reasons FROM skipped s WHERE s.event = $1) \
               FROM plans p WHERE p.shard = $2";
    let seq = seq_to_row(event.seq);
    let found = session.query(sql, &[&seq, &i32::from(shard_of(event.seq))]).await?;
    let (planned, kept) = match found.first() {
        Some(row) => (row.try_get(0)?, row.try_get::<_, Option<String>>(1)?),
        None => (false, None),
    };
    let deliveries = deliveries::of_event(session, event.seq).await?;
    let skipped = reasons(kept.as_deref())?;
    Ok(EventRecord { event: Arc::new(event), planned, skipped, deliveries })
}

pub(super) async fn page(
    core: &Core,
    project: ProjectId,
    filter: &EventFilter,
    page: Page,
) -> Result<Vec<Event>> {
    let (first, end) = bounds(core, project);
    let before = page.before.map_or(end, |it| end.min(seq_to_row(EventSeq(it.0))));
    let condition = condition(project, filter, (first, before));
    // The one that is too much is given, too: it says that there are more.
    let is_enough = |count, bytes| count > 1 && bytes > PAGE_BYTES;
    read(core, &condition, "DESC", page.limit, is_enough).await
}

pub(super) async fn behind(
    core: &Core,
    project: ProjectId,
    filter: &EventFilter,
    after: EventSeq,
    limit: usize,
) -> Result<Vec<Event>> {
    let (first, end) = bounds(core, project);
    let condition = condition(project, filter, (first.max(seq_to_row(after)), end));
    read(core, &condition, "ASC", limit, |_, bytes| bytes >= PAGE_BYTES).await
}

pub(super) async fn count(core: &Core, project: ProjectId, filter: &EventFilter) -> Result<u64> {
    let condition = condition(project, filter, bounds(core, project));
    let sql = format!("SELECT count(*) FROM events e WHERE {}", condition.sql());
    let mut loan = core.session().await?;
    let found = loan.session()?.ask(&sql, &condition.values()).await?;
    let count: i64 = found.first().map_or(Ok(0), |it| it.try_get(0))?;
    Ok(count as u64)
}

/// Behind the first place and before the second.
fn condition(
    project: ProjectId,
    filter: &EventFilter,
    (after, before): (i64, i64),
) -> SqlCondition {
    let mut condition = SqlCondition::default();
    condition.and("e.project = ?", Uuid::from(project));
    condition.and("e.seq > ?", after);
    condition.and("e.seq < ?", before);
    if let Some(source) = filter.source {
        condition.and("e.source = ?", Uuid::from(source));
    }
    condition.and_type("e.type", filter.event_type.as_ref());
    condition.and_time("e.received_at", filter.from, filter.until);
    condition
}

async fn read(
    core: &Core,
    condition: &SqlCondition,
    order: &str,
    limit: usize,
    is_enough: impl Fn(usize, usize) -> bool,
) -> Result<Vec<Event>> {
    let sql = format!(
        "SELECT {} FROM events e WHERE {} ORDER BY e.seq {order} LIMIT {}",
        event_columns!(),
        condition.sql(),
        limit.min(LARGEST_PAGE)
    );
    let mut loan = core.session().await?;
    let (mut events, mut bytes) = (Vec::new(), 0);
    let take = |row: &Row| {
        let event = rows::event(row)?;
        bytes += event.weight();
        events.push(event);
        Ok(!is_enough(events.len(), bytes))
    };
    loan.session()?.read(sql.as_str(), &condition.values(), take).await?;
    Ok(events)
}
