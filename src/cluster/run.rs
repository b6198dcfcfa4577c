//! The loop of one node: says that it lives, and holds its shares.

use std::{collections::BTreeMap, sync::Arc};

use jiff::{SignedDuration, Timestamp};
use tokio::sync::watch;

use super::{Epoch, Held, Member, Membership, Options, Share, View, decide};
use crate::{clock::Clock, store::StoreError};

/// What the loop is given.
pub struct Parts {
    pub membership: Arc<dyn Membership>,
    pub clock: Arc<dyn Clock>,
    pub me: Member,
    pub options: Options,
    /// Becomes true when the node is to give back everything and end.
    pub stop: watch::Receiver<bool>,
}

/// One node of many.
pub struct Node {
    parts: Parts,
    held: watch::Sender<Held>,
    /// What the stages work on, as they say: a share is given back when it is not among them any more.
    working: watch::Receiver<Held>,
    view: watch::Sender<View>,
    /// Shares that are being given back, once the work on them has ended.
    leaving: BTreeMap<Share, Epoch>,
    /// Until then, by our own clock, nobody else can hold what we hold.
    sure_until: Timestamp,
}

/// What a node tells those beside it.
pub struct Handles {
    /// What it holds: the stages are to work on just this.
    pub held: watch::Receiver<Held>,
    /// Who lives, and who holds what, as the database said last.
    pub view: watch::Receiver<View>,
}

impl Node {
    /// `working` is what the stages work on at the moment.
    pub fn new(parts: Parts, working: watch::Receiver<Held>) -> (Self, Handles) {
        let (held, held_watch) = watch::channel(Held::new());
        let (view, view_watch) = watch::channel(View::default());
        let node = Self {
            parts,
            held,
            working,
            view,
            leaving: BTreeMap::new(),
            sure_until: Timestamp::UNIX_EPOCH,
        };
        (node, Handles { held: held_watch, view: view_watch })
    }

    /// Runs until it is told to stop; then it gives back what it holds, so that others need not wait.
    pub async fn run(mut self) {
        let mut stop = self.parts.stop.clone();
        while !*stop.borrow() {
            let begun = self.parts.clock.now();
            match self.turn(begun).await {
                Ok(()) => (),
                Err(StoreError::Closed) => break,
                Err(error) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "cannot reach the others");
                }
            }
            self.let_go_of_what_is_unsure();
            tokio::select! {
                () = self.parts.clock.sleep_until(after(begun, self.parts.options.beat)) => (),
                // The work on something has ended: it can be given back at once.
                Ok(()) = self.working.changed() => (),
                _ = stop.wait_for(|it| *it) => (),
            }
        }
        self.end().await;
    }

    /// One look at the others, and what follows from it.
    async fn turn(&mut self, begun: Timestamp) -> Result<(), StoreError> {
        let lease = self.parts.options.lease;
        let view = self.parts.membership.beat(&self.parts.me, lease).await?;
        let me = self.parts.me.id;
        self.sure_until = after(begun, lease);
        // What the database does not know as ours is lost, whatever we believed.
        let ours = |share: &Share, epoch: &Epoch| {
            let found = view.leases.iter().find(|it| it.share == *share);
            found.is_some_and(|it| it.holder == Some(me) && it.epoch == *epoch)
        };
        self.leaving.retain(|share, epoch| ours(share, epoch));
        self.change(|held| held.retain(|share, epoch| ours(share, epoch)));

        let decision = decide(me, &view);
        for share in &decision.give_back {
            if let Some(epoch) = self.held.borrow().get(share) {
                self.leaving.insert(*share, *epoch);
            }
        }
        // What nobody gives back and nobody of us works on is left from a claim whose answer was lost.
        for lease in view.leases.iter().filter(|it| it.holder == Some(me)) {
            let is_known = self.held.borrow().contains_key(&lease.share)
                || self.leaving.contains_key(&lease.share);
            if !is_known {
                self.change(|held| held.extend([(lease.share, lease.epoch)]));
            }
        }
        let leaving = self.leaving.clone();
        self.change(|held| held.retain(|share, _| !leaving.contains_key(share)));
        self.give_back().await?;
        if !decision.claim.is_empty() {
            let claimed = self.parts.membership.claim(me, &decision.claim, lease).await?;
            self.change(|held| held.extend(claimed));
        }
        self.view.send_if_modified(|it| {
            let is_new = *it != view;
            *it = view;
            is_new
        });
        Ok(())
    }

    /// Gives back those on which no work is done any more.
    async fn give_back(&mut self) -> Result<(), StoreError> {
        let working = self.working.borrow_and_update().clone();
        let is_idle = |(share, epoch): &(&Share, &Epoch)| working.get(share) != Some(epoch);
        let idle: Vec<(Share, Epoch)> =
            self.leaving.iter().filter(is_idle).map(|(share, epoch)| (*share, *epoch)).collect();
        if !idle.is_empty() {
            self.parts.membership.give_back(self.parts.me.id, &idle).await?;
            self.leaving.retain(|share, _| !idle.iter().any(|it| it.0 == *share));
        }
        Ok(())
    }

    /// When the database was silent for as long as a lease lasts, others may hold what we hold.
    fn let_go_of_what_is_unsure(&mut self) {
        if self.parts.clock.now() >= self.sure_until {
            self.leaving.clear();
            self.change(Held::clear);
        }
    }

    fn change(&self, change: impl FnOnce(&mut Held)) {
        self.held.send_if_modified(|it| {
            let before = it.clone();
            change(it);
            *it != before
        });
    }

    async fn end(mut self) {
        self.change(Held::clear);
        // The stages end their work in order; they do not take longer than the drain.
        let _ = self.working.wait_for(Held::is_empty).await;
        if let Err(error) = self.parts.membership.leave(self.parts.me.id).await {
            tracing::debug!(%error, "the others find out by themselves that this node has ended");
        }
    }
}

fn after(time: Timestamp, wait: std::time::Duration) -> Timestamp {
    let wait = SignedDuration::try_from(wait).unwrap_or(SignedDuration::MAX);
    time.checked_add(wait).unwrap_or(Timestamp::MAX)
}
