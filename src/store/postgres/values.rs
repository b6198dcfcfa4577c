//! What the values in rows mean.

use bytes::BytesMut;
use jiff::Timestamp;
use tokio_postgres::types::{FromSql, IsNull, ToSql, Type, to_sql_checked};

use crate::{
    model::{DeliverySeq, DestinationId, EventSeq, Id, Lane, ProjectId},
    store::{Result, StoreError},
};

type ConversionError = Box<dyn std::error::Error + Sync + Send>;

/// An id, as the column type `uuid`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Uuid(pub u128);

impl<K> From<Id<K>> for Uuid {
    fn from(id: Id<K>) -> Self {
        Self(id.bits())
    }
}

impl Uuid {
    pub fn id<K>(self) -> Id<K> {
        Id::from_bits(self.0)
    }
}

impl ToSql for Uuid {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, ConversionError> {
        out.extend_from_slice(&self.0.to_be_bytes());
        Ok(IsNull::No)
    }

    fn accepts(ty: &Type) -> bool {
        *ty == Type::UUID
    }

    to_sql_checked!();
}

impl<'a> FromSql<'a> for Uuid {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, ConversionError> {
        Ok(Self(u128::from_be_bytes(raw.try_into()?)))
    }

    fn accepts(ty: &Type) -> bool {
        *ty == Type::UUID
    }
}

/// The bits of a seq in which its shard stands.
const SHARD_SHIFT: u32 = 40;

/// Before the first event of a shard.
pub(super) fn first_of(shard: u16) -> EventSeq {
    EventSeq(u64::from(shard) << SHARD_SHIFT)
}

pub(super) fn shard_of(seq: EventSeq) -> u16 {
    // What is too large stands for no shard that there is.
    u16::try_from(seq.0 >> SHARD_SHIFT).unwrap_or(u16::MAX)
}

/// Whose log holds the events of a project.
pub(super) fn shard_of_project(project: ProjectId, shards: u16) -> u16 {
    spread(project.bits(), shards)
}

/// Who brings deliveries to a destination.
pub(super) fn shard_of_destination(destination: DestinationId, shards: u16) -> u16 {
    spread(destination.bits(), shards)
}

/// The same for ever: it is part of the format.
fn spread(bits: u128, shards: u16) -> u16 {
    let hash = xxhash_rust::xxh3::xxh3_64(&bits.to_be_bytes());
    // Below `shards`.
    (hash % u64::from(shards.max(1))) as u16
}

/// Keeps the unsigned order.
pub(super) fn lane_to_row(lane: Lane) -> i64 {
    (lane.0 ^ 1 << 63) as i64
}

pub(super) fn lane_of_row(lane: i64) -> Lane {
    Lane(lane as u64 ^ 1 << 63)
}

pub(super) fn seq_to_row(seq: EventSeq) -> i64 {
    // A place behind all that there can be is no place of a row.
    i64::try_from(seq.0).unwrap_or(i64::MAX)
}

pub(super) fn event_of_row(seq: i64) -> EventSeq {
    EventSeq(seq as u64)
}

pub(super) fn delivery_of_row(seq: i64) -> DeliverySeq {
    DeliverySeq::from_bits(seq as u64)
}

pub(super) fn delivery_to_row(seq: DeliverySeq) -> i64 {
    seq.bits() as i64
}

/// The deliveries of an event, as a range of seqs.
pub(super) fn deliveries_of(event: EventSeq) -> (i64, i64) {
    let first = delivery_to_row(DeliverySeq::first_of(event));
    (first, first + i64::from(DeliverySeq::PER_EVENT) - 1)
}

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

/// What a query may ask for at most.
pub(super) fn limit_to_row(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX).min(1 << 40)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lanes_keep_their_order_in_rows() {
        let lanes = [0, 1, 7, 1 << 62, 1 << 63, u64::MAX].map(Lane);
        assert!(lanes.map(lane_to_row).is_sorted());
        assert_eq!(lanes.map(lane_to_row).map(lane_of_row), lanes);
    }

    #[test]
    fn a_seq_knows_its_shard() {
        assert_eq!(shard_of(EventSeq(first_of(15).0 + 7)), 15);
        assert_eq!(shard_of(EventSeq(u64::MAX)), u16::MAX);
        assert!((0..1000).all(|it| shard_of_project(Id::from_bits(it), 16) < 16));
    }
}
