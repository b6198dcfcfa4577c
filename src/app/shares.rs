//! The work that this node does for the shares that it holds: a pipeline for each log, and what is done
//! once for all nodes. Each begins when its share comes, and has ended before the share is given back.

use std::{future::Future, sync::Arc};

use tokio::{
    sync::watch,
    task::{JoinHandle, JoinSet},
};

use super::{ShardEvents, ended, share_watch::ShareWatch, stages::Stages};
use crate::{
    deletions, dispatch,
    model::{EventSeq, Message, Owed},
    pipeline, probe,
    probe::Prober,
    replay::{self, Replayed},
    store::{Duty, Share},
};

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
