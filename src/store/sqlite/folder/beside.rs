//! What SQLite keeps beside a file: its write-ahead log and the memory that readers share.

use std::{
    fs,
    path::{Path, PathBuf},
};

use rusqlite::Connection;

use crate::store::{Result, StoreError, sqlite::error::is_broken};

/// The name of what SQLite keeps beside a file.
pub fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// Removes a segment's file, and what SQLite keeps beside it.
pub fn remove_files(path: &Path) -> Result<()> {
    for suffix in ["", "-wal", "-shm"] {
        match fs::remove_file(beside(path, suffix)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(StoreError::Unavailable(Box::new(error)));
            }
            Ok(()) | Err(_) => (),
        }
    }
    Ok(())
}

/// Brings what can be brought of the log into the file, without waiting for anybody. Says how many
/// pages the log has.
pub fn checkpoint(connection: &Connection) -> Result<u64> {
    let pages: i64 =
        connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |row| row.get(1))?;
    Ok(pages.max(0) as u64)
}

/// The same for a file that is written beside the writer, after a commit: only a disk that is broken
/// is a failure, for otherwise the log just stays longer.
pub fn checkpoint_if_possible(connection: &Connection, file: &str) -> Result<()> {
    match checkpoint(connection) {
        Ok(_) => Ok(()),
        Err(error) if is_broken(&error) => Err(error),
        Err(error) => {
            tracing::warn!(file, error = &error as &dyn std::error::Error, "a log stays for now");
            Ok(())
        }
    }
}
