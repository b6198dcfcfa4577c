//! The newest time that the gateway has seen, also before it was started: a clock that was set back meanwhile
//! would have what failed wait for as long.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use jiff::{SignedDuration, Timestamp};
use tokio::sync::watch;

use super::turned;
use crate::{
    catalog::Catalog,
    clock::Clock,
    derived,
    store::{Database, EventFilter, Page},
};

const EVERY: SignedDuration = SignedDuration::from_secs(30);
/// Less is no reason to write to anybody: clocks are set by that much.
const WORTH_TELLING: SignedDuration = SignedDuration::from_mins(1);
/// Whose newest events are looked at. One that is busy is enough.
const PROJECTS: usize = 32;

/// The file in which it stands, and what was found there at the start.
#[derive(Clone)]
pub(super) struct SeenFile {
    file: PathBuf,
    /// By how much the clock is behind what was seen before. Zero is the usual.
    pub set_back: SignedDuration,
}

impl SeenFile {
    pub async fn look(
        folder: &Path,
        database: &dyn Database,
        catalog: &Catalog,
        clock: &dyn Clock,
    ) -> Self {
        let file = folder.join("clock.json");
        let written: Option<Timestamp> = derived::read(&file);
        let event = newest_event(database, catalog).await;
        let now = clock.now();
        let newest = written.max(event).unwrap_or(now);
        let set_back = newest.duration_since(now).max(SignedDuration::ZERO);
        if set_back >= WORTH_TELLING {
            tracing::warn!(
                %now,
                newest_event = event.map(tracing::field::display),
                last_seen = written.map(tracing::field::display),
                "the machine's clock is {} min behind what this gateway has seen before: receivers refuse \
                 signatures of a wrong time; set the clock, e.g. by NTP",
                set_back.as_mins()
            );
        }
        Self { file, set_back }
    }

    /// Writes the time down now and then, until `stop` is turned, and then once more.
    pub async fn keep(self, clock: Arc<dyn Clock>, stop: watch::Receiver<bool>) {
        let mut stopped = std::pin::pin!(turned(stop));
        let mut is_over = false;
        while !is_over {
            let next = clock.now().saturating_add(EVERY).unwrap_or(Timestamp::MAX);
            is_over = tokio::select! {
                () = clock.sleep_until(next) => false,
                () = &mut stopped => true,
            };
            let (file, now) = (self.file.clone(), clock.now());
            let writing = tokio::task::spawn_blocking(move || derived::write(&file, &now));
            if let Ok(Err(error)) = writing.await {
                let error = &error as &dyn std::error::Error;
                tracing::debug!(error, "the time could not be written down");
            }
        }
    }
}

async fn newest_event(database: &dyn Database, catalog: &Catalog) -> Option<Timestamp> {
    let mut newest = None;
    for project in catalog.projects.keys().take(PROJECTS) {
        let page = Page { before: None, limit: 1 };
        let found = database.events(*project, &EventFilter::default(), page).await;
        // Who cannot be asked now tells nothing.
        let events = found.unwrap_or_default();
        newest = newest.max(events.first().map(|it| it.received_at));
    }
    newest
}
