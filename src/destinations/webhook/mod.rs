//! Webhooks: one HTTP request, or one to each URL, that says what its [`Contract`] promises.
//!
//! The body is the same on every attempt, byte for byte. What moves from attempt to attempt is the
//! time, and with it the signature of the schemes that sign it. What differs from message to message
//! are the parts of URL and headers that are templates; messages share a request only where these
//! agree.
//!
//! [`Contract`]: crate::model::Contract

pub mod canonical;
pub mod config;
pub mod rotation;
pub(in crate::destinations) mod check;
mod contract;
mod kind;
pub(in crate::destinations) mod secrets;
mod show;
pub(in crate::destinations) mod headers;
pub(in crate::destinations) mod target;
mod body;
mod signer;
pub(in crate::destinations) mod answer;
mod date;
mod several;
pub(in crate::destinations) mod preview;

use std::{
    collections::BTreeMap,
    hash::{BuildHasher as _, RandomState},
    time::Duration,
};

use async_trait::async_trait;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use futures_util::future::join_all;
use http::{HeaderMap, HeaderName, HeaderValue, Uri, header};
use jiff::Timestamp;
use sha2::{Digest as _, Sha256};
use tokio::time::Instant;

use super::{
    DestinationClient, Preview,
    egress::{BadUrl, Egress, Endpoint},
};
use crate::{
    crypto::{SealContext, SecretField, Vault, VaultError, signature::SecretError},
    expr::Facts,
    model::{
        self, Auth, Class, DestinationId, EndpointUrl, IdempotencyHeader, Message, Method, OnGone,
        Outcome, Scheme, Sealed, Target, json,
    },
};
use answer::AnswerRules;
use body::{Form, MessageBody};
use headers::{OwnHeaders, Reserved};
use signer::Signer;
use target::TargetTemplate;

pub use crate::model::json::scan::first_element;
pub use check::word;
pub use headers::{HOPS, HeaderError, LONGEST_VALUE, MOST_HEADERS, check_header};
pub use kind::WebhookKind;
pub use target::{TargetError, check_target};

/// Headers that are made for each request: hops, signature, id, timestamp, idempotency key, host and length.
const ADDED_HEADERS: usize = 7;

/// Gateways that an event may pass through before we take it for one that goes in circles.
pub const MOST_HOPS: u64 = 8;

pub struct Webhook {
    id: DestinationId,
    urls: Vec<UrlTarget>,
    method: http::Method,
    /// What every request has.
    headers: HeaderMap,
    own: OwnHeaders,
    form: Form,
    scheme: Scheme,
    signer: Signer,
    idempotency_key: IdempotencyHeader,
    whole_answer: bool,
    on_gone: OnGone,
    timeout: Duration,
    /// URL or headers differ from message to message.
    varies: bool,
    /// Keyed again each time, so that nobody can make messages that collide.
    hasher: RandomState,
}

/// One of the URLs, with connections of its own.
struct UrlTarget {
    /// For people: an URL's path may hold secrets.
    origin: String,
    endpoint: Endpoint,
    /// `None` for one that is the same for every message.
    template: Option<TargetTemplate>,
}

/// What of a request differs from message to message.
#[derive(Debug, Default, PartialEq, Eq, Hash)]
struct RequestHead {
    /// For each URL, if it is a template. Empty when none is.
    targets: Vec<Option<Uri>>,
    headers: Vec<(HeaderName, HeaderValue)>,
}

/// All that is sent.
#[derive(Clone)]
struct OutgoingRequest {
    targets: Vec<Option<Uri>>,
    headers: HeaderMap,
    body: Bytes,
}

/// Why a webhook cannot be sent as it is configured.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    #[error("the stored destination is of another kind")]
    Kind,
    #[error(transparent)]
    Url(#[from] BadUrl),
    #[error("the contract allows `https` only")]
    Plain,
    #[error("a URL's template is wrong: {0}")]
    Target(#[from] TargetError),
    #[error(transparent)]
    Header(#[from] HeaderError),
    #[error("the name of the signature's header is no name that HTTP can carry")]
    SignatureHeader,
    #[error("the user agent has characters that HTTP cannot carry")]
    UserAgent,
    #[error(transparent)]
    Vault(#[from] VaultError),
    #[error("a signing secret is unusable: {0}")]
    Secret(#[from] SecretError),
    #[error("the user name or password of `auth` has characters that HTTP cannot carry")]
    Auth,
}

impl Webhook {
    /// Opens the secrets and prepares what all requests have in common. Nothing is sent.
    pub fn new(
        destination: &model::Destination,
        vault: &Vault,
        egress: &Egress,
    ) -> Result<Self, BuildError> {
        let settings = destination.connection.webhook().ok_or(BuildError::Kind)?;
        let contract = &settings.contract;
        let context =
            |field| SealContext::of_destination(destination.project, destination.id, field);
        let mut keys = Vec::with_capacity(settings.signing_keys.len());
        for key in &settings.signing_keys {
            keys.push((key.clone(), vault.open(&key.secret, &context(SecretField::SigningKey))?));
        }
        let signer = Signer::new(&contract.signature, keys)?;
        let signature = (!settings.signing_keys.is_empty()).then_some(&signer.header);
        let own = open_headers(&settings.headers, signature, vault, context)?;
        let mut headers = own.fixed.clone();
        if let Some(value) = authorization(&settings.auth, vault, context)? {
            headers.insert(header::AUTHORIZATION, value);
        }
        let agent = HeaderValue::from_str(&contract.user_agent);
        headers.insert(header::USER_AGENT, agent.map_err(|_| BuildError::UserAgent)?);
        let content_type = HeaderValue::from_static("application/json");
        headers.insert(header::CONTENT_TYPE, content_type);
        let urls = (settings.urls.iter())
            .map(|url| UrlTarget::new(url, contract.https_only, egress))
            .collect::<Result<Vec<_>, BuildError>>()?;
        Ok(Self {
            id: destination.id,
            varies: own.has_templates() || urls.iter().any(|it| it.template.is_some()),
            urls,
            method: match contract.method {
                Method::Post => http::Method::POST,
                Method::Put => http::Method::PUT,
                Method::Patch => http::Method::PATCH,
                Method::Delete => http::Method::DELETE,
            },
            headers,
            own,
            form: Form::new(contract, destination.policy.batch.is_some()),
            scheme: contract.signature.scheme,
            signer,
            idempotency_key: contract.idempotency_key,
            whole_answer: contract.whole_answer,
            on_gone: contract.on_gone,
            timeout: destination.policy.timeout,
            hasher: RandomState::new(),
        })
    }

    /// What of the request is this message's own, or for people why it cannot be known.
    fn head(&self, message: &Message) -> Result<RequestHead, String> {
        if !self.varies {
            return Ok(RequestHead::default());
        }
        let facts = facts(message);
        let target = |place: &UrlTarget| match &place.template {
            None => Ok(None),
            Some(template) => {
                let url = template.resolve(&facts).map_err(|it| it.to_string())?;
                place.endpoint.target(&url).map(Some).map_err(|it| it.to_string())
            }
        };
        Ok(RequestHead {
            targets: self.urls.iter().map(target).collect::<Result<_, String>>()?,
            headers: self.own.render(&facts).map_err(|it| it.to_string())?,
        })
    }

    /// The request for these messages, or what came of the attempt to make it.
    fn request(&self, messages: &[Message], at: Timestamp) -> Result<OutgoingRequest, Outcome> {
        let misfit = |reason: String| refused(Class::Config, reason);
        let Some(first) = messages.first() else {
            return Err(misfit("there is nothing to send".to_owned()));
        };
        let hops = messages.iter().map(hops).max().unwrap_or_default() + 1;
        if hops > MOST_HOPS {
            let reason = "the event has passed through 8 gateways: it seems to go in circles";
            return Err(refused(Class::Abort, reason));
        }
        let head = self.head(first).map_err(misfit)?;
        for other in messages.iter().skip(1).filter(|_| self.varies) {
            if self.head(other).map_err(misfit)? != head {
                let reason = "messages with different URLs or headers cannot share a request";
                return Err(misfit(reason.to_owned()));
            }
        }
        let body = self.form.body(messages).map_err(|it| misfit(it.to_string()))?;
        // Room for what is added from here to the socket, so that the map does not grow on the way.
        let room = self.headers.len() + head.headers.len() + ADDED_HEADERS;
        let mut headers = HeaderMap::with_capacity(room);
        for (name, value) in &self.headers {
            headers.insert(name.clone(), value.clone());
        }
        for (name, value) in head.headers {
            headers.insert(name, value);
        }
        let hops = if hops == 1 { HeaderValue::from_static("1") } else { HeaderValue::from(hops) };
        headers.insert(HOPS, hops);
        self.identify(&mut headers, message_id(messages), &body, at)?;
        Ok(OutgoingRequest { targets: head.targets, headers, body: body.bytes })
    }

    /// Adds the headers that say which message this is, and that it is ours.
    fn identify(
        &self,
        headers: &mut HeaderMap,
        id: String,
        body: &MessageBody,
        at: Timestamp,
    ) -> Result<(), Outcome> {
        let signature = self.signer.sign(&id, body.signed(), at);
        let signature =
            signature.map_err(|_| refused(Class::Config, "no signing secret is alive"))?;
        if let Some(signature) = signature {
            headers.insert(self.signer.header.clone(), text(signature)?);
        }
        let key = match self.idempotency_key {
            IdempotencyHeader::None => None,
            IdempotencyHeader::Message => Some(id.clone()),
            IdempotencyHeader::MessageAndDestination => Some(format!("{id}.{}", self.id)),
        };
        if self.scheme == Scheme::Standard {
            headers.insert(headers::ID, text(id)?);
            headers.insert(headers::TIMESTAMP, HeaderValue::from(at.as_second()));
        }
        if let Some(key) = key {
            headers.insert(headers::IDEMPOTENCY_KEY, text(key)?);
        }
        Ok(())
    }

    /// Sends the request to one of the URLs.
    async fn send_to(&self, place: usize, request: OutgoingRequest, at: Timestamp) -> Outcome {
        let endpoint = &self.urls[place].endpoint;
        let start = Instant::now();
        let deadline = start + self.timeout;
        let method = self.method.clone();
        let OutgoingRequest { targets, headers, body } = request;
        let answer = match targets.into_iter().nth(place).flatten() {
            None => endpoint.send(method, headers, body, deadline).await,
            Some(target) => endpoint.send_to(target, method, headers, body, deadline).await,
        };
        let duration = start.elapsed();
        match answer {
            Ok(answer) => {
                let now = at.checked_add(duration).unwrap_or(at);
                let is_template = self.urls[place].template.is_some();
                let (whole, on_gone) = (self.whole_answer, self.on_gone);
                let by =
                    AnswerRules { whole, on_gone, is_template, is_signed: self.signer.signs() };
                answer::outcome(answer, by, now, duration)
            }
            Err(failure) => failure.outcome(duration),
        }
    }
}

impl UrlTarget {
    fn new(url: &Target, https_only: bool, egress: &Egress) -> Result<Self, BuildError> {
        let origin = url.origin();
        if https_only && !origin.starts_with("https:") {
            return Err(BuildError::Plain);
        }
        let template = url.is_template().then(|| TargetTemplate::compile(url)).transpose()?;
        let fixed = if template.is_some() { &origin } else { url.as_text() };
        let fixed = EndpointUrl::try_from(fixed.to_owned()).map_err(|_| BadUrl)?;
        Ok(Self { endpoint: egress.endpoint(&fixed)?, origin, template })
    }
}

#[async_trait]
impl DestinationClient for Webhook {
    fn kind(&self) -> &'static str {
        "webhook"
    }

    /// Where there are several URLs, the message goes to all of them at once, and each is awaited
    /// until the deadline, since a receiver that is cut off may not have taken it.
    async fn send(&self, messages: &[Message], at: Timestamp) -> Outcome {
        let request = match self.request(messages, at) {
            Ok(request) => request,
            Err(outcome) => return outcome,
        };
        if let [_] = &self.urls[..] {
            return self.send_to(0, request, at).await;
        }
        let start = Instant::now();
        let outcomes =
            join_all((0..self.urls.len()).map(|it| self.send_to(it, request.clone(), at))).await;
        let origins = self.urls.iter().map(|it| it.origin.as_str());
        several::joined(origins.zip(outcomes).collect(), start.elapsed())
    }

    fn preview(&self, messages: &[Message], at: Timestamp) -> Result<Vec<Preview>, Outcome> {
        self.requests(messages, at)
    }

    /// A message that cannot be sent is in a group of its own, so that it takes none with it.
    fn group(&self, message: &Message) -> u64 {
        let head = self.head(message).ok();
        let is_fit = self.form.check(message).is_ok() && hops(message) < MOST_HOPS;
        let alone = (head.is_none() || !is_fit).then_some(message.seq);
        self.hasher.hash_one((head, alone))
    }
}

/// The id that a receiver tells repeats by: of several messages one that is the same whenever it is
/// the same messages.
fn message_id(messages: &[Message]) -> String {
    if let [message] = messages {
        return message.message_id();
    }
    let mut hash = Sha256::new();
    for message in messages {
        hash.update(message.message_id());
        hash.update(b"\n");
    }
    format!("batch_{}", hex::encode(&hash.finalize()[..16]))
}

/// What the templates of URL and headers see: the message as this destination gets it.
pub(in crate::destinations) fn facts(message: &Message) -> Facts {
    let source = json::value_at(message.event.metadata.bytes(), &["source"]);
    let source = source.ok().flatten().and_then(json::exact_text);
    let facts = Facts::new(message.event.clone(), source.and_then(|it| it.parse().ok()));
    let Some(copy) = &message.copy else { return facts };
    let facts = match &copy.event_type {
        Some(event_type) => facts.with_type(event_type.clone()),
        None => facts,
    };
    let facts = match &copy.metadata {
        Some(metadata) => facts.with_metadata(metadata.clone()),
        None => facts,
    };
    match &copy.payload {
        Some(payload) => facts.with_payload(payload.clone()),
        None => facts,
    }
}

/// The headers of the destination's own, in clear.
fn open_headers(
    sealed: &BTreeMap<String, Sealed>,
    signature: Option<&HeaderName>,
    vault: &Vault,
    context: impl Fn(SecretField) -> SealContext,
) -> Result<OwnHeaders, BuildError> {
    let mut headers = BTreeMap::new();
    for (name, value) in sealed {
        let value = vault.open(value, &context(SecretField::Header))?;
        headers.insert(name.clone(), value.expose().to_owned());
    }
    Ok(OwnHeaders::new(Reserved::Webhook, &headers, signature)?)
}

/// An attempt that ended before anything was sent.
pub(super) fn refused(class: Class, reason: impl Into<String>) -> Outcome {
    Outcome {
        class,
        status: None,
        reason: reason.into(),
        retry_after: None,
        duration: Duration::ZERO,
        response: None,
    }
}

/// A header of ours. It would fail on an id that HTTP cannot carry; ids of ours can be carried.
fn text(text: String) -> Result<HeaderValue, Outcome> {
    HeaderValue::from_maybe_shared(Bytes::from(text))
        .map_err(|_| refused(Class::Config, "the message's id cannot be sent in a header"))
}

fn authorization(
    auth: &Auth,
    vault: &Vault,
    context: impl Fn(SecretField) -> SealContext,
) -> Result<Option<HeaderValue>, BuildError> {
    let value = match auth {
        Auth::None => return Ok(None),
        Auth::Bearer { token } => {
            bearer(vault.open(token, &context(SecretField::BearerToken))?.expose())
        }
        Auth::Basic { username, password } => {
            let password = vault.open(password, &context(SecretField::BasicPassword))?;
            basic(username, password.expose())
        }
    };
    value.ok_or(BuildError::Auth).map(Some)
}

/// The header `authorization`. `None`: HTTP cannot carry the token.
pub(in crate::destinations) fn bearer(token: &str) -> Option<HeaderValue> {
    sensitive(format!("Bearer {token}"))
}

/// The header `authorization`. `None`: a colon in the user name would move the border (RFC 7617 §2).
pub(in crate::destinations) fn basic(username: &str, password: &str) -> Option<HeaderValue> {
    if username.contains(':') {
        return None;
    }
    sensitive(format!("Basic {}", STANDARD.encode(format!("{username}:{password}"))))
}

fn sensitive(value: String) -> Option<HeaderValue> {
    let mut value = HeaderValue::try_from(value).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// Gateways that the event passed through before this one, by its metadata.
pub(in crate::destinations) fn hops(message: &Message) -> u64 {
    // The event's own: a step that drops metadata must not make an endless circle of it.
    let metadata = message.event.metadata.as_str();
    // Nearly all events have none, and a search costs less than parsing.
    if !metadata.contains(r#""hops""#) {
        return 0;
    }
    match json::value_at(metadata.as_bytes(), &["hops"]) {
        Ok(None) => 0,
        // A number that is too large for us is more than enough; anything else is none of ours.
        Ok(Some(hops)) if hops.iter().all(u8::is_ascii_digit) => {
            str::from_utf8(hops).ok().and_then(|it| it.parse().ok()).unwrap_or(MOST_HOPS)
        }
        Ok(Some(_)) => 0,
        Err(_) => MOST_HOPS,
    }
}

#[cfg(test)]
mod tests;
