//! The activity log: one entry for each attempt and for each other way in which a delivery moved.

use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{DeliverySeq, Ended};

#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    pub delivery: DeliverySeq,
    /// Counts from 1 within the delivery, at most 4095.
    pub number: u16,
    pub at: Timestamp,
    pub kind: EntryKind,
    /// What followed: it ended so, or goes on (`None`).
    pub ended: Option<Ended>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum EntryKind {
    /// `number` counts attempts from 1.
    Attempt { number: u16, outcome: Outcome },
    /// Ended without an attempt: expired or cancelled, and why.
    Note { reason: String },
    /// A dead letter was delivered again, as the delivery with this ordinal.
    Replayed { by: u16, reason: String },
}

/// What came of an attempt. A failed attempt is a fact to record, not an error to propagate.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    pub class: Class,
    /// The HTTP status, where there was one.
    pub status: Option<u16>,
    /// For people, without secrets: `503 Service Unavailable`, `connection refused`.
    pub reason: String,
    /// The wait that the endpoint asked for, as it asked; the dispatcher bounds it.
    pub retry_after: Option<Duration>,
    pub duration: Duration,
    pub response: Option<Snippet>,
}

/// What kind of outcome it was, for decisions and for counting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// 2xx.
    Accepted,
    /// Any other status, which `Outcome::status` holds.
    Status,
    /// The deadline passed, in whatever phase.
    Timeout,
    /// The name has no address.
    Dns,
    /// No connection: refused, unreachable.
    Connect,
    /// The certificate or the handshake is wrong; nothing of the event was sent.
    Tls,
    /// The connection broke, or what came back was not HTTP.
    Broken,
    /// The egress policy denies the address.
    Denied,
    /// The request could not be made: a bad header, a template that fails, a secret that does not open.
    Config,
    /// 410, or the endpoint asked to be disabled.
    Gone,
    /// The endpoint asked for no more attempts of this message.
    Abort,
    /// The process ended during the attempt: it may or may not have arrived.
    Unknown,
}

/// The beginning of a response's body, at most [`Snippet::LIMIT`] bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snippet(Bytes);

impl Snippet {
    pub const LIMIT: usize = 1024;

    pub fn of(body: &Bytes) -> Option<Self> {
        (!body.is_empty()).then(|| Self(body.slice(..body.len().min(Self::LIMIT))))
    }

    pub fn bytes(&self) -> &Bytes {
        &self.0
    }

    /// As text, with what is not UTF-8 replaced.
    pub fn to_text(&self) -> String {
        String::from_utf8_lossy(&self.0).into_owned()
    }
}
