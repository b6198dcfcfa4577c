//! What the two sides write down, in the order in which it happened to them.

use std::{
    fmt,
    fs::File,
    io::{BufRead as _, BufReader},
};

use serde::{Deserialize, de::DeserializeOwned};

/// One post and what the sender heard. A key may be posted again until its outcome is known.
#[derive(Clone, Debug, Deserialize)]
pub struct Sent {
    /// When it was posted, in nanoseconds since 1970.
    pub t: u64,
    /// When the outcome was known.
    pub done: u64,
    /// The idempotency key, the same for every post of one event.
    pub key: String,
    /// The event id that the gateway gave; of acknowledged posts only.
    #[serde(default)]
    pub id: Option<String>,
    pub status: Status,
    /// Who posted: a lane posts its events one after the other, the next when the last is acked.
    pub lane: String,
    /// The place of the event in its lane.
    pub n: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Refused in so many words: nothing was kept.
    Failed,
    /// No answer: it may have been kept or not.
    Unknown,
    /// 2xx: it must arrive.
    Acked,
}

/// One request at the receiver.
#[derive(Clone, Debug, Deserialize)]
pub struct Received {
    /// When it had arrived whole, in nanoseconds since 1970.
    pub t: u64,
    /// The message id (`webhook-id`).
    pub id: String,
    /// Lane and place, as the event's payload says.
    pub lane: String,
    pub n: u64,
    pub endpoint: String,
    /// A hash of the body's bytes.
    pub body: String,
    /// What the receiver answered.
    pub status: u16,
}

/// What was run: where events had to go, and what was done to the gateway meanwhile.
#[derive(Clone, Debug, Deserialize)]
pub struct Run {
    pub endpoints: Vec<Endpoint>,
    /// Oldest first, one behind the other.
    pub faults: Vec<Fault>,
    /// How long before a fault a delivery may have arrived and still not have been settled.
    pub unsettled_ns: u64,
    /// For how long an endpoint may get nothing new while something was posted for it.
    #[serde(default)]
    pub resumed_ns: Option<u64>,
}

/// Something that was done to the gateway, or to what it stands on. Nanoseconds since 1970.
#[derive(Clone, Debug, Deserialize)]
pub struct Fault {
    /// Of what kind.
    pub name: String,
    pub from: u64,
    /// When it was over: what was attempted until then need not have been settled. Of a kill, the
    /// same moment.
    pub until: u64,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Endpoint {
    pub name: String,
    /// The lanes whose names start so go there; every lane when it is empty.
    #[serde(default)]
    pub lanes: String,
    pub order: Order,
    /// How many deliveries can be in flight or unsettled at once: as many may come twice at a fault.
    pub in_flight: u64,
}

/// What is promised of the order at an endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    #[default]
    None,
    /// The events of one sender's lane arrive one after the other.
    Key,
    /// All events do, in the order of their acceptance.
    Fifo,
}

#[derive(Debug)]
pub enum LogError {
    File(String, std::io::Error),
    Line(String, usize, serde_json::Error),
}

impl fmt::Display for LogError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path, error) => write!(f, "cannot read {path}: {error}"),
            Self::Line(path, line, error) => write!(f, "{path}, line {line}: {error}"),
        }
    }
}

impl std::error::Error for LogError {}

/// Reads NDJSON.
pub fn lines<T: DeserializeOwned>(path: &str) -> Result<Vec<T>, LogError> {
    let file = File::open(path).map_err(|error| LogError::File(path.to_owned(), error))?;
    let mut records = Vec::new();
    for (n, line) in BufReader::new(file).lines().enumerate() {
        let line = line.map_err(|error| LogError::File(path.to_owned(), error))?;
        let record = serde_json::from_str(&line)
            .map_err(|error| LogError::Line(path.to_owned(), n + 1, error))?;
        records.push(record);
    }
    Ok(records)
}

/// Reads one JSON value.
pub fn whole<T: DeserializeOwned>(path: &str) -> Result<T, LogError> {
    let text = std::fs::read(path).map_err(|error| LogError::File(path.to_owned(), error))?;
    serde_json::from_slice(&text)
        .map_err(|error| LogError::Line(path.to_owned(), error.line(), error))
}
