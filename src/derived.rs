//! Small files beside the store that hold what may be lost: counts, and what was learned.
//!
//! A file is written whole and then takes the place of the old one, so that a crash leaves the one or the
//! other. What happened since the last writing is gone with a crash.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

use serde::{Serialize, de::DeserializeOwned};

/// Bytes of a file; a larger one is not ours.
const LARGEST: u64 = 256 << 20;

/// What the file holds; `None` where there is none. One that cannot be read is left where it is and
/// reported: what it held is learned again, and the next writing replaces it.
pub fn read<T: DeserializeOwned>(file: &Path) -> Option<T> {
    let unreadable = |error: &(dyn std::error::Error + 'static)| {
        tracing::warn!(file = %file.display(), error, "a derived file cannot be read; it starts empty");
    };
    match fs::metadata(file) {
        Ok(it) if it.len() > LARGEST => return None,
        Ok(_) => (),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        Err(error) => {
            unreadable(&error);
            return None;
        }
    }
    let bytes = fs::read(file).inspect_err(|error| unreadable(error)).ok()?;
    serde_json::from_slice(&bytes).inspect_err(|error| unreadable(error)).ok()
}

/// Writes the file again. It blocks until that is on disk.
pub fn write<T: Serialize>(file: &Path, value: &T) -> io::Result<()> {
    let fresh = file.with_extension("new");
    // Only its owner reads it: it tells what people send.
    let options = File::options().write(true).create(true).truncate(true).mode(0o600).to_owned();
    let mut to = options.open(&fresh)?;
    to.write_all(&serde_json::to_vec(value)?)?;
    to.sync_data()?;
    fs::rename(fresh, file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_holds_what_was_written_last_and_nonsense_is_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("counts.json");
        assert_eq!(read::<Vec<u32>>(&file), None);
        write(&file, &vec![1, 2]).unwrap();
        write(&file, &vec![3]).unwrap();
        assert_eq!(read::<Vec<u32>>(&file), Some(vec![3]));
        fs::write(&file, "[3").unwrap();
        assert_eq!(read::<Vec<u32>>(&file), None);
    }
}
