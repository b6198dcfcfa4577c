//! Keeping an event that was sent already, with what came of it.
//!
//! Its delivery has neither a pipeline nor a replay, which tells it from all others: it says nothing
//! about how far the plans have come.

use std::sync::Arc;

use xxhash_rust::xxh3::xxh3_64;

use super::{
    group_commit::GroupCommit,
    requests::{Recorded, WriteTask},
};
use crate::{
    model::{DeliverySeq, Event, Lane, Owed, Place},
    store::{
        Recording, Result, StoreError,
        sqlite::{SqliteStore, error::unavailable, owed::OwedRow, segment::rows::DeliveryRow},
    },
};

impl SqliteStore {
    pub async fn keep(&self, recording: Recording) -> Result<Arc<Event>> {
        let Recording { event, destination, entries } = recording;
        let Some(id) = event.id else {
            return Err(unavailable("an event that was sent has an id"));
        };
        // What was held back on the disk is for what is owed.
        if self.status.is_full() {
            return Err(StoreError::Full);
        }
        let digest = xxh3_64(event.payload.bytes());
        let recorded = Recorded { offered: self.offer(event, digest), destination, entries };
        self.queue.work(WriteTask::Record(Box::new(recorded))).await?;
        let found = self
            .read(move |it| it.find_by_id(id, |seq| Ok(it.event(seq)?.filter(|it| it.id == id))));
        let found = found.await?.ok_or(StoreError::Damaged { what: "event that was recorded" })?;
        Ok(Arc::new(found))
    }
}

impl GroupCommit<'_> {
    pub fn record(&mut self, recorded: &Recorded) -> Result<Result<Vec<Owed>>> {
        let event = self.accept(recorded.offered.clone())?;
        let place = Place { lane: Lane::NONE, position: 0 };
        let row = DeliveryRow {
            seq: DeliverySeq::new(event.seq, 0),
            project: self.memory.control.number(event.project)?,
            destination: self.memory.control.number(recorded.destination)?,
            pipeline: None,
            version: 0,
            place,
            accepted_at: None,
            replay: None,
            fresh_id: false,
            copy: None,
        };
        self.insert_uncounted(&row, None)?;
        for (number, entry) in (1..).zip(&recorded.entries) {
            self.insert_entry(entry, number, &OwedRow::place_of(&row), row.project)?;
        }
        Ok(Ok(Vec::new()))
    }
}
