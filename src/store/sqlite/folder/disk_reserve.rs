//! Room on the disk. A file holds some back, so that deliveries go on when the disk is full: their
//! outcomes are written into the room that the file gives up, piece by piece.
//!
//! Events are refused before the last byte is gone, as soon as what is free and what is held back would
//! not do for writing down what becomes of the pending deliveries.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use rustix::fs::{FallocateFlags, fallocate, statvfs};

use super::private;

/// What the store still has to write for what it has accepted.
#[derive(Clone, Copy, Debug, Default)]
pub struct ReserveNeeds {
    /// By how much the active segment grows once its log is in it.
    pub growth: u64,
    /// Changes that `owed.db` does not have yet.
    pub changes: u64,
    /// Pending deliveries.
    pub pending: u64,
    /// Events without a plan.
    pub unplanned: u64,
}

impl ReserveNeeds {
    /// The last attempt of a delivery in the activity log, in a redo row, and half as much to spare.
    const OF_DELIVERY: u64 = 160;
    const OF_CHANGE: u64 = 256;
    /// With the plan, and a delivery or two.
    const OF_EVENT: u64 = 640;

    fn bytes(self) -> u64 {
        self.growth + self.later()
    }

    /// What is left when everything that was done is in its file.
    fn later(self) -> u64 {
        self.changes * Self::OF_CHANGE
            + self.pending * Self::OF_DELIVERY
            + self.unplanned * Self::OF_EVENT
    }
}

pub struct DiskReserve {
    reserve: PathBuf,
    /// What is held back at least.
    bytes: u64,
    /// What is held back now.
    held: u64,
    looked: Instant,
    released: Instant,
    /// How long it is left alone when it could not be held.
    timeout: Duration,
    /// Room is held without writing to it.
    is_cheap: bool,
}

impl DiskReserve {
    /// How often a full disk is looked at.
    pub const TIMEOUT: Duration = Duration::from_millis(500);
    const LONGEST_PATIENCE: Duration = Duration::from_secs(60);
    /// The reserve is given up in so many pieces, so that another program that fills the disk does not
    /// get all of it.
    const PIECES: u64 = 16;
    /// Whoever cannot go on asks for the next piece after this.
    const BETWEEN_PIECES: Duration = Duration::from_millis(150);
    /// This part of the reserve is never counted on; events are accepted again when twice as much is free.
    const MARGIN: u64 = 4;

    /// Takes hold of the reserve. Whether it could, [`Self::is_held`] says.
    pub fn open(reserve: PathBuf, bytes: u64) -> Self {
        let held = fs::metadata(&reserve).map_or(0, |it| it.len());
        let now = Instant::now();
        let (looked, released, timeout) = (now, now, Self::TIMEOUT);
        let mut room = Self { reserve, bytes, held, looked, released, timeout, is_cheap: true };
        if room.held < bytes
            && let Err(error) = room.hold(bytes)
        {
            tracing::warn!(%error, "there is no room on the disk to hold back");
        }
        room
    }

    /// Before a start: a disk that is full has room in the reserve.
    pub fn make_way(reserve: &Path, bytes: u64) {
        let held = fs::metadata(reserve).map_or(0, |it| it.len());
        if held > 0 && free(reserve).is_some_and(|it| it < bytes / 2) {
            tracing::warn!("the disk is full: the store is opened in a half of its reserve");
            if let Err(error) = shorten(reserve, held / 2) {
                tracing::warn!(%error, "the reserve cannot be given up");
            }
        }
    }

    pub fn is_held(&self) -> bool {
        self.held >= self.bytes
    }

    fn hold(&mut self, bytes: u64) -> io::Result<()> {
        let result = fill(&self.reserve, self.held, bytes);
        match &result {
            Ok(is_cheap) => (self.held, self.is_cheap) = (bytes, *is_cheap),
            Err(_) => self.held = fs::metadata(&self.reserve).map_or(0, |it| it.len()),
        }
        result.map(drop)
    }

    /// Gives up a piece of the reserve. Says whether there was one.
    pub fn release(&mut self) -> bool {
        if self.held == 0 {
            return false;
        }
        if self.held >= self.bytes {
            tracing::warn!("the reserve on the disk is given up, so that deliveries go on");
        }
        let piece = (self.bytes / Self::PIECES).max(64 << 10);
        let left = self.held.saturating_sub(piece);
        self.released = Instant::now();
        if let Err(error) = shorten(&self.reserve, left) {
            tracing::warn!(%error, "the reserve cannot be given up");
            return false;
        }
        self.held = left;
        true
    }

    /// The same, for who asks again and again.
    pub fn release_in_time(&mut self) {
        if self.released.elapsed() >= Self::BETWEEN_PIECES {
            self.release();
        }
    }

    /// Whether no events should be accepted any more, so that there is room for what becomes of those
    /// that were.
    pub fn is_tight(&self, needs: ReserveNeeds) -> bool {
        let free = free(&self.reserve).unwrap_or(u64::MAX);
        free.saturating_add(self.held) < needs.bytes() + self.bytes / Self::MARGIN
    }

    /// While there is room, more is held back the more is pending.
    pub fn follow(&mut self, needs: ReserveNeeds) {
        if self.bytes == 0 || !self.is_cheap {
            return;
        }
        let wanted = self.bytes * (1 + needs.later() / self.bytes);
        let free = free(&self.reserve).unwrap_or(0);
        if wanted > self.held && free / 2 > wanted - self.held {
            // A disk that is full says so to whoever writes.
            let _ = self.hold(wanted);
        } else if self.held > wanted + 2 * self.bytes && shorten(&self.reserve, wanted).is_ok() {
            self.held = wanted;
        }
    }

    /// Whether a full disk has room again, with the reserve held back again. Asks the file system now and
    /// then, and writes only when that says yes.
    pub fn is_back(&mut self, needs: ReserveNeeds) -> bool {
        if self.looked.elapsed() < self.timeout {
            return false;
        }
        self.looked = Instant::now();
        let missing = self.bytes.saturating_sub(self.held);
        let Some(free) = free(&self.reserve) else { return false };
        let margin = 2 * self.bytes / Self::MARGIN;
        let (after, held) = (free.saturating_sub(missing), self.held.max(self.bytes));
        if after < margin || after + held < needs.bytes() + self.bytes / Self::MARGIN + margin {
            self.timeout = Self::TIMEOUT;
            return false;
        }
        let result = if missing > 0 { self.hold(self.bytes) } else { Ok(()) };
        match result {
            Ok(()) => self.timeout = Self::TIMEOUT,
            // A quota, most likely, of which the file system says nothing.
            Err(_) => self.timeout = (self.timeout * 2).min(Self::LONGEST_PATIENCE),
        }
        result.is_ok()
    }
}

/// What this process may still write where the reserve is; `None`: nobody knows.
fn free(reserve: &Path) -> Option<u64> {
    let found = statvfs(reserve.parent()?).ok()?;
    Some(found.f_bavail.saturating_mul(found.f_frsize))
}

/// Makes a file longer, with room behind it. Says whether it was done without writing. When it fails, the
/// file is as long as it was.
fn fill(path: &Path, from: u64, bytes: u64) -> io::Result<bool> {
    let mut file = private::options().append(true).open(path)?;
    let room = match fallocate(&file, FallocateFlags::empty(), from, bytes.saturating_sub(from)) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => {
            write_zeros(&mut file, bytes.saturating_sub(from)).map(|()| false)
        }
        Err(error) => Err(error.into()),
    };
    let room = room.and_then(|is_cheap| file.sync_all().map(|()| is_cheap));
    room.inspect_err(|_| drop(file.set_len(from)))
}

fn write_zeros(file: &mut File, bytes: u64) -> io::Result<()> {
    let zeros = vec![0; 64 * 1024];
    let mut left = bytes;
    while left > 0 {
        let now = left.min(zeros.len() as u64);
        file.write_all(&zeros[..now as usize])?;
        left -= now;
    }
    Ok(())
}

fn shorten(path: &Path, bytes: u64) -> io::Result<()> {
    match bytes {
        0 => fs::remove_file(path),
        _ => File::options().write(true).open(path)?.set_len(bytes),
    }
}

/// A file that an earlier version may have left while it looked.
pub fn clean(reserve: &Path) {
    // It is in nobody's way but the disk's.
    let _ = fs::remove_file(reserve.with_extension("probe"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reserve_follows_what_is_pending() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("reserve");
        let held = || fs::metadata(&path).map_or(0, |it| it.len());
        let mut room = DiskReserve::open(path.clone(), 1 << 20);
        assert!(room.is_held());
        let pending = |pending| ReserveNeeds { pending, ..ReserveNeeds::default() };
        for (needs, bytes) in
            [(pending(1000), 1 << 20), (pending(20_000), 4 << 20), (pending(10_000), 4 << 20)]
        {
            room.follow(needs);
            assert_eq!(held(), bytes, "{needs:?}");
        }
        room.follow(pending(0));
        assert_eq!(held(), 1 << 20);
    }

    #[test]
    fn the_reserve_is_given_up_in_pieces() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("reserve");
        let mut room = DiskReserve::open(path.clone(), 1 << 20);
        assert!(room.release());
        assert_eq!(fs::metadata(&path).unwrap().len(), (1 << 20) - (64 << 10));
        let pieces = std::iter::from_fn(|| room.release().then_some(())).count();
        assert_eq!((pieces, path.exists()), (15, false));
        // And is held again where there is room.
        room.looked = Instant::now() - DiskReserve::TIMEOUT;
        assert!(room.is_back(ReserveNeeds::default()));
        assert!(room.is_held());
    }
}
