//! What one `POST /api/v1/events` costs from the socket to `Store::append` and back:
//! `cargo bench -p tidegate-bench --bench ingest`. The store answers at once and keeps nothing.
//!
//! `post` gives requests to ingest, without HTTP, and `router` to the API's router. `server` sends them through loopback, over
//! sixteen connections that are all asked at a time, and counts what the server's one thread used. The best
//! round says most, since on a busy machine every other number is somebody else's.

#[path = "../src/event.rs"]
#[allow(dead_code, unused_imports, reason = "the load generator uses all of it")]
mod event;

use std::{
    alloc::{GlobalAlloc, Layout},
    cell::Cell,
    fs,
    io::{Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Instant,
};

use async_trait::async_trait;
use axum::{Router, body::Body, extract::ConnectInfo, response::Response};
use http::Request;
use http_body_util::{BodyExt as _, Either};
use jiff::Timestamp;
use mimalloc::MiMalloc;
use tidegate::{
    api::{self, Api},
    app::GatewayRouter,
    catalog::CatalogWriter,
    clock::SystemClock,
    crypto::{AdminKey, KeyHasher, SeededRandom, Vault},
    destinations::{
        Directory,
        egress::{self, Egress, SystemResolver},
    },
    dispatch,
    gate::{self, Gate},
    hint,
    ingest::{self, Ingest, IngestParts, Keyring, webhook::InboundEndpoints},
    model::{
        Author, DeliverySeq, Event, EventId, EventSeq, Message, NewEvent, Owed, Plan, ProjectId,
        Remembered, Secret,
    },
    pipeline::NoLookups,
    probe::{self, Prober},
    resources::{self, File, Means},
    server::{self, AnswerBody},
    store::{
        Appended, Backlog, Health, OwedQuery, Recording, ReplayStep, Result as StoreResult, Role,
        Settlement, Store, StoreError, WaitingEvent, sqlite,
    },
    tail::Tail,
    telemetry,
};
use tokio::{net::TcpListener, sync::watch};
use tower_service::Service as _;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

const KEY: &str = "a-key-of-the-administrator-for-the-bench";
const PEER: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const ROUNDS: usize = 15;
const CONNECTIONS: usize = 16;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|it| it != "--bench").collect();
    let asked = |name: &str| arguments.is_empty() || arguments.iter().any(|it| it == name);
    let number = arguments.iter().find_map(|it| it.parse().ok());
    let requests: usize = number.unwrap_or(32_000);
    let rounds = if number.is_some() { 1 } else { ROUNDS };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let folder = tempfile::tempdir()?;
    let (router, ingest) = runtime.block_on(routes(folder.path()))?;
    if asked("post") {
        let round = || runtime.block_on(through(requests, async |it| ingest.post(it, PEER).await));
        report("post", requests, (0..rounds).map(|_| round()));
    }
    if asked("router") {
        let round = || {
            runtime.block_on(through(requests, async |mut it| {
                it.extensions_mut().insert(ConnectInfo(SocketAddr::from((PEER, 40_000))));
                let Ok(response) = router.clone().call(it).await;
                response.map(Either::Right)
            }))
        };
        report("router", requests, (0..rounds).map(|_| round()));
    }
    if asked("server") {
        let each = requests / CONNECTIONS;
        let front = || GatewayRouter::new(ingest.clone(), router.clone(), Role::ALL.to_vec());
        let round = || runtime.block_on(through_server(front(), each));
        report("server", each * CONNECTIONS, (0..rounds).map(|_| round()));
    }
    Ok(())
}

/// Nanoseconds and allocations of one round.
type Cost = (u64, u64);

fn report(name: &str, requests: usize, rounds: impl Iterator<Item = Result<Cost>>) {
    let costs: Vec<Cost> =
        rounds.filter_map(|it| it.map_err(|it| eprintln!("{it}")).ok()).collect();
    let per_request = |it: u64| it as f64 / requests as f64;
    let mut times: Vec<u64> = costs.iter().map(|it| it.0).collect();
    times.sort_unstable();
    let (Some(best), Some(last)) = (times.first(), costs.last()) else { return };
    println!(
        "{name}: best {:.0} ns, median {:.0} ns, {:.2} allocations a request",
        per_request(*best),
        per_request(times[times.len() / 2]),
        per_request(last.1),
    );
}

async fn through(
    requests: usize,
    answer: impl AsyncFn(Request<Body>) -> Response<AnswerBody>,
) -> Result<Cost> {
    let events = event::Events::new(7, true, 1);
    let mut nanoseconds = 0;
    let mut taken = 0;
    for first in (0..requests).step_by(1000) {
        let made: Vec<_> = (first..requests.min(first + 1000))
            .map(|it| request(&events.body(it as u64, 1_763_000_000_123_456_789)))
            .collect::<Result<_>>()?;
        let (begun, before) = (Instant::now(), ALLOCATIONS.load(Relaxed));
        for request in made {
            let response = answer(request).await;
            let status = response.status();
            let body = response.into_body().collect().await?.to_bytes();
            if status != 202 || body.len() < 60 {
                return Err(format!("{status}: {body:?}").into());
            }
        }
        nanoseconds += begun.elapsed().as_nanos() as u64;
        taken += ALLOCATIONS.load(Relaxed) - before;
    }
    Ok((nanoseconds, taken))
}

/// As hyper gives it to the server.
fn request(body: &str) -> Result<Request<Body>> {
    Ok(Request::post("/api/v1/events")
        .header("host", "localhost")
        .header("content-type", "application/json")
        .header("authorization", format!("Bearer {KEY}"))
        .header("tidegate-project", "bench")
        .header("content-length", body.len())
        .body(Body::from(body.to_owned()))?)
}

async fn through_server(front: GatewayRouter, each: usize) -> Result<Cost> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let to = listener.local_addr()?;
    let (done, stop) = tokio::sync::oneshot::channel::<Cost>();
    let thread = fs::read_link("/proc/thread-self")?;
    let used = std::path::Path::new("/proc").join(thread).join("schedstat");
    let client = std::thread::spawn(move || -> Result<()> {
        IS_CLIENT.set(true);
        // The first requests make what stays.
        let mut streams = connect(to)?;
        post_all(&mut streams, 50)?;
        let before = (on_cpu(&used)?, ALLOCATIONS.load(Relaxed));
        post_all(&mut streams, each)?;
        let after = (on_cpu(&used)?, ALLOCATIONS.load(Relaxed));
        let _ = done.send((after.0 - before.0, after.1 - before.1));
        Ok(())
    });
    let cost = Arc::new(Mutex::new(None));
    let told = cost.clone();
    let stop = async move { *told.lock().unwrap() = stop.await.ok() };
    server::serve(listener, front, server::Options::default(), stop).await;
    client.join().map_err(|_| "the client ended badly")??;
    let cost = *cost.lock().unwrap();
    cost.ok_or_else(|| "no cost".into())
}

/// What a thread has used, in nanoseconds.
fn on_cpu(file: &std::path::Path) -> Result<u64> {
    let text = fs::read_to_string(file)?;
    Ok(text.split(' ').next().ok_or("no time")?.parse()?)
}

#[allow(clippy::disallowed_methods, reason = "it connects to the server beside it")]
fn connect(to: SocketAddr) -> Result<Vec<TcpStream>> {
    let streams = (0..CONNECTIONS).map(|_| {
        let stream = TcpStream::connect(to)?;
        stream.set_nodelay(true)?;
        Ok(stream)
    });
    streams.collect()
}

fn post_all(streams: &mut [TcpStream], each: usize) -> Result<()> {
    let events = event::Events::new(7, true, 1);
    let mut buffer = [0; 4096];
    let mut number = 0;
    for _ in 0..each {
        for stream in &mut *streams {
            let body = events.body(number, 1_763_000_000_123_456_789);
            number += 1;
            let text = format!(
                "POST /api/v1/events HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
                 authorization: Bearer {KEY}\r\ntidegate-project: bench\r\ncontent-length: {}\r\n\r\n{body}",
                body.len()
            );
            stream.write_all(text.as_bytes())?;
        }
        for stream in &mut *streams {
            // An answer is written at once, and so it is read at once.
            let length = stream.read(&mut buffer)?;
            if !buffer[..length].starts_with(b"HTTP/1.1 202 ") || !buffer[..length].ends_with(b"}")
            {
                return Err(String::from_utf8_lossy(&buffer[..length]).into());
            }
        }
    }
    Ok(())
}

/// The real API over a store that answers at once.
async fn routes(folder: &std::path::Path) -> Result<(Router, Arc<Ingest>)> {
    let metrics = telemetry::start_metrics()?;
    let random = Arc::new(SeededRandom::new(1));
    let clock = Arc::new(SystemClock);
    let vault = Arc::new(Vault::ephemeral(random.clone()));
    let (accepted, _events) = hint::channel(1);
    let options = sqlite::Options { reserve_bytes: 1 << 16, ..sqlite::Options::default() };
    let number = Box::new(|| 7);
    let database = sqlite::SqliteStore::open(folder, options, clock.clone(), number, accepted)?;
    let database = Arc::new(database);
    let catalog_writer = Arc::new(CatalogWriter::open(database.clone()).await?);
    let file = "version: 1\nproject: bench\nsources: [{ name: app, kind: api }]\n";
    let means = Means {
        vault: &vault,
        random: random.as_ref(),
        now: Timestamp::UNIX_EPOCH,
        author: Author::File,
        options: resources::Options::default(),
    };
    resources::apply(&File::read("bench.yaml", file, &|_| None)?, &catalog_writer, means, false)
        .await?;
    let admin = AdminKey::new(&Secret::new(KEY), random.as_ref())?;
    let hasher = || KeyHasher::of(&vault);
    let keyring = Arc::new(Keyring::new(
        catalog_writer.watch(),
        hasher(),
        Some(admin),
        clock.clone(),
        random.as_ref(),
    ));
    let egress = Egress::new(egress::Options::default(), Arc::new(SystemResolver::default()))?;
    let outlets = Arc::new(Directory::new(catalog_writer.watch(), vault.clone(), egress));
    let tail = Tail::default();
    let gate = Gate::new(Arc::new(Forgetful), catalog_writer.watch(), gate::Options::default());
    let ingest = Arc::new(Ingest::new(
        IngestParts {
            gate: Arc::new(gate),
            keyring: keyring.clone(),
            clock: clock.clone(),
            tail: tail.clone(),
            random: random.clone(),
            doors: InboundEndpoints::new(catalog_writer.watch(), vault.clone()),
            catalog: catalog_writer.watch(),
            folder: folder.to_owned(),
        },
        ingest::Options::default(),
    ));
    let (_hinted, hints) = hint::channel::<Vec<(Owed, Message)>, _>(1);
    let (_dispatcher, dispatch) = dispatch::runner(dispatch::Parts {
        store: database.clone(),
        clock: clock.clone(),
        catalog_writer: catalog_writer.clone(),
        outlets: outlets.clone(),
        hints,
        tail: tail.clone(),
        shares: None,
        stop: watch::Sender::new(false).subscribe(),
        set_back: jiff::SignedDuration::ZERO,
        options: dispatch::Options::default(),
    });
    let prober = Arc::new(Prober::new(probe::Parts {
        database: database.clone(),
        catalog_writer: catalog_writer.clone(),
        outlets: outlets.clone(),
        clock: clock.clone(),
        random: random.clone(),
        tail: tail.clone(),
    }));
    let router = api::router(Api::new(api::Context {
        catalog_writer,
        database,
        ingest: ingest.clone(),
        keyring,
        hasher: hasher(),
        vault: vault.clone(),
        clock,
        random,
        prober,
        outlets,
        lookups: Arc::new(NoLookups),
        tools: tidegate::pipeline::Tools::new(&vault),
        dispatch,
        replayed: Arc::new(|_| ()),
        tail,
        metrics,
        draining: watch::Sender::new(false).subscribe(),
        place: None,
        limits: resources::Options::default(),
        options: api::Options::default(),
    }))
    .merge(tidegate::dashboard::router());
    Ok((router, ingest))
}

/// A store that says yes and forgets.
struct Forgetful;

#[async_trait]
impl Store for Forgetful {
    async fn append(&self, events: Vec<NewEvent>) -> StoreResult<Vec<Appended>> {
        let kept = |it: NewEvent| {
            Appended::New(Arc::new(Event {
                seq: EventSeq(1),
                id: it.id.unwrap_or(EventId::new(it.received_at, 1, 7)),
                project: it.project,
                source: it.source,
                event_type: it.event_type,
                timestamp: it.timestamp.unwrap_or(it.received_at),
                received_at: it.received_at,
                key: it.key,
                metadata: it.metadata,
                payload: it.payload,
            }))
        };
        Ok(events.into_iter().map(kept).collect())
    }

    async fn unplanned(&self, _: EventSeq, _: usize) -> StoreResult<Vec<Arc<Event>>> {
        Err(StoreError::Closed)
    }

    async fn plan(&self, _: Vec<Plan>) -> StoreResult<Vec<Owed>> {
        Err(StoreError::Closed)
    }

    async fn waiting(&self, _: EventSeq, _: usize) -> StoreResult<Vec<WaitingEvent>> {
        Err(StoreError::Closed)
    }

    async fn memories(&self) -> StoreResult<Vec<Remembered>> {
        Err(StoreError::Closed)
    }

    async fn remember(&self, _: Vec<Remembered>) -> StoreResult<()> {
        Err(StoreError::Closed)
    }

    async fn record(&self, _: Recording) -> StoreResult<Arc<Event>> {
        Err(StoreError::Closed)
    }

    async fn settle(&self, _: Vec<Settlement>) -> StoreResult<()> {
        Err(StoreError::Closed)
    }

    async fn owed(&self, _: OwedQuery) -> StoreResult<Vec<Owed>> {
        Err(StoreError::Closed)
    }

    async fn backlog(&self) -> StoreResult<Vec<Backlog>> {
        Err(StoreError::Closed)
    }

    async fn messages(&self, _: &[DeliverySeq]) -> StoreResult<Vec<Message>> {
        Err(StoreError::Closed)
    }

    async fn replay(&self, _: ReplayStep) -> StoreResult<Vec<Owed>> {
        Err(StoreError::Closed)
    }

    async fn prune(&self, _: &[(ProjectId, Timestamp)]) -> StoreResult<u64> {
        Err(StoreError::Closed)
    }

    fn health(&self) -> Health {
        Health::default()
    }

    async fn close(&self) {}
}

/// Allocations of all threads but the client's.
static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

thread_local! {
    static IS_CLIENT: Cell<bool> = const { Cell::new(false) };
}

/// What the gateway has, and a count.
struct Counting(MiMalloc);

#[global_allocator]
static ALLOCATOR: Counting = Counting(MiMalloc);

impl Counting {
    /// One thread counts, so nothing is lost between the two.
    fn count() {
        if !IS_CLIENT.get() {
            ALLOCATIONS.store(ALLOCATIONS.load(Relaxed) + 1, Relaxed);
        }
    }
}

// SAFETY: everything is handed on.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        Self::count();
        unsafe { self.0.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        Self::count();
        unsafe { self.0.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        Self::count();
        unsafe { self.0.realloc(pointer, layout, size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        unsafe { self.0.dealloc(pointer, layout) }
    }
}
