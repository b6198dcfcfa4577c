//! What the parser of messages promises, for the fuzzers.

use std::net::IpAddr;

use axum::http::HeaderMap;
use jiff::Timestamp;
use serde_json::{Value, value::RawValue};

use super::{
    fields::Fields,
    key,
    message::{self, Around, Call},
};
use crate::{
    crypto::SeededRandom,
    ingest::{
        metadata::Circumstances,
        parsers::{Broken, valid},
    },
    model::RawJson,
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
    let Ok(fields) = Fields::parse(body) else { return Ok(()) };
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
        context: fields.get("context").filter(|_| call.is_none()),
        integrations: fields.get("integrations").filter(|_| call.is_none()),
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
fn as_it_came(message: &RawValue, payload: &RawJson) -> Result<(), Broken> {
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
    let read = |json: &str| serde_json::from_str::<serde_json::Map<String, Value>>(json).ok();
    let Some((mut sent, mut kept)) = read(message.get()).zip(read(payload.as_str())) else {
        // Numbers that are too large, and half a pair of surrogates, are JSON and no value.
        return Ok(());
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
