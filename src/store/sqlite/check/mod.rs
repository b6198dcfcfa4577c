//! Reading all that a folder holds, to find what is missing or damaged, while nobody has it open.

pub mod repair;

use std::{
    fs,
    path::{Path, PathBuf},
};

use rusqlite::{Connection, OptionalExtension as _};
use xxhash_rust::xxh3::xxh3_64;

use super::folder::facts::{JOURNALED, fact};
use crate::{
    model::EventSeq,
    store::{
        Loss, Result, StoreError,
        sqlite::{
            error::{in_file, is_damage, of_file, unavailable},
            folder::{
                changes,
                files::{self, Folder},
                lost,
                manifest::{ManifestFile, Sum},
                marks::{About, Marks},
            },
            keys,
            segment::{blocks::Block, rows},
            wal::{
                journal::{self},
                journal_tail::{self, JournalTail},
            },
        },
    },
};

/// What was found.
#[derive(Debug, Default)]
pub struct Checked {
    pub files: u64,
    pub bytes: u64,
    pub losses: Vec<Loss>,
    /// What needs nobody's care.
    pub remarks: Vec<String>,
}

/// A folder that is being read.
pub(super) struct Check {
    pub folder: Folder,
    pub path: PathBuf,
    pub marks: Marks,
    found: Checked,
}

/// Reads everything. It fails while a gateway has the folder open, and where there is no store.
pub fn check(path: &Path) -> Result<Checked> {
    let mut check = Check::open(path)?;
    check.all()?;
    Ok(check.found)
}

impl Check {
    pub fn open(path: &Path) -> Result<Self> {
        let is_store = ["control.db", "manifest", "journal-0", "segments"]
            .iter()
            .any(|it| path.join(it).exists());
        if !is_store {
            return Err(unavailable("there is no store in this folder"));
        }
        let folder = Folder::open(path)?;
        let marks = Marks::open(&folder.marks())?;
        Ok(Self { folder, path: path.to_owned(), marks, found: Checked::default() })
    }

    pub fn all(&mut self) -> Result<()> {
        let manifest = match ManifestFile::open(&self.path) {
            Ok(manifest) => manifest,
            Err(StoreError::Incomplete(loss)) => {
                self.found.losses.push(*loss);
                ManifestFile::rebuild(&self.path)
            }
            Err(error) => return Err(error),
        };
        self.found.losses.extend(manifest.losses(&self.folder)?);
        self.changed_files()?;
        self.segments(&manifest)?;
        self.journal()?;
        self.keys(&manifest)?;
        let owed = self.folder.owed();
        if owed.exists() && intact(&owed).is_err() {
            let remark = "owed.db is damaged; the next start rebuilds it from the segments";
            self.found.remarks.push(remark.to_owned());
        }
        self.found.losses.retain(|it| it.file != "owed.db");
        Ok(())
    }

    /// The folder, which stays held against other processes, and what was found.
    pub fn parts(self) -> (Folder, Vec<Loss>) {
        (self.folder, self.found.losses)
    }

    /// The files that say how often they were changed.
    fn changed_files(&mut self) -> Result<()> {
        for (name, lost, about) in [
            ("control.db", lost::CONTROL, About::Control),
            ("directory.db", lost::DIRECTORY, About::Directory),
        ] {
            let path = self.path.join(name);
            if fs::metadata(&path).is_ok_and(|it| it.len() > 0) {
                let marked = self.marks.get(about);
                let result = intact(&path).and_then(|it| changes::check(&it, marked));
                self.note(&path, result.map_err(in_file(name, lost)))?;
            }
        }
        Ok(())
    }

    fn segments(&mut self, manifest: &ManifestFile) -> Result<()> {
        let known = manifest.known();
        for first in self.folder.segments()? {
            let (path, name) = (self.folder.segment(first), name_of(first));
            let has_changed = match known.sum_of(first) {
                Some(sum) => Sum::of(&path).map_err(of_file)? != sum,
                None => false,
            };
            let result = intact(&path).and_then(|it| bodies(&it));
            let result = match result {
                Ok(damaged) => match damaged.text(has_changed) {
                    None => Ok(()),
                    Some((found, lost)) => Err(Loss { file: name.clone(), found, lost }.into()),
                },
                Err(error) => Err(error),
            };
            let is_told = self.found.losses.iter().any(|it| it.file == name);
            let result = result.map_err(in_file(&name, lost::SEGMENTS));
            if !is_told {
                self.note(&path, result)?;
            }
        }
        Ok(())
    }

    fn journal(&mut self) -> Result<()> {
        let Some(newest) = self.folder.segments()?.pop() else { return Ok(()) };
        let known = files::open_reader(&self.folder.segment(newest), false)
            .and_then(|it| fact(&it, JOURNALED));
        // That the segment cannot be read was reported.
        let Ok(known) = known else { return Ok(()) };
        let mut left = self.left();
        let synced = self.marks.get(About::Journal);
        let judged = journal_tail::judge(&mut left, newest, known.map(|it| it as u64), synced);
        for name in journal::NAMES {
            self.note(&self.path.join(name), Ok(()))?;
        }
        self.note(Path::new(""), judged)
    }

    /// What the journal holds. That a file is missing is reported elsewhere.
    pub fn left(&self) -> [JournalTail; 2] {
        let bytes = |name| fs::read(self.path.join(name)).unwrap_or_default();
        let mut left = journal::NAMES.map(|it| JournalTail::read(it, &bytes(it)));
        left.sort_by_key(|it| it.records.first().map(|it| it.number));
        left
    }

    fn keys(&mut self, manifest: &ManifestFile) -> Result<()> {
        let control = files::open_reader(&self.folder.control(), false);
        let secret = control.and_then(|it| {
            let sql = "SELECT value FROM settings WHERE name = 'key_hash'";
            Ok(it.query_row(sql, [], |row| row.get::<_, [u8; 32]>(0)).optional()?)
        });
        // That the secret is gone was reported.
        let Ok(Some(secret)) = secret else { return Ok(()) };
        let folder = self.folder.keys();
        let read = if folder.exists() { keys::read_all(&folder, &secret) } else { Ok(0) };
        let read = read.and_then(|covered| manifest.check_keys(EventSeq(covered)));
        self.note(Path::new(""), read.map_err(in_file("keys/", lost::KEYS)))
    }

    /// Takes note of a file, and of what is wrong with it.
    fn note(&mut self, path: &Path, result: Result<()>) -> Result<()> {
        if let Ok(file) = fs::metadata(path)
            && file.is_file()
        {
            self.found.files += 1;
            self.found.bytes += file.len();
        }
        match result {
            Ok(()) => Ok(()),
            Err(StoreError::Incomplete(loss)) => {
                if !self.found.losses.iter().any(|it| it.file == loss.file) {
                    self.found.losses.push(*loss);
                }
                Ok(())
            }
            Err(error) => Err(error),
        }
    }
}

pub(super) fn name_of(first: EventSeq) -> String {
    format!("segments/{:016}.db", first.0)
}

/// A file of SQLite whose pages and indexes agree.
pub(super) fn intact(path: &Path) -> Result<Connection> {
    let connection = files::open_reader(path, false)?;
    let said: String = connection.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0))?;
    if said == "ok" { Ok(connection) } else { Err(StoreError::Damaged { what: "page" }) }
}

/// One whose tables can be read, whatever the checksums of its pages and its indexes say.
pub(super) fn is_readable_as_it_is(path: &Path) -> bool {
    let said = path.is_file().then(|| tidegate_pages::open_as_it_is(path)).and_then(Result::ok);
    let said = said.map(|it| it.query_row("PRAGMA quick_check(1)", [], |row| row.get(0)));
    said.is_some_and(|it| it.is_ok_and(|it: String| it == "ok"))
}

/// Events whose body is not what was accepted.
#[derive(Default)]
struct Bodies {
    count: u64,
    first: Option<i64>,
}

impl Bodies {
    fn add(&mut self, seq: i64) {
        self.count += 1;
        self.first.get_or_insert(seq);
    }

    /// What was found, and what is lost.
    fn text(&self, has_changed: bool) -> Option<(String, String)> {
        match self.first {
            Some(first) => Some((
                format!("is damaged at event {first}"),
                format!("the bodies of {} events cannot be delivered or read", self.count),
            )),
            None if has_changed => Some((
                "has changed since it was sealed".to_owned(),
                "something in its rows may be wrong or gone".to_owned(),
            )),
            None => None,
        }
    }
}

/// Reads every body and every copy of a segment.
fn bodies(connection: &Connection) -> Result<Bodies> {
    let mut found = Bodies::default();
    let mut events = connection
        .prepare("SELECT seq, digest FROM events WHERE seq BETWEEN ? AND ? ORDER BY seq")?;
    let mut blocks =
        connection.prepare("SELECT first_seq, count, body FROM blocks ORDER BY first_seq")?;
    let mut rows = blocks.query([])?;
    let mut read = 0;
    while let Some(row) = rows.next()? {
        let (first, count): (i64, u32) = (row.get(0)?, row.get(1)?);
        let body = row.get_ref(2)?.as_blob().map_err(|_| StoreError::Damaged { what: "block" })?;
        let block = Block::open(EventSeq(first as u64), count, body);
        let mut events = events.query((first, first + i64::from(count) - 1))?;
        while let Some(row) = events.next()? {
            let (seq, digest): (i64, i64) = (row.get(0)?, row.get(1)?);
            read += 1;
            let body = match &block {
                Ok(block) => block.body(EventSeq(seq as u64)).ok(),
                Err(_) => None,
            };
            let is_right = |payload: &[u8]| xxh3_64(payload).max(1) == digest as u64;
            if !body.is_some_and(|it| digest == 0 || is_right(it.1.bytes())) {
                found.add(seq);
            }
        }
    }
    let all: i64 = connection.query_row("SELECT count(*) FROM events", [], |row| row.get(0))?;
    if all != read {
        return Err(StoreError::Damaged { what: "block: some events have none" });
    }
    let mut copies =
        connection.prepare("SELECT seq, copy FROM deliveries WHERE copy IS NOT NULL")?;
    let mut rows = copies.query([])?;
    while let Some(row) = rows.next()? {
        let copy = row.get_ref(1)?.as_blob().map_err(|_| StoreError::Damaged { what: "copy" })?;
        match rows::copy(copy) {
            Ok(_) => (),
            Err(error) if is_damage(&error) => found.add(rows::event_of(row.get(0)?).0 as i64),
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}
