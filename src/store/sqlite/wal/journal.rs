//! The journal: what each batch wrote, as one record in a file that is only ever appended to.
//!
//! A batch counts once its record is here; the writer syncs it before it keeps a promise: to a sender, that
//! its event is kept, and to other files, that what they follow will still be there. Plans and outcomes
//! promise nothing to anybody outside: a batch that has only them is synced with the next event, or soon.
//! The segment gets many batches in one commit, which no sync has to follow. After a crash, the batches that it
//! has not are executed again from here.
//!
//! There are two files, written in turn. One is begun again when all that it says is in the segment and on
//! the disk. Records have numbers that only grow, and a checksum: so what a power cut leaves is read up to
//! the first record that is not whole, and what is left of an older time is never taken for newer.

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt as _,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use rusqlite::Connection;
use xxhash_rust::xxh3::xxh3_64;

use super::{
    journal_tail::{self, HEADER, JournalTail, Record},
    statement_buffer::StatementTexts,
    synced::{Synced, SyncedThrough},
};
use crate::{
    model::EventSeq,
    store::{
        Result, StoreError,
        sqlite::{
            error::{of_file, unavailable},
            folder::{
                facts::{JOURNALED, fact, set_fact},
                files,
                marks::{About, Marks},
                private,
            },
        },
    },
};

pub struct Journal {
    files: [JournalFile; 2],
    current: usize,
    /// Whether what the other file says is on the disk elsewhere.
    other: Checkpointed,
    /// The last batch.
    number: u64,
    /// A record on its way.
    record: Vec<u8>,
    /// The first record that no sync was asked for.
    unsynced_since: Option<Instant>,
    /// Outcomes in such records.
    outcomes: usize,
}

struct JournalFile {
    file: Arc<File>,
    /// How long the file is, and up to where it has records.
    length: u64,
    end: u64,
}

/// Becomes true when what a file of the journal says is in its segment, and that on the disk.
#[derive(Clone, Default)]
pub struct Checkpointed(Arc<AtomicBool>);

impl Checkpointed {
    pub fn set(&self) {
        self.0.store(true, Ordering::Release);
    }

    fn get(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

pub const NAMES: [&str; 2] = ["journal-0", "journal-1"];

impl Journal {
    /// What a power cut may take of plans and outcomes: as much as was done in this time,
    const TIMEOUT: Duration = Duration::from_millis(50);
    /// and never more outcomes than this, which is how many deliveries are then made once more.
    const OUTCOMES: usize = 1024;
    /// The writer goes on in the other file when one has grown so long.
    const LONG: u64 = 8 << 20;
    /// … and so long when the disk is full: it must not grow.
    const LONG_WITHOUT_ROOM: u64 = 512 << 10;
    /// A file grows in steps of its own length, but within these bounds.
    const STEPS: std::ops::RangeInclusive<u64> = 256 << 10..=4 << 20;

    /// Opens the journal in a folder, or makes one, and has the active segment catch up. What an earlier
    /// process left is on disk and in the segment afterwards, for which it takes `sync`.
    pub fn open(
        folder: &Path,
        segment: EventSeq,
        connection: &Connection,
        marks: &Marks,
        sync: impl FnOnce() -> Result<()>,
    ) -> Result<Self> {
        let parts = [
            JournalFile::open(&folder.join(NAMES[0]))?,
            JournalFile::open(&folder.join(NAMES[1]))?,
        ];
        files::sync_folder(folder)?;
        let mut left = [parts[0].left(NAMES[0])?, parts[1].left(NAMES[1])?];
        left.sort_by_key(|it| it.records.first().map(|it| it.number));
        let number = catch_up(left, segment, connection, marks.get(About::Journal))?;
        sync()?;
        marks.set(About::Journal, number);
        let other = Checkpointed::default();
        other.set();
        Ok(Self {
            files: parts,
            current: 0,
            other,
            number,
            record: Vec::new(),
            unsynced_since: None,
            outcomes: 0,
        })
    }

    /// The last batch that it keeps.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Keeps what a batch wrote. When that fails, it is as if nothing had been asked.
    pub fn append(&mut self, segment: EventSeq, buffer: &[u8], outcomes: usize) -> Result<()> {
        let number = self.number + 1;
        self.record.clear();
        self.record.shrink_to(1 << 20);
        self.record.extend([0; HEADER]);
        self.record.extend(segment.0.to_le_bytes());
        self.record.extend(number.to_le_bytes());
        self.record.extend_from_slice(buffer);
        let length = u32::try_from(self.record.len() - HEADER);
        let length = length.map_err(|_| unavailable("a turn is too large for the journal"))?;
        let check = xxh3_64(&self.record[HEADER..]);
        self.record[..4].copy_from_slice(&length.to_le_bytes());
        self.record[4..HEADER].copy_from_slice(&check.to_le_bytes());
        self.files[self.current].write(&self.record).map_err(of_file)?;
        self.number = number;
        self.unsynced_since.get_or_insert_with(Instant::now);
        self.outcomes += outcomes;
        Ok(())
    }

    /// How long what was kept may still wait until a sync is asked for; `None`: one was.
    pub fn next_deadline(&self) -> Option<Duration> {
        match self.unsynced_since {
            None => None,
            Some(_) if self.outcomes >= Self::OUTCOMES => Some(Duration::ZERO),
            Some(since) => Some(Self::TIMEOUT.saturating_sub(since.elapsed())),
        }
    }

    /// What is to be synced for all that was kept so far. Whoever takes it does so.
    pub fn ask_for_sync(&mut self) -> SyncedThrough {
        (self.unsynced_since, self.outcomes) = (None, 0);
        SyncedThrough { file: self.files[self.current].file.clone(), turn: self.number }
    }

    /// Whether it is time to go on in the other file.
    pub fn is_long(&self, has_room: bool) -> bool {
        self.files[self.current].end >= if has_room { Self::LONG } else { Self::LONG_WITHOUT_ROOM }
    }

    pub fn is_other_spent(&self) -> bool {
        self.other.get()
    }

    /// Goes on in the other file, which is spent. All that stands in this one is committed to the segment;
    /// whoever brings that to the disk says so.
    pub fn switch(&mut self, _: Synced) -> Checkpointed {
        self.current ^= 1;
        self.files[self.current].end = 0;
        self.other = Checkpointed::default();
        self.other.clone()
    }

    /// Begins again: all that it says is in a segment and on the disk. Nothing of it is left, so that
    /// what is erased elsewhere is not here either.
    pub fn begin_again(&mut self, _: Synced) -> Result<()> {
        for part in &mut self.files {
            part.file.set_len(0).map_err(of_file)?;
            (part.length, part.end) = (0, 0);
        }
        self.other.set();
        Ok(())
    }

    /// Executes again the batches that are not committed to this segment.
    pub fn restore(&self, segment: EventSeq, connection: &Connection) -> Result<()> {
        let left = [Vec::new(), self.files[self.current].read()?];
        execute(&left, segment, connection).map(drop)
    }
}

impl JournalFile {
    fn open(path: &Path) -> Result<Self> {
        let file = private::options().open(path).map_err(of_file)?;
        file.sync_all().map_err(of_file)?;
        let length = file.metadata().map_err(of_file)?.len();
        Ok(Self { file: Arc::new(file), length, end: 0 })
    }

    fn write(&mut self, record: &[u8]) -> io::Result<()> {
        self.file.write_all_at(record, self.end)?;
        self.end += record.len() as u64;
        if self.end > self.length {
            self.length = self.end;
            self.make_room();
        }
        Ok(())
    }

    /// Makes the file longer, with zeros, when it just had to grow. A sync of a file that has grown takes
    /// twice as long as one of pages that were there before.
    fn make_room(&mut self) {
        let zeros = vec![0; *Journal::STEPS.start() as usize];
        let until = self.length + self.length.clamp(*Journal::STEPS.start(), *Journal::STEPS.end());
        while self.length < until {
            let now = zeros.len().min((until - self.length) as usize);
            // The disk is nearly full, most likely. It goes on as it is.
            if let Err(error) = self.file.write_all_at(&zeros[..now], self.length) {
                tracing::debug!(%error, "the journal is not made longer");
                break;
            }
            self.length += now as u64;
        }
    }

    /// What it holds, for a start.
    fn left(&self, name: &'static str) -> Result<JournalTail> {
        Ok(JournalTail::read(name, &self.bytes()?))
    }

    /// The records that stand whole one behind the other.
    fn read(&self) -> Result<Vec<Record>> {
        Ok(journal_tail::chain(&self.bytes()?).0)
    }

    fn bytes(&self) -> Result<Vec<u8>> {
        let mut bytes = vec![0; self.length as usize];
        self.file.read_exact_at(&mut bytes, 0).map_err(of_file)?;
        Ok(bytes)
    }
}

/// Commits to a segment the batches that it does not have. Returns the last batch that there ever was, as far as
/// anybody can tell: no number is used twice.
fn catch_up(
    mut files: [JournalTail; 2],
    segment: EventSeq,
    connection: &Connection,
    synced: u64,
) -> Result<u64> {
    let known = fact(connection, JOURNALED)?.map(|it| it as u64);
    journal_tail::judge(&mut files, segment, known, synced)?;
    let highest = files.iter().filter_map(JournalTail::highest).max().unwrap_or(0);
    let transaction = connection.unchecked_transaction()?;
    let last = execute(&files.map(|it| it.records), segment, &transaction)?;
    let number = highest.max(last).max(synced);
    if number > last {
        set_fact(&transaction, JOURNALED, number as i64)?;
    }
    transaction.commit()?;
    Ok(number)
}

/// Executes the batches that a segment does not have, and tells it the last, which is returned.
fn execute(files: &[Vec<Record>; 2], segment: EventSeq, connection: &Connection) -> Result<u64> {
    let mut last = fact(connection, JOURNALED)?.map(|it| it as u64);
    let known = last;
    for records in files {
        let mut texts = StatementTexts::default();
        for record in records {
            if record.segment != segment || last.is_some_and(|it| record.number <= it) {
                texts.learn(&record.buffer)?;
                continue;
            }
            if last.is_some_and(|it| record.number != it + 1) {
                return Err(StoreError::Damaged { what: "journal" });
            }
            texts.execute(&record.buffer, connection)?;
            last = Some(record.number);
        }
    }
    if let Some(last) = last.filter(|it| Some(*it) != known) {
        tracing::debug!(?known, last, "turns are executed again");
        set_fact(connection, JOURNALED, last as i64)?;
    }
    Ok(last.unwrap_or(0))
}
