//! When readers see what batches wrote: the writer commits it to the active segment, and lets go of what the
//! journal has of it.

use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::writer::Writer;
use crate::store::{
    Result, StoreError,
    sqlite::{
        error::{is_broken, unavailable},
        folder::{
            beside::checkpoint,
            disk_reserve::{DiskReserve, ReserveNeeds},
        },
    },
};

impl Writer {
    /// Publishes batches, and tells the readers that wait.
    pub fn publish_for(&mut self, readers: Vec<oneshot::Sender<Result<()>>>) {
        let result = self.publish();
        for reader in readers {
            let answer = match &result {
                Ok(()) => Ok(()),
                Err(StoreError::Full) => Err(StoreError::Full),
                Err(_) => Err(unavailable("recent writes cannot be read; see the server log")),
            };
            // Whoever asked may have gone.
            let _ = reader.send(answer);
        }
    }

    /// Commits all batches to the segment, if need be in the room that was held back on the disk. Nobody reads
    /// of an event that a power cut may still take, and everybody finds the key of one that was answered.
    pub fn publish(&mut self) -> Result<()> {
        if !self.syncer.is_done() {
            // A failure has been reported: nothing is accepted any more, and readers see what there is.
            let _ = self.sync();
        }
        self.memory.unsynced.hand_on(self.syncer.synced(), &mut self.memory.keys);
        let number = self.journal.number();
        let mut result = self.newest.publish(number);
        if matches!(result, Err(StoreError::Full)) {
            self.status.set_full(true);
        }
        // First in the room that the log has, then in the pieces of the reserve.
        let mut has_more_room = true;
        while matches!(result, Err(StoreError::Full)) && has_more_room {
            result = self.empty_log().and_then(|()| {
                self.newest.replay(&self.journal)?;
                self.newest.publish(number)
            });
            has_more_room = result.is_err() && self.room.release();
        }
        match &result {
            Ok(()) => {
                self.status.set_unpublished(false);
                if self.newest.is_log_long()
                    && let Err(error) = self.empty_log()
                {
                    self.record_failure(error);
                }
            }
            Err(error) => {
                if !matches!(error, StoreError::Full) {
                    tracing::error!(
                        error = error as &dyn std::error::Error,
                        "what was kept cannot be committed"
                    );
                }
                self.status.record_failure(error);
                // The batches count all the same.
                self.newest.put_off(DiskReserve::TIMEOUT);
                self.replay_journal();
            }
        }
        result
    }

    /// Brings the log of the segment into its file. It holds many versions of a few pages: once they are in
    /// the file, which needs little room for that, it begins again in the room that it has. No transaction
    /// is open afterwards.
    pub fn empty_log(&mut self) -> Result<()> {
        self.newest.roll_back()?;
        match checkpoint(&self.newest.connection) {
            Err(error) if is_broken(&error) => Err(error),
            Err(error) => {
                tracing::debug!(%error, "the log stays as it is");
                Ok(())
            }
            Ok(_) => {
                self.newest.logged = 0;
                Ok(())
            }
        }
    }

    /// Brings the log of the segment to the disk. When that fails, nothing can be promised any more.
    pub fn sync_log(&mut self) -> Result<()> {
        self.newest.log.sync().inspect_err(|error| {
            self.status.break_down();
            tracing::error!(error = error as &dyn std::error::Error, "a sync failed");
        })
    }

    /// Goes on in the other file of the journal when one has grown long.
    pub fn switch_journal(&mut self) -> Result<()> {
        self.publish()?;
        if !self.journal.is_other_spent() {
            self.sync_log()?;
        }
        let synced = self.sync()?;
        let spent = self.journal.switch(synced);
        self.newest.buffer.begin_file();
        self.upkeep.sync(self.newest.log.clone(), spent);
        Ok(())
    }

    /// Goes on at the beginning of a file of the journal, in the room that it has.
    pub fn renew_journal(&mut self) -> Result<()> {
        self.publish()?;
        self.sync_log()?;
        let synced = self.sync()?;
        self.journal.switch(synced).set();
        self.newest.buffer.begin_file();
        Ok(())
    }

    /// Sees to it that there is room for what becomes of what was accepted: sooner than that, events are
    /// refused.
    pub fn look_for_room(&mut self) {
        /// As often as batches are published.
        const EVERY: Duration = Duration::from_millis(50);
        if self.memory.ledger.is_stuck() {
            self.status.set_full(true);
            self.room.release_in_time();
            self.memory.ledger.refuse(|| StoreError::Full);
        } else if self.status.is_full() {
            if self.room.is_back(self.needs()) {
                self.status.set_full(false);
            }
        } else if self.looked.elapsed() >= EVERY {
            self.looked = Instant::now();
            let needs = self.needs();
            if self.room.is_tight(needs) {
                self.status.set_full(true);
            } else {
                self.room.follow(needs);
            }
        }
        let is_full = self.status.is_full();
        if let Err(error) = self.newest.set_thrifty(is_full) {
            tracing::debug!(%error, "the log is not cut");
        }
        if self.newest.is_log_long() {
            // A failure has been reported.
            let _ = self.publish();
        }
    }

    fn needs(&self) -> ReserveNeeds {
        let marks = &self.memory.marks;
        ReserveNeeds {
            growth: self.newest.growth(),
            changes: self.memory.ledger.len() as u64,
            pending: self.memory.ledger.pending(),
            unplanned: (marks.next_event.0 - 1).saturating_sub(marks.planned_through.0),
        }
    }
}
