//! The sink: takes deliveries at once, and counts and times them; or misbehaves, by path.
//!
//! `/ok…` and `/fine…` answer 200 at once. `/hang…` never answers. `/drip…` sends a byte of its answer each
//! second. `/flood…` sends as much as the other side takes. A dead endpoint is a port where nobody
//! listens. Only what arrives at `/ok…` is timed; each path's first segment is counted.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, combinators::BoxBody};
use hyper::body::{Body, Frame, Incoming};
use serde::{Deserialize, Serialize};
use tokio::time::Sleep;

use crate::{
    Result,
    clock::now_ns,
    event::sent_ns,
    histogram::{Histogram, Latency},
    serve::serve,
};

#[derive(clap::Args)]
pub struct Options {
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
}

/// What arrived since the last reset.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Stats {
    /// Deliveries at `/ok…`.
    pub count: u64,
    pub bytes: u64,
    /// When the first and the last of them arrived, in nanoseconds since 1970.
    pub first_ns: u64,
    pub last_ns: u64,
    /// From `sent_ns` in the body to the arrival.
    pub latency: Latency,
    /// Requests by the first segment of their path.
    pub paths: BTreeMap<String, u64>,
}

/// The longest that one answer may be withheld or dripped.
const LONGEST_ANSWER: Duration = Duration::from_secs(120);
/// The most bytes of one flood.
const LARGEST_FLOOD: u64 = 1 << 30;

struct Counts {
    stats: Stats,
    latency: Histogram,
}

impl Counts {
    fn new() -> Self {
        Self { stats: Stats::default(), latency: Histogram::new() }
    }

    fn arrived(&mut self, body: &[u8]) {
        let now = now_ns();
        if self.stats.count == 0 {
            self.stats.first_ns = now;
        }
        self.stats.count += 1;
        self.stats.bytes += body.len() as u64;
        self.stats.last_ns = now;
        if let Some(sent) = sent_ns(body) {
            self.latency.record(Duration::from_nanos(now.saturating_sub(sent)));
        }
    }
}

pub async fn run(options: Options) -> Result<()> {
    let counts = Arc::new(Mutex::new(Counts::new()));
    serve(options.listen, move |request| {
        let counts = counts.clone();
        async move { take(&counts, request).await }
    })
    .await
}

type Answer = Response<BoxBody<Bytes, Infallible>>;

async fn take(counts: &Mutex<Counts>, request: Request<Incoming>) -> Answer {
    let path = request.uri().path().trim_start_matches('/');
    let mode = path.split('/').next().unwrap_or_default().to_owned();
    match mode.as_str() {
        "stats" => {
            let mut counts = lock(counts);
            counts.stats.latency = counts.latency.summary();
            return text(serde_json::to_string(&counts.stats).unwrap_or_default());
        }
        "reset" => {
            *lock(counts) = Counts::new();
            return text(String::new());
        }
        "ok" | "fine" | "hang" | "drip" | "flood" => (),
        _ => return status(StatusCode::NOT_FOUND),
    }
    let Ok(body) = request.into_body().collect().await else {
        return status(StatusCode::BAD_REQUEST);
    };
    {
        let mut counts = lock(counts);
        match counts.stats.paths.get_mut(&mode) {
            Some(count) => *count += 1,
            None => drop(counts.stats.paths.insert(mode.clone(), 1)),
        }
        if mode == "ok" {
            counts.arrived(&body.to_bytes());
        }
    }
    match mode.as_str() {
        "hang" => {
            tokio::time::sleep(LONGEST_ANSWER).await;
            text(String::new())
        }
        "drip" => Response::new(Drip { left: LONGEST_ANSWER.as_secs(), next: None }.boxed()),
        "flood" => Response::new(Flood { left: LARGEST_FLOOD }.boxed()),
        _ => text(String::new()),
    }
}

fn text(body: String) -> Answer {
    Response::new(Full::new(Bytes::from(body)).boxed())
}

fn status(status: StatusCode) -> Answer {
    let mut response = text(String::new());
    *response.status_mut() = status;
    response
}

fn lock(counts: &Mutex<Counts>) -> MutexGuard<'_, Counts> {
    counts.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// One byte each second.
struct Drip {
    left: u64,
    next: Option<Pin<Box<Sleep>>>,
}

impl Body for Drip {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<std::result::Result<Frame<Bytes>, Infallible>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        let next =
            self.next.get_or_insert_with(|| Box::pin(tokio::time::sleep(Duration::from_secs(1))));
        if next.as_mut().poll(context).is_pending() {
            return Poll::Pending;
        }
        self.next = None;
        self.left -= 1;
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b".")))))
    }
}

/// As much as the other side takes.
struct Flood {
    left: u64,
}

impl Body for Flood {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<std::result::Result<Frame<Bytes>, Infallible>>> {
        static CHUNK: [u8; 16 * 1024] = [b'.'; 16 * 1024];
        if self.left == 0 {
            return Poll::Ready(None);
        }
        self.left = self.left.saturating_sub(CHUNK.len() as u64);
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(&CHUNK)))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrivals_are_counted_and_timed_from_the_moment_in_the_body() {
        let mut counts = Counts::new();
        let sent = now_ns() - 5_000_000;
        counts.arrived(format!("{{\"data\":{{\"sent_ns\":{sent}}}}}").as_bytes());
        counts.arrived(b"{}");
        assert_eq!(counts.stats.count, 2);
        let latency = counts.latency.summary();
        assert_eq!(latency.count, 1);
        assert!(latency.p50 >= 5.0, "{latency:?}");
    }
}
