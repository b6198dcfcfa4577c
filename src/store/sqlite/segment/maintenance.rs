//! A thread beside the writer that brings the logs of segments into their files and seals those
//! that are full.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc,
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use rusqlite::Connection;

use super::{
    active::SegmentWal,
    digests::Digests,
    seal::{is_sealed, seal},
    segments::{Segment, Segments},
};
use crate::store::{
    Result, StoreError,
    sqlite::{
        error::{is_broken, is_damage, of_file},
        folder::{
            beside::checkpoint,
            files,
            manifest::{ManifestFile, Sum},
        },
        status::StoreStatus,
        wal::journal::Checkpointed,
    },
};

pub struct Maintenance {
    jobs: Option<mpsc::Sender<MaintenanceTask>>,
    log: Arc<WalLength>,
    thread: Option<JoinHandle<()>>,
}

enum MaintenanceTask {
    Checkpoint(Arc<Segment>),
    /// What the segment got from a file of the journal comes to the disk.
    Sync(SegmentWal, Checkpointed),
    /// With the connection that wrote to it, which takes its time to close.
    Seal(Arc<Segment>, Option<Connection>),
}

/// The log of the active segment.
#[derive(Default)]
struct WalLength {
    is_busy: AtomicBool,
    /// Its pages, when it was last looked at; 0 once the writer has taken note.
    pages: AtomicU64,
}

impl Maintenance {
    /// Also seals what an earlier process left unsealed.
    pub fn start(
        segments: Arc<Segments>,
        status: Arc<StoreStatus>,
        manifest: Arc<ManifestFile>,
    ) -> Result<Self> {
        let (jobs, queue) = mpsc::channel();
        let log = Arc::new(WalLength::default());
        let all = segments.all();
        for segment in all.iter().take(all.len().saturating_sub(1)) {
            // The receiver is right here.
            let _ = jobs.send(MaintenanceTask::Seal(segment.clone(), None));
        }
        let digests = Digests::new(segments.clone(), manifest.clone());
        let (newest, unsealed) = (None, Vec::new());
        let work = MaintenanceThread {
            segments,
            status,
            manifest,
            log: log.clone(),
            newest,
            unsealed,
            digests,
        };
        let thread = std::thread::Builder::new()
            .name("store-upkeep".to_owned())
            .spawn(move || work.run(&queue))
            .map_err(of_file)?;
        Ok(Self { jobs: Some(jobs), log, thread: Some(thread) })
    }

    /// Asks for a checkpoint of the active segment, beside the writer. One at a time.
    pub fn checkpoint(&self, segment: &Arc<Segment>) {
        if !self.log.is_busy.swap(true, Ordering::AcqRel) {
            self.send(MaintenanceTask::Checkpoint(segment.clone()));
        }
    }

    /// Brings the log to the disk, beside the writer, and says so.
    pub fn sync(&self, log: SegmentWal, spent: Checkpointed) {
        self.send(MaintenanceTask::Sync(log, spent));
    }

    /// Whether the log is long, and nearly all of it was brought into the file: the writer alone
    /// can do the rest, so that the log begins again. True once for each checkpoint.
    pub fn wants_the_rest(&self) -> bool {
        /// 16 MiB.
        const PAGES: u64 = 4096;
        !self.log.is_busy.load(Ordering::Acquire)
            && self.log.pages.swap(0, Ordering::AcqRel) >= PAGES
    }

    pub fn seal(&self, segment: Arc<Segment>, connection: Connection) {
        self.send(MaintenanceTask::Seal(segment, Some(connection)));
    }

    fn send(&self, job: MaintenanceTask) {
        // The thread goes only after us.
        let _ = self.jobs.as_ref().map(|it| it.send(job));
    }
}

impl Drop for Maintenance {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            // A panic there was already reported.
            let _ = thread.join();
        }
    }
}

struct MaintenanceThread {
    segments: Arc<Segments>,
    status: Arc<StoreStatus>,
    manifest: Arc<ManifestFile>,
    log: Arc<WalLength>,
    newest: Option<(Arc<Segment>, Connection)>,
    /// Those that could not be sealed so far, and when they are tried again.
    unsealed: Vec<(Arc<Segment>, Instant)>,
    /// What segments have none of that an earlier version sealed.
    digests: Digests,
}

impl MaintenanceThread {
    /// How long a segment that could not be sealed is left alone.
    const TIMEOUT: Duration = Duration::from_secs(5);
    /// The same for one that is damaged.
    const LONG: Duration = Duration::from_secs(3600);

    fn run(mut self, queue: &mpsc::Receiver<MaintenanceTask>) {
        loop {
            let timeout = self.digests.timeout().filter(|_| !self.status.is_full());
            match queue.recv_timeout(timeout.unwrap_or(Self::TIMEOUT)) {
                // What is left is done after the next start, when nobody waits for it.
                Ok(_) if self.status.is_closed() => return,
                Ok(MaintenanceTask::Checkpoint(segment)) => {
                    let result = self.checkpoint(segment);
                    self.record_failure(result);
                    self.log.is_busy.store(false, Ordering::Release);
                }
                Ok(MaintenanceTask::Sync(log, spent)) => match log.sync() {
                    Ok(()) => spent.set(),
                    Err(error) => {
                        let error = &error as &dyn std::error::Error;
                        tracing::error!(error, "a sync failed");
                        self.status.break_down();
                    }
                },
                Ok(MaintenanceTask::Seal(segment, connection)) => {
                    self.newest = None;
                    drop(connection);
                    self.unsealed.push((segment, Instant::now()));
                }
                Err(mpsc::RecvTimeoutError::Timeout) => {
                    if timeout.is_some() && !self.status.is_closed() {
                        let result = self.digests.go_on();
                        self.record_failure(result);
                    }
                }
                Err(mpsc::RecvTimeoutError::Disconnected) => return,
            }
            self.seal_some();
        }
    }

    fn checkpoint(&mut self, segment: Arc<Segment>) -> Result<()> {
        let is_open = self.newest.as_ref().is_some_and(|it| it.0.first() == segment.first());
        if !is_open {
            let connection = files::open_writer(
                segment.path(),
                files::Kind::Segment,
                files::Sync::Full,
                256 << 10,
            )?;
            self.newest = Some((segment, connection));
        }
        if let Some((_, connection)) = &self.newest {
            let pages = checkpoint(connection)?;
            self.log.pages.store(pages, Ordering::Release);
        }
        Ok(())
    }

    fn seal_some(&mut self) {
        let now = Instant::now();
        for (segment, when) in std::mem::take(&mut self.unsealed) {
            // On a full disk the room is for what becomes of deliveries.
            if when > now || self.status.is_closed() || self.status.is_full() {
                self.unsealed.push((segment, when));
                continue;
            }
            let begun = Instant::now();
            let result = seal_once(&segment, &self.manifest);
            if result.is_ok() {
                self.segments.note_sealed(&segment);
                metrics::histogram!("tidegate_store_seal_seconds").record(begun.elapsed());
            } else {
                let is_damaged = result.as_ref().is_err_and(is_damage);
                let timeout = if is_damaged { Self::LONG } else { Self::TIMEOUT };
                self.unsealed.push((segment.clone(), now + timeout));
            }
            match result {
                // Everything else goes on; readers of what is damaged get an error.
                Err(error) if is_damage(&error) => {
                    tracing::error!(file = %segment.path().display(), error = &error as &dyn std::error::Error, "a segment is damaged, and is not sealed: run `tidegate check`");
                }
                other => self.record_failure(other),
            }
        }
    }

    fn record_failure(&self, result: Result<()>) {
        match result {
            Ok(()) | Err(StoreError::Full) => (),
            Err(error) if is_broken(&error) => {
                tracing::error!(error = &error as &dyn std::error::Error, "a segment is broken");
                self.status.break_down();
            }
            Err(error) => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "a segment is left as it is for now"
                );
            }
        }
    }
}

fn seal_once(segment: &Segment, manifest: &ManifestFile) -> Result<()> {
    if is_sealed(segment)? {
        return Ok(());
    }
    seal(segment.path())?;
    // Nothing changes in it any more: `tidegate check` finds each bit that does.
    let sum = Sum::of(segment.path()).map_err(of_file)?;
    manifest.change(|it| it.seal(segment.first(), Some(sum)))
}
