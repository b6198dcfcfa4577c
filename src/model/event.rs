//! What happened, as it was reported to us.

use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

use super::{EventId, IdempotencyKey, ProjectId, RawJson, SourceId, TypeName};

/// The place of an event in the order in which the store accepted it: 1, 2, 3, …
///
/// It fits 40 bits, which is a trillion events; [`super::DeliverySeq`] packs it with more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct EventSeq(pub u64);

/// An event that the store has accepted. It is never changed.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    pub seq: EventSeq,
    pub id: EventId,
    pub project: ProjectId,
    pub source: SourceId,
    pub event_type: TypeName,
    /// When it happened, by the sender; when it was received, if the sender did not say.
    pub timestamp: Timestamp,
    pub received_at: Timestamp,
    pub key: Option<IdempotencyKey>,
    /// An object: what the sender gave, with `source`, `ip` and `user_agent` added by ingest.
    pub metadata: RawJson,
    pub payload: RawJson,
}

#[cfg(test)]
impl Event {
    /// For tests that look at nothing but its place.
    pub fn at(seq: u64) -> Self {
        Self {
            seq: EventSeq(seq),
            id: EventId::from_bits(u128::from(seq)),
            project: ProjectId::from_bits(1),
            source: SourceId::from_bits(1),
            event_type: TypeName::trusted("a"),
            timestamp: Timestamp::UNIX_EPOCH,
            received_at: Timestamp::UNIX_EPOCH,
            key: None,
            metadata: RawJson::NULL,
            payload: RawJson::NULL,
        }
    }
}

/// An event on its way into the store, which gives it its place and, if it has none, its id.
#[derive(Clone, Debug, PartialEq)]
pub struct NewEvent {
    /// The sender's own id for it. Without `key`, it also makes two requests one.
    pub id: Option<EventId>,
    pub project: ProjectId,
    pub source: SourceId,
    pub event_type: TypeName,
    pub timestamp: Option<Timestamp>,
    pub received_at: Timestamp,
    pub key: Option<IdempotencyKey>,
    /// How long its key counts; `None`: for ever. When the event that has the key was accepted longer
    /// ago, this one is taken, and the key means it from then on.
    pub key_counts_for: Option<SignedDuration>,
    pub metadata: RawJson,
    pub payload: RawJson,
}

/// Bytes of an event's fields of fixed size, and of the bookkeeping around them.
const FIXED: usize = 256;

impl NewEvent {
    /// What it weighs in memory, roughly, for the limits on what waits.
    pub fn weight(&self) -> usize {
        FIXED + self.payload.bytes().len() + self.metadata.bytes().len()
    }
}

impl Event {
    /// What it weighs in memory, roughly, for the limits on what waits.
    pub fn weight(&self) -> usize {
        FIXED + self.payload.bytes().len() + self.metadata.bytes().len()
    }
}
