//! Where other services post their webhooks: `POST /in/{source}`.
//!
//! A request is verified over its raw bytes before anything of it is parsed. One that is not believed
//! gets a plain 401; why, stands in the source's list of rejected requests, for those who may see it.

mod endpoint;
mod content;
pub(super) mod parsers;

use std::sync::Arc;

use axum::{
    extract::{Path, Request, State},
    http::{HeaderValue, StatusCode, header, request::Parts},
    response::{IntoResponse as _, Response},
};
use bytes::Bytes;

pub use endpoint::InboundEndpoints;

use self::{
    content::{InboundContent, Unreadable},
    endpoint::InboundEndpoint,
};
use super::{
    Ingest, body,
    body_budget::Pass,
    metadata::Circumstances,
    traffic::{Caller, Rejection},
    types,
    unfit::Unfit,
};
use crate::{
    crypto::inbound::{Doubt, Received},
    problem::{Kind, Problem},
};

/// What became of a request that was believed.
enum InboundOutcome {
    /// What the sender asked to hear, and no event.
    Challenge(String),
    Taken,
}

/// Post a webhook of another service
///
/// For sources of kind `webhook`; the source's id, or its name where only one project has it. The
/// request is verified as the source says, and is an event once it is on disk.
#[utoipa::path(
    post,
    path = "/in/{source}",
    tag = "events",
    operation_id = "post_webhook",
    params(("source" = String, Path, description = "The source's id or name")),
    request_body(content = String, description = "Whatever the service sends", content_type = "*/*"),
    responses(
        (status = 200, description = "Accepted, or a duplicate; the answer that the service expects"),
        (status = "4XX", response = Problem),
        (status = "5XX", response = Problem),
    )
)]
pub async fn post_webhook(
    State(ingest): State<Arc<Ingest>>,
    Path(source): Path<String>,
    request: Request,
) -> Response {
    // What a source answers is its owner's text, on the origin of the dashboard: it is shown, and no more.
    const POLICY: HeaderValue = HeaderValue::from_static("sandbox; default-src 'none'");
    let mut response = answered(&ingest, &source, request).await;
    response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, POLICY);
    response
}

async fn answered(ingest: &Ingest, source: &str, request: Request) -> Response {
    let Some(door) = ingest.doors.find(source) else {
        return super::respond::<StatusCode>(Err(
            Problem::new(Kind::NotFound).detail("there is no such source of kind `webhook`")
        ));
    };
    match ingest.webhook(&door, request).await {
        Ok(InboundOutcome::Taken) => acknowledged(&door),
        Ok(InboundOutcome::Challenge(text)) => {
            ([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], text).into_response()
        }
        Err(problem) => super::respond::<StatusCode>(Err(problem)),
    }
}

fn acknowledged(door: &InboundEndpoint) -> Response {
    let mut response = (
        StatusCode::from_u16(door.answer.status).unwrap_or(StatusCode::OK),
        door.answer.body.clone(),
    )
        .into_response();
    // It was checked when it was saved.
    if let Ok(content_type) = HeaderValue::try_from(&door.answer.content_type) {
        response.headers_mut().insert(header::CONTENT_TYPE, content_type);
    }
    response
}

impl Ingest {
    async fn webhook(
        &self,
        door: &InboundEndpoint,
        request: Request,
    ) -> Result<InboundOutcome, Problem> {
        let (parts, body) = request.into_parts();
        let limit = self.options.event_bytes;
        let is_proxied = self.is_proxied_by(&parts.extensions);
        let url = url_of(&parts, door.url.as_deref(), is_proxied);
        let pass = self.pass(door, &parts, &url)?;
        let read = body::read(body, &parts.headers, limit, pass).await;
        let (body, _lease) = read.inspect_err(|problem| {
            self.reject(door, &parts, Rejection::NOT_READ, problem.kind().parts().2);
        })?;
        let received = Received { headers: &parts.headers, url: &url, body: &body };
        if let Err(doubt) = door.scheme.verify(&door.keys, &received, self.clock.now()) {
            return Err(self.doubted(door, &parts, doubt));
        }
        self.believed(door, &parts, &body).await
    }

    /// Leave to read the body, by what the header says alone: who shows the secret itself is known already,
    /// and who shows nothing, or an old time, need not be heard.
    fn pass(&self, door: &InboundEndpoint, parts: &Parts, url: &str) -> Result<Pass<'_>, Problem> {
        let received = Received { headers: &parts.headers, url, body: b"" };
        let is_secret = door.scheme.secret_header().is_some();
        match door.scheme.verify(&door.keys, &received, self.clock.now()) {
            Ok(()) if is_secret => Ok(Pass::known(&self.room)),
            // A signature is about the body.
            Err(Doubt::BadSignature) if !is_secret => {
                Ok(Pass::stranger(&self.room, self.caller_ip(parts)))
            }
            Ok(()) => Ok(Pass::stranger(&self.room, self.caller_ip(parts))),
            Err(doubt) => Err(self.doubted(door, parts, doubt)),
        }
    }

    fn doubted(&self, door: &InboundEndpoint, parts: &Parts, doubt: Doubt) -> Problem {
        self.reject(door, parts, endpoint::code(doubt), &doubt.to_string());
        Problem::new(Kind::NotVerified)
    }

    async fn believed(
        &self,
        door: &InboundEndpoint,
        parts: &Parts,
        body: &Bytes,
    ) -> Result<InboundOutcome, Problem> {
        let content = InboundContent::of(&parts.headers, body).map_err(|error| {
            self.reject(door, parts, Rejection::NOT_READ, &error.to_string());
            unreadable(&error)
        })?;
        if let Some(challenge) = door.challenge(&content) {
            return Ok(InboundOutcome::Challenge(challenge));
        }
        let ip = self.caller_ip(parts);
        let circumstances = Circumstances::of(&parts.headers, ip).inspect_err(|problem| {
            self.reject(door, parts, Rejection::LOOP, problem.kind().parts().2);
        })?;
        let now = self.clock.now();
        let judge = self.types.judge(now);
        let events = door.events(content, &parts.headers, body, &circumstances, now);
        let mut unfit = None;
        let mut kept = Vec::with_capacity(events.len());
        for event in self.checks.judge(events, &judge).await? {
            match event {
                Ok(event) => kept.push(event),
                Err(it) => {
                    if let Unfit::Schema { event_type, faults, .. } = &it {
                        self.reject(door, parts, types::CODE, &types::reason(event_type, faults));
                    }
                    unfit = Some(it);
                }
            }
        }
        if kept.is_empty()
            && let Some(unfit) = unfit
        {
            return Err(unfit.into_problem());
        }
        let appended = self.gate.admit(kept).await?;
        appended.iter().for_each(|it| self.show(it));
        self.traffic.taken(door.source, Caller::Source, &appended, self.clock.now());
        Ok(InboundOutcome::Taken)
    }

    fn reject(&self, door: &InboundEndpoint, parts: &Parts, code: &'static str, reason: &str) {
        let ip = self.caller_ip(parts);
        let rejection = Rejection::new(self.clock.now(), code, reason.to_owned(), ip);
        let rejection = rejection.without(door.never_store.as_ref());
        self.traffic.rejected(door.source, Caller::Source, rejection);
    }
}

fn unreadable(error: &Unreadable) -> Problem {
    Problem::new(Kind::InvalidBody).detail(error.to_string())
}

/// The URL as the sender wrote it, as far as we and the proxies that are trusted can tell. The source may say
/// what it is; the query is the request's own, where it has one: a sender adds to it what its signature covers.
fn url_of(parts: &Parts, said: Option<&str>, is_proxied: bool) -> String {
    if let Some(said) = said {
        let before = said.split_once('?').map_or(said, |(before, _)| before);
        let query = parts.uri.query();
        return query.map_or_else(|| said.to_owned(), |query| format!("{before}?{query}"));
    }
    let text = |name: &str| parts.headers.get(name).and_then(|it| it.to_str().ok());
    let forwarded = |name: &str| text(name).filter(|_| is_proxied);
    let protocol = forwarded("x-forwarded-proto").unwrap_or("http");
    let host = forwarded("x-forwarded-host").or_else(|| text("host")).unwrap_or_default();
    let path = parts.uri.path_and_query().map_or("/", |it| it.as_str());
    format!("{protocol}://{host}{path}")
}
