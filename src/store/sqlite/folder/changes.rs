//! How often a file was changed: it says so itself, and so does a mark beside it. A file that says less has lost
//! something, as when its log was damaged, or when it was cut off, deleted, or taken from an older backup.

use rusqlite::{Connection, Transaction};

use super::marks::{About, Marks};
use crate::store::{Result, StoreError};

/// A number in the file's head that SQLite leaves to programs. It goes round after so many changes.
const NAME: &str = "application_id";
const MOST: u64 = i32::MAX as u64;

fn count(connection: &Connection) -> Result<u64> {
    let count: i32 = connection.pragma_query_value(None, NAME, |row| row.get(0))?;
    Ok(u64::try_from(count).unwrap_or(0))
}

/// Refuses a file that says less than its mark.
pub fn check(connection: &Connection, marked: u64) -> Result<()> {
    if count(connection)? < marked {
        return Err(StoreError::Damaged { what: "log: changes that were made are missing" });
    }
    Ok(())
}

/// Commits one more change.
pub fn commit(transaction: Transaction<'_>, marks: &Marks, about: About) -> Result<()> {
    let changes = (count(&transaction)? + 1) % MOST;
    transaction.pragma_update(None, NAME, changes as i64)?;
    transaction.commit()?;
    marks.set(about, changes);
    Ok(())
}

/// Brings the log into the file.
pub fn fold(connection: &Connection) -> Result<()> {
    Ok(connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?)
}
