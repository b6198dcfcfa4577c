//! What people ask: events, deliveries, the activity log, counts. Read from the segments on threads
//! of their own, a few at a time, and never by the writer.
//!
//! Lists run from new to old. An event stands in the segment of its place; the rows about it may
//! stand in later ones, too. So a list goes through the [stretches](walk) of events, and asks for
//! each all segments that may know something about it.

pub mod filter;
mod walk;
pub mod event;
mod events;
mod deliveries;
mod activity;
mod count;
mod stats;
mod counts;

use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;

use super::readers::Readers;
use crate::{
    model::{
        Counted, DeliveryId, DeliverySeq, DeliveryState, DestinationId, Event, EventId, EventSeq,
        IdempotencyKey, PipelineId, ProjectId, ReplayId, Selection,
    },
    store::{
        ActivityFilter, ActivityRecord, DeliveryRecord, EventFilter, EventRecord, Minute, Page,
        Records, ReplayProgress, Result, StoreError,
        sqlite::{SqliteStore, blocking, first_with_key, owed::OwedFile, write::replay},
    },
};

/// What the answers are read from.
pub(super) struct Archive {
    readers: Arc<Readers>,
    owed: OwedFile,
}

/// Rows of a page at most.
const LARGEST_PAGE: usize = 1000;

#[async_trait]
impl Records for SqliteStore {
    async fn event(&self, project: ProjectId, id: EventId) -> Result<Option<EventRecord>> {
        self.ask(move |it| it.event(project, id)).await
    }

    async fn event_by_key(
        &self,
        project: ProjectId,
        key: &IdempotencyKey,
    ) -> Result<Option<EventRecord>> {
        let (keys, key) = (self.keys.clone(), key.clone());
        self.ask(move |it| match first_with_key(&keys, project, &key)? {
            Some(id) => it.event(project, id),
            None => Ok(None),
        })
        .await
    }

    async fn events(
        &self,
        project: ProjectId,
        filter: &EventFilter,
        page: Page,
    ) -> Result<Vec<Event>> {
        let filter = filter.clone();
        self.ask(move |it| it.events(project, &filter, page)).await
    }

    async fn events_behind(
        &self,
        project: ProjectId,
        filter: &EventFilter,
        after: EventSeq,
        limit: usize,
    ) -> Result<Vec<Event>> {
        let filter = filter.clone();
        self.ask(move |it| it.events_behind(project, &filter, after, limit)).await
    }

    async fn count_events(&self, project: ProjectId, filter: &EventFilter) -> Result<u64> {
        let filter = filter.clone();
        self.ask(move |it| it.count_events(project, &filter)).await
    }

    async fn delivery(
        &self,
        project: ProjectId,
        seq: DeliverySeq,
    ) -> Result<Option<DeliveryRecord>> {
        let found = self.ask(move |it| it.delivery(project, seq)).await?;
        self.with_due(project, found).await
    }

    async fn delivery_by_id(
        &self,
        project: ProjectId,
        id: DeliveryId,
    ) -> Result<Option<DeliveryRecord>> {
        let found = self.ask(move |it| it.delivery_by_id(project, id)).await?;
        self.with_due(project, found).await
    }

    async fn deliveries(
        &self,
        project: ProjectId,
        selection: &Selection,
        page: Page,
    ) -> Result<Vec<DeliveryRecord>> {
        self.catch_up(selection).await?;
        let selection = selection.clone();
        self.ask(move |it| it.deliveries(project, &selection, page)).await
    }

    async fn count(&self, project: ProjectId, selection: &Selection) -> Result<u64> {
        self.catch_up(selection).await?;
        let selection = selection.clone();
        self.ask(move |it| it.count(project, &selection)).await
    }

    async fn activity(
        &self,
        project: ProjectId,
        filter: &ActivityFilter,
        page: Page,
    ) -> Result<Vec<ActivityRecord>> {
        let filter = filter.clone();
        self.ask(move |it| it.activity(project, &filter, page)).await
    }

    async fn stats(
        &self,
        destination: DestinationId,
        from: Timestamp,
        until: Timestamp,
    ) -> Result<Vec<Minute>> {
        self.ask(move |it| it.stats(destination, from, until)).await
    }

    async fn counts(
        &self,
        pipeline: PipelineId,
        from: Timestamp,
        until: Timestamp,
    ) -> Result<Vec<Counted>> {
        self.ask(move |it| it.counts(pipeline, from, until)).await
    }

    async fn replay_progress(&self, replay: ReplayId) -> Result<ReplayProgress> {
        self.ask(move |it| replay::progress(&it.readers, replay)).await
    }
}

impl SqliteStore {
    /// Answers a question on a thread where it may wait for the disk. A few at a time: each may take
    /// a core for a while.
    async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Archive) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.be_published_if_possible().await?;
        let turn = self.turns.clone().acquire_owned().await.map_err(|_| StoreError::Closed)?;
        let archive = Archive { readers: self.readers.clone(), owed: self.owed.clone() };
        blocking(move || {
            let _turn = turn;
            question(&archive)
        })
        .await
    }

    /// When a delivery is due stands in `owed.db` only: if it is not there yet, it is asked again.
    async fn with_due(
        &self,
        project: ProjectId,
        found: Option<DeliveryRecord>,
    ) -> Result<Option<DeliveryRecord>> {
        match found {
            Some(it) if it.state == DeliveryState::Retrying && it.due.is_none() => {
                self.flush_if_possible().await?;
                self.ask(move |archive| archive.delivery(project, it.seq)).await
            }
            other => Ok(other),
        }
    }

    /// Where the answer comes from `owed.db`, which follows the commits at a distance, it must have
    /// those that the asker may have seen.
    async fn catch_up(&self, selection: &Selection) -> Result<()> {
        match selection.state {
            Some(DeliveryState::Pending | DeliveryState::Retrying) => {
                self.flush_if_possible().await
            }
            Some(
                DeliveryState::Delivered
                | DeliveryState::Dead
                | DeliveryState::Expired
                | DeliveryState::Cancelled,
            )
            | None => Ok(()),
        }
    }
}
