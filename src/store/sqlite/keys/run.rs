//! A run: an immutable file of keys, sorted by their hash.
//!
//! It stands as `<first>-<last>.keys` in the folder, by the events whose keys it holds, and is made
//! of pages of 4096 bytes:
//!
//! - the head: what follows, and checksums of filter and fences;
//! - the filter: [`Line`]s;
//! - the blocks: up to 127 entries each (16 bytes of hash, 16 bytes of event id, big-endian), with
//!   a checksum of their own, seeded with the block's number;
//! - the fences: the upper 8 bytes of the first hash of each block.
//!
//! Head, filter, fences and the file's length are verified when it is opened, each block whenever it
//! is read: opening does not read every key, and no answer rests on a page that was not verified.

use std::{
    fs::File,
    io,
    ops::RangeInclusive,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use xxhash_rust::xxh3::{Xxh3, xxh3_64, xxh3_64_with_seed};

use super::{
    KeyHash,
    bloom::{self, CacheLine},
};
use crate::{
    model::EventId,
    store::{Result, StoreError},
};

pub(super) const PAGE: usize = 4096;
pub(super) const ENTRY: usize = 32;
pub(super) const ENTRIES_PER_BLOCK: usize = 127;
/// Where the checksum of a block stands in its page, behind the entries.
pub(super) const BLOCK_SUM: usize = PAGE - 8;
pub(super) const EXTENSION: &str = "keys";
const MAGIC: [u8; 8] = *b"TIDEKEYS";
const VERSION: u32 = 1;

/// A key and the first event that had it.
pub type KeyEntry = (KeyHash, EventId);

/// The first page of a run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RunHeader {
    /// Tells whether the hashes were made with the secret that we have.
    pub secret_check: u64,
    /// It holds the keys of the events from `first` to `last`.
    pub first: u64,
    pub last: u64,
    pub count: u64,
    pub lines: u64,
    pub filter_sum: u64,
    pub fence_sum: u64,
}

/// A run that is open for reading, from any thread.
pub struct Run {
    path: PathBuf,
    file: File,
    head: RunHeader,
    filter: RunFilter,
    fences: Vec<u64>,
}

/// Large filters stay in the file, so that memory is bounded however many keys there are.
enum RunFilter {
    Memory(Vec<CacheLine>),
    File,
}

impl Run {
    /// Opens and verifies. The filter is held in memory if it takes at most `filter_memory` bytes.
    pub fn open(path: &Path, secret_check: u64, filter_memory: u64) -> Result<Self> {
        const FOREIGN: StoreError =
            StoreError::Damaged { what: "key index: its secret is not the one in control.db" };
        let file = File::open(path).map_err(failure)?;
        let mut page = [0; PAGE];
        file.read_exact_at(&mut page, 0).map_err(failure)?;
        let head = RunHeader::from_page(&page)?;
        if head.secret_check != secret_check {
            return Err(FOREIGN);
        }
        if file.metadata().map_err(failure)?.len() != head.fences_at() + head.blocks() * 8 {
            return Err(DAMAGED);
        }
        let filter = read_filter(&file, &head, filter_memory)?;
        let mut fences = vec![0; head.blocks() as usize * 8];
        file.read_exact_at(&mut fences, head.fences_at()).map_err(failure)?;
        if xxh3_64(&fences) != head.fence_sum {
            return Err(DAMAGED);
        }
        let fences = fences.as_chunks::<8>().0.iter().map(|it| u64::from_le_bytes(*it)).collect();
        Ok(Self { path: path.to_owned(), file, head, filter, fences })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The events whose keys it holds.
    pub fn events(&self) -> RangeInclusive<u64> {
        self.head.first..=self.head.last
    }

    pub fn count(&self) -> u64 {
        self.head.count
    }

    /// Bytes of memory that its filter takes.
    pub fn filter_memory(&self) -> u64 {
        match &self.filter {
            RunFilter::Memory(lines) => (lines.len() * CacheLine::BYTES) as u64,
            RunFilter::File => 0,
        }
    }

    pub fn find(&self, hash: KeyHash) -> Result<Option<EventId>> {
        if !self.line(hash)?.may_contain(hash) {
            return Ok(None);
        }
        let top = hash.high();
        // The block before the first one that starts at or behind `top`; further ones only where
        // hashes that agree in their upper half run on into the next block.
        let from = self.fences.partition_point(|&fence| fence < top).saturating_sub(1);
        let mut page = [0; PAGE];
        for (block, _) in
            self.fences.iter().enumerate().skip(from).take_while(|(_, fence)| **fence <= top)
        {
            let entries = self.block(block as u64, &mut page)?;
            if let Ok(place) = entries.binary_search_by(|it| hash_of(it).cmp(&hash)) {
                return Ok(Some(id_of(&entries[place])));
            }
        }
        Ok(None)
    }

    /// Its items in the order of their hashes.
    pub fn items(&self) -> impl Iterator<Item = Result<KeyEntry>> {
        self.blocks_from(0)
    }

    fn blocks_from(&self, first: u64) -> impl Iterator<Item = Result<KeyEntry>> {
        (first..self.head.blocks()).flat_map(|block| {
            let mut page = [0; PAGE];
            let (items, error) = match self.block(block, &mut page) {
                Ok(it) => (it.iter().map(|it| (hash_of(it), id_of(it))).collect(), None),
                Err(error) => (Vec::new(), Some(error)),
            };
            items.into_iter().map(Ok).chain(error.map(Err))
        })
    }

    /// The same behind the first `from` of them.
    pub fn items_from(&self, from: usize) -> impl Iterator<Item = Result<KeyEntry>> {
        let first = (from / ENTRIES_PER_BLOCK) as u64;
        self.blocks_from(first).skip(from % ENTRIES_PER_BLOCK)
    }

    fn line(&self, hash: KeyHash) -> Result<CacheLine> {
        let line = bloom::line_of(hash, self.head.lines);
        match &self.filter {
            RunFilter::Memory(lines) => Ok(lines[line as usize]),
            RunFilter::File => {
                let mut bytes = [0; CacheLine::BYTES];
                let at = PAGE as u64 + line * CacheLine::BYTES as u64;
                self.file.read_exact_at(&mut bytes, at).map_err(failure)?;
                Ok(CacheLine::from_bytes(&bytes))
            }
        }
    }

    fn block<'page>(
        &self,
        block: u64,
        page: &'page mut [u8; PAGE],
    ) -> Result<&'page [[u8; ENTRY]]> {
        let at = self.head.blocks_at() + block * PAGE as u64;
        self.file.read_exact_at(page, at).map_err(failure)?;
        if page[BLOCK_SUM..] != block_sum(block, page).to_le_bytes() {
            return Err(DAMAGED);
        }
        let held = (self.head.count - block * ENTRIES_PER_BLOCK as u64)
            .min(ENTRIES_PER_BLOCK as u64) as usize;
        Ok(&page.as_chunks().0[..held])
    }
}

impl RunHeader {
    pub fn blocks(&self) -> u64 {
        self.count.div_ceil(ENTRIES_PER_BLOCK as u64)
    }

    pub fn blocks_at(&self) -> u64 {
        PAGE as u64 + (self.lines * CacheLine::BYTES as u64).next_multiple_of(PAGE as u64)
    }

    fn fences_at(&self) -> u64 {
        self.blocks_at() + self.blocks() * PAGE as u64
    }

    pub fn to_page(self) -> [u8; PAGE] {
        let mut page = [0; PAGE];
        page[..8].copy_from_slice(&MAGIC);
        page[8..12].copy_from_slice(&VERSION.to_le_bytes());
        for (place, number) in page[16..].as_chunks_mut::<8>().0.iter_mut().zip(self.numbers()) {
            *place = number.to_le_bytes();
        }
        let sum = xxh3_64(&page[..BLOCK_SUM]);
        page[BLOCK_SUM..].copy_from_slice(&sum.to_le_bytes());
        page
    }

    fn from_page(page: &[u8; PAGE]) -> Result<Self> {
        if page[..8] != MAGIC {
            return Err(DAMAGED);
        }
        if page[BLOCK_SUM..] != xxh3_64(&page[..BLOCK_SUM]).to_le_bytes() {
            return Err(DAMAGED);
        }
        let found = u32::from_le_bytes([page[8], page[9], page[10], page[11]]);
        if found > VERSION {
            return Err(StoreError::Newer { found, known: VERSION });
        }
        let mut numbers = page[16..].as_chunks::<8>().0.iter().map(|it| u64::from_le_bytes(*it));
        let mut next = || numbers.next().ok_or(DAMAGED);
        let head = Self {
            secret_check: next()?,
            first: next()?,
            last: next()?,
            count: next()?,
            lines: next()?,
            filter_sum: next()?,
            fence_sum: next()?,
        };
        Ok(head)
    }

    fn numbers(self) -> [u64; 7] {
        let Self { secret_check, first, last, count, lines, filter_sum, fence_sum } = self;
        [secret_check, first, last, count, lines, filter_sum, fence_sum]
    }
}

pub(super) const DAMAGED: StoreError = StoreError::Damaged { what: "run of the key index" };

pub(super) fn block_sum(block: u64, page: &[u8; PAGE]) -> u64 {
    xxh3_64_with_seed(&page[..BLOCK_SUM], block)
}

pub(super) fn failure(error: io::Error) -> StoreError {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => StoreError::Full,
        io::ErrorKind::UnexpectedEof => DAMAGED,
        _ => StoreError::Unavailable(Box::new(error)),
    }
}

fn read_filter(file: &File, head: &RunHeader, memory: u64) -> Result<RunFilter> {
    const CHUNK: u64 = 1 << 20;
    let bytes = head.lines * CacheLine::BYTES as u64;
    let mut lines = Vec::new();
    let mut sum = Xxh3::new();
    let mut chunk = vec![0; CHUNK.min(bytes) as usize];
    let mut at = 0;
    while at < bytes {
        let part = &mut chunk[..CHUNK.min(bytes - at) as usize];
        file.read_exact_at(part, PAGE as u64 + at).map_err(failure)?;
        sum.update(part);
        if bytes <= memory {
            lines.extend(part.as_chunks().0.iter().map(CacheLine::from_bytes));
        }
        at += part.len() as u64;
    }
    if sum.digest() != head.filter_sum {
        return Err(DAMAGED);
    }
    Ok(if bytes <= memory { RunFilter::Memory(lines) } else { RunFilter::File })
}

fn hash_of(entry: &[u8; ENTRY]) -> KeyHash {
    KeyHash(entry.as_chunks().0[0])
}

fn id_of(entry: &[u8; ENTRY]) -> EventId {
    EventId::from_bits(u128::from_be_bytes(entry.as_chunks().0[1]))
}
