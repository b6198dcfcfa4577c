//! What people ask: events, deliveries, the activity log, counts.
//!
//! Every question names a project, whose events are all in one shard: lists run through that part of
//! the primary keys, from new to old.

mod filter;
mod events;
mod deliveries;
mod activity;

use async_trait::async_trait;
use jiff::Timestamp;

use super::{
    PostgresStore,
    core::Core,
    memories, replay,
    values::{self, first_of, seq_to_row},
};
use crate::{
    model::{
        Counted, DeliveryId, DeliverySeq, DestinationId, Event, EventId, EventSeq, IdempotencyKey,
        PipelineId, ProjectId, ReplayId, Selection,
    },
    store::{
        ActivityFilter, ActivityRecord, DeliveryRecord, EventFilter, EventRecord, Minute, Page,
        Records, ReplayProgress, Result,
    },
};

/// Rows of a page at most.
const LARGEST_PAGE: usize = 1000;

#[async_trait]
impl Records for PostgresStore {
    async fn event(&self, project: ProjectId, id: EventId) -> Result<Option<EventRecord>> {
        events::one(&self.core, project, id).await
    }

    async fn event_by_key(
        &self,
        project: ProjectId,
        key: &IdempotencyKey,
    ) -> Result<Option<EventRecord>> {
        events::by_key(&self.core, project, key).await
    }

    async fn events(
        &self,
        project: ProjectId,
        filter: &EventFilter,
        page: Page,
    ) -> Result<Vec<Event>> {
        events::page(&self.core, project, filter, page).await
    }

    async fn events_behind(
        &self,
        project: ProjectId,
        filter: &EventFilter,
        after: EventSeq,
        limit: usize,
    ) -> Result<Vec<Event>> {
        events::behind(&self.core, project, filter, after, limit).await
    }

    async fn count_events(&self, project: ProjectId, filter: &EventFilter) -> Result<u64> {
        events::count(&self.core, project, filter).await
    }

    async fn delivery(
        &self,
        project: ProjectId,
        seq: DeliverySeq,
    ) -> Result<Option<DeliveryRecord>> {
        self.flush().await?;
        deliveries::one(&self.core, project, seq).await
    }

    async fn delivery_by_id(
        &self,
        project: ProjectId,
        id: DeliveryId,
    ) -> Result<Option<DeliveryRecord>> {
        self.flush().await?;
        deliveries::by_id(&self.core, project, id).await
    }

    async fn deliveries(
        &self,
        project: ProjectId,
        selection: &Selection,
        page: Page,
    ) -> Result<Vec<DeliveryRecord>> {
        self.flush().await?;
        deliveries::page(&self.core, project, selection, page).await
    }

    async fn count(&self, project: ProjectId, selection: &Selection) -> Result<u64> {
        self.flush().await?;
        deliveries::count(&self.core, project, selection).await
    }

    async fn activity(
        &self,
        project: ProjectId,
        filter: &ActivityFilter,
        page: Page,
    ) -> Result<Vec<ActivityRecord>> {
        activity::page(&self.core, project, filter, page).await
    }

    async fn stats(
        &self,
        destination: DestinationId,
        from: Timestamp,
        until: Timestamp,
    ) -> Result<Vec<Minute>> {
        activity::stats(&self.core, destination, from, until).await
    }

    async fn counts(
        &self,
        pipeline: PipelineId,
        from: Timestamp,
        until: Timestamp,
    ) -> Result<Vec<Counted>> {
        memories::counts(&self.core, pipeline, from, until).await
    }

    async fn replay_progress(&self, replay: ReplayId) -> Result<ReplayProgress> {
        replay::progress(&self.core, replay).await
    }
}

/// The events of a project stand behind the first place and before the second.
fn bounds(core: &Core, project: ProjectId) -> (i64, i64) {
    let shard = values::shard_of_project(project, core.shards);
    (seq_to_row(first_of(shard)), seq_to_row(first_of(shard + 1)))
}
