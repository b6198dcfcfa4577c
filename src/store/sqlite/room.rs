//! Room on the disk. A file of zeros holds some back, so that deliveries go on when the disk is
//! full: their outcomes are written into the room that the file leaves when it is deleted.

use std::{
    fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use super::{error::of_file, private};
use crate::store::Result;

pub(super) struct Room {
    reserve: PathBuf,
    bytes: u64,
    probed: Instant,
}

impl Room {
    /// How often a full disk is looked at.
    pub const PATIENCE: Duration = Duration::from_millis(500);
    /// Events are accepted again when there is room for the reserve and this part of it once more.
    const HEADROOM: u64 = 4;

    /// Takes hold of the reserve. A disk that has no room for it is full, and says so later.
    pub fn open(reserve: PathBuf, bytes: u64) -> Result<Self> {
        let room = Self { reserve, bytes, probed: Instant::now() };
        if let Err(error) = room.hold() {
            tracing::warn!(%error, "there is no room on the disk to hold back");
        }
        Ok(room)
    }

    fn hold(&self) -> io::Result<()> {
        match fs::metadata(&self.reserve) {
            Ok(found) if found.len() == self.bytes => Ok(()),
            Ok(_) | Err(_) => fill(&self.reserve, self.bytes),
        }
    }

    /// Gives up the reserve. Says whether there was one.
    pub fn release(&self) -> bool {
        let is_gone = fs::remove_file(&self.reserve).is_ok();
        if is_gone {
            tracing::warn!("the reserve on the disk is given up, so that deliveries go on");
        }
        is_gone
    }

    /// Whether a full disk has room again, with the reserve held back anew. Looks now and then.
    pub fn is_back(&mut self) -> bool {
        if self.probed.elapsed() < Self::PATIENCE {
            return false;
        }
        self.probed = Instant::now();
        let probe = self.reserve.with_extension("probe");
        let missing = if self.reserve.exists() { 0 } else { self.bytes };
        let room = fill(&probe, missing + self.bytes / Self::HEADROOM);
        let is_gone = fs::remove_file(&probe);
        // Without the probe there is room for the reserve, unless somebody else was faster.
        room.and(is_gone).and_then(|()| self.hold()).is_ok()
    }
}

/// Writes a file of so many bytes, or leaves none.
fn fill(path: &Path, bytes: u64) -> io::Result<()> {
    let write = || {
        let mut file = private::options().truncate(true).open(path)?;
        let zeros = vec![0; 64 * 1024];
        let mut left = bytes;
        while left > 0 {
            let now = left.min(zeros.len() as u64);
            file.write_all(&zeros[..now as usize])?;
            left -= now;
        }
        file.sync_all()
    };
    write().inspect_err(|_| drop(fs::remove_file(path)))
}

/// A file that an earlier process may have left while it looked.
pub(super) fn clean(reserve: &Path) -> Result<()> {
    match fs::remove_file(reserve.with_extension("probe")) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(of_file(error)),
        Ok(()) | Err(_) => Ok(()),
    }
}
