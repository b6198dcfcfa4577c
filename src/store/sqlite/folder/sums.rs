//! Checksums for the pages of files that an earlier version made: they are copied, and the copy takes their place.
//!
//! The copy is complete and on disk before that. A crash leaves one or the other, and a file that the next start
//! deletes. Segments are not copied: the newest is not continued, and the others have the digest of the file.

use std::{
    fs::{self, File},
    path::Path,
};

use rusqlite::{Connection, OpenFlags};
use tidegate_pages::has_sums;

use super::{
    beside::{beside, remove_files},
    files, private,
};
use crate::store::{
    Result, StoreError,
    sqlite::error::{of_file, unavailable},
};

/// What takes longer to copy than a start may take stays as it is.
const MOST: u64 = 256 << 20;

/// Whether the pages of a file have no checksums.
pub fn are_missing(path: &Path) -> Result<bool> {
    Ok(path.exists() && has_sums(path).map_err(of_file)? == Some(false))
}

/// Gives checksums to the pages of a file that nobody has open, if it has none and there is room.
pub fn add(path: &Path) -> Result<()> {
    let fresh = path.with_extension("db-copy");
    remove_files(&fresh)?;
    if !are_missing(path)? {
        return Ok(());
    }
    let bytes = fs::metadata(path).map_err(of_file)?.len();
    if bytes > MOST {
        tracing::info!(file = %path.display(), bytes, "a large file stays without checksums of its pages");
        return Ok(());
    }
    match copy(path, &fresh) {
        Ok(()) => Ok(()),
        Err(StoreError::Full) => remove_files(&fresh),
        Err(error) => {
            // What cannot be removed now is when the store is opened.
            let _ = remove_files(&fresh);
            Err(error)
        }
    }
}

fn copy(path: &Path, fresh: &Path) -> Result<()> {
    private::make_file(fresh)?;
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_NO_MUTEX
        | OpenFlags::SQLITE_OPEN_URI;
    let connection: Connection = tidegate_pages::open(path, flags)?;
    let target = format!("{}?reserve=8", files::uri(fresh, false));
    connection.execute("VACUUM INTO ?", [target])?;
    // The log, which would not fit the copy, goes for good before that takes its place.
    connection.pragma_update_and_check(None, "journal_mode", "DELETE", |_| Ok(()))?;
    connection.close().map_err(|(_, error)| error)?;
    if beside(path, "-wal").exists() || has_sums(fresh).map_err(of_file)? != Some(true) {
        return Err(unavailable("a file cannot be copied to one with checksums"));
    }
    let folder = path.parent().unwrap_or(Path::new("."));
    File::open(fresh).and_then(|it| it.sync_all()).map_err(of_file)?;
    files::sync_folder(folder)?;
    fs::rename(fresh, path).map_err(of_file)?;
    files::sync_folder(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_keeps_what_it_holds_and_gets_checksums() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("some.db");
        let flags = OpenFlags::default();
        let old = Connection::open_with_flags_and_vfs(&path, flags, c"unix").unwrap();
        old.pragma_update(None, "journal_mode", "WAL").unwrap();
        old.pragma_update(None, "application_id", 77).unwrap();
        old.pragma_update(None, "user_version", 3).unwrap();
        old.execute_batch("CREATE TABLE t (n INTEGER PRIMARY KEY, x BLOB); INSERT INTO t VALUES (5, zeroblob(9999))")
            .unwrap();
        // A process that was killed leaves a log.
        let (left, log) = (folder.path().join("left.db"), beside(&path, "-wal"));
        fs::copy(&path, &left).unwrap();
        fs::copy(&log, beside(&left, "-wal")).unwrap();
        assert!(are_missing(&left).unwrap());

        add(&left).unwrap();
        assert!(!are_missing(&left).unwrap());
        let new = tidegate_pages::open(&left, OpenFlags::SQLITE_OPEN_READ_WRITE).unwrap();
        let number = |name| new.pragma_query_value(None, name, |row| row.get::<_, i64>(0)).unwrap();
        assert_eq!((number("application_id"), number("user_version")), (77, 3));
        let row =
            new.query_row("SELECT n, length(x) FROM t", [], |it| Ok((it.get(0)?, it.get(1)?)));
        assert_eq!(row, Ok((5, 9_999)));
        let mut names: Vec<_> =
            fs::read_dir(folder.path()).unwrap().map(|it| it.unwrap().file_name()).collect();
        names.retain(|it| it.to_string_lossy().contains("copy"));
        assert_eq!(names.len(), 0, "{names:?}");
    }
}
