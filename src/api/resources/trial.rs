//! A test event: one attempt at a destination, outside of every order and kept nowhere.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Path, State},
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::find;
use crate::{
    api::{
        Api,
        request::{Access, Body, Operate},
    },
    model::{
        Class, DeliverySeq, Destination, Event, EventId, EventSeq, Message, RawJson, SourceId,
        TypeName,
    },
    problem::{Kind, Problem},
};

/// Test events under way at once, over all projects.
pub const AT_ONCE: usize = 8;

/// What to send. Every field may be left out, and so may the body.
#[derive(Debug, Default, Deserialize, utoipa::ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Trial {
    /// Usually `tidegate.test`.
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
/// It is signed like any other, is sent at once, also to a destination that is paused, and is not kept.
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
    let id = find::<Destination>(&api.registrar.current(), access.project, &destination)?.id;
    let outlet = api.outlets.get(id).ok_or_else(|| Problem::not_found("destination"))?;
    let Ok(_permit) = api.trials.try_acquire() else {
        return Err(Problem::new(Kind::Overloaded)
            .retry_after(std::time::Duration::from_secs(1))
            .detail("other test events are being sent"));
    };
    let now = api.clock.now();
    let payload = trial.payload.unwrap_or_else(
        || json!({ "test": true, "message": "This is a test event from Tidegate." }),
    );
    let event = Event {
        seq: EventSeq(0),
        id: EventId::new(now, 0, api.random.u64()),
        project: access.project,
        source: SourceId::from_bits(0),
        event_type: trial.event_type.unwrap_or_else(|| TypeName::trusted("tidegate.test")),
        timestamp: now,
        received_at: now,
        key: None,
        metadata: RawJson::of(&json!({ "source": "test" })),
        payload: RawJson::of(&payload),
    };
    let message = Message {
        seq: DeliverySeq::first_of(EventSeq(0)),
        event: Arc::new(event),
        copy: None,
        fresh_id: false,
    };
    let message_id = message.message_id();
    let outcome = outlet.send(&[message], now).await;
    Ok(Json(TrialOutcome {
        message_id,
        accepted: outcome.class == Class::Accepted,
        class: outcome.class,
        status: outcome.status,
        reason: outcome.reason,
        duration_ms: outcome.duration.as_micros() as f64 / 1e3,
        response: outcome.response.map(|it| it.to_text()),
    }))
}
