//! The destinations of this node, where several share them: those of the shares that it holds.
//!
//! One loop delivers to all of them, and what it owns changes while it runs. So the bounds over all
//! destinations stay what an operator set, however shares move; and a destination's lanes, limits and
//! breaker are in one place, since its share is.
//!
//! When a share comes, the store is asked who is owed something in it, and only then it is begun.
//! When one goes, nothing more is begun; what is in flight ends, and is kept if the share is still
//! ours by then. Otherwise the store refuses it, and the new owner makes that attempt once more.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use tokio::sync::watch;

use super::{Runner, Spilled, SpilledRange, executor::Completion, input::Input, later};
use crate::{
    catalog::CatalogWriter,
    clock::Clock,
    model::{DeliverySeq, DestinationId, Owed},
    store::{
        ClusterCommand, Duty, Epoch, LeaseSet, NodeMessage, Share, Store as _, StoreError,
        WorkedShares, postgres::PostgresStore,
    },
};

/// How long what is in flight may hold up that a share is given back.
const TIMEOUT: Duration = Duration::from_secs(5);

/// What the loop is given where several nodes share the work.
pub struct Shares {
    pub store: Arc<PostgresStore>,
    /// What this node holds.
    pub holding: watch::Receiver<LeaseSet>,
    /// Where it says what it works on.
    pub working: WorkedShares,
}

/// The shares of this loop.
pub struct Owned {
    parts: Shares,
    held: BTreeMap<u16, State>,
    /// Shares that go, with their destinations and until when these may take.
    leaving: BTreeMap<u16, (HashSet<DestinationId>, Instant)>,
}

struct State {
    epoch: Epoch,
    /// What was heard of its destinations while it is not known who is owed something.
    learning: Option<Spilled>,
}

/// Who is owed something in shares that came. `None`: the store is closed.
pub struct OwedShares {
    shares: Vec<(u16, Epoch)>,
    owed: Option<Vec<DestinationId>>,
}

impl Owned {
    pub fn new(parts: Shares) -> Self {
        Self { parts, held: BTreeMap::new(), leaving: BTreeMap::new() }
    }

    fn shard(&self, destination: DestinationId) -> u16 {
        self.parts.store.shard_of_destination(destination)
    }

    /// Whether it is delivered to.
    pub fn has(&self, destination: DestinationId) -> bool {
        self.held.get(&self.shard(destination)).is_some_and(|it| it.learning.is_none())
    }

    /// Ends when what this node holds has changed, or is still the same and was renewed.
    pub async fn changed(&mut self) {
        if self.parts.holding.changed().await.is_err() {
            std::future::pending().await
        }
    }

    /// Tells other nodes of what is theirs.
    fn tell(&self, lost: &Spilled) {
        if !lost.0.is_empty() {
            self.parts.store.tell(NodeMessage::Owed(lost.to_tell()));
        }
    }

    /// Notes what was missed of a share that is being learned. `false`: it is no such share.
    fn note(&mut self, destination: DestinationId, missed: SpilledRange) -> bool {
        let shard = self.shard(destination);
        let learning = self.held.get_mut(&shard).and_then(|it| it.learning.as_mut());
        learning.map(|it| it.miss(destination, missed)).is_some()
    }
}

impl Runner {
    /// Whether this node delivers to it. One that is alone delivers to all.
    pub(super) fn owns(&self, destination: DestinationId) -> bool {
        self.owned.as_ref().is_none_or(|it| it.has(destination))
    }

    /// Takes over what this node holds now.
    fn learn_shares(&mut self, now: Timestamp) {
        let Some(owned) = &mut self.owned else { return };
        let holding = owned.parts.holding.borrow_and_update().clone();
        self.executor.be_sure_until(holding.sure_until);
        let ours = |(share, epoch): (&Share, &Epoch)| {
            (share.duty == Duty::Dispatch).then_some((share.shard, *epoch))
        };
        let wanted: BTreeMap<u16, Epoch> = holding.shares.iter().filter_map(ours).collect();
        let is_stopping = self.is_stopping;
        let lost: Vec<u16> = owned
            .held
            .iter()
            .filter(|(shard, it)| is_stopping || wanted.get(shard) != Some(&it.epoch))
            .map(|(shard, _)| *shard)
            .collect();
        self.leave(&lost, now);
        self.end_what_is_quiet();
        let Some(owned) = &mut self.owned else { return };
        let mut gained = Vec::new();
        for (shard, epoch) in wanted {
            let is_free = !owned.held.contains_key(&shard) && !owned.leaving.contains_key(&shard);
            if is_free && !is_stopping {
                let learning = Some(Spilled::default());
                owned.held.insert(shard, State { epoch, learning });
                owned.parts.working.begin(Share { duty: Duty::Dispatch, shard }, epoch);
                gained.push((shard, epoch));
            }
        }
        if !gained.is_empty() {
            let (store, catalog_writer) =
                (owned.parts.store.clone(), self.executor.catalog_writer());
            let (clock, pause) = (self.clock.clone(), self.retry_store_after);
            let reports = self.executor.reports();
            tokio::spawn(async move {
                let learned = learn(&store, &catalog_writer, clock.as_ref(), pause, gained).await;
                let _ = reports.send(Completion::Learned(learned));
            });
        }
    }

    /// For others: whether this node holds the share of a destination.
    pub(super) fn ownership(&self) -> impl Fn(DestinationId) -> bool + Send + use<> {
        let parts =
            self.owned.as_ref().map(|it| (it.parts.store.clone(), it.parts.holding.clone()));
        move |destination| {
            parts.as_ref().is_none_or(|(store, holding)| {
                let shard = store.shard_of_destination(destination);
                holding.borrow().shares.contains_key(&Share { duty: Duty::Dispatch, shard })
            })
        }
    }

    /// Takes over how long this node is sure of what it holds, and starts what has waited for that.
    pub(super) fn shares_changed(&mut self, now: Timestamp) {
        let was_unsure = self.executor.is_unsure();
        self.learn_shares(now);
        if was_unsure {
            self.step(now, Input::Tick);
        }
    }

    /// Works on nothing any more.
    pub(super) fn end_shares(&mut self) {
        let Some(owned) = &mut self.owned else { return };
        let held = std::mem::take(&mut owned.held).into_keys();
        let leaving = std::mem::take(&mut owned.leaving).into_keys();
        for shard in held.chain(leaving) {
            owned.parts.working.end(Share { duty: Duty::Dispatch, shard });
        }
    }

    /// Begins nothing more in these shares.
    fn leave(&mut self, shards: &[u16], now: Timestamp) {
        let Some(owned) = &mut self.owned else { return };
        if shards.is_empty() {
            return;
        }
        let mut all: BTreeMap<u16, HashSet<DestinationId>> =
            shards.iter().map(|it| (*it, HashSet::new())).collect();
        for destination in self.scheduler.destinations() {
            if let Some(of_shard) = all.get_mut(&owned.shard(destination)) {
                of_shard.insert(destination);
            }
        }
        let left: Vec<DestinationId> = all.values().flatten().copied().collect();
        let until = Instant::now() + TIMEOUT;
        for (shard, destinations) in all {
            owned.held.remove(&shard);
            owned.leaving.insert(shard, (destinations, until));
        }
        let Some(owned) = &self.owned else { return };
        self.destinations.retain(|it, _| !shards.contains(&owned.shard(*it)));
        self.executor.leave(&left);
        // First, so that nothing that is given back begins again.
        self.step(now, Input::Left(left));
        self.give_back(now);
    }

    /// Shares that go have gone when nothing of them is in flight.
    pub(super) fn end_what_is_quiet(&mut self) {
        let Some(owned) = &mut self.owned else { return };
        let (scheduler, working) = (&self.scheduler, &owned.parts.working);
        owned.leaving.retain(|shard, (destinations, until)| {
            destinations.retain(|it| !scheduler.is_quiet(*it));
            let is_over = destinations.is_empty() || Instant::now() >= *until;
            if is_over {
                working.end(Share { duty: Duty::Dispatch, shard: *shard });
            }
            !is_over
        });
    }

    /// Begins the shares of which it is known now who is owed something.
    pub(super) fn learned(&mut self, learned: OwedShares, now: Timestamp) {
        let Some(owned) = &mut self.owned else { return };
        let Some(owed) = learned.owed else {
            self.is_over = true;
            return;
        };
        let mut heard = Spilled::default();
        let mut fresh = Vec::new();
        for (shard, epoch) in learned.shares {
            let state = owned.held.get_mut(&shard).filter(|it| it.epoch == epoch);
            if let Some(lost) = state.and_then(|it| it.learning.take()) {
                heard.0.extend(lost.0);
                fresh.push(shard);
            }
        }
        let owned = &*owned;
        let is_fresh = |it: &DestinationId| fresh.contains(&owned.shard(*it));
        let owed: Vec<DestinationId> = owed.into_iter().filter(is_fresh).collect();
        let back: Vec<DestinationId> = self.scheduler.destinations().filter(is_fresh).collect();
        for destination in &back {
            self.executor.come_back(*destination);
        }
        self.step(now, Input::Back(back));
        self.learn_catalog();
        self.step(now, Input::Backlog(owed));
        self.miss(heard, now);
    }

    /// The store owes more than was said. What is not this node's is announced to the others; what nobody
    /// knows yet is looked up in the resources first: a destination that is not among them is deleted.
    pub(super) fn miss(&mut self, lost: Spilled, now: Timestamp) {
        let Some(owned) = &mut self.owned else { return self.step(now, Input::Spilled(lost)) };
        let (mut ours, mut theirs, mut unknown) =
            (Spilled::default(), Spilled::default(), Spilled::default());
        for (destination, missed) in lost.0 {
            if self.destinations.contains_key(&destination) {
                ours.miss(destination, missed);
            } else if owned.has(destination) {
                unknown.miss(destination, missed);
            } else if !owned.note(destination, missed) {
                theirs.miss(destination, missed);
            }
        }
        owned.tell(&theirs);
        self.step(now, Input::Spilled(ours));
        self.refresh(unknown);
    }

    /// What another node has said is owed. What is not this node's, others have heard, too.
    pub(super) fn hear(&mut self, mut lost: Spilled, now: Timestamp) {
        if let Some(owned) = &self.owned {
            lost.0.retain(|it, _| owned.held.contains_key(&owned.shard(*it)));
        }
        self.miss(lost, now);
    }

    /// Looks up destinations that are not known.
    fn refresh(&mut self, unknown: Spilled) {
        if unknown.0.is_empty() {
            return;
        }
        let (catalog_writer, reports) = (self.executor.catalog_writer(), self.executor.reports());
        let (clock, pause) = (self.clock.clone(), self.retry_store_after);
        tokio::spawn(async move {
            refreshed(&catalog_writer, clock.as_ref(), pause).await;
            let _ = reports.send(Completion::Refreshed(unknown));
        });
    }

    /// The resources are as new as what was said: who is not among them now is deleted.
    pub(super) fn refreshed(&mut self, unknown: Spilled, now: Timestamp) {
        self.learn_catalog_if_changed();
        let (mut ours, mut others) = (Spilled::default(), Spilled::default());
        for (destination, missed) in unknown.0 {
            let lost = if self.owns(destination) { &mut ours } else { &mut others };
            lost.miss(destination, missed);
        }
        self.step(now, Input::Spilled(ours));
        self.miss(others, now);
    }

    /// What was planned here goes to whoever delivers it.
    pub(super) fn sort_planned(&mut self, planned: Vec<Owed>, now: Timestamp) {
        if self.owned.is_none() {
            return self.step(now, Input::Planned(planned));
        }
        let mut lost = Spilled::default();
        let mut ours = Vec::with_capacity(planned.len());
        for owed in planned {
            if self.destinations.contains_key(&owed.destination) {
                ours.push(owed);
            } else {
                lost.note(&owed);
                self.executor.forget(owed.seq);
            }
        }
        self.step(now, Input::Planned(ours));
        self.miss(lost, now);
    }

    /// Reads everything again.
    pub(super) fn replanned(&mut self, now: Timestamp) {
        let mut lost = Spilled::default();
        for destination in self.destinations.keys() {
            lost.miss(*destination, SpilledRange::ANYTHING);
        }
        self.step(now, Input::Spilled(lost));
    }

    /// Cancels what is this node's, and has others cancel the rest.
    pub(super) fn cancel(&mut self, all: Vec<Owed>, now: Timestamp) {
        let (ours, theirs): (Vec<Owed>, Vec<Owed>) =
            all.into_iter().partition(|it| self.owns(it.destination));
        self.step(now, Input::Cancel(ours));
        let mut by_destination: BTreeMap<DestinationId, Vec<DeliverySeq>> = BTreeMap::new();
        for it in theirs {
            by_destination.entry(it.destination).or_default().push(it.seq);
        }
        self.order(
            by_destination
                .into_iter()
                .map(|(id, seqs)| (id, ClusterCommand::Cancel(seqs)))
                .collect(),
        );
    }

    pub(super) fn poke(&mut self, destination: DestinationId, now: Timestamp) {
        if self.owns(destination) {
            self.step(now, Input::Poke(destination));
        } else {
            self.order(vec![(destination, ClusterCommand::Poke(destination))]);
        }
    }

    fn order(&self, orders: Vec<(DestinationId, ClusterCommand)>) {
        let Some(owned) = self.owned.as_ref().filter(|_| !orders.is_empty()) else { return };
        let store = owned.parts.store.clone();
        tokio::spawn(async move {
            if let Err(error) = store.order(&orders).await {
                super::store_calls::warn(&error, "a command could not be sent to another node");
            }
        });
    }
}

/// Asks the store who is owed something, and the resources who they are.
async fn learn(
    store: &PostgresStore,
    catalog_writer: &CatalogWriter,
    clock: &dyn Clock,
    pause: Duration,
    shares: Vec<(u16, Epoch)>,
) -> OwedShares {
    loop {
        match store.backlog().await {
            Ok(backlog) => {
                let owed: Vec<DestinationId> = backlog.iter().map(|it| it.destination).collect();
                let catalog = catalog_writer.current();
                if owed.iter().any(|it| !catalog.destinations.contains_key(it)) {
                    refreshed(catalog_writer, clock, pause).await;
                }
                return OwedShares { shares, owed: Some(owed) };
            }
            Err(StoreError::Closed) => return OwedShares { shares, owed: None },
            Err(error) => super::store_calls::warn(&error, "cannot read what is owed"),
        }
        clock.sleep_until(later(clock.now(), pause)).await;
    }
}

/// Returns when the resources are as new as the database has them.
async fn refreshed(catalog_writer: &CatalogWriter, clock: &dyn Clock, pause: Duration) {
    loop {
        match catalog_writer.refresh().await {
            Ok(()) | Err(StoreError::Closed) => return,
            Err(error) => super::store_calls::warn(&error, "cannot read the resources"),
        }
        clock.sleep_until(later(clock.now(), pause)).await;
    }
}
