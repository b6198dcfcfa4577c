//! Runs work for a share for as long as this node holds the share.

use std::future::Future;

use tokio::sync::watch;

use super::node::ClusterNode;
use crate::{
    cluster,
    store::{Epoch, LeaseSet, Share, WorkedShares},
};

/// What tells which shares there are.
#[derive(Clone)]
pub(super) struct ShareWatch {
    pub holding: watch::Receiver<LeaseSet>,
    pub working: WorkedShares,
    /// Becomes true when all work is to end.
    pub stop: watch::Receiver<bool>,
}

impl ShareWatch {
    pub fn new(node: &ClusterNode, stop: watch::Receiver<bool>) -> Self {
        let cluster::Handles { holding, working, .. } = node.handles.clone();
        Self { holding, working, stop }
    }

    /// Until the share comes. `None`: all work is to end.
    async fn begin(&mut self, share: Share) -> Option<Epoch> {
        let comes = async {
            let found = self.holding.wait_for(|it| it.shares.contains_key(&share)).await;
            found.ok().and_then(|it| it.shares.get(&share).copied())
        };
        let mut stop = self.stop.clone();
        let epoch = tokio::select! {
            epoch = comes => epoch?,
            _ = stop.wait_for(|it| *it) => return None,
        };
        self.working.begin(share, epoch);
        Some(epoch)
    }

    /// Until the share is to go.
    async fn end(&mut self, share: Share, epoch: Epoch) {
        let mut stop = self.stop.clone();
        tokio::select! {
            _ = self.holding.wait_for(|it| it.shares.get(&share) != Some(&epoch)) => (),
            _ = stop.wait_for(|it| *it) => (),
        }
    }

    /// Does the work whenever the share is there. `work` ends when the switch that it is given is turned,
    /// and says whether it can be done again.
    pub(super) async fn run<W, F>(mut self, share: Share, mut work: W)
    where
        W: FnMut(watch::Receiver<bool>) -> F,
        F: Future<Output = bool>,
    {
        while let Some(epoch) = self.begin(share).await {
            let switch = watch::Sender::new(false);
            tracing::debug!(%share, "begins");
            let mut work = std::pin::pin!(work(switch.subscribe()));
            let goes_on = tokio::select! {
                goes_on = &mut work => goes_on,
                () = self.end(share, epoch) => {
                    switch.send_replace(true);
                    work.await
                }
            };
            tracing::debug!(%share, "ends");
            self.working.end(share);
            if !goes_on {
                return;
            }
        }
    }
}
