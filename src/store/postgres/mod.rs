//! The store of many nodes: PostgreSQL, 14 or newer.
//!
//! It keeps the promises of the embedded store, and passes the same contract suite. Any node may
//! accept events; all other work on a shard needs its lease. docs/adr/0018 to 0029 say why.
//!
//! # Layout
//!
//! A project's hash gives its shard. A shard is a log: its events have dense sequence numbers,
//! `shard << 40 | number`. A delivery's is its event's, `<< 11 | ordinal`.
//!
//! | table | what it holds |
//! |---|---|
//! | `logs` | of each shard: the last sequence number, and up to where partitions exist |
//! | `plans` | of each shard: the high-water mark of planned events |
//! | `events`, `deliveries`, `activity`, `skipped` | events and rows about them: partitions |
//! | `open` | the pending deliveries, in the order (destination, lane, position, seq) |
//! | `waiting` | events whose plan has a pending look-up |
//! | `gate` | idempotency keys, for ever: keyed hash, first event; 16 hash partitions |
//! | `memories`, `tallies`, `minutes` | step memory; counters of pipelines and destinations |
//! | `documents`, `resources`, `entities` | the resources and their revision; the directory |
//! | `nodes`, `leases`, `orders` | membership; who works for a shard, in which epoch; commands |
//! | `meta`, `schema_versions`, `replays` | settings; the schema; progress of replays |
//!
//! The columns are described in `migrations/`. A version of the schema only adds, so that nodes of
//! two versions work on one database (`migrate.rs`, under an advisory lock).
//!
//! # Write path
//!
//! Calls wait in a batcher (`batch_queue.rs`), bounded by bytes; those that wait at the same time share a
//! transaction (group commit) of two round trips. `synchronous_commit` is on, so a commit that is
//! answered is fsynced by the server. A commit whose answer is lost counts as failed; the sender
//! posts again with its key.
//!
//! - **Accept** (`append.rs`): lock the rows of the shards in `logs` until the commit, look up the
//!   keys, insert the events under the next numbers. Numbers become visible in their order, so a
//!   reader behind a number never misses one that is committed later; and a key is looked up and
//!   inserted without a race. Missing partitions are made first, under an advisory lock, and
//!   attached, which does not wait for readers. Then the pipeline gets a hint, or its node a
//!   notification.
//! - **Plan** (`plan.rs`): check the leases, lock the row in `plans`, insert deliveries, pending
//!   deliveries, reasons and step memory, move the high-water mark.
//! - **Settle** (`settle.rs`): check the leases; one statement ends or moves pending deliveries and
//!   writes the activity log of those that were still pending.
//!
//! Counters by minute are inserted, not updated, so that no commit waits for another; readers add
//! them up, and retention folds them (`minutes.rs`).
//!
//! # Shards and leases
//!
//! `leases` says which node does which work of a shard, and in which epoch. The epoch grows each
//! time a lease changes hands: it is the fencing token. Each transaction that writes for a shard
//! (plan, settle, replay, erase, prune) begins with `check_leases`. It locks these rows
//! `FOR SHARE`, and fails with `TG001` where the epoch is another: a node that froze can write
//! nothing.
//!
//! A lease lasts as long as its node, and a node lives while it writes its row in `nodes` once a
//! second (`members.rs`). All times are the database's. `src/cluster/` decides who claims what.
//!
//! Nodes notify each other by LISTEN/NOTIFY (`notifier.rs`): a shard has events, a destination has
//! pending deliveries, resources changed, there are commands. Notifications are sent behind the
//! commit, since commits that notify take turns in the server. They are hints: a lost one is made
//! up for by the next beat. Commands for the owner of a destination are rows in `orders`.
//!
//! # Read path
//!
//! Each shard has a pipeline loop, which sees its log (`log.rs`) as it would see the embedded
//! store. Pending deliveries are read from `open` by its key, from the head-of-line delivery of
//! each lane on, or by `due`, whose index has only those that failed. Backlogs up to 10,000 are
//! counted; above that they are estimated from the counters: planned minus ended (`backlog.rs`).
//! Lists (`records/`) name a project and so a shard; they run along primary keys from new to old.
//!
//! Hash joins, merge joins and sequential scans are switched off: fresh partitions have no
//! statistics, and the query planner would guess wrong. A statement must not join two lists by
//! anything but an index.
//!
//! # Recovery and failover
//!
//! A node that starts has nothing to replay: the tables are the truth. It claims leases, and for
//! each shard reads step memory, pending look-ups and unplanned events (`unplanned.rs`).
//!
//! When the database is gone, one task looks for it and everybody else fails at once
//! (`connect.rs`). A call without an answer for 3 s asks over a session of its own whether the
//! server is there (`session.rs`), so a server that hangs is distinguished from a slow one. A server that
//! turned read-only is left, with all sessions to it; of several servers the one that takes writes
//! is found by `target_session_attrs`. A promotion loses nothing only from a synchronous standby.
//!
//! # Deletion
//!
//! Retention (`prune.rs`) drops a partition of all four tables at once when no event in it must
//! stay: one with a pending delivery or without a whole plan does. A partition of which 30 % or
//! more may go loses those events in steps of 2,000. Keys in `gate` stay. Erasing a person
//! (`erase.rs`) overwrites bodies in place; `digest = 0` keeps them from being sent or replayed.
//!
//! # Import
//!
//! `intake/` takes in an embedded store under its ids, in batches with a mark in the same
//! transaction, under an advisory lock. A database that is not whole yet is refused by gateways.

mod values;
mod error;
mod tls;
mod notifier;
mod address;
mod connect;
mod session;
mod migrate;
mod leases;
mod members;
mod orders;
mod batch_queue;
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
    log::ShardLog,
};
use self::{
    append::{Accept, Accepted},
    batch_queue::{BatchQueue, lane},
    core::Core,
};
pub use super::Duty;
use super::{
    Appended, Backlog, Health, OwedQuery, ReceivedMessage, Recording, Refusal, ReplayStep, Result,
    Settlement, Store, StoreError, WaitingEvent,
};
use crate::{
    clock::Clock,
    hint,
    model::{DeliverySeq, Event, EventSeq, Message, Owed, Plan, ProjectId, Remembered},
};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// Shards of a database that is made again; one that is there keeps its own. More of them can be
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
pub struct NodeIdentity {
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
pub type RandomSource = Box<dyn FnMut() -> u64 + Send>;

/// The hints of one shard's events, in accept order.
pub type Accepts = hint::Sender<Vec<Arc<Event>>, bool>;

/// A node's hold on the database. Dropped without [`Store::close`], it leaves what a crash would.
pub struct PostgresStore {
    core: Arc<Core>,
    appends: Vec<BatchQueue<Accept, Accepted>>,
    plans: Vec<BatchQueue<Vec<Plan>, Vec<Owed>>>,
    settles: BatchQueue<Vec<Settlement>, ()>,
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
        node: NodeIdentity,
        clock: Arc<dyn Clock>,
        random: RandomSource,
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

    pub fn node(&self) -> &NodeIdentity {
        &self.core.node
    }

    /// The part of the store that the pipeline of one shard works with.
    pub fn log(self: &Arc<Self>, shard: u16) -> ShardLog {
        ShardLog::new(self.clone(), shard)
    }

    /// What the other nodes tell, until nobody listens any more. Who listens also tells.
    pub fn listen(&self) -> mpsc::Receiver<ReceivedMessage> {
        const HEARD: usize = 256;
        let (sender, heard) = mpsc::channel(HEARD);
        tokio::spawn(notifier::run(self.core.clone(), sender));
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

    async fn waiting(&self, after: EventSeq, limit: usize) -> Result<Vec<WaitingEvent>> {
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
        self.appends.iter().for_each(BatchQueue::close);
        self.plans.iter().for_each(BatchQueue::close);
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
