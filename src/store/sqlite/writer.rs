//! The writer: one thread that takes whatever waits, commits it as one transaction, and answers.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use rusqlite::Connection;

use super::{
    Options,
    error::{is_broken, unavailable},
    files::{self, Folder, Kind, Sync},
    inbox::{Append, Batch, End, Inbox, Offered, Request, Work},
    journal::{Journal, Synced},
    room::Room,
    segments::{Segment, Segments},
    status::Status,
    turn::{Accepted, Memory, Turn},
    upkeep::{self, Upkeep},
};
use crate::{
    hint,
    model::{Event, Owed},
    store::{Appended, Result, StoreError},
};

pub(super) struct Writer {
    pub folder: Arc<Folder>,
    pub options: Options,
    pub inbox: Arc<Inbox>,
    pub status: Arc<Status>,
    pub segments: Arc<Segments>,
    pub newest: Newest,
    pub memory: Memory,
    pub room: Room,
    pub upkeep: Upkeep,
    pub accepted: hint::Sender<Vec<Arc<Event>>, bool>,
}

/// The segment that is written to.
pub(super) struct Newest {
    pub segment: Arc<Segment>,
    pub connection: Connection,
    pub journal: Journal,
    /// It is asked to roll when it has grown too large, or holds too many events.
    pub is_large: bool,
    /// Somebody asked to go on in another one.
    pub is_unwanted: bool,
    /// When rolling failed, it is not tried again before this.
    pub not_before: Instant,
}

/// What a turn did, in the order of what it was asked.
struct Committed {
    appended: Vec<Vec<Appended>>,
    done: Vec<Result<Vec<Owed>>>,
    accepted: Accepted,
}

/// Pages that the writer may keep of the newest segment.
const CACHE_BYTES: u32 = 32 << 20;

impl Newest {
    pub fn open(segment: Arc<Segment>) -> Result<Self> {
        let (connection, journal) = open(segment.path())?;
        Ok(Self {
            segment,
            connection,
            journal,
            is_large: false,
            is_unwanted: false,
            not_before: Instant::now(),
        })
    }
}

fn open(path: &Path) -> Result<(Connection, Journal)> {
    let connection = files::open_writer(path, Kind::Segment, Sync::ByHand, CACHE_BYTES)?;
    // The log is there from the first look into the file on.
    connection.pragma_query_value(None, "schema_version", |_| Ok(()))?;
    let journal = Journal::open(path)?;
    Ok((connection, journal))
}

impl Writer {
    pub fn run(mut self) {
        let _gone = Gone { inbox: self.inbox.clone(), status: self.status.clone() };
        let end = loop {
            let Batch { appends, works, flushes, is_roll, end } = self.inbox.take(self.patience());
            if end == Some(End::Abandon) {
                break End::Abandon;
            }
            if !appends.is_empty() || !works.is_empty() {
                self.turn(appends, works);
            }
            for done in flushes {
                self.memory.ledger.flush(done);
            }
            self.newest.is_unwanted |= is_roll;
            self.between_turns();
            if let Some(end) = end {
                break end;
            }
        };
        self.status.close();
        self.inbox.writer_gone();
        // Ends the threads, and with them the connections, before the folder is let go.
        drop(self.upkeep);
        let synced = match end {
            End::Close => self.newest.journal.sync().ok(),
            End::Abandon => None,
        };
        match synced {
            Some(synced) => self.memory.ledger.close(synced),
            None => drop(self.memory),
        }
    }

    /// How long to sleep when nothing comes; `None`: until something does.
    fn patience(&self) -> Option<Duration> {
        let full = self.status.is_full().then_some(Room::PATIENCE);
        let restless = self.memory.ledger.is_restless().then_some(Duration::from_millis(250));
        [full, restless, self.newest.journal.patience()].into_iter().flatten().min()
    }

    fn turn(&mut self, appends: Vec<Append>, works: Vec<Work>) {
        let (mut events, mut requests) = (Vec::new(), Vec::new());
        for append in appends {
            if self.status.is_full() {
                append.request.answer(Err(StoreError::Full));
            } else {
                events.push(append.events);
                requests.push(append.request);
            }
        }
        match self.commit(events, &works) {
            Ok(committed) => self.answer(committed, requests, works),
            Err(StoreError::Full) => {
                self.status.set_full(true);
                requests.into_iter().for_each(|it| it.answer(Err(StoreError::Full)));
                self.go_on_without_room(works);
            }
            Err(error) => {
                self.judge(error);
                requests.into_iter().for_each(|it| it.answer(Err(failed())));
                works.into_iter().for_each(|it| it.request.answer(Err(failed())));
            }
        }
    }

    /// Deliveries go on while the disk is full, if need be in the room that was held back.
    fn go_on_without_room(&mut self, works: Vec<Work>) {
        if works.is_empty() {
            return;
        }
        // The log holds many versions of a few pages. Once they are in the file, which needs little
        // room for that, the log begins anew in the room that it has.
        let mut result = Err(StoreError::Full);
        for has_more_room in [|_: &Room| true, Room::release] {
            if matches!(result, Err(StoreError::Full)) && has_more_room(&self.room) {
                if let Err(error) = upkeep::checkpoint(&self.newest.connection) {
                    tracing::debug!(%error, "the log stays as it is");
                }
                result = self.commit(Vec::new(), &works);
            }
        }
        match result {
            Ok(committed) => self.answer(committed, Vec::new(), works),
            Err(StoreError::Full) => {
                works.into_iter().for_each(|it| it.request.answer(Err(StoreError::Full)));
            }
            Err(error) => {
                self.judge(error);
                works.into_iter().for_each(|it| it.request.answer(Err(failed())));
            }
        }
    }

    fn judge(&self, error: StoreError) {
        tracing::error!(error = &error as &dyn std::error::Error, "a commit failed");
        if is_broken(&error) {
            self.status.break_down();
        }
    }

    /// One transaction: all of it, or nothing.
    fn commit(&mut self, events: Vec<Vec<Offered>>, works: &[Work]) -> Result<Committed> {
        if self.status.is_broken() {
            return Err(failed());
        }
        let begun = Instant::now();
        let marks = self.memory.marks;
        self.memory.begin();
        let committed = match self.transact(events, works) {
            Ok(committed) => committed,
            Err(error) => {
                self.memory.roll_back(marks);
                let connection = &self.newest.connection;
                if !connection.is_autocommit()
                    && let Err(error) = connection.execute_batch("ROLLBACK")
                {
                    self.judge(error.into());
                    self.status.break_down();
                }
                return Err(error);
            }
        };
        self.memory.ledger.commit();
        self.newest.journal.note_commit(works.iter().map(|it| it.task.outcomes()).sum());
        let is_promised =
            !committed.accepted.events.is_empty() || works.iter().any(|it| it.task.is_promised());
        if is_promised {
            self.sync()?;
        }
        metrics::histogram!("tidegate_store_commit_seconds").record(begun.elapsed());
        metrics::histogram!("tidegate_store_commit_events")
            .record(committed.accepted.events.len() as f64);
        Ok(committed)
    }

    /// Brings to the disk what was committed. When that fails, nothing can be promised any more.
    fn sync(&mut self) -> Result<Synced> {
        self.newest.journal.sync().inspect_err(|error| {
            self.status.break_down();
            tracing::error!(error = error as &dyn std::error::Error, "a sync failed");
        })
    }

    fn transact(&mut self, events: Vec<Vec<Offered>>, works: &[Work]) -> Result<Committed> {
        let Newest { connection, segment, .. } = &self.newest;
        connection.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
        let mut turn = Turn::begin(connection, segment, &mut self.memory)?;
        let mut appended = Vec::with_capacity(events.len());
        for events in events {
            appended.push(turn.append(events)?);
        }
        let mut done = Vec::with_capacity(works.len());
        for work in works {
            done.push(turn.task(&work.task)?);
        }
        let accepted = turn.finish()?;
        connection.prepare_cached("COMMIT")?.execute([])?;
        Ok(Committed { appended, done, accepted })
    }

    fn answer(
        &mut self,
        committed: Committed,
        requests: Vec<Request<Vec<Appended>>>,
        works: Vec<Work>,
    ) {
        let Committed { appended, done, accepted } = committed;
        self.status.set_planned_through(self.memory.marks.planned_through);
        if self.memory.waiting.has_changed() {
            self.status.set_waiting(self.memory.waiting.events());
        }
        for (request, answer) in requests.into_iter().zip(appended) {
            request.answer(Ok(answer));
        }
        for (work, answer) in works.into_iter().zip(done) {
            work.request.answer(answer);
        }
        let Accepted { events, keys } = accepted;
        let last = events.last().map(|it| it.seq);
        if !events.is_empty() {
            self.accepted.send(events);
        }
        for (hash, id, seq) in keys {
            self.memory.keys.add(hash, id, seq);
        }
        if let Some(last) = last {
            self.memory.keys.pass(last);
        }
    }

    fn between_turns(&mut self) {
        self.hand_on();
        metrics::gauge!("tidegate_store_owed_changes_in_memory")
            .set(self.memory.ledger.len() as f64);
        if self.memory.ledger.is_stuck() {
            self.status.set_full(true);
            self.room.release();
        } else if self.status.is_full() && self.room.is_back() {
            self.status.set_full(false);
        }
        self.checkpoint();
        let events = self.memory.marks.next_event.0 - self.newest.segment.first().0;
        let is_due = events >= self.options.segment_events
            || self.newest.is_large
            || self.newest.is_unwanted;
        if is_due && events > 0 && self.newest.not_before <= Instant::now() {
            self.roll();
        }
    }

    /// Syncs what has waited for long enough, and hands on to `owed.db` what it should have by now.
    fn hand_on(&mut self) {
        if self.newest.journal.patience() == Some(Duration::ZERO) {
            // A failure has been told, and the store is broken.
            let _ = self.sync();
        }
        if self.memory.ledger.is_due() {
            match self.sync() {
                Ok(synced) => self.memory.ledger.hand_on(synced),
                Err(_) => self.memory.ledger.refuse(),
            }
        }
    }

    /// Keeps the log of the newest segment short, with as little work on this thread as may be.
    fn checkpoint(&mut self) {
        /// Bytes written until a checkpoint is asked for. Small commits write whole pages, which
        /// this does not count; the log is then a few times as long.
        const BYTES: usize = 8 << 20;
        if self.memory.marks.written >= BYTES {
            self.memory.marks.written = 0;
            self.upkeep.checkpoint(&self.newest.segment);
            let pages = self
                .newest
                .connection
                .pragma_query_value(None, "page_count", |row| row.get::<_, i64>(0));
            let bytes = pages.unwrap_or(0).max(0) as u64 * 4096;
            self.newest.is_large = bytes >= self.options.segment_bytes;
        }
        if self.upkeep.wants_the_rest()
            && let Err(error) = upkeep::checkpoint(&self.newest.connection)
            && !matches!(error, StoreError::Full)
        {
            self.judge(error);
        }
    }

    /// Tells a new segment what steps remember, since the ones before it may go. If that fails, the next
    /// commit does it.
    fn tell_memories(&mut self) -> Result<()> {
        let Newest { connection, segment, .. } = &self.newest;
        self.memory.memories.begin();
        let transaction = connection.unchecked_transaction()?;
        let told = self.memory.memories.write(connection, segment.first());
        match told.and_then(|_| Ok(transaction.commit()?)) {
            Ok(()) => {
                self.newest.journal.note_commit(0);
                Ok(())
            }
            Err(error) => {
                self.memory.memories.roll_back();
                Err(error)
            }
        }
    }

    /// Goes on in a new segment. When that is not possible, the old one grows for a while longer.
    fn roll(&mut self) {
        let first = self.memory.marks.next_event;
        // First the old one: a commit must not last that follows one which does not.
        let next = self.sync().and_then(|_| self.folder.make_segment(first)).and_then(|path| {
            let (connection, journal) = open(&path)?;
            Ok((path, connection, journal))
        });
        match next {
            Ok((path, connection, journal)) => {
                let segment = self.segments.add(first, path);
                segment.note_oldest(first);
                let fresh = Newest {
                    segment,
                    connection,
                    journal,
                    is_large: false,
                    is_unwanted: false,
                    not_before: self.newest.not_before,
                };
                let old = std::mem::replace(&mut self.newest, fresh);
                self.memory.marks.oldest = first;
                self.memory.marks.written = 0;
                self.memory.marks.trimmed = self.memory.ledger.number();
                if let Err(error) = self.tell_memories() {
                    self.judge(error);
                }
                self.upkeep.seal(old.segment, old.connection);
            }
            Err(StoreError::Full) => self.newest.not_before = Instant::now() + Room::PATIENCE,
            Err(error) => {
                self.newest.not_before = Instant::now() + Duration::from_secs(5);
                self.judge(error);
            }
        }
    }
}

/// Nobody must wait for a writer that is gone, also when it ended in a panic.
struct Gone {
    inbox: Arc<Inbox>,
    status: Arc<Status>,
}

impl Drop for Gone {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.status.break_down();
        }
        self.inbox.writer_gone();
    }
}

fn failed() -> StoreError {
    unavailable("the disk or the database failed; the log says how")
}
