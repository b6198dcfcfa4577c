//! Opening the store: its files, its threads, and whoever asks them. A disk that is full is no reason not to.

use std::{
    fs,
    path::Path,
    sync::{Arc, Mutex},
    time::Instant,
};

use tokio::sync::Semaphore;

use super::{
    Options, RandomSource, SqliteStore,
    error::{self, in_file},
    folder::{
        disk_reserve::{self, DiskReserve},
        files::{Folder, RESERVE},
        manifest::ManifestFile,
        marks::Marks,
    },
    query::readers::Readers,
    registry::{control::Control, directory::DirectoryFile},
    secret,
    segment::{blocks::Blocks, maintenance::Maintenance, segments::Segments},
    status::StoreStatus,
    write::{
        queue::WriteQueue,
        recover::{Recovered, recover},
        syncer::Syncer,
        writer::Writer,
    },
};
use crate::{
    clock::Clock,
    hint,
    model::Event,
    store::{Result, StoreError, sqlite::folder::lost},
};

/// What is in the folder.
struct FolderContents {
    folder: Arc<Folder>,
    control: Arc<Control>,
    segments: Arc<Segments>,
    directory: Arc<DirectoryFile>,
    manifest: Arc<ManifestFile>,
    marks: Marks,
    recovered: Recovered,
}

impl FolderContents {
    fn open(
        path: &Path,
        options: &Options,
        clock: Arc<dyn Clock>,
        random: &mut RandomSource,
        status: Arc<StoreStatus>,
    ) -> Result<Self> {
        let folder = Arc::new(Folder::open(path)?);
        disk_reserve::clean(&folder.reserve());
        DiskReserve::make_way(&folder.reserve(), options.reserve_bytes);
        let manifest = Arc::new(ManifestFile::open(path)?);
        manifest.begin(&folder)?;
        let marks = Marks::open(&folder.marks())?;
        let control = Control::open(&folder.control(), marks.clone());
        let control = Arc::new(control.map_err(in_file("control.db", lost::CONTROL))?);
        let secret = control.secret("key_hash", || secret(random))?;
        let segments = Segments::open(&folder, &manifest);
        let segments = Arc::new(segments.map_err(in_file("segments/", lost::SEGMENTS))?);
        segments.keep_idle(options.idle_readers);
        let directory = DirectoryFile::open(&folder.directory(), marks.clone());
        let directory = Arc::new(directory.map_err(in_file("directory.db", lost::DIRECTORY))?);
        let (kept, all) = (control.clone(), segments.clone());
        let recovered = recover(&folder, &manifest, &marks, kept, all, status, clock, secret)?;
        manifest.found(&folder, recovered.memory.keys.covered())?;
        Ok(Self { folder, control, segments, directory, manifest, marks, recovered })
    }
}

impl SqliteStore {
    /// Opens the store in this folder, or makes one. Blocks for as long as that takes, which is well
    /// below a second unless a file has to be made again.
    ///
    /// `accepted` gets the events of each commit, in accept order.
    pub fn open(
        path: &Path,
        options: Options,
        clock: Arc<dyn Clock>,
        mut random: RandomSource,
        accepted: hint::Sender<Vec<Arc<Event>>, bool>,
    ) -> Result<Self> {
        let status = Arc::new(StoreStatus::default());
        let mut find =
            || FolderContents::open(path, &options, clock.clone(), &mut random, status.clone());
        let found = match find() {
            // What is left of the reserve is for this, too.
            Err(StoreError::Full) if fs::remove_file(path.join(RESERVE)).is_ok() => {
                tracing::warn!("the disk is full: the store is opened in the room of its reserve");
                find()
            }
            other => other,
        };
        let FolderContents { folder, control, segments, directory, manifest, marks, recovered } =
            found?;
        let Recovered { memory, newest, journal, owed } = recovered;
        status.set_planned_through(memory.marks.planned_through);
        status.set_waiting(memory.waiting.events());
        let queue =
            Arc::new(WriteQueue::new(options.waiting_event_bytes, options.waiting_work_bytes));
        let readers = Readers {
            control,
            segments: segments.clone(),
            blocks: Blocks::new(options.body_cache_bytes),
        };
        let keys = memory.keys.reader();
        let (number, quick) = (journal.number(), options.quick_sync);
        let syncer =
            Syncer::start(number, quick, accepted, queue.clone(), status.clone(), Some(marks))?;
        let turns = Arc::new(Semaphore::new(options.readers.max(1)));
        let weak_folder = Arc::downgrade(&folder);
        let room = DiskReserve::open(folder.reserve(), options.reserve_bytes);
        status.set_full(!room.is_held());
        let writer = Writer {
            room,
            looked: Instant::now(),
            upkeep: Maintenance::start(segments.clone(), status.clone(), manifest.clone())?,
            folder,
            manifest: manifest.clone(),
            options,
            queue: queue.clone(),
            status: status.clone(),
            segments,
            newest,
            journal,
            syncer,
            memory,
        };
        let thread = std::thread::Builder::new()
            .name("store-writer".to_owned())
            .spawn(move || writer.run())
            .map_err(error::of_file)?;
        Ok(Self {
            readers: Arc::new(readers),
            owed,
            keys,
            queue,
            status,
            random: Mutex::new(random),
            turns,
            folder: weak_folder,
            forgetting: Arc::default(),
            directory,
            manifest,
            thread: Mutex::new(Some(thread)),
        })
    }
}
