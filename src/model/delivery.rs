//! The obligation to bring one event to one destination.

use std::{fmt::Write as _, sync::Arc};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{
    Altered, DeliveryId, DestinationId, Event, EventId, EventSeq, Name, PipelineId, RawJson,
    Remembered, Tally, TypeName,
};

/// The place of a delivery: its event's place, and which of the event's deliveries it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeliverySeq(u64);

impl DeliverySeq {
    /// Deliveries that one event can have, replays included.
    pub const PER_EVENT: u16 = 1 << Self::ORDINAL_BITS;
    const ORDINAL_BITS: u32 = 11;

    /// Sorts before every delivery of this event.
    pub const fn first_of(event: EventSeq) -> Self {
        Self(event.0 << Self::ORDINAL_BITS)
    }

    /// `ordinal` is below [`Self::PER_EVENT`].
    pub const fn new(event: EventSeq, ordinal: u16) -> Self {
        Self(event.0 << Self::ORDINAL_BITS | (ordinal & (Self::PER_EVENT - 1)) as u64)
    }

    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    pub const fn bits(self) -> u64 {
        self.0
    }

    pub const fn event(self) -> EventSeq {
        EventSeq(self.0 >> Self::ORDINAL_BITS)
    }

    pub const fn ordinal(self) -> u16 {
        (self.0 & (Self::PER_EVENT as u64 - 1)) as u16
    }
}

impl DeliveryId {
    /// The id of an event's delivery: the event's own id, with the ordinal in the 12 bits that
    /// sort ids within a millisecond. So an event planned twice gets the same deliveries, and a
    /// delivery is found from its id without an index.
    pub fn of(event: EventId, ordinal: u16) -> Self {
        const ORDER: u128 = 0xfff << 64;
        Self::from_bits(event.bits() & !ORDER | u128::from(ordinal) << 64)
    }
}

/// What a pipeline made of an event: all of it is stored in one transaction.
#[derive(Clone, Debug)]
pub struct Plan {
    pub event: Arc<Event>,
    pub deliveries: Vec<PlannedDelivery>,
    pub skipped: Vec<Skipped>,
    /// It is the rest, or some more, of a plan that [waits](Self::waits).
    pub is_rest: bool,
    /// What steps remember from now on. The later of two of one key counts.
    pub remembered: Vec<Remembered>,
    /// What the pipelines did that had a say in this part of the plan.
    pub tallies: Vec<Tally>,
}

#[derive(Clone, Debug)]
pub struct PlannedDelivery {
    pub destination: DestinationId,
    pub pipeline: PipelineId,
    pub pipeline_version: u32,
    pub place: Place,
    /// What this destination gets instead of the event's own, when a step changed it.
    pub copy: Option<Arc<Altered>>,
    /// Why it is dead before its first attempt. `None` is the usual: it is owed.
    pub dead: Option<String>,
}

impl Plan {
    /// The first plan of an event, with nothing in it yet.
    pub fn of(event: &Arc<Event>) -> Self {
        Self {
            event: event.clone(),
            deliveries: vec![],
            skipped: vec![],
            is_rest: false,
            remembered: vec![],
            tallies: vec![],
        }
    }

    /// Whether more plans of this event follow, for pipelines that wait.
    pub fn waits(&self) -> bool {
        self.skipped.iter().any(Skipped::waits)
    }
}

/// Why an event, or one route of it, went no further. People read this in the activity log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Skipped {
    /// `None`: no pipeline wanted the event.
    #[schema(value_type = Option<String>)]
    pub pipeline: Option<Name>,
    /// The version that the pipeline had then. `None` where no pipeline had a say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pipeline_version: Option<u32>,
    /// `None`: the whole pipeline was skipped.
    #[schema(value_type = Option<String>)]
    pub route: Option<Name>,
    /// `trigger`, `when`, `route` (its destination), `integrations` (the event's own), `pipeline` (it does
    /// not compile), `system` (it was sent by Tidegate itself), the kind of the step, e.g. `filter.match`,
    /// or `waits`: this pipeline has not decided yet, and will.
    pub by: String,
    pub reason: String,
}

impl Skipped {
    /// In `by`: the pipeline waits for an answer from outside, or behind one that does.
    pub const WAITS: &str = "waits";

    pub fn waits(&self) -> bool {
        self.by == Self::WAITS
    }
}

/// Which deliveries of a destination wait for each other: those of one lane. A hash of the ordering
/// key; two keys that collide merely share a lane. `Lane::NONE` where nothing waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lane(pub u64);

impl Lane {
    pub const NONE: Self = Self(0);
}

/// Where in its destination's line a delivery stands. In ordered lanes `position` is the event's
/// time in milliseconds, behind all of earlier [eras](super::Era); without ordering it is 0, and the place in
/// accept order decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    pub lane: Lane,
    pub position: i64,
}

/// A delivery that has not ended: all that the dispatcher needs to know to decide about it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Owed {
    pub seq: DeliverySeq,
    pub destination: DestinationId,
    pub place: Place,
    pub accepted_at: Timestamp,
    pub standing: Standing,
}

/// How far a delivery has come.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Standing {
    /// Attempts made so far.
    pub attempts: u16,
    /// Entries in its activity log so far, which number the next one.
    pub entries: u16,
    /// Not before this time, after a failed attempt.
    pub due: Option<Timestamp>,
}

impl Standing {
    pub const NEW: Self = Self { attempts: 0, entries: 0, due: None };
}

/// What a destination is given to deliver.
#[derive(Clone, Debug)]
pub struct Message {
    pub seq: DeliverySeq,
    pub event: Arc<Event>,
    /// What the destination gets instead of the event's own, when a step changed it.
    pub copy: Option<Arc<Altered>>,
    /// Replays may ask for a message id of their own; otherwise it is the event's.
    pub fresh_id: bool,
}

impl Message {
    pub fn delivery_id(&self) -> DeliveryId {
        DeliveryId::of(self.event.id, self.seq.ordinal())
    }

    /// The same on every attempt: it is how a receiver sees a duplicate. It is the event's id, with
    /// the number of the part behind it (`evt_…_2`) where a step made several messages of the event.
    pub fn message_id(&self) -> String {
        if self.fresh_id {
            return self.delivery_id().to_string();
        }
        let mut id = String::with_capacity(EventId::LENGTH);
        // Writing to a `String` cannot fail.
        write!(id, "{}", self.event.id).ok();
        if let Some(part) = self.copy.as_ref().and_then(|it| it.part) {
            write!(id, "_{part}").ok();
        }
        id
    }

    /// What it weighs in memory, roughly. The event counts fully, though other messages may share it.
    pub fn weight(&self) -> usize {
        self.event.weight() + self.copy.as_ref().map_or(0, |it| it.weight())
    }

    pub fn event_type(&self) -> &TypeName {
        let altered = self.copy.as_ref().and_then(|it| it.event_type.as_ref());
        altered.unwrap_or(&self.event.event_type)
    }

    pub fn payload(&self) -> &RawJson {
        let altered = self.copy.as_ref().and_then(|it| it.payload.as_ref());
        altered.unwrap_or(&self.event.payload)
    }

    pub fn metadata(&self) -> &RawJson {
        let altered = self.copy.as_ref().and_then(|it| it.metadata.as_ref());
        altered.unwrap_or(&self.event.metadata)
    }
}

/// How a delivery ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ended {
    Delivered,
    /// Every attempt failed, or one failed for good. Only a replay brings it back.
    Dead,
    /// Its time was over before it could be delivered.
    Expired,
    /// A person cancelled it, or its destination was deleted.
    Cancelled,
}

/// The state that people see.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum DeliveryState {
    /// Not yet attempted.
    Pending,
    /// Failed, and waits for its next attempt.
    Retrying,
    Delivered,
    Dead,
    Expired,
    Cancelled,
}

impl From<Ended> for DeliveryState {
    fn from(ended: Ended) -> Self {
        match ended {
            Ended::Delivered => Self::Delivered,
            Ended::Dead => Self::Dead,
            Ended::Expired => Self::Expired,
            Ended::Cancelled => Self::Cancelled,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delivery_knows_its_event_and_its_ordinal() {
        let seq = DeliverySeq::new(EventSeq(77), 2047);
        assert_eq!((seq.event(), seq.ordinal()), (EventSeq(77), 2047));
        assert!(seq < DeliverySeq::first_of(EventSeq(78)));
    }

    #[test]
    fn the_ids_of_an_events_deliveries_differ_and_stay_the_same() {
        let event = EventId::new(Timestamp::UNIX_EPOCH, 5, 99 << 2);
        assert_eq!(DeliveryId::of(event, 1), DeliveryId::of(event, 1));
        assert_ne!(DeliveryId::of(event, 1), DeliveryId::of(event, 2));
    }
}
