//! The embedded store: SQLite files in one folder, with a write-ahead journal in front of them.
//!
//! One writer thread makes one commit batch of all requests that wait (group commit), and appends
//! it to the journal. The active segment, an append-only file of events and the rows about them,
//! follows later. Readers use connections of their own. docs/adr/0005 to 0014 say why.
//!
//! # On-disk layout
//!
//! | file | what it holds | may be lost |
//! |---|---|---|
//! | `journal-0`, `journal-1` | write-ahead journal: commit batches not yet in the segment | no |
//! | `segments/<first seq>.db` | events and all rows about them; the last file is active | no |
//! | `control.db` | resources, the small numbers that stand for ids in rows, settings | no |
//! | `directory.db` | people, companies and rows of tables, for enrichment | no |
//! | `keys/<first>-<last>.keys` | the key index: sorted runs of idempotency keys | no |
//! | `owed.db` | the pending deliveries, derived from the segments | yes |
//! | `manifest` | which files belong here; digests of sealed segments; sums of a clean stop | no |
//! | `marks` | high-water marks of fsynced work: journal, `control.db`, `directory.db` | yes |
//! | `reserve` | the disk reserve: bytes held back for a full disk | yes |
//! | `lock` | held while a process has the folder open | yes |
//!
//! The tables are described in `folder/migrations/`, a run of keys in `keys/run.rs`.
//!
//! A journal record is a length (u32) and a checksum (xxh3, u64), then the segment (u64), the
//! record's number (u64), and statements with their values; all little-endian. The text of a
//! statement stands where it first occurs in a file, so that any version can replay it. The two
//! journal files are written in turn: one is reused once all its records are in a segment and
//! fsynced there. Numbers only grow, so records of an older use of the file are recognised.
//!
//! # Write path
//!
//! 1. Callers put requests into the write queue (`write/queue.rs`), which is bounded by bytes.
//! 2. The writer (`write/writer.rs`) takes the waiting requests, events first, as one commit batch
//!    (`write/group_commit.rs`). The idempotency check falls here: keys of this batch, keys that are not fsynced
//!    yet (`keys/unsynced.rs`), and the key index (`keys/`). The batch gives sequence numbers and ids,
//!    without gaps.
//! 3. The batch writes statements into a buffer (`wal/statement_buffer.rs`, `wal/statements.rs`). They become one journal
//!    record (`wal/journal.rs`): one write. From here on the batch survives `kill -9`.
//! 4. Plans and outcomes are answered now. Events and replays are pending acks (`write/pending_acks.rs`): they
//!    are answered, and hinted to the pipeline, after the fsync (`write/syncer.rs`). Without such a
//!    request, fsync follows after 50 ms or 1,024 outcomes. Quick fsyncs run in the writer, slow
//!    ones on a thread; there is one in-flight fsync at a time.
//! 5. Buffered statements are executed in the open transaction of the active segment (`segment/active.rs`)
//!    once they are 32 KiB, or when the batch must read. The transaction is committed, and so made
//!    visible (`write/publish.rs`), after 256 KiB, after 50 ms, or when a reader asks. The commit writes
//!    the fact `journaled`: the high-water mark of journal records in this segment.
//! 6. The maintenance thread (`segment/maintenance.rs`) checkpoints the segment's SQLite WAL after each 8 MiB.
//!    When a journal file is 8 MiB long, the writer switches to the other one.
//! 7. A full active segment (500,000 events, 1 GiB), or one that retention wants sealed, is left
//!    for a new file, and sealed (`segment/seal.rs`): it gets its indexes and never changes again.
//!
//! Each commit that changes pending deliveries writes one outbox row (table `redo`). A thread
//! (`owed/applier.rs`) applies these to `owed.db` at a distance; a delivery that is planned and
//! soon ended cancels out in memory. Applied rows are deleted a few at a time.
//!
//! A batch that fails is rolled back. The open transaction goes with it, so the journal's records
//! since the last commit are replayed into the segment.
//!
//! Invariant: nothing derived is ahead of fsync. `owed.db`, the key index, a new segment and
//! retention never hold effects of a commit batch that a power cut could still take. The type
//! `Synced` is the proof: only an fsync makes one, and who writes such a file asks for it.
//! `control.db` and `directory.db` fsync every change. After a crash `control.db` may hold numbers
//! that no segment uses; that is harmless. After a failed fsync of any file nothing is accepted
//! until a restart, since the kernel may have dropped the dirty pages.
//!
//! # Recovery
//!
//! 1. Take the lock; delete half-made segments; on a full disk, free a part of the reserve.
//! 2. Compare the folder with `manifest` and `marks`. A file that is missing or changed refuses
//!    the start and says what would be lost; `tidegate check --repair` goes on without it.
//! 3. Replay into the active segment the journal records behind `journaled`, by the code of step 5.
//!    The first torn record ends the journal. One below the mark of the last fsync is damage.
//!    fsync, so that nothing is read that a power cut could still take.
//! 4. Read the high-water marks from the segments: the last event, the last planned event, the
//!    plans with a pending look-up, step memory.
//! 5. Add to the key index the keys of events behind its last run.
//! 6. Apply the outbox rows that `owed.db` has not seen. Missing or damaged, it is rebuilt from the
//!    segments (`owed/rebuild.rs`).
//!
//! # Read path
//!
//! A read first has the writer commit buffered statements, so that a caller sees what was acknowledged.
//! It then runs on a blocking thread, a few at a time, on its own connections (`query/readers.rs`,
//! `segment/segments.rs`); sealed segments are opened as immutable, without locks. An event is found by
//! its sequence number, or from its id by binary search, since ids grow with it. Bodies lie in zstd
//! blocks of up to 64 (`segment/blocks.rs`) and are checked against their digest. Rows about an event may
//! stand in later segments, too: lists walk segments from new to old (`query/records/`). Pending
//! deliveries are read from `owed.db` after a flush of the outbox, in the order of
//! (destination, lane, position, sequence number), so that the head-of-line delivery
//! of each lane comes first.
//!
//! # Deletion
//!
//! Retention (`prune/`) works on sealed segments, beside the writer. It deletes a file that nothing
//! needs, and rewrites one of which 30 % or more of the events may go. An event with a pending
//! delivery or without a whole plan stays; a row about an event stays as long as the event. Before
//! a file goes, the key index is flushed (keys outlive events) and the manifest stops naming it. A
//! rewritten file is whole and fsynced before it takes the old name. Erasing a person rewrites
//! files in the same way, after the active segment is sealed and the journal emptied; an erased
//! body leaves `digest = 0`.
//!
//! # Full disk
//!
//! Events are refused while free space and reserve would not do for the outcomes of pending
//! deliveries (`folder/disk_reserve.rs`). Deliveries go on: the journal is reused early, the WAL is kept short,
//! and the reserve is given up in pieces. It heals by itself.

mod error;
mod options;
mod status;
mod folder;
mod wal;
mod segment;
mod keys;
mod owed;
mod registry;
mod query;
mod write;
mod prune;
mod check;
mod open;

use std::{
    sync::{Arc, Mutex, MutexGuard, Weak},
    thread::JoinHandle,
};

use async_trait::async_trait;
use jiff::Timestamp;
use tokio::sync::Semaphore;

pub use self::{
    check::{Checked, check, repair::repair},
    options::Options,
    query::snapshot,
};
use self::{
    folder::{files::Folder, manifest::ManifestFile},
    keys::{
        KeyReader,
        gate::{GateKeys, PendingEvent},
    },
    owed::{OwedFile, OwedRow},
    query::{
        duplicates::{DuplicateCheck, compare, first_with_key},
        readers::Readers,
    },
    registry::directory::DirectoryFile,
    segment::rows,
    status::StoreStatus,
    write::{
        memory::{memories, waiting},
        queue::{End, WriteQueue},
        replay,
        requests::WriteTask,
    },
};
use super::{
    Appended, Backlog, Health, OwedQuery, Recording, ReplayStep, Result, Settlement, Store,
    StoreError, WaitingEvent,
};
use crate::model::{
    DeliverySeq, DestinationId, Event, EventSeq, Message, NewEvent, Owed, Plan, ProjectId,
    Remembered,
};

/// Where ids get what nobody can guess.
pub type RandomSource = Box<dyn FnMut() -> u64 + Send>;

/// The store of one process. Dropped without [`Store::close`], it leaves what a crash would.
pub struct SqliteStore {
    readers: Arc<Readers>,
    owed: OwedFile,
    keys: KeyReader,
    queue: Arc<WriteQueue>,
    status: Arc<StoreStatus>,
    random: Mutex<RandomSource>,
    turns: Arc<Semaphore>,
    /// The writer holds it, and lets it go when the store is closed.
    folder: Weak<Folder>,
    /// Taken by whoever forgets old events.
    forgetting: Arc<tokio::sync::Mutex<()>>,
    directory: Arc<DirectoryFile>,
    manifest: Arc<ManifestFile>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl SqliteStore {
    /// `digest` is that of the payload.
    fn offer(&self, event: NewEvent, digest: u64) -> PendingEvent {
        let gate = GateKeys::of(&self.keys, event.project, event.key.as_ref(), event.id);
        let random = lock(&self.random)();
        PendingEvent { gate, taken: None, digest, random, event }
    }

    /// Reads on a thread that may block, and sees all that was done before.
    async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Readers) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.be_published().await?;
        self.read_beside(read).await
    }

    /// Returns when readers see all that was done before.
    async fn be_published(&self) -> Result<()> {
        self.status.check_open()?;
        if self.status.is_unpublished() { self.queue.publish().await } else { Ok(()) }
    }

    /// Returns when readers see as much as can be shown: on a disk that has no room at all, people see what
    /// was published last.
    async fn be_published_if_possible(&self) -> Result<()> {
        if_possible(self.be_published().await)
    }

    /// Returns when `owed.db` holds as much as it can.
    async fn flush_if_possible(&self) -> Result<()> {
        if_possible(self.queue.flush().await)
    }

    /// Reads what is not in the segments, on a thread that may block.
    async fn read_beside<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Readers) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.status.check_open()?;
        let _turn = self.turns.acquire().await.map_err(|_| StoreError::Closed)?;
        let readers = self.readers.clone();
        blocking(move || read(&readers)).await
    }

    /// Writes beside the writer, to a file of its own, on a thread that may block. A disk that breaks
    /// under it is broken for all.
    async fn write<T: Send + 'static>(
        &self,
        write: impl FnOnce(&Readers) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.read_beside(write).await.inspect_err(|error| self.status.record_failure(error))
    }

    /// Reads what is owed, as it is after all that was asked before.
    async fn read_owed<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Readers, &OwedFile) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.queue.flush().await?;
        let owed = self.owed.clone();
        self.read(move |readers| read(readers, &owed)).await
    }
}

impl Drop for SqliteStore {
    fn drop(&mut self) {
        self.queue.end(End::Abandon);
        if let Some(thread) = lock(&self.thread).take() {
            // A panic there was already reported.
            let _ = thread.join();
        }
    }
}

#[async_trait]
impl Store for SqliteStore {
    async fn append(&self, events: Vec<NewEvent>) -> Result<Vec<Appended>> {
        if events.is_empty() {
            return Ok(Vec::new());
        }
        // What would be needed to look at duplicates afterwards.
        let asked: Vec<DuplicateCheck> = events.iter().map(DuplicateCheck::of).collect();
        let mut offered: Vec<PendingEvent> = events
            .into_iter()
            .zip(&asked)
            .map(|(event, it)| self.offer(event, it.digest))
            .collect();
        // An id of ours that somebody posts was given out before, so that readers see its event.
        if offered.iter().any(|it| it.event.id.is_some()) {
            offered = self.read(move |it| it.mark_taken(offered)).await?;
        }
        let mut appended = self.queue.append(offered).await?;
        let has_duplicates = appended.iter().any(|it| matches!(it, Appended::Duplicate { .. }));
        if has_duplicates {
            appended = self.read(move |it| Ok(compare(it, appended, &asked))).await?;
        }
        Ok(appended)
    }

    async fn unplanned(&self, after: EventSeq, limit: usize) -> Result<Vec<Arc<Event>>> {
        /// Bodies that are read at once, however many events are asked for.
        const BYTES: usize = 8 << 20;
        let after = after.max(self.status.planned_through());
        let events =
            self.read(move |it| it.events_from(EventSeq(after.0 + 1), limit, BYTES)).await?;
        Ok(events.into_iter().map(Arc::new).collect())
    }

    async fn plan(&self, plans: Vec<Plan>) -> Result<Vec<Owed>> {
        self.queue.work(WriteTask::Plan(plans)).await
    }

    async fn waiting(&self, after: EventSeq, limit: usize) -> Result<Vec<WaitingEvent>> {
        let mut events = self.status.waiting();
        events.retain(|it| *it > after);
        self.read(move |it| waiting::read(it, &events, limit)).await
    }

    async fn memories(&self) -> Result<Vec<Remembered>> {
        self.read(memories::read).await
    }

    async fn remember(&self, changes: Vec<Remembered>) -> Result<()> {
        self.queue.work(WriteTask::Remember(changes)).await.map(drop)
    }

    async fn record(&self, recording: Recording) -> Result<Arc<Event>> {
        self.keep(recording).await
    }

    async fn settle(&self, settlements: Vec<Settlement>) -> Result<()> {
        self.queue.work(WriteTask::Settle(settlements)).await.map(drop)
    }

    async fn owed(&self, query: OwedQuery) -> Result<Vec<Owed>> {
        self.read_owed(move |readers, owed| owed_by(readers, owed, query)).await
    }

    async fn backlog(&self) -> Result<Vec<Backlog>> {
        self.flush_if_possible().await?;
        let owed = self.owed.clone();
        self.read_beside(move |readers| {
            let backlog = |(destination, owed, oldest)| {
                Ok(Backlog {
                    destination: readers.control.id(destination)?,
                    owed,
                    oldest: rows::time(oldest)?,
                })
            };
            owed.backlog()?.into_iter().map(backlog).collect()
        })
        .await
    }

    async fn messages(&self, deliveries: &[DeliverySeq]) -> Result<Vec<Message>> {
        let deliveries = deliveries.to_vec();
        self.read(move |it| it.messages(&deliveries)).await
    }

    async fn replay(&self, step: ReplayStep) -> Result<Vec<Owed>> {
        // What was held back on the disk is for what is owed.
        if self.status.is_full() {
            return Err(StoreError::Full);
        }
        let prepared = self.read(move |it| replay::prepare(it, step)).await?;
        self.queue.work(WriteTask::Replay(prepared)).await
    }

    async fn prune(&self, horizons: &[(ProjectId, Timestamp)]) -> Result<u64> {
        self.forget(horizons).await
    }

    fn health(&self) -> Health {
        self.status.health()
    }

    async fn close(&self) {
        self.queue.end(End::Close);
        let thread = lock(&self.thread).take();
        if let Some(thread) = thread {
            // A panic there was already reported.
            let _ = tokio::task::spawn_blocking(move || thread.join()).await;
        }
        // It sees that the store is closed, and leaves the files alone.
        drop(self.forgetting.lock().await);
        self.fold().await;
    }
}

fn owed_by(readers: &Readers, owed: &OwedFile, query: OwedQuery) -> Result<Vec<Owed>> {
    let number = |destination: DestinationId| readers.control.known_number(destination);
    let found = match query {
        OwedQuery::Line { destination, after, per_lane, limit } => match number(destination) {
            Some(number) => owed.line(number, after, per_lane, limit)?,
            None => Vec::new(),
        },
        OwedQuery::Due { destination, until, limit } => match number(destination) {
            Some(number) => owed.due(number, rows::micros(until), limit)?,
            None => Vec::new(),
        },
        OwedQuery::First { destination } => match number(destination) {
            Some(number) => owed.first(number)?.into_iter().collect(),
            None => Vec::new(),
        },
        OwedQuery::These(seqs) => {
            let mut wanted = Vec::with_capacity(seqs.len());
            for seq in seqs {
                wanted.extend(readers.delivery(seq)?.map(|it| OwedRow::place_of(&it)));
            }
            owed.these(&wanted)?
        }
    };
    found.into_iter().map(|it| it.to_owed(&readers.control)).collect()
}

/// A full disk is no reason to show nothing.
fn if_possible(result: Result<()>) -> Result<()> {
    match result {
        Err(StoreError::Full) => Ok(()),
        other => other,
    }
}

fn secret(random: &mut RandomSource) -> [u8; 32] {
    let mut secret = [0; 32];
    for part in secret.chunks_mut(8) {
        part.copy_from_slice(&random().to_le_bytes());
    }
    secret
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(StoreError::Unavailable(Box::new(error))),
    }
}

/// Whoever panicked with the lock left nothing half-done behind it that matters here.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}
