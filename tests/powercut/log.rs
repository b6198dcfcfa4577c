//! The log that `record.c` writes, as it is read.

use std::path::{Path, PathBuf};

use super::disk::Entry;

/// What the library appends, in the order of the numbers in `record.c`.
const HEADER: usize = 32;
const O_CREAT: u64 = 0o100;
const O_TRUNC: u64 = 0o1000;

/// A log, and how far it has been read.
pub struct Log {
    bytes: Vec<u8>,
    at: usize,
}

impl Log {
    pub fn read(path: &Path) -> Self {
        Self { bytes: std::fs::read(path).unwrap(), at: 0 }
    }

    /// Where the next entry begins: the bytes of the log before it have been read.
    pub fn position(&self) -> u64 {
        self.at as u64
    }

    pub fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// The next entry, if it lies whole in the first `until` bytes.
    pub fn next(&mut self, until: u64) -> Option<Entry<'_>> {
        let bytes = &self.bytes[self.at..until.min(self.len()) as usize];
        if bytes.len() < HEADER {
            return None;
        }
        let long = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
        let short = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
        let (op, path_length) = (short(0), short(4) as usize);
        let (handle, offset, length) = (long(8), long(16), long(24) as usize);
        let end = HEADER + path_length + length;
        if bytes.len() < end {
            return None;
        }
        self.at += end;
        let path = text(&bytes[HEADER..HEADER + path_length]);
        let data = &bytes[HEADER + path_length..end];
        Some(match op {
            1 => {
                let (create, empty) = (offset & O_CREAT != 0, offset & O_TRUNC != 0);
                Entry::Open { handle, path, create, empty }
            }
            2 => Entry::Write { handle, offset, data },
            3 => Entry::Truncate { handle, length: offset },
            4 => Entry::Grow { handle, length: offset },
            5 => Entry::SyncAsked { handle, number: offset },
            6 => Entry::SyncGranted { number: offset },
            7 => Entry::Rename { from: path, to: text(data) },
            8 => Entry::Remove { path },
            9 => Entry::MakeFolder { path },
            10 => Entry::Remove { path },
            11 => panic!("the recorder does not understand: {}", path.display()),
            12 => Entry::Link { from: path, to: text(data) },
            other => panic!("the recorder wrote an entry of kind {other}"),
        })
    }
}

fn text(bytes: &[u8]) -> PathBuf {
    PathBuf::from(String::from_utf8(bytes.to_vec()).unwrap())
}
