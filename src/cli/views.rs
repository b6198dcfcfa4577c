//! What the API answers, as far as commands show it. Fields that a gateway of another version does
//! not send are empty, and those that it adds are passed over.

use std::time::Duration;

use jiff::Timestamp;
use serde::Deserialize;

use super::{json::Json, output::Paint};
use crate::model::{Class, DeliveryState};

#[derive(Clone, Debug, Deserialize)]
pub struct StoredEventView {
    pub id: String,
    #[serde(rename = "type")]
    pub event_type: String,
    #[serde(default)]
    pub source: Option<String>,
    #[serde(default)]
    pub timestamp: Option<Timestamp>,
    pub received_at: Timestamp,
    #[serde(default)]
    pub idempotency_key: Option<String>,
    #[serde(default)]
    pub metadata: Json,
    #[serde(default)]
    pub payload: Json,
    #[serde(default)]
    pub planned: bool,
    #[serde(default)]
    pub skipped: Vec<Skipped>,
    #[serde(default)]
    pub deliveries: Vec<Delivery>,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Skipped {
    #[serde(default)]
    pub pipeline: Option<String>,
    #[serde(default)]
    pub route: Option<String>,
    pub by: String,
    pub reason: String,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Delivery {
    pub id: String,
    #[serde(default)]
    pub event_id: String,
    #[serde(default)]
    pub event_type: String,
    #[serde(default)]
    pub received_at: Option<Timestamp>,
    pub destination: String,
    #[serde(default)]
    pub replay: Option<String>,
    pub state: DeliveryState,
    #[serde(default)]
    pub attempts: u16,
    #[serde(default)]
    pub due: Option<Timestamp>,
    #[serde(default)]
    pub log: Vec<EntryView>,
}

/// A line of the activity log: an attempt, or how the delivery ended without one.
#[derive(Clone, Debug, Deserialize)]
pub struct EntryView {
    pub at: Timestamp,
    /// Of the attempt; without it, no attempt was made.
    #[serde(default)]
    pub attempt: Option<u16>,
    #[serde(default)]
    pub class: Option<Class>,
    #[serde(default)]
    pub status: Option<u16>,
    #[serde(default)]
    pub reason: String,
    #[serde(default)]
    pub duration_ms: Option<f64>,
    #[serde(default)]
    pub response: Option<String>,
    #[serde(default)]
    pub event_id: String,
    #[serde(default)]
    pub event_type: String,
    #[serde(default)]
    pub destination: String,
    #[serde(default)]
    pub ended: Option<DeliveryState>,
}

impl EntryView {
    /// How long the attempt took.
    pub fn duration(&self) -> Duration {
        let millis = self.duration_ms.unwrap_or_default();
        Duration::try_from_secs_f64(millis / 1e3).unwrap_or_default()
    }
}

/// The word for a state, in its colour.
pub fn state(it: DeliveryState, paint: Paint) -> String {
    match it {
        DeliveryState::Pending => paint.cyan("pending"),
        DeliveryState::Retrying => paint.yellow("retrying"),
        DeliveryState::Delivered => paint.green("delivered"),
        DeliveryState::Dead => paint.red("dead"),
        DeliveryState::Expired => paint.red("expired"),
        DeliveryState::Cancelled => paint.dim("cancelled"),
    }
}

/// `503 Service Unavailable`, `200`, or `connection refused`: status and reason without repetition.
pub fn outcome(status: Option<u16>, reason: &str) -> String {
    match status {
        Some(status) if reason.starts_with(&status.to_string()) => reason.to_owned(),
        Some(status) if reason.is_empty() => status.to_string(),
        Some(status) => format!("{status} {reason}"),
        None => reason.to_owned(),
    }
}
