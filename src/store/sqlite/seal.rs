//! Sealing a segment to which nothing is added any more.

use std::{fs, path::Path};

use super::{
    error::unavailable,
    files::{self, Kind, Sync},
    segments::{Segment, fact, set_fact},
};
use crate::store::Result;

/// Gives a segment the indexes that queries use, and brings its log into the file, which then never
/// changes again. A crash on the way leaves a segment that is not sealed.
pub(super) fn seal(path: &Path) -> Result<()> {
    let connection = files::open_writer(path, Kind::Segment, Sync::Full, 8 << 20)?;
    connection.execute_batch(include_str!("migrations/sealed.sql"))?;
    set_fact(&connection, "sealed", 1)?;
    let is_busy: bool =
        connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))?;
    if is_busy {
        return Err(unavailable("a reader still uses the log of the segment"));
    }
    Ok(())
}

/// Whether it is sealed: it says so, and nothing waits in a log beside it.
pub(super) fn is_sealed(segment: &Segment) -> Result<bool> {
    let mut log = segment.path().as_os_str().to_owned();
    log.push("-wal");
    let has_log = fs::metadata(Path::new(&log)).is_ok_and(|it| it.len() > 0);
    Ok(!has_log && segment.read(|it| fact(it, "sealed"))? == Some(1))
}
