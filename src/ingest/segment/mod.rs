//! The surface that Segment's clients and those of its kin speak to: `/v1/…`, with a write key.
//!
//! What they send and what they need back was observed with the real clients; docs/segment.md says
//! what follows. In short: success is exactly 200, an error is JSON with `code` and `message`, a wait is
//! whole seconds in `Retry-After`, and the fault of one message never fails the others of its batch.

mod key;
mod fields;
mod merge;
mod take;
mod times;
mod message;
mod settings;
mod answer;
pub(super) mod parsers;

use std::{net::IpAddr, sync::Arc};

use axum::{
    Router,
    extract::{Path, Request, State},
    http::{Method, StatusCode, header, request::Parts},
    middleware,
    response::{IntoResponse as _, Response},
    routing::{get, post},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use self::{
    answer::{Fault, RefusedRequest, TakenRequest, answered},
    key::Elsewhere,
    message::Call,
    take::{Apart, RequestFacts},
};
use super::{
    Ingest, OpenSource, body,
    body_budget::{Pass, SenderClass},
    cors,
    traffic::{Caller, Rejection},
    types,
};
use crate::problem::{Kind, Problem};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// Bytes of one message. A larger one is rejected; the others of its batch are not.
    pub message_bytes: usize,
    /// Bytes of a request, inflated.
    pub batch_bytes: usize,
    /// Messages of a batch. Those behind are rejected.
    pub messages: usize,
    /// Bytes that the `context` and `integrations` of a batch may have in all of its messages together, or
    /// as many as the request itself has, where those are more. Messages behind are rejected.
    pub shared_bytes: usize,
}

impl Default for Options {
    /// What Segment documents; of copies, it says nothing.
    fn default() -> Self {
        Self {
            message_bytes: 32 * 1024,
            batch_bytes: 500 * 1024,
            messages: 2500,
            shared_bytes: 256 * 1024,
        }
    }
}

/// Every route that clients of this kind use.
pub fn router(ingest: Arc<Ingest>) -> Router {
    let batch_paths =
        ["/v1/batch", "/v1/b", "/v1/batch/b", "/v1/import", "/batch", "/b", "/beacon/v1/batch"];
    let mut router = Router::new()
        .route("/v1/{call}", post(call))
        // Clients report about themselves here. We do not ask how they are.
        .route("/v1/m", post(|| async { answered(Ok(TakenRequest::default())) }))
        .route("/v1/pixel/{call}", get(pixel))
        .route("/v1/projects/{write_key}/settings", get(settings::settings))
        .route("/projects/{write_key}/settings", get(settings::settings))
        .route("/v1/projects/projects/{write_key}/settings", get(settings::settings))
        .route("/sourceConfig", get(settings::source_config))
        .route("/sourceConfig/", get(settings::source_config));
    for path in batch_paths {
        router = router.route(path, post(batch));
    }
    router
        .method_not_allowed_fallback(|| async {
            answered(Err(Problem::new(Kind::MethodNotAllowed).into()))
        })
        .layer(middleware::from_fn(cors::segment))
        .with_state(ingest)
}

async fn call(
    State(ingest): State<Arc<Ingest>>,
    Path(call): Path<String>,
    request: Request,
) -> Response {
    let Some(call) = Call::named(&call) else {
        let problem = Problem::new(Kind::NotFound).detail("there is no such call");
        return answered(Err(problem.into()));
    };
    answered(ingest.segment(Some(call), request).await)
}

async fn batch(State(ingest): State<Arc<Ingest>>, request: Request) -> Response {
    answered(ingest.segment(None, request).await)
}

/// A picture of one pixel, whatever happened: it stands in somebody's e-mail.
async fn pixel(
    State(ingest): State<Arc<Ingest>>,
    Path(call): Path<String>,
    request: Request,
) -> Response {
    const GIF: &[u8] = b"GIF89a\x01\0\x01\0\x80\0\0\0\0\0\xff\xff\xff!\xf9\x04\x01\0\0\0\0,\0\0\0\0\x01\0\x01\0\0\x02\x01D\0;";
    if let Some(call) = Call::named(&call) {
        let (mut parts, _) = request.into_parts();
        let body = pixel_body(parts.uri.query().unwrap_or_default());
        parts.method = Method::POST;
        let taken = ingest.segment_body(Some(call), &parts, body).await;
        if let Err(refused) = taken {
            let why = match refused {
                RefusedRequest::Whole(problem) => problem.kind().parts().1,
                RefusedRequest::Message(fault) => fault.code,
            };
            tracing::debug!(why, "a pixel was not taken");
        }
    }
    let headers = [(header::CONTENT_TYPE, "image/gif"), (header::CACHE_CONTROL, "no-store")];
    (StatusCode::OK, headers, GIF).into_response()
}

/// `?data=<base64 of a message>`, or the message's fields one by one.
fn pixel_body(query: &str) -> Bytes {
    let pairs = || url::form_urlencoded::parse(query.as_bytes());
    let data = pairs().find(|(name, _)| name == "data").and_then(|(_, data)| {
        let data = data.trim_end_matches('=').replace('-', "+").replace('_', "/");
        let padded = data.clone() + &"===="[..(4 - data.len() % 4) % 4];
        STANDARD.decode(padded).ok()
    });
    if let Some(data) = data {
        return data.into();
    }
    let mut message = serde_json::Map::new();
    for (name, value) in pairs() {
        put(&mut message, &name, value.into_owned(), LEVELS);
    }
    serde_json::Value::Object(message).to_string().into()
}

/// Objects in one another that a name with dots can make: a query has room for thousands, and who writes them
/// out would need a stack as deep.
const LEVELS: usize = 16;

/// `properties.plan=pro` and the like. What is a text already, is not an object as well. What is deeper than
/// that many levels stays one name.
fn put(
    object: &mut serde_json::Map<String, serde_json::Value>,
    path: &str,
    value: String,
    levels: usize,
) {
    let Some((outer, inner)) = path.split_once('.').filter(|_| levels > 0) else {
        object.insert(path.to_owned(), value.into());
        return;
    };
    let entry = object.entry(outer).or_insert_with(|| serde_json::json!({}));
    if let Some(object) = entry.as_object_mut() {
        put(object, inner, value, levels - 1);
    }
}

impl Ingest {
    async fn segment(
        self: &Arc<Self>,
        call: Option<Call>,
        request: Request,
    ) -> Result<TakenRequest, RefusedRequest> {
        let (parts, body) = request.into_parts();
        let elsewhere = Elsewhere::of(&parts.headers, &parts.uri);
        // The header's key counts before any other: where it opens nothing, nothing need be read.
        if let Some(key) = &elsewhere.header {
            self.opened(Some(key.clone()))?;
        }
        let limit = self.options.segment.batch_bytes;
        let pass = self.segment_pass(&elsewhere, self.caller_ip(&parts));
        let read = body::read(body, &parts.headers, limit, pass).await;
        let (body, _lease) = read.inspect_err(|problem| {
            let key = elsewhere.or_in(&fields::MessageFields::default());
            let source = key.and_then(|it| self.keyring.by_write_key(&it));
            let rejection = Rejection::of(problem, self.clock.now(), self.caller_ip(&parts));
            if let Some((source, rejection)) = source.zip(rejection) {
                self.turned_away(&source, rejection);
            }
        })?;
        self.segment_body(call, &parts, body).await
    }

    /// Leave to read the body. A key outside of it that somebody has makes its sender one that is known.
    fn segment_pass(&self, elsewhere: &Elsewhere, ip: IpAddr) -> Pass<'_> {
        let known = |it: &String| self.keyring.by_write_key(it).is_some();
        let is_named = match &elsewhere.header {
            Some(key) => known(key),
            None => elsewhere.query.as_ref().is_some_and(known),
        };
        let sender = if is_named { SenderClass::Named(ip) } else { SenderClass::Stranger(ip) };
        Pass { room: &self.room, sender }
    }

    /// The source of a write key.
    fn opened(&self, key: Option<String>) -> Result<Arc<OpenSource>, Problem> {
        let unknown = |detail: &'static str| Problem::new(Kind::UnknownWriteKey).detail(detail);
        let key = key.ok_or_else(|| unknown("there is no write key"))?;
        let source = self.keyring.by_write_key(&key);
        source.ok_or_else(|| unknown("no enabled source has this write key"))
    }

    fn turned_away(&self, source: &OpenSource, rejection: Rejection) {
        let rejection = rejection.without(source.never_store.as_ref());
        self.traffic.rejected(source.id, Caller::Source, rejection);
    }

    /// Takes a request apart, and keeps what is right of it. `call` is what the path says, if it does.
    async fn segment_body(
        self: &Arc<Self>,
        call: Option<Call>,
        parts: &Parts,
        body: Bytes,
    ) -> Result<TakenRequest, RefusedRequest> {
        /// Beyond it, reading and completing would hold up the other connections of this thread.
        const AT_ONCE: usize = 64 * 1024;
        let asked = RequestFacts::of(self, call, parts);
        let apart = if body.len() <= AT_ONCE {
            self.take_apart(&asked, &body)?
        } else {
            let (ingest, asked) = (self.clone(), asked.clone());
            let apart = tokio::task::spawn_blocking(move || ingest.take_apart(&asked, &body)).await;
            apart.map_err(|_| Problem::new(Kind::Internal))??
        };
        self.keep_apart(&asked, apart).await
    }

    /// Holds the events to the schemas of their types, and keeps those that are right.
    async fn keep_apart(
        &self,
        asked: &RequestFacts,
        apart: Apart,
    ) -> Result<TakenRequest, RefusedRequest> {
        let Apart { source, places, events, mut taken } = apart;
        let judge = self.types.judge(asked.received_at);
        let judged = self.checks.judge(events, &judge).await?;
        let mut events = Vec::with_capacity(judged.len());
        for (place, judged) in places.into_iter().zip(judged) {
            match judged {
                Ok(event) => events.push(event),
                Err(unfit) => {
                    let (_, rejection) = unfit.rejection(asked.received_at, asked.ip());
                    let fault = Fault::new(types::CODE, rejection.reason);
                    self.turned_away(&source, asked.rejection(&fault));
                    taken.reject(place, fault);
                }
            }
        }
        if asked.call.is_some()
            && let Some(fault) = taken.only_fault()
        {
            return Err(RefusedRequest::Message(fault));
        }
        if !events.is_empty() {
            let appended = self.gate.admit(events).await.map_err(Problem::from)?;
            self.traffic.taken(source.id, Caller::Source, &appended, asked.received_at);
            appended.iter().for_each(|it| self.show(it));
        }
        Ok(taken)
    }
}
