//! Stage 1 of 6: takes requests apart into events, and answers when they are kept.

mod auth;
mod body;
mod body_budget;
mod shape;
mod event;
mod batch;
mod metadata;
mod rate;
mod answer;
pub mod cors;
mod types;
mod unfit;
mod sender;
mod schema_checks;
pub mod traffic;
pub mod counters_file;
pub mod parsers;
pub mod segment;
pub mod webhook;

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::Arc,
};

use axum::{
    body::Body,
    extract::{ConnectInfo, State},
    http::{Extensions, HeaderMap, HeaderName, Request, request::Parts},
    response::{IntoResponse as _, Response},
};
use bytes::Bytes;
use http_body_util::Either;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

pub use self::{
    answer::{AnswerBody, BatchAnswer, BatchResult, EventAnswer, NewEventBody},
    auth::{ApiSources, Caller, Keyring, OpenSource, PROJECT_HEADER, Session},
    body::Incoming,
};
use self::{
    batch::Format,
    body_budget::{BodyBudget, Pass},
    counters_file::Files,
    metadata::Circumstances,
    rate::Buckets,
    schema_checks::Checks,
    sender::Sender,
    traffic::{Rejection, Traffic},
    types::Types,
    webhook::InboundEndpoints,
};
use crate::{
    catalog::Catalog,
    clock::Clock,
    crypto::Random,
    gate::{Admitted, Gate},
    model::{IdempotencyKey, RateLimit, RawJson, Scope, SourceId, json},
    problem::{Kind, Problem},
    schema::Learned,
    store::Appended,
    tail::Tail,
};

static IDEMPOTENCY_HEADER: HeaderName = HeaderName::from_static("idempotency-key");

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// Bytes of a request with one event, inflated, and of one event of a batch.
    pub event_bytes: usize,
    /// Bytes of a request with a batch of events, inflated.
    pub batch_bytes: usize,
    /// Bytes of all bodies that are being read and parsed at one time; beyond it, requests get 429.
    pub reading_bytes: usize,
    /// How many events one API key may post, e.g. `{ events = 100, per = "1s" }`. Off by default.
    pub rate_limit: Option<RateLimit>,
    /// Addresses of reverse proxies whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<IpAddr>,
    /// Limits of what Segment's clients post.
    pub segment: segment::Options,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            event_bytes: 1024 * 1024,
            batch_bytes: 5 * 1024 * 1024,
            reading_bytes: 64 * 1024 * 1024,
            rate_limit: None,
            trusted_proxies: Vec::new(),
            segment: segment::Options::default(),
        }
    }
}

/// What ingest is given.
pub struct IngestParts {
    pub gate: Arc<Gate>,
    pub keyring: Arc<Keyring>,
    pub clock: Arc<dyn Clock>,
    pub tail: Tail,
    pub random: Arc<dyn Random>,
    /// The sources that other services post to.
    pub doors: InboundEndpoints,
    pub catalog: watch::Receiver<Arc<Catalog>>,
    /// Where counts and what was learned are kept.
    pub folder: PathBuf,
}

/// What all routes share.
pub struct Ingest {
    gate: Arc<Gate>,
    keyring: Arc<Keyring>,
    clock: Arc<dyn Clock>,
    tail: Tail,
    room: BodyBudget,
    buckets: Buckets,
    random: Arc<dyn Random>,
    doors: InboundEndpoints,
    traffic: Traffic,
    types: Arc<Types>,
    checks: Checks,
    files: Files,
    options: Options,
}

impl Ingest {
    pub fn new(parts: IngestParts, options: Options) -> Self {
        let IngestParts { gate, keyring, clock, tail, random, doors, catalog, folder } = parts;
        let files = Files::below(&folder);
        let traffic = Traffic::from_kept(&files.traffic);
        let types = Arc::new(Types::new(catalog, Learned::from_kept(&files.learned)));
        let room = BodyBudget::new(options.reading_bytes);
        let buckets = Buckets::new(options.rate_limit);
        Self {
            gate,
            keyring,
            clock,
            tail,
            room,
            buckets,
            random,
            doors,
            traffic,
            types,
            checks: Checks::new(),
            files,
            options,
        }
    }

    /// What traffic shows of the types of events.
    pub fn learned(&self) -> &Learned {
        &self.types.learned
    }

    /// What a source took and refused.
    pub fn traffic(&self, source: SourceId) -> traffic::SourceCounts {
        self.traffic.of(source)
    }

    /// Forgets that, in the file too within seconds.
    pub fn forget_traffic(&self, source: SourceId) {
        self.traffic.forget(source);
    }

    /// Any other request's body, whole, under the limits of ingest.
    pub async fn read_body(&self, request: Request<Body>, limit: usize) -> Result<Bytes, Problem> {
        let (parts, body) = request.into_parts();
        let (body, _lease) =
            body::read(body, &parts.headers, limit, Pass::known(&self.room)).await?;
        Ok(body)
    }

    /// Answers a request with one event, as [`post_event`] says. `peer` is at the other end of the
    /// connection.
    pub async fn post<B: Incoming>(
        &self,
        request: Request<B>,
        peer: IpAddr,
    ) -> Response<AnswerBody> {
        match self.one(request, peer).await {
            Ok((answer, headers)) => answer.into_response_with(headers),
            Err(problem) => refuse(problem).map(Either::Right),
        }
    }

    /// Who posts, and for which project, if the rate limit lets it.
    fn admit(&self, parts: &Parts, ip: IpAddr) -> Result<Sender, Problem> {
        let session = self.keyring.authenticate(&parts.headers, Scope::Ingest)?;
        let project = session.project(named_project(parts))?;
        let received_at = self.clock.now();
        self.buckets.take(session.caller.key, received_at).map_err(|wait| {
            metrics::counter!("tidegate_ingest_rate_limited_total").increment(1);
            Problem::new(Kind::RateLimited)
                .retry_after(wait)
                .detail("this API key has posted as many events as it may for the moment")
        })?;
        let circumstances = Circumstances::of(&parts.headers, ip)?;
        let judge = self.types.judge(received_at);
        Ok(Sender { session, project, received_at, circumstances, judge })
    }

    /// What is answered, and an empty map for its headers.
    async fn one<B: Incoming>(
        &self,
        request: Request<B>,
        peer: IpAddr,
    ) -> Result<(EventAnswer, HeaderMap), Problem> {
        let (parts, body) = request.into_parts();
        let ip = metadata::caller_ip(&parts.headers, peer, &self.options.trusted_proxies);
        let sender = self.admit(&parts, ip)?;
        let limit = self.options.event_bytes;
        let parsed = async {
            let (body, lease) =
                body::lend(body, &parts.headers, limit, Pass::known(&self.room)).await?;
            let header_key = key_of(&parts.headers)?;
            let mut draft = event::parse(json::without_mark(&body), "")?;
            draft.key = one_key(draft.key.take(), header_key)?;
            let payload = Bytes::copy_from_slice(draft.payload.get().as_bytes());
            Ok((sender.event(RawJson::trusted(payload), draft, ""), lease))
        };
        let parsed = parsed.await.inspect_err(|it| self.refused(&sender, ip, it));
        let (event, _lease) = parsed?;
        let event = match event {
            Ok(event) => self.checks.judge_one(event, &sender.judge).await?,
            Err(unfit) => Err(unfit),
        };
        let event = event.map_err(|unfit| {
            self.unfit(&sender, ip, &unfit);
            unfit.into_problem()
        })?;
        let headers = emptied(parts);
        let source = event.source;
        let admitted = self.gate.admit(vec![event]).await?;
        self.traffic.taken(source, sender.caller(), &admitted, sender.received_at);
        let admitted = admitted.first().ok_or_else(|| Problem::new(Kind::Internal))?;
        self.show(admitted);
        Ok((EventAnswer::of(admitted), headers))
    }

    async fn many(&self, request: Request<Body>) -> Result<BatchAnswer, Problem> {
        /// Beyond it, parsing would hold up the other connections of this thread.
        const AT_ONCE: usize = 256 * 1024;
        let (parts, body) = request.into_parts();
        let ip = self.caller_ip(&parts);
        let sender = Arc::new(self.admit(&parts, ip)?);
        let limit = self.options.batch_bytes;
        let parsed = async {
            if parts.headers.contains_key(&IDEMPOTENCY_HEADER) {
                let rule =
                    "must not be sent with a batch: each event has its own `idempotency_key`";
                let field = "header:idempotency-key";
                return Err(Problem::invalid_field(field, rule, "a key for all"));
            }
            let pass = Pass::known(&self.room);
            let (body, lease) = body::read(body, &parts.headers, limit, pass).await?;
            let body = body.slice_ref(json::without_mark(&body));
            let format = Format::of(&parts.headers, &body);
            let most = self.options.event_bytes;
            let parsed = if body.len() <= AT_ONCE {
                sender.events(&body, format, most)?
            } else {
                let sender = sender.clone();
                let parse = move || sender.events(&body, format, most);
                let parsed = tokio::task::spawn_blocking(parse).await;
                parsed.map_err(|_| Problem::new(Kind::Internal))??
            };
            Ok((parsed, lease))
        };
        let parsed = parsed.await.inspect_err(|it| self.refused(&sender, ip, it));
        let (parsed, _lease) = parsed?;
        let received_at = sender.received_at;
        let judged = self.checks.judge(parsed.events, &sender.judge).await?;
        let mut events = Vec::with_capacity(judged.len());
        let items = sender::settled(parsed.items, judged, &mut events);
        self.buckets.owe(sender.session.caller.key, received_at, items.len() - 1);
        let unfit = items.iter().filter_map(|it| it.as_ref().err());
        unfit.for_each(|it| self.unfit(&sender, ip, it));
        let sources: Vec<SourceId> = events.iter().map(|it| it.source).collect();
        let admitted = match events.is_empty() {
            true => Vec::new(),
            false => self.gate.admit(events).await?,
        };
        let mut rest = &admitted[..];
        for run in sources.chunk_by(|one, next| one == next) {
            let (these, behind) = rest.split_at(run.len().min(rest.len()));
            self.traffic.taken(run[0], sender.caller(), these, received_at);
            rest = behind;
        }
        admitted.iter().for_each(|it| self.show(it));
        let items = items.into_iter().enumerate();
        let items = items.map(|(place, item)| {
            item.map_err(|unfit| unfit.into_errors(&format!("events[{place}]")))
        });
        BatchAnswer::of(items.collect(), &admitted)
    }

    /// Counts a request that is refused as a whole, at the source that it would have been for.
    fn refused(&self, sender: &Sender, ip: IpAddr, problem: &Problem) {
        if let Some(rejection) = Rejection::of(problem, sender.received_at, ip) {
            self.count_rejection(sender, None, rejection);
        }
    }

    fn unfit(&self, sender: &Sender, ip: IpAddr, unfit: &unfit::Unfit) {
        let (source, rejection) = unfit.rejection(sender.received_at, ip);
        self.count_rejection(sender, source, rejection);
    }

    fn count_rejection(&self, sender: &Sender, source: Option<SourceId>, rejection: Rejection) {
        let Some(source) = sender.counts_at(source) else { return };
        let rejection = rejection.without(source.never_store.as_ref());
        self.traffic.rejected(source.id, sender.caller(), rejection);
    }

    /// Whose request it is, by the connection and the proxies that are believed.
    fn caller_ip(&self, parts: &Parts) -> IpAddr {
        let peer = peer(&parts.extensions);
        metadata::caller_ip(&parts.headers, peer, &self.options.trusted_proxies)
    }

    /// Whether what a proxy says about the request is believed.
    fn is_proxied_by(&self, extensions: &Extensions) -> bool {
        metadata::is_trusted(peer(extensions), &self.options.trusted_proxies)
    }

    fn show(&self, admitted: &Admitted) {
        if let Admitted::Accepted(Appended::New(event)) = admitted {
            self.tail.accepted(event);
            self.types.learned.see(event);
        }
    }
}

/// Who is at the other end of the connection.
fn peer(extensions: &Extensions) -> IpAddr {
    let peer = extensions.get::<ConnectInfo<SocketAddr>>();
    peer.map_or(IpAddr::from([0, 0, 0, 0]), |it| it.0.ip())
}

/// The map of a request's headers without these. Its memory serves the answer, and hyper keeps it for
/// the connection's next request, unless it is large.
fn emptied(parts: Parts) -> HeaderMap {
    const LARGE: usize = 32;
    let mut headers = parts.headers;
    if headers.capacity() > LARGE {
        return HeaderMap::new();
    }
    headers.clear();
    headers
}

/// The project that a request names, by header or query.
pub fn named_project(parts: &Parts) -> Option<&str> {
    let by_header = parts.headers.get(&PROJECT_HEADER).and_then(|it| it.to_str().ok());
    by_header.or_else(|| {
        let pairs = parts.uri.query()?.split('&');
        // Ids and names need no escapes, and anything else is no project.
        pairs.filter_map(|pair| pair.split_once('=')).find(|it| it.0 == "project").map(|it| it.1)
    })
}

fn key_of(headers: &HeaderMap) -> Result<Option<IdempotencyKey>, Problem> {
    let Some(value) = headers.get(&IDEMPOTENCY_HEADER) else { return Ok(None) };
    let wrong = |rule| Problem::invalid_field("header:idempotency-key", rule, "another text");
    let text = std::str::from_utf8(value.as_bytes()).map_err(|_| wrong("it is UTF-8"))?;
    IdempotencyKey::given(text).map(Some).map_err(|error| wrong(error.rule))
}

/// The key from the body or the header. Two that differ leave open which one counts.
fn one_key(
    body: Option<IdempotencyKey>,
    header: Option<IdempotencyKey>,
) -> Result<Option<IdempotencyKey>, Problem> {
    match (body, header) {
        (Some(body), Some(header)) if body != header => Err(Problem::invalid_field(
            "idempotency_key",
            "must equal the header `Idempotency-Key` where both are given",
            "another key",
        )),
        (body, header) => Ok(body.or(header)),
    }
}

/// Post one event
///
/// Answers 202 once the event is on disk. An event with an idempotency key (or an id) that the project
/// has seen before is not kept again: the answer is 200 with the first event's id. 422 when the payload is
/// not as the schema of its type says, and the type says `validate: reject`.
#[utoipa::path(
    post,
    path = "/api/v1/events",
    tag = "events",
    operation_id = "post_event",
    params(
        ("idempotency-key" = Option<String>, Header, description = "The same as `idempotency_key` in the body"),
        ("tidegate-project" = Option<String>, Header, description = "The project, for keys of all projects"),
    ),
    request_body(content = NewEventBody, description = "As it is, or with `Content-Encoding: gzip` or `zstd`"),
    responses(
        (status = 202, description = "Accepted: the event is on disk", body = EventAnswer),
        (status = 200, description = "A duplicate of an earlier event, or an event of a suppressed user", body = EventAnswer),
        (status = "4XX", response = Problem),
        (status = "5XX", response = Problem),
    )
)]
pub async fn post_event(State(ingest): State<Arc<Ingest>>, request: Request<Body>) -> Response {
    let peer = peer(request.extensions());
    ingest.post(request, peer).await.map(Body::new)
}

/// Post up to 1000 events
///
/// A JSON array, or one event in each line (`application/x-ndjson`). Each event is judged by itself, and
/// the results stand in the order of the events. 202 if any event was new; 200 if none was but some
/// were duplicates; 422 with an error for each event if all were rejected.
#[utoipa::path(
    post,
    path = "/api/v1/events/batch",
    tag = "events",
    operation_id = "post_events",
    params(("tidegate-project" = Option<String>, Header, description = "The project, for keys of all projects")),
    request_body(
        content((Vec<NewEventBody> = "application/json"), (String = "application/x-ndjson")),
        description = "As it is, or with `Content-Encoding: gzip` or `zstd`",
    ),
    responses(
        (status = 202, description = "Some or all were kept", body = BatchAnswer),
        (status = 200, description = "None was new, and some were duplicates or of suppressed users", body = BatchAnswer),
        (status = "4XX", response = Problem),
        (status = "5XX", response = Problem),
    )
)]
pub async fn post_events(State(ingest): State<Arc<Ingest>>, request: Request<Body>) -> Response {
    respond(ingest.many(request).await)
}

fn respond<T: axum::response::IntoResponse>(answer: Result<T, Problem>) -> Response {
    match answer {
        Ok(answer) => answer.into_response(),
        Err(problem) => refuse(problem),
    }
}

fn refuse(problem: Problem) -> Response {
    let slug = problem.kind().parts().1;
    metrics::counter!("tidegate_ingest_refused_total", "reason" => slug).increment(1);
    problem.into_response()
}
