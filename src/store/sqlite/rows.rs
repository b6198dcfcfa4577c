//! What the values in rows mean: the codes that stand for our enums, times, and whole rows.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use rusqlite::Row;

use crate::{
    model::{
        Altered, Class, DeliverySeq, Ended, Entry, EntryKind, EventId, EventSeq, Lane, Outcome,
        Place, Snippet,
    },
    store::{Result, StoreError},
};

pub(super) fn micros(time: Timestamp) -> i64 {
    time.as_microsecond()
}

pub(super) fn time(micros: i64) -> Result<Timestamp> {
    Timestamp::from_microsecond(micros).map_err(|_| StoreError::Damaged { what: "time" })
}

/// As precise as rows are, so that an event that was just accepted equals the one that is read back.
pub(super) fn rounded(time: Timestamp) -> Timestamp {
    Timestamp::from_microsecond(time.as_microsecond()).unwrap_or(time)
}

/// A delivery's copy, from its compressed form.
pub(super) fn copy(packed: &[u8]) -> Result<Arc<Altered>> {
    let altered = Altered::from_bytes(super::blocks::unpack(packed)?);
    altered.map(Arc::new).ok_or(StoreError::Damaged { what: "copy" })
}

pub(super) fn ended_code(ended: Ended) -> i64 {
    match ended {
        Ended::Delivered => 1,
        Ended::Dead => 2,
        Ended::Expired => 3,
        Ended::Cancelled => 4,
    }
}

pub(super) fn ended(code: i64) -> Result<Ended> {
    match code {
        1 => Ok(Ended::Delivered),
        2 => Ok(Ended::Dead),
        3 => Ok(Ended::Expired),
        4 => Ok(Ended::Cancelled),
        _ => Err(StoreError::Damaged { what: "end of a delivery" }),
    }
}

const CLASSES: [Class; 12] = [
    Class::Accepted,
    Class::Status,
    Class::Timeout,
    Class::Dns,
    Class::Connect,
    Class::Tls,
    Class::Broken,
    Class::Denied,
    Class::Config,
    Class::Gone,
    Class::Abort,
    Class::Unknown,
];

pub(super) fn class_code(class: Class) -> i64 {
    match class {
        Class::Accepted => 0,
        Class::Status => 1,
        Class::Timeout => 2,
        Class::Dns => 3,
        Class::Connect => 4,
        Class::Tls => 5,
        Class::Broken => 6,
        Class::Denied => 7,
        Class::Config => 8,
        Class::Gone => 9,
        Class::Abort => 10,
        Class::Unknown => 11,
    }
}

pub(super) fn class(code: i64) -> Result<Class> {
    let found = usize::try_from(code).ok().and_then(|it| CLASSES.get(it));
    found.copied().ok_or(StoreError::Damaged { what: "class of an outcome" })
}

/// What the reason of an accepted attempt says; it is not kept, since the status tells it.
pub(super) fn reason_of_status(status: u16) -> String {
    http::StatusCode::from_u16(status).map_or_else(|_| status.to_string(), |it| it.to_string())
}

/// The columns that [`entry`] reads, in its order.
pub(super) const ENTRY_COLUMNS: &str =
    "delivery, number, at, attempt, class, status, duration, ended, reason, retry_after, response";

/// An entry of the activity log, from [`ENTRY_COLUMNS`] at the start of the row.
pub(super) fn entry(row: &Row<'_>) -> Result<Entry> {
    let status: Option<u16> = row.get(5)?;
    let reason: Option<String> = row.get(8)?;
    let kind = match row.get(3)? {
        0u16 => EntryKind::Note { reason: reason.unwrap_or_default() },
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
        ended: row.get::<_, Option<i64>>(7)?.map(ended).transpose()?,
    })
}

/// A row of `deliveries`, with numbers where resources are meant and the copy still compressed.
#[derive(Clone, Debug)]
pub(super) struct DeliveryRow {
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
pub(super) const DELIVERY_COLUMNS: &str = "seq, project, destination, pipeline, version, lane, \
     position, accepted_at, replay, fresh_id, copy";

/// The same for lists, which leave out the copy: it may be large.
pub fn without_copy() -> String {
    DELIVERY_COLUMNS.replace(", copy", ", NULL")
}

/// A delivery, from [`DELIVERY_COLUMNS`] at the start of the row.
pub(super) fn delivery(row: &Row<'_>) -> Result<DeliveryRow> {
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
pub(super) fn deliveries_of(event: EventSeq) -> (i64, i64) {
    let first = DeliverySeq::first_of(event).bits() as i64;
    (first, first + i64::from(DeliverySeq::PER_EVENT) - 1)
}

/// The event of a value of `deliveries.seq`.
pub(super) fn event_of(delivery: i64) -> EventSeq {
    DeliverySeq::from_bits(delivery as u64).event()
}

/// An event's id without the 12 bits in which those of its deliveries differ from it.
pub(super) fn masked(id: EventId) -> u128 {
    const ORDER: u128 = 0xfff << 64;
    id.bits() & !ORDER
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_code_means_what_it_was_made_of() {
        for it in CLASSES {
            assert_eq!(class(class_code(it)).unwrap(), it);
        }
        for it in [Ended::Delivered, Ended::Dead, Ended::Expired, Ended::Cancelled] {
            assert_eq!(ended(ended_code(it)).unwrap(), it);
        }
        assert!(class(12).is_err() && class(-1).is_err() && ended(0).is_err());
    }
}
