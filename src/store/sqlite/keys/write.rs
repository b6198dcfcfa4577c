//! Writes a run, so that it is there whole or not at all.

use std::{
    fs::{self, File},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use super::{
    bloom::{self, CacheLine},
    run::{
        BLOCK_SUM, ENTRIES_PER_BLOCK, ENTRY, EXTENSION, KeyEntry, PAGE, Run, RunHeader, block_sum,
        failure,
    },
};
use crate::store::{Result, sqlite::folder::private};

/// What a crash leaves of a run that was being written.
pub const UNFINISHED: &str = "new";

/// A run that is being written, under a name that [`Writer::finish`] changes. Memory use does not
/// depend on the size of the run.
pub struct RunWriter {
    folder: PathBuf,
    path: PathBuf,
    head: RunHeader,
    filter: Region,
    filter_sum: Xxh3,
    line: CacheLine,
    line_number: u64,
    blocks: Region,
    page: Box<[u8; PAGE]>,
    /// Entries in `page`.
    held: usize,
    fences: Vec<u8>,
}

/// A part of the file that is written from front to back.
struct Region {
    file: File,
    at: u64,
    buffer: Vec<u8>,
    unsynced: usize,
}

impl RunWriter {
    /// A run for the keys of the events from `first` to `last`, of which there are at most `most`.
    pub fn create(
        folder: &Path,
        secret_check: u64,
        (first, last): (u64, u64),
        most: u64,
    ) -> Result<Self> {
        let path = folder.join(format!("{first:016}-{last:016}.{EXTENSION}"));
        let file = private::options().truncate(true).open(path.with_extension(UNFINISHED));
        let file = file.map_err(failure)?;
        let lines = bloom::lines_for(most);
        let head =
            RunHeader { secret_check, first, last, count: 0, lines, filter_sum: 0, fence_sum: 0 };
        Ok(Self {
            folder: folder.to_owned(),
            path,
            filter: Region::new(file.try_clone().map_err(failure)?, PAGE as u64),
            filter_sum: Xxh3::new(),
            line: CacheLine::default(),
            line_number: 0,
            blocks: Region::new(file, head.blocks_at()),
            page: Box::new([0; PAGE]),
            held: 0,
            fences: Vec::new(),
            head,
        })
    }

    /// Adds an item, whose hash is larger than the ones before.
    pub fn push(&mut self, (hash, id): KeyEntry) -> Result<()> {
        self.go_to_line(bloom::line_of(hash, self.head.lines))?;
        self.line.insert(hash);
        if self.held == 0 {
            self.fences.extend(hash.high().to_le_bytes());
        }
        let entry = &mut self.page[self.held * ENTRY..][..ENTRY];
        entry[..16].copy_from_slice(&hash.0);
        entry[16..].copy_from_slice(&id.bits().to_be_bytes());
        self.held += 1;
        self.head.count += 1;
        if self.held == ENTRIES_PER_BLOCK {
            self.end_block()?;
        }
        Ok(())
    }

    /// Makes it durable and gives it its name. Until this returns, a crash leaves an unfinished file.
    pub fn finish(mut self, filter_memory: u64) -> Result<Run> {
        if self.held > 0 {
            self.end_block()?;
        }
        self.go_to_line(self.head.lines)?;
        self.head.filter_sum = self.filter_sum.digest();
        self.head.fence_sum = xxh3_64(&self.fences);
        self.filter.flush()?;
        let fences = std::mem::take(&mut self.fences);
        self.blocks.write(&fences)?;
        self.blocks.flush()?;
        let file = &self.blocks.file;
        file.write_all_at(&self.head.to_page(), 0).map_err(failure)?;
        // An empty run ends where its filter does, in the middle of a page.
        let end = self.blocks.at;
        file.set_len(end).map_err(failure)?;
        file.sync_all().map_err(failure)?;
        fs::rename(self.path.with_extension(UNFINISHED), &self.path).map_err(failure)?;
        sync_folder(&self.folder)?;
        Run::open(&self.path, self.head.secret_check, filter_memory)
    }

    fn go_to_line(&mut self, number: u64) -> Result<()> {
        while self.line_number < number {
            let bytes = std::mem::take(&mut self.line).to_bytes();
            self.filter_sum.update(&bytes);
            self.filter.write(&bytes)?;
            self.line_number += 1;
        }
        Ok(())
    }

    fn end_block(&mut self) -> Result<()> {
        let sum = block_sum(self.head.blocks() - 1, &self.page);
        self.page[BLOCK_SUM..].copy_from_slice(&sum.to_le_bytes());
        self.blocks.write(&self.page[..])?;
        self.page.fill(0);
        self.held = 0;
        Ok(())
    }
}

impl Drop for RunWriter {
    /// An abandoned run leaves nothing; after a finished one there is nothing under this name.
    fn drop(&mut self) {
        let _ = fs::remove_file(self.path.with_extension(UNFINISHED));
    }
}

impl Region {
    const BUFFER: usize = 1 << 16;
    /// Synced in parts, so that a commit never waits behind the sync of a whole large run.
    const SYNC_EVERY: usize = 8 << 20;

    fn new(file: File, at: u64) -> Self {
        Self { file, at, buffer: Vec::with_capacity(Self::BUFFER), unsynced: 0 }
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= Self::BUFFER { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<()> {
        self.file.write_all_at(&self.buffer, self.at).map_err(failure)?;
        self.at += self.buffer.len() as u64;
        self.unsynced += self.buffer.len();
        self.buffer.clear();
        if self.unsynced >= Self::SYNC_EVERY {
            self.file.sync_data().map_err(failure)?;
            self.unsynced = 0;
        }
        Ok(())
    }
}

/// Makes names in the folder durable: what was renamed there, and what was removed.
pub fn sync_folder(folder: &Path) -> Result<()> {
    File::open(folder).and_then(|it| it.sync_all()).map_err(failure)
}
