//! The gate's memory: every key that was ever used, and the first event that had it.
//!
//! It is derived from the rows of events, which hold the keys for as long as the events are kept,
//! and outlives them, since a key counts for ever. New keys stand in a table in memory; full tables
//! become immutable sorted [runs](run), written and merged in the background. A key that is not
//! there, the usual case, costs a look at one cache line for each run, and there are few.
//!
//! 128 bits of a keyed hash decide, and nobody who does not know the key of the hash can make two
//! keys meet in them.

mod bloom;
mod run;
mod write;
mod merge;
mod background;
pub mod gate;
pub mod unsynced;

use std::{
    collections::{HashMap, VecDeque},
    hash::{BuildHasherDefault, Hasher},
    path::{Path, PathBuf},
    sync::{
        Arc, Condvar, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
};

use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use self::run::{KeyEntry, Run};
use super::{folder::private, status::StoreStatus};
use crate::{
    model::{EventId, EventSeq, ProjectId},
    store::{Result, StoreError},
};

/// The first 128 bits of the keyed SHA-256 of namespace, project and key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyHash([u8; 16]);

/// The index, as its one writer holds it. Dropping it ends the background work; what is not in a run
/// yet is then read from the events again when it is opened.
pub struct KeyIndex {
    reader: KeyReader,
    background: Vec<JoinHandle<()>>,
}

/// The index, as anybody may ask it.
#[derive(Clone)]
pub struct KeyReader {
    shared: Arc<Shared>,
}

/// Runs that can be read as long as this lives.
#[derive(Clone)]
pub struct Runs(Arc<Vec<Arc<Run>>>);

impl Runs {
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The `from`-th key of a run and some behind it, in the order of their hashes. Runs are counted
    /// from new to old: of a key that stands in several, the first counts.
    pub fn items(&self, run: usize, from: usize, limit: usize) -> Result<Vec<KeyEntry>> {
        match self.0.iter().rev().nth(run) {
            Some(run) => run.items_from(from).take(limit).collect(),
            None => Ok(Vec::new()),
        }
    }
}

#[derive(Clone, Copy, Debug)]
pub struct KeyIndexLimits {
    /// Keys in the table in memory; more become a run.
    pub recent_keys: usize,
    /// Events after which a run is made though the table is not full, so that opening never has to
    /// go through more than these.
    pub recent_events: u64,
    /// Full tables that may wait for the disk. When there are more, adding waits, too.
    pub waiting_tables: usize,
    /// Runs of about the same size that are merged into one.
    pub fan_in: usize,
    /// Bytes of filters that are held in memory. Those of further runs are read when they are asked.
    pub filter_memory: u64,
}

impl Default for KeyIndexLimits {
    fn default() -> Self {
        Self {
            // As many as a hash table of 2^17 places takes, which is 4.3 MB.
            recent_keys: 114_688,
            recent_events: 1_000_000,
            waiting_tables: 4,
            fan_in: 4,
            filter_memory: 48 << 20,
        }
    }
}

struct Shared {
    folder: PathBuf,
    secret: Zeroizing<[u8; 32]>,
    limits: KeyIndexLimits,
    state: Mutex<State>,
    /// Something moved: a table is full, a run is there, the end is near.
    moved: Condvar,
    stop: AtomicBool,
    /// Hears of a disk that broke.
    status: Arc<StoreStatus>,
}

struct State {
    recent: Table,
    /// Full tables on their way to the disk, from old to new.
    full: VecDeque<Arc<Table>>,
    /// From old to new. Replaced as a whole, so that a search goes on in the ones that it began with.
    runs: Arc<Vec<Arc<Run>>>,
    /// Runs hold every key of the events up to here.
    covered: u64,
    /// The last event that we know of.
    seen: u64,
    /// Why the last try to write a run failed, until one succeeds.
    failure: Option<StoreError>,
}

#[derive(Default)]
struct Table {
    entries: HashMap<u128, EventId, BuildHasherDefault<AlreadyUniform>>,
    /// It and the runs before it hold every key of the events up to here.
    last: u64,
}

impl KeyHash {
    pub fn bits(self) -> u128 {
        u128::from_be_bytes(self.0)
    }

    fn high(self) -> u64 {
        (self.bits() >> 64) as u64
    }

    fn low(self) -> u64 {
        self.bits() as u64
    }
}

impl KeyIndex {
    /// Opens the index in this folder, which is made if it is missing.
    ///
    /// What a crash left unfinished is deleted: events still have those keys. A run that is damaged
    /// or missing is an error, since its events may be gone, and their keys would be accepted again.
    ///
    /// `status` hears of a disk that broke.
    pub fn open(folder: &Path, secret: [u8; 32], status: Arc<StoreStatus>) -> Result<Self> {
        Self::open_with(folder, secret, KeyIndexLimits::default(), status)
    }

    pub fn open_with(
        folder: &Path,
        secret: [u8; 32],
        limits: KeyIndexLimits,
        status: Arc<StoreStatus>,
    ) -> Result<Self> {
        let secret = Zeroizing::new(secret);
        private::make_folder(folder)?;
        let runs = background::open_runs(folder, secret_check(&secret), &limits)?;
        let covered = runs.last().map_or(0, |it| *it.events().end());
        let state = State {
            recent: Table::default(),
            full: VecDeque::new(),
            runs: Arc::new(runs),
            covered,
            seen: covered,
            failure: None,
        };
        let shared = Arc::new(Shared {
            folder: folder.to_owned(),
            secret,
            limits,
            state: Mutex::new(state),
            moved: Condvar::new(),
            stop: AtomicBool::new(false),
            status,
        });
        let background = background::start(&shared)?;
        Ok(Self { reader: KeyReader { shared }, background })
    }

    pub fn reader(&self) -> KeyReader {
        self.reader.clone()
    }

    pub fn covered(&self) -> EventSeq {
        self.reader.covered()
    }

    pub fn find(&self, hash: &KeyHash) -> Result<Option<EventId>> {
        self.reader.find(hash)
    }

    /// Adds the key of an event that is committed, in the order of events; an event may have several.
    /// A key that was added before means the newest event from now on.
    ///
    /// It waits only while more tables than `Limits::waiting_tables` wait for a disk that does not keep up.
    pub fn add(&mut self, hash: KeyHash, id: EventId, seq: EventSeq) {
        let shared = &self.reader.shared;
        let mut state = shared.room(seq.0);
        if seq.0 > state.covered {
            state.recent.entries.insert(hash.bits(), id);
            state.seen = state.seen.max(seq.0);
        }
    }

    /// Says that the events up to here have no keys but those that were added. Without it, a long
    /// stretch of events without keys would have to be read again at every start.
    pub fn pass(&mut self, through: EventSeq) {
        let shared = &self.reader.shared;
        let mut state = shared.room(through.0);
        state.seen = state.seen.max(through.0);
    }
}

impl Drop for KeyIndex {
    fn drop(&mut self) {
        let shared = &self.reader.shared;
        {
            let _state = shared.lock();
            shared.stop.store(true, Ordering::Relaxed);
            shared.moved.notify_all();
        }
        for thread in self.background.drain(..) {
            // A panic there was reported when it happened; files are whole at every moment.
            let _ = thread.join();
        }
    }
}

impl KeyReader {
    pub fn hash(&self, namespace: u8, project: ProjectId, key: &str) -> KeyHash {
        let digest = Sha256::new()
            .chain_update(self.shared.secret.as_slice())
            .chain_update([namespace])
            .chain_update(project.bits().to_be_bytes())
            .chain_update(key)
            .finalize();
        KeyHash(digest.as_chunks().0[0])
    }

    /// Keys in runs. One that stands in several counts as often.
    pub fn count(&self) -> u64 {
        self.shared.lock().runs.iter().map(|it| it.count()).sum()
    }

    /// The runs as they are now, whatever becomes of them.
    pub fn runs(&self) -> Runs {
        Runs(self.shared.lock().runs.clone())
    }

    /// Runs hold every key of the events up to here, durably. When the index is opened, the keys of
    /// later events must be added again.
    pub fn covered(&self) -> EventSeq {
        EventSeq(self.shared.lock().covered)
    }

    /// The first event that had this key. It fails when a run cannot be read, or when so many keys
    /// could not be written that the index must not grow: then nothing may be accepted.
    pub fn find(&self, hash: &KeyHash) -> Result<Option<EventId>> {
        let runs = {
            let mut state = self.shared.lock();
            if let Some(id) = state.in_memory(hash) {
                return Ok(Some(id));
            }
            if state.full.len() >= self.shared.limits.waiting_tables
                && let Some(failure) = state.failure.take()
            {
                let answer = similar(&failure);
                state.failure = Some(failure);
                return Err(answer);
            }
            state.runs.clone()
        };
        // The newest first: repeated keys mostly follow each other soon.
        for run in runs.iter().rev() {
            if let Some(id) = run.find(*hash)? {
                return Ok(Some(id));
            }
        }
        Ok(None)
    }

    /// Makes every key that was added so far durable. Nothing may be forgotten before this
    /// returned. It blocks on the disk, while others go on.
    pub fn flush(&self) -> Result<()> {
        let mut state = self.shared.lock();
        let through = state.seen;
        state.close_table();
        self.shared.moved.notify_all();
        while state.covered < through {
            if self.shared.stop.load(Ordering::Relaxed) {
                return Err(StoreError::Closed);
            }
            if let Some(failure) = &state.failure {
                return Err(similar(failure));
            }
            state = wait(&self.shared.moved, state);
        }
        Ok(())
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn secret_check(&self) -> u64 {
        secret_check(&self.secret)
    }

    /// The state, with room in its table for a key of this event. A table ends between two events,
    /// never within one, so that its last event says which keys it has.
    fn room(&self, seq: u64) -> MutexGuard<'_, State> {
        let mut state = self.lock();
        let is_next = seq > state.seen;
        let is_full = state.recent.entries.len() >= self.limits.recent_keys
            || state.seen - state.closed() >= self.limits.recent_events;
        if is_next && is_full {
            // With a disk that fails we go on: `find` refuses before anything more is accepted.
            while state.full.len() >= self.limits.waiting_tables
                && state.failure.is_none()
                && !self.stop.load(Ordering::Relaxed)
            {
                state = wait(&self.moved, state);
            }
            state.close_table();
            self.moved.notify_all();
        }
        state
    }
}

impl State {
    fn in_memory(&self, hash: &KeyHash) -> Option<EventId> {
        let bits = hash.bits();
        let full = || self.full.iter().rev().find_map(|it| it.entries.get(&bits));
        self.recent.entries.get(&bits).or_else(full).copied()
    }

    /// The last event whose keys are in a run or in a table that is on its way there.
    fn closed(&self) -> u64 {
        self.full.back().map_or(self.covered, |it| it.last)
    }

    fn close_table(&mut self) {
        if self.seen > self.closed() {
            let mut table = std::mem::take(&mut self.recent);
            table.last = self.seen;
            self.full.push_back(Arc::new(table));
        }
    }
}

/// For hashes, whose bits are as good as any that a hasher would make of them.
#[derive(Default)]
struct AlreadyUniform(u64);

impl Hasher for AlreadyUniform {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0 << 8 | u64::from(*byte);
        }
    }

    fn write_u128(&mut self, number: u128) {
        self.0 = number as u64;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// Reads every key of every run in this folder, which nobody has open. Says up to which event they go.
pub fn read_all(folder: &Path, secret: &[u8; 32]) -> Result<u64> {
    let limits = KeyIndexLimits { filter_memory: 0, ..KeyIndexLimits::default() };
    let runs = background::open_runs(folder, secret_check(secret), &limits)?;
    for run in &runs {
        run.items().try_for_each(|it| it.map(drop))?;
    }
    Ok(runs.last().map_or(0, |it| *it.events().end()))
}

/// The last event whose keys are in a run of this folder, by the names of the files.
pub fn highest(folder: &Path) -> Result<u64> {
    background::highest(folder)
}

/// Tells one secret from another and says nothing about either.
fn secret_check(secret: &[u8; 32]) -> u64 {
    let digest = Sha256::new().chain_update(b"tidegate key index").chain_update(secret).finalize();
    u64::from_be_bytes(digest.as_chunks().0[0])
}

fn wait<'state>(moved: &Condvar, state: MutexGuard<'state, State>) -> MutexGuard<'state, State> {
    moved.wait(state).unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// An error to answer with, while the original is kept for those who ask later.
fn similar(failure: &StoreError) -> StoreError {
    match failure {
        StoreError::Full => StoreError::Full,
        StoreError::Damaged { what } => StoreError::Damaged { what },
        StoreError::Incomplete(loss) => StoreError::Incomplete(loss.clone()),
        StoreError::Newer { found, known } => StoreError::Newer { found: *found, known: *known },
        StoreError::TooManyDeliveries => StoreError::TooManyDeliveries,
        StoreError::Fenced => StoreError::Fenced,
        StoreError::Unfinished => StoreError::Unfinished,
        StoreError::Closed => StoreError::Closed,
        StoreError::Unavailable(source) => StoreError::Unavailable(source.to_string().into()),
    }
}

#[cfg(test)]
mod tests;
