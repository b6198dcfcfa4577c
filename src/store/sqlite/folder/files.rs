//! Data folder: which files there are, how they are opened, and which schema they have.

use std::{
    fs::{self, File, TryLockError},
    io::{self, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use rusqlite::{Connection, OpenFlags};

use super::{
    beside::beside,
    facts::{JOURNALED, set_fact},
    private,
};
use crate::{
    model::EventSeq,
    store::{
        Result, StoreError,
        sqlite::error::{of_file, unavailable},
    },
};

/// What kinds of files there are. Each has migrations of its own, numbered from 1.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    Control,
    Owed,
    Segment,
    Directory,
}

/// Whether a commit waits for the disk.
#[derive(Clone, Copy, Debug)]
pub enum Sync {
    /// It does: the file holds what is kept nowhere else.
    Full,
    /// It does not: whoever commits syncs the log, when there is a promise to keep.
    ByHand,
    /// It does not: the file follows another, and catches up when it is opened.
    Derived,
}

/// The folder, held against other processes for as long as this lives.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    _lock: File,
}

/// Takes the lock of a folder. A process that is just ending has it for a moment longer, and so has a child
/// that somebody is just starting: that is waited for.
fn take(lock: &File) -> Result<()> {
    const TIMEOUT: Duration = Duration::from_secs(1);
    const STEP: Duration = Duration::from_millis(10);
    let begun = Instant::now();
    loop {
        match lock.try_lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::WouldBlock) if begun.elapsed() < TIMEOUT => thread::sleep(STEP),
            Err(TryLockError::WouldBlock) => {
                return Err(unavailable("another process has the data folder open"));
            }
            Err(TryLockError::Error(error)) => return Err(of_file(error)),
        }
    }
}

impl Folder {
    pub fn open(path: &Path) -> Result<Self> {
        private::make_folder(&path.join("segments"))?;
        let lock = private::options().open(path.join("lock")).map_err(of_file)?;
        take(&lock)?;
        private::tighten(path)?;
        // Half-made segments of a process that ended.
        for entry in fs::read_dir(path.join("segments")).map_err(of_file)? {
            let path = entry.map_err(of_file)?.path();
            if path.file_name().is_some_and(|it| it.to_string_lossy().starts_with(TEMPLATE)) {
                fs::remove_file(path).map_err(of_file)?;
            }
        }
        sync_folder(path)?;
        // A folder that was just made must be found again itself. Not every parent may be read.
        let parent = path.parent().filter(|it| !it.as_os_str().is_empty());
        if let Err(error) = sync_folder(parent.unwrap_or(Path::new("."))) {
            tracing::debug!(%error, "the folder above the data cannot be synced");
        }
        Ok(Self { path: path.to_owned(), _lock: lock })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn control(&self) -> PathBuf {
        self.path.join("control.db")
    }

    pub fn owed(&self) -> PathBuf {
        self.path.join("owed.db")
    }

    pub fn directory(&self) -> PathBuf {
        self.path.join("directory.db")
    }

    pub fn marks(&self) -> PathBuf {
        self.path.join("marks")
    }

    pub fn reserve(&self) -> PathBuf {
        self.path.join(RESERVE)
    }

    pub fn keys(&self) -> PathBuf {
        self.path.join("keys")
    }

    pub fn segment(&self, first: EventSeq) -> PathBuf {
        self.path.join("segments").join(format!("{:016}.db", first.0))
    }

    /// The first events of the segments that there are, from old to new.
    pub fn segments(&self) -> Result<Vec<EventSeq>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(self.path.join("segments")).map_err(of_file)? {
            let name = entry.map_err(of_file)?.file_name();
            let digits = name.to_str().and_then(|it| it.strip_suffix(".db"));
            found.extend(digits.and_then(|it| it.parse().ok()).map(EventSeq));
        }
        found.sort_unstable();
        Ok(found)
    }

    /// Where a segment can be made. What a crash leaves there is deleted by the next start.
    pub fn unfinished(&self) -> PathBuf {
        self.path.join("segments").join(format!("{TEMPLATE}-rewritten"))
    }

    /// Makes an empty segment. It appears whole or not at all. `batch` is the last that is not about it.
    pub fn make_segment(&self, first: EventSeq, turn: u64) -> Result<PathBuf> {
        let (template, path) = (self.path.join("segments").join(TEMPLATE), self.segment(first));
        match fs::remove_file(&template) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(of_file(error)),
            _ => (),
        }
        // Nothing of it is synced on the way: it counts only from the renaming on.
        private::make_file(&template)?;
        let connection = tidegate_pages::open(&template, OpenFlags::default())?;
        connection.pragma_update(None, "synchronous", "OFF")?;
        migrate(&connection, Kind::Segment)?;
        set_fact(&connection, JOURNALED, turn as i64)?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.close().map_err(|(_, error)| error)?;
        File::open(&template).and_then(|it| it.sync_all()).map_err(of_file)?;
        fs::rename(&template, &path).map_err(of_file)?;
        sync_folder(&self.path.join("segments"))?;
        Ok(path)
    }
}

/// The name of the file that holds back room on the disk.
pub const RESERVE: &str = "reserve";

/// The name under which a segment is made before it has its own.
const TEMPLATE: &str = "new";

pub fn sync_folder(path: &Path) -> Result<()> {
    File::open(path).and_then(|it| it.sync_all()).map_err(of_file)
}

/// Opens a file to write to it, makes it if it is missing, and brings its schema up to date.
/// Checkpoints are up to the caller.
pub fn open_writer(path: &Path, kind: Kind, sync: Sync, cache_bytes: u32) -> Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_CREATE
        | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    private::make_file(path)?;
    let connection = tidegate_pages::open(path, flags)?;
    connection.busy_timeout(std::time::Duration::from_secs(5))?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    // The schema first, so that its version stands in the file and not only in the log.
    migrate(&connection, kind)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    match sync {
        Sync::Full => (),
        Sync::ByHand | Sync::Derived => connection.pragma_update(None, "synchronous", "NORMAL")?,
    }
    connection.pragma_update(None, "wal_autocheckpoint", 0)?;
    connection.pragma_update(None, "cache_size", -i64::from(cache_bytes / 1024))?;
    connection.set_prepared_statement_cache_capacity(64);
    Ok(connection)
}

/// Opens a file to read from it. A file that is `frozen` never changes again, and is read without
/// locks and without the files that SQLite keeps beside one that is written.
pub fn open_reader(path: &Path, frozen: bool) -> Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY
        | OpenFlags::SQLITE_OPEN_NO_MUTEX
        | OpenFlags::SQLITE_OPEN_URI;
    let connection = tidegate_pages::open(uri(path, frozen), flags)?;
    connection.busy_timeout(std::time::Duration::from_secs(5))?;
    connection.pragma_update(None, "cache_size", -512)?;
    connection.set_prepared_statement_cache_capacity(32);
    Ok(connection)
}

/// The name of a file for SQLite, which takes it for one that never changes if it is `frozen`.
pub fn uri(path: &Path, frozen: bool) -> String {
    let mut uri = String::from("file:");
    for byte in path.as_os_str().as_encoded_bytes() {
        match byte {
            b'/' | b'-' | b'_' | b'.' => uri.push(char::from(*byte)),
            it if it.is_ascii_alphanumeric() => uri.push(char::from(*it)),
            it => uri.push_str(&format!("%{it:02x}")),
        }
    }
    if frozen {
        uri.push_str("?immutable=1");
    }
    uri
}

/// Makes an empty segment that counts only once it is synced and has its name: nothing is safe on
/// the way.
pub fn open_unfinished(path: &Path) -> Result<Connection> {
    private::make_file(path)?;
    let connection = tidegate_pages::open(path, OpenFlags::default())?;
    connection.pragma_update(None, "synchronous", "OFF")?;
    connection.pragma_update(None, "journal_mode", "OFF")?;
    connection.pragma_update(None, "cache_size", -8192)?;
    migrate(&connection, Kind::Segment)?;
    Ok(connection)
}

fn migrations(kind: Kind) -> &'static [&'static str] {
    match kind {
        Kind::Control => &[
            include_str!("migrations/control_0001.sql"),
            include_str!("migrations/control_0002.sql"),
        ],
        Kind::Owed => &[include_str!("migrations/owed_0001.sql")],
        Kind::Segment => &[
            include_str!("migrations/segment_0001.sql"),
            include_str!("migrations/segment_0002.sql"),
            include_str!("migrations/segment_0003.sql"),
        ],
        Kind::Directory => &[include_str!("migrations/directory_0001.sql")],
    }
}

fn migrate(connection: &Connection, kind: Kind) -> Result<()> {
    let migrations = migrations(kind);
    let known = migrations.len() as u32;
    let found: u32 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    if found > known {
        return Err(StoreError::Newer { found, known });
    }
    for (number, migration) in migrations.iter().enumerate().skip(found as usize) {
        let version = number + 1;
        connection.execute_batch(&format!(
            "BEGIN IMMEDIATE; {migration}\nPRAGMA user_version = {version}; COMMIT;"
        ))?;
    }
    Ok(())
}

/// Whether it says that it is a file of SQLite, and is as long as it says. A file that was cut is not.
fn begins_well(file: &mut File) -> io::Result<bool> {
    let mut head = [0; 32];
    file.seek(SeekFrom::Start(0))?;
    file.read_exact(&mut head)?;
    let page = match u16::from_be_bytes([head[16], head[17]]) {
        1 => 1 << 16,
        it => u64::from(it),
    };
    let pages = u64::from(u32::from_be_bytes([head[28], head[29], head[30], head[31]]));
    let is_sqlite = head.starts_with(b"SQLite format 3\0");
    Ok(is_sqlite && file.metadata()?.len() >= pages * page)
}

/// Brings a file that is only read up to date, and refuses one that is newer than we are. Looks at
/// one number in the file, so that a thousand files cost nothing.
/// `changing` hears of a file before it is changed.
pub fn check_version(path: &Path, kind: Kind, changing: impl FnOnce() -> Result<()>) -> Result<()> {
    /// Where the format of SQLite keeps the schema's version.
    const USER_VERSION: u64 = 60;

    let mut bytes = [0; 4];
    let mut file = File::open(path).map_err(of_file)?;
    file.seek(SeekFrom::Start(USER_VERSION)).map_err(of_file)?;
    file.read_exact(&mut bytes).map_err(|_| StoreError::Damaged { what: "segment" })?;
    // A checkpoint that a kill ended may have left the file shorter than it says: the log has the rest.
    let has_log = fs::metadata(beside(path, "-wal")).is_ok_and(|it| it.len() > 0);
    if !has_log && !begins_well(&mut file).map_err(of_file)? {
        return Err(StoreError::Damaged { what: "segment" });
    }
    let (found, known) = (u32::from_be_bytes(bytes), migrations(kind).len() as u32);
    match found.cmp(&known) {
        std::cmp::Ordering::Equal => Ok(()),
        std::cmp::Ordering::Greater => Err(StoreError::Newer { found, known }),
        std::cmp::Ordering::Less => {
            changing()?;
            open_writer(path, kind, Sync::Full, 1 << 20).map(drop)
        }
    }
}
