//! Webhooks, by the Standard Webhooks specification.
//!
//! The body is `{"type":…,"timestamp":…,"data":…}` with the payload's own bytes as data, the same
//! on every attempt. What moves from attempt to attempt is `webhook-timestamp`, and with it
//! `webhook-signature`, which every live key signs. The message's id is also the `Idempotency-Key`.

mod answer;
mod headers;

use std::{collections::BTreeMap, time::Duration};

use async_trait::async_trait;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::{BufMut as _, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, header};
use jiff::Timestamp;
use serde::Deserialize;
use tokio::time::Instant;

use super::{
    Destination,
    egress::{BadUrl, Egress, Endpoint},
};
use crate::{
    crypto::{
        Context, Field, Vault, VaultError,
        signature::{SecretError, standard::Key},
    },
    model::{self, Auth, Class, Connection, EndpointUrl, Message, Method, Outcome, Sealed},
};

pub use headers::{HOPS, HeaderError, LONGEST_VALUE, MOST_HEADERS, check_header, parse_headers};

/// Gateways that an event may pass through before we take it for one that goes in circles.
pub const MOST_HOPS: u64 = 8;

pub struct Webhook {
    endpoint: Endpoint,
    method: http::Method,
    /// What every request has.
    headers: HeaderMap,
    keys: Vec<LiveKey>,
    timeout: Duration,
}

struct LiveKey {
    key: Key,
    expires_at: Option<Timestamp>,
}

/// Why a webhook cannot be sent as it is configured.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    #[error(transparent)]
    Url(#[from] BadUrl),
    #[error(transparent)]
    Header(#[from] HeaderError),
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
        let Connection::Webhook(settings) = &destination.connection;
        let context = |field| Context::of_destination(destination.project, destination.id, field);
        let mut headers = open_headers(&settings.headers, vault, context)?;
        if let Some(value) = authorization(&settings.auth, vault, context)? {
            headers.insert(header::AUTHORIZATION, value);
        }
        let agent = concat!("Tidegate/", env!("CARGO_PKG_VERSION"));
        headers.insert(header::USER_AGENT, HeaderValue::from_static(agent));
        let content_type = HeaderValue::from_static("application/json");
        headers.insert(header::CONTENT_TYPE, content_type);
        let mut keys = Vec::with_capacity(settings.signing_keys.len());
        for key in &settings.signing_keys {
            let secret = vault.open(&key.secret, &context(Field::SigningKey))?;
            keys.push(LiveKey { key: Key::signing(&secret)?, expires_at: key.expires_at });
        }
        Ok(Self {
            endpoint: egress.endpoint(&fixed(settings)?)?,
            method: match settings.contract.method {
                Method::Post => http::Method::POST,
                Method::Put => http::Method::PUT,
                Method::Patch => http::Method::PATCH,
                Method::Delete => http::Method::DELETE,
            },
            headers,
            keys,
            timeout: destination.policy.timeout,
        })
    }

    /// The headers of one attempt. `None` would mean an id that HTTP cannot carry; ids of ours can.
    fn headers(&self, id: String, hops: u64, body: &[u8], at: Timestamp) -> Option<HeaderMap> {
        let mut headers = self.headers.clone();
        let signature = self.sign(&id, body, at);
        if !signature.is_empty() {
            headers.insert(headers::SIGNATURE, text(signature)?);
        }
        let id = text(id)?;
        headers.insert(headers::ID, id.clone());
        headers.insert(headers::IDEMPOTENCY_KEY, id);
        headers.insert(headers::TIMESTAMP, HeaderValue::from(at.as_second()));
        headers.insert(HOPS, HeaderValue::from(hops));
        Some(headers)
    }

    /// One signature for each key that is still alive at the moment of the attempt.
    fn sign(&self, id: &str, body: &[u8], at: Timestamp) -> String {
        let mut signatures = String::new();
        for LiveKey { key, expires_at } in &self.keys {
            if expires_at.is_none_or(|it| at < it) {
                key.sign_into(&mut signatures, id, at.as_second(), body);
            }
        }
        signatures
    }
}

#[async_trait]
impl Destination for Webhook {
    fn kind(&self) -> &'static str {
        "webhook"
    }

    async fn send(&self, messages: &[Message], at: Timestamp) -> Outcome {
        let [message] = messages else {
            return refused(
                Class::Config,
                "a webhook of this profile carries one message a request",
            );
        };
        let hops = hops(message) + 1;
        if hops > MOST_HOPS {
            return refused(
                Class::Abort,
                "the event has passed through 8 gateways: it seems to go in circles",
            );
        }
        let body = body(message);
        let Some(headers) = self.headers(message.message_id(), hops, &body, at) else {
            return refused(Class::Config, "the message's id cannot be sent in a header");
        };
        let start = Instant::now();
        let answer =
            self.endpoint.send(self.method.clone(), headers, body, start + self.timeout).await;
        let duration = start.elapsed();
        match answer {
            Ok(answer) => {
                let now = at.checked_add(duration).unwrap_or(at);
                answer::outcome(answer, now, duration)
            }
            Err(failure) => Outcome {
                class: failure.class(),
                status: None,
                reason: failure.reason(),
                retry_after: None,
                duration,
                response: None,
            },
        }
    }
}

/// The headers of the destination's own, in clear.
fn open_headers(
    sealed: &BTreeMap<String, Sealed>,
    vault: &Vault,
    context: impl Fn(Field) -> Context,
) -> Result<HeaderMap, BuildError> {
    let mut headers = BTreeMap::new();
    for (name, value) in sealed {
        let value = vault.open(value, &context(Field::Header))?;
        headers.insert(name.clone(), value.expose().to_owned());
    }
    let mut headers = parse_headers(&headers)?;
    headers.values_mut().for_each(|it| it.set_sensitive(true));
    Ok(headers)
}

fn fixed(settings: &model::Webhook) -> Result<EndpointUrl, BadUrl> {
    let target = settings.urls.first().ok_or(BadUrl)?;
    EndpointUrl::try_from(target.as_text().to_owned()).map_err(|_| BadUrl)
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

fn text(text: String) -> Option<HeaderValue> {
    HeaderValue::from_maybe_shared(Bytes::from(text)).ok()
}

fn authorization(
    auth: &Auth,
    vault: &Vault,
    context: impl Fn(Field) -> Context,
) -> Result<Option<HeaderValue>, BuildError> {
    let value = match auth {
        Auth::None => return Ok(None),
        Auth::Bearer { token } => {
            format!("Bearer {}", vault.open(token, &context(Field::BearerToken))?.expose())
        }
        Auth::Basic { username, password } => {
            let password = vault.open(password, &context(Field::BasicPassword))?;
            // A colon in the user name would move the border (RFC 7617 §2).
            if username.contains(':') {
                return Err(BuildError::Auth);
            }
            format!("Basic {}", STANDARD.encode(format!("{username}:{}", password.expose())))
        }
    };
    let mut value = HeaderValue::try_from(value).map_err(|_| BuildError::Auth)?;
    value.set_sensitive(true);
    Ok(Some(value))
}

/// The bytes that are sent and signed. An event type holds nothing that JSON escapes.
fn body(message: &Message) -> Bytes {
    let payload = message.payload().bytes();
    let event_type = message.event_type().as_str();
    let timestamp = message.event.timestamp;
    let mut body = BytesMut::with_capacity(event_type.len() + payload.len() + 96);
    body.put_slice(br#"{"type":""#);
    body.put_slice(event_type.as_bytes());
    body.put_slice(br#"","timestamp":""#);
    body.put_slice(timestamp.to_string().as_bytes());
    body.put_slice(br#"","data":"#);
    body.put_slice(payload);
    body.put_slice(b"}");
    body.freeze()
}

/// Gateways that the event passed through before this one, by its metadata.
fn hops(message: &Message) -> u64 {
    #[derive(Deserialize)]
    struct Metadata {
        #[serde(default)]
        hops: Option<u64>,
    }

    // The event's own: a step that drops metadata must not make an endless circle of it.
    let metadata = message.event.metadata.as_str();
    // Nearly all events have none, and a search costs less than parsing.
    if !metadata.contains(r#""hops""#) {
        return 0;
    }
    serde_json::from_str::<Metadata>(metadata).ok().and_then(|it| it.hops).unwrap_or(0)
}

#[cfg(test)]
mod tests;
