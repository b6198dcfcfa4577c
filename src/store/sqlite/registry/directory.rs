//! `directory.db`: rows of people, companies and things, by project, table and key.
//!
//! Steps ask for rows event by event, so reading is cheap: rows that were asked for lately are in
//! memory, and the others are read in a snapshot that stays open until somebody writes. Nobody else
//! has the file open, so a write knows what it makes old: once it has returned, it is seen.

use std::{
    collections::HashMap,
    fmt::Write as _,
    path::Path,
    sync::{Mutex, MutexGuard},
};

use rusqlite::{Connection, OptionalExtension, params};

use crate::{
    model::{Name, ProjectId, RawJson},
    store::{
        Entity, EntityKey, Result, Upsert,
        fields::merged,
        sqlite::{
            folder::{
                beside::checkpoint_if_possible,
                changes,
                files::{self, Kind, Sync},
                marks::{About, Marks},
                sums,
            },
            lock,
            segment::rows,
        },
    },
};

pub struct DirectoryFile {
    writer: Mutex<DirectoryWriter>,
    reader: Mutex<DirectoryReader>,
}

struct DirectoryReader {
    connection: Connection,
    /// Locks are taken once for each snapshot, rather than once for each row.
    has_snapshot: bool,
    recent: Recent,
}

struct DirectoryWriter {
    connection: Connection,
    marks: Marks,
    /// Bytes written since the log was last emptied.
    written: usize,
}

impl DirectoryFile {
    pub fn open(path: &Path, marks: Marks) -> Result<Self> {
        sums::add(path)?;
        let connection = files::open_writer(path, Kind::Directory, Sync::Full, 4 << 20)?;
        changes::check(&connection, marks.get(About::Directory))?;
        let reader = DirectoryReader {
            connection: files::open_reader(path, false)?,
            has_snapshot: false,
            recent: Recent::default(),
        };
        let writer = DirectoryWriter { connection, marks, written: 0 };
        Ok(Self { writer: Mutex::new(writer), reader: Mutex::new(reader) })
    }

    /// Brings the log into the file, when nobody writes any more.
    pub fn fold(&self) -> Result<()> {
        let writer = lock(&self.writer);
        let mut reader = lock(&self.reader);
        reader.let_go();
        changes::fold(&writer.connection)
    }

    /// After a commit: what was read before may be old.
    fn wrote<'k>(
        &self,
        writer: &mut DirectoryWriter,
        project: ProjectId,
        table: &Name,
        keys: impl Iterator<Item = &'k str>,
        bytes: usize,
    ) -> Result<()> {
        let mut reader = lock(&self.reader);
        reader.let_go();
        for key in keys {
            reader.recent.forget(project, table.as_str(), key);
        }
        drop(reader);
        if writer.checkpoint_after(bytes)? {
            // A snapshot that begins behind the checkpoint needs nothing of the log, so that the next
            // commit can begin it again.
            lock(&self.reader).let_go();
        }
        Ok(())
    }

    pub fn put(
        &self,
        project: ProjectId,
        table: &Name,
        entities: &[Entity],
        how: Upsert,
    ) -> Result<()> {
        let mut writer = lock(&self.writer);
        let writer = &mut *writer;
        let transaction = writer.connection.transaction()?;
        let mut written = 0;
        {
            let mut insert = transaction.prepare_cached(
                "INSERT OR REPLACE INTO entities (project, tab, key, fields, updated_at) \
                 VALUES (?, ?, ?, ?, ?)",
            )?;
            for entity in entities {
                let fields = match how {
                    Upsert::Replace => entity.fields.clone(),
                    Upsert::Merge => {
                        let before = row(&transaction, project, table.as_str(), &entity.key)?;
                        merged(before.as_ref(), &entity.fields)
                    }
                };
                written += fields.bytes().len() + entity.key.len() + 64;
                insert.execute(params![
                    project.bits().to_be_bytes(),
                    table.as_str(),
                    entity.key,
                    fields.as_str(),
                    rows::micros(entity.updated_at),
                ])?;
            }
        }
        changes::commit(transaction, &writer.marks, About::Directory)?;
        let keys = entities.iter().map(|it| it.key.as_str());
        self.wrote(writer, project, table, keys, written)
    }

    /// All rows behind a place, in the order of (project, table, key).
    pub fn behind(
        &self,
        (project, table, key): &(ProjectId, String, String),
        limit: usize,
    ) -> Result<Vec<(ProjectId, String, Entity)>> {
        let sql = "SELECT project, tab, key, fields, updated_at FROM entities \
                   WHERE (project, tab, key) > (?, ?, ?) ORDER BY project, tab, key LIMIT ?";
        let writer = lock(&self.writer);
        let mut statement = writer.connection.prepare_cached(sql)?;
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let mut rows = statement.query(params![project.bits().to_be_bytes(), table, key, limit])?;
        let mut found = Vec::new();
        while let Some(row) = rows.next()? {
            let entity = Entity {
                key: row.get(2)?,
                fields: RawJson::trusted(row.get::<_, String>(3)?),
                updated_at: rows::time(row.get(4)?)?,
            };
            let project = ProjectId::from_bits(u128::from_be_bytes(row.get(0)?));
            found.push((project, row.get(1)?, entity));
        }
        Ok(found)
    }

    pub fn remove(&self, project: ProjectId, table: &Name, keys: &[String]) -> Result<u64> {
        let mut writer = lock(&self.writer);
        let writer = &mut *writer;
        let transaction = writer.connection.transaction()?;
        let mut count = 0;
        {
            let mut delete = transaction
                .prepare_cached("DELETE FROM entities WHERE project = ? AND tab = ? AND key = ?")?;
            for key in keys {
                let project = project.bits().to_be_bytes();
                count += delete.execute(params![project, table.as_str(), key])? as u64;
            }
        }
        changes::commit(transaction, &writer.marks, About::Directory)?;
        let written = keys.len() * 64;
        self.wrote(writer, project, table, keys.iter().map(String::as_str), written)?;
        Ok(count)
    }

    /// Reads without waiting for anybody; `None` when somebody else reads at this moment.
    pub fn try_find(
        &self,
        project: ProjectId,
        keys: &[EntityKey],
    ) -> Option<Result<Vec<Option<RawJson>>>> {
        let mut reader = self.reader.try_lock().ok()?;
        Some(reader.find(project, keys))
    }

    pub fn find(&self, project: ProjectId, keys: &[EntityKey]) -> Result<Vec<Option<RawJson>>> {
        lock(&self.reader).find(project, keys)
    }

    /// In the order of their keys, from behind `after` on.
    pub fn list(
        &self,
        project: ProjectId,
        table: &Name,
        after: &str,
        limit: usize,
    ) -> Result<Vec<Entity>> {
        let reader: MutexGuard<'_, DirectoryReader> = lock(&self.reader);
        let mut statement = reader.connection.prepare_cached(
            "SELECT key, fields, updated_at FROM entities \
             WHERE project = ? AND tab = ? AND key > ? ORDER BY key LIMIT ?",
        )?;
        let project = project.bits().to_be_bytes();
        let mut found = Vec::new();
        let mut rows = statement.query(params![project, table.as_str(), after, limit as i64])?;
        while let Some(row) = rows.next()? {
            found.push(Entity {
                key: row.get(0)?,
                fields: RawJson::trusted(row.get::<_, String>(1)?),
                updated_at: rows::time(row.get(2)?)?,
            });
        }
        Ok(found)
    }
}

impl DirectoryWriter {
    /// Empties the log now and then, which nobody else does. Says whether it tried.
    fn checkpoint_after(&mut self, bytes: usize) -> Result<bool> {
        const BYTES: usize = 4 << 20;
        self.written += bytes;
        if self.written < BYTES {
            return Ok(false);
        }
        self.written = 0;
        checkpoint_if_possible(&self.connection, "directory.db")?;
        Ok(true)
    }
}

impl DirectoryReader {
    fn find(&mut self, project: ProjectId, keys: &[EntityKey]) -> Result<Vec<Option<RawJson>>> {
        keys.iter().map(|(table, key)| self.row(project, table.as_str(), key)).collect()
    }

    fn row(&mut self, project: ProjectId, table: &str, key: &str) -> Result<Option<RawJson>> {
        if let Some(known) = self.recent.get(project, table, key) {
            return Ok(known);
        }
        if !self.has_snapshot {
            self.connection.execute_batch("BEGIN")?;
            self.has_snapshot = true;
        }
        let found = row(&self.connection, project, table, key).inspect_err(|_| self.let_go())?;
        self.recent.put(project, table, key, found.clone());
        Ok(found)
    }

    /// Ends the snapshot, if there is one.
    fn let_go(&mut self) {
        if std::mem::take(&mut self.has_snapshot)
            && let Err(error) = self.connection.execute_batch("ROLLBACK")
        {
            tracing::warn!(%error, "a snapshot of directory.db did not end");
        }
    }
}

/// Rows that were asked for lately, and keys that have none. Two generations: what is asked for moves
/// to the young one; when that is full, it becomes the old one, and the rest is forgotten.
#[derive(Default)]
struct Recent {
    generations: [HashMap<Box<str>, Option<RawJson>>; 2],
    /// Of the young one, roughly.
    bytes: usize,
    /// The key that is looked for, so that looking makes nothing new.
    key: String,
}

impl Recent {
    /// Of one generation.
    const BYTES: usize = 6 << 20;

    fn get(&mut self, project: ProjectId, table: &str, key: &str) -> Option<Option<RawJson>> {
        self.look_for(project, table, key);
        if let Some(known) = self.generations[0].get(self.key.as_str()) {
            return Some(known.clone());
        }
        let (key, known) = self.generations[1].remove_entry(self.key.as_str())?;
        self.keep(key, known.clone());
        Some(known)
    }

    fn put(&mut self, project: ProjectId, table: &str, key: &str, row: Option<RawJson>) {
        self.look_for(project, table, key);
        self.keep(self.key.as_str().into(), row);
    }

    fn forget(&mut self, project: ProjectId, table: &str, key: &str) {
        self.look_for(project, table, key);
        for generation in &mut self.generations {
            generation.remove(self.key.as_str());
        }
    }

    fn look_for(&mut self, project: ProjectId, table: &str, key: &str) {
        self.key.clear();
        // Writing to a text does not fail. A table's name has no slash.
        let _ = write!(self.key, "{:x}/{table}/{key}", project.bits());
    }

    fn keep(&mut self, key: Box<str>, row: Option<RawJson>) {
        /// What an entry takes besides its bytes.
        const ENTRY: usize = 128;
        self.bytes += key.len() + row.as_ref().map_or(0, |it| it.bytes().len()) + ENTRY;
        self.generations[0].insert(key, row);
        if self.bytes >= Self::BYTES {
            self.generations[1] = std::mem::take(&mut self.generations[0]);
            self.bytes = 0;
        }
    }
}

fn row(
    connection: &Connection,
    project: ProjectId,
    table: &str,
    key: &str,
) -> Result<Option<RawJson>> {
    let sql = "SELECT fields FROM entities WHERE project = ? AND tab = ? AND key = ?";
    let found: Option<String> = connection
        .prepare_cached(sql)?
        .query_row(params![project.bits().to_be_bytes(), table, key], |row| row.get(0))
        .optional()?;
    Ok(found.map(RawJson::trusted))
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;

    fn world() -> (tempfile::TempDir, DirectoryFile) {
        let folder = tempfile::tempdir().unwrap();
        let marks = Marks::open(&folder.path().join("marks")).unwrap();
        let file = DirectoryFile::open(&folder.path().join("directory.db"), marks).unwrap();
        (folder, file)
    }

    fn people() -> Name {
        "people".parse().unwrap()
    }

    fn put(file: &DirectoryFile, key: &str, fields: &str) {
        let fields = RawJson::parse(fields.to_owned()).unwrap();
        let entity = Entity { key: key.to_owned(), fields, updated_at: Timestamp::UNIX_EPOCH };
        file.put(ProjectId::from_bits(1), &people(), &[entity], Upsert::Replace).unwrap();
    }

    fn find(file: &DirectoryFile, project: u128, key: &str) -> Option<String> {
        let keys = [(people(), key.to_owned())];
        let found = file.find(ProjectId::from_bits(project), &keys).unwrap();
        found[0].as_ref().map(|it| it.as_str().to_owned())
    }

    #[test]
    fn a_write_is_seen_at_once_by_those_who_have_read_before() {
        let (_folder, file) = world();
        assert_eq!(find(&file, 1, "ann"), None);
        for number in 0..20 {
            let fields = format!("{{\"n\":{number}}}");
            put(&file, "ann", &fields);
            for _ in 0..2 {
                assert_eq!(find(&file, 1, "ann").as_ref(), Some(&fields));
            }
            assert_eq!(find(&file, 2, "ann"), None, "that of another project");
        }
        let removed = file.remove(ProjectId::from_bits(1), &people(), &["ann".to_owned()]);
        assert_eq!((removed.unwrap(), find(&file, 1, "ann")), (1, None));
    }

    #[test]
    fn the_log_begins_again_though_somebody_always_reads() {
        let (folder, file) = world();
        let fields = format!("{{\"text\":\"{}\"}}", "x".repeat(60_000));
        for number in 0..400 {
            put(&file, &format!("k{number}"), &fields);
            assert!(find(&file, 1, &format!("k{number}")).is_some());
        }
        let log = std::fs::metadata(folder.path().join("directory.db-wal")).unwrap().len();
        assert!(log < 12 << 20, "{log}");
    }

    #[test]
    fn of_what_was_read_only_so_much_stays_in_memory() {
        let mut recent = Recent::default();
        let project = ProjectId::from_bits(1);
        recent.put(project, "people", "wanted", None);
        for number in 0..200_000 {
            recent.put(project, "people", &number.to_string(), None);
            assert!(recent.get(project, "people", "wanted").is_some(), "{number}");
        }
        assert!(recent.get(project, "people", "0").is_none());
        let count: usize = recent.generations.iter().map(HashMap::len).sum();
        assert!(count * 128 < 2 * Recent::BYTES, "{count}");
    }
}
