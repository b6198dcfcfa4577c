//! What operators and their machines ask: alive, ready, metrics, and the API's own description.

use std::time::Duration;

use axum::{
    Json,
    extract::State,
    http::{HeaderMap, HeaderValue, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;

use super::{Api, document};
use crate::{
    model::Scope,
    problem::{Kind, Problem},
    store::Refusal,
};

#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct Health {
    pub status: &'static str,
}

/// Get whether the process is alive
#[utoipa::path(
    get,
    path = "/healthz",
    tag = "operations",
    security(),
    responses((status = 200, description = "It is", body = Health))
)]
pub async fn healthz() -> Json<Health> {
    Json(Health { status: "alive" })
}

/// Get whether events are accepted
#[utoipa::path(
    get,
    path = "/readyz",
    tag = "operations",
    security(),
    responses(
        (status = 200, description = "They are", body = Health),
        (status = "5XX", response = Problem),
    )
)]
pub async fn readyz(State(api): State<Api>) -> Result<Json<Health>, Problem> {
    const LATER: Duration = Duration::from_secs(10);
    if *api.draining.borrow() {
        return Err(Problem::new(Kind::Unavailable).detail("the gateway is stopping"));
    }
    match api.database.health().refuses {
        None => Ok(Json(Health { status: "ready" })),
        Some(Refusal::DiskFull) => Err(Problem::new(Kind::DiskFull).retry_after(LATER)),
        Some(Refusal::Broken) => Err(Problem::new(Kind::Unavailable).detail(
            "the disk has failed: what was acknowledged is safe, and the process must be restarted",
        )),
        Some(Refusal::Unreachable) => Err(Problem::new(Kind::Unavailable)
            .detail("the database cannot be reached; it is tried again all the time")
            .retry_after(LATER)),
    }
}

/// Get metrics
///
/// In the text format of Prometheus.
#[utoipa::path(
    get,
    path = "/metrics",
    tag = "operations",
    security(),
    responses(
        (status = 200, description = "The metrics", body = String, content_type = "text/plain"),
        (status = "4XX", response = Problem),
    )
)]
pub async fn metrics(State(api): State<Api>, headers: HeaderMap) -> Result<Response, Problem> {
    if api.options.private_metrics.unwrap_or(true) {
        let session = api.keyring.authenticate(&headers, Scope::Read)?;
        if !session.caller.is_for_all_projects() {
            return Err(
                Problem::new(Kind::Forbidden).detail("only a key for all projects may do this")
            );
        }
    }
    let text = api.metrics.render();
    let content_type = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    Ok(([(header::CONTENT_TYPE, content_type)], text).into_response())
}

/// Get this description
#[utoipa::path(
    get,
    path = "/api/v1/openapi.json",
    tag = "operations",
    security(),
    responses((status = 200, description = "OpenAPI 3.1", body = Object))
)]
pub async fn openapi() -> Response {
    let content_type = HeaderValue::from_static("application/json");
    ([(header::CONTENT_TYPE, content_type)], document::text()).into_response()
}
