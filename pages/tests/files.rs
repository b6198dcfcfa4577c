//! Files with checksums, as SQLite writes and reads them: in both kinds of journal, across connections, with large
//! values, and beside files that have none.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::{fs, path::Path};

use rusqlite::{Connection, ErrorCode, OpenFlags};
use tidegate_pages::{has_sums, open, take_as_it_is};

fn writer(path: &Path) -> Connection {
    open(path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE).unwrap()
}

fn fill(connection: &Connection) {
    connection
        .execute_batch(
            "CREATE TABLE rows (n INTEGER PRIMARY KEY, text TEXT, large BLOB);
             CREATE INDEX by_text ON rows (text);
             WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < 120)
             INSERT INTO rows SELECT n, 'row ' || n, zeroblob((n % 7) / 6 * 9000) FROM numbers;
             DELETE FROM rows WHERE n % 5 = 0;",
        )
        .unwrap();
}

/// All that can be read, by the table and by the index.
fn read(path: &Path) -> rusqlite::Result<Vec<String>> {
    let connection = open(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    let mut all = Vec::new();
    for sql in [
        "SELECT n || text || hex(large) FROM rows ORDER BY n",
        "SELECT text FROM rows INDEXED BY by_text WHERE text > '' ORDER BY text",
        "SELECT group_concat(sql) FROM sqlite_schema",
    ] {
        let mut statement = connection.prepare(sql)?;
        let rows = statement.query_map([], |row| row.get(0))?;
        all.extend(rows.collect::<Result<Vec<String>, _>>()?);
    }
    Ok(all)
}

fn is_damage(error: &rusqlite::Error) -> bool {
    let code = error.sqlite_error_code();
    matches!(code, Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase))
}

#[test]
fn each_bit_that_is_read_counts() {
    for mode in ["DELETE", "WAL"] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("some.db");
        let connection = writer(&path);
        connection.pragma_update(None, "journal_mode", mode).unwrap();
        fill(&connection);
        // Another connection reads and writes as well.
        let other = writer(&path);
        other.execute("UPDATE rows SET text = 'changed' WHERE n = 3", []).unwrap();
        drop((connection, other));
        assert_eq!(has_sums(&path).unwrap(), Some(true), "{mode}");
        let expected = read(&path).unwrap();
        let whole = fs::read(&path).unwrap();
        assert!(whole.len() > 30 * 4096);
        for flip in 0..500 {
            let mut bytes = whole.clone();
            let bit = flip * 7_919 * 31 % (whole.len() * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
            fs::write(&path, bytes).unwrap();
            match read(&path) {
                Ok(read) => assert_eq!(read, expected, "{mode}: bit {bit}"),
                Err(error) => assert!(is_damage(&error), "{mode}: bit {bit}: {error}"),
            }
        }
        // Pages that are free are not read.
        let mut told = 0;
        for page in 0..whole.len() / 4096 {
            let mut bytes = whole.clone();
            bytes[page * 4096 + 2_000] ^= 1;
            fs::write(&path, bytes).unwrap();
            told += usize::from(read(&path).is_err());
        }
        assert!(told * 10 > whole.len() / 4096 * 7, "{told}");
    }
}

#[test]
fn a_file_without_checksums_stays_one() {
    let folder = tempfile::tempdir().unwrap();
    let (old, new) = (folder.path().join("old.db"), folder.path().join("new.db"));
    // As a program makes it that knows nothing of them.
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE;
    let connection = Connection::open_with_flags_and_vfs(&old, flags, c"unix").unwrap();
    connection.pragma_update(None, "journal_mode", "WAL").unwrap();
    fill(&connection);
    drop(connection);
    let connection = writer(&old);
    connection.execute("UPDATE rows SET text = 'changed' WHERE n = 3", []).unwrap();
    let target = format!("file:{}?reserve=8", new.display());
    let source = open(&old, flags | OpenFlags::SQLITE_OPEN_URI).unwrap();
    source.execute("VACUUM INTO ?", [target]).unwrap();
    drop((connection, source));
    assert_eq!(has_sums(&old).unwrap(), Some(false));
    assert_eq!(has_sums(&new).unwrap(), Some(true));
    assert_eq!(read(&old).unwrap(), read(&new).unwrap());
}

#[test]
fn a_file_may_be_taken_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("some.db");
    fill(&writer(&path));
    assert_eq!(take_as_it_is(&path).unwrap(), 0);
    let mut bytes = fs::read(&path).unwrap();
    let text = b"row 119";
    let at = bytes.windows(text.len()).position(|it| it == text).unwrap();
    bytes[at] ^= 1;
    fs::write(&path, bytes).unwrap();
    assert!(is_damage(&read(&path).unwrap_err()));
    assert_eq!(take_as_it_is(&path).unwrap(), 1);
    assert!(read(&path).unwrap().iter().any(|it| it.contains("sow 119")));
    // Also where the very bit is damaged that says that there are checksums.
    let mut bytes = fs::read(&path).unwrap();
    bytes[20] ^= 8;
    fs::write(&path, bytes).unwrap();
    assert!(is_damage(&read(&path).unwrap_err()));
    assert_eq!(take_as_it_is(&path).unwrap(), 1);
    assert!(read(&path).is_ok());
}
