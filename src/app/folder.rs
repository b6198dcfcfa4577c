//! The data folder before a start: whether there is a store, and whether it is the right one. A typing error or
//! a disk that is not mounted must not pass for an empty gateway, nor a folder that was left for a database.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    path::Path,
};

use super::StartError;
use crate::{config::Config, store::postgres::Address};

/// The file that says where the store is now.
const MOVED: &str = "moved-to";

/// What may lie in a folder in which a store is made: what Tidegate leaves there without a store, what people
/// keep beside one, and what file systems put there.
const HARMLESS: [&str; 10] = [
    "master.key",
    "traffic.json",
    "learned.json",
    "clock.json",
    "lock",
    "reserve",
    // A store that was being made when the process ended has these first.
    "manifest",
    "marks",
    "lost+found",
    MOVED,
];
const HARMLESS_ENDINGS: [&str; 6] = [".toml", ".yaml", ".yml", ".env", ".log", ".md"];

/// Refuses a folder that is not this gateway's, and says so where a store is about to be made.
pub fn look(config: &Config, is_forced: bool) -> Result<(), StartError> {
    let path = &config.data;
    let failed = |source| StartError::Folder { path: path.clone(), source };
    if config.database.is_some() {
        return Ok(());
    }
    match fs::read_to_string(path.join(MOVED)) {
        Ok(to) if !is_forced => {
            return Err(StartError::Moved { path: path.clone(), to: to.trim().to_owned() });
        }
        Ok(to) => {
            tracing::warn!(
                database = to.trim(),
                "the folder is used alone again, though its store was moved"
            );
            fs::remove_file(path.join(MOVED)).map_err(failed)?;
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => (),
        Err(error) => return Err(failed(error)),
    }
    if path.join("control.db").exists() {
        return Ok(());
    }
    if let Some(found) = something_else(path).map_err(failed)?
        && !is_forced
    {
        return Err(StartError::NotOurs { path: path.clone(), found });
    }
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.clone());
    tracing::warn!("there is no store yet: creating a new, empty store in {}", absolute.display());
    Ok(())
}

/// What is neither ours nor harmless. A store without its `control.db` is for the store to judge.
fn something_else(path: &Path) -> io::Result<Option<String>> {
    let entries = match fs::read_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        entries => entries?,
    };
    if path.join("segments").is_dir() {
        return Ok(None);
    }
    let mut found = Vec::new();
    for entry in entries {
        let name = entry?.file_name().to_string_lossy().into_owned();
        let is_harmless = HARMLESS.contains(&&*name)
            || name.starts_with('.')
            || name.starts_with("master.draft-")
            || HARMLESS_ENDINGS.iter().any(|it| name.ends_with(it));
        if !is_harmless {
            found.push(name);
        }
    }
    found.sort();
    Ok(found.into_iter().next())
}

/// Says durably that the store of the folder is in the database.
pub fn mark_moved(path: &Path, to: &Address) -> io::Result<()> {
    let mut file = File::create(path.join(MOVED))?;
    writeln!(file, "{to}")?;
    file.sync_all()?;
    File::open(path)?.sync_all()
}

/// The same for a node that works on a database: started without it, it would be an empty gateway.
pub fn mark_in_use(path: &Path, database: &Address) {
    let text = format!("{database}\n");
    let is_marked = fs::read_to_string(path.join(MOVED)).is_ok_and(|it| it == text);
    if !is_marked && let Err(error) = mark_moved(path, database) {
        tracing::debug!(%error, "the data folder is not marked as one of a database");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(path: &Path) -> Config {
        Config { data: path.to_owned(), ..Config::default() }
    }

    #[test]
    fn a_store_is_made_only_where_nothing_else_is() {
        let cases: &[(&[&str], Option<&str>)] = &[
            (&[], None),
            (&["master.key", "tidegate.toml", "acme.yaml", "lost+found", ".gitignore"], None),
            (&["control.db", "photos"], None),
            (&["segments/", "anything"], None),
            (&["master.key", "photos"], Some("photos")),
            (&["PG_VERSION", "base/"], Some("PG_VERSION")),
        ];
        for (files, refused) in cases {
            let folder = tempfile::tempdir().unwrap();
            for name in *files {
                let path = folder.path().join(name);
                if name.ends_with('/') { fs::create_dir(path) } else { fs::write(path, "") }
                    .unwrap();
            }
            let found = match look(&config(folder.path()), false) {
                Err(StartError::NotOurs { found, .. }) => Some(found),
                other => {
                    other.unwrap();
                    None
                }
            };
            assert_eq!(found.as_deref(), *refused, "{files:?}");
            assert!(look(&config(folder.path()), true).is_ok(), "{files:?}");
        }
        assert!(look(&config(Path::new("/nowhere/at/all")), false).is_ok());
    }

    #[test]
    fn a_folder_that_was_moved_is_refused_until_it_is_forced() {
        let folder = tempfile::tempdir().unwrap();
        let address: Address = "postgres://me:secret@db.acme.com/events".parse().unwrap();
        mark_moved(folder.path(), &address).unwrap();
        let refused = look(&config(folder.path()), false).unwrap_err();
        assert!(
            matches!(&refused, StartError::Moved { to, .. } if !to.contains("secret")),
            "{refused}"
        );
        // A node of the database may use the folder.
        let database = Some(address);
        look(&Config { database, ..config(folder.path()) }, false).unwrap();
        look(&config(folder.path()), true).unwrap();
        look(&config(folder.path()), false).unwrap();
    }
}
