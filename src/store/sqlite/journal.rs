//! The log of the newest segment, and how much of it is on disk.
//!
//! SQLite commits to it without waiting for the disk. The writer syncs it before it keeps a promise:
//! to a sender, that its event is kept, and to other files, that what they follow will still be
//! there. Plans and outcomes promise nothing to anybody outside: a commit that has only them is
//! synced with the next event, or soon. The log is a chain of checksums, so that a power cut leaves
//! the commits up to some moment, never a later one without an earlier one. SQLite itself syncs it
//! before it brings anything of it into the file, and when it begins anew.

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt as _,
    path::Path,
    time::{Duration, Instant},
};

use super::{
    error::{of_file, unavailable},
    files, seal,
};
use crate::store::{Result, StoreError};

pub(super) struct Journal {
    /// Our own handle: SQLite locks other files than the log, so that closing it lets go of nothing.
    file: File,
    /// The first commit that may not be on disk.
    unsynced_since: Option<Instant>,
    /// Outcomes in such commits.
    outcomes: usize,
    has_failed: bool,
    /// How long the file is, in bytes: past that, SQLite makes it longer.
    length: u64,
}

/// Proof that all that was committed to the newest segment was on disk a moment ago. Whoever makes
/// something that outlives a power cut from what was committed asks for it.
pub(super) struct Synced(());

impl Journal {
    /// What a power cut may take of plans and outcomes: as much as was committed in this time,
    const PATIENCE: Duration = Duration::from_millis(50);
    /// and never more outcomes than this, which is how many deliveries are then made once more.
    const OUTCOMES: usize = 1024;
    /// The file grows in steps of its own length, but within these bounds.
    const STEPS: std::ops::RangeInclusive<u64> = 256 << 10..=4 << 20;

    /// Of a segment that is open in WAL mode, and stays so for as long as this lives. What an earlier
    /// process left in the log is on disk afterwards: it may have been killed before it was.
    pub fn open(segment: &Path) -> Result<Self> {
        let file = File::options().write(true).open(seal::beside(segment, "-wal"));
        let file = file.map_err(of_file)?;
        file.sync_all().map_err(of_file)?;
        files::sync_folder(segment.parent().unwrap_or(Path::new(".")))?;
        let length = file.metadata().map_err(of_file)?.len();
        Ok(Self { file, unsynced_since: None, outcomes: 0, has_failed: false, length })
    }

    /// A transaction was committed, with so many outcomes of deliveries.
    pub fn note_commit(&mut self, outcomes: usize) {
        self.unsynced_since.get_or_insert_with(Instant::now);
        self.outcomes += outcomes;
    }

    /// How long what was committed may still wait for its sync; `None`: it has had it.
    pub fn patience(&self) -> Option<Duration> {
        match self.unsynced_since {
            None => None,
            // It is of no use to ask again.
            Some(_) if self.has_failed => None,
            Some(_) if self.outcomes >= Self::OUTCOMES => Some(Duration::ZERO),
            Some(since) => Some(Self::PATIENCE.saturating_sub(since.elapsed())),
        }
    }

    /// Brings to the disk what was committed. Once that has failed, it fails for ever: the kernel may
    /// have dropped the pages, and would report success the next time.
    pub fn sync(&mut self) -> Result<Synced> {
        if self.has_failed {
            return Err(unavailable("an earlier sync failed"));
        }
        if self.unsynced_since.is_some() {
            let begun = Instant::now();
            self.make_room();
            if let Err(error) = self.file.sync_data() {
                self.has_failed = true;
                // Never `Full`, which heals.
                return Err(StoreError::Unavailable(Box::new(error)));
            }
            metrics::histogram!("tidegate_store_sync_seconds").record(begun.elapsed());
            (self.unsynced_since, self.outcomes) = (None, 0);
        }
        Ok(Synced(()))
    }

    /// Makes the file longer, with zeros, when SQLite just had to. A sync of a file that has grown
    /// takes twice as long as one of pages that were there before. SQLite begins anew in the same
    /// file, so that this ends once the file is as long as the log ever gets.
    fn make_room(&mut self) {
        let grow = || -> io::Result<u64> {
            let length = self.file.metadata()?.len();
            if length <= self.length {
                return Ok(self.length);
            }
            let zeros = vec![0; *Self::STEPS.start() as usize];
            let until = length + length.clamp(*Self::STEPS.start(), *Self::STEPS.end());
            let mut at = length;
            while at < until {
                let now = zeros.len().min((until - at) as usize);
                self.file.write_all_at(&zeros[..now], at)?;
                at += now as u64;
            }
            Ok(until)
        };
        match grow() {
            Ok(length) => self.length = length,
            // The disk is nearly full, most likely. It goes on as it is, and tries again later.
            Err(error) => {
                tracing::debug!(%error, "the log is not made longer");
                self.length += Self::STEPS.end();
            }
        }
    }
}
