//! The stages behind the store, put together.

use std::{path::PathBuf, sync::Arc};

use metrics_exporter_prometheus::PrometheusHandle;
use tokio::{sync::watch, task::JoinHandle};

use super::{
    Foundation, HINTED_BYTES, HINTS, Parts, PlannedThrough, ShardEvents, Stops,
    node::{Listener, Membership},
    seen::SeenFile,
    share_watch::ShareWatch,
    upkeep, weigh_deliveries,
};
use crate::{
    catalog::CatalogWriter,
    clock::Clock,
    config,
    crypto::Vault,
    destinations::Outlets,
    dispatch,
    gate::{self, Gate},
    hint,
    ingest::{self, Ingest, IngestParts, Keyring, webhook::InboundEndpoints},
    model::{EventSeq, Message, Owed},
    pipeline,
    probe::{self, Prober},
    replay::Replayed,
    store::Database,
    tail::Tail,
};

/// What the stages behind the store share.
#[derive(Clone)]
pub(super) struct Stages {
    pub database: Arc<dyn Database>,
    pub catalog_writer: Arc<CatalogWriter>,
    pub clock: Arc<dyn Clock>,
    pub outlets: Arc<dyn Outlets>,
    pub lookups: Arc<dyn pipeline::Lookups>,
    pub tail: Tail,
    pub tools: pipeline::Tools,
    pub seen: SeenFile,
}

/// The stages behind the store, under way.
pub(super) struct Started {
    pub pipelines: Vec<JoinHandle<()>>,
    /// What Tidegate does by itself beside the stages.
    pub errands: Vec<JoinHandle<()>>,
    pub dispatch: JoinHandle<()>,
    pub handle: dispatch::Handle,
    pub replayed: Replayed,
    pub planned: PlannedThrough,
}

type Deliveries = hint::Sender<Vec<(Owed, Message)>, dispatch::Spilled>;

impl Stages {
    pub fn new(
        foundation: &Foundation,
        parts: &Parts,
        outlets: Arc<dyn Outlets>,
        lookups: Arc<dyn pipeline::Lookups>,
        tail: Tail,
    ) -> Self {
        let tools = pipeline::Tools::new(&foundation.vault);
        let (database, catalog_writer) =
            (foundation.database.clone(), foundation.catalog_writer.clone());
        let (clock, seen) = (parts.clock.clone(), foundation.seen.clone());
        Self { database, catalog_writer, clock, outlets, lookups, tail, tools, seen }
    }

    pub fn ingest(
        &self,
        parts: &Parts,
        vault: &Arc<Vault>,
        keyring: Arc<Keyring>,
        folder: PathBuf,
        (gate, options): (gate::Options, ingest::Options),
    ) -> Arc<Ingest> {
        let gate = Gate::new(self.database.clone(), self.catalog_writer.watch(), gate);
        let parts = IngestParts {
            gate: Arc::new(gate),
            keyring,
            clock: self.clock.clone(),
            tail: self.tail.clone(),
            random: parts.random.clone(),
            doors: InboundEndpoints::new(self.catalog_writer.watch(), vault.clone()),
            catalog: self.catalog_writer.watch(),
            folder,
        };
        Arc::new(Ingest::new(parts, options))
    }

    pub fn upkeep(&self, metrics: PrometheusHandle, options: config::Retention) -> upkeep::Upkeep {
        upkeep::Upkeep {
            database: self.database.clone(),
            catalog: self.catalog_writer.watch(),
            clock: self.clock.clone(),
            metrics,
            seen: self.seen.clone(),
            options,
        }
    }

    /// Keeps what was counted of the sources.
    pub fn count(&self, ingest: &Arc<Ingest>, stops: &Stops) -> JoinHandle<()> {
        let stop = stops.upkeep.subscribe();
        tokio::spawn(ingest::counters_file::keep(ingest.clone(), self.catalog_writer.watch(), stop))
    }

    pub fn prober(&self, parts: &Parts) -> Arc<Prober> {
        let Self { database, catalog_writer, clock, outlets, tail, .. } = self.clone();
        let random = parts.random.clone();
        Arc::new(Prober::new(probe::Parts {
            database,
            catalog_writer,
            outlets,
            clock,
            random,
            tail,
        }))
    }

    /// Where there are several nodes, what is done for a share begins when the share comes.
    pub fn start(
        self,
        logs: Vec<ShardEvents>,
        (pipeline, dispatch): (pipeline::Options, dispatch::Options),
        prober: Arc<Prober>,
        stops: &Stops,
        place: Option<&Membership>,
    ) -> Started {
        let (hinted, deliveries) = hint::weighed_channel(HINTS, HINTED_BYTES, weigh_deliveries);
        let (dispatcher, handle) = dispatch::runner(dispatch::Parts {
            store: self.database.clone(),
            clock: self.clock.clone(),
            catalog_writer: self.catalog_writer.clone(),
            outlets: self.outlets.clone(),
            hints: deliveries,
            tail: self.tail.clone(),
            shares: place.map(|(newcomer, node)| dispatch::Shares {
                store: newcomer.store.clone(),
                holding: node.handles.holding.clone(),
                working: node.handles.working.clone(),
            }),
            stop: stops.dispatch.subscribe(),
            set_back: self.seen.set_back,
            options: dispatch,
        });
        let replayed = replayed(handle.clone());
        // Each log is planned in its own order, beside the others.
        let mut pipelines = Vec::new();
        let mut planned = Vec::new();
        let errands = match place {
            None => {
                for log in logs {
                    let (task, through) = self.pipeline(log, &hinted, &pipeline, stops);
                    pipelines.push(task);
                    planned.push(through);
                }
                let stop = || stops.pipeline.subscribe();
                vec![
                    tokio::spawn(self.replays(replayed.clone(), stop())),
                    tokio::spawn(self.deletions(handle.clone(), stop())),
                    tokio::spawn(probe::run(prober, stop())),
                ]
            }
            Some((newcomer, node)) => {
                let shift = ShareWatch::new(node, stops.pipeline.subscribe());
                for (shard, log) in (0..).zip(logs) {
                    let (hinted, pipeline) = (hinted.clone(), pipeline.clone());
                    let (task, through) =
                        self.run_pipeline(log, shard, hinted, pipeline, shift.clone());
                    pipelines.push(task);
                    planned.push(through);
                }
                let ears = Listener {
                    store: newcomer.store.clone(),
                    catalog_writer: self.catalog_writer.clone(),
                    dispatch: handle.clone(),
                    accepts: newcomer.accepts.clone(),
                    holding: node.handles.holding.clone(),
                    view: node.handles.view.clone(),
                    stop: stops.pipeline.subscribe(),
                };
                vec![
                    self.run_upkeep(prober, handle.clone(), replayed.clone(), shift),
                    tokio::spawn(ears.run()),
                ]
            }
        };
        let dispatch = tokio::spawn(dispatcher.run());
        let planned = PlannedThrough::new(planned);
        Started { pipelines, errands, dispatch, handle, replayed, planned }
    }

    fn pipeline(
        &self,
        log: ShardEvents,
        deliveries: &Deliveries,
        options: &pipeline::Options,
        stops: &Stops,
    ) -> (JoinHandle<()>, watch::Receiver<EventSeq>) {
        let (runner, through) = pipeline::runner(pipeline::Parts {
            store: log.store,
            clock: self.clock.clone(),
            catalog: self.catalog_writer.watch(),
            events: log.events,
            lookups: self.lookups.clone(),
            deliveries: deliveries.clone(),
            stop: stops.pipeline.subscribe(),
            tools: self.tools.clone(),
            options: options.clone(),
        });
        (tokio::spawn(runner.run()), through)
    }
}

/// Tells the dispatcher to read from the store what a replay has made.
fn replayed(dispatch: dispatch::Handle) -> Replayed {
    Arc::new(move |owed| {
        let mut lost = dispatch::Spilled::default();
        for it in owed {
            lost.note(it);
        }
        let dispatch = dispatch.clone();
        tokio::spawn(async move { dispatch.spilled(lost).await });
    })
}
