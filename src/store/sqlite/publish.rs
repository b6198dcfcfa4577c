//! When readers see what turns wrote: the writer commits it to the newest segment, and lets go of what the
//! journal has of it.

use tokio::sync::oneshot;

use super::{
    error::{is_broken, unavailable},
    room::Room,
    upkeep,
    writer::Writer,
};
use crate::store::{Result, StoreError};

impl Writer {
    /// Publishes turns, and tells the readers that wait.
    pub(super) fn publish_for(&mut self, readers: Vec<oneshot::Sender<Result<()>>>) {
        let result = self.publish();
        for reader in readers {
            let answer = match &result {
                Ok(()) => Ok(()),
                Err(StoreError::Full) => Err(StoreError::Full),
                Err(_) => Err(unavailable("what was kept last cannot be read; the log says why")),
            };
            // Whoever asked may have gone.
            let _ = reader.send(answer);
        }
    }

    /// Commits all turns to the segment, if need be in the room that was held back on the disk. Nobody reads
    /// of an event that a power cut may still take, and everybody finds the key of one that was answered.
    pub(super) fn publish(&mut self) -> Result<()> {
        if !self.syncer.is_done() {
            // A failure has been told: nothing is accepted any more, and readers see what there is.
            let _ = self.sync();
        }
        self.memory.unsynced.hand_on(self.syncer.synced(), &mut self.memory.keys);
        let number = self.journal.number();
        let mut result = self.newest.publish(number);
        if matches!(result, Err(StoreError::Full)) {
            self.status.set_full(true);
        }
        for has_more_room in [|_: &Room| true, Room::release] {
            if matches!(result, Err(StoreError::Full)) && has_more_room(&self.room) {
                result = self.empty_log().and_then(|()| {
                    self.newest.restore(&self.journal)?;
                    self.newest.publish(number)
                });
            }
        }
        match &result {
            Ok(()) => self.status.set_unpublished(false),
            Err(error) => {
                if !matches!(error, StoreError::Full) {
                    tracing::error!(
                        error = error as &dyn std::error::Error,
                        "what was kept cannot be committed"
                    );
                }
                self.status.judge(error);
                // The turns count all the same.
                self.newest.put_off(Room::PATIENCE);
                self.restore();
            }
        }
        result
    }

    /// Brings the log of the segment into its file. It holds many versions of a few pages: once they are in
    /// the file, which needs little room for that, it begins anew in the room that it has. No transaction
    /// is open afterwards.
    pub(super) fn empty_log(&mut self) -> Result<()> {
        self.newest.roll_back()?;
        match upkeep::checkpoint(&self.newest.connection) {
            Err(error) if is_broken(&error) => Err(error),
            Err(error) => {
                tracing::debug!(%error, "the log stays as it is");
                Ok(())
            }
            Ok(_) => Ok(()),
        }
    }

    /// Brings the log of the segment to the disk. When that fails, nothing can be promised any more.
    pub(super) fn sync_log(&mut self) -> Result<()> {
        self.newest.log.sync().inspect_err(|error| {
            self.status.break_down();
            tracing::error!(error = error as &dyn std::error::Error, "a sync failed");
        })
    }

    /// Goes on in the other file of the journal when one has grown long.
    pub(super) fn switch_journal(&mut self) -> Result<()> {
        self.publish()?;
        if !self.journal.is_other_spent() {
            self.sync_log()?;
        }
        let synced = self.sync()?;
        let spent = self.journal.switch(synced);
        self.newest.told.begin_file();
        self.upkeep.sync(self.newest.log.clone(), spent);
        Ok(())
    }
}
