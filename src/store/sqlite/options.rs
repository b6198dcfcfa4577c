//! What can be set about the embedded store.

use std::time::Duration;

use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// Events in one file. Retention drops whole files, so smaller ones are dropped sooner.
    pub segment_events: u64,
    /// Bytes after which a file is full, however few events it has.
    pub segment_bytes: u64,
    /// Bytes of events that may wait for the writer; more make callers wait.
    pub waiting_event_bytes: usize,
    /// Bytes of plans and outcomes that may wait for the writer.
    pub waiting_work_bytes: usize,
    /// Bytes on the disk that are held back, so that deliveries go on when it is full.
    pub reserve_bytes: u64,
    /// Bytes of event bodies that are kept in memory after they were read.
    pub body_cache_bytes: usize,
    /// Queries that run at once.
    pub readers: usize,
    /// Connections to segments that are kept for the next reader.
    #[serde(skip)]
    pub idle_readers: usize,
    /// A disk whose syncs take less is waited for. A slower one is left to a thread, which pays only then.
    #[serde(skip)]
    pub quick_sync: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            segment_events: 500_000,
            segment_bytes: 1 << 30,
            waiting_event_bytes: 48 << 20,
            waiting_work_bytes: 32 << 20,
            reserve_bytes: 16 << 20,
            body_cache_bytes: 8 << 20,
            readers: 6,
            idle_readers: 24,
            quick_sync: Duration::from_micros(700),
        }
    }
}
