//! What the browsers' clients ask before they send anything: where to send it.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Path, Request, State},
    http::{HeaderMap, header},
    response::{IntoResponse as _, Response},
};
use serde_json::json;

use super::{answer::answered, key};
use crate::{
    ingest::{Ingest, segment::fields::MessageFields},
    problem::{Kind, Problem},
};

/// What [`address`] looks at.
const VARY: (header::HeaderName, &str) =
    (header::VARY, "host, x-forwarded-host, x-forwarded-proto");

/// The settings of analytics.js, which it loads from its `cdnURL`. They name this gateway as its host, so
/// that an app changes the `cdnURL` and nothing else.
pub async fn settings(
    State(ingest): State<Arc<Ingest>>,
    Path(write_key): Path<String>,
    headers: HeaderMap,
) -> Response {
    if ingest.keyring.by_write_key(&write_key).is_none() {
        return answered(Err(unknown().into()));
    }
    let (host, protocol) = address(&headers);
    let all = json!({ "__default": { "enabled": true, "integrations": {} } });
    let settings = json!({
        // Exactly one: for any other, the client would load code from somewhere.
        "integrations": { "Segment.io": {
            "apiKey": write_key,
            "apiHost": format!("{host}/v1"),
            "protocol": protocol,
            "unbundledIntegrations": [],
            "addBundledMetadata": true,
            "httpConfig": {},
        } },
        "plan": { "track": all, "identify": all, "group": all },
        "middlewareSettings": {},
        "enabledMiddleware": {},
        "metrics": { "sampleRate": 0 },
        "legacyVideoPluginsEnabled": false,
        "remotePlugins": [],
        "edgeFunction": {},
        "analyticsNextEnabled": true,
    });
    let cache = [(header::CACHE_CONTROL, "public, max-age=120"), VARY];
    (cache, Json(settings)).into_response()
}

/// What RudderStack's client for browsers loads: a source that is enabled, and no destinations of its own.
pub async fn source_config(State(ingest): State<Arc<Ingest>>, request: Request) -> Response {
    let key = key::find(request.headers(), request.uri(), &MessageFields::default());
    let Some(source) = key.as_deref().and_then(|it| ingest.keyring.by_write_key(it)) else {
        return answered(Err(unknown().into()));
    };
    let (host, protocol) = address(request.headers());
    let config = json!({ "source": {
        "id": source.id.to_string(),
        "name": source.name.as_str(),
        "writeKey": key,
        "enabled": true,
        "workspaceId": source.project.to_string(),
        "config": { "statsCollection": {
            "errors": { "enabled": false },
            "metrics": { "enabled": false },
        } },
        "dataplanes": { "US": [{ "url": format!("{protocol}://{host}"), "default": true }] },
        "destinations": [],
    } });
    ([VARY], Json(config)).into_response()
}

fn unknown() -> Problem {
    Problem::new(Kind::UnknownWriteKey).detail("no enabled source has this write key")
}

/// The host by which the caller knows us, and how it speaks to us. A lie here only misleads the liar: caches
/// learn from `Vary` what an answer depends on.
fn address(headers: &HeaderMap) -> (String, &'static str) {
    let text = |name: &str| headers.get(name).and_then(|it| it.to_str().ok()).map(str::trim);
    let is_host = |it: &&str| {
        it.bytes()
            .all(|it| it.is_ascii_alphanumeric() || matches!(it, b'.' | b'-' | b':' | b'[' | b']'))
    };
    let host = text("x-forwarded-host").or_else(|| text("host")).filter(is_host);
    let is_https = text("x-forwarded-proto").is_some_and(|it| it.eq_ignore_ascii_case("https"));
    (host.unwrap_or("localhost").to_owned(), if is_https { "https" } else { "http" })
}
