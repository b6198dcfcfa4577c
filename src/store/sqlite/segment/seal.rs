//! Sealing a segment to which nothing is added any more: it gets its indexes and what it says about
//! itself, and its log goes into the file, which from then on is only read.

use std::{fs, path::Path};

use rusqlite::Connection;

use super::segments::Segment;
use crate::store::{
    Result,
    sqlite::{
        error::unavailable,
        folder::{
            beside::beside,
            facts::fact,
            files::{self, Kind, Sync},
        },
    },
};

/// Pages that sorting for an index may take in memory.
const CACHE_BYTES: u32 = 8 << 20;

/// Seals a file. The writer goes on in another one meanwhile, and readers in this one. A crash on
/// the way leaves a segment that is not sealed, or is; doing it again does no harm.
pub fn seal(path: &Path) -> Result<()> {
    let connection = files::open_writer(path, Kind::Segment, Sync::Derived, CACHE_BYTES)?;
    // A piece at a time, each brought into the file before the next: so the log stays short, and no
    // sync is so long that a commit of the writer would wait behind it.
    for statement in statements() {
        connection.execute_batch(statement)?;
        checkpoint(&connection, "PASSIVE")?;
    }
    if checkpoint(&connection, "TRUNCATE")? {
        return Err(unavailable("a reader still uses the log of the segment"));
    }
    Ok(())
}

/// Gives a file that nobody else has open all that sealing gives.
pub fn finish(connection: &Connection) -> Result<()> {
    Ok(connection.execute_batch(SEALED)?)
}

const SEALED: &str = include_str!("../folder/migrations/sealed.sql");

/// The indexes one by one, and then the rest, of which the last says that the segment is sealed.
fn statements() -> impl Iterator<Item = &'static str> {
    SEALED.split_inclusive(';').filter(|it| it.contains(';'))
}

/// Brings the log into the file. Says whether somebody stood in the way.
fn checkpoint(connection: &Connection, how: &str) -> Result<bool> {
    let sql = format!("PRAGMA wal_checkpoint({how})");
    Ok(connection.query_row(&sql, [], |row| row.get(0))?)
}

/// Whether it is sealed: it says so, and nothing waits in a log beside it.
pub fn is_sealed(segment: &Segment) -> Result<bool> {
    match fs::metadata(beside(segment.path(), "-wal")) {
        Ok(log) if log.len() > 0 => Ok(false),
        Ok(_) | Err(_) => Ok(segment.read(|it| fact(it, "sealed"))? == Some(1)),
    }
}
