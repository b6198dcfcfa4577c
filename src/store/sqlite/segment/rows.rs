//! What the values in rows mean: the codes that stand for our enums, times, and whole rows.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use rusqlite::Row;

use crate::{
    model::{
        Altered, DeliverySeq, Ended, Entry, EntryKind, EventId, EventSeq, Lane, Outcome, Place,
        Snippet,
    },
    store::{Result, StoreError},
};

pub(in crate::store::sqlite) use crate::store::codes::{
    class, class_code, ended, ended_code, reason_of_status,
};

/// What stands in the place of an end where a dead letter was replayed, so that it is found by the index of
/// ends: 5 where it is dead, 6 where it is expired. The delivery that took its place stands as the duration.
pub fn replayed_code(ended: Ended) -> i64 {
    ended_code(ended) + 3
}

/// The code of the end that a delivery had before it was replayed, or has.
pub fn end_before(code: i64) -> i64 {
    if code > 4 { code - 3 } else { code }
}

pub fn micros(time: Timestamp) -> i64 {
    time.as_microsecond()
}

pub fn time(micros: i64) -> Result<Timestamp> {
    Timestamp::from_microsecond(micros).map_err(|_| StoreError::Damaged { what: "time" })
}

/// As precise as rows are, so that an event that was just accepted equals the one that is read back.
pub fn rounded(time: Timestamp) -> Timestamp {
    Timestamp::from_microsecond(time.as_microsecond()).unwrap_or(time)
}

/// A delivery's copy, from its compressed form.
pub fn copy(packed: &[u8]) -> Result<Arc<Altered>> {
    let altered = Altered::from_bytes(super::blocks::unpack(packed)?);
    altered.map(Arc::new).ok_or(StoreError::Damaged { what: "copy" })
}

/// The columns that [`entry`] reads, in its order.
pub const ENTRY_COLUMNS: &str =
    "delivery, number, at, attempt, class, status, duration, ended, reason, retry_after, response";

/// An entry of the activity log, from [`ENTRY_COLUMNS`] at the start of the row.
pub fn entry(row: &Row<'_>) -> Result<Entry> {
    let status: Option<u16> = row.get(5)?;
    let reason: Option<String> = row.get(8)?;
    let kind = match row.get(3)? {
        0u16 => {
            let reason = reason.unwrap_or_default();
            match row.get(6)? {
                Some(by) => EntryKind::Replayed { by, reason },
                None => EntryKind::Note { reason },
            }
        }
        number => EntryKind::Attempt {
            number,
            outcome: Outcome {
                class: class(row.get(4)?)?,
                status,
                reason: reason.or_else(|| status.map(reason_of_status)).unwrap_or_default(),
                retry_after: row
                    .get::<_, Option<i64>>(9)?
                    .map(|it| Duration::from_millis(it as u64)),
                duration: Duration::from_micros(row.get::<_, i64>(6)? as u64),
                response: row.get::<_, Option<Vec<u8>>>(10)?.and_then(|it| Snippet::of(&it.into())),
            },
        },
    };
    Ok(Entry {
        delivery: DeliverySeq::from_bits(row.get::<_, i64>(0)? as u64),
        number: row.get(1)?,
        at: time(row.get(2)?)?,
        kind,
        ended: row.get::<_, Option<i64>>(7)?.filter(|it| *it <= 4).map(ended).transpose()?,
    })
}

/// A row of `deliveries`, with numbers where resources are meant and the copy still compressed.
#[derive(Clone, Debug)]
pub struct DeliveryRow {
    pub seq: DeliverySeq,
    pub project: i64,
    pub destination: i64,
    pub pipeline: Option<i64>,
    pub version: u32,
    pub place: Place,
    /// `None`: when its event was received.
    pub accepted_at: Option<i64>,
    pub replay: Option<i64>,
    pub fresh_id: bool,
    pub copy: Option<Vec<u8>>,
}

/// The columns that [`delivery`] reads, in its order; also the order of an insert.
pub const DELIVERY_COLUMNS: &str = "seq, project, destination, pipeline, version, lane, \
     position, accepted_at, replay, fresh_id, copy";

/// The same for lists, which leave out the copy: it may be large.
pub fn without_copy() -> String {
    DELIVERY_COLUMNS.replace(", copy", ", NULL")
}

/// A delivery, from [`DELIVERY_COLUMNS`] at the start of the row.
pub fn delivery(row: &Row<'_>) -> Result<DeliveryRow> {
    Ok(DeliveryRow {
        seq: DeliverySeq::from_bits(row.get::<_, i64>(0)? as u64),
        project: row.get(1)?,
        destination: row.get(2)?,
        pipeline: row.get(3)?,
        version: row.get(4)?,
        place: Place { lane: Lane(row.get::<_, i64>(5)? as u64), position: row.get(6)? },
        accepted_at: row.get(7)?,
        replay: row.get(8)?,
        fresh_id: row.get(9)?,
        copy: row.get(10)?,
    })
}

/// The deliveries of an event, as a range of `deliveries.seq`.
pub fn deliveries_of(event: EventSeq) -> (i64, i64) {
    let first = DeliverySeq::first_of(event).bits() as i64;
    (first, first + i64::from(DeliverySeq::PER_EVENT) - 1)
}

/// The event of a value of `deliveries.seq`.
pub fn event_of(delivery: i64) -> EventSeq {
    DeliverySeq::from_bits(delivery as u64).event()
}

/// An event's id without the 12 bits in which those of its deliveries differ from it.
pub fn masked(id: EventId) -> u128 {
    const ORDER: u128 = 0xfff << 64;
    id.bits() & !ORDER
}
