//! The receiver: it lives in the driver, outlasts every gateway, and writes down what arrives.

use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{Request, Response, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde_json::json;
use tokio::net::TcpListener;

use super::{logs::Log, random::Random};

/// How an endpoint answers.
#[derive(Clone, Copy, Debug, Default)]
pub struct Manner {
    /// So many requests in a hundred are refused with 503.
    pub refuses_percent: u64,
    /// An answer is held back for up to so many milliseconds.
    pub holds_back_ms: u64,
}

/// Cheap to clone; all clones are one receiver.
#[derive(Clone)]
pub struct Receiver {
    inner: Arc<Inner>,
    pub address: SocketAddr,
}

struct Inner {
    state: Mutex<State>,
    connections: AtomicUsize,
    /// Written beside each arrival: how far something else had come by then.
    position: Box<dyn Fn() -> u64 + Send + Sync>,
}

struct State {
    log: Log,
    random: Random,
    manners: HashMap<&'static str, Manner>,
    /// The ids that were taken, by endpoint.
    taken: HashMap<String, HashSet<String>>,
    last: Instant,
}

/// What the suites put into an event's payload.
#[derive(Deserialize)]
struct Delivered {
    data: Payload,
}

#[derive(Deserialize)]
struct Payload {
    lane: String,
    n: u64,
}

impl Receiver {
    pub async fn start(
        log: &Path,
        seed: u64,
        position: impl Fn() -> u64 + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let inner = Arc::new(Inner {
            state: Mutex::new(State {
                log: Log::create(log),
                random: Random::new(seed),
                manners: HashMap::new(),
                taken: HashMap::new(),
                last: Instant::now(),
            }),
            connections: AtomicUsize::new(0),
            position: Box::new(position),
        });
        tokio::spawn(accept(listener, inner.clone()));
        Self { inner, address }
    }

    pub fn url(&self, endpoint: &str) -> String {
        format!("http://{}/{endpoint}", self.address)
    }

    pub fn behave(&self, endpoint: &'static str, manner: Manner) {
        self.inner.state().manners.insert(endpoint, manner);
    }

    /// Forgets what was taken, and writes to a new log from now on.
    pub fn begin(&self, log: &Path) {
        let mut state = self.inner.state();
        state.log.flush();
        state.log = Log::create(log);
        state.taken.clear();
    }

    /// Counts as taken, though it was before this log began.
    pub fn remember(&self, endpoint: &str, id: &str) {
        let mut state = self.inner.state();
        state.taken.entry(endpoint.to_owned()).or_default().insert(id.to_owned());
    }

    pub fn flush(&self) {
        self.inner.state().log.flush();
    }

    /// How many different messages an endpoint has taken.
    pub fn taken(&self, endpoint: &str) -> usize {
        self.inner.state().taken.get(endpoint).map_or(0, HashSet::len)
    }

    pub fn has_taken(&self, endpoint: &str, id: &str) -> bool {
        self.inner.state().taken.get(endpoint).is_some_and(|ids| ids.contains(id))
    }

    /// Waits until everything that a gateway had sent before it was killed has been read: every
    /// connection is closed then.
    pub async fn quiet(&self) {
        const PATIENCE: Duration = Duration::from_secs(10);
        let start = Instant::now();
        while self.inner.connections.load(Ordering::Acquire) > 0 {
            assert!(start.elapsed() < PATIENCE, "a dead gateway still holds connections");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Waits until all has arrived that should, or nothing new has come for `stall`. Returns which.
    pub async fn drained(&self, all: impl Fn() -> bool, stall: Duration) -> bool {
        self.inner.state().last = Instant::now();
        loop {
            if all() {
                return true;
            }
            if self.inner.state().last.elapsed() > stall {
                return false;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Writes the request down, and says how to answer it.
    fn arrived(&self, endpoint: &str, id: &str, body: &[u8]) -> (u16, Duration) {
        let event: Option<Delivered> = serde_json::from_slice(body).ok();
        let (lane, n) = event.map_or((String::new(), 0), |it| (it.data.lane, it.data.n));
        let mut state = self.state();
        let manner = state.manners.get(endpoint).copied().unwrap_or_default();
        let status = if state.random.percent(manner.refuses_percent) { 503 } else { 200 };
        let wait = Duration::from_millis(state.random.below(manner.holds_back_ms + 1));
        if status == 200 {
            let taken = state.taken.entry(endpoint.to_owned()).or_default();
            if taken.insert(id.to_owned()) {
                state.last = Instant::now();
            }
        }
        let body = format!("{:016x}", xxhash_rust::xxh3::xxh3_64(body));
        let position = (self.position)();
        state.log.write(|t| {
            json!({
                "t": t, "id": id, "lane": lane, "n": n, "endpoint": endpoint, "body": body,
                "status": status, "position": position,
            })
        });
        (status, wait)
    }
}

async fn accept(listener: TcpListener, inner: Arc<Inner>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        inner.connections.fetch_add(1, Ordering::AcqRel);
        let inner = inner.clone();
        tokio::spawn(async move {
            let service = service_fn(|request| take(&inner, request));
            let connection = http1::Builder::new();
            // A gateway that is killed breaks its connections: that is the point.
            let _ = connection.serve_connection(TokioIo::new(stream), service).await;
            inner.connections.fetch_sub(1, Ordering::AcqRel);
        });
    }
}

async fn take(
    inner: &Inner,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, hyper::Error> {
    let endpoint = request.uri().path().trim_start_matches('/').to_owned();
    let id = request.headers().get("webhook-id").and_then(|it| it.to_str().ok());
    let id = id.unwrap_or("without-an-id").to_owned();
    // A body that breaks off was never delivered.
    let body = request.into_body().collect().await?.to_bytes();
    let (status, wait) = inner.arrived(&endpoint, &id, &body);
    if !wait.is_zero() {
        tokio::time::sleep(wait).await;
    }
    let mut response = Response::new(Full::default());
    *response.status_mut() = hyper::StatusCode::from_u16(status).unwrap();
    Ok(response)
}
