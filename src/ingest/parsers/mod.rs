//! The parsers that strangers' bytes reach, each as a function from bytes to what it promises, for the
//! fuzzers in `fuzz/` and for the test that runs their corpus.

pub(super) mod senders;
pub(super) mod slow;
pub(super) mod promise;

use std::{collections::BTreeMap, net::IpAddr};

use axum::{
    body::Body,
    http::{HeaderMap, HeaderName, HeaderValue, header},
};
use bytes::Bytes;
use futures_util::FutureExt as _;
use jiff::Timestamp;
use serde::de::IgnoredAny;
use serde_json::{Value, value::RawValue};

use self::promise::valid;
pub use self::{promise::Broken, senders::json};
use super::{
    batch::{self, AT_MOST, Format},
    body,
    body_budget::{BodyBudget, Pass},
    event::{self, Draft},
    metadata::Circumstances,
    segment::parsers as segment_parsers,
    webhook::parsers as webhook_parsers,
};
use crate::{
    crypto::inbound::{self, Received},
    model::{Name, Provider, Secret, TypeName},
};

/// One event of the REST API.
pub fn envelope(bytes: &[u8]) -> Result<(), Broken> {
    let Ok(draft) = event::parse(bytes, "") else { return Ok(()) };
    well_formed(&draft)?;
    agrees(&draft, bytes)
}

/// Many events of the REST API. The first byte says in which format.
pub fn batch(bytes: &[u8]) -> Result<(), Broken> {
    let Some((first, body)) = bytes.split_first() else { return Ok(()) };
    let format = if first % 2 == 0 { Format::Array } else { Format::Lines };
    let Ok(items) = batch::parse(body, format, body.len()) else { return Ok(()) };
    if items.is_empty() || items.len() > AT_MOST {
        return Err("a batch has one to a thousand events");
    }
    items.iter().flatten().try_for_each(well_formed)?;
    match (format, items.into_iter().collect::<Result<Vec<_>, _>>()) {
        (Format::Array, Ok(drafts)) => as_elements(&drafts, body),
        (Format::Lines, Ok(drafts)) => as_stream(&drafts, body),
        (Format::Array | Format::Lines, Err(_)) => Ok(()),
    }
}

/// Whoever reads the array into values finds the same events.
fn as_elements(drafts: &[Draft<'_>], body: &[u8]) -> Result<(), Broken> {
    let Ok(elements) = serde_json::from_slice::<Vec<&RawValue>>(body) else {
        return Err("an array that is taken apart is JSON");
    };
    if elements.len() != drafts.len() {
        return Err("an array has as many events as elements");
    }
    let mut pairs = drafts.iter().zip(elements);
    pairs.try_for_each(|(draft, element)| agrees(draft, element.get().as_bytes()))
}

/// Whoever reads one JSON value behind the other, and knows no lines, finds the same events.
fn as_stream(drafts: &[Draft<'_>], body: &[u8]) -> Result<(), Broken> {
    let values = serde_json::Deserializer::from_slice(body).into_iter::<&RawValue>();
    let Ok(values) = values.collect::<Result<Vec<_>, _>>() else {
        return Err("lines that are all taken are a stream of JSON");
    };
    if values.len() != drafts.len() {
        return Err("a line has one event");
    }
    let mut pairs = drafts.iter().zip(values);
    pairs.try_for_each(|(draft, value)| agrees(draft, value.get().as_bytes()))
}

/// A request of Segment's clients. The first byte says in which encoding it comes, and for which call.
pub fn segment(bytes: &[u8]) -> Result<(), Broken> {
    let Some((first, body)) = bytes.split_first() else { return Ok(()) };
    let Some(body) = inflated(*first, body)? else { return Ok(()) };
    segment_parsers::messages(&body, first >> 2)
}

/// The body, if it can be read in the encoding of this choice.
fn inflated(choice: u8, body: &[u8]) -> Result<Option<Bytes>, Broken> {
    const LARGEST: usize = 512 * 1024;
    let mut headers = HeaderMap::new();
    let encoding = ["", "gzip", "zstd", "identity"][usize::from(choice % 4)];
    headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static(encoding));
    let room = BodyBudget::new(LARGEST);
    let read =
        body::read(Body::from(body.to_vec()), &headers, LARGEST, Pass::known(&room)).now_or_never();
    let Ok((body, _lease)) = read.ok_or("a body that is there is read at once")? else {
        return Ok(None);
    };
    if body.len() > LARGEST {
        return Err("a body inflates to its limit at most");
    }
    Ok(Some(body))
}

/// The body of a webhook, and the query of a pixel: a form, JSON or a text. The first byte says in which
/// encoding it comes, and what its sender calls it.
pub fn form(bytes: &[u8]) -> Result<(), Broken> {
    const CALLED: [&str; 5] = [
        "application/x-www-form-urlencoded",
        "application/json",
        "Application/X-WWW-Form-URLEncoded ; charset=utf-8",
        "text/plain",
        "",
    ];
    let Some((first, body)) = bytes.split_first() else { return Ok(()) };
    let called = CALLED[usize::from(first >> 2) % CALLED.len()];
    let Some(body) = inflated(*first, body)? else { return Ok(()) };
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(called));
    webhook_parsers::content(&headers, &body)?;
    std::str::from_utf8(&body).map_or(Ok(()), segment_parsers::pixel)
}

/// A webhook with the signature of a service: a byte that says which, header lines, an empty line, and
/// the body. Nobody knows the secret, so nothing may be believed.
pub fn signature(bytes: &[u8]) -> Result<(), Broken> {
    let Some((first, rest)) = bytes.split_first() else { return Ok(()) };
    let provider = Provider::ALL[usize::from(*first) % Provider::ALL.len()];
    let scheme = inbound::preset(provider).scheme;
    let (headers, body) = head_and_body(rest);
    let secret = match provider {
        Provider::StandardWebhooks | Provider::Svix => "whsec_nVkT0pWq7pXo3yS8rJd2mC5hZaQ4uLb6",
        // A point of the curve, to which nobody has the private key.
        Provider::Sendgrid => {
            "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEks76I3SklaMExYeThDt2B27MSJBjquH0zMkwBvjsRu2g1GWFOXX6KHfUfMGc3O6ZNBJbtfYWnK17rZPT33I5kw=="
        }
        Provider::Stripe
        | Provider::Github
        | Provider::Slack
        | Provider::Shopify
        | Provider::Twilio
        | Provider::Gitlab
        | Provider::Paddle
        | Provider::Segment
        | Provider::Customerio => "p9Kx2vQ7rT4mZ8wB1nC6",
    };
    let key = scheme.key(&Secret::new(secret)).map_err(|_| "the secret is of use")?;
    let received = Received { headers: &headers, url: "https://a.example/in/x?a=b", body };
    // 2026-01-01, which the times of the corpus are near.
    let now = Timestamp::from_second(1_767_225_600).unwrap_or(Timestamp::UNIX_EPOCH);
    if scheme.verify(&[key], &received, now).is_ok() {
        return Err("nothing is believed without the secret");
    }
    webhook_parsers::content(&headers, &Bytes::copy_from_slice(body))
}

/// What is behind the last line that is no header, is the body.
fn head_and_body(bytes: &[u8]) -> (HeaderMap, &[u8]) {
    let mut headers = HeaderMap::new();
    let mut rest = bytes;
    while let Some(end) = rest.iter().position(|it| *it == b'\n') {
        let (line, behind) = (&rest[..end], &rest[end + 1..]);
        let Some(colon) = line.iter().position(|it| *it == b':') else {
            return (headers, behind);
        };
        let name = HeaderName::from_bytes(&line[..colon]);
        let value = HeaderValue::from_bytes(line[colon + 1..].trim_ascii());
        if let (Ok(name), Ok(value)) = (name, value) {
            headers.append(name, value);
        }
        rest = behind;
    }
    (headers, rest)
}

/// What everything behind the parser relies on.
fn well_formed(draft: &Draft<'_>) -> Result<(), Broken> {
    valid(draft.payload.get().as_bytes())?;
    if draft.event_type.as_str().parse::<TypeName>().is_err() {
        return Err("a type obeys its rule");
    }
    let Some(given) = draft.metadata else { return Ok(()) };
    let Ok(source) = "app".parse::<Name>() else { return Ok(()) };
    let seen = Circumstances::of(&HeaderMap::new(), IpAddr::from([192, 0, 2, 1]));
    let Ok(seen) = seen else { return Ok(()) };
    let metadata = seen.with(&source, given, &[]);
    valid(metadata.bytes())?;
    let names: Result<BTreeMap<String, IgnoredAny>, _> = serde_json::from_str(given.get());
    let kept: Result<BTreeMap<String, IgnoredAny>, _> = serde_json::from_slice(metadata.bytes());
    let (Ok(names), Ok(kept)) = (names, kept) else { return Err("names in metadata are texts") };
    if names.keys().any(|it| {
        !kept.contains_key(it) && it != "schema_errors" && it != "hops" && it != "user_agent"
    }) {
        return Err("nothing of the sender's metadata is lost");
    }
    match serde_json::from_slice::<Value>(metadata.bytes()) {
        Ok(it) if it["source"] != "app" || it["ip"] != "192.0.2.1" => {
            Err("what we saw wins over what the sender says")
        }
        // Half a pair of surrogates is JSON, and no text: then this check has nothing to say.
        Ok(_) | Err(_) => Ok(()),
    }
}

/// Whether a reader that makes values of everything finds the same event. `json` is what it was read from.
fn agrees(draft: &Draft<'_>, json: &[u8]) -> Result<(), Broken> {
    // Numbers that are too large, and half a pair of surrogates, are JSON and no value.
    let Ok(Value::Object(read)) = serde_json::from_slice(json) else { return Ok(()) };
    let text = |name: &str| read.get(name).and_then(Value::as_str);
    if text("type") != Some(draft.event_type.as_str()) {
        return Err("everybody reads the same type");
    }
    if text("idempotency_key") != draft.key.as_ref().map(|it| it.as_str()) {
        return Err("everybody reads the same key");
    }
    if text("source") != draft.source.as_deref() {
        return Err("everybody reads the same source");
    }
    let part = |raw: &RawValue| serde_json::from_str::<Value>(raw.get()).ok();
    if read.get("payload") != part(draft.payload).as_ref() {
        return Err("everybody reads the same payload");
    }
    let metadata = read.get("metadata").filter(|it| !it.is_null());
    if metadata != draft.metadata.and_then(part).as_ref() {
        return Err("everybody reads the same metadata");
    }
    Ok(())
}
