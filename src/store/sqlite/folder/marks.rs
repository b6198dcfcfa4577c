//! Marks: how far files have come for sure, beside them, so that a start knows when one has less.
//!
//! A mark is written after what it is about was synced, and is not synced itself: after a power cut it may be
//! behind, and never ahead. A mark that is missing or damaged says nothing.

use std::{fs::File, os::unix::fs::FileExt as _, path::Path, sync::Arc};

use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::private;
use crate::store::{Result, sqlite::error::of_file};

#[derive(Clone)]
pub struct Marks(Arc<File>);

/// What a mark is about.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum About {
    /// The last batch of the journal that is on disk.
    Journal = 0,
    /// How often `directory.db` was changed.
    Directory = 1,
    /// How often `control.db` was changed.
    Control = 2,
}

/// A value and its checksum.
const BYTES: usize = 16;

impl Marks {
    pub fn open(path: &Path) -> Result<Self> {
        Ok(Self(Arc::new(private::options().open(path).map_err(of_file)?)))
    }

    /// 0 where nothing is known.
    pub fn get(&self, about: About) -> u64 {
        let mut bytes = [0; BYTES];
        if self.0.read_exact_at(&mut bytes, about.place()).is_err() {
            return 0;
        }
        let value = u64::from_le_bytes(bytes.as_chunks().0[0]);
        let check = u64::from_le_bytes(bytes.as_chunks().0[1]);
        if check == about.check(value) { value } else { 0 }
    }

    pub fn set(&self, about: About, value: u64) {
        let mut bytes = [0; BYTES];
        bytes[..8].copy_from_slice(&value.to_le_bytes());
        bytes[8..].copy_from_slice(&about.check(value).to_le_bytes());
        // Without it, less is found out the next time, and nothing is lost.
        if let Err(error) = self.0.write_all_at(&bytes, about.place()) {
            tracing::debug!(%error, ?about, "a mark is not written");
        }
    }
}

impl About {
    fn place(self) -> u64 {
        self as u64 * BYTES as u64
    }

    fn check(self, value: u64) -> u64 {
        xxh3_64_with_seed(&value.to_le_bytes(), self as u64 + 1)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_mark_is_what_was_set_last_and_damage_is_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("marks");
        let marks = Marks::open(&path).unwrap();
        assert_eq!(marks.get(About::Control), 0);
        marks.set(About::Control, 7);
        marks.set(About::Journal, 8);
        marks.set(About::Journal, 9);
        let again = Marks::open(&path).unwrap();
        let all = [About::Journal, About::Directory, About::Control];
        assert_eq!(all.map(|it| again.get(it)), [9, 0, 7]);

        let mut bytes = fs::read(&path).unwrap();
        bytes[0] ^= 1;
        fs::write(&path, &bytes).unwrap();
        let damaged = Marks::open(&path).unwrap();
        assert_eq!(all.map(|it| damaged.get(it)), [0, 0, 7]);
    }
}
