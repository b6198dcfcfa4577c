//! How much is owed. A short line is counted; of a long one the counts by minute say what was planned
//! and has not ended, since counting a million rows takes as long as delivering some thousands.

use std::collections::HashMap;

use super::{
    core::Core,
    values::{self, Uuid, lane_to_row},
};
use crate::{
    model::{DestinationId, Lane},
    store::{Backlog, Result},
};

/// Rows that are counted one by one.
const COUNTED: i64 = 10_000;
/// Of a longer line, the lanes that are asked for their oldest.
const LANES: i64 = 1_000;

/// From destination to destination, each up to a few rows behind what is counted.
const SHORT: &str = "WITH RECURSIVE d AS ((SELECT destination FROM open ORDER BY destination LIMIT 1) \
     UNION ALL SELECT (SELECT o.destination FROM open o WHERE o.destination > d.destination \
     ORDER BY o.destination LIMIT 1) FROM d WHERE d.destination IS NOT NULL) \
     SELECT d.destination, n.owed, n.oldest FROM d, LATERAL (SELECT count(*) AS owed, \
     min(accepted_at) AS oldest FROM (SELECT accepted_at FROM open o \
     WHERE o.destination = d.destination LIMIT $1::bigint + 1) AS few) AS n \
     WHERE d.destination IS NOT NULL AND n.owed > 0";
/// What was planned and has not ended.
const LONG: &str = "SELECT w.destination, n.owed::bigint FROM unnest($1::uuid[]) AS w (destination), \
     LATERAL (SELECT sum(planned - delivered - dead - dropped) AS owed FROM minutes m \
     WHERE m.destination = w.destination) AS n";
/// The heads of lanes, and a good part of the lane that has no order.
const OLDEST: &str = "SELECT w.destination, least(n.oldest, l.oldest) \
     FROM unnest($1::uuid[]) AS w (destination), LATERAL (SELECT min(accepted_at) AS oldest FROM \
     (SELECT accepted_at FROM open o WHERE o.destination = w.destination AND o.lane = $2 \
     ORDER BY o.position, o.seq LIMIT $3::bigint) AS few) AS n, LATERAL (WITH RECURSIVE heads AS (\
     (SELECT lane, accepted_at FROM open o WHERE o.destination = w.destination \
     ORDER BY o.lane, o.position, o.seq LIMIT 1) UNION ALL \
     SELECT f.lane, f.accepted_at FROM heads, LATERAL (SELECT o.lane, o.accepted_at FROM open o \
     WHERE o.destination = w.destination AND o.lane > heads.lane \
     ORDER BY o.lane, o.position, o.seq LIMIT 1) AS f) \
     SELECT min(accepted_at) AS oldest FROM (SELECT accepted_at FROM heads LIMIT $4::bigint) AS few) AS l";

/// Of all destinations. Up to [`COUNTED`] it is exact. Behind
/// that, the oldest is that of [`LANES`] lanes.
pub(super) async fn backlog(core: &Core) -> Result<Vec<Backlog>> {
    let mut loan = core.session().await?;
    let session = loan.session()?;
    let mut backlog = Vec::new();
    let mut long: Vec<Uuid> = Vec::new();
    for row in session.query(SHORT, &[&COUNTED]).await? {
        let id: Uuid = row.try_get(0)?;
        let destination: DestinationId = id.id();
        let owed: i64 = row.try_get(1)?;
        if owed > COUNTED {
            long.push(id);
        }
        let oldest = values::time(row.try_get(2)?)?;
        backlog.push(Backlog { destination, owed: owed as u64, oldest });
    }
    if long.is_empty() {
        return Ok(backlog);
    }
    let none = lane_to_row(Lane::NONE);
    let found =
        session.pipeline(&[(LONG, &[&long]), (OLDEST, &[&long, &none, &COUNTED, &LANES])]).await?;
    let (mut counts, mut times) = (HashMap::new(), HashMap::new());
    for row in found.first().into_iter().flatten() {
        let count: Option<i64> = row.try_get(1)?;
        counts.insert(row.try_get::<_, Uuid>(0)?.id(), count.unwrap_or(0).max(COUNTED) as u64);
    }
    for row in found.get(1).into_iter().flatten() {
        if let Some(oldest) = row.try_get::<_, Option<i64>>(1)? {
            times.insert(row.try_get::<_, Uuid>(0)?.id(), values::time(oldest)?);
        }
    }
    for it in &mut backlog {
        it.owed = counts.get(&it.destination).copied().unwrap_or(it.owed);
        it.oldest = times.get(&it.destination).copied().unwrap_or(it.oldest);
    }
    Ok(backlog)
}
