//! Stage 2 of 6: lets events in, once each, and never more than can be kept.
//!
//! The decision about a key falls in the store, in the transaction that keeps the event. What falls
//! here is whether there is room to ask: events that wait for the disk are counted by their bytes,
//! and past the limit the sender is told to come back, before memory is at risk.

use std::{sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;

use crate::{
    model::NewEvent,
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

pub struct Gate {
    store: Arc<dyn Store>,
    room: Semaphore,
    options: Options,
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
    pub fn new(store: Arc<dyn Store>, options: Options) -> Self {
        Self { store, room: Semaphore::new(options.waiting_bytes as usize), options }
    }

    /// Keeps the events and answers in their order. When it returns `Ok`, they are on disk.
    pub async fn admit(&self, events: Vec<NewEvent>) -> Result<Vec<Appended>, Refused> {
        const SOON: Duration = Duration::from_secs(1);
        /// Room on a disk does not come back by itself.
        const LATER: Duration = Duration::from_secs(10);

        match self.store.health().refuses {
            Some(Refusal::DiskFull) => return Err(Refused::DiskFull { retry_after: LATER }),
            Some(Refusal::Broken) => return Err(Refused::Store(StoreError::Closed)),
            None => (),
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
        metrics::counter!("tidegate_events_accepted_total").increment(accepted);
        metrics::counter!("tidegate_events_duplicate_total")
            .increment(appended.len() as u64 - accepted);
        Ok(appended)
    }
}
