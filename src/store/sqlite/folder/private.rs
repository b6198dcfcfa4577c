//! Files and folders that only the user of the gateway reads, whatever the umask is: they hold what people
//! sent, and who they are.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, Permissions},
    io,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::Path,
};

use crate::store::{Result, sqlite::error::of_file};

const FILE: u32 = 0o600;
const FOLDER: u32 = 0o700;
/// What a group and all others may do.
const OTHERS: u32 = 0o077;
/// Of a folder that many users share, such as `/tmp`, which is not ours to close.
const STICKY: u32 = 0o1000;

/// Opens a file to read and write, and makes it if it is missing.
pub fn options() -> OpenOptions {
    let mut options = File::options();
    options.create(true).truncate(false).read(true).write(true).mode(FILE);
    options
}

/// Makes an empty file where there is none. SQLite gives the files beside it the same mode.
pub fn make_file(path: &Path) -> Result<()> {
    match File::options().create_new(true).write(true).mode(FILE).open(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(of_file(error)),
        Ok(_) | Err(_) => Ok(()),
    }
}

/// Makes a folder where there is none, with those above it.
pub fn make_folder(path: &Path) -> Result<()> {
    DirBuilder::new().recursive(true).mode(FOLDER).create(path).map_err(of_file)
}

/// Closes to others a folder that an earlier version made, with all that it holds.
pub fn tighten(folder: &Path) -> Result<()> {
    let mut changed = u64::from(close(folder));
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).map_err(of_file)? {
            let entry = entry.map_err(of_file)?;
            let kind = entry.file_type().map_err(of_file)?;
            if kind.is_symlink() {
                continue;
            }
            let is_ours = entry.file_name() == "segments" || entry.file_name() == "keys";
            if kind.is_file() || is_ours {
                changed += u64::from(close(&entry.path()));
            }
            if kind.is_dir() && is_ours {
                folders.push(entry.path());
            }
        }
    }
    if changed > 0 {
        tracing::warn!(
            changed,
            folder = %folder.display(),
            "the data could be read by other users of the machine, and cannot any more"
        );
    }
    Ok(())
}

/// Says whether it was open to others, and is not any more.
fn close(path: &Path) -> bool {
    let Ok(found) = fs::metadata(path) else { return false };
    let mode = found.permissions().mode();
    if mode & OTHERS == 0 || mode & STICKY != 0 {
        return false;
    }
    let closed = fs::set_permissions(path, Permissions::from_mode(mode & 0o7777 & !OTHERS));
    if let Err(error) = &closed {
        let error = error as &dyn std::error::Error;
        tracing::warn!(error, path = %path.display(), "other users can read this: chmod go-rwx");
    }
    closed.is_ok()
}
