//! What a turn writes: each statement is executed in the open transaction of the newest segment, and told,
//! so that the journal can have it executed again.

use std::collections::HashMap;

use rusqlite::{
    CachedStatement, Connection, ToSql, params_from_iter,
    types::{ToSqlOutput, Value, ValueRef},
};

use super::error::unavailable;
use crate::{
    model::packed,
    store::{Result, StoreError},
};

/// Every statement that changes a segment in a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Write {
    Event,
    GivenId,
    Block,
    Delivery,
    Skipped,
    Activity,
    Minute,
    Tally,
    ForgetMemories,
    Memories,
    Waiting,
    OldestEvent,
    Replay,
    Redo,
    TrimRedo,
}

impl Write {
    const COUNT: usize = Self::TrimRedo as usize + 1;

    fn sql(self) -> &'static str {
        match self {
            Self::Event => {
                "INSERT INTO events (seq, id, given_id, project, source, type, timestamp, \
                 received_at, key, digest) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
            }
            Self::GivenId => "INSERT INTO given_ids (id, seq) VALUES (?, ?)",
            Self::Block => "INSERT INTO blocks (first_seq, count, body) VALUES (?, ?, ?)",
            Self::Delivery => {
                "INSERT INTO deliveries (seq, project, destination, pipeline, version, lane, \
                 position, accepted_at, replay, fresh_id, copy) \
                 VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
            }
            Self::Skipped => "INSERT OR REPLACE INTO skipped (event, reasons) VALUES (?, ?)",
            Self::Activity => {
                "INSERT INTO activity (delivery, number, at, project, destination, attempt, class, \
                 status, duration, ended, reason, retry_after, response) \
                 VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
            }
            Self::Minute => {
                "INSERT INTO minutes (destination, minute, planned, delivered, failed_attempts, \
                 dead, dropped, below_10ms, below_50ms, below_100ms, below_500ms, below_1s, \
                 below_5s, longer) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) \
                 ON CONFLICT DO UPDATE SET \
                 planned = planned + excluded.planned, delivered = delivered + excluded.delivered, \
                 failed_attempts = failed_attempts + excluded.failed_attempts, \
                 dead = dead + excluded.dead, dropped = dropped + excluded.dropped, \
                 below_10ms = below_10ms + excluded.below_10ms, \
                 below_50ms = below_50ms + excluded.below_50ms, \
                 below_100ms = below_100ms + excluded.below_100ms, \
                 below_500ms = below_500ms + excluded.below_500ms, \
                 below_1s = below_1s + excluded.below_1s, \
                 below_5s = below_5s + excluded.below_5s, longer = longer + excluded.longer"
            }
            Self::Tally => {
                "INSERT OR REPLACE INTO tallies (pipeline, minute, version, counts) \
                 VALUES (?, ?, ?, ?)"
            }
            Self::ForgetMemories => "DELETE FROM memories",
            Self::Memories => "INSERT INTO memories (number, is_whole, entries) VALUES (?, ?, ?)",
            Self::Waiting => "INSERT OR REPLACE INTO facts (name, value) VALUES ('waiting', ?)",
            Self::OldestEvent => {
                "INSERT OR REPLACE INTO facts (name, value) VALUES ('oldest_event', ?)"
            }
            Self::Replay => {
                "INSERT OR REPLACE INTO replays (replay, cursor, done) VALUES (?, ?, ?)"
            }
            Self::Redo => "INSERT INTO redo (number, changes) VALUES (?, ?)",
            Self::TrimRedo => "DELETE FROM redo WHERE number <= ?",
        }
    }
}

/// Executes what a turn writes, and tells it.
pub(super) struct Writes<'a> {
    pub connection: &'a Connection,
    statements: [Option<CachedStatement<'a>>; Write::COUNT],
    told: &'a mut Told,
}

impl<'a> Writes<'a> {
    pub fn new(connection: &'a Connection, told: &'a mut Told) -> Self {
        Self { connection, statements: [const { None }; Write::COUNT], told }
    }

    pub fn execute(&mut self, write: Write, values: &[&dyn ToSql]) -> Result<()> {
        let statement = match &mut self.statements[write as usize] {
            Some(statement) => statement,
            none @ None => none.insert(self.connection.prepare_cached(write.sql())?),
        };
        statement.execute(values)?;
        self.told.tell(write, values)
    }
}

/// Statements as the journal keeps them. The text of each stands where it first comes up, so that a
/// journal can be read whatever statements the program has that reads it.
#[derive(Default)]
pub(super) struct Told {
    bytes: Vec<u8>,
    /// Those whose text stands in the file already, and in these bytes.
    known: [bool; Write::COUNT],
    introduced: Vec<Write>,
}

/// The first byte of what is told: the text of a statement follows, or its values.
const TEXT: u8 = 1;
const VALUES: u8 = 2;

/// The first byte of a value.
const NULL: u8 = 0;
const INTEGER: u8 = 1;
const REAL: u8 = 2;
const STRING: u8 = 3;
const BLOB: u8 = 4;

impl Told {
    fn tell(&mut self, write: Write, values: &[&dyn ToSql]) -> Result<()> {
        if !self.known[write as usize] {
            self.known[write as usize] = true;
            self.introduced.push(write);
            self.bytes.extend([TEXT, write as u8]);
            put_bytes(&mut self.bytes, write.sql().as_bytes());
        }
        self.bytes.extend([VALUES, write as u8, values.len() as u8]);
        for value in values {
            match value.to_sql()? {
                ToSqlOutput::Borrowed(value) => put(&mut self.bytes, value),
                ToSqlOutput::Owned(value) => put(&mut self.bytes, ValueRef::from(&value)),
                _ => return Err(unavailable("a value cannot be kept in the journal")),
            }
        }
        Ok(())
    }

    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// It stands in the journal.
    pub fn kept(&mut self) {
        self.clear();
        self.introduced.clear();
    }

    /// It is of no use, since the turn failed.
    pub fn withdrawn(&mut self) {
        self.clear();
        for write in self.introduced.drain(..) {
            self.known[write as usize] = false;
        }
    }

    /// The journal goes on in another file, where no text stands yet.
    pub fn begin_file(&mut self) {
        self.known = [false; Write::COUNT];
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.bytes.shrink_to(1 << 20);
    }
}

fn put(bytes: &mut Vec<u8>, value: ValueRef<'_>) {
    match value {
        ValueRef::Null => bytes.push(NULL),
        ValueRef::Integer(number) => {
            bytes.push(INTEGER);
            packed::put_signed(bytes, number);
        }
        ValueRef::Real(number) => {
            bytes.push(REAL);
            bytes.extend(number.to_le_bytes());
        }
        ValueRef::Text(text) => {
            bytes.push(STRING);
            put_bytes(bytes, text);
        }
        ValueRef::Blob(blob) => {
            bytes.push(BLOB);
            put_bytes(bytes, blob);
        }
    }
}

fn put_bytes(bytes: &mut Vec<u8>, more: &[u8]) {
    packed::put(bytes, more.len() as u64);
    bytes.extend_from_slice(more);
}

/// The texts of statements in one file of the journal, by their numbers there.
#[derive(Default)]
pub(super) struct Texts(HashMap<u8, String>);

impl Texts {
    /// Learns the texts in what was told.
    pub fn learn(&mut self, told: &[u8]) -> Result<()> {
        self.each(told, |_, _| Ok(()))
    }

    /// Executes again what was told.
    pub fn execute(&mut self, told: &[u8], connection: &Connection) -> Result<()> {
        self.each(told, |sql, values| {
            connection.prepare_cached(sql)?.execute(params_from_iter(values))?;
            Ok(())
        })
    }

    fn each(
        &mut self,
        mut told: &[u8],
        mut visit: impl FnMut(&str, Vec<Value>) -> Result<()>,
    ) -> Result<()> {
        while !told.is_empty() {
            let (tag, number) = (take_byte(&mut told)?, take_byte(&mut told)?);
            match tag {
                TEXT => {
                    let text = String::from_utf8(take_counted(&mut told)?.to_vec());
                    self.0.insert(number, text.map_err(|_| DAMAGED)?);
                }
                VALUES => {
                    let count = take_byte(&mut told)?;
                    let values =
                        (0..count).map(|_| take(&mut told)).collect::<Result<Vec<Value>>>()?;
                    visit(self.0.get(&number).ok_or(DAMAGED)?, values)?;
                }
                _ => return Err(DAMAGED),
            }
        }
        Ok(())
    }
}

const DAMAGED: StoreError = StoreError::Damaged { what: "journal" };

fn take(bytes: &mut &[u8]) -> Result<Value> {
    Ok(match take_byte(bytes)? {
        NULL => Value::Null,
        INTEGER => Value::Integer(packed::take_signed(bytes).ok_or(DAMAGED)?),
        REAL => {
            let number = packed::take_bytes(bytes, 8).and_then(|it| it.try_into().ok());
            Value::Real(f64::from_le_bytes(number.ok_or(DAMAGED)?))
        }
        STRING => {
            let text = String::from_utf8(take_counted(bytes)?.to_vec());
            Value::Text(text.map_err(|_| DAMAGED)?)
        }
        BLOB => Value::Blob(take_counted(bytes)?.to_vec()),
        _ => return Err(DAMAGED),
    })
}

fn take_byte(bytes: &mut &[u8]) -> Result<u8> {
    let (byte, rest) = bytes.split_first().ok_or(DAMAGED)?;
    *bytes = rest;
    Ok(*byte)
}

fn take_counted<'a>(bytes: &mut &'a [u8]) -> Result<&'a [u8]> {
    let length = packed::take(bytes).ok_or(DAMAGED)?;
    packed::take_bytes(bytes, length).ok_or(DAMAGED)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn value() -> impl Strategy<Value = Value> {
        prop_oneof![
            Just(Value::Null),
            any::<i64>().prop_map(Value::Integer),
            (-1e9..1e9).prop_map(Value::Real),
            ".*".prop_map(Value::Text),
            any::<Vec<u8>>().prop_map(Value::Blob),
        ]
    }

    proptest! {
        #[test]
        fn what_is_told_is_taken(values in prop::collection::vec(value(), 0..20)) {
            let mut told = Told::default();
            let given: Vec<&dyn ToSql> = values.iter().map(|it| it as &dyn ToSql).collect();
            told.tell(Write::Redo, &given).unwrap();
            let mut taken = Vec::new();
            Texts::default().each(told.bytes(), |sql, values| {
                taken.push((sql.to_owned(), values));
                Ok(())
            }).unwrap();
            prop_assert_eq!(taken, vec![(Write::Redo.sql().to_owned(), values)]);
        }

        #[test]
        fn damage_is_an_error_and_never_a_panic(bytes: Vec<u8>) {
            let _ = Texts::default().learn(&bytes);
        }
    }

    #[test]
    fn a_text_stands_once_in_a_file_and_again_where_it_was_withdrawn() {
        // Given a turn that failed, and two that did not
        let mut told = Told::default();
        let lengths = [false, true, true].map(|is_kept| {
            told.tell(Write::TrimRedo, &[&7]).unwrap();
            let length = told.bytes().len();
            if is_kept {
                told.kept()
            } else {
                told.withdrawn()
            }
            length
        });

        // Then the second tells the text, and the third does not
        assert_eq!(lengths[0], lengths[1]);
        assert!(lengths[2] < 10, "{lengths:?}");
    }
}
