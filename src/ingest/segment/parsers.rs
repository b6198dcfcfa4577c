//! What the parser of messages promises, for the fuzzers.

use std::net::IpAddr;

use axum::http::HeaderMap;
use jiff::Timestamp;

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
};

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
        if taken.id.is_empty() || taken.id.len() > LONGEST {
            return Err("an id has a length that a key may have");
        }
    }
    Ok(())
}
