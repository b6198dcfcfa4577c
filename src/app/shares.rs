//! The work that this node does for the shares that it holds: a pipeline for each log, and what is done
//! once for all nodes. Each begins when its share comes, and has ended before the share is given back.

use std::{future::Future, sync::Arc};

use tokio::{
    sync::watch,
    task::{JoinHandle, JoinSet},
};

use super::{ShardEvents, ended, node::ClusterNode, stages::Stages};
use crate::{
    cluster, deletions, dispatch,
    model::{EventSeq, Message, Owed},
    pipeline, probe,
    probe::Prober,
    replay::{self, Replayed},
    store::{Duty, Epoch, LeaseSet, Share, WorkedShares},
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
    async fn run<W, F>(mut self, share: Share, mut work: W)
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

impl Stages {
    /// The pipeline of one log. It has the log for itself while the share is there.
    pub(super) fn run_pipeline(
        &self,
        log: ShardEvents,
        shard: u16,
        deliveries: crate::hint::Sender<Vec<(Owed, Message)>, dispatch::Spilled>,
        options: pipeline::Options,
        shift: ShareWatch,
    ) -> (JoinHandle<()>, watch::Receiver<EventSeq>) {
        let stages = self.clone();
        let through = watch::Sender::new(EventSeq(0));
        let planned = through.subscribe();
        let through = Arc::new(through);
        let mut hints = Some(log.events);
        let store = log.store;
        let work = async move {
            let kept = Arc::new(tokio::sync::Mutex::new(hints.take()));
            let work = |stop: watch::Receiver<bool>| {
                let (kept, stages, store) = (kept.clone(), stages.clone(), store.clone());
                let (deliveries, options) = (deliveries.clone(), options.clone());
                let through = through.clone();
                async move {
                    let mut kept = kept.lock().await;
                    let Some(events) = kept.take() else { return false };
                    let (runner, mut planned) = pipeline::runner(pipeline::Parts {
                        store,
                        clock: stages.clock.clone(),
                        catalog: stages.catalog_writer.watch(),
                        events,
                        lookups: stages.lookups.clone(),
                        deliveries,
                        stop: stop.clone(),
                        tools: stages.tools.clone(),
                        options,
                    });
                    let mut running = std::pin::pin!(tokio::spawn(runner.run_for_now()));
                    let ended = loop {
                        tokio::select! {
                            ended = &mut running => break ended,
                            Ok(()) = planned.changed() => {
                                through.send_replace(*planned.borrow_and_update());
                            }
                        }
                    };
                    match ended {
                        Ok(mut events) => {
                            // What came since is in the store.
                            while events.try_receive().is_some() {}
                            *kept = Some(events);
                            *stop.borrow()
                        }
                        Err(error) => {
                            tracing::error!(%error, "a pipeline ended badly");
                            false
                        }
                    }
                }
            };
            shift.run(Share { duty: Duty::Pipeline, shard }, work).await;
        };
        (tokio::spawn(work), planned)
    }

    /// What is done once for all nodes.
    pub(super) fn run_upkeep(
        &self,
        prober: Arc<Prober>,
        dispatch: dispatch::Handle,
        replayed: Replayed,
        shift: ShareWatch,
    ) -> JoinHandle<()> {
        let stages = self.clone();
        let work = move |stop: watch::Receiver<bool>| {
            let replays = stages.replays(replayed.clone(), stop.clone());
            let deletions = stages.deletions(dispatch.clone(), stop.clone());
            let probes = probe::run(prober.clone(), stop.clone());
            async move {
                let mut tasks = JoinSet::new();
                tasks.spawn(replays);
                tasks.spawn(deletions);
                tasks.spawn(probes);
                while let Some(it) = tasks.join_next().await {
                    ended("upkeep", it);
                }
                *stop.borrow()
            }
        };
        tokio::spawn(shift.run(Share { duty: Duty::Upkeep, shard: 0 }, work))
    }

    pub(super) fn replays(
        &self,
        replayed: Replayed,
        stop: watch::Receiver<bool>,
    ) -> impl Future<Output = ()> + Send + use<> {
        replay::run(replay::Parts {
            database: self.database.clone(),
            catalog_writer: self.catalog_writer.clone(),
            clock: self.clock.clone(),
            replayed,
            means: replay::Means {
                database: self.database.clone(),
                lookups: self.lookups.clone(),
                // Its threads run the scripts of replays only.
                tools: self.tools.apart(),
            },
            stop,
        })
    }

    pub(super) fn deletions(
        &self,
        dispatch: dispatch::Handle,
        stop: watch::Receiver<bool>,
    ) -> impl Future<Output = ()> + Send + use<> {
        deletions::run(deletions::Parts {
            database: self.database.clone(),
            catalog_writer: self.catalog_writer.clone(),
            clock: self.clock.clone(),
            dispatch,
            stop,
        })
    }
}
