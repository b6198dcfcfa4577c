//! What must be done from time to time: forgetting old events, and tidying the metrics.

use std::{sync::Arc, time::Duration};

use jiff::{SignedDuration, Timestamp};
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::{sync::watch, task::JoinHandle};

use super::{seen::SeenFile, turned};
use crate::{catalog::Catalog, clock::Clock, config::Retention, model::ProjectId, store::Database};

pub struct Upkeep {
    pub database: Arc<dyn Database>,
    pub catalog: watch::Receiver<Arc<Catalog>>,
    pub clock: Arc<dyn Clock>,
    pub metrics: PrometheusHandle,
    pub seen: SeenFile,
    pub options: Retention,
}

impl Upkeep {
    /// One task for each duty, until `stop` is turned.
    pub fn start(self, stop: &watch::Sender<bool>) -> Vec<JoinHandle<()>> {
        let tidying = tidy_metrics(self.metrics.clone(), stop.subscribe());
        let seeing = self.seen.clone().keep(self.clock.clone(), stop.subscribe());
        let forgetting = self.forget(stop.subscribe());
        vec![tokio::spawn(tidying), tokio::spawn(seeing), tokio::spawn(forgetting)]
    }

    async fn forget(self, stop: watch::Receiver<bool>) {
        let mut stopped = std::pin::pin!(turned(stop));
        loop {
            let now = self.clock.now();
            let every = SignedDuration::try_from(self.options.every).unwrap_or(SignedDuration::MAX);
            let next = now.checked_add(every).unwrap_or(Timestamp::MAX);
            tokio::select! {
                () = self.clock.sleep_until(next) => (),
                () = &mut stopped => return,
            }
            let horizons = horizons(&self.catalog.borrow(), &self.options, self.clock.now());
            if horizons.is_empty() {
                continue;
            }
            match self.database.prune(&horizons).await {
                Ok(0) => (),
                Ok(events) => tracing::info!(events, "old events were forgotten"),
                Err(error) => {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(error, "old events could not be forgotten; trying again later");
                }
            }
        }
    }
}

/// Before which time each project's events are forgotten.
fn horizons(catalog: &Catalog, options: &Retention, now: Timestamp) -> Vec<(ProjectId, Timestamp)> {
    let horizon = |age: Duration| now.checked_sub(SignedDuration::try_from(age).ok()?).ok();
    catalog
        .projects
        .values()
        .filter_map(|it| Some((it.id, horizon(it.retention.or(options.default)?)?)))
        .collect()
}

/// The recorder keeps what it saw until someone has it added up.
async fn tidy_metrics(metrics: PrometheusHandle, stop: watch::Receiver<bool>) {
    let mut stopped = std::pin::pin!(turned(stop));
    loop {
        metrics.run_upkeep();
        tokio::select! {
            () = tokio::time::sleep(Duration::from_secs(5)) => (),
            () = &mut stopped => return,
        }
    }
}
