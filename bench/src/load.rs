//! The load generator: posts events over keep-alive connections.
//!
//! Closed loop: each connection posts its next event when the last was answered. Open loop: events
//! are due at a fixed rate, whatever the answers do, and their latency counts from the moment when
//! they were due, so that a stall is not left out of the numbers (no coordinated omission).

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use tokio::{net::TcpStream, sync::Semaphore};

use crate::{
    Result,
    clock::now_ns,
    event::Events,
    histogram::{Histogram, Latency},
};

#[derive(clap::Args, Clone, Debug)]
pub struct Options {
    /// Who is posted to.
    #[arg(long)]
    pub to: SocketAddr,
    #[arg(long, default_value_t = 16)]
    pub connections: usize,
    /// Events a second, open loop. Without it each connection posts as fast as it is answered.
    #[arg(long)]
    pub rate: Option<f64>,
    /// Ends after this many seconds, …
    #[arg(long, default_value_t = 10.0)]
    pub seconds: f64,
    /// … or after this many events, whichever comes first.
    #[arg(long, default_value_t = 50_000_000)]
    pub count: u64,
    /// The API key.
    #[arg(long, env = "TIDEGATE_ADMIN_KEY", default_value = "", hide_env_values = true)]
    pub key: String,
    #[arg(long, default_value = "bench")]
    pub project: String,
    /// How many projects to post to in turn: `bench`, `bench-1`, …
    #[arg(long, default_value_t = 1)]
    pub projects: u64,
    /// Leave the idempotency keys out.
    #[arg(long)]
    pub no_keys: bool,
    /// How many event types to use in turn: `to.0`, `to.1`, …
    #[arg(long, default_value_t = 1)]
    pub types: u64,
    /// Events in a request; more than one go to the batch route.
    #[arg(long, default_value_t = 1)]
    pub batch: u64,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Report {
    pub sent: u64,
    pub accepted: u64,
    pub accepted_per_second: f64,
    /// Requests by status.
    pub statuses: BTreeMap<u16, u64>,
    /// Requests without an answer.
    pub errors: u64,
    /// When the first was due and when the last was answered, in nanoseconds since 1970.
    pub start_ns: u64,
    pub end_ns: u64,
    /// From post, or from when it was due, to the answer.
    pub ack: Latency,
}

/// What the connections share.
struct Shared {
    options: Options,
    events: Events,
    next: AtomicU64,
    /// Open loop: one permit for each event that is due.
    due: Semaphore,
    start: Instant,
    start_ns: u64,
    until: Instant,
}

/// What one connection saw.
struct Seen {
    sent: u64,
    accepted: u64,
    statuses: BTreeMap<u16, u64>,
    errors: u64,
    ack: Histogram,
    end_ns: u64,
}

/// Requests without an answer in a row after which a connection gives up.
const ERRORS_IN_A_ROW: u32 = 100;

/// Posts until the time or the count is over.
pub async fn run(options: &Options) -> Result<Report> {
    let start = Instant::now();
    let shared = Arc::new(Shared {
        options: options.clone(),
        events: Events::new(now_ns(), !options.no_keys, options.types),
        next: AtomicU64::new(0),
        due: Semaphore::new(0),
        start,
        start_ns: now_ns(),
        until: start + Duration::from_secs_f64(options.seconds.clamp(0.0, 3600.0)),
    });
    if let Some(rate) = options.rate {
        let shared = shared.clone();
        std::thread::spawn(move || pace(&shared, rate));
    }
    let connections = 0..options.connections.clamp(1, 1024);
    let tasks: Vec<_> = connections.map(|_| tokio::spawn(post_all(shared.clone()))).collect();

    let mut report = Report { start_ns: shared.start_ns, ..Report::default() };
    let mut ack = Histogram::new();
    for task in tasks {
        let seen = task.await?;
        report.sent += seen.sent;
        report.accepted += seen.accepted;
        report.errors += seen.errors;
        report.end_ns = report.end_ns.max(seen.end_ns);
        for (status, count) in seen.statuses {
            *report.statuses.entry(status).or_default() += count;
        }
        ack.merge(&seen.ack);
    }
    let seconds = report.end_ns.saturating_sub(report.start_ns) as f64 / 1e9;
    report.accepted_per_second = report.accepted as f64 / seconds.max(1e-9);
    report.ack = ack.summary();
    Ok(report)
}

/// Says when events are due. A thread of its own, since the runtime's timer counts in milliseconds.
fn pace(shared: &Shared, rate: f64) {
    for n in 0..shared.options.count {
        let due = shared.start + Duration::from_secs_f64(n as f64 / rate);
        if due >= shared.until {
            break;
        }
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        shared.due.add_permits(1);
    }
    shared.due.close();
}

/// The work of one connection.
async fn post_all(shared: Arc<Shared>) -> Seen {
    let mut seen = Seen {
        sent: 0,
        accepted: 0,
        statuses: BTreeMap::new(),
        errors: 0,
        ack: Histogram::new(),
        end_ns: 0,
    };
    let mut connection = None;
    let mut in_a_row = 0;
    while let Some((n, due)) = next(&shared).await {
        let due_ns = shared.start_ns + (due - shared.start).as_nanos() as u64;
        seen.sent += shared.options.batch;
        match post(&shared, &mut connection, n, due_ns).await {
            Ok((status, accepted)) => {
                in_a_row = 0;
                seen.ack.record(due.elapsed());
                seen.end_ns = now_ns();
                *seen.statuses.entry(status.as_u16()).or_default() += 1;
                seen.accepted += accepted;
                if !status.is_success() {
                    // Told to come back later: a moment's rest, or refusals are all that is measured.
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            }
            Err(_) => {
                connection = None;
                seen.errors += 1;
                in_a_row += 1;
                if in_a_row == ERRORS_IN_A_ROW {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    }
    seen
}

/// The next event to post and when it was due, or `None` when it is over.
async fn next(shared: &Shared) -> Option<(u64, Instant)> {
    let rate = shared.options.rate;
    if rate.is_some() {
        shared.due.acquire().await.ok()?.forget();
    }
    let n = shared.next.fetch_add(shared.options.batch, Ordering::Relaxed);
    if n >= shared.options.count {
        return None;
    }
    match rate {
        Some(rate) => Some((n, shared.start + Duration::from_secs_f64(n as f64 / rate))),
        None => Some(Instant::now()).filter(|now| *now < shared.until).map(|now| (n, now)),
    }
}

/// Of so many projects, the one whose turn it is.
pub fn project(name: &str, turn: u64, projects: u64) -> String {
    match turn % projects.max(1) {
        0 => name.to_owned(),
        number => format!("{name}-{number}"),
    }
}

pub type Connection = SendRequest<Full<Bytes>>;

/// Of a batch, some events may be refused.
#[derive(Deserialize)]
struct BatchAnswer {
    accepted: u64,
}

/// Returns the status and how many events were accepted.
async fn post(
    shared: &Shared,
    connection: &mut Option<Connection>,
    n: u64,
    due_ns: u64,
) -> Result<(StatusCode, u64)> {
    /// A gateway that does not answer for as long is down.
    const PATIENCE: Duration = Duration::from_secs(30);
    let (path, body) = match shared.options.batch {
        1 => ("/api/v1/events", shared.events.body(n, due_ns)),
        batch => {
            let events: Vec<_> = (n..n + batch).map(|n| shared.events.body(n, due_ns)).collect();
            ("/api/v1/events/batch", format!("[{}]", events.join(",")))
        }
    };
    let turn = n / shared.options.batch;
    let request = Request::post(path)
        .header("host", "localhost")
        .header("content-type", "application/json")
        .header("authorization", format!("Bearer {}", shared.options.key))
        .header("tidegate-project", project(&shared.options.project, turn, shared.options.projects))
        .body(Full::new(Bytes::from(body)))?;
    let answer = async {
        if connection.is_none() {
            *connection = Some(connect(shared.options.to).await?);
        }
        let Some(sender) = connection else { return Err("not connected".into()) };
        sender.ready().await?;
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        let accepted = match shared.options.batch {
            _ if !status.is_success() => 0,
            1 => 1,
            _ => serde_json::from_slice::<BatchAnswer>(&body)?.accepted,
        };
        Ok((status, accepted))
    };
    tokio::time::timeout(PATIENCE, answer).await?
}

#[allow(clippy::disallowed_methods, reason = "the load generator connects to where it is told")]
pub async fn connect(to: SocketAddr) -> Result<Connection> {
    let stream = TcpStream::connect(to).await?;
    stream.set_nodelay(true)?;
    let (sender, connection) = handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    Ok(sender)
}
