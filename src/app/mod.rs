//! Puts the stages together and takes them apart again.

pub mod folder;
pub mod rekey;
mod foundation;
mod planned;
mod router;
mod master;
mod upkeep;
mod node;
mod share_watch;
mod shares;
mod stages;
mod seen;
mod overridden;

use std::{io, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use tokio::{
    net::TcpListener,
    sync::watch,
    task::{JoinError, JoinHandle},
};

use foundation::{Foundation, ShardEvents};
use node::ClusterNode;
use stages::Stages;

pub use planned::PlannedThrough;
pub use router::GatewayRouter;

use crate::{
    api::{self, Api},
    catalog::{Catalog, CatalogWriter},
    clock::{Clock, SystemClock},
    config::Config,
    crypto::{AdminKey, KeyHasher, Random, SystemRandom, Vault, vault::LoadError},
    dashboard,
    destinations::{
        Directory,
        egress::{Egress, Resolver, SystemResolver, TlsError},
    },
    dispatch,
    enrich::CountryError,
    ingest::Keyring,
    model::{Author, Event, Message, Owed, Secret},
    resources::{self, ApplyError, Difference, File, Means},
    server,
    store::{Database, StoreError, postgres::Address},
    tail::Tail,
    telemetry::TelemetryError,
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
    pub catalog_writer: Arc<CatalogWriter>,
    pub database: Arc<dyn Database>,
    pub vault: Arc<Vault>,
    pub tail: Tail,
    pub dispatch: dispatch::Handle,
    /// Which events have their plan on disk.
    pub planned: PlannedThrough,
    parts: Parts,
    limits: resources::Options,
    stops: Stops,
    tasks: Tasks,
    node: Option<ClusterNode>,
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
    pipelines: Vec<JoinHandle<()>>,
    errands: Vec<JoinHandle<()>>,
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
    /// Never answered with a new key: what the old one sealed would be lost in silence.
    #[error(
        "the store in `{}` was used with the master key {id}, which is missing", .path.display()
    )]
    LostMasterKey { path: PathBuf, id: String },
    /// Of a folder that is older than the ids that are kept.
    #[error(
        "the store in `{}` holds resources, and there is no master key for their secrets", .path.display()
    )]
    NoMasterKey { path: PathBuf },
    #[error(
        "the store in `{}` was used with the master key {id}, and the one that was given is {given}",
        .path.display()
    )]
    WrongMasterKey { path: PathBuf, id: String, given: String },
    #[error("the secrets in {address} were sealed with a master key that this node was not given")]
    NoSharedMasterKey { address: Address },
    #[error("{} needs at least {} characters", AdminKey::VARIABLE, AdminKey::SHORTEST)]
    AdminKey,
    #[error("the store in `{}` cannot be opened", .path.display())]
    Store { path: PathBuf, source: StoreError },
    #[error("the store of `{}` was moved to {to}: what a gateway on the folder alone accepted would not be there", .path.display())]
    Moved { path: PathBuf, to: String },
    #[error("`{}` has no store and is not empty: `{found}` is not Tidegate's", .path.display())]
    NotOurs { path: PathBuf, found: String },
    #[error(
        "a node named `{name}` lives already at {address}: two of one name would do the same work twice"
    )]
    NameTaken { name: String, address: String },
    #[error("the database {address} cannot be used")]
    Database { address: Address, source: StoreError },
    #[error("the secrets in {address} were sealed with another master key than this node has")]
    OtherMasterKey { address: Address },
    #[error("this node cannot join the cluster")]
    Node(#[source] StoreError),
    #[error("a gateway on the embedded store is alone, and needs every role")]
    Roles,
    #[error("a node without a role does nothing")]
    NoRoles,
    #[error("the cluster's `lease` is too short for its `beat`")]
    Beat,
    #[error("the resources cannot be applied")]
    Resources(#[source] ApplyError),
    #[error("TLS cannot be set up")]
    Tls(#[source] TlsError),
    #[error(transparent)]
    Countries(#[from] CountryError),
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
        check(&config)?;
        let config = within_budget(config, server::budget::ConnectionBudget::of_this_process());
        let foundation = Foundation::open(&config, &parts, resources).await?;
        let (tail, stops) = (Tail::default(), Stops::new());
        let keyring = keyring(&parts, &foundation.catalog_writer, &foundation.vault)?;
        let egress = Egress::new(config.egress, parts.resolver.clone()).map_err(StartError::Tls)?;
        let (listener, address) = listen(config.listen, &egress).await?;
        let lookups = foundation.lookups(&parts, &egress, config.enrichment)?;
        let (catalog, vault) = (&foundation.catalog_writer, foundation.vault.clone());
        let destinations = Arc::new(Directory::new(catalog.watch(), vault, egress));
        warn_of_refused(&catalog.current(), &destinations);
        let stages = Stages::new(&foundation, &parts, destinations.clone(), lookups, tail.clone());
        let Foundation { metrics, vault, database, catalog_writer, logs, newcomer, seen: _ } =
            foundation;
        let given = (config.gate, config.ingest);
        let ingest = stages.ingest(&parts, &vault, keyring.clone(), config.data, given);
        let (roles, prober) = (config.cluster.roles.clone(), stages.prober(&parts));
        let place = node::join(newcomer, config.cluster, address).await?;
        let options = (config.pipeline, config.dispatch);
        let started = stages.clone().start(logs, options, prober.clone(), &stops, place.as_ref());

        let router = api::router(Api::new(api::Context {
            catalog_writer: catalog_writer.clone(),
            database: database.clone(),
            ingest: ingest.clone(),
            keyring,
            vault: vault.clone(),
            hasher: KeyHasher::of(&vault),
            clock: parts.clock.clone(),
            random: parts.random.clone(),
            prober,
            outlets: destinations,
            lookups: stages.lookups.clone(),
            tools: stages.tools.apart(),
            dispatch: started.handle.clone(),
            replayed: started.replayed,
            draining: stops.draining.subscribe(),
            place: place.as_ref().map(|it| it.1.for_the_api()),
            tail: tail.clone(),
            metrics: metrics.clone(),
            limits: config.resources,
            options: config.api.on(address),
        }))
        .merge(dashboard::router());
        let front = GatewayRouter::new(ingest.clone(), router, roles);
        let mut upkeep = stages.upkeep(metrics, config.retention).start(&stops.upkeep);
        upkeep.push(stages.count(&ingest, &stops));
        let stop = turned(stops.server.subscribe());
        let tasks = Tasks {
            upkeep,
            dispatch: started.dispatch,
            pipelines: started.pipelines,
            errands: started.errands,
            server: tokio::spawn(server::serve(listener, front, config.server, stop)),
        };
        Ok(Self {
            address,
            catalog_writer,
            database,
            vault,
            tail,
            dispatch: started.handle,
            planned: started.planned,
            parts,
            limits: config.resources,
            stops,
            tasks,
            node: place.map(|it| it.1),
        })
    }

    /// Applies a file of resources, all of it or nothing.
    pub async fn apply(&self, file: &File) -> Result<Difference, ApplyError> {
        apply(file, &self.catalog_writer, &self.vault, &self.parts, self.limits).await
    }

    /// Stops from the first stage to the last: no new requests, no new plans, no new attempts. What is
    /// under way ends and is kept; what takes longer than [`DRAIN`] is cut, and attempted again
    /// after the next start.
    pub async fn stop(self) {
        let _ = self.stops.draining.send(true);
        let _ = self.stops.server.send(true);
        ended("server", self.tasks.server.await);
        if let Some(node) = &self.node {
            node.retire();
        }
        let _ = self.stops.pipeline.send(true);
        for task in self.tasks.pipelines {
            ended("pipeline", task.await);
        }
        for task in self.tasks.errands {
            ended("errands", task.await);
        }
        let _ = self.stops.dispatch.send(true);
        tokio::select! {
            drained = tokio::time::timeout(DRAIN, self.tasks.dispatch) => match drained {
                Ok(it) => ended("dispatch", it),
                Err(_) => {
                    tracing::warn!("attempts that are still under way are cut, and made again later");
                }
            },
            () = nothing_is_kept(self.dispatch.watch(), UNKEPT) => {
                tracing::warn!("the store does not take what came of the last attempts; they are made again later");
            }
        }
        if let Some(node) = self.node {
            node.leave().await;
        }
        let _ = self.stops.upkeep.send(true);
        for task in self.tasks.upkeep {
            ended("upkeep", task.await);
        }
        self.database.close().await;
    }
}

/// Says of which destinations it is known that no delivery will be allowed.
fn warn_of_refused(catalog: &Catalog, destinations: &Directory) {
    /// More would hide the other lines of a start.
    const MOST: usize = 10;
    let warnings = catalog.destinations.values().filter_map(|it| destinations.warning(it));
    warnings.take(MOST).for_each(|it| tracing::warn!("{it}"));
}

async fn apply(
    file: &File,
    catalog_writer: &CatalogWriter,
    vault: &Vault,
    parts: &Parts,
    options: resources::Options,
) -> Result<Difference, ApplyError> {
    let (random, now) = (parts.random.as_ref(), parts.clock.now());
    let means = Means { vault, random, now, author: Author::File, options };
    let before = catalog_writer.current();
    let difference = resources::apply(file, catalog_writer, means, false).await?;
    let (changed, unchanged) = (difference.changes.len(), difference.unchanged);
    tracing::info!(changed, unchanged, "the resources are applied");
    difference.warnings.iter().for_each(|it| tracing::warn!("{it}"));
    for (name, version) in overridden::pipelines(file, &before, &difference) {
        tracing::warn!(
            pipeline = name,
            version,
            "the file overrides a version that was saved since by somebody else, a rollback perhaps: \
             change the file as well, or it is undone at each start"
        );
    }
    Ok(difference)
}

/// Ends when no attempt is under way any more, and the store has not taken what came of them for a while: its
/// disk is read-only, or its database is gone.
async fn nothing_is_kept(
    mut status: watch::Receiver<dispatch::DispatcherStatus>,
    timeout: Duration,
) {
    loop {
        // An error means that the dispatcher has ended, which is seen elsewhere.
        if status.wait_for(|it| it.in_flight == 0 && it.unsettled > 0).await.is_err() {
            return std::future::pending().await;
        }
        let moves = async {
            let before = status.borrow_and_update().unsettled;
            let _ = status.wait_for(|it| it.in_flight > 0 || it.unsettled != before).await;
        };
        if tokio::time::timeout(timeout, moves).await.is_err() {
            return;
        }
    }
}

/// How long a store that takes nothing is waited for, once the last attempt has ended.
const UNKEPT: Duration = Duration::from_secs(3);

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

/// Less where fewer files may be open than the options would take.
fn within_budget(mut config: Config, budget: server::budget::ConnectionBudget) -> Config {
    config.server.connections.get_or_insert(budget.connections);
    config.egress.idle_in_all = config.egress.idle_in_all.min(budget.kept);
    config.dispatch.in_flight = config.dispatch.in_flight.min(budget.attempts);
    config.store.idle_readers = config.store.idle_readers.min(budget.readers);
    // A proxy stands for many clients, so that it has no limit of its own.
    config.server.free_addresses.clone_from(&config.ingest.trusted_proxies);
    config
}

fn keyring(
    parts: &Parts,
    catalog_writer: &CatalogWriter,
    vault: &Vault,
) -> Result<Arc<Keyring>, StartError> {
    let random = parts.random.as_ref();
    let admin = match &parts.admin_key {
        Some(key) => Some(AdminKey::new(key, random).map_err(|_| StartError::AdminKey)?),
        None => None,
    };
    let (catalog, clock) = (catalog_writer.watch(), parts.clock.clone());
    Ok(Arc::new(Keyring::new(catalog, KeyHasher::of(vault), admin, clock, random)))
}

/// Listens, where no destination may lead from then on.
async fn listen(
    address: SocketAddr,
    egress: &Egress,
) -> Result<(TcpListener, SocketAddr), StartError> {
    let failed = |source| StartError::Listen { address, source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let local = listener.local_addr().map_err(failed)?;
    egress.protect(local);
    Ok((listener, local))
}

/// Ends when the switch is turned, or when nobody can turn it any more.
async fn turned(mut switch: watch::Receiver<bool>) {
    // An error means that the sender is gone.
    let _ = switch.wait_for(|it| *it).await;
}

fn ended(what: &'static str, task: Result<(), JoinError>) {
    if let Err(error) = task {
        tracing::error!(%error, "the {what} ended badly");
    }
}

/// What options must have in common.
fn check(config: &Config) -> Result<(), StartError> {
    for warning in &config.renamed {
        tracing::warn!("{warning}; the old name works in this version only");
    }
    let cluster = &config.cluster;
    if cluster.roles.is_empty() {
        Err(StartError::NoRoles)
    } else if config.database.is_none() && !cluster.has_all() {
        Err(StartError::Roles)
    } else if cluster.beat.is_zero() || cluster.lease < cluster.beat * 3 {
        Err(StartError::Beat)
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_store_that_takes_nothing_is_not_waited_for() {
        let status = |in_flight, unsettled| dispatch::DispatcherStatus {
            in_flight,
            unsettled,
            ..dispatch::DispatcherStatus::default()
        };
        let timeout = Duration::from_millis(40);
        let ends = async |before: dispatch::DispatcherStatus| {
            let sender = watch::Sender::new(before);
            let waiting = nothing_is_kept(sender.subscribe(), timeout);
            tokio::time::timeout(timeout * 10, waiting).await.is_ok()
        };
        assert!(ends(status(0, 7)).await, "nothing is under way, and seven outcomes are not kept");
        assert!(
            !ends(status(1, 7)).await,
            "an attempt is under way: what comes of it is waited for"
        );
        assert!(!ends(status(0, 0)).await, "everything is kept, and the dispatcher ends by itself");
        assert!(UNKEPT * 4 < DRAIN, "far sooner than attempts that hang");
    }
}
