//! Writes down what ingest counted and learned, now and then and at the end.

use std::{path::PathBuf, sync::Arc};

use jiff::{SignedDuration, Timestamp};
use tokio::sync::watch;

use super::Ingest;
use crate::{catalog::Catalog, derived};

/// The counts of sources are written this often; a crash loses what was counted since.
const COUNTS_EVERY: SignedDuration = SignedDuration::from_secs(5);
/// What was learned is written at every so manieth time.
const LEARNED_EVERY: u32 = 12;

/// Where the files are.
pub(super) struct Files {
    pub traffic: PathBuf,
    pub learned: PathBuf,
}

impl Files {
    pub fn below(folder: &std::path::Path) -> Self {
        Self { traffic: folder.join("traffic.json"), learned: folder.join("learned.json") }
    }
}

/// Runs until `stop` is turned, and then writes once more.
pub async fn keep(
    ingest: Arc<Ingest>,
    catalog: watch::Receiver<Arc<Catalog>>,
    mut stop: watch::Receiver<bool>,
) {
    let mut round = 0;
    loop {
        let next = ingest.clock.now().checked_add(COUNTS_EVERY).unwrap_or(Timestamp::MAX);
        // An error means that whoever turns it is gone.
        let is_over = tokio::select! {
            () = ingest.clock.sleep_until(next) => false,
            _ = stop.wait_for(|it| *it) => true,
        };
        round += 1;
        let is_whole = is_over || round % LEARNED_EVERY == 0;
        let (written, catalog) = (ingest.clone(), catalog.borrow().clone());
        let writing = tokio::task::spawn_blocking(move || written.write_down(&catalog, is_whole));
        if writing.await.is_err() {
            tracing::error!("what ingest counted could not be written");
        }
        if is_over {
            return;
        }
    }
}

impl Ingest {
    fn write_down(&self, catalog: &Catalog, is_whole: bool) {
        let failed = |error: &std::io::Error| {
            let error = error as &dyn std::error::Error;
            tracing::warn!(error, "what ingest counted could not be written; trying again soon");
        };
        let counts =
            self.traffic.to_keep(self.clock.now(), &|source| catalog.sources.contains_key(&source));
        if let Some(counts) = counts
            && let Err(error) = derived::write(&self.files.traffic, &counts)
        {
            self.traffic.not_kept();
            failed(&error);
        }
        if is_whole {
            let learned = &self.types.learned;
            learned.forget(self.clock.now(), |project| catalog.projects.contains_key(&project));
            if let Err(error) = derived::write(&self.files.learned, &learned.to_kept()) {
                failed(&error);
            }
        }
    }
}
