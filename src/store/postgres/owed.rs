//! Reading what is owed, and what there is to send.

use std::{collections::HashMap, sync::Arc};

use super::{
    core::Core,
    rows::{self, event_columns, owed_columns},
    values::{self, Uuid, delivery_of_row, delivery_to_row, lane_to_row, limit_to_row, micros},
};
use crate::{
    model::{DeliverySeq, Event, EventSeq, Lane, Message, Owed, Place},
    store::{OwedQuery, Result},
};

const WHOLE_LINE: &str = concat!(
    "SELECT ",
    owed_columns!(),
    " FROM open o WHERE o.destination = $1 AND (o.lane, o.position, o.seq) > ($2, $3, $4) \
     ORDER BY o.lane, o.position, o.seq LIMIT $5"
);
/// From lane to lane, so that a long one is not read to its end.
const LINE: &str = concat!(
    "WITH RECURSIVE lanes AS ((SELECT lane FROM open WHERE destination = $1 \
     AND (lane, position, seq) > ($2, $3, $4) ORDER BY lane LIMIT 1) UNION ALL \
     SELECT (SELECT n.lane FROM open n WHERE n.destination = $1 AND n.lane > lanes.lane \
     ORDER BY n.lane LIMIT 1) FROM lanes WHERE lanes.lane IS NOT NULL) \
     SELECT ",
    owed_columns!(),
    " FROM lanes, LATERAL (SELECT * FROM open i WHERE i.destination = $1 \
     AND i.lane = lanes.lane AND (i.lane, i.position, i.seq) > ($2, $3, $4) \
     ORDER BY i.lane, i.position, i.seq \
     LIMIT CASE WHEN lanes.lane = $6 THEN $5::bigint ELSE least($5::bigint, $7::bigint) END) o \
     LIMIT $5::bigint"
);
const DUE: &str = concat!(
    "SELECT ",
    owed_columns!(),
    " FROM open o WHERE o.destination = $1 AND o.due <= $2 \
     ORDER BY o.due, o.lane, o.position, o.seq LIMIT $3"
);
/// The index alone says which it is.
const FIRST: &str = concat!(
    "SELECT ",
    owed_columns!(),
    " FROM (SELECT lane, position, seq FROM open WHERE destination = $1 AND lane > $2 \
     ORDER BY position LIMIT 1) AS f JOIN open o ON o.destination = $1 AND o.lane = f.lane \
     AND o.position = f.position AND o.seq = f.seq"
);
const THESE: &str = concat!(
    "SELECT ",
    owed_columns!(),
    " FROM unnest($1::bigint[]) WITH ORDINALITY AS w (seq, place) \
     JOIN deliveries d ON d.seq = w.seq JOIN open o ON o.destination = d.destination \
     AND o.lane = d.lane AND o.position = d.position AND o.seq = d.seq ORDER BY w.place"
);
const BODIES: &str = concat!(
    "SELECT ",
    event_columns!(),
    " FROM unnest($1::bigint[]) AS w (seq) JOIN events e ON e.seq = w.seq WHERE e.digest <> 0"
);
const COPIES: &str = "SELECT d.seq, d.fresh_id, d.copy FROM unnest($1::bigint[]) AS w (seq) \
     JOIN deliveries d ON d.seq = w.seq";

pub(super) async fn owed(core: &Core, query: OwedQuery) -> Result<Vec<Owed>> {
    let mut loan = core.session().await?;
    let session = loan.session()?;
    let found = match query {
        OwedQuery::Line { destination, after, per_lane, limit } => {
            let destination = Uuid::from(destination);
            // Behind this place is everything.
            let first = (i64::MIN, i64::MIN, -1);
            let (lane, position, seq) = after.map_or(first, place_to_row);
            let (limit, per_lane) = (limit_to_row(limit), limit_to_row(per_lane));
            if per_lane >= limit {
                let values: super::connect::Values<'_> =
                    &[&destination, &lane, &position, &seq, &limit];
                session.query(WHOLE_LINE, values).await?
            } else {
                let none = lane_to_row(Lane::NONE);
                session
                    .query(LINE, &[&destination, &lane, &position, &seq, &limit, &none, &per_lane])
                    .await?
            }
        }
        OwedQuery::Due { destination, until, limit } => {
            let (until, limit) = (micros(until), limit_to_row(limit));
            session.query(DUE, &[&Uuid::from(destination), &until, &limit]).await?
        }
        OwedQuery::First { destination } => {
            let none = lane_to_row(Lane::NONE);
            session.query(FIRST, &[&Uuid::from(destination), &none]).await?
        }
        OwedQuery::These(seqs) => {
            let seqs: Vec<i64> = seqs.into_iter().map(delivery_to_row).collect();
            session.query(THESE, &[&seqs]).await?
        }
    };
    found.iter().map(rows::owed).collect()
}

fn place_to_row((place, seq): (Place, DeliverySeq)) -> (i64, i64, i64) {
    (lane_to_row(place.lane), place.position, delivery_to_row(seq))
}

/// What to send; what is erased or gone is left out.
pub(super) async fn messages(core: &Core, deliveries: &[DeliverySeq]) -> Result<Vec<Message>> {
    let seqs: Vec<i64> = deliveries.iter().map(|it| delivery_to_row(*it)).collect();
    let mut bodies: Vec<i64> = deliveries.iter().map(|it| values::seq_to_row(it.event())).collect();
    bodies.sort_unstable();
    bodies.dedup();
    let mut loan = core.session().await?;
    let found = loan.session()?.pipeline(&[(BODIES, &[&bodies]), (COPIES, &[&seqs])]).await?;
    let mut events: HashMap<EventSeq, Arc<Event>> = HashMap::new();
    for row in found.first().into_iter().flatten() {
        let event = rows::event(row)?;
        events.insert(event.seq, Arc::new(event));
    }
    let mut own = HashMap::new();
    for row in found.get(1).into_iter().flatten() {
        let copy: Option<Vec<u8>> = row.try_get(2)?;
        let copy = copy.map(rows::copy).transpose()?;
        own.insert(delivery_of_row(row.try_get(0)?), (row.try_get::<_, bool>(1)?, copy));
    }
    let message = |seq: &DeliverySeq| {
        let (fresh_id, copy) = own.get(seq)?.clone();
        let event = events.get(&seq.event())?.clone();
        Some(Message { seq: *seq, event, copy, fresh_id })
    };
    Ok(deliveries.iter().filter_map(message).collect())
}
