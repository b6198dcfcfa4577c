//! The manifest: what belongs to the folder. A start that misses something of it, or finds it changed, refuses.
//!
//! It promises only what is on disk already, and stops promising before something is deleted or replaced: so it
//! is true after a power cut, too. What is there and is not promised was being made or deleted, and stays.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
    sync::Mutex,
};

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use super::{
    beside::{beside, remove_files},
    files::{self, Folder},
    lost, private,
};
use crate::{
    model::EventSeq,
    store::{
        Loss, Result, StoreError,
        sqlite::{error::of_file, lock},
    },
};

/// What belongs to a folder.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    version: u32,
    /// From old to new.
    segments: Vec<Listed>,
    /// The index of keys has those of all events up to here.
    #[serde(default)]
    keys_through: u64,
    /// How a clean stop left the files that change. Empty while somebody has the folder open.
    #[serde(default)]
    closed: BTreeMap<String, Sum>,
}

/// A segment, by its first event.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Listed {
    first: u64,
    /// Once nothing changes in it any more.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    sealed: Option<Sum>,
}

/// Tells one content of a file from another.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sum {
    bytes: u64,
    digest: u64,
}

const VERSION: u32 = 1;
const NAME: &str = "manifest";
/// Files that there are from the first start on, and that hold something from then on.
const ALWAYS: [(&str, &str); 2] =
    [("control.db", lost::CONTROL), ("directory.db", lost::DIRECTORY)];
const JOURNALS: [&str; 2] = ["journal-0", "journal-1"];

impl Sum {
    pub fn of(path: &Path) -> io::Result<Self> {
        let mut summing = Summing::begin(path)?;
        loop {
            if let Some(sum) = summing.go_on(usize::MAX)? {
                return Ok(sum);
            }
        }
    }
}

/// A [`Sum`] on the way.
pub struct Summing {
    pub file: File,
    digest: Xxh3,
    bytes: u64,
}

impl Summing {
    pub fn begin(path: &Path) -> io::Result<Self> {
        Ok(Self { file: File::open(path)?, digest: Xxh3::new(), bytes: 0 })
    }

    /// Reads so much, about. The sum, once all is read.
    pub fn go_on(&mut self, bytes: usize) -> io::Result<Option<Sum>> {
        let mut chunk = vec![0; 1 << 18];
        let mut left = bytes;
        while left > 0 {
            match io::Read::read(&mut self.file, &mut chunk)? {
                0 => return Ok(Some(Sum { bytes: self.bytes, digest: self.digest.digest() })),
                read => {
                    self.digest.update(&chunk[..read]);
                    self.bytes += read as u64;
                    left = left.saturating_sub(read);
                }
            }
        }
        Ok(None)
    }
}

impl Manifest {
    fn parse(text: &str) -> Option<Self> {
        let (body, check) = text.trim_end().rsplit_once('\n')?;
        let is_whole = check == format!("{:016x}", xxh3_64(body.as_bytes()));
        serde_json::from_str(body).ok().filter(|_| is_whole)
    }

    fn print(&self) -> io::Result<String> {
        let body = serde_json::to_string_pretty(self)?;
        Ok(format!("{body}\n{:016x}\n", xxh3_64(body.as_bytes())))
    }

    pub fn add_segment(&mut self, first: EventSeq) {
        if let Err(place) = self.place_of(first) {
            self.segments.insert(place, Listed { first: first.0, sealed: None });
        }
    }

    pub fn remove_segment(&mut self, first: EventSeq) {
        self.segments.retain(|it| it.first != first.0);
    }

    /// `None`: it is about to change.
    pub fn seal(&mut self, first: EventSeq, sum: Option<Sum>) {
        if let Ok(place) = self.place_of(first) {
            self.segments[place].sealed = sum;
        }
    }

    pub fn sum_of(&self, first: EventSeq) -> Option<Sum> {
        self.place_of(first).ok().and_then(|it| self.segments[it].sealed)
    }

    /// The first event of the active segment.
    pub fn newest(&self) -> Option<EventSeq> {
        self.segments.last().map(|it| EventSeq(it.first))
    }

    pub fn cover_keys(&mut self, through: EventSeq) {
        self.keys_through = self.keys_through.max(through.0);
    }

    /// Takes what is there for all that there should be.
    pub fn keep_segments(&mut self, there: &[EventSeq]) {
        self.segments.retain(|it| there.contains(&EventSeq(it.first)));
        there.iter().for_each(|it| self.add_segment(*it));
    }

    pub fn open_files(&mut self) {
        self.closed.clear();
    }

    pub fn close_files(&mut self, sums: impl Iterator<Item = (String, Sum)>) {
        self.closed = sums.collect();
    }

    fn place_of(&self, first: EventSeq) -> Result<usize, usize> {
        self.segments.binary_search_by_key(&first.0, |it| it.first)
    }

    /// The segments that are promised and not there.
    fn missing_segments(&self, there: &[EventSeq]) -> Vec<Loss> {
        let mut missing = Vec::new();
        for (place, listed) in self.segments.iter().enumerate() {
            if there.contains(&EventSeq(listed.first)) {
                continue;
            }
            let lost = match self.segments.get(place + 1) {
                Some(next) => format!("events {} to {} are gone", listed.first, next.first - 1),
                None => format!("all events from {} on are gone", listed.first),
            };
            let file = format!("segments/{:016}.db", listed.first);
            missing.push(Loss { file, found: "is missing".to_owned(), lost });
        }
        missing
    }
}

/// The file, as everybody holds it who changes what belongs to the folder.
pub struct ManifestFile {
    folder: PathBuf,
    known: Mutex<Manifest>,
    /// Held while a segment's file is replaced, and while the digest of one is promised.
    pub replacing: Mutex<()>,
    /// Whether there was one, which an earlier version does not make.
    was_there: bool,
}

impl ManifestFile {
    pub fn open(folder: &Path) -> Result<Self> {
        let read = match fs::read(folder.join(NAME)) {
            Ok(bytes) => Some(bytes),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(of_file(error)),
        };
        let was_there = read.is_some();
        let known = match read {
            Some(bytes) => Manifest::parse(&String::from_utf8_lossy(&bytes)).ok_or_else(damaged)?,
            None => Manifest { version: VERSION, ..Manifest::default() },
        };
        if known.version > VERSION {
            return Err(StoreError::Newer { found: known.version, known: VERSION });
        }
        Ok(Self {
            folder: folder.to_owned(),
            known: Mutex::new(known),
            replacing: Mutex::default(),
            was_there,
        })
    }

    /// Begins again with what is there.
    pub fn rebuild(folder: &Path) -> Self {
        let known = Manifest { version: VERSION, ..Manifest::default() };
        Self {
            folder: folder.to_owned(),
            known: Mutex::new(known),
            replacing: Mutex::default(),
            was_there: false,
        }
    }

    pub fn known(&self) -> Manifest {
        lock(&self.known).clone()
    }

    /// When this returns, the change is on disk.
    pub fn change(&self, change: impl FnOnce(&mut Manifest)) -> Result<()> {
        let mut known = lock(&self.known);
        let mut next = known.clone();
        change(&mut next);
        if *known != next || !self.was_there {
            self.write(&next).map_err(of_file)?;
            *known = next;
        }
        Ok(())
    }

    fn write(&self, manifest: &Manifest) -> io::Result<()> {
        let fresh = self.folder.join("manifest.new");
        let mut file = private::options().truncate(true).open(&fresh)?;
        file.write_all(manifest.print()?.as_bytes())?;
        file.sync_all()?;
        fs::rename(&fresh, self.folder.join(NAME))?;
        File::open(&self.folder)?.sync_all()
    }

    /// What is promised and not there, or not as it was left. Reads what a clean stop left.
    pub fn losses(&self, folder: &Folder) -> Result<Vec<Loss>> {
        if !self.was_there {
            return Ok(Vec::new());
        }
        let known = self.known();
        let mut losses = known.missing_segments(&folder.segments()?);
        let length = |name: &str| fs::metadata(self.folder.join(name)).map(|it| it.len());
        for (file, lost) in ALWAYS {
            let found = match length(file) {
                Ok(0) => "is empty",
                Ok(_) => continue,
                Err(_) => "is missing",
            };
            losses.push(Loss {
                file: file.to_owned(),
                found: found.to_owned(),
                lost: lost.to_owned(),
            });
        }
        for file in JOURNALS.into_iter().filter(|it| length(it).is_err()) {
            losses.push(Loss {
                file: file.to_owned(),
                found: "is missing".to_owned(),
                lost: "what was accepted and done last may be gone".to_owned(),
            });
        }
        for (file, sum) in &known.closed {
            let is_told = losses.iter().any(|it| it.file == *file);
            if !is_told && Sum::of(&self.folder.join(file)).ok() != Some(*sum) {
                losses.push(Loss {
                    file: file.clone(),
                    found: "is not as the last stop left it".to_owned(),
                    lost: "a part of what it holds may be wrong or gone".to_owned(),
                });
            }
        }
        Ok(losses)
    }

    /// Refuses what would lose something. Afterwards, files may change.
    pub fn begin(&self, folder: &Folder) -> Result<()> {
        let mut losses = self.losses(folder)?;
        // It is derived, and made again.
        if losses.iter().any(|it| it.file == OWED) {
            tracing::warn!("owed.db is not as the last stop left it");
            remove_files(&folder.owed())?;
            losses.retain(|it| it.file != OWED);
        }
        let more = losses.len().saturating_sub(1);
        if let Some(mut loss) = losses.into_iter().next() {
            if more > 0 {
                loss.lost = format!("{} ({more} more files are missing or damaged)", loss.lost);
            }
            return Err(loss.into());
        }
        if self.was_there { self.change(Manifest::open_files) } else { Ok(()) }
    }

    /// Refuses an index of keys that has fewer than there were.
    pub fn check_keys(&self, covered: EventSeq) -> Result<()> {
        let promised = self.known().keys_through;
        if covered.0 >= promised {
            return Ok(());
        }
        Err(Loss {
            file: "keys/".to_owned(),
            found: format!(
                "ends with event {covered}, and went to {promised}",
                covered = covered.0
            ),
            lost: lost::KEYS.to_owned(),
        }
        .into())
    }

    /// Takes note of what is there when the store is open, which is on disk.
    pub fn found(&self, folder: &Folder, keys_through: EventSeq) -> Result<()> {
        files::sync_folder(folder.path())?;
        let segments = folder.segments()?;
        self.change(|it| {
            it.keep_segments(&segments);
            it.cover_keys(keys_through);
        })
    }

    /// Says how a clean stop leaves the files that change. Nobody writes to them any more.
    pub fn close(&self, newest: EventSeq) -> Result<()> {
        /// What takes longer to read than a start may take is left out.
        const MOST: u64 = 64 << 20;
        let newest = format!("segments/{:016}.db", newest.0);
        let mut sums = Vec::new();
        for file in ["control.db", "directory.db", OWED, &newest] {
            let path = self.folder.join(file);
            let log = beside(&path, "-wal");
            let is_folded = fs::metadata(log).map_or(true, |it| it.len() == 0);
            let is_short = fs::metadata(&path).is_ok_and(|it| it.len() <= MOST);
            if is_folded && is_short {
                // What is promised is on disk.
                File::open(&path).and_then(|it| it.sync_all()).map_err(of_file)?;
                sums.push((file.to_owned(), Sum::of(&path).map_err(of_file)?));
            }
        }
        self.change(|it| it.close_files(sums.into_iter()))
    }
}

const OWED: &str = "owed.db";

fn damaged() -> StoreError {
    Loss {
        file: NAME.to_owned(),
        found: "is damaged".to_owned(),
        lost: "nobody knows whether all that belongs to the folder is there".to_owned(),
    }
    .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(firsts: &[u64]) -> Manifest {
        let mut manifest = Manifest { version: VERSION, ..Manifest::default() };
        firsts.iter().for_each(|it| manifest.add_segment(EventSeq(*it)));
        manifest
    }

    #[test]
    fn a_manifest_reads_as_it_was_written() {
        let mut written = manifest(&[1, 500, 20]);
        written.seal(EventSeq(20), Some(Sum { bytes: 9, digest: u64::MAX }));
        written.cover_keys(EventSeq(7));
        let text = written.print().unwrap();
        assert_eq!(Manifest::parse(&text), Some(written));
        for place in 0..text.len() - 1 {
            let mut bytes = text.clone().into_bytes();
            bytes[place] ^= 4;
            let damaged = String::from_utf8_lossy(&bytes).into_owned();
            assert_eq!(Manifest::parse(&damaged), None, "{damaged}");
        }
    }

    #[test]
    fn missing_segments_are_told_with_their_events() {
        for (there, expected) in [
            (vec![1, 20, 500, 900], vec![]),
            (vec![1, 500], vec!["events 20 to 499 are gone"]),
            (vec![20], vec!["events 1 to 19 are gone", "all events from 500 on are gone"]),
        ] {
            let there: Vec<EventSeq> = there.into_iter().map(EventSeq).collect();
            let missing = manifest(&[1, 20, 500]).missing_segments(&there);
            let lost: Vec<String> = missing.into_iter().map(|it| it.lost).collect();
            assert_eq!(lost, expected, "{there:?}");
        }
    }
}
