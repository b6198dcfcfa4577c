//! Old events, delivered again.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{DeliveryState, DestinationId, EventId, Pattern, ProjectId, ReplayId};

/// Which deliveries are meant. Every field narrows; the default is all of the project's.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Selection {
    pub destination: Option<DestinationId>,
    pub state: Option<DeliveryState>,
    pub event_type: Option<Pattern>,
    /// By the time at which the event was received: from here on,
    pub from: Option<Timestamp>,
    /// … and before here.
    pub until: Option<Timestamp>,
}

/// A replay of a selection, which runs in the background and survives a restart.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Replay {
    pub id: ReplayId,
    pub project: ProjectId,
    /// Of this event alone, made at once; then the selection says nothing.
    #[serde(default)]
    pub event: Option<EventId>,
    pub selection: Selection,
    /// Not deliveries are meant, but events that the selection's destination never had, or without one
    /// those that went nowhere.
    #[serde(default)]
    pub missed: bool,
    /// Each gets a message id of its own, so that a receiver takes it for new.
    pub fresh_ids: bool,
    pub state: ReplayState,
    /// How many were selected when it was planned.
    pub total: u64,
    /// How many deliveries it has made so far.
    pub done: u64,
    pub created_at: Timestamp,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ReplayState {
    Running,
    Done,
    Cancelled,
}
