//! Going on without what is missing or damaged, on purpose. What is set aside is kept in the folder `damaged`.

use std::{fs, fs::File, path::Path};

use rusqlite::OpenFlags;

use super::{Check, intact, name_of};
use crate::{
    model::EventSeq,
    store::{
        Loss, Result,
        sqlite::{
            error::{of_file, unavailable},
            folder::{
                beside::{beside, remove_files},
                files::{self, Kind, Sync},
                manifest::ManifestFile,
                marks::About,
                private,
            },
            keys,
            wal::{journal::NAMES, journal_tail::JournalTail},
        },
    },
};

/// Makes the folder such that a start goes on with what is left of it, and says what was done. Where nothing is
/// missing or damaged, nothing is changed.
pub fn repair(path: &Path) -> Result<Vec<String>> {
    let mut check = Check::open(path)?;
    check.all()?;
    let repair = Repair { path: path.to_owned(), done: Vec::new() };
    repair.run(check)
}

struct Repair {
    path: std::path::PathBuf,
    done: Vec<String>,
}

/// Places of events that are left out where it is not known how many there were.
const GAP: u64 = 1 << 20;

impl Repair {
    fn run(mut self, check: Check) -> Result<Vec<String>> {
        let left = check.left();
        let (marks, folder) = (check.marks.clone(), check.folder.segments()?);
        let listed = ManifestFile::open(&self.path).map_or(None, |it| it.known().newest());
        let turn = left.iter().filter_map(JournalTail::highest).max().unwrap_or(0);
        let turn = turn.max(marks.get(About::Journal));
        let keys_through = keys::highest(&check.folder.keys())?;
        // Holds the lock until all is done.
        let (lock, losses) = check.parts();
        if losses.is_empty() {
            return Ok(self.done);
        }
        for loss in &losses {
            self.one(loss, &left)?;
        }
        // Empty, if it is gone.
        files::open_writer(&lock.directory(), Kind::Directory, Sync::Full, 1 << 20)?;
        let there = lock.segments()?;
        let newest = listed.max(folder.last().copied());
        if let Some(newest) = newest.filter(|it| there.last() != Some(it)) {
            let first = EventSeq(newest.0.max(keys_through) + GAP);
            lock.make_segment(first, turn)?;
            self.done.push(format!("events go on in the new `{}`", name_of(first)));
        }
        if losses.iter().any(|it| it.file.starts_with("segments/")) {
            // What is owed is found again from what is left.
            remove_files(&lock.owed())?;
        }
        for about in [About::Journal, About::Directory, About::Control] {
            marks.set(about, 0);
        }
        let manifest = ManifestFile::rebuild(&self.path);
        let there = lock.segments()?;
        manifest.change(|it| it.keep_segments(&there))?;
        self.done.push("the manifest was rebuilt from the files present".to_owned());
        Ok(self.done)
    }

    fn one(&mut self, loss: &Loss, left: &[JournalTail; 2]) -> Result<()> {
        let file = self.path.join(&loss.file);
        let is_journal = NAMES.contains(&loss.file.as_str()) || loss.file.ends_with("-wal");
        if is_journal {
            return self.cut_journal(left);
        }
        let is_intact = file.is_file() && intact(&file).is_ok();
        match loss.file.as_str() {
            "manifest" => (),
            "keys/" => self.set_aside(&file, "keys")?,
            _ if is_intact => self.done.push(format!("`{}` is taken as it is", loss.file)),
            _ if super::is_readable_as_it_is(&file) => {
                let pages = tidegate_pages::take_as_it_is(&file).map_err(of_file)?;
                let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
                tidegate_pages::open(&file, flags)?.execute_batch("REINDEX")?;
                self.done.push(format!(
                    "`{}` is taken as it is: {pages} of its pages are not what was written, so rows may be wrong",
                    loss.file
                ));
            }
            "control.db" => {
                return Err(unavailable(
                    "nothing can be read without control.db: restore it from a backup",
                ));
            }
            name if file.exists() => {
                let name = name.replace('/', "-");
                for suffix in ["", "-wal", "-shm"] {
                    self.set_aside(&beside(&file, suffix), &format!("{name}{suffix}"))?;
                }
            }
            name => self.done.push(format!("`{name}` is not expected any more")),
        }
        Ok(())
    }

    /// Ends the journal before the first batch that is missing. Both files are kept as they were.
    fn cut_journal(&mut self, left: &[JournalTail; 2]) -> Result<()> {
        let folder = self.damaged()?;
        let mut is_broken = false;
        for part in left {
            let path = self.path.join(part.name);
            if path.exists() && !folder.join(part.name).exists() {
                fs::copy(&path, folder.join(part.name)).map_err(of_file)?;
            }
            // What stands behind damage, here or in the later file, cannot be executed.
            let length = if is_broken { 0 } else { part.end as u64 };
            is_broken |= !part.strays.is_empty();
            let file = private::options().open(&path).map_err(of_file)?;
            file.set_len(length).and_then(|()| file.sync_all()).map_err(of_file)?;
        }
        self.done
            .push("the journal ends before what is damaged; a copy is in `damaged`".to_owned());
        Ok(())
    }

    fn set_aside(&mut self, from: &Path, name: &str) -> Result<()> {
        if !from.exists() {
            return Ok(());
        }
        let to = self.damaged()?.join(name);
        fs::rename(from, &to).map_err(of_file)?;
        File::open(&self.path).and_then(|it| it.sync_all()).map_err(of_file)?;
        files::sync_folder(&self.path)?;
        self.done.push(format!("`{name}` is set aside in `damaged`"));
        Ok(())
    }

    fn damaged(&self) -> Result<std::path::PathBuf> {
        let folder = self.path.join("damaged");
        private::make_folder(&folder)?;
        Ok(folder)
    }
}
