//! Reading events in the order in which they were accepted.

use std::sync::Arc;

use tokio_postgres::Row;

use super::{
    core::Core,
    rows::{self, event_columns},
    values::{first_of, limit_to_row, seq_to_row},
};
use crate::{
    model::{Event, EventSeq, Skipped},
    store::{Result, StoreError, WaitingEvent},
};

/// Bodies that are read at once, however many events are asked for.
const BYTES: usize = 8 << 20;
const MOST: usize = 10_000;

/// Those of a shard behind a place that have no plan.
pub(super) async fn events(
    core: &Core,
    shard: u16,
    after: EventSeq,
    limit: usize,
) -> Result<Vec<Arc<Event>>> {
    let (after, end) = bounds(shard, after);
    let mut loan = core.session().await?;
    let session = loan.session()?;
    let sql = concat!(
        "SELECT ",
        event_columns!(),
        " FROM events e WHERE e.seq < $1 AND e.seq > greatest($2, \
         (SELECT through FROM plans WHERE shard = $3)) ORDER BY e.seq LIMIT $4",
    );
    let statement = session.statement(sql).await?;
    let limit = limit_to_row(limit.min(MOST));
    let (mut events, mut bytes) = (Vec::new(), 0);
    let take = |row: &Row| {
        let event = rows::event(row)?;
        bytes += event.weight();
        events.push(Arc::new(event));
        Ok(bytes < BYTES)
    };
    session.read(&statement, &[&end, &after, &i32::from(shard), &limit], take).await?;
    Ok(events)
}

/// Those of a shard behind a place whose plan waits.
pub(super) async fn waiting(
    core: &Core,
    shard: u16,
    after: EventSeq,
    limit: usize,
) -> Result<Vec<WaitingEvent>> {
    let (after, end) = bounds(shard, after);
    let mut loan = core.session().await?;
    let session = loan.session()?;
    let sql = concat!(
        "SELECT ",
        event_columns!(),
        ", s.reasons FROM waiting w JOIN events e ON e.seq = w.event \
         LEFT JOIN skipped s ON s.event = w.event \
         WHERE w.event > $1 AND w.event < $2 ORDER BY w.event LIMIT $3",
    );
    let limit = limit_to_row(limit.min(MOST));
    let (mut events, mut bytes) = (Vec::new(), 0);
    for row in session.query(sql, &[&after, &end, &limit]).await? {
        if bytes >= BYTES {
            break;
        }
        let event = rows::event(&row)?;
        bytes += event.weight();
        let skipped = reasons(row.try_get(10)?)?;
        events.push(WaitingEvent { event: Arc::new(event), skipped });
    }
    Ok(events)
}

/// One that is there.
pub(super) async fn event(core: &Core, seq: EventSeq) -> Result<Arc<Event>> {
    let mut loan = core.session().await?;
    let sql = concat!("SELECT ", event_columns!(), " FROM events e WHERE e.seq = $1");
    let found = loan.session()?.query(sql, &[&seq_to_row(seq)]).await?;
    let row = found.first().ok_or(StoreError::Damaged { what: "event that was recorded" })?;
    rows::event(row).map(Arc::new)
}

/// Why parts of a plan went no further.
pub(super) fn reasons(kept: Option<&str>) -> Result<Vec<Skipped>> {
    kept.map_or(Ok(Vec::new()), |it| {
        let damaged = |_| StoreError::Damaged { what: "reason why an event was skipped" };
        serde_json::from_str(it).map_err(damaged)
    })
}

/// Behind the place in the shard, and before the next shard.
fn bounds(shard: u16, after: EventSeq) -> (i64, i64) {
    let first = first_of(shard);
    let end = first_of(shard + 1);
    (seq_to_row(after.max(first)), seq_to_row(end))
}
