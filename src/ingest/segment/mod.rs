//! The surface that Segment's clients and those of its kin speak to: `/v1/…`, with a write key.
//!
//! What they send and what they need back was observed with the real clients; docs/segment.md says
//! what follows. In short: success is exactly 200, an error is JSON with `code` and `message`, a wait is
//! whole seconds in `Retry-After`, and the fault of one message never fails the others of its batch.

mod key;
mod fields;
mod times;
mod message;
mod settings;
mod answer;
pub(super) mod parsers;

use std::sync::Arc;

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
    answer::{Fault, Taken, answered},
    fields::Fields,
    message::{Around, Call},
};
use super::{
    Ingest, OpenSource, body, cors,
    judging::Unjudged,
    metadata::Circumstances,
    room::{Pass, Sender},
    traffic::{Caller, Rejection},
    types,
};
use crate::{
    model::{IdempotencyKey, NewEvent, TypeName},
    problem::{Kind, Problem},
};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// Bytes of one message. A larger one is rejected; the others of its batch are not.
    pub message_bytes: usize,
    /// Bytes of a request, inflated.
    pub batch_bytes: usize,
    /// Messages of a batch. Those behind are rejected.
    pub messages: usize,
}

impl Default for Options {
    /// What Segment documents.
    fn default() -> Self {
        Self { message_bytes: 32 * 1024, batch_bytes: 500 * 1024, messages: 2500 }
    }
}

/// Every route that clients of this kind use.
pub fn router(ingest: Arc<Ingest>) -> Router {
    let batch_paths =
        ["/v1/batch", "/v1/b", "/v1/batch/b", "/v1/import", "/batch", "/b", "/beacon/v1/batch"];
    let mut router = Router::new()
        .route("/v1/{call}", post(call))
        // Clients report about themselves here. We do not ask how they are.
        .route("/v1/m", post(|| async { answered(Ok(Taken::default())) }))
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
            answered(Err(Problem::new(Kind::MethodNotAllowed)))
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
        return answered(Err(Problem::new(Kind::NotFound).detail("there is no such call")));
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
        if let Err(problem) = taken {
            tracing::debug!(kind = ?problem.kind(), "a pixel was not taken");
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
    async fn segment(&self, call: Option<Call>, request: Request) -> Result<Taken, Problem> {
        let (parts, body) = request.into_parts();
        let limit = self.options.segment.batch_bytes;
        let pass = self.segment_pass(&parts)?;
        let read = body::read(body, &parts.headers, limit, pass).await;
        let (body, _lease) =
            read.inspect_err(|it| self.refused_whole(&parts, &Fields::default(), it))?;
        self.segment_body(call, &parts, body).await
    }

    /// Leave to read the body. A key in the header counts before any other: if nobody has it, there is nothing
    /// to read.
    fn segment_pass(&self, parts: &Parts) -> Result<Pass<'_>, Problem> {
        let ip = self.caller_ip(parts);
        let known = |it: &String| self.keyring.by_write_key(it).is_some();
        let sender = match key::in_header(&parts.headers) {
            Some(key) if !known(&key) => return Err(unknown_key()),
            Some(_) => Sender::Named(ip),
            None if key::in_query(&parts.uri).as_ref().is_some_and(known) => Sender::Named(ip),
            None => Sender::Stranger(ip),
        };
        Ok(Pass { room: &self.room, sender })
    }

    /// Counts a request that is refused as a whole, if its key says at which source.
    fn refused_whole(&self, parts: &Parts, fields: &Fields<'_>, problem: &Problem) {
        let key = key::find(&parts.headers, &parts.uri, fields);
        let source = key.and_then(|it| self.keyring.by_write_key(&it));
        let rejection = Rejection::of(problem, self.clock.now(), self.caller_ip(parts));
        if let Some((source, rejection)) = source.zip(rejection) {
            self.turned_away(&source, rejection);
        }
    }

    fn turned_away(&self, source: &OpenSource, rejection: Rejection) {
        let rejection = rejection.without(source.never_store.as_ref());
        self.traffic.rejected(source.id, Caller::Source, rejection);
    }

    /// Takes a request apart, and keeps what is right of it. `call` is what the path says, if it does.
    async fn segment_body(
        &self,
        call: Option<Call>,
        parts: &Parts,
        body: Bytes,
    ) -> Result<Taken, Problem> {
        let fields = Fields::parse(&body)
            .map_err(|error| Problem::new(Kind::InvalidJson).detail(super::event::syntax(&error)))
            .inspect_err(|it| self.refused_whole(parts, &Fields::default(), it))?;
        let key = key::find(&parts.headers, &parts.uri, &fields)
            .ok_or_else(|| Problem::new(Kind::UnknownWriteKey).detail("there is no write key"))?;
        let source = self.keyring.by_write_key(&key).ok_or_else(unknown_key)?;
        let understood = fields
            .messages(call.is_none())
            .and_then(|messages| Ok((messages, self.around(call, parts, &fields)?)));
        let (messages, around) =
            understood.inspect_err(|it| self.refused_whole(parts, &fields, it))?;
        let judge = self.types.judge(around.received_at);
        let mut taken = Taken::default();
        let (mut places, mut unjudged) = (Vec::new(), Vec::with_capacity(messages.len()));
        for (place, message) in messages.iter().enumerate() {
            let event = self.segment_message(place, message, &around);
            match event {
                Ok(event) => {
                    places.push(place);
                    unjudged.push(event.into_new(&source, &around));
                }
                Err(fault) => {
                    self.turned_away(&source, around.rejection(&fault));
                    taken.reject(place, fault);
                }
            }
        }
        let mut events = Vec::with_capacity(unjudged.len());
        for (place, judged) in places.into_iter().zip(self.checks.judge(unjudged, &judge).await?) {
            match judged {
                Ok(event) => events.push(event),
                Err(unfit) => {
                    let (_, rejection) = unfit.rejection(around.received_at, around.ip);
                    let fault = Fault::new(types::CODE, rejection.reason);
                    self.turned_away(&source, around.rejection(&fault));
                    taken.reject(place, fault);
                }
            }
        }
        if call.is_some()
            && let Some(fault) = taken.only_fault()
        {
            return Err(fault.into_problem());
        }
        if !events.is_empty() {
            let appended = self.gate.admit(events).await?;
            self.traffic.taken(source.id, Caller::Source, &appended, around.received_at);
            appended.iter().for_each(|it| self.show(it));
        }
        Ok(taken)
    }

    fn around<'a>(
        &'a self,
        call: Option<Call>,
        parts: &Parts,
        fields: &Fields<'a>,
    ) -> Result<Around<'a>, Problem> {
        let ip = self.caller_ip(parts);
        Ok(Around {
            call,
            received_at: self.clock.now(),
            circumstances: Circumstances::of(&parts.headers, ip)?,
            ip: ip.to_canonical(),
            random: self.random.as_ref(),
            is_browser: parts.headers.contains_key(header::ORIGIN),
            // Of a single call, these are the message's own.
            sent_at: fields.get("sentAt").filter(|_| call.is_none()),
            context: fields.get("context").filter(|_| call.is_none()),
            integrations: fields.get("integrations").filter(|_| call.is_none()),
        })
    }

    fn segment_message(
        &self,
        place: usize,
        message: &serde_json::value::RawValue,
        around: &Around<'_>,
    ) -> Result<message::Message, Fault> {
        let options = &self.options.segment;
        if place >= options.messages {
            return Err(Fault::new("too_many_messages", "the batch has more messages than it may"));
        }
        if message.get().len() > options.message_bytes {
            return Err(Fault::new("message_too_large", "the message has more bytes than it may"));
        }
        message::parse(message, around)
    }
}

fn unknown_key() -> Problem {
    Problem::new(Kind::UnknownWriteKey).detail("no enabled source has this write key")
}

impl message::Message {
    fn into_new(self, source: &Arc<OpenSource>, around: &Around<'_>) -> Unjudged {
        // A prefix, so that a message's id is never taken for an idempotency key of the REST API.
        let key = IdempotencyKey::trusted(&format!("messageId:{}", self.id));
        let key = Some(key).filter(|_| self.is_known);
        let event = NewEvent {
            id: None,
            project: source.project,
            source: source.id,
            event_type: TypeName::trusted(self.call.name()),
            timestamp: Some(self.timestamp),
            received_at: around.received_at,
            key,
            key_counts_for: None,
            metadata: around.circumstances.beside(&source.name, &self.odd_times.to_field()),
            payload: self.payload,
        };
        Unjudged::of(event, source, true)
    }
}
