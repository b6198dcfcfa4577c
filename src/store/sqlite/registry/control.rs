//! `control.db`: resources, the small numbers that stand for them in rows, and single values.

use std::{
    path::Path,
    sync::{Mutex, RwLock},
};

use rusqlite::{Connection, OptionalExtension, Transaction, params};

use crate::{
    model::{Id, IdMap, RawJson},
    store::{
        Change, Document, Result, StoreError,
        sqlite::{
            folder::{
                beside::checkpoint_if_possible,
                changes,
                files::{self, Kind, Sync},
                marks::{About, Marks},
                sums,
            },
            lock,
        },
    },
};

pub struct Control {
    connection: Mutex<Connection>,
    numbers: RwLock<Numbers>,
    marks: Marks,
}

#[derive(Default)]
struct Numbers {
    of: IdMap<u128, i64>,
    ids: IdMap<i64, u128>,
}

impl Numbers {
    fn add(&mut self, number: i64, id: u128) {
        self.of.insert(id, number);
        self.ids.insert(number, id);
    }
}

impl Control {
    pub fn open(path: &Path, marks: Marks) -> Result<Self> {
        let open = || files::open_writer(path, Kind::Control, Sync::Full, 1 << 20);
        // First the version, which keeps out programs that know nothing of checksums.
        if sums::are_missing(path)? {
            drop(open()?);
            sums::add(path)?;
        }
        let connection = open()?;
        changes::check(&connection, marks.get(About::Control))?;
        let mut numbers = Numbers::default();
        {
            let mut rows = connection.prepare("SELECT number, id FROM numbers")?;
            let mut rows = rows.query([])?;
            while let Some(row) = rows.next()? {
                numbers.add(row.get(0)?, u128::from_be_bytes(row.get(1)?));
            }
        }
        Ok(Self { connection: Mutex::new(connection), numbers: RwLock::new(numbers), marks })
    }

    /// The number of a resource, which it is given here if it has none.
    pub fn number<K>(&self, id: Id<K>) -> Result<i64> {
        if let Some(number) = self.known_number(id) {
            return Ok(number);
        }
        let mut connection = lock(&self.connection);
        let transaction = connection.transaction()?;
        let number = number_in(&transaction, id.bits())?;
        changes::commit(transaction, &self.marks, About::Control)?;
        self.learn(&[(number, id.bits())]);
        Ok(number)
    }

    /// `None`: no row names it.
    pub fn known_number<K>(&self, id: Id<K>) -> Option<i64> {
        self.numbers.read().unwrap_or_else(|it| it.into_inner()).of.get(&id.bits()).copied()
    }

    /// What a number in a row stands for.
    pub fn id<K>(&self, number: i64) -> Result<Id<K>> {
        let numbers = self.numbers.read().unwrap_or_else(|it| it.into_inner());
        let bits = numbers.ids.get(&number).ok_or(StoreError::Damaged { what: "number" })?;
        Ok(Id::from_bits(*bits))
    }

    fn learn(&self, added: &[(i64, u128)]) {
        let mut numbers = self.numbers.write().unwrap_or_else(|it| it.into_inner());
        for &(number, id) in added {
            numbers.add(number, id);
        }
    }

    /// A secret of this store, made by `make` when it is asked for the first time.
    pub fn secret(&self, name: &str, make: impl FnOnce() -> [u8; 32]) -> Result<[u8; 32]> {
        let mut connection = lock(&self.connection);
        let found = connection
            .query_row("SELECT value FROM settings WHERE name = ?", [name], |row| row.get(0))
            .optional()?;
        if let Some(secret) = found {
            return Ok(secret);
        }
        let secret = make();
        let transaction = connection.transaction()?;
        transaction.execute("INSERT INTO settings VALUES (?, ?)", params![name, secret])?;
        changes::commit(transaction, &self.marks, About::Control)?;
        Ok(secret)
    }

    /// A single value; `None` where none was set.
    pub fn setting(&self, name: &str) -> Result<Option<Vec<u8>>> {
        let sql = "SELECT value FROM settings WHERE name = ?";
        Ok(lock(&self.connection).query_row(sql, [name], |row| row.get(0)).optional()?)
    }

    pub fn set_setting(&self, name: &str, value: &[u8]) -> Result<()> {
        let sql = "INSERT OR REPLACE INTO settings VALUES (?, ?)";
        let mut connection = lock(&self.connection);
        let transaction = connection.transaction()?;
        transaction.execute(sql, params![name, value])?;
        changes::commit(transaction, &self.marks, About::Control)
    }

    /// Brings the log into the file, when nobody writes any more.
    pub fn fold(&self) -> Result<()> {
        changes::fold(&lock(&self.connection))
    }

    pub fn load(&self) -> Result<Vec<Document>> {
        let connection = lock(&self.connection);
        let mut rows =
            connection.prepare("SELECT kind, id, body FROM documents ORDER BY kind, id")?;
        let mut rows = rows.query([])?;
        let mut documents = Vec::new();
        while let Some(row) = rows.next()? {
            let body: String = row.get(2)?;
            documents.push(Document {
                kind: row.get(0)?,
                id: u128::from_be_bytes(row.get(1)?),
                body: RawJson::trusted(body),
            });
        }
        Ok(documents)
    }

    pub fn change(&self, changes: &[Change]) -> Result<()> {
        let mut connection = lock(&self.connection);
        let transaction = connection.transaction()?;
        let mut added = Vec::new();
        for change in changes {
            match change {
                Change::Put(Document { kind, id, body }) => {
                    transaction
                        .prepare_cached("INSERT OR REPLACE INTO documents VALUES (?, ?, ?)")?
                        .execute(params![kind, id.to_be_bytes(), body.as_str()])?;
                    // Already now, so that the hot path never has to.
                    added.push((number_in(&transaction, *id)?, *id));
                }
                Change::Delete { kind, id } => {
                    transaction
                        .prepare_cached("DELETE FROM documents WHERE kind = ? AND id = ?")?
                        .execute(params![kind, id.to_be_bytes()])?;
                }
            }
        }
        changes::commit(transaction, &self.marks, About::Control)?;
        // Nothing here writes often, so nobody else empties the log.
        checkpoint_if_possible(&connection, "control.db")?;
        self.learn(&added);
        Ok(())
    }
}

fn number_in(transaction: &Transaction<'_>, id: u128) -> Result<i64> {
    let id = id.to_be_bytes();
    let found = transaction
        .prepare_cached("SELECT number FROM numbers WHERE id = ?")?
        .query_row([id], |row| row.get(0))
        .optional()?;
    if let Some(number) = found {
        return Ok(number);
    }
    transaction.prepare_cached("INSERT INTO numbers (id) VALUES (?)")?.execute([id])?;
    Ok(transaction.last_insert_rowid())
}
