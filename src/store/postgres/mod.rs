//! The store of many nodes: PostgreSQL, 14 or newer.
//!
//! Events are divided into [shards](values) by their project; each shard is a log with dense places,
//! given under a lock on its row that is held until the commit, so that they become visible in their
//! order. A few [writers](lane) commit what has queued, many calls at a time. What a node does for a
//! shard is fenced by its [leases]. Rows about events are in [partitions](make_room) that are
//! dropped whole; only what is owed is ever deleted row by row.

mod values;
mod error;
mod tls;
mod bell;
mod address;
mod connect;
mod session;
mod migrate;
mod leases;
mod members;
mod orders;
mod lane;
mod core;
mod append;
mod gate;
mod plan;
mod settle;
mod rows;
mod memories;
mod minutes;
mod owed;
mod backlog;
mod unplanned;
mod replay;
mod registry;
mod directory;
mod erase;
mod prune;
mod log;
pub mod intake;
mod records;

use std::sync::{Arc, Mutex, MutexGuard};

use async_trait::async_trait;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::{sync::mpsc, task::JoinHandle};

pub use self::{
    address::{Address, NoAddress},
    leases::Leases,
    log::Log,
};
use self::{
    append::{Accept, Accepted},
    core::Core,
    lane::{Lane, lane},
};
pub use super::Duty;
use super::{
    Appended, Backlog, Health, Heard, OwedQuery, Recording, Refusal, ReplayStep, Result,
    Settlement, Store, StoreError, Waiting,
};
use crate::{
    clock::Clock,
    hint,
    model::{DeliverySeq, Event, EventSeq, Message, Owed, Plan, ProjectId, Remembered},
};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// Shards of a database that is made anew; one that is there keeps its own. More of them can be
    /// divided among more nodes.
    pub shards: u16,
    /// Connections that accept events, and as many that keep plans.
    pub writers: usize,
    /// Connections that read.
    pub readers: usize,
    /// Events of one shard in one partition. Retention drops whole partitions.
    pub partition_events: u64,
    /// Bytes of events that may wait for a writer; more make callers wait.
    pub waiting_event_bytes: usize,
    /// Bytes of plans and outcomes that may wait for a writer.
    pub waiting_work_bytes: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            shards: 16,
            writers: 2,
            readers: 6,
            partition_events: 1_000_000,
            waiting_event_bytes: 48 << 20,
            waiting_work_bytes: 32 << 20,
        }
    }
}

/// Who this process is among the nodes.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// Of this process: another one after a restart.
    pub id: u128,
    /// For people.
    pub name: String,
    pub roles: Vec<String>,
    /// Where other nodes reach it.
    pub address: Option<String>,
    /// It must be alone: it takes every lease when it starts, and whoever held one is fenced. Others
    /// claim what nobody holds, see [`PostgresStore::beat`].
    pub is_alone: bool,
}

/// Where ids get what nobody can guess.
pub type Random = Box<dyn FnMut() -> u64 + Send>;

/// The hints of one shard's events, in accept order.
pub type Accepts = hint::Sender<Vec<Arc<Event>>, bool>;

/// A node's hold on the database. Dropped without [`Store::close`], it leaves what a crash would.
pub struct PostgresStore {
    core: Arc<Core>,
    appends: Vec<Lane<Accept, Accepted>>,
    plans: Vec<Lane<Vec<Plan>, Vec<Owed>>>,
    settles: Lane<Vec<Settlement>, ()>,
    writers: Mutex<Vec<JoinHandle<()>>>,
}

impl PostgresStore {
    /// Connects, brings the schema up to date, and makes this node known.
    ///
    /// `accepts` is asked once for each shard, from the first on: it gets the events of that shard
    /// that this node accepts.
    pub async fn open(
        address: &Address,
        options: Options,
        node: Node,
        clock: Arc<dyn Clock>,
        random: Random,
        mut accepts: impl FnMut(u16) -> Accepts,
    ) -> Result<Self> {
        let core = Core::open(address, &options, node, clock, random).await?;
        let hints: Arc<[Accepts]> = (0..core.shards).map(&mut accepts).collect();
        let core = Arc::new(core);
        let mut writers = Vec::new();
        let count = options.writers.clamp(1, usize::from(core.shards));
        let (event_bytes, work_bytes) =
            (options.waiting_event_bytes / count, options.waiting_work_bytes / (count + 1));
        let mut appends = Vec::new();
        let mut plans = Vec::new();
        for _ in 0..count {
            let (accepting, queue) = lane(event_bytes);
            appends.push(accepting);
            writers.push(tokio::spawn(append::run(core.clone(), hints.clone(), queue)));
            let (planning, queue) = lane(work_bytes);
            plans.push(planning);
            writers.push(tokio::spawn(plan::run(core.clone(), queue)));
        }
        let (settles, queue) = lane(work_bytes);
        writers.push(tokio::spawn(settle::run(core.clone(), queue)));
        Ok(Self { core, appends, plans, settles, writers: Mutex::new(writers) })
    }

    /// How many shards the database has.
    pub fn shards(&self) -> u16 {
        self.core.shards
    }

    /// What this node may work on. Whoever acquires and renews leases says so here.
    pub fn leases(&self) -> &Leases {
        &self.core.leases
    }

    pub fn node(&self) -> &Node {
        &self.core.node
    }

    /// The part of the store that the pipeline of one shard works with.
    pub fn log(self: &Arc<Self>, shard: u16) -> Log {
        Log::new(self.clone(), shard)
    }

    /// What the other nodes tell, until nobody listens any more. Who listens also tells.
    pub fn listen(&self) -> mpsc::Receiver<Heard> {
        const HEARD: usize = 256;
        let (sender, heard) = mpsc::channel(HEARD);
        tokio::spawn(bell::run(self.core.clone(), sender));
        heard
    }

    fn writer_of(&self, shard: u16) -> usize {
        usize::from(shard) % self.appends.len()
    }

    /// Returns when everything is written that was asked before.
    async fn flush(&self) -> Result<()> {
        for plans in &self.plans {
            plans.flush().await?;
        }
        self.settles.flush().await
    }

    /// Accepts events, and where one was sent already also what came of it.
    async fn accept(&self, accept: Accept) -> Result<Accepted> {
        self.core.check_open()?;
        let Some(first) = accept.offered.first() else {
            return Ok(Accepted::default());
        };
        let lane = &self.appends[self.writer_of(first.shard)];
        let weight = accept.offered.iter().map(|it| it.event.weight()).sum();
        lane.call(accept, weight).await
    }
}

impl Drop for PostgresStore {
    fn drop(&mut self) {
        for writer in lock(&self.writers).drain(..) {
            writer.abort();
        }
    }
}

#[async_trait]
impl Store for PostgresStore {
    async fn append(&self, events: Vec<crate::model::NewEvent>) -> Result<Vec<Appended>> {
        let offered = events.into_iter().map(|it| self.core.offer(it)).collect();
        Ok(self.accept(Accept { offered, recorded: None }).await?.answers)
    }

    async fn unplanned(&self, after: EventSeq, limit: usize) -> Result<Vec<Arc<Event>>> {
        unplanned::events(&self.core, values::shard_of(after), after, limit).await
    }

    async fn plan(&self, plans: Vec<Plan>) -> Result<Vec<Owed>> {
        self.core.check_open()?;
        let Some(first) = plans.first() else { return Ok(Vec::new()) };
        let lane = &self.plans[self.writer_of(values::shard_of(first.event.seq))];
        let weight = plan::weight(&plans);
        lane.call(plans, weight).await
    }

    async fn waiting(&self, after: EventSeq, limit: usize) -> Result<Vec<Waiting>> {
        unplanned::waiting(&self.core, values::shard_of(after), after, limit).await
    }

    async fn memories(&self) -> Result<Vec<Remembered>> {
        self.flush().await?;
        memories::all(&self.core, None).await
    }

    /// For the first shard, since nobody says for which: those who plan have a [`Log`] each.
    async fn remember(&self, changes: Vec<Remembered>) -> Result<()> {
        self.flush().await?;
        memories::change(&self.core, 0, &changes).await
    }

    async fn record(&self, recording: Recording) -> Result<Arc<Event>> {
        let Recording { event, destination, entries } = recording;
        if event.id.is_none() {
            return Err(error::unavailable("an event that was sent has an id"));
        }
        let recorded = Some(append::Recorded { destination, entries });
        let offered = vec![self.core.offer(event)];
        let accepted = self.accept(Accept { offered, recorded }).await?;
        match accepted.answers.into_iter().next() {
            Some(Appended::New(event)) => Ok(event),
            Some(Appended::Duplicate { .. }) => match accepted.firsts.first() {
                Some(seq) => unplanned::event(&self.core, *seq).await,
                None => Err(StoreError::Damaged { what: "event that was recorded" }),
            },
            None => Err(StoreError::Closed),
        }
    }

    async fn settle(&self, settlements: Vec<Settlement>) -> Result<()> {
        const WEIGHT: usize = 512;
        self.core.check_open()?;
        if settlements.is_empty() {
            return Ok(());
        }
        let weight = settlements.len() * WEIGHT;
        self.settles.call(settlements, weight).await
    }

    async fn owed(&self, query: OwedQuery) -> Result<Vec<Owed>> {
        self.core.check_open()?;
        self.flush().await?;
        owed::owed(&self.core, query).await
    }

    async fn backlog(&self) -> Result<Vec<Backlog>> {
        self.core.check_open()?;
        self.flush().await?;
        backlog::backlog(&self.core).await
    }

    async fn messages(&self, deliveries: &[DeliverySeq]) -> Result<Vec<Message>> {
        owed::messages(&self.core, deliveries).await
    }

    async fn replay(&self, step: ReplayStep) -> Result<Vec<Owed>> {
        replay::replay(&self.core, step).await
    }

    async fn prune(&self, horizons: &[(ProjectId, Timestamp)]) -> Result<u64> {
        prune::prune(&self.core, horizons).await
    }

    fn health(&self) -> Health {
        let refuses = match (self.core.is_full(), self.core.connector.is_gone()) {
            (true, _) => Some(Refusal::DiskFull),
            (false, true) => Some(Refusal::Unreachable),
            (false, false) => None,
        };
        Health { refuses }
    }

    async fn close(&self) {
        self.core.close();
        self.appends.iter().for_each(Lane::close);
        self.plans.iter().for_each(Lane::close);
        self.settles.close();
        let writers = std::mem::take(&mut *lock(&self.writers));
        for writer in writers {
            // A panic there was already reported.
            let _ = writer.await;
        }
        self.core.pool.close();
    }
}

/// Whoever panicked with the lock left nothing half-done behind it that matters here.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}
