//! What the reader of webhooks' bodies promises, for the fuzzers.

use axum::http::HeaderMap;
use bytes::Bytes;

use super::content::{self, InboundContent};
use crate::ingest::parsers::promise::{Broken, valid};

/// The body as a payload, whole and as a list.
pub fn content(headers: &HeaderMap, body: &Bytes) -> Result<(), Broken> {
    let usable = content::usable(headers, None);
    valid(usable.bytes())?;
    let kept = content::kept(headers, &[]);
    valid(content::metadata(&kept).get().as_bytes())?;
    let Ok(content) = InboundContent::of(headers, body) else { return Ok(()) };
    valid(content.payload.bytes())?;
    let elements = content::elements(&content.payload).unwrap_or_default();
    elements.iter().try_for_each(|it| valid(it.bytes()))
}
