//! What the parser of messages promises, for the fuzzers.

use std::net::IpAddr;

use axum::http::HeaderMap;
use jiff::Timestamp;
use serde_json::Value;

use super::{
    fields::MessageFields,
    key,
    merge::{MessageLimits, Shared},
    message::{self, Around, Call},
};
use crate::{
    crypto::SeededRandom,
    ingest::{
        metadata::Circumstances,
        parsers::{
            promise::{Broken, same_context, valid},
            slow::{self, Slow},
        },
    },
    model::{RawJson, json},
};

/// A pixel's query, as the body that is made of it.
pub fn pixel(query: &str) -> Result<(), Broken> {
    let is_data = url::form_urlencoded::parse(query.as_bytes()).any(|(name, _)| name == "data");
    let body = super::pixel_body(query);
    // What is sent as data is whatever it is; fields are always an object.
    if !is_data && !matches!(serde_json::from_slice(&body), Ok(Value::Object(_))) {
        return Err("the fields of a pixel are an object");
    }
    messages(&body, 1)
}

/// The messages of a body, for one of the calls, or for a batch.
pub fn messages(body: &[u8], choice: u8) -> Result<(), Broken> {
    const LONGEST: usize = 256;
    let Ok(fields) = MessageFields::parse(body) else { return Ok(()) };
    let call = ["i", "t", "p", "s", "g", "a", "batch"][usize::from(choice) % 7];
    let call = Call::named(call);
    let _ = key::find(&HeaderMap::new(), &axum::http::Uri::from_static("/v1/batch"), &fields);
    let Ok(messages) = fields.messages(call.is_none()) else { return Ok(()) };
    let ip = IpAddr::from([192, 0, 2, 1]);
    let Ok(circumstances) = Circumstances::of(&HeaderMap::new(), ip) else { return Ok(()) };
    let random = SeededRandom::new(1);
    let around = Around {
        call,
        received_at: Timestamp::UNIX_EPOCH,
        circumstances,
        ip,
        random: &random,
        is_browser: choice.is_multiple_of(2),
        sent_at: fields.get("sentAt").filter(|_| call.is_none()),
        shared: Shared::of(
            fields.get("context").filter(|_| call.is_none()),
            fields.get("integrations").filter(|_| call.is_none()),
            MessageLimits { message: 32 * 1024, shared: 256 * 1024 },
        ),
    };
    for message in messages {
        let Ok(taken) = message::parse(message, &around) else { continue };
        valid(taken.payload.bytes())?;
        as_it_came(message, &taken.payload)?;
        if taken.id.is_empty() || taken.id.len() > LONGEST {
            return Err("an id has a length that a key may have");
        }
    }
    Ok(())
}

/// What nobody completes or corrects is in the message as its client's JSON has it.
fn as_it_came(message: &[u8], payload: &RawJson) -> Result<(), Broken> {
    const OURS: [&str; 9] = [
        "type",
        "messageId",
        "timestamp",
        "sentAt",
        "receivedAt",
        "writeKey",
        "context",
        "integrations",
        "originalTimestamp",
    ];
    let read = |json: &[u8]| match json::value(json) {
        Value::Object(map) => Some(map),
        _ => None,
    };
    let Some((mut sent, mut kept)) = read(message).zip(read(payload.bytes())) else {
        return Err("a message is an object, before and behind");
    };
    for name in OURS {
        sent.remove(name);
        kept.remove(name);
    }
    if sent != kept {
        return Err("a message keeps what its client said");
    }
    Ok(())
}

/// A payload as the context of a message, alone and under and over another, and as a message itself.
pub fn compared(payload: &RawJson, slow: &Slow) -> Result<(), Broken> {
    let Ok(fields) = MessageFields::parse(payload.bytes()) else {
        return Err("what is JSON is taken");
    };
    for name in ["a", "b", "userId", "user_id", "id"] {
        let text = match slow.get(name) {
            Some(Slow::Text(units)) => String::from_utf16(units).ok().filter(|it| !it.is_empty()),
            Some(_) | None => None,
        };
        if fields.text(name) != text {
            return Err("a field of a message is the text that it is");
        }
    }
    let ip = IpAddr::from([192, 0, 2, 1]);
    let other = r#"{"b":1,"\ud800":{"c":1e400},"ip":"::1"}"#;
    for (own, under) in
        [(payload.as_str(), None), (payload.as_str(), Some(other)), (other, Some(payload.as_str()))]
    {
        let message = format!(r#"{{"userId":"u","context":{own}}}"#);
        let Some(taken) = from_browser(&message, under, ip) else { continue };
        let read = |it: &str| slow::read(it.as_bytes()).ok_or("what was JSON is JSON");
        let own = match read(own)? {
            // It says nothing, and the context is what lies under it.
            Slow::Null => Slow::Map(Vec::new()),
            own => own,
        };
        let under = under.map(read).transpose()?;
        same_context(taken.bytes(), &own, under.as_ref(), ip)?;
    }
    Ok(())
}

/// The payload of a call of a browser.
fn from_browser(message: &str, context: Option<&str>, ip: IpAddr) -> Option<RawJson> {
    let random = SeededRandom::new(1);
    let limits = MessageLimits { message: 32 * 1024, shared: 256 * 1024 };
    let around = Around {
        call: Some(Call::Page),
        received_at: Timestamp::UNIX_EPOCH,
        circumstances: Circumstances::of(&HeaderMap::new(), ip).ok()?,
        ip,
        random: &random,
        is_browser: true,
        sent_at: None,
        shared: Shared::of(context.map(str::as_bytes), None, limits),
    };
    message::parse(message.as_bytes(), &around).ok().map(|it| it.payload)
}
