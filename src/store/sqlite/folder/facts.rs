//! Single values that a file says about itself, in its table `facts`.

use rusqlite::{Connection, OptionalExtension as _};

use crate::store::Result;

/// The fact of a segment that tells the last batch that was committed to it.
pub const JOURNALED: &str = "journaled";

/// A single value of a file.
pub fn fact(connection: &Connection, name: &str) -> Result<Option<i64>> {
    let mut found = connection.prepare_cached("SELECT value FROM facts WHERE name = ?")?;
    Ok(found.query_row([name], |row| row.get(0)).optional()?)
}

pub fn set_fact(connection: &Connection, name: &str, value: i64) -> Result<()> {
    connection
        .prepare_cached("INSERT OR REPLACE INTO facts (name, value) VALUES (?, ?)")?
        .execute((name, value))?;
    Ok(())
}
