//! The segment files: which there are, which of them may hold a row, and connections to read them.

use std::{
    collections::VecDeque,
    path::{Path, PathBuf},
    sync::{
        Arc, Condvar, Mutex, RwLock,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use rusqlite::{Connection, OptionalExtension};

use crate::{
    model::{EventId, EventSeq},
    store::{
        Result,
        sqlite::{
            error::in_file,
            folder::{
                facts::fact,
                files::{self, Folder},
                lost,
                manifest::ManifestFile,
            },
            lock,
        },
    },
};

/// One file of events, and of rows that were written while it was the newest.
pub struct Segment {
    first: EventSeq,
    path: PathBuf,
    /// Never changes again: it has its indexes, and no log beside it.
    sealed: AtomicBool,
    /// The lowest event that a row here is about; [`UNREAD`] until somebody asks.
    oldest: AtomicU64,
    /// The id of the first event, once somebody asked and there is one.
    first_id: Mutex<Option<EventId>>,
    /// The file is gone, or another one stands in its place. Connections to it are not kept.
    is_retired: AtomicBool,
    idle: Arc<IdleConnections>,
}

const UNREAD: u64 = u64::MAX;

/// Connections that nobody uses at the moment, from those used long ago to those used lately.
#[derive(Default)]
struct IdleConnections(Mutex<VecDeque<(EventSeq, Connection)>>, AtomicUsize);

impl Segment {
    /// The place of its first event.
    pub fn first(&self) -> EventSeq {
        self.first
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn is_sealed(&self) -> bool {
        self.sealed.load(Ordering::Acquire)
    }

    /// Whether its file is gone, or another one stands in its place.
    pub fn is_retired(&self) -> bool {
        self.is_retired.load(Ordering::Acquire)
    }

    /// Reads with a connection of its own, which may be kept for the next reader.
    pub fn read<T>(&self, read: impl FnOnce(&Connection) -> Result<T>) -> Result<T> {
        let kept = {
            let mut idle = lock(&self.idle.0);
            let at = idle.iter().rposition(|it| it.0 == self.first);
            at.and_then(|it| idle.remove(it))
        };
        // What was opened before the sealing still reads the same rows.
        let connection = match kept {
            Some((_, connection)) => connection,
            None => files::open_reader(&self.path, self.is_sealed())?,
        };
        let result = read(&connection)?;
        let dropped = {
            let mut idle = lock(&self.idle.0);
            if self.is_retired.load(Ordering::Acquire) {
                Some((self.first, connection))
            } else {
                idle.push_back((self.first, connection));
                if idle.len() > self.idle.1.load(Ordering::Relaxed) {
                    idle.pop_front()
                } else {
                    None
                }
            }
        };
        drop(dropped);
        Ok(result)
    }

    /// The lowest event that a row here is about.
    pub fn oldest(&self) -> Result<EventSeq> {
        let known = self.oldest.load(Ordering::Acquire);
        if known != UNREAD {
            return Ok(EventSeq(known));
        }
        let found = self.read(|it| fact(it, "oldest_event"))?;
        let oldest = found.map_or(self.first.0, |it| (it as u64).min(self.first.0));
        // The writer may have reported a lower one meanwhile.
        Ok(EventSeq(self.oldest.fetch_min(oldest, Ordering::AcqRel).min(oldest)))
    }

    /// Told by the writer before it commits such a row, of a segment whose fact was read before.
    pub fn note_oldest(&self, oldest: EventSeq) {
        self.oldest.fetch_min(oldest.0, Ordering::AcqRel);
    }

    /// The id that we gave its first event; `None` while it is empty.
    pub fn first_id(&self) -> Result<Option<EventId>> {
        let known = *lock(&self.first_id);
        if known.is_some() {
            return Ok(known);
        }
        let found = self.read(|it| {
            let sql = "SELECT id FROM events ORDER BY seq LIMIT 1";
            Ok(it.prepare_cached(sql)?.query_row([], |row| row.get(0)).optional()?)
        })?;
        let id = found.map(|it| EventId::from_bits(u128::from_be_bytes(it)));
        *lock(&self.first_id) = id;
        Ok(id)
    }
}

/// All segments, from old to new. There is always one.
pub struct Segments {
    all: RwLock<Arc<Vec<Arc<Segment>>>>,
    idle: Arc<IdleConnections>,
    /// Events that are being forgotten, in order.
    held: RwLock<Vec<EventSeq>>,
    /// Counts changes, for those who wait for one.
    changes: Mutex<u64>,
    changed: Condvar,
}

/// Events that are being forgotten, for as long as this lives.
pub struct Hold<'a>(&'a Segments);

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        self.0.held.write().unwrap_or_else(|it| it.into_inner()).clear();
    }
}

impl Segments {
    /// The segments of a folder; the first is made if there is none.
    pub fn open(folder: &Folder, manifest: &ManifestFile) -> Result<Self> {
        let mut firsts = folder.segments()?;
        if firsts.is_empty() {
            folder.make_segment(EventSeq(1), 0)?;
            firsts.push(EventSeq(1));
        }
        let segments = Self {
            all: RwLock::default(),
            idle: Arc::default(),
            held: RwLock::default(),
            changes: Mutex::default(),
            changed: Condvar::new(),
        };
        for (at, &first) in firsts.iter().enumerate() {
            let path = folder.segment(first);
            // The newest is opened to be written, which checks it.
            if at + 1 < firsts.len() {
                let name = format!("segments/{:016}.db", first.0);
                let is_new = files::check_version(&path, files::Kind::Segment, || {
                    manifest.change(|it| it.seal(first, None))
                });
                is_new.map_err(in_file(&name, lost::SEGMENTS))?;
            }
            segments.add(segments.make(first, path));
        }
        Ok(segments)
    }

    /// A segment that is not among the others yet.
    pub fn make(&self, first: EventSeq, path: PathBuf) -> Arc<Segment> {
        Arc::new(self.segment(first, path, false))
    }

    pub fn add(&self, segment: Arc<Segment>) {
        self.change(|all| all.push(segment));
    }

    fn segment(&self, first: EventSeq, path: PathBuf, is_sealed: bool) -> Segment {
        Segment {
            first,
            path,
            sealed: AtomicBool::new(is_sealed),
            oldest: AtomicU64::new(UNREAD),
            first_id: Mutex::default(),
            is_retired: AtomicBool::new(false),
            idle: self.idle.clone(),
        }
    }

    /// For a segment that is sealed, on disk and for ever.
    pub fn note_sealed(&self, segment: &Segment) {
        segment.sealed.store(true, Ordering::Release);
        self.close_idle(segment.first);
        self.tell();
    }

    /// For a sealed segment whose file has been replaced by another. Whoever reads the old one may
    /// finish.
    pub fn replace(&self, old: &Segment) {
        let fresh = Arc::new(self.segment(old.first, old.path.clone(), true));
        self.change(|all| {
            if let Some(place) = all.iter_mut().find(|it| it.first == old.first) {
                *place = fresh;
            }
        });
        self.retire(old);
    }

    fn retire(&self, segment: &Segment) {
        segment.is_retired.store(true, Ordering::Release);
        self.close_idle(segment.first);
    }

    /// From now on no replay of these events begins. They stand in order.
    pub fn hold(&self, events: Vec<EventSeq>) -> Hold<'_> {
        *self.held.write().unwrap_or_else(|it| it.into_inner()) = events;
        Hold(self)
    }

    pub fn is_held(&self, event: EventSeq) -> bool {
        let held = self.held.read().unwrap_or_else(|it| it.into_inner());
        held.binary_search(&event).is_ok()
    }

    /// Waits until the segments are as somebody wants them, but not for ever. Blocks.
    pub fn wait_for(&self, timeout: Duration, is_met: impl Fn(&[Arc<Segment>]) -> bool) {
        let changes = lock(&self.changes);
        let waits = |_: &mut u64| !is_met(&self.all());
        drop(self.changed.wait_timeout_while(changes, timeout, waits));
    }

    fn tell(&self) {
        *lock(&self.changes) += 1;
        self.changed.notify_all();
    }

    /// Forgets a segment whose file is about to be deleted. Whoever reads it now may finish.
    pub fn remove(&self, segment: &Segment) {
        self.change(|all| all.retain(|it| it.first != segment.first));
        self.retire(segment);
    }

    /// Each holds up to three files and half a megabyte of pages.
    pub fn keep_idle(&self, most: usize) {
        self.idle.1.store(most, Ordering::Relaxed);
    }

    fn close_idle(&self, first: EventSeq) {
        let mut closed = Vec::new();
        let mut idle = lock(&self.idle.0);
        while let Some(at) = idle.iter().position(|it| it.0 == first) {
            closed.extend(idle.remove(at));
        }
        drop(idle);
    }

    fn change(&self, change: impl FnOnce(&mut Vec<Arc<Segment>>)) {
        let mut all = self.all.write().unwrap_or_else(|it| it.into_inner());
        let mut next = Vec::clone(&all);
        change(&mut next);
        *all = Arc::new(next);
        drop(all);
        self.tell();
    }

    /// From old to new, as they are now.
    pub fn all(&self) -> Arc<Vec<Arc<Segment>>> {
        self.all.read().unwrap_or_else(|it| it.into_inner()).clone()
    }

    /// The one that is written to.
    pub fn newest(&self) -> Arc<Segment> {
        let all = self.all();
        // There is always one: `open` makes the first, and only older ones are ever removed.
        all[all.len() - 1].clone()
    }

    /// The segment of an event; `None` when it was dropped. An event that does not exist yet has
    /// the newest.
    pub fn of_event(&self, seq: EventSeq) -> Option<Arc<Segment>> {
        let all = self.all();
        let behind = all.partition_point(|it| it.first <= seq);
        behind.checked_sub(1).map(|it| all[it].clone())
    }

    /// The segments that may hold rows about an event (deliveries, activity), from old to new:
    /// its own, if that is still there, and later ones that say so.
    pub fn about_event(&self, seq: EventSeq) -> Result<Vec<Arc<Segment>>> {
        let all = self.all();
        let behind = all.partition_point(|it| it.first <= seq);
        let mut found = Vec::from_iter(behind.checked_sub(1).map(|it| all[it].clone()));
        for segment in &all[behind..] {
            if segment.oldest()? <= seq {
                found.push(segment.clone());
            }
        }
        Ok(found)
    }
}
