//! Brings the journal to the disk, and then keeps what was promised.
//!
//! A disk that is quick is waited for. A slow one is left to a thread, while the writer makes the next batch:
//! one sync is on its way at a time, and it counts for everything that stood in the journal when it began.
//! What is promised meanwhile goes with the next.

use std::{
    sync::{Arc, Condvar, Mutex, MutexGuard},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use super::{
    pending_acks::{AcceptedHints, PendingAcks},
    queue::WriteQueue,
};
use crate::store::{
    Result,
    sqlite::{
        error::{failed, of_file},
        folder::marks::{About, Marks},
        lock,
        status::StoreStatus,
        wal::synced::{Synced, SyncedThrough},
    },
};

/// Used by the writer alone.
pub struct Syncer {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    outlet: AcceptedHints,
    queue: Arc<WriteQueue>,
    status: Arc<StoreStatus>,
    /// A disk whose syncs take less is waited for.
    quick: Duration,
    /// Where it says what is on disk.
    marks: Option<Marks>,
    state: Mutex<State>,
    /// For the thread: there is something to do.
    asked: Condvar,
    /// For the writer: a sync has ended.
    ended: Condvar,
}

#[derive(Default)]
struct State {
    /// What the thread is to sync next.
    next: Option<SyncedThrough>,
    promises: Vec<PendingAcks>,
    /// The thread is at it, or keeps promises.
    is_busy: bool,
    /// The writer waits for it.
    is_awaited: bool,
    /// The last batch that a sync was asked for, and the last that is on disk.
    asked: u64,
    synced: u64,
    /// How long a sync takes, lately.
    typical: Duration,
    /// For ever: the kernel may have dropped the pages, and would report success the next time.
    has_failed: bool,
    /// No further sync begins.
    is_over: bool,
}

impl Syncer {
    /// All batches up to `synced` are on disk already.
    pub fn start(
        synced: u64,
        quick: Duration,
        outlet: AcceptedHints,
        queue: Arc<WriteQueue>,
        status: Arc<StoreStatus>,
        marks: Option<Marks>,
    ) -> Result<Self> {
        let state = Mutex::new(State { asked: synced, synced, ..State::default() });
        let (asked, ended) = (Condvar::new(), Condvar::new());
        let shared = Shared { outlet, queue, status, quick, marks, state, asked, ended };
        let shared = Arc::new(shared);
        let work = SyncThread { shared: shared.clone() };
        let thread = std::thread::Builder::new()
            .name("store-sync".to_owned())
            .spawn(move || work.run())
            .map_err(of_file)?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// The last batch that is on disk.
    pub fn synced(&self) -> u64 {
        lock(&self.shared.state).synced
    }

    /// Whether all that was promised is on disk.
    pub fn is_done(&self) -> bool {
        lock(&self.shared.state).is_done()
    }

    /// Brings to the disk what this file has, up to this batch, and then keeps the promise: at once if that is
    /// only about what is there already.
    pub fn acks(&self, written: SyncedThrough, acks: PendingAcks) {
        let mut state = lock(&self.shared.state);
        if state.has_failed {
            drop(state);
            acks.fail();
        } else if state.is_done() && !acks.is_of_its_batch() {
            drop(state);
            acks.ack(&self.shared.outlet);
        } else if state.is_idle() && state.typical < self.shared.quick {
            state.asked = written.turn;
            drop(state);
            self.shared.sync(&written, vec![acks]);
        } else {
            state.promises.push(acks);
            self.ask(state, written);
        }
    }

    /// The same without a promise, beside the writer.
    pub fn begin(&self, written: SyncedThrough) {
        let state = lock(&self.shared.state);
        if !state.has_failed && state.synced < written.turn {
            self.ask(state, written);
        }
    }

    /// The same, and waits for it.
    pub fn sync(&self, written: SyncedThrough) -> Result<Synced> {
        let turn = written.turn;
        let mut state = lock(&self.shared.state);
        if state.synced >= turn || state.has_failed {
            drop(state);
        } else if state.is_idle() {
            state.asked = turn;
            drop(state);
            self.shared.sync(&written, Vec::new());
        } else {
            self.ask(state, written);
        }
        let waits = |it: &mut State| {
            it.is_awaited = it.synced < turn && !it.has_failed;
            it.is_awaited
        };
        let waited = self.shared.ended.wait_while(lock(&self.shared.state), waits);
        let state = waited.unwrap_or_else(|poisoned| poisoned.into_inner());
        if state.has_failed { Err(failed()) } else { Ok(Synced::by_fsync()) }
    }

    fn ask(&self, mut state: MutexGuard<'_, State>, written: SyncedThrough) {
        state.asked = written.turn;
        state.next = Some(written);
        self.shared.queue.set_sync_in_flight(true);
        // Otherwise it looks by itself, and waking is a call of the system.
        let is_asleep = !state.is_busy;
        drop(state);
        if is_asleep {
            self.shared.asked.notify_one();
        }
    }
}

impl Drop for Syncer {
    fn drop(&mut self) {
        lock(&self.shared.state).is_over = true;
        self.shared.asked.notify_one();
        if let Some(thread) = self.thread.take() {
            // A panic there was already reported.
            let _ = thread.join();
        }
    }
}

impl State {
    fn is_done(&self) -> bool {
        self.synced >= self.asked
    }

    /// Whether the writer may sync: then it keeps no promise before an earlier one.
    fn is_idle(&self) -> bool {
        self.next.is_none() && !self.is_busy
    }
}

impl Shared {
    /// When it fails, nothing can be promised any more.
    fn sync(&self, written: &SyncedThrough, promises: Vec<PendingAcks>) {
        let begun = Instant::now();
        let result = written.file.sync_data();
        let took = begun.elapsed();
        metrics::histogram!("tidegate_store_sync_seconds").record(took);
        if let (Ok(()), Some(marks)) = (&result, &self.marks) {
            marks.set(About::Journal, written.turn);
        }
        let mut state = lock(&self.state);
        state.typical = (state.typical * 7 + took) / 8;
        match &result {
            Ok(()) => state.synced = written.turn,
            Err(_) => state.has_failed = true,
        }
        drop(state);
        match result {
            Ok(()) => promises.into_iter().for_each(|it| it.ack(&self.outlet)),
            Err(error) => {
                self.status.break_down();
                tracing::error!(error = &error as &dyn std::error::Error, "a sync failed");
                promises.into_iter().for_each(PendingAcks::fail);
            }
        }
    }
}

/// The thread.
struct SyncThread {
    shared: Arc<Shared>,
}

impl SyncThread {
    fn run(self) {
        while let Some((written, promises)) = self.next() {
            self.shared.sync(&written, promises);
            let mut state = lock(&self.shared.state);
            state.is_busy = false;
            if state.has_failed {
                return;
            }
            if state.next.is_none() {
                self.shared.queue.set_sync_in_flight(false);
            }
            let is_awaited = state.is_awaited;
            drop(state);
            if is_awaited {
                self.shared.ended.notify_one();
            }
        }
    }

    /// What is to be synced. `None` at the end.
    fn next(&self) -> Option<(SyncedThrough, Vec<PendingAcks>)> {
        let waits = |it: &mut State| it.next.is_none() && !it.is_over;
        let waited = self.shared.asked.wait_while(lock(&self.shared.state), waits);
        let mut state = waited.unwrap_or_else(|poisoned| poisoned.into_inner());
        if state.is_over {
            return None;
        }
        state.is_busy = true;
        Some((state.next.take()?, std::mem::take(&mut state.promises)))
    }
}

impl Drop for SyncThread {
    /// Nobody must wait for a thread that is gone, also when it ended in a panic.
    fn drop(&mut self) {
        let mut state = lock(&self.shared.state);
        let promises = std::mem::take(&mut state.promises);
        if state.is_over {
            return;
        }
        state.has_failed = true;
        self.shared.queue.set_sync_in_flight(false);
        drop(state);
        self.shared.status.break_down();
        self.shared.ended.notify_one();
        promises.into_iter().for_each(PendingAcks::fail);
    }
}

#[cfg(test)]
mod tests {
    use std::{fs::File, io::Write as _, os::fd::OwnedFd};

    use tokio::sync::oneshot;

    use super::*;
    use crate::{
        hint::{self, Hint},
        model::Event,
        store::{
            Appended, StoreError,
            sqlite::write::{pending_acks::Ack, requests::ReplyTo},
        },
    };

    /// Where no disk is quick, where every one is, and where it is measured.
    const LIMITS: [Duration; 3] = [Duration::ZERO, Duration::MAX, Duration::from_millis(500)];

    fn syncer(
        quick: Duration,
    ) -> (Syncer, hint::Receiver<Vec<Arc<Event>>, bool>, Arc<StoreStatus>) {
        let (outlet, events) = hint::channel(1000);
        let status = Arc::new(StoreStatus::default());
        let queue = Arc::new(WriteQueue::new(1, 1));
        (Syncer::start(0, quick, outlet, queue, status.clone(), None).unwrap(), events, status)
    }

    fn acks(accepted: Vec<Arc<Event>>) -> (PendingAcks, oneshot::Receiver<Result<Vec<Appended>>>) {
        let (request, answer) = ReplyTo::alone();
        let appends = vec![Ack { request, answer: Ok(Vec::new()) }];
        (PendingAcks { appends, works: Vec::new(), accepted, begun: Instant::now() }, answer)
    }

    #[test]
    fn promises_are_kept_in_their_order_by_whoever_syncs() {
        for quick in LIMITS {
            let (syncer, mut events, _) = syncer(quick);
            let file = Arc::new(tempfile::tempfile().unwrap());
            let mut answers = Vec::new();
            for turn in 1..=100 {
                let (acks, answer) = acks(vec![Arc::new(Event::at(turn))]);
                lock(&syncer.shared.state).typical = Duration::from_secs(turn % 2);
                (&*file).write_all(b"so that there is something to sync").unwrap();
                syncer.acks(SyncedThrough { file: file.clone(), turn }, acks);
                answers.push(answer);
                // The thread is at it when the next comes.
                while lock(&syncer.shared.state).next.is_some() {
                    std::thread::yield_now();
                }
            }
            syncer.sync(SyncedThrough { file, turn: 101 }).unwrap();
            assert_eq!(syncer.synced(), 101);
            for answer in answers {
                assert!(answer.blocking_recv().unwrap().is_ok());
            }
            drop(syncer);
            for turn in 1..=100 {
                let Some(Hint::Some(events)) = events.try_receive() else { panic!("lost") };
                assert_eq!(events[0].seq.0, turn);
            }
        }
    }

    #[test]
    fn after_a_sync_that_failed_nothing_is_promised_any_more() {
        for quick in LIMITS {
            // Given a file that no disk is behind
            let (syncer, _events, status) = syncer(quick);
            let (read, _write) = std::io::pipe().unwrap();
            let pipe = Arc::new(File::from(OwnedFd::from(read)));

            // When a promise needs it, and another comes later, for a file that could be synced
            let (first, answer) = acks(vec![Arc::new(Event::at(1))]);
            syncer.acks(SyncedThrough { file: pipe.clone(), turn: 1 }, first);
            let first = answer.blocking_recv().unwrap();
            let (second, answer) = acks(vec![Arc::new(Event::at(2))]);
            let file = Arc::new(tempfile::tempfile().unwrap());
            syncer.acks(SyncedThrough { file, turn: 2 }, second);

            // Then neither is kept, for nobody knows what the disk has
            assert!(matches!(first, Err(StoreError::Unavailable(_))));
            assert!(matches!(answer.blocking_recv().unwrap(), Err(StoreError::Unavailable(_))));
            assert!(syncer.sync(SyncedThrough { file: pipe, turn: 2 }).is_err());
            assert!(status.is_broken());
        }
    }
}
