//! What happens at the moment, for whoever watches: `tidegate tail`, `tidegate listen`, the dashboard.
//!
//! It is for eyes only. A watcher that is too slow misses some and learns how many; the stages
//! never wait for one, and when nobody watches, telling costs one load.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use tokio::sync::broadcast;

use crate::model::{DeliverySeq, DestinationId, Entry, Event, EventId, ProjectId, TypeName};

/// Something that happened just now.
#[derive(Clone, Debug)]
pub enum Sight {
    Accepted(Arc<Event>),
    /// An attempt was made, or a delivery ended without one.
    Activity(Arc<Activity>),
}

#[derive(Clone, Debug)]
pub struct Activity {
    pub project: ProjectId,
    pub event: EventId,
    pub event_type: TypeName,
    pub delivery: DeliverySeq,
    pub destination: DestinationId,
    pub entry: Entry,
}

impl Sight {
    pub fn project(&self) -> ProjectId {
        match self {
            Self::Accepted(event) => event.project,
            Self::Activity(activity) => activity.project,
        }
    }
}

/// The handle that stages publish to. Cheap to clone.
#[derive(Clone)]
pub struct Tail {
    sender: broadcast::Sender<Sight>,
    watchers: Arc<AtomicUsize>,
}

pub struct Watcher {
    receiver: broadcast::Receiver<Sight>,
    watchers: Arc<AtomicUsize>,
}

#[derive(Debug, PartialEq, Eq)]
pub enum MissedSights {
    /// So many were dropped because the watcher was slow.
    Some(u64),
    /// Nobody can publish any more.
    Closed,
}

impl Tail {
    /// How many sights a slow watcher may lag behind.
    const BOUND: usize = 1024;

    pub fn accepted(&self, event: &Arc<Event>) {
        self.publish(|| Sight::Accepted(event.clone()));
    }

    /// `activity` is made only if somebody watches.
    pub fn activity(&self, activity: impl FnOnce() -> Activity) {
        self.publish(|| Sight::Activity(Arc::new(activity())));
    }

    fn publish(&self, sight: impl FnOnce() -> Sight) {
        if self.watchers.load(Ordering::Relaxed) > 0 {
            // It fails when the last watcher left just now, and then nobody minds.
            let _ = self.sender.send(sight());
        }
    }

    /// Sees what is published from now on.
    pub fn watch(&self) -> Watcher {
        self.watchers.fetch_add(1, Ordering::Relaxed);
        Watcher { receiver: self.sender.subscribe(), watchers: self.watchers.clone() }
    }
}

impl Default for Tail {
    fn default() -> Self {
        Self { sender: broadcast::Sender::new(Self::BOUND), watchers: Arc::default() }
    }
}

impl Watcher {
    /// Cancel-safe.
    pub async fn next(&mut self) -> Result<Sight, MissedSights> {
        self.receiver.recv().await.map_err(|error| match error {
            broadcast::error::RecvError::Lagged(count) => MissedSights::Some(count),
            broadcast::error::RecvError::Closed => MissedSights::Closed,
        })
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.watchers.fetch_sub(1, Ordering::Relaxed);
    }
}
