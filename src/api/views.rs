//! How events, deliveries and attempts look from outside.

use jiff::Timestamp;
use serde::Serialize;

use crate::{
    catalog::Catalog,
    crypto::inbound::preset,
    model::{
        Altered, Class, DeliveryId, DeliverySeq, DeliveryState, DestinationId, Entry, EntryKind,
        Event, EventId, PipelineId, RawJson, ReplayId, Skipped, SourceId, Verify, headers,
    },
    store::{ActivityRecord, DeliveryRecord, EventRecord},
    tail::Activity,
};

/// An event, as it was accepted.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
#[schema(as = Event)]
pub struct EventView {
    #[schema(value_type = String)]
    pub id: EventId,
    #[serde(rename = "type")]
    pub event_type: String,
    /// The name of its source; the id of one that was deleted; `system` for what Tidegate sends itself.
    pub source: String,
    #[schema(value_type = String, format = DateTime)]
    pub timestamp: Timestamp,
    #[schema(value_type = String, format = DateTime)]
    pub received_at: Timestamp,
    pub idempotency_key: Option<String>,
    /// What the sender gave, and `source`, `ip`, `user_agent` and `hops` as we saw them.
    #[schema(value_type = Object)]
    pub metadata: RawJson,
    /// Any JSON value, exactly as it came. Lists leave it out, unless `payload=true`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Value)]
    pub payload: Option<RawJson>,
}

impl EventView {
    pub fn of(event: &Event, catalog: &Catalog) -> Self {
        Self {
            id: event.id,
            event_type: event.event_type.to_string(),
            source: source_name(catalog, event.source),
            timestamp: event.timestamp,
            received_at: event.received_at,
            idempotency_key: event.key.as_ref().map(ToString::to_string),
            metadata: shown_metadata(event, catalog),
            payload: Some(event.payload.clone()),
        }
    }

    pub fn without_payload(mut self) -> Self {
        self.payload = None;
        self
    }
}

/// Without the headers that its source verifies by: older versions kept those that they had no name for.
fn shown_metadata(event: &Event, catalog: &Catalog) -> RawJson {
    let intake = catalog.sources.get(&event.source).and_then(|it| it.intake.as_ref());
    let Some(intake) = intake else { return event.metadata.clone() };
    let proofs = match &intake.verify {
        Verify::Scheme(scheme) => scheme.proofs(),
        Verify::Preset(provider) => preset(*provider).scheme.proofs(),
    };
    headers::without_hidden(event.metadata.clone(), &proofs)
}

/// An event, and what became of it.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
#[schema(as = EventDetail)]
pub struct EventDetailView {
    #[serde(flatten)]
    pub event: EventView,
    /// Whether the pipelines have seen it.
    pub planned: bool,
    /// Why it, or a route of it, went no further.
    pub skipped: Vec<Skipped>,
    /// Each with its activity log; of more than 100, or with large copies, the newest.
    pub deliveries: Vec<DeliveryView>,
}

impl EventDetailView {
    pub fn of(record: &EventRecord, catalog: &Catalog) -> Self {
        Self {
            event: EventView::of(&record.event, catalog),
            planned: record.planned,
            skipped: record.skipped.clone(),
            deliveries: record.deliveries.iter().map(|it| DeliveryView::of(it, catalog)).collect(),
        }
    }
}

/// The obligation to bring one event to one destination.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
#[schema(as = Delivery)]
pub struct DeliveryView {
    #[schema(value_type = String)]
    pub id: DeliveryId,
    #[schema(value_type = String)]
    pub event_id: EventId,
    pub event_type: String,
    #[schema(value_type = String, format = DateTime)]
    pub received_at: Timestamp,
    /// The name of the destination; the id of one that was deleted.
    pub destination: String,
    #[schema(value_type = String)]
    pub destination_id: DestinationId,
    /// The name of the pipeline that planned it, and the version that it had then. `directed` for what
    /// Tidegate itself has to say to this destination; null for a test.
    pub pipeline: Option<String>,
    pub pipeline_version: Option<u32>,
    /// The replay that made it.
    #[schema(value_type = Option<String>)]
    pub replay: Option<ReplayId>,
    pub state: DeliveryState,
    /// The delivery that took its place when it was replayed. A dead letter that has one is none any more, and
    /// no later replay of dead letters selects it.
    #[schema(value_type = Option<String>)]
    pub replayed_as: Option<DeliveryId>,
    pub attempts: u16,
    /// Not before this time, after a failed attempt.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub due: Option<Timestamp>,
    /// What this destination gets instead of the event's own, when a step changed it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub copy: Option<CopyView>,
    /// What happened to it, oldest first. Lists leave it out.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    pub log: Vec<EntryView>,
}

impl DeliveryView {
    pub fn of(record: &DeliveryRecord, catalog: &Catalog) -> Self {
        Self {
            id: DeliveryId::of(record.event, record.seq.ordinal()),
            event_id: record.event,
            event_type: record.event_type.to_string(),
            received_at: record.received_at,
            destination: destination_name(catalog, record.destination),
            destination_id: record.destination,
            pipeline: record.pipeline.map(|it| pipeline_name(catalog, it)),
            pipeline_version: (record.pipeline)
                .filter(|it| *it != PipelineId::DIRECTED)
                .map(|_| record.pipeline_version),
            replay: record.replay,
            state: record.state,
            replayed_as: record.replayed_as.map(|it| DeliveryId::of(record.event, it)),
            attempts: record.attempts,
            due: record.due,
            copy: record.copy.as_deref().map(CopyView::of),
            log: record.entries.iter().map(EntryView::of).collect(),
        }
    }
}

/// What one delivery carries instead of its event's own: each part that a step changed.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
#[schema(as = Copy)]
pub struct CopyView {
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub event_type: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Value>)]
    pub payload: Option<RawJson>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub metadata: Option<RawJson>,
    /// Which of several messages it is that a step made of the event, from 1. It stands behind the
    /// event's id in the message id: `evt_…_2`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub part: Option<u16>,
}

impl CopyView {
    fn of(altered: &Altered) -> Self {
        Self {
            event_type: altered.event_type.as_ref().map(ToString::to_string),
            payload: altered.payload.clone(),
            metadata: altered.metadata.clone(),
            part: altered.part,
        }
    }
}

/// One line of an activity log: an attempt, or an end without one.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
#[schema(as = Entry)]
pub struct EntryView {
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// Counts attempts from 1. Null: there was none.
    pub attempt: Option<u16>,
    pub class: Option<Class>,
    /// The HTTP status.
    pub status: Option<u16>,
    /// For people: `503 Service Unavailable`, `connection refused`, `cancelled by …`.
    pub reason: String,
    /// From the beginning of the attempt to the end of the answer.
    pub duration_ms: Option<f64>,
    /// The wait that the endpoint asked for.
    pub retry_after_seconds: Option<u64>,
    /// The beginning of the answer, at most 1 KiB.
    pub response: Option<String>,
    /// The state in which the delivery ended with it. Null: it goes on.
    pub ended: Option<DeliveryState>,
}

impl EntryView {
    pub fn of(entry: &Entry) -> Self {
        let base = Self {
            at: entry.at,
            attempt: None,
            class: None,
            status: None,
            reason: String::new(),
            duration_ms: None,
            retry_after_seconds: None,
            response: None,
            ended: entry.ended.map(DeliveryState::from),
        };
        match &entry.kind {
            EntryKind::Note { reason } | EntryKind::Replayed { reason, .. } => {
                Self { reason: reason.clone(), ..base }
            }
            EntryKind::Attempt { number, outcome } => Self {
                attempt: Some(*number),
                class: Some(outcome.class),
                status: outcome.status,
                reason: outcome.reason.clone(),
                duration_ms: Some(outcome.duration.as_micros() as f64 / 1e3),
                retry_after_seconds: outcome.retry_after.map(|it| it.as_secs()),
                response: outcome.response.as_ref().map(|it| it.to_text()),
                ..base
            },
        }
    }
}

/// A line of a project's activity log.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
#[schema(as = Attempt)]
pub struct AttemptView {
    #[schema(value_type = String)]
    pub event_id: EventId,
    pub event_type: String,
    #[schema(value_type = String)]
    pub delivery_id: DeliveryId,
    /// The name of the destination; the id of one that was deleted.
    pub destination: String,
    #[schema(value_type = String)]
    pub destination_id: DestinationId,
    #[serde(flatten)]
    pub entry: EntryView,
}

impl AttemptView {
    pub fn of(record: &ActivityRecord, catalog: &Catalog) -> Self {
        Self {
            event_id: record.event,
            event_type: record.event_type.to_string(),
            delivery_id: delivery_id(record.event, record.entry.delivery),
            destination: destination_name(catalog, record.destination),
            destination_id: record.destination,
            entry: EntryView::of(&record.entry),
        }
    }

    pub fn seen(activity: &Activity, catalog: &Catalog) -> Self {
        Self {
            event_id: activity.event,
            event_type: activity.event_type.to_string(),
            delivery_id: delivery_id(activity.event, activity.delivery),
            destination: destination_name(catalog, activity.destination),
            destination_id: activity.destination,
            entry: EntryView::of(&activity.entry),
        }
    }
}

fn delivery_id(event: EventId, seq: DeliverySeq) -> DeliveryId {
    DeliveryId::of(event, seq.ordinal())
}

/// The source of what Tidegate sends itself.
pub const SYSTEM: &str = "system";

// The names are the catalogue's, and so those of now; what was deleted has only its id left.

pub fn destination_name(catalog: &Catalog, id: DestinationId) -> String {
    catalog.destinations.get(&id).map_or_else(|| id.to_string(), |it| it.name.to_string())
}

fn source_name(catalog: &Catalog, id: SourceId) -> String {
    if id == SourceId::SYSTEM {
        return SYSTEM.to_owned();
    }
    catalog.sources.get(&id).map_or_else(|| id.to_string(), |it| it.name.to_string())
}

fn pipeline_name(catalog: &Catalog, id: PipelineId) -> String {
    if id == PipelineId::DIRECTED {
        return "directed".to_owned();
    }
    catalog.pipelines.get(&id).map_or_else(|| id.to_string(), |it| it.name.to_string())
}
