//! Checksums of the pages of SQLite files, so that a bit that changes on a disk is told when it is read.
//!
//! Each page keeps 8 bytes for its checksum (xxh3 of its bytes and its number). It is written with the page, and
//! compared at each read, by a [layer](vfs) below SQLite. A page that differs is damage
//! (`SQLITE_CORRUPT`) to whoever reads it. Files without such bytes are read and written as they are.

mod page;
mod vfs;

use std::{ffi::c_int, fs::File, io, os::unix::fs::FileExt as _, path::Path};

use rusqlite::{Connection, OpenFlags, ffi};

use self::page::{HEAD, RESERVED, RESERVED_AT};

/// Makes every connection of the process that is opened from now on compare and write checksums.
pub fn register() -> rusqlite::Result<()> {
    match vfs::register() {
        ffi::SQLITE_OK => Ok(()),
        code => Err(rusqlite::Error::SqliteFailure(ffi::Error::new(code), None)),
    }
}

/// Opens a database. One that is made here has checksums.
pub fn open(path: impl AsRef<Path>, flags: OpenFlags) -> rusqlite::Result<Connection> {
    register()?;
    let connection = Connection::open_with_flags_and_vfs(path, flags, vfs::NAME)?;
    if flags.contains(OpenFlags::SQLITE_OPEN_CREATE) {
        reserve(&connection)?;
    }
    Ok(connection)
}

/// Asks for the bytes, which a database gets when its first page is written, and keeps.
fn reserve(connection: &Connection) -> rusqlite::Result<()> {
    let mut bytes = c_int::from(RESERVED);
    for what in [ffi::SQLITE_FCNTL_RESERVE_BYTES, vfs::EXPECT_SUMS] {
        // SAFETY: the connection is open. SQLite reads and writes one number, and we nothing.
        let code = unsafe {
            let argument = (&raw mut bytes).cast();
            ffi::sqlite3_file_control(connection.handle(), c"main".as_ptr(), what, argument)
        };
        if code != ffi::SQLITE_OK {
            return Err(rusqlite::Error::SqliteFailure(ffi::Error::new(code), None));
        }
    }
    Ok(())
}

/// Whether the pages of a file have checksums. `None` where it is no database, or empty.
pub fn has_sums(path: &Path) -> io::Result<Option<bool>> {
    let mut head = [0; HEAD];
    match File::open(path)?.read_exact_at(&mut head, 0) {
        Ok(()) => Ok(page::has_sums(&head)),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        Err(error) => Err(error),
    }
}

/// Opens a database to read its pages as they are, whatever their checksums say.
pub fn open_as_it_is(path: impl AsRef<Path>) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    Connection::open_with_flags_and_vfs(path, flags, c"unix")
}

/// Takes the pages of a file as they are: gives those a new checksum whose own is wrong, and says how many those
/// were. Nobody may have it open.
pub fn take_as_it_is(path: &Path) -> io::Result<u64> {
    let file = File::options().read(true).write(true).open(path)?;
    let mut head = [0; HEAD];
    file.read_exact_at(&mut head, 0)?;
    let length = match u16::from_be_bytes([head[16], head[17]]) {
        1 => 1 << 16,
        it => usize::from(it),
    };
    if !page::is_page(length, 0) {
        return Ok(0);
    }
    let mut page = vec![0; length];
    file.read_exact_at(&mut page, 0)?;
    let says_so = page::has_sums(&page) == Some(true);
    if !says_so && page::judge(&page, 0, false) {
        return Ok(0);
    }
    let mut taken = 0;
    if !says_so {
        file.write_all_at(&[RESERVED], RESERVED_AT as u64)?;
        taken += 1;
    }
    let (end, mut at) = (file.metadata()?.len(), 0);
    while page::is_page(length, at) && at + length as u64 <= end {
        file.read_exact_at(&mut page, at)?;
        if !page::judge(&page, at, true) {
            page::seal(&mut page, at);
            file.write_all_at(&page, at)?;
            taken += 1;
        }
        at += length as u64;
    }
    file.sync_all()?;
    Ok(taken)
}
