//! Stage 2 of 6: lets events in, once each, and never more than can be kept.
//!
//! The decision about a key falls in the store, in the transaction that keeps the event. What falls
//! here is whether there is room to ask: events that wait for the disk are counted by their bytes,
//! and past the limit the sender is asked to come back, before memory is at risk. And events of users
//! who are to be forgotten are turned away.

use std::{sync::Arc, time::Duration};

use metrics::Counter;
use serde::{Deserialize, Serialize};
use tokio::sync::{Semaphore, watch};

use crate::{
    catalog::{Catalog, CatalogDerived},
    model::{NewEvent, Suppressed},
    store::{Appended, Refusal, Store, StoreError},
};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// Bytes of events that may wait for the disk at once.
    pub waiting_bytes: u32,
}

impl Default for Options {
    fn default() -> Self {
        Self { waiting_bytes: 32 * 1024 * 1024 }
    }
}

/// What became of an event that came to the gate.
#[derive(Clone, Debug)]
pub enum Admitted {
    Accepted(Appended),
    /// Its user is to be forgotten, and nothing of it was kept.
    Suppressed,
}

pub struct Gate {
    store: Arc<dyn Store>,
    /// Whose events are turned away.
    suppressed: CatalogDerived<Suppressed>,
    room: Semaphore,
    meters: Meters,
    options: Options,
}

/// Handles, looked up once: the hot path counts without searching a registry.
struct Meters {
    accepted: Counter,
    duplicate: Counter,
    suppressed: Counter,
}

impl Meters {
    fn new() -> Self {
        Self {
            accepted: metrics::counter!("tidegate_events_accepted_total"),
            duplicate: metrics::counter!("tidegate_events_duplicate_total"),
            suppressed: metrics::counter!("tidegate_events_suppressed_total"),
        }
    }
}

fn suppressed(catalog: &Arc<Catalog>, _: Option<&Suppressed>) -> Suppressed {
    Suppressed::of(catalog.deletions.values().map(AsRef::as_ref))
}

/// Why events were not let in. Nothing of them was kept.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    #[error("too much waits for the disk")]
    Overloaded { retry_after: Duration },
    #[error("the disk is full")]
    DiskFull { retry_after: Duration },
    #[error("the store failed")]
    Store(#[source] StoreError),
}

impl Gate {
    pub fn new(
        store: Arc<dyn Store>,
        catalog: watch::Receiver<Arc<Catalog>>,
        options: Options,
    ) -> Self {
        let room = Semaphore::new(options.waiting_bytes as usize);
        let suppressed = CatalogDerived::new(catalog, suppressed);
        Self { store, suppressed, room, meters: Meters::new(), options }
    }

    /// Keeps the events and answers in their order. When it returns `Ok`, they are on disk.
    pub async fn admit(&self, events: Vec<NewEvent>) -> Result<Vec<Admitted>, Refused> {
        let suppressed = self.suppressed.get();
        let is_away = |it: &NewEvent| suppressed.includes(it.project, &it.payload);
        if !events.iter().any(is_away) {
            let kept = self.keep(events).await?;
            return Ok(kept.into_iter().map(Admitted::Accepted).collect());
        }
        let is_kept: Vec<bool> = events.iter().map(|it| !is_away(it)).collect();
        let mut places = is_kept.iter();
        let mut events = events;
        events.retain(|_| places.next().is_none_or(|it| *it));
        let away = (is_kept.len() - events.len()) as u64;
        self.meters.suppressed.increment(away);
        let mut kept = match events.is_empty() {
            true => Vec::new(),
            false => self.keep(events).await?,
        }
        .into_iter();
        // Each that was kept has its answer; what had none would be the store's mistake.
        let admitted = is_kept.into_iter().filter_map(|is_kept| match is_kept {
            true => kept.next().map(Admitted::Accepted),
            false => Some(Admitted::Suppressed),
        });
        Ok(admitted.collect())
    }

    async fn keep(&self, events: Vec<NewEvent>) -> Result<Vec<Appended>, Refused> {
        const SOON: Duration = Duration::from_secs(1);
        /// Room on a disk does not come back by itself.
        const LATER: Duration = Duration::from_secs(10);

        match self.store.health().refuses {
            Some(Refusal::DiskFull) => return Err(Refused::DiskFull { retry_after: LATER }),
            Some(Refusal::Broken) => return Err(Refused::Store(StoreError::Closed)),
            // Trying finds out soonest that it is there again.
            Some(Refusal::Unreachable) | None => (),
        }
        let weight: usize = events.iter().map(NewEvent::weight).sum();
        // A batch heavier than all the room there is passes alone.
        let permits = weight.min(self.options.waiting_bytes as usize) as u32;
        let Ok(_room) = self.room.try_acquire_many(permits) else {
            metrics::counter!("tidegate_ingest_overloaded_total").increment(1);
            return Err(Refused::Overloaded { retry_after: SOON });
        };
        let appended = self.store.append(events).await.map_err(|error| match error {
            StoreError::Full => Refused::DiskFull { retry_after: LATER },
            other => Refused::Store(other),
        })?;
        let accepted = appended.iter().filter(|it| matches!(it, Appended::New(_))).count() as u64;
        self.meters.accepted.increment(accepted);
        self.meters.duplicate.increment(appended.len() as u64 - accepted);
        Ok(appended)
    }
}
