//! What makes an event unique, and which event was first.

use tokio_postgres::Row;

use super::{append::PendingEvent, values::Uuid};
use crate::{
    model::{EventId, EventSeq, NewEvent, TypeName},
    store::Result,
};

/// The events that had these keys first.
pub(super) const KNOWN: &str = "SELECT g.hash, g.id, g.seq, e.digest, e.type \
     FROM unnest($1::uuid[]) AS w (hash) JOIN gate g ON g.hash = w.hash \
     LEFT JOIN events e ON e.seq = g.seq";
/// Events whose ids differ from these in the bits between at most, which are an id's order within its
/// millisecond: the ids of deliveries have other things there.
pub(super) const TAKEN: &str = "SELECT e.project, e.id, e.seq, e.digest, e.type \
     FROM unnest($1::uuid[], $2::uuid[]) AS w (low, high) \
     JOIN events e ON e.id BETWEEN w.low AND w.high";
/// What makes an event unique in its project, if anything does.
#[derive(Clone, Copy, Default)]
pub(super) struct GateHashes {
    pub key: Option<Uuid>,
    /// Of the id that its sender gave it.
    pub id: Option<Uuid>,
}

impl GateHashes {
    pub fn iter(self) -> impl Iterator<Item = Uuid> {
        self.key.into_iter().chain(self.id)
    }
}

/// What a transaction looks up.
pub(super) struct GateLookup {
    pub hashes: Vec<Uuid>,
    /// Between which the ids lie that are the same as those that are brought.
    pub low: Vec<Uuid>,
    pub high: Vec<Uuid>,
}

impl GateLookup {
    pub fn of<'o>(offered: impl Iterator<Item = &'o PendingEvent> + Clone) -> Self {
        let ids = offered.clone().filter_map(|it| it.event.id);
        let low: Vec<Uuid> = ids.map(|it| Uuid(without_order(it))).collect();
        let high = low.iter().map(|it| Uuid(it.0 | ORDER)).collect();
        Self { hashes: offered.flat_map(|it| it.hashes.iter()).collect(), low, high }
    }
}

/// The bits of an id in which those of its deliveries differ from it.
const ORDER: u128 = 0xfff << 64;

pub(super) fn without_order(id: EventId) -> u128 {
    id.bits() & !ORDER
}

/// The event that had a key first.
#[derive(Clone)]
pub(super) struct First {
    pub id: EventId,
    pub seq: EventSeq,
    /// `None`: the event is forgotten.
    pub digest: Option<i64>,
    /// The same.
    pub event_type: Option<TypeName>,
}

impl First {
    /// Whether its key counts for a new event.
    pub fn counts(&self, new: &NewEvent) -> bool {
        let Some(window) = new.key_counts_for else { return true };
        new.received_at.as_millisecond() - self.id.millis() <= window.as_millis() as i64
    }
}

/// A row of [`KNOWN`] or [`TAKEN`].
pub(super) fn first_of(row: &Row) -> Result<(Uuid, First)> {
    let id: Uuid = row.try_get(1)?;
    let seq: i64 = row.try_get(2)?;
    let first = First {
        id: id.id(),
        seq: EventSeq(seq as u64),
        digest: row.try_get(3)?,
        event_type: row.try_get::<_, Option<&str>>(4)?.map(TypeName::trusted),
    };
    Ok((row.try_get(0)?, first))
}
