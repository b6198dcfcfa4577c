//! `directory.db`: rows of people, companies and things, by project, table and key.

use std::{path::Path, sync::Mutex};

use rusqlite::{Connection, OptionalExtension, params};
use serde_json::{Map, Value};

use super::{
    files::{self, Kind, Sync},
    lock, rows,
    upkeep::checkpoint_if_possible,
};
use crate::{
    model::{Name, ProjectId, RawJson},
    store::{Entity, EntityKey, Result, Upsert},
};

pub(super) struct DirectoryFile {
    writer: Mutex<Writer>,
    reader: Mutex<Connection>,
}

struct Writer {
    connection: Connection,
    /// Bytes written since the log was last emptied.
    written: usize,
}

impl DirectoryFile {
    pub fn open(path: &Path) -> Result<Self> {
        let connection = files::open_writer(path, Kind::Directory, Sync::Full, 4 << 20)?;
        let reader = Mutex::new(files::open_reader(path, false)?);
        Ok(Self { writer: Mutex::new(Writer { connection, written: 0 }), reader })
    }

    pub fn put(
        &self,
        project: ProjectId,
        table: &Name,
        entities: &[Entity],
        how: Upsert,
    ) -> Result<()> {
        let mut writer = lock(&self.writer);
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
        transaction.commit()?;
        writer.note(written)
    }

    pub fn remove(&self, project: ProjectId, table: &Name, keys: &[String]) -> Result<u64> {
        let mut writer = lock(&self.writer);
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
        transaction.commit()?;
        writer.note(keys.len() * 64)?;
        Ok(count)
    }

    /// Reads without waiting for anybody; `None` when somebody else reads at this moment.
    pub fn try_find(
        &self,
        project: ProjectId,
        keys: &[EntityKey],
    ) -> Option<Result<Vec<Option<RawJson>>>> {
        let reader = self.reader.try_lock().ok()?;
        Some(find_in(&reader, project, keys))
    }

    pub fn find(&self, project: ProjectId, keys: &[EntityKey]) -> Result<Vec<Option<RawJson>>> {
        find_in(&lock(&self.reader), project, keys)
    }

    /// In the order of their keys, from behind `after` on.
    pub fn list(
        &self,
        project: ProjectId,
        table: &Name,
        after: &str,
        limit: usize,
    ) -> Result<Vec<Entity>> {
        let reader = lock(&self.reader);
        let mut statement = reader.prepare_cached(
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

impl Writer {
    /// Nobody else empties the log.
    fn note(&mut self, written: usize) -> Result<()> {
        const BYTES: usize = 4 << 20;
        self.written += written;
        if self.written >= BYTES {
            self.written = 0;
            checkpoint_if_possible(&self.connection, "directory.db")?;
        }
        Ok(())
    }
}

fn find_in(
    connection: &Connection,
    project: ProjectId,
    keys: &[EntityKey],
) -> Result<Vec<Option<RawJson>>> {
    keys.iter().map(|(table, key)| row(connection, project, table.as_str(), key)).collect()
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

/// New fields over old ones. A field that is null goes.
fn merged(before: Option<&RawJson>, fields: &RawJson) -> RawJson {
    let read = |it: &RawJson| serde_json::from_slice::<Map<String, Value>>(it.bytes()).ok();
    let mut all = before.and_then(read).unwrap_or_default();
    for (name, value) in read(fields).unwrap_or_default() {
        if value.is_null() {
            all.shift_remove(&name);
        } else {
            all.insert(name, value);
        }
    }
    RawJson::of(&all)
}
