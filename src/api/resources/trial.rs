//! A test event: one attempt at a destination, outside of every order.

use axum::{
    Json,
    extract::{Path, State},
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::find;
use crate::{
    api::{
        Api,
        request::{Access, Body, Operate},
    },
    model::{Class, DeliveryId, Destination, EventId, RawJson, TypeName},
    probe::{ProbeError, greeting},
    problem::{Kind, Problem},
};

/// What to send. Every field may be left out, and so may the body.
#[derive(Debug, Default, Deserialize, utoipa::ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Trial {
    /// Usually `tidegate.test`; `webhook.configured` where the contract knows that.
    #[serde(rename = "type")]
    #[schema(value_type = Option<String>)]
    event_type: Option<TypeName>,
    payload: Option<Value>,
}

/// What came of it.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct TrialOutcome {
    /// The id under which it was sent.
    pub message_id: String,
    /// The event, and the delivery, whose activity log has this attempt. Null when they could not be
    /// kept, e.g. because the disk is full.
    #[schema(value_type = Option<String>)]
    pub event_id: Option<EventId>,
    #[schema(value_type = Option<String>)]
    pub delivery_id: Option<DeliveryId>,
    /// Whether the destination took it.
    pub accepted: bool,
    pub class: Class,
    /// The HTTP status.
    pub status: Option<u16>,
    /// For people: `503 Service Unavailable`, `connection refused`.
    pub reason: String,
    pub duration_ms: f64,
    /// The beginning of the answer, at most 1 KiB.
    pub response: Option<String>,
}

/// Send a test event
///
/// It is signed like any other, and sent at once and once, outside of every order, also to a destination
/// that is paused, disabled or not verified. The activity log shows it. It counts in no statistics, and
/// one that fails is no dead letter.
#[utoipa::path(
    post,
    path = "/api/v1/destinations/{destination}/test",
    tag = "destinations",
    params(("destination" = String, Path, description = "Its name or id")),
    request_body(content = Option<Trial>),
    responses(
        (status = 200, description = "What came of it, good or bad", body = TrialOutcome),
        (status = "4XX", response = Problem),
    )
)]
pub async fn test_destination(
    State(api): State<Api>,
    access: Access<Operate>,
    Path(destination): Path<String>,
    body: Body,
) -> Result<Json<TrialOutcome>, Problem> {
    let trial: Trial = body.read_or_default()?;
    let catalog = api.catalog_writer.current();
    let found = find::<Destination>(&catalog, access.project, &destination)?;
    let (usual_type, usual_payload) = greeting(found);
    let event_type = trial.event_type.unwrap_or(usual_type);
    let payload = trial.payload.map_or(usual_payload, |it| RawJson::of(&it));
    let probe = api.prober.test(found, event_type, payload).await.map_err(|error| match error {
        ProbeError::Gone => Problem::not_found("destination"),
        ProbeError::Busy => Problem::new(Kind::Overloaded)
            .retry_after(std::time::Duration::from_secs(1))
            .detail("other test events are being sent"),
    })?;
    let outcome = probe.outcome;
    Ok(Json(TrialOutcome {
        message_id: probe.message_id,
        event_id: probe.kept.map(|it| it.0),
        delivery_id: probe.kept.map(|it| it.1),
        accepted: outcome.class == Class::Accepted,
        class: outcome.class,
        status: outcome.status,
        reason: outcome.reason,
        duration_ms: outcome.duration.as_micros() as f64 / 1e3,
        response: outcome.response.map(|it| it.to_text()),
    }))
}
