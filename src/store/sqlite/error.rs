//! What SQLite and the file system say, in the words of the store.

use std::io;

use rusqlite::{ErrorCode, ffi};

use crate::store::{Loss, StoreError};

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        use rusqlite::Error;

        let is_full = error.sqlite_error().is_some_and(|it| {
            // The second: the index of the log, which is memory that a file backs, could not grow.
            it.code == ErrorCode::DiskFull || it.extended_code == ffi::SQLITE_IOERR_SHMSIZE
        });
        match error {
            _ if is_full => Self::Full,
            Error::FromSqlConversionFailure(..)
            | Error::IntegralValueOutOfRange(..)
            | Error::InvalidColumnType(..)
            | Error::Utf8Error(..) => Self::Damaged { what: "row" },
            other => Self::Unavailable(Box::new(other)),
        }
    }
}

/// Not a `From`, so that an error of a file is never taken for one of something else.
pub(super) fn of_file(error: io::Error) -> StoreError {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => StoreError::Full,
        _ => StoreError::Unavailable(Box::new(error)),
    }
}

/// Whether what was read is not what was written.
pub(super) fn is_damage(error: &StoreError) -> bool {
    match error {
        StoreError::Damaged { .. } => true,
        StoreError::Unavailable(source) => {
            let code = source.downcast_ref().and_then(rusqlite::Error::sqlite_error_code);
            matches!(code, Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase))
        }
        StoreError::Full
        | StoreError::Incomplete(_)
        | StoreError::Newer { .. }
        | StoreError::TooManyDeliveries
        | StoreError::Fenced
        | StoreError::Unfinished
        | StoreError::Closed => false,
    }
}

/// An error of a file, with its name. Where it says that the file is damaged, it also says what is lost.
pub(super) fn in_file(file: &str, lost: &str) -> impl FnOnce(StoreError) -> StoreError {
    move |error| match &error {
        StoreError::Damaged { .. } => {
            let found = format!("is damaged ({error})");
            Loss { file: file.to_owned(), found, lost: lost.to_owned() }.into()
        }
        StoreError::Unavailable(source) if is_broken(&error) => {
            let found = format!("is damaged ({source})");
            Loss { file: file.to_owned(), found, lost: lost.to_owned() }.into()
        }
        StoreError::Unavailable(source) => {
            StoreError::Unavailable(format!("`{file}`: {source}").into())
        }
        StoreError::Incomplete(_)
        | StoreError::Full
        | StoreError::Newer { .. }
        | StoreError::TooManyDeliveries
        | StoreError::Fenced
        | StoreError::Unfinished
        | StoreError::Closed => error,
    }
}

/// What the caller is answered when recent writes cannot be read.
pub(super) fn failed() -> StoreError {
    unavailable("the disk or the database failed; the log says how")
}

pub(super) fn unavailable(why: &'static str) -> StoreError {
    StoreError::Unavailable(why.into())
}

/// An input/output error: the same number on every system that we run on.
const EIO: i32 = 5;

/// Whether the files can no longer be trusted to keep what is written to them.
///
/// After a failed sync the kernel may drop the pages and report success the next time, so it is
/// never tried again. Of a plain file, an input/output error is such a failure; that a file is
/// missing or may not be opened says nothing about the disk.
pub(super) fn is_broken(error: &StoreError) -> bool {
    match error {
        StoreError::Unavailable(source) => {
            let of_sqlite = source.downcast_ref::<rusqlite::Error>();
            let of_file = source.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error);
            of_file == Some(EIO)
                || of_sqlite.and_then(rusqlite::Error::sqlite_error_code).is_some_and(|code| {
                    matches!(
                        code,
                        ErrorCode::SystemIoFailure
                            | ErrorCode::DatabaseCorrupt
                            | ErrorCode::NotADatabase
                    )
                })
        }
        StoreError::Damaged { .. } | StoreError::Incomplete(_) => true,
        StoreError::Full
        | StoreError::Newer { .. }
        | StoreError::TooManyDeliveries
        | StoreError::Fenced
        | StoreError::Unfinished
        | StoreError::Closed => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_failure_of_sqlite_is_what_the_writer_must_do_about_it() {
        for (code, is_full, breaks) in [
            (ffi::SQLITE_FULL, true, false),
            (ffi::SQLITE_IOERR_SHMSIZE, true, false),
            (ffi::SQLITE_IOERR_FSYNC, false, true),
            (ffi::SQLITE_IOERR_WRITE, false, true),
            (ffi::SQLITE_CORRUPT, false, true),
            (ffi::SQLITE_NOTADB, false, true),
            (ffi::SQLITE_BUSY, false, false),
            (ffi::SQLITE_CANTOPEN, false, false),
        ] {
            let failure = rusqlite::Error::SqliteFailure(ffi::Error::new(code), None);
            let error = StoreError::from(failure);
            assert_eq!(matches!(error, StoreError::Full), is_full, "{code}");
            assert_eq!(is_broken(&error), breaks, "{code}");
        }
    }

    #[test]
    fn each_failure_of_a_file_is_what_the_store_must_do_about_it() {
        // EIO, ENOSPC, EDQUOT, ENOENT and EMFILE.
        for (code, is_full, breaks) in [
            (EIO, false, true),
            (28, true, false),
            (122, true, false),
            (2, false, false),
            (24, false, false),
        ] {
            let error = of_file(io::Error::from_raw_os_error(code));
            assert_eq!(matches!(error, StoreError::Full), is_full, "{code}");
            assert_eq!(is_broken(&error), breaks, "{code}");
        }
    }
}
