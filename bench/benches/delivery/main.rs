//! What a delivery costs between the hint of an accepted event and its settled attempt, in one thread:
//! `cargo bench -p tidegate-bench --bench delivery`. Nanoseconds and allocations for each, median of rounds.
//!
//! The store of the loops answers at once, and keeps nothing. The server reads a request and writes an answer,
//! on a socket of loopback and in the same thread, so its two calls to the system are in every number with
//! `attempt` in its name; `floor` is a bare client of hyper, which the relay uses. Arguments choose what
//! is run, by name; `--once` runs one short round, for a profiler that counts instructions.

mod around;

use std::{
    alloc::{GlobalAlloc, Layout},
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Instant,
};

use around::{Accepts, AtOnce, Instantly, owed};
use bytes::Bytes;
use http::{Request, Uri, header::CONTENT_TYPE};
use http_body_util::{BodyExt as _, Full};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use jiff::Timestamp;
use tidegate::{
    catalog::{Catalog, CatalogWriter, Edit, Resource},
    clock::{Clock as _, SystemClock},
    crypto::{SeededRandom, Vault},
    destinations::{
        Directory, Outlets,
        egress::{self, Egress, SystemResolver},
    },
    dispatch, hint,
    model::{Author, Class, DestinationId, Event, EventId, EventSeq, Message, Owed, RawJson},
    pipeline, resources,
    store::sqlite,
    tail::Tail,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::{mpsc, watch},
};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The allocator of the program, counted.
struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);
static ALLOCATED: AtomicU64 = AtomicU64::new(0);

// SAFETY: each call is passed on as it is.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note(layout.size());
        unsafe { mimalloc::MiMalloc.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        unsafe { mimalloc::MiMalloc.dealloc(at, layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        note(layout.size());
        unsafe { mimalloc::MiMalloc.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        note(size);
        unsafe { mimalloc::MiMalloc.realloc(at, layout, size) }
    }
}

fn note(bytes: usize) {
    ALLOCATIONS.fetch_add(1, Relaxed);
    ALLOCATED.fetch_add(bytes as u64, Relaxed);
}

/// Deliveries under way at once, where not one is.
const AT_ONCE: u64 = 16;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let is_short = arguments.iter().any(|it| it == "--once");
    let chosen: Vec<&String> = arguments.iter().filter(|it| !it.starts_with("--")).collect();
    tidegate::telemetry::start_metrics()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let world = runtime.block_on(World::new())?;
    println!("| | ns | allocations | bytes |\n|---|---|---|---|");
    for case in Case::ALL {
        let name = case.name();
        if chosen.is_empty() || chosen.iter().any(|it| name == it.as_str()) {
            runtime.block_on(measure(case, &world, is_short))?;
        }
    }
    Ok(())
}

#[derive(Clone, Copy)]
enum Case {
    Plan,
    PlanLoop,
    DispatchOne,
    DispatchMany,
    AttemptOne,
    AttemptMany,
    FloorOne,
    FloorMany,
    WholeOne,
    WholeMany,
}

impl Case {
    const ALL: [Self; 10] = [
        Self::Plan,
        Self::PlanLoop,
        Self::DispatchOne,
        Self::DispatchMany,
        Self::AttemptOne,
        Self::AttemptMany,
        Self::FloorOne,
        Self::FloorMany,
        Self::WholeOne,
        Self::WholeMany,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Plan => "plan, pure",
            Self::PlanLoop => "plan, loop",
            Self::DispatchOne => "dispatch, 1",
            Self::DispatchMany => "dispatch, 16",
            Self::AttemptOne => "attempt, 1",
            Self::AttemptMany => "attempt, 16",
            Self::FloorOne => "attempt by the floor, 1",
            Self::FloorMany => "attempt by the floor, 16",
            Self::WholeOne => "hint to settled attempt, 1",
            Self::WholeMany => "hint to settled attempt, 16",
        }
    }
}

/// Runs rounds of a case and prints the median of them.
async fn measure(case: Case, world: &World, is_short: bool) -> Result<()> {
    let (rounds, each) = if is_short { (1, 3_200) } else { (41, 6_400) };
    let mut bench = Bench::start(case, world).await?;
    bench.round(each / 2).await?;
    let mut found = Vec::with_capacity(rounds);
    for _ in 0..rounds {
        let (allocations, bytes) = (ALLOCATIONS.load(Relaxed), ALLOCATED.load(Relaxed));
        let begun = Instant::now();
        bench.round(each).await?;
        let took = begun.elapsed().as_nanos() as u64;
        let allocations = ALLOCATIONS.load(Relaxed) - allocations;
        let bytes = ALLOCATED.load(Relaxed) - bytes;
        let of_one = |it: u64| it as f64 / each as f64;
        found.push((took / each, of_one(allocations), of_one(bytes)));
    }
    found.sort_by_key(|it| it.0);
    let (took, allocations, bytes) = found[found.len() / 2];
    println!("| {} | {took} | {allocations:.2} | {bytes:.0} |", case.name());
    Ok(())
}

/// One case, warm.
struct Bench {
    case: Case,
    world: World,
    events: hint::Sender<Vec<Arc<Event>>, bool>,
    planned: hint::Receiver<Vec<(Owed, Message)>, dispatch::Spilled>,
    deliveries: hint::Sender<Vec<(Owed, Message)>, dispatch::Spilled>,
    settled: mpsc::UnboundedReceiver<usize>,
    stop: watch::Sender<bool>,
    client: Client<HttpConnector, Full<Bytes>>,
    compiled: pipeline::Compiled,
    next: u64,
}

impl Bench {
    async fn start(case: Case, world: &World) -> Result<Self> {
        let (events, hints) = hint::weighed_channel(1_024, 1 << 24, |it: &Vec<Arc<Event>>| {
            it.iter().map(|it| it.weight()).sum()
        });
        let weigh = |it: &Vec<(Owed, Message)>| it.iter().map(|it| it.1.weight()).sum();
        let (planned, plans) = hint::weighed_channel(1_024, 1 << 24, weigh);
        let (deliveries, owed) = hint::weighed_channel(1_024, 1 << 24, weigh);
        let (settle, settled) = mpsc::unbounded_channel();
        let store = Arc::new(Instantly { settle });
        let stop = watch::Sender::new(false);
        let is_whole = matches!(case, Case::WholeOne | Case::WholeMany);
        let tools = pipeline::Tools::new(&world.vault);
        let compiled =
            pipeline::Compiled::of(&world.catalog_writer.current(), &Default::default(), &tools);
        let (planner, _) = pipeline::runner(pipeline::Parts {
            store: store.clone(),
            clock: Arc::new(SystemClock),
            catalog: world.catalog_writer.watch(),
            events: hints,
            lookups: Arc::new(pipeline::NoLookups),
            deliveries: if is_whole { deliveries.clone() } else { planned },
            stop: stop.subscribe(),
            tools,
            options: pipeline::Options::default(),
        });
        let outlets: Arc<dyn Outlets> = match case {
            Case::DispatchOne | Case::DispatchMany => Arc::new(AtOnce(Arc::new(Accepts))),
            _ => world.outlets.clone(),
        };
        let (dispatcher, _) = dispatch::runner(dispatch::Parts {
            store,
            clock: Arc::new(SystemClock),
            catalog_writer: world.catalog_writer.clone(),
            outlets,
            hints: owed,
            tail: Tail::default(),
            shares: None,
            stop: stop.subscribe(),
            set_back: jiff::SignedDuration::ZERO,
            options: dispatch::Options::default(),
        });
        tokio::spawn(planner.run());
        tokio::spawn(dispatcher.run());
        tokio::task::yield_now().await;
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_max_idle_per_host(64)
            .build(connector);
        let world = world.clone();
        let planned = plans;
        let next = 1;
        Ok(Self { case, world, events, planned, deliveries, settled, stop, client, compiled, next })
    }

    async fn round(&mut self, count: u64) -> Result<()> {
        match self.case {
            Case::Plan => self.plan(count),
            Case::PlanLoop => self.plan_in_loop(count).await,
            Case::DispatchOne => self.dispatch(count, 1).await,
            Case::DispatchMany => self.dispatch(count, AT_ONCE).await,
            Case::AttemptOne => self.attempts(count, 1).await,
            Case::AttemptMany => self.attempts(count, AT_ONCE).await,
            Case::FloorOne => self.floor(count, 1).await,
            Case::FloorMany => self.floor(count, AT_ONCE).await,
            Case::WholeOne => self.whole(count, 1).await,
            Case::WholeMany => self.whole(count, AT_ONCE).await,
        }
    }

    fn event(&mut self) -> Arc<Event> {
        let seq = EventSeq(self.next);
        self.next += 1;
        Arc::new(Event { seq, ..Event::clone(&self.world.event) })
    }

    fn message(&mut self) -> (Owed, Message) {
        let event = self.event();
        let owed = owed(&event, self.world.destination);
        (owed, Message { seq: owed.seq, event, copy: None, fresh_id: false })
    }

    fn plan(&mut self, count: u64) -> Result<()> {
        for _ in 0..count {
            let events = [self.event()];
            let plans = pipeline::plan_all(&events, &self.compiled, &pipeline::NoLookups);
            if plans.iter().any(|it| it.deliveries.len() != 1) {
                return Err("an event has another plan".into());
            }
        }
        Ok(())
    }

    async fn plan_in_loop(&mut self, count: u64) -> Result<()> {
        for _ in 0..count {
            let event = self.event();
            self.events.send(vec![event]);
            let Some(hint::Hint::Some(_)) = self.planned.receive().await else {
                return Err("a hint was lost".into());
            };
        }
        Ok(())
    }

    async fn dispatch(&mut self, count: u64, at_once: u64) -> Result<()> {
        for begun in 0..count {
            let message = self.message();
            self.deliveries.send(vec![message]);
            if begun % at_once == at_once - 1 {
                self.settled(at_once).await?;
            }
        }
        Ok(())
    }

    async fn whole(&mut self, count: u64, at_once: u64) -> Result<()> {
        // As many are always under way: for each that ends another begins.
        let (mut sent, mut ended) = (0, 0);
        while ended < count {
            while sent < count && sent - ended < at_once {
                let event = self.event();
                self.events.send(vec![event]);
                sent += 1;
            }
            ended += self.settled.recv().await.ok_or("the loop has ended")? as u64;
        }
        Ok(())
    }

    async fn settled(&mut self, count: u64) -> Result<()> {
        let mut left = count as usize;
        while left > 0 {
            let ended = self.settled.recv().await.ok_or("the loop has ended")?;
            left = left.saturating_sub(ended);
        }
        Ok(())
    }

    async fn attempts(&mut self, count: u64, at_once: u64) -> Result<()> {
        let mut tasks = Vec::new();
        for _ in 0..at_once {
            let outlet = self.world.outlets.get(self.world.destination).ok_or("no destination")?;
            let messages: Vec<_> = (0..count / at_once).map(|_| self.message().1).collect();
            tasks.push(tokio::spawn(async move {
                for message in messages {
                    let outcome =
                        outlet.send(std::slice::from_ref(&message), SystemClock.now()).await;
                    if outcome.class != Class::Accepted {
                        return Err(outcome.reason);
                    }
                }
                Ok(())
            }));
        }
        for task in tasks {
            task.await??;
        }
        Ok(())
    }

    async fn floor(&mut self, count: u64, at_once: u64) -> Result<()> {
        let mut tasks = Vec::new();
        for _ in 0..at_once {
            let (client, url) = (self.client.clone(), self.world.url.clone());
            let body = Bytes::from(self.world.event.payload.bytes().to_vec());
            tasks.push(tokio::spawn(async move {
                for _ in 0..count / at_once {
                    let request = Request::post(url.clone())
                        .header(CONTENT_TYPE, "application/json")
                        .body(Full::new(body.clone()))?;
                    client.request(request).await?.into_body().collect().await?;
                }
                Ok::<_, Box<dyn std::error::Error + Send + Sync>>(())
            }));
        }
        for task in tasks {
            task.await??;
        }
        Ok(())
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.stop.send_replace(true);
    }
}

/// A project with one destination, one pipeline and a server.
#[derive(Clone)]
struct World {
    catalog_writer: Arc<CatalogWriter>,
    vault: Arc<Vault>,
    outlets: Arc<dyn Outlets>,
    destination: DestinationId,
    url: Uri,
    /// As it was accepted, but for its place.
    event: Event,
    _folder: Arc<tempfile::TempDir>,
}

impl World {
    async fn new() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        tokio::spawn(serve(listener));
        let folder = Arc::new(tempfile::tempdir()?);
        let (accepted, _) = hint::channel(1);
        let options = sqlite::Options { reserve_bytes: 1 << 16, ..sqlite::Options::default() };
        let clock = Arc::new(SystemClock);
        let store =
            sqlite::SqliteStore::open(folder.path(), options, clock, Box::new(|| 7), accepted)?;
        let catalog_writer = Arc::new(CatalogWriter::open(Arc::new(store)).await?);
        let vault = Arc::new(Vault::ephemeral(Arc::new(SeededRandom::new(1))));
        let edits = edits(address, &vault)?;
        catalog_writer.edit(|_| Ok::<_, tidegate::store::StoreError>((edits, ()))).await?;
        let catalog = catalog_writer.current();
        let egress = egress::Options {
            allow_nets: vec!["127.0.0.0/8".parse()?],
            ..egress::Options::default()
        };
        let egress = Egress::new(egress, Arc::new(SystemResolver::default()))?;
        let outlets = Arc::new(Directory::new(catalog_writer.watch(), vault.clone(), egress));
        let destination = *catalog.destinations.keys().next().ok_or("no destination")?;
        let project = *catalog.projects.keys().next().ok_or("no project")?;
        let source = *catalog.sources.keys().next().ok_or("no source")?;
        let event = Event {
            seq: EventSeq(1),
            id: EventId::new(Timestamp::UNIX_EPOCH, 1, 1),
            project,
            source,
            event_type: "bench.sent".parse()?,
            timestamp: SystemClock.now(),
            received_at: SystemClock.now(),
            key: None,
            metadata: RawJson::parse(r#"{"source":"app","ip":"203.0.113.7"}"#)?,
            payload: RawJson::parse(PAYLOAD)?,
        };
        let url = format!("http://{address}/ok/0").parse()?;
        Ok(Self { catalog_writer, vault, outlets, destination, url, event, _folder: folder })
    }
}

fn edits(address: SocketAddr, vault: &Vault) -> Result<Vec<Edit>> {
    let text = format!(
        "version: 1\nproject: bench\nsources: [ {{ name: app, kind: api }} ]\ndestinations:\n  \
         - {{ name: endpoint, kind: webhook, url: \"http://{address}/ok/0\", concurrency: 64, \
         secret: whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw }}\n\
         pipelines:\n  - {{ name: all, on: [\"*\"], routes: [ {{ to: endpoint }} ] }}\n"
    );
    let (random, options) = (SeededRandom::new(2), resources::Options::default());
    let now = Timestamp::UNIX_EPOCH;
    let means = resources::Means { vault, random: &random, now, author: Author::File, options };
    let file = resources::File::read("bench.yaml", &text, &|_| None)?;
    let mut edits = resources::plan(&file, &Catalog::default(), means, false)?.edits;
    // What is verified first would wait for its test.
    for edit in &mut edits {
        if let Edit::Put(Resource::Destination(it)) = edit {
            it.state = tidegate::model::DestinationState::Active;
        }
    }
    Ok(edits)
}

/// Reads requests, and answers each as a small server does.
async fn serve(listener: TcpListener) {
    while let Ok((stream, _)) = listener.accept().await {
        drop(stream.set_nodelay(true));
        tokio::spawn(async move { drop(answer(stream).await) });
    }
}

async fn answer(mut stream: TcpStream) -> std::io::Result<()> {
    const ANSWER: &[u8] =
        b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\ndate: Sat, 21 Nov 2026 16:00:00 GMT\r\n\r\n";
    let mut buffer = vec![0; 16 * 1024];
    let mut filled = 0;
    loop {
        let read = stream.read(&mut buffer[filled..]).await?;
        if read == 0 {
            return Ok(());
        }
        filled += read;
        // Bodies here are objects, and end with `}}`; heads hold none.
        if buffer[..filled].ends_with(b"}") {
            filled = 0;
            stream.write_all(ANSWER).await?;
        }
    }
}

/// About as large as that of the load generator.
const PAYLOAD: &str = r#"{"sent_ns":1795274000000000000,"n":77,"plan":"scale","feature":"export","user":{"id":"usr_00112233445566778899aabbccddeeff","email":"person.77@example.com","country":"DE"},"page":"https://app.example.com/settings/exports?from=sidebar","trace":"00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"}"#;
