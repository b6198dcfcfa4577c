//! What the parsers of several senders promise together.

use std::net::IpAddr;

use serde::de::IgnoredAny;

use super::slow::{self, Slow};
use crate::model::json;

/// A promise that was broken.
pub type Broken = &'static str;

/// Whether it is JSON: payloads are trusted to be.
pub fn valid(json: &[u8]) -> Result<(), Broken> {
    serde_json::from_slice::<IgnoredAny>(json).map(drop).map_err(|_| "a payload is JSON")
}

/// A field of Segment's messages, and what a context is laid under and over.
pub fn same_context(
    found: &[u8],
    own: &Slow,
    under: Option<&Slow>,
    ip: IpAddr,
) -> Result<(), Broken> {
    let context = json::value_at(found, &["context"]).ok().flatten().and_then(slow::read);
    let context = context.ok_or("a message has a context")?;
    let (Slow::Map(own_fields), Slow::Map(fields)) = (own, &context) else {
        return if *own == context { Ok(()) } else { Err("a context that is no object stays") };
    };
    let under = match under {
        Some(Slow::Map(under)) => under.as_slice(),
        Some(_) | None => &[],
    };
    let name = |it: &str| it.encode_utf16().collect::<Vec<u16>>();
    let mut expected: Vec<(Vec<u16>, Slow)> =
        under.iter().filter(|it| !own_fields.iter().any(|own| own.0 == it.0)).cloned().collect();
    expected.extend(own_fields.iter().cloned());
    if !expected.iter().any(|it| it.0 == name("ip")) {
        expected.push((name("ip"), Slow::Text(name(&ip.to_string()))));
    }
    if *fields == expected { Ok(()) } else { Err("a context keeps each of its fields") }
}
