//! The part of the store that the pipeline of one shard works with: to it, its shard is all there is.

use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;

use super::{
    PostgresStore, memories, unplanned,
    values::{first_of, shard_of_project},
};
use crate::{
    model::{DeliverySeq, Event, EventSeq, Message, NewEvent, Owed, Plan, ProjectId, Remembered},
    store::{
        Appended, Backlog, Health, OwedQuery, Recording, ReplayStep, Result, Settlement, Store,
        WaitingEvent,
    },
};

/// One shard's log. Its events are dense, behind the place `shard << 40`; to ask behind
/// `EventSeq(0)` is to ask from its beginning. Everything else is the whole store's.
#[derive(Clone)]
pub struct ShardLog {
    store: Arc<PostgresStore>,
    shard: u16,
}

impl ShardLog {
    pub(super) fn new(store: Arc<PostgresStore>, shard: u16) -> Self {
        Self { store, shard }
    }

    pub fn shard(&self) -> u16 {
        self.shard
    }

    /// Before its first event.
    pub fn beginning(&self) -> EventSeq {
        first_of(self.shard)
    }
}

#[async_trait]
impl Store for ShardLog {
    async fn append(&self, events: Vec<NewEvent>) -> Result<Vec<Appended>> {
        self.store.append(events).await
    }

    async fn unplanned(&self, after: EventSeq, limit: usize) -> Result<Vec<Arc<Event>>> {
        unplanned::events(&self.store.core, self.shard, after, limit).await
    }

    async fn plan(&self, plans: Vec<Plan>) -> Result<Vec<Owed>> {
        self.store.plan(plans).await
    }

    async fn waiting(&self, after: EventSeq, limit: usize) -> Result<Vec<WaitingEvent>> {
        unplanned::waiting(&self.store.core, self.shard, after, limit).await
    }

    async fn memories(&self) -> Result<Vec<Remembered>> {
        self.store.flush().await?;
        memories::all(&self.store.core, Some(self.shard)).await
    }

    fn plans_for(&self, project: ProjectId) -> bool {
        shard_of_project(project, self.store.shards()) == self.shard
    }

    async fn remember(&self, changes: Vec<Remembered>) -> Result<()> {
        self.store.flush().await?;
        memories::change(&self.store.core, self.shard, &changes).await
    }

    async fn record(&self, recording: Recording) -> Result<Arc<Event>> {
        self.store.record(recording).await
    }

    async fn settle(&self, settlements: Vec<Settlement>) -> Result<()> {
        self.store.settle(settlements).await
    }

    async fn owed(&self, query: OwedQuery) -> Result<Vec<Owed>> {
        self.store.owed(query).await
    }

    async fn backlog(&self) -> Result<Vec<Backlog>> {
        self.store.backlog().await
    }

    async fn messages(&self, deliveries: &[DeliverySeq]) -> Result<Vec<Message>> {
        self.store.messages(deliveries).await
    }

    async fn replay(&self, step: ReplayStep) -> Result<Vec<Owed>> {
        self.store.replay(step).await
    }

    async fn prune(&self, horizons: &[(ProjectId, Timestamp)]) -> Result<u64> {
        self.store.prune(horizons).await
    }

    fn health(&self) -> Health {
        self.store.health()
    }

    async fn close(&self) {
        self.store.close().await;
    }
}
