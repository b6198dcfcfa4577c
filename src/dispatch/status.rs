//! What the dispatcher says about itself.

use jiff::Timestamp;
use serde::Serialize;

use super::breaker;

/// All of the dispatcher, at a moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct DispatcherStatus {
    pub in_flight: usize,
    /// Deliveries in memory, those in flight included.
    pub held: usize,
    /// Settlements that are not yet on disk.
    pub unsettled: usize,
    /// Nothing is under way, and nothing will be before `next_due` unless something comes in.
    pub is_idle: bool,
    /// When time alone moves something next.
    pub next_due: Option<Timestamp>,
    /// Whether what is owed from before the start is known.
    pub backlog_known: bool,
    /// After a stop: nothing is in flight and everything is on disk.
    pub is_drained: bool,
}

/// One destination, at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, utoipa::ToSchema)]
pub struct LineStatus {
    pub in_flight: u32,
    /// Deliveries in memory.
    pub held: usize,
    /// Those, or their lanes, that could go at once.
    pub ready: usize,
    /// Lanes whose head waits for long.
    pub blocked_lanes: usize,
    /// Whether more is owed than is held in memory.
    pub reads_from_store: bool,
    pub breaker: BreakerState,
    #[schema(value_type = Option<String>)]
    pub breaker_opens_at: Option<Timestamp>,
    /// The endpoint asked to be left alone until then.
    #[schema(value_type = Option<String>)]
    pub paused_until: Option<Timestamp>,
    #[schema(value_type = Option<String>)]
    pub failing_since: Option<Timestamp>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum BreakerState {
    Closed,
    Open,
    HalfOpen,
    SlowStart,
}

impl From<breaker::State> for BreakerState {
    fn from(state: breaker::State) -> Self {
        match state {
            breaker::State::Closed => Self::Closed,
            breaker::State::Open { .. } => Self::Open,
            breaker::State::HalfOpen { .. } => Self::HalfOpen,
            breaker::State::SlowStart { .. } => Self::SlowStart,
        }
    }
}
