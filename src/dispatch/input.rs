//! What the scheduler is given, and what it answers.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};

use super::spilled::Spilled;
use crate::{
    model::{DeliverySeq, Destination, DestinationId, Outcome, Owed},
    store::{OwedQuery, Settlement},
};

/// What happened.
#[derive(Clone, Debug)]
pub enum Input {
    /// A destination is new or has changed.
    Settings(Arc<Destination>),
    /// A destination was deleted: what it is owed is cancelled.
    Removed(DestinationId),
    /// The store owes these destinations something of which nothing is known here. At the start.
    Backlog(Vec<DestinationId>),
    /// The store has just taken these on. Whole events, in accept order, each once.
    Planned(Vec<Owed>),
    /// The store has taken these on, and does not hand them over: hints that were dropped, replays.
    Spilled(Spilled),
    Finished {
        destination: DestinationId,
        delivery: DeliverySeq,
        outcome: Outcome,
    },
    /// It was to be attempted, and was not.
    Returned {
        destination: DestinationId,
        delivery: DeliverySeq,
    },
    /// It was to be attempted, and its event is no longer kept.
    Missing {
        destination: DestinationId,
        delivery: DeliverySeq,
    },
    /// It was to be attempted, and there is no memory for it beside what is under way.
    TooMuch {
        destination: DestinationId,
        delivery: DeliverySeq,
    },
    /// A request of a batch has ended, and carried these.
    PartEnded {
        destination: DestinationId,
        batch: u32,
        deliveries: Vec<DeliverySeq>,
        outcome: Outcome,
    },
    /// These of a batch will not be sent; the events of the missing are no longer kept.
    Cut {
        destination: DestinationId,
        batch: u32,
        left: Vec<DeliverySeq>,
        missing: Vec<DeliverySeq>,
    },
    /// Nothing more of a batch will be sent.
    BrokenOff {
        destination: DestinationId,
        batch: u32,
    },
    /// These settlements are on disk.
    Settled(Vec<(DestinationId, DeliverySeq)>),
    /// These settlements will never be on disk: another node had taken over. What the store owes is to
    /// be read again.
    Refused(Vec<(DestinationId, DeliverySeq)>),
    /// Another node delivers to these from now on. What is in flight ends.
    Left(Vec<DestinationId>),
    /// This node delivers to these again.
    Back(Vec<DestinationId>),
    /// The answer to [`Action::Refill`]; `None` when the store failed.
    Refilled {
        destination: DestinationId,
        rows: Option<Vec<Owed>>,
    },
    /// Someone cancels deliveries.
    Cancel(Vec<Owed>),
    /// Someone wants an endpoint that is left alone to be tried now.
    Poke(DestinationId),
    /// Time has passed.
    Tick,
    /// The clock was set back by so much, between the step before and this one. Or, at the start: by so
    /// much it is behind what the store has seen.
    SetBack(SignedDuration),
    /// No new attempts from here on.
    Stop,
}

/// What is to be done.
#[derive(Clone, Debug)]
pub enum Action {
    /// To be answered by `Finished`, `Returned` or `Missing`.
    Attempt(Owed),
    /// To be answered by at most one `Cut`, and by `PartEnded` for the first request. Each further
    /// one waits for `GoOn`.
    Batch {
        destination: DestinationId,
        number: u32,
        deliveries: Vec<Owed>,
        /// What one request may carry.
        bytes: usize,
    },
    /// The next request of a batch may go; to be answered by `PartEnded`, or by `BrokenOff`.
    GoOn { destination: DestinationId, number: u32 },
    /// Nothing more of a batch is to be sent. There is no answer.
    Leave { destination: DestinationId, number: u32 },
    /// To be answered by `Settled`, however long that takes.
    Settle(Settlement),
    /// To be answered by `Refilled`.
    Refill(OwedQuery),
    /// A `Tick` is due at this time, and no other is; `None`: none is.
    Wake(Option<Timestamp>),
    /// The destination is to be disabled, if it still has this version.
    Disable { destination: DestinationId, version: u32, reason: String },
    /// After `Stop`: nothing is in flight and everything is on disk.
    Drained,
}
