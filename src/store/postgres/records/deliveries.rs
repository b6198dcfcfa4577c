//! Deliveries, one and many.

use tokio_postgres::Row;

use super::{LARGEST_PAGE, bounds, filter::SqlCondition};
use crate::{
    model::{
        DeliveryId, DeliverySeq, DeliveryState, Ended, EventId, EventSeq, ProjectId, Selection,
        TypeName,
    },
    store::{
        DeliveryRecord, Page, Result,
        codes::{ended, ended_code},
        postgres::{
            connect::Session,
            core::Core,
            rows::{self, entry_columns},
            values::{self, Uuid, delivery_of_row, delivery_to_row, time},
        },
    },
};

/// What [`record`] reads.
macro_rules! delivery_columns {
    () => {
        "d.seq, e.id, e.type, e.received_at, d.destination, d.pipeline, d.version, d.replay, \
         p.attempts, p.ended, o.due, p.replayed"
    };
}

/// Where it reads from: what was planned, its event, how far it came, and whether it is owed.
macro_rules! delivery_tables {
    () => {
        "deliveries d JOIN events e ON e.seq = d.seq >> 11 \
         LEFT JOIN LATERAL (SELECT max(a.attempt) AS attempts, max(a.ended) AS ended, \
         max(a.duration) FILTER (WHERE a.attempt = 0) AS replayed \
         FROM activity a WHERE a.delivery = d.seq) p ON true \
         LEFT JOIN open o ON o.destination = d.destination AND o.lane = d.lane \
         AND o.position = d.position AND o.seq = d.seq"
    };
}

pub(super) async fn one(
    core: &Core,
    project: ProjectId,
    seq: DeliverySeq,
) -> Result<Option<DeliveryRecord>> {
    let mut loan = core.session().await?;
    one_in(loan.session()?, project, seq).await
}

async fn one_in(
    session: &mut Session,
    project: ProjectId,
    seq: DeliverySeq,
) -> Result<Option<DeliveryRecord>> {
    let sql = concat!(
        "SELECT ",
        delivery_columns!(),
        ", d.copy FROM ",
        delivery_tables!(),
        " WHERE d.seq = $1 AND d.project = $2"
    );
    let seq = delivery_to_row(seq);
    let found = session.query(sql, &[&seq, &Uuid::from(project)]).await?;
    let Some(row) = found.first() else { return Ok(None) };
    let mut record = record(row)?;
    record.copy = row.try_get::<_, Option<Vec<u8>>>(12)?.map(rows::copy).transpose()?;
    let sql = concat!(
        "SELECT ",
        entry_columns!(),
        " FROM activity a WHERE a.delivery = $1 ORDER BY a.number"
    );
    for row in session.query(sql, &[&seq]).await? {
        record.entries.push(rows::entry(&row)?);
    }
    Ok(Some(record))
}

pub(super) async fn by_id(
    core: &Core,
    project: ProjectId,
    id: DeliveryId,
) -> Result<Option<DeliveryRecord>> {
    // All but the order bits are the event's, and those bits are the ordinal.
    const ORDER: u128 = 0xfff << 64;
    let (low, high) = (Uuid(id.bits() & !ORDER), Uuid(id.bits() | ORDER | u128::from(u64::MAX)));
    let sql = "SELECT seq, id FROM events WHERE id >= $1 AND id <= $2 AND project = $3 \
               AND seq > $4 AND seq < $5";
    let low = Uuid(low.0 & !u128::from(u64::MAX));
    let (first, end) = bounds(core, project);
    let mut loan = core.session().await?;
    let session = loan.session()?;
    let found = session.query(sql, &[&low, &high, &Uuid::from(project), &first, &end]).await?;
    if id.order() >= DeliverySeq::PER_EVENT {
        return Ok(None);
    }
    for row in found {
        let event: EventId = row.try_get::<_, Uuid>(1)?.id();
        if DeliveryId::of(event, id.order()) != id {
            continue;
        }
        let seq = DeliverySeq::new(values::event_of_row(row.try_get(0)?), id.order());
        let found = one_in(session, project, seq).await?;
        if found.is_some() {
            return Ok(found);
        }
    }
    Ok(None)
}

/// Without their logs and their copies.
pub(super) async fn of_event(
    session: &mut Session,
    event: EventSeq,
) -> Result<Vec<DeliveryRecord>> {
    let sql = concat!(
        "SELECT ",
        delivery_columns!(),
        " FROM ",
        delivery_tables!(),
        " WHERE d.seq >= $1 AND d.seq <= $2 ORDER BY d.seq"
    );
    let (first, last) = values::deliveries_of(event);
    let found = session.query(sql, &[&first, &last]).await?;
    found.iter().map(record).collect()
}

pub(super) async fn page(
    core: &Core,
    project: ProjectId,
    selection: &Selection,
    page: Page,
) -> Result<Vec<DeliveryRecord>> {
    let (tables, mut condition) = selected(core, project, selection);
    if let Some((before, _)) = page.before {
        condition.and("d.seq < ?", i64::try_from(before).unwrap_or(i64::MAX));
    }
    let sql = format!(
        "SELECT {} FROM {tables} WHERE {} ORDER BY d.seq DESC LIMIT {}",
        delivery_columns!(),
        condition.sql(),
        page.limit.min(LARGEST_PAGE)
    );
    let mut loan = core.session().await?;
    let found = loan.session()?.ask(&sql, &condition.values()).await?;
    found.iter().map(record).collect()
}

pub(super) async fn count(core: &Core, project: ProjectId, selection: &Selection) -> Result<u64> {
    let (tables, condition) = selected(core, project, selection);
    let sql = format!("SELECT count(*) FROM {tables} WHERE {}", condition.sql());
    let mut loan = core.session().await?;
    let found = loan.session()?.ask(&sql, &condition.values()).await?;
    let count: i64 = found.first().map_or(Ok(0), |it| it.try_get(0))?;
    Ok(count as u64)
}

/// The tables and the condition by which a selection is found.
fn selected(
    core: &Core,
    project: ProjectId,
    selection: &Selection,
) -> (&'static str, SqlCondition) {
    let mut condition = SqlCondition::default();
    let (first, end) = bounds(core, project);
    condition.and("d.project = ?", Uuid::from(project));
    condition.and("d.seq >= ?", first << 11);
    condition.and("d.seq < ?", end << 11);
    if let Some(destination) = selection.destination {
        condition.and("d.destination = ?", Uuid::from(destination));
    }
    condition.and_type("e.type", selection.event_type.as_ref());
    condition.and_time("e.received_at", selection.from, selection.until);
    let all = delivery_tables!();
    let tables = match selection.state {
        None => all,
        Some(DeliveryState::Pending) => {
            condition.and_fact("o.attempts = 0");
            all
        }
        Some(DeliveryState::Retrying) => {
            condition.and_fact("o.attempts > 0");
            all
        }
        Some(DeliveryState::Delivered) => {
            condition.and("p.ended = ?", ended_code(Ended::Delivered) as i32);
            all
        }
        Some(DeliveryState::Dead) => with_end(&mut condition, project, Ended::Dead),
        Some(DeliveryState::Expired) => with_end(&mut condition, project, Ended::Expired),
        Some(DeliveryState::Cancelled) => with_end(&mut condition, project, Ended::Cancelled),
    };
    (tables, condition)
}

/// By an end that has an index: there are few of those.
fn with_end(condition: &mut SqlCondition, project: ProjectId, ended: Ended) -> &'static str {
    condition.and_fact("x.ended > 1");
    condition.and("x.ended = ?", ended_code(ended) as i32);
    condition.and("x.project = ?", Uuid::from(project));
    // A dead letter that was replayed is none any more.
    condition.and_fact("p.replayed IS NULL");
    concat!("activity x JOIN ", delivery_tables!(), " ON x.delivery = d.seq")
}

/// Without its log and its copy.
fn record(row: &Row) -> Result<DeliveryRecord> {
    let id = |column: usize| row.try_get::<_, Option<Uuid>>(column);
    let attempts: Option<i32> = row.try_get(8)?;
    let attempts = attempts.unwrap_or(0) as u16;
    let end: Option<i32> = row.try_get(9)?;
    let state = match (end, attempts) {
        (Some(code), _) => ended(code.into())?.into(),
        (None, 0) => DeliveryState::Pending,
        (None, _) => DeliveryState::Retrying,
    };
    let due: Option<i64> = row.try_get(10)?;
    let replayed: Option<i64> = row.try_get(11)?;
    Ok(DeliveryRecord {
        seq: delivery_of_row(row.try_get(0)?),
        event: row.try_get::<_, Uuid>(1)?.id(),
        event_type: TypeName::trusted(row.try_get(2)?),
        received_at: time(row.try_get(3)?)?,
        destination: row.try_get::<_, Uuid>(4)?.id(),
        pipeline: id(5)?.map(Uuid::id),
        pipeline_version: row.try_get::<_, i32>(6)?.unsigned_abs(),
        replay: id(7)?.map(Uuid::id),
        state,
        replayed_as: replayed.map(|it| it as u16),
        attempts,
        due: due.filter(|_| state == DeliveryState::Retrying).map(time).transpose()?,
        copy: None,
        entries: Vec::new(),
    })
}
