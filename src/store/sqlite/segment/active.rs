//! The segment that is written to, with a transaction that stays open over many batches.
//!
//! Turns are kept by the [`Journal`]. The segment gets them in one commit now and then, and sooner when
//! somebody wants to read: that publishes them.

use std::{
    fs::{self, File},
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use rusqlite::Connection;

use super::segments::Segment;
use crate::store::{
    Result, StoreError,
    sqlite::{
        error::of_file,
        folder::{
            beside::beside,
            facts::{JOURNALED, set_fact},
            files::{self, Kind, Sync},
            sums,
        },
        wal::{journal::Journal, statement_buffer::StatementBuffer},
    },
};

pub struct ActiveSegment {
    pub segment: Arc<Segment>,
    pub connection: Connection,
    pub log: SegmentWal,
    /// What batches wrote that is not executed yet.
    pub buffer: StatementBuffer,
    /// It is asked to roll when it has grown too large, or holds too many events.
    pub is_large: bool,
    /// Somebody asked to go on in another one.
    pub is_unwanted: bool,
    /// When rolling failed, it is not tried again before this.
    pub not_before: Instant,
    /// What was committed since the log was last brought into the file.
    pub logged: usize,
    /// The disk is full: the log is kept short, and is published sooner.
    is_thrifty: bool,
    unpublished: Option<NotYetVisible>,
}

/// Turns that readers do not see yet.
struct NotYetVisible {
    bytes: usize,
    due: Instant,
}

/// SQLite's own log of the segment. It commits to it without waiting for the disk, since the journal has
/// everything until this is synced.
#[derive(Clone)]
pub struct SegmentWal(Arc<File>);

impl SegmentWal {
    /// Of a segment that is open in WAL mode, and stays so for as long as it is written to.
    fn open(segment: &Path) -> Result<Self> {
        // SQLite locks other files than the log, so that closing it lets go of nothing.
        let file = File::options().write(true).open(beside(segment, "-wal"));
        let file = file.map_err(of_file)?;
        file.sync_all().map_err(of_file)?;
        files::sync_folder(segment.parent().unwrap_or(Path::new(".")))?;
        Ok(Self(Arc::new(file)))
    }

    /// Brings to the disk what was committed. When that fails, nothing can be promised any more.
    pub fn sync(&self) -> Result<()> {
        // Never `Full`, which heals.
        self.0.sync_data().map_err(|error| StoreError::Unavailable(Box::new(error)))
    }
}

/// Pages that the writer may keep of the active segment.
const CACHE_BYTES: u32 = 32 << 20;
/// Turns are published when they have written so much,
const BYTES: usize = 256 << 10;
/// or the first of them is so old, though nobody asked.
const TIMEOUT: Duration = Duration::from_millis(50);

/// What batches wrote is executed when it is so many bytes, or must be read.
const MUCH: usize = 32 << 10;

impl ActiveSegment {
    pub fn open(segment: Arc<Segment>) -> Result<Self> {
        let path = segment.path();
        let connection = files::open_writer(path, Kind::Segment, Sync::ByHand, CACHE_BYTES)?;
        // Pages go to the log when they are committed, not sooner: room on the disk is needed only then.
        connection.pragma_update(None, "cache_spill", false)?;
        // The log is there from the first look into the file on.
        connection.pragma_query_value(None, "schema_version", |_| Ok(()))?;
        let log = SegmentWal::open(path)?;
        // One that an earlier version made is not continued, but for a first event if it has none.
        let is_unwanted = sums::are_missing(path)?;
        Ok(Self {
            segment,
            connection,
            log,
            buffer: StatementBuffer::default(),
            is_large: false,
            is_unwanted,
            not_before: Instant::now(),
            logged: 0,
            is_thrifty: false,
            unpublished: None,
        })
    }

    /// Opens the transaction, if it is not open.
    pub fn begin(&self) -> Result<()> {
        if self.connection.is_autocommit() {
            self.connection.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
        }
        Ok(())
    }

    /// The journal keeps what the batch wrote.
    pub fn kept(&mut self) {
        let due = Instant::now() + TIMEOUT;
        let unpublished = self.unpublished.get_or_insert(NotYetVisible { bytes: 0, due });
        unpublished.bytes += self.buffer.turn().len();
        self.buffer.committed();
    }

    /// How long until batches should be published; `None`: there are none.
    pub fn next_deadline(&self) -> Option<Duration> {
        let unpublished = self.unpublished.as_ref()?;
        Some(unpublished.due.saturating_duration_since(Instant::now()))
    }

    /// Whether batches should be published by now. After a failure it is not tried again for a while.
    pub fn is_due(&self) -> bool {
        let bytes = if self.is_thrifty { BYTES / 8 } else { BYTES };
        self.unpublished.as_ref().is_some_and(|it| it.bytes >= bytes)
            || self.next_deadline() == Some(Duration::ZERO)
    }

    /// Executes what batches wrote, when that has become much. So it is done for many batches at once, and after
    /// their senders were answered.
    pub fn execute_much(&mut self) -> Result<()> {
        if self.buffer.ahead() < MUCH {
            return Ok(());
        }
        self.buffer.execute(&self.connection)
    }

    /// Commits all batches, of which this is the last.
    pub fn publish(&mut self, number: u64) -> Result<()> {
        if let Some(unpublished) = &self.unpublished {
            let bytes = unpublished.bytes;
            self.buffer.execute(&self.connection)?;
            set_fact(&self.connection, JOURNALED, number as i64)?;
            self.connection.prepare_cached("COMMIT")?.execute([])?;
            self.unpublished = None;
            self.logged += bytes.max(1);
        }
        Ok(())
    }

    /// Whether the log is longer than it may be on a full disk.
    pub fn is_log_long(&self) -> bool {
        self.is_thrifty && self.logged >= BYTES / 2
    }

    /// On a full disk the log is cut when it begins again, and what it leaves is room for the segment.
    pub fn set_thrifty(&mut self, is_thrifty: bool) -> Result<()> {
        const LOG_BYTES: i64 = 4 << 20;
        if self.is_thrifty != is_thrifty {
            let limit = if is_thrifty { LOG_BYTES } else { -1 };
            self.connection
                .pragma_update_and_check(None, "journal_size_limit", limit, |_| Ok(()))?;
            (self.is_thrifty, self.logged) = (is_thrifty, BYTES);
        }
        Ok(())
    }

    /// By how much the file grows once its log is in it.
    pub fn growth(&self) -> u64 {
        let pages =
            self.connection.pragma_query_value(None, "page_count", |it| it.get::<_, i64>(0));
        let bytes = pages.unwrap_or(0).max(0) as u64 * 4096;
        let file = fs::metadata(self.segment.path()).map_or(0, |it| it.len());
        bytes.saturating_sub(file)
    }

    /// It could not be done: not before so long again.
    pub fn put_off(&mut self, timeout: Duration) {
        if let Some(unpublished) = &mut self.unpublished {
            *unpublished = NotYetVisible { bytes: 0, due: Instant::now() + timeout };
        }
    }

    /// Takes back what a batch wrote that failed: all that is not committed, and then executes again what
    /// the journal has of it.
    pub fn replay(&mut self, journal: &Journal) -> Result<()> {
        self.buffer.discard();
        self.roll_back()?;
        self.begin()?;
        journal.restore(self.segment.first(), &self.connection)
    }

    /// Takes back all that is not committed.
    pub fn roll_back(&self) -> Result<()> {
        if !self.connection.is_autocommit() {
            self.connection.execute_batch("ROLLBACK")?;
        }
        Ok(())
    }
}
