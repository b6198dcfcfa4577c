//! The thread that brings changes into `owed.db`, beside the writer.

use std::{
    sync::{Arc, Condvar, Mutex, mpsc},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use rusqlite::Connection;
use tokio::sync::oneshot;

use super::{
    Pendings,
    file::{self, OwedFile},
};
use crate::store::{
    Result, StoreError,
    sqlite::{error, lock, status::StoreStatus},
};

pub(super) struct Applier {
    jobs: Option<mpsc::Sender<ApplierTask>>,
    progress: Arc<AppliedThrough>,
    thread: Option<JoinHandle<()>>,
}

struct ApplierTask {
    changes: Arc<Pendings>,
    through: u64,
    waiting: Vec<oneshot::Sender<Result<()>>>,
}

#[derive(Default)]
struct AppliedThrough {
    state: Mutex<State>,
    moved: Condvar,
}

#[derive(Clone, Copy, Default)]
struct State {
    applied: u64,
    durable: u64,
    /// The last try failed, or the thread has ended.
    is_stuck: bool,
}

impl Applier {
    /// `file` has every change up to the redo row `applied`, on disk or not.
    pub fn start(file: &OwedFile, applied: u64, status: Arc<StoreStatus>) -> Result<Self> {
        let connection = file.open_writer()?;
        let (jobs, queue) = mpsc::channel();
        let state = State { applied, durable: 0, is_stuck: false };
        let progress = Arc::new(AppliedThrough { state: Mutex::new(state), moved: Condvar::new() });
        let work = ApplierThread {
            file: file.clone(),
            connection,
            progress: progress.clone(),
            status,
            checkpointed: Instant::now(),
            rows: 0,
            is_dead: false,
        };
        let thread = std::thread::Builder::new()
            .name("store-owed".to_owned())
            .spawn(move || work.run(&queue))
            .map_err(error::of_file)?;
        Ok(Self { jobs: Some(jobs), progress, thread: Some(thread) })
    }

    /// The redo row up to which the file has everything.
    pub fn applied(&self) -> u64 {
        lock(&self.progress.state).applied
    }

    /// … and has it on disk.
    pub fn durable(&self) -> u64 {
        lock(&self.progress.state).durable
    }

    /// Whether it does not get on, most likely because the disk is full.
    pub fn is_stuck(&self) -> bool {
        lock(&self.progress.state).is_stuck
    }

    /// There is one job at a time: the one before has been applied.
    pub fn apply(
        &self,
        changes: Arc<Pendings>,
        through: u64,
        waiting: Vec<oneshot::Sender<Result<()>>>,
    ) {
        // The thread is gone only when the disk failed, and then the store says so everywhere.
        let _ = self.jobs.as_ref().map(|it| it.send(ApplierTask { changes, through, waiting }));
    }

    /// Waits until the file has everything up to here, or does not get on.
    pub fn wait(&self, through: u64) {
        let state = lock(&self.progress.state);
        let waits = |state: &mut State| state.applied < through && !state.is_stuck;
        drop(self.progress.moved.wait_while(state, waits));
    }

    /// Syncs what was applied, and ends.
    pub fn close(mut self) {
        self.end();
    }

    fn end(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            // A panic there was already reported.
            let _ = thread.join();
        }
    }
}

impl Drop for Applier {
    fn drop(&mut self) {
        self.end();
    }
}

struct ApplierThread {
    file: OwedFile,
    connection: Connection,
    progress: Arc<AppliedThrough>,
    status: Arc<StoreStatus>,
    checkpointed: Instant,
    /// Changes since then.
    rows: usize,
    /// Changes were given up. Later ones must not pass for all that there were.
    is_dead: bool,
}

impl ApplierThread {
    /// The log of the file is emptied after so many changes, or this long after a change.
    const ROWS: usize = 50_000;
    const TIMEOUT: Duration = Duration::from_secs(10);

    fn run(mut self, queue: &mpsc::Receiver<ApplierTask>) {
        loop {
            match queue.recv_timeout(Self::TIMEOUT) {
                Ok(job) => self.job(job),
                Err(mpsc::RecvTimeoutError::Timeout) => (),
                Err(mpsc::RecvTimeoutError::Disconnected) => break,
            }
            // On a full disk the log must not grow.
            if self.rows > Self::ROWS
                || (self.rows > 0 && self.status.is_full())
                || (self.rows > 0 && self.checkpointed.elapsed() > Self::TIMEOUT)
            {
                self.checkpoint();
            }
        }
        self.checkpoint();
    }

    fn job(&mut self, mut job: ApplierTask) {
        if self.is_dead {
            return;
        }
        let begun = Instant::now();
        loop {
            match file::apply(&mut self.connection, &job.changes, job.through) {
                Ok(()) => break,
                // Ends by itself when there is room again, or the store is closed. The log may have
                // room to begin again in.
                Err(StoreError::Full) if !self.status.is_closed() => {
                    self.tell(|it| it.is_stuck = true);
                    for done in job.waiting.drain(..) {
                        // Whoever asked may have gone.
                        let _ = done.send(Err(StoreError::Full));
                    }
                    self.checkpoint();
                    std::thread::sleep(Duration::from_millis(100));
                }
                Err(StoreError::Full) => {
                    self.is_dead = true;
                    return;
                }
                Err(error) => {
                    tracing::error!(
                        error = &error as &dyn std::error::Error,
                        "cannot write to owed.db"
                    );
                    self.is_dead = true;
                    self.file.condemn(&error);
                    self.status.break_down();
                    self.tell(|it| it.is_stuck = true);
                    return;
                }
            }
        }
        metrics::histogram!("tidegate_store_owed_apply_seconds").record(begun.elapsed());
        self.rows += job.changes.len().max(1);
        self.tell(|it| (it.applied, it.is_stuck) = (job.through, false));
        for done in job.waiting {
            // Whoever asked may have gone.
            let _ = done.send(Ok(()));
        }
    }

    fn checkpoint(&mut self) {
        self.checkpointed = Instant::now();
        let applied = lock(&self.progress.state).applied;
        match file::checkpoint(&self.connection) {
            Ok(true) => {
                self.rows = 0;
                self.tell(|it| it.durable = applied);
            }
            Ok(false) | Err(StoreError::Full) => (),
            Err(error) => {
                tracing::error!(error = &error as &dyn std::error::Error, "cannot sync owed.db");
                self.status.break_down();
            }
        }
    }

    /// Tells the writer.
    fn tell(&self, change: impl FnOnce(&mut State)) {
        change(&mut lock(&self.progress.state));
        self.progress.moved.notify_all();
    }
}

impl Drop for ApplierThread {
    /// Also in a panic: nobody must wait for a thread that is gone.
    fn drop(&mut self) {
        self.tell(|it| it.is_stuck = true);
    }
}
