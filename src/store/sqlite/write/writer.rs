//! The writer: one thread that takes whatever waits, does it in one batch, and answers.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    group_commit::{AcceptedBatch, GroupCommit, WriterState},
    pending_acks::{Ack, PendingAcks},
    queue::{End, WriteBatch, WriteQueue},
    requests::{Append, ReplyTo, WriteRequest},
    syncer::Syncer,
};
use crate::{
    model::Owed,
    store::{
        Appended, Result, StoreError,
        sqlite::{
            Options,
            error::{failed, is_broken, unavailable},
            folder::{changes, disk_reserve::DiskReserve, files::Folder, manifest::ManifestFile},
            keys::{gate::PendingEvent, unsynced::BatchKeys},
            segment::{active::ActiveSegment, maintenance::Maintenance, segments::Segments},
            status::StoreStatus,
            wal::{journal::Journal, synced::Synced},
        },
    },
};

pub struct Writer {
    pub folder: Arc<Folder>,
    pub manifest: Arc<ManifestFile>,
    pub options: Options,
    pub queue: Arc<WriteQueue>,
    pub status: Arc<StoreStatus>,
    pub segments: Arc<Segments>,
    pub newest: ActiveSegment,
    pub journal: Journal,
    pub syncer: Syncer,
    pub memory: WriterState,
    pub room: DiskReserve,
    /// When the disk was last asked for its room.
    pub looked: Instant,
    pub upkeep: Maintenance,
}

/// What a batch did, in the order of what it was asked.
struct Committed {
    appended: Vec<Vec<Appended>>,
    done: Vec<Result<Vec<Owed>>>,
    accepted: AcceptedBatch,
}

impl Writer {
    pub fn run(mut self) {
        let _gone = WriterGone { queue: self.queue.clone(), status: self.status.clone() };
        let end = loop {
            let batch = self.queue.take(self.next_deadline());
            let WriteBatch { appends, works, flushes, readers, is_roll, end } = batch;
            if end == Some(End::Abandon) {
                break End::Abandon;
            }
            if !appends.is_empty() || !works.is_empty() {
                self.run_batch(appends, works);
            }
            let is_asked = !readers.is_empty() || !flushes.is_empty();
            for done in flushes {
                self.memory.ledger.flush(done);
            }
            if is_asked {
                self.publish_for(readers);
            }
            self.newest.is_unwanted |= is_roll;
            self.between_batches();
            if let Some(end) = end {
                // A failure has been reported.
                let _ = self.publish();
                break end;
            }
        };
        self.status.close();
        self.queue.writer_gone();
        let synced = match end {
            End::Close => self.sync().ok(),
            End::Abandon => None,
        };
        // Ends the threads, and with them the connections, before the folder is let go.
        drop((self.syncer, self.upkeep));
        if synced.is_some()
            && let Err(error) = changes::fold(&self.newest.connection)
        {
            tracing::debug!(%error, "the log of the newest segment stays");
        }
        match synced {
            Some(synced) => self.memory.ledger.close(synced),
            None => drop(self.memory),
        }
    }

    /// How long to sleep when nothing comes; `None`: until something does.
    fn next_deadline(&self) -> Option<Duration> {
        let full = self.status.is_full().then_some(DiskReserve::TIMEOUT);
        let restless = self.memory.ledger.has_pending().then_some(Duration::from_millis(250));
        let waits = [full, restless, self.journal.next_deadline(), self.newest.next_deadline()];
        waits.into_iter().flatten().min()
    }

    fn run_batch(&mut self, appends: Vec<Append>, works: Vec<WriteRequest>) {
        let (mut events, mut requests) = (Vec::new(), Vec::new());
        for append in appends {
            if self.status.is_full() {
                append.request.answer(Err(StoreError::Full));
            } else {
                events.push(append.events);
                requests.push(append.request);
            }
        }
        let begun = Instant::now();
        match self.keep(events, &works) {
            Ok(kept) => self.acks(kept, requests, works, begun),
            Err(StoreError::Full) => {
                self.status.set_full(true);
                requests.into_iter().for_each(|it| it.answer(Err(StoreError::Full)));
                self.go_on_without_room(works);
            }
            Err(error) => {
                self.record_failure(error);
                requests.into_iter().for_each(|it| it.answer(Err(failed())));
                works.into_iter().for_each(|it| it.request.answer(Err(failed())));
            }
        }
    }

    /// Deliveries go on while the disk is full, if need be in the room that was held back.
    fn go_on_without_room(&mut self, works: Vec<WriteRequest>) {
        if works.is_empty() {
            return;
        }
        let begun = Instant::now();
        let mut result = Err(StoreError::Full);
        // Each file of the journal has room, and then the reserve.
        for attempt in 0.. {
            let has_more_room = attempt < 2 || self.room.release();
            if !matches!(result, Err(StoreError::Full)) || !has_more_room {
                break;
            }
            // A failure has been reported.
            let _ = self.renew_journal();
            result = self.keep(Vec::new(), &works);
        }
        match result {
            Ok(kept) => self.acks(kept, Vec::new(), works, begun),
            Err(StoreError::Full) => {
                works.into_iter().for_each(|it| it.request.answer(Err(StoreError::Full)));
            }
            Err(error) => {
                self.record_failure(error);
                works.into_iter().for_each(|it| it.request.answer(Err(failed())));
            }
        }
    }

    pub fn record_failure(&self, error: StoreError) {
        tracing::error!(error = &error as &dyn std::error::Error, "a commit failed");
        if is_broken(&error) {
            self.status.break_down();
        }
    }

    /// One batch: all of it stands in the journal, or nothing was done.
    fn keep(
        &mut self,
        events: Vec<Vec<PendingEvent>>,
        works: &[WriteRequest],
    ) -> Result<Committed> {
        if self.status.is_broken() {
            return Err(failed());
        }
        let marks = self.memory.marks;
        self.memory.begin();
        let kept = match self.transact(events, works) {
            Ok(kept) => kept,
            Err(error) => {
                self.memory.roll_back(marks);
                self.replay_journal();
                return Err(error);
            }
        };
        self.memory.ledger.commit();
        Ok(kept)
    }

    /// The segment is as the batches left it that count. If that fails, nobody knows how it is.
    pub fn replay_journal(&mut self) {
        if let Err(error) = self.newest.replay(&self.journal) {
            self.record_failure(error);
            self.status.break_down();
        }
    }

    /// Brings to the disk what was done. When that fails, nothing can be promised any more.
    pub fn sync(&mut self) -> Result<Synced> {
        self.syncer.sync(self.journal.ask_for_sync())
    }

    fn transact(
        &mut self,
        events: Vec<Vec<PendingEvent>>,
        works: &[WriteRequest],
    ) -> Result<Committed> {
        self.newest.begin()?;
        let mut turn = GroupCommit::begin(&mut self.newest, &mut self.memory);
        let mut appended = Vec::with_capacity(events.len());
        for events in events {
            appended.push(turn.append(events)?);
        }
        let mut done = Vec::with_capacity(works.len());
        for work in works {
            done.push(turn.task(&work.task)?);
        }
        let accepted = turn.finish()?;
        let (segment, buffer) = (self.newest.segment.first(), self.newest.buffer.turn());
        if !buffer.is_empty() {
            let outcomes = works.iter().map(|it| it.task.outcomes()).sum();
            self.journal.append(segment, buffer, outcomes)?;
            self.newest.kept();
            self.status.set_unpublished(true);
        }
        Ok(Committed { appended, done, accepted })
    }

    /// Answers what a batch did: at once where nothing is promised, so that deliveries go on meanwhile, and the
    /// rest when the batch is on disk.
    fn acks(
        &mut self,
        kept: Committed,
        requests: Vec<ReplyTo<Vec<Appended>>>,
        works: Vec<WriteRequest>,
        begun: Instant,
    ) {
        let Committed { appended, done, accepted } = kept;
        self.status.set_planned_through(self.memory.marks.planned_through);
        if self.memory.waiting.has_changed() {
            self.status.set_waiting(self.memory.waiting.events());
        }
        let mut promised = Vec::new();
        for (work, answer) in works.into_iter().zip(done) {
            if work.task.is_promised() {
                promised.push(Ack { request: work.request, answer });
            } else {
                work.request.answer(answer);
            }
        }
        let (turn, last) = (self.journal.number(), accepted.events.last().map(|it| it.seq));
        let answers = requests.into_iter().zip(appended);
        let appends = answers.map(|(request, it)| Ack { request, answer: Ok(it) }).collect();
        let acks = PendingAcks { appends, works: promised, accepted: accepted.events, begun };
        if !acks.is_empty() {
            self.syncer.acks(self.journal.ask_for_sync(), acks);
        }
        if let Some(last) = last {
            let keys = BatchKeys { turn, keys: accepted.keys, last };
            self.memory.unsynced.add(keys, self.syncer.synced(), &mut self.memory.keys);
        }
    }

    fn between_batches(&mut self) {
        self.apply_owed();
        if let Err(error) = self.newest.execute_much() {
            self.record_failure(error);
            self.replay_journal();
        }
        if self.newest.is_due() {
            // A failure has been reported.
            let _ = self.publish();
        }
        if self.journal.is_long(!self.status.is_full())
            && let Err(error) = self.switch_journal()
        {
            tracing::debug!(%error, "the journal grows for a while longer");
        }
        metrics::gauge!("tidegate_store_owed_changes_in_memory")
            .set(self.memory.ledger.len() as f64);
        self.look_for_room();
        self.checkpoint();
        let events = self.memory.marks.next_event.0 - self.newest.segment.first().0;
        let is_due = events >= self.options.segment_events
            || self.newest.is_large
            || self.newest.is_unwanted;
        // A new segment needs room, and so does sealing the old one.
        if is_due
            && events > 0
            && !self.status.is_full()
            && self.newest.not_before <= Instant::now()
        {
            self.roll();
        }
    }

    /// Has synced what has waited for long enough, and hands on to `owed.db` what it should have by now.
    fn apply_owed(&mut self) {
        if self.journal.next_deadline() == Some(Duration::ZERO) {
            self.syncer.begin(self.journal.ask_for_sync());
        }
        if self.memory.ledger.is_due() {
            match self.sync() {
                Ok(synced) => self.memory.ledger.apply_pending(synced),
                Err(_) => {
                    let why = "the disk failed; the log says how";
                    self.memory.ledger.refuse(|| unavailable(why));
                }
            }
        }
    }

    /// Keeps the log of the active segment short, with as little work on this thread as may be.
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
            && let Err(error) = self.publish().and_then(|()| self.empty_log())
            && !matches!(error, StoreError::Full)
        {
            self.record_failure(error);
        }
    }

    /// Tells a new segment what steps remember, since the ones before it may go. If that fails, the next
    /// batch does it.
    fn tell_memories(&mut self) {
        // A batch in which nothing is asked does what every batch does.
        if let Err(error) = self.keep(Vec::new(), &[]) {
            self.record_failure(error);
        }
    }

    /// Goes on in a new segment. When that is not possible, the old one grows for a while longer.
    fn roll(&mut self) {
        match self.next_segment() {
            Ok(fresh) => {
                let first = fresh.segment.first();
                let old = std::mem::replace(&mut self.newest, fresh);
                self.memory.marks.oldest = first;
                self.memory.marks.written = 0;
                self.memory.marks.trimmed = self.memory.ledger.number();
                self.tell_memories();
                self.upkeep.seal(old.segment, old.connection);
            }
            Err(StoreError::Full) => self.newest.not_before = Instant::now() + DiskReserve::TIMEOUT,
            Err(error) => {
                self.newest.not_before = Instant::now() + Duration::from_secs(5);
                self.record_failure(error);
            }
        }
    }

    fn next_segment(&mut self) -> Result<ActiveSegment> {
        let first = self.memory.marks.next_event;
        // First the old one: nothing must last that follows what does not.
        let synced = self.sync()?;
        self.publish()?;
        self.sync_log()?;
        let path = self.folder.make_segment(first, self.journal.number())?;
        self.manifest.change(|it| it.add_segment(first))?;
        let segment = self.segments.make(first, path);
        segment.note_oldest(first);
        let fresh = ActiveSegment::open(segment.clone())?;
        if let Err(error) = self.journal.begin_again(synced) {
            self.status.break_down();
            return Err(error);
        }
        self.segments.add(segment);
        Ok(fresh)
    }
}

/// Nobody must wait for a writer that is gone, also when it ended in a panic.
struct WriterGone {
    queue: Arc<WriteQueue>,
    status: Arc<StoreStatus>,
}

impl Drop for WriterGone {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.status.break_down();
        }
        self.queue.writer_gone();
    }
}
