//! Puts the stages together and takes them apart again.

mod upkeep;

use std::{
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use metrics_exporter_prometheus::PrometheusHandle;
use tokio::{net::TcpListener, sync::watch, task::JoinHandle};

use crate::{
    api::{self, Api},
    catalog::Registrar,
    clock::{Clock, SystemClock},
    config::Config,
    crypto::{AdminKey, KeyHasher, Random, SystemRandom, Vault, vault::LoadError},
    destinations::{
        Directory, Outlets,
        egress::{Egress, Resolver, SystemResolver, TlsError},
    },
    dispatch,
    gate::Gate,
    hint,
    ingest::{Ingest, Keyring},
    model::{Event, EventSeq, Message, Owed, Secret},
    pipeline,
    replay::{self, Replayed},
    resources::{self, ApplyError, Difference, File, Means},
    server,
    store::{self, Database, StoreError, sqlite::SqliteStore},
    tail::Tail,
    telemetry::{self, TelemetryError},
};

/// What the stages are given from outside, so that a test can give them something else.
pub struct Parts {
    pub clock: Arc<dyn Clock>,
    pub random: Arc<dyn Random>,
    pub resolver: Arc<dyn Resolver>,
    /// Administers everything; for automation.
    pub admin_key: Option<Secret>,
    /// Opens the secrets. Without it, `master.key` in the data folder does, and is made if it is missing.
    pub master_key: Option<Secret>,
}

impl Parts {
    /// The machine's clock, randomness and resolver, and the keys of the environment.
    pub fn of_the_machine() -> Self {
        let variable = |name| std::env::var(name).ok().filter(|it| !it.is_empty()).map(Secret::new);
        Self {
            clock: Arc::new(SystemClock),
            random: Arc::new(SystemRandom),
            resolver: Arc::new(SystemResolver::default()),
            admin_key: variable(AdminKey::VARIABLE),
            master_key: variable("TIDEGATE_MASTER_KEY"),
        }
    }
}

/// A gateway that runs. Dropped without [`App::stop`], it leaves what a crash would.
pub struct App {
    /// Where it listens.
    pub address: SocketAddr,
    pub registrar: Arc<Registrar>,
    pub database: Arc<dyn Database>,
    pub vault: Arc<Vault>,
    pub tail: Tail,
    pub dispatch: dispatch::Handle,
    /// Every event up to here has its plan on disk.
    pub planned: watch::Receiver<EventSeq>,
    parts: Parts,
    limits: resources::Options,
    stops: Stops,
    tasks: Tasks,
}

/// One switch for each layer, turned in the order in which they stop.
struct Stops {
    draining: watch::Sender<bool>,
    server: watch::Sender<bool>,
    pipeline: watch::Sender<bool>,
    dispatch: watch::Sender<bool>,
    upkeep: watch::Sender<bool>,
}

struct Tasks {
    server: JoinHandle<()>,
    pipeline: JoinHandle<()>,
    replays: JoinHandle<()>,
    dispatch: JoinHandle<()>,
    upkeep: Vec<JoinHandle<()>>,
}

/// Why the gateway does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("cannot use the data folder `{}`", .path.display())]
    Folder { path: PathBuf, source: io::Error },
    #[error("the master key cannot be used")]
    MasterKey(#[source] LoadError),
    #[error("{} needs at least {} characters", AdminKey::VARIABLE, AdminKey::SHORTEST)]
    AdminKey,
    #[error("the store in `{}` cannot be opened", .path.display())]
    Store { path: PathBuf, source: StoreError },
    #[error("the resources cannot be applied")]
    Resources(#[source] ApplyError),
    #[error("TLS cannot be set up")]
    Tls(#[source] TlsError),
    #[error("cannot listen on {address}")]
    Listen { address: SocketAddr, source: io::Error },
    #[error(transparent)]
    Telemetry(#[from] TelemetryError),
}

impl App {
    /// Opens the store, applies the resources, starts the stages from the last to the first, and then
    /// listens: no event is ever judged by the resources of the time before.
    pub async fn start(
        config: Config,
        parts: Parts,
        resources: Option<&File>,
    ) -> Result<Self, StartError> {
        let Ground { metrics, vault, database, registrar, events } =
            Ground::open(&config, &parts, resources).await?;
        let tail = Tail::default();
        let stops = Stops::new();
        let keyring = keyring(&parts, &registrar, &vault)?;
        let gate = Arc::new(Gate::new(database.clone(), config.gate));
        let clock = parts.clock.clone();
        let ingest = Ingest::new(gate, keyring.clone(), clock, tail.clone(), config.ingest);

        let egress = Egress::new(config.egress, parts.resolver.clone()).map_err(StartError::Tls)?;
        let (listener, address) = listen(config.listen).await?;
        egress.protect(address);
        let directory = Directory::new(registrar.watch(), vault.clone(), egress);
        let outlets: Arc<dyn Outlets> = Arc::new(directory);
        let stages = Stages {
            database: database.clone(),
            registrar: registrar.clone(),
            clock: parts.clock.clone(),
            outlets: outlets.clone(),
            tail: tail.clone(),
            tools: pipeline::Tools::new(&vault),
        };
        let started = stages.start(events, config.pipeline, config.dispatch, &stops);

        let router = api::router(Api::new(api::Context {
            registrar: registrar.clone(),
            database: database.clone(),
            ingest: Arc::new(ingest),
            keyring,
            vault: vault.clone(),
            hasher: KeyHasher::of(&vault),
            clock: parts.clock.clone(),
            random: parts.random.clone(),
            outlets,
            dispatch: started.handle.clone(),
            replayed: started.replayed,
            draining: stops.draining.subscribe(),
            tail: tail.clone(),
            metrics: metrics.clone(),
            limits: config.resources,
            options: config.api,
        }));
        let upkeep = upkeep::Upkeep {
            database: database.clone(),
            catalog: registrar.watch(),
            clock: parts.clock.clone(),
            metrics,
            options: config.retention,
        };
        let stopped = turned(stops.server.subscribe());
        let tasks = Tasks {
            upkeep: upkeep.start(&stops.upkeep),
            dispatch: started.dispatch,
            pipeline: started.pipeline,
            replays: started.replays,
            server: tokio::spawn(server::serve(listener, router, config.server, stopped)),
        };
        Ok(Self {
            address,
            registrar,
            database,
            vault,
            tail,
            dispatch: started.handle,
            planned: started.planned,
            parts,
            limits: config.resources,
            stops,
            tasks,
        })
    }

    /// Applies a file of resources, all of it or nothing.
    pub async fn apply(&self, file: &File) -> Result<Difference, ApplyError> {
        apply(file, &self.registrar, &self.vault, &self.parts, self.limits).await
    }

    /// Stops from the first stage to the last: no new requests, no new plans, no new attempts. What is
    /// under way ends and is kept; what takes longer than [`DRAIN`] is cut, and attempted again
    /// after the next start.
    pub async fn stop(self) {
        let _ = self.stops.draining.send(true);
        let _ = self.stops.server.send(true);
        ended("server", self.tasks.server).await;
        let _ = self.stops.pipeline.send(true);
        ended("pipeline", self.tasks.pipeline).await;
        ended("replays", self.tasks.replays).await;
        let _ = self.stops.dispatch.send(true);
        if tokio::time::timeout(DRAIN, ended("dispatch", self.tasks.dispatch)).await.is_err() {
            tracing::warn!("attempts that are still under way are cut, and made again later");
        }
        let _ = self.stops.upkeep.send(true);
        for task in self.tasks.upkeep {
            ended("upkeep", task).await;
        }
        self.database.close().await;
    }
}

async fn apply(
    file: &File,
    registrar: &Registrar,
    vault: &Vault,
    parts: &Parts,
    options: resources::Options,
) -> Result<Difference, ApplyError> {
    let means = Means { vault, random: parts.random.as_ref(), now: parts.clock.now(), options };
    let difference = resources::apply(file, registrar, means, false).await?;
    let (changed, unchanged) = (difference.changes.len(), difference.unchanged);
    tracing::info!(changed, unchanged, "the resources are applied");
    Ok(difference)
}

/// How long attempts that are under way may take to end after a stop.
pub const DRAIN: Duration = Duration::from_secs(15);

/// Hints that wait between two stages. They are bounded by their bytes, too.
const HINTS: usize = 1024;
const HINTED_BYTES: usize = 16 << 20;

#[allow(clippy::ptr_arg, reason = "the queue weighs what it holds, which is a `Vec`")]
fn weigh_events(events: &Vec<Arc<Event>>) -> usize {
    events.iter().map(|it| it.weight()).sum()
}

#[allow(clippy::ptr_arg, reason = "the queue weighs what it holds, which is a `Vec`")]
fn weigh_deliveries(deliveries: &Vec<(Owed, Message)>) -> usize {
    deliveries.iter().map(|(_, message)| message.weight()).sum()
}

impl Stops {
    fn new() -> Self {
        let switch = || watch::Sender::new(false);
        Self {
            draining: switch(),
            server: switch(),
            pipeline: switch(),
            dispatch: switch(),
            upkeep: switch(),
        }
    }
}

/// Tells the dispatcher to read from the store what a replay has made.
fn replayed(dispatch: dispatch::Handle) -> Replayed {
    Arc::new(move |owed| {
        let mut lost = dispatch::Lost::default();
        for it in owed {
            lost.note(it);
        }
        let dispatch = dispatch.clone();
        tokio::spawn(async move { dispatch.spilled(lost).await });
    })
}

/// What all stages stand on.
struct Ground {
    metrics: PrometheusHandle,
    vault: Arc<Vault>,
    database: Arc<dyn Database>,
    registrar: Arc<Registrar>,
    /// Events as they are accepted, for the pipelines.
    events: hint::Receiver<Vec<Arc<Event>>, bool>,
}

impl Ground {
    async fn open(
        config: &Config,
        parts: &Parts,
        resources: Option<&File>,
    ) -> Result<Self, StartError> {
        let metrics = telemetry::start_metrics()?;
        let vault = open_vault(&config.data, parts)?;
        let (accepted, events) = hint::weighed_channel(HINTS, HINTED_BYTES, weigh_events);
        let database = open_store(config, parts, accepted).await?;
        let registrar = Registrar::open(database.clone()).await;
        let registrar = Arc::new(registrar.map_err(|source| at(&config.data, source))?);
        if let Some(file) = resources {
            apply(file, &registrar, &vault, parts, config.resources)
                .await
                .map_err(StartError::Resources)?;
        }
        Ok(Self { metrics, vault, database, registrar, events })
    }
}

/// What the stages behind the store share.
struct Stages {
    database: Arc<dyn Database>,
    registrar: Arc<Registrar>,
    clock: Arc<dyn Clock>,
    outlets: Arc<dyn Outlets>,
    tail: Tail,
    tools: pipeline::Tools,
}

/// The stages behind the store, under way.
struct Started {
    pipeline: JoinHandle<()>,
    replays: JoinHandle<()>,
    dispatch: JoinHandle<()>,
    handle: dispatch::Handle,
    replayed: Replayed,
    planned: watch::Receiver<EventSeq>,
}

impl Stages {
    fn start(
        self,
        events: hint::Receiver<Vec<Arc<Event>>, bool>,
        pipeline: pipeline::Options,
        dispatch: dispatch::Options,
        stops: &Stops,
    ) -> Started {
        let (hinted, deliveries) = hint::weighed_channel(HINTS, HINTED_BYTES, weigh_deliveries);
        let (dispatcher, handle) = dispatch::runner(dispatch::Parts {
            store: self.database.clone(),
            clock: self.clock.clone(),
            registrar: self.registrar.clone(),
            outlets: self.outlets,
            hints: deliveries,
            tail: self.tail,
            stop: stops.dispatch.subscribe(),
            options: dispatch,
        });
        let replayed = replayed(handle.clone());
        let replays = replay::run(replay::Parts {
            database: self.database.clone(),
            registrar: self.registrar.clone(),
            clock: self.clock.clone(),
            replayed: replayed.clone(),
            stop: stops.pipeline.subscribe(),
        });
        let (runner, planned) = pipeline::runner(pipeline::Parts {
            store: self.database,
            clock: self.clock,
            catalog: self.registrar.watch(),
            events,
            deliveries: hinted,
            stop: stops.pipeline.subscribe(),
            tools: self.tools,
            options: pipeline,
        });
        Started {
            pipeline: tokio::spawn(runner.run()),
            replays: tokio::spawn(replays),
            dispatch: tokio::spawn(dispatcher.run()),
            handle,
            replayed,
            planned,
        }
    }
}

fn keyring(
    parts: &Parts,
    registrar: &Registrar,
    vault: &Vault,
) -> Result<Arc<Keyring>, StartError> {
    let random = parts.random.as_ref();
    let admin = match &parts.admin_key {
        Some(key) => Some(AdminKey::new(key, random).map_err(|_| StartError::AdminKey)?),
        None => None,
    };
    let (catalog, clock) = (registrar.watch(), parts.clock.clone());
    Ok(Arc::new(Keyring::new(catalog, KeyHasher::of(vault), admin, clock, random)))
}

fn open_vault(data: &Path, parts: &Parts) -> Result<Arc<Vault>, StartError> {
    let failed = |source| StartError::Folder { path: data.to_owned(), source };
    fs::create_dir_all(data).map_err(failed)?;
    let file = data.join("master.key");
    let vault = Vault::load_or_create(&file, parts.master_key.as_ref(), parts.random.clone());
    vault.map(Arc::new).map_err(StartError::MasterKey)
}

async fn open_store(
    config: &Config,
    parts: &Parts,
    accepted: hint::Sender<Vec<Arc<Event>>, bool>,
) -> Result<Arc<dyn Database>, StartError> {
    let (path, options) = (config.data.clone(), config.store.clone());
    let (clock, random) = (parts.clock.clone(), parts.random.clone());
    let open = move || {
        let random: store::sqlite::Random = Box::new(move || random.u64());
        SqliteStore::open(&path, options, clock, random, accepted)
    };
    let opened = tokio::task::spawn_blocking(open).await.unwrap_or(Err(StoreError::Closed));
    Ok(Arc::new(opened.map_err(|source| at(&config.data, source))?))
}

fn at(path: &Path, source: StoreError) -> StartError {
    StartError::Store { path: path.to_owned(), source }
}

async fn listen(address: SocketAddr) -> Result<(TcpListener, SocketAddr), StartError> {
    let failed = |source| StartError::Listen { address, source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let local = listener.local_addr().map_err(failed)?;
    Ok((listener, local))
}

/// Ends when the switch is turned, or when nobody can turn it any more.
async fn turned(mut switch: watch::Receiver<bool>) {
    // An error means that the sender is gone.
    let _ = switch.wait_for(|it| *it).await;
}

async fn ended(what: &'static str, task: JoinHandle<()>) {
    if let Err(error) = task.await {
        tracing::error!(%error, "the {what} ended badly");
    }
}
