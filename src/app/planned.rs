//! How far the plans have come.

use tokio::sync::watch;

use crate::model::EventSeq;

/// For each log of the store, the last event up to which every one has its plan on disk. Of logs that
/// another node works on, nothing is known.
#[derive(Clone)]
pub struct PlannedThrough(Vec<watch::Receiver<EventSeq>>);

impl PlannedThrough {
    pub(super) fn new(logs: Vec<watch::Receiver<EventSeq>>) -> Self {
        Self(logs)
    }

    /// Returns when the event has its plan on disk. `false`: the gateway ends.
    pub async fn wait_for(&self, event: EventSeq) -> bool {
        // Behind these bits stands the log; the embedded store has one.
        const LOG: u32 = 40;
        let Some(log) = self.0.get((event.0 >> LOG) as usize) else { return false };
        log.clone().wait_for(|it| *it >= event).await.is_ok()
    }
}
