//! The loop of one node: says that it lives, and holds its shares.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use tokio::sync::watch;

use super::{
    ClusterSnapshot, Epoch, HeldShares, LeaseSet, Member, Options, Share, WorkedShares, decide,
};
use crate::store::{StoreError, postgres::PostgresStore};

/// What the loop is given.
pub struct Parts {
    pub store: Arc<PostgresStore>,
    pub me: Member,
    pub options: Options,
    /// Becomes true when the node is to give back everything and end.
    pub stop: watch::Receiver<bool>,
}

/// One node of many.
pub struct NodeLoop {
    parts: Parts,
    holding: watch::Sender<LeaseSet>,
    working: watch::Receiver<HeldShares>,
    view: watch::Sender<ClusterSnapshot>,
    /// Shares that are being given back, once the work on them has ended.
    leaving: BTreeMap<Share, Epoch>,
    is_silent: bool,
}

/// What a node tells those beside it.
#[derive(Clone)]
pub struct Handles {
    /// What it holds: the stages are to work on just this.
    pub holding: watch::Receiver<LeaseSet>,
    /// Who lives, and who holds what, as the database said last.
    pub view: watch::Receiver<ClusterSnapshot>,
    pub working: WorkedShares,
}

impl NodeLoop {
    pub fn new(parts: Parts) -> (Self, Handles) {
        let (holding, holding_watch) = watch::channel(LeaseSet::default());
        let (view, view_watch) = watch::channel(ClusterSnapshot::default());
        let working = WorkedShares::new();
        let node = Self {
            parts,
            holding,
            working: working.watch(),
            view,
            leaving: BTreeMap::new(),
            is_silent: false,
        };
        (node, Handles { holding: holding_watch, view: view_watch, working })
    }

    /// Runs until it is stopped; then it gives back what it holds, so that others need not wait.
    pub async fn run(mut self) {
        let mut stop = self.parts.stop.clone();
        loop {
            let is_ending = *stop.borrow();
            if is_ending {
                // Whoever sees that it does nothing more takes what it gives back.
                self.parts.me.roles.clear();
            }
            let begun = Instant::now();
            let timeout = self.parts.options.lease;
            let done = tokio::time::timeout(timeout, self.turn(begun)).await;
            match done {
                Ok(Ok(())) => self.is_silent = false,
                Ok(Err(StoreError::Closed)) => break,
                Ok(Err(error)) => self.warn(Some(&error)),
                Err(_) => self.warn(None),
            }
            if is_ending && self.working.borrow().is_empty() {
                break;
            }
            let next = begun + self.parts.options.beat;
            tokio::select! {
                () = tokio::time::sleep_until(next.into()) => (),
                // The work on something has ended: it can be given back at once.
                Ok(()) = self.working.changed(), if !self.leaving.is_empty() || is_ending => (),
                stopped = stop.wait_for(|it| *it), if !is_ending => {
                    // Nobody can stop us any more: the process ends without a word.
                    if stopped.is_err() {
                        return;
                    }
                }
            }
        }
        let leave = self.parts.store.leave(self.parts.me.id);
        if !matches!(tokio::time::timeout(Duration::from_secs(2), leave).await, Ok(Ok(()))) {
            tracing::debug!("the others find out by themselves that this node has ended");
        }
    }

    /// Once for each time that the database falls silent.
    fn warn(&mut self, error: Option<&StoreError>) {
        if !std::mem::replace(&mut self.is_silent, true) {
            let error = error.map(|it| it as &dyn std::error::Error);
            tracing::warn!(
                error,
                "cannot say that this node lives: it begins nothing when its time is over"
            );
        }
    }

    /// One look at the others, and what follows from it.
    async fn turn(&mut self, begun: Instant) -> Result<(), StoreError> {
        let lease = self.parts.options.lease;
        let view = self.parts.store.beat(&self.parts.me, lease).await?;
        let me = self.parts.me.id;
        self.step_back(&view);
        // What the database does not know as ours is lost, whatever we believed.
        let ours = |share: &Share, epoch: &Epoch| {
            let found = view.leases.iter().find(|it| it.share == *share);
            found.is_some_and(|it| it.holder == Some(me) && it.epoch == *epoch)
        };
        self.leaving.retain(|share, epoch| ours(share, epoch));
        let mut held = self.holding.borrow().shares.clone();
        let before = held.len();
        held.retain(|share, epoch| ours(share, epoch));
        if held.len() < before {
            let lost = before - held.len();
            metrics::counter!("tidegate_leases_lost_total").increment(lost as u64);
            tracing::warn!(lost, "others have taken over work of this node");
        }
        // What nobody gives back and nobody of us works on is left from a claim whose answer was lost.
        for lease in view.leases.iter().filter(|it| it.holder == Some(me)) {
            if !self.leaving.contains_key(&lease.share) {
                held.insert(lease.share, lease.epoch);
            }
        }
        let decision = decide(me, &view);
        for share in &decision.give_back {
            if let Some(epoch) = held.remove(share) {
                self.leaving.insert(*share, epoch);
            }
        }
        self.hold(held.clone(), begun + lease);
        self.give_back().await?;
        if !decision.claim.is_empty() {
            let claimed = self.parts.store.claim(me, &decision.claim).await?;
            if !claimed.is_empty() {
                tracing::info!(shares = claimed.len(), "takes over work");
                metrics::counter!("tidegate_takeovers_total").increment(claimed.len() as u64);
            }
            held.extend(claimed);
            self.hold(held, begun + lease);
        }
        self.tell(&view);
        self.view.send_replace(view);
        Ok(())
    }

    /// A node that was silent for so long that another took its name has been replaced: it gives back whatever it
    /// holds, and works no more.
    fn step_back(&mut self, view: &ClusterSnapshot) {
        let me = &mut self.parts.me;
        let Some(own) = view.members.iter().find(|it| it.id == me.id) else { return };
        if me.started_at == Timestamp::UNIX_EPOCH {
            me.started_at = own.started_at;
        }
        let is_newer =
            |it: &&Member| it.name == me.name && (it.started_at, it.id) > (me.started_at, own.id);
        if let Some(other) = view.members.iter().filter(|it| it.id != me.id).find(is_newer)
            && !me.roles.is_empty()
        {
            tracing::error!(
                name = me.name,
                address = other.address,
                "another node has taken this one's name and its work: this one plans and delivers nothing more until it is started again"
            );
            me.roles.clear();
        }
    }

    fn hold(&self, shares: HeldShares, sure_until: Instant) {
        self.holding.send_replace(LeaseSet { shares, sure_until });
    }

    /// Gives back those on which no work is done any more.
    async fn give_back(&mut self) -> Result<(), StoreError> {
        let working = self.working.borrow_and_update().clone();
        let is_idle = |(share, _): &(&Share, &Epoch)| !working.contains_key(share);
        let idle: Vec<(Share, Epoch)> =
            self.leaving.iter().filter(is_idle).map(|(share, epoch)| (*share, *epoch)).collect();
        if !idle.is_empty() {
            self.parts.store.give_back(self.parts.me.id, &idle).await?;
            tracing::info!(shares = idle.len(), "gives work back");
            self.leaving.retain(|share, _| !idle.iter().any(|it| it.0 == *share));
        }
        Ok(())
    }

    fn tell(&self, view: &ClusterSnapshot) {
        metrics::gauge!("tidegate_nodes").set(view.members.len() as f64);
        let holding = self.holding.borrow();
        for duty in super::Duty::ALL {
            let held = holding.shares.keys().filter(|it| it.duty == duty).count();
            metrics::gauge!("tidegate_leases", "duty" => duty.as_str()).set(held as f64);
        }
    }
}
