//! Statements as the journal keeps them: what batches wrote, and how it is executed.
//!
//! The segment executes statements later than the journal keeps it, and many batches at once: nobody waits
//! for that, unless to read. After a crash the same is done with what the journal has.

use std::collections::{
    HashMap,
    hash_map::Entry::{Occupied, Vacant},
};

use rusqlite::{
    CachedStatement, Connection, ToSql,
    types::{ToSqlOutput, ValueRef},
};

use super::statements::Statement;
use crate::{
    model::packed,
    store::{Result, StoreError, sqlite::error::unavailable},
};

/// What batches wrote that the segment has not executed yet. The text of each statement stands where it first
/// comes up in a file of the journal, so that it can be read whatever statements the program has that
/// reads it.
#[derive(Default)]
pub struct StatementBuffer {
    /// The batch that is being made stands last.
    bytes: Vec<u8>,
    /// Where that batch begins.
    turn: usize,
    /// Up to where the segment has executed it.
    executed: usize,
    texts: StatementTexts,
    /// Statements whose text stands in the file already, and in these bytes.
    known: [bool; Statement::COUNT],
    introduced: Vec<Statement>,
}

/// The first byte of an entry: the text of a statement follows, or its values.
const TEXT: u8 = 1;
const VALUES: u8 = 2;

/// The first byte of a value.
const NULL: u8 = 0;
const INTEGER: u8 = 1;
const REAL: u8 = 2;
const STRING: u8 = 3;
const BLOB: u8 = 4;

impl StatementBuffer {
    pub fn push(&mut self, write: Statement, values: &[&dyn ToSql]) -> Result<()> {
        if !self.known[write as usize] {
            self.known[write as usize] = true;
            self.introduced.push(write);
            self.texts.0.insert(write as u8, write.sql().to_owned());
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

    /// What the batch in progress wrote.
    pub fn turn(&self) -> &[u8] {
        &self.bytes[self.turn..]
    }

    /// The batch stands in the journal.
    pub fn committed(&mut self) {
        self.turn = self.bytes.len();
        self.introduced.clear();
    }

    /// Bytes that the segment has not executed.
    pub fn ahead(&self) -> usize {
        self.bytes.len() - self.executed
    }

    /// Has the segment catch up, within its open transaction. After an error, it must go back to what it
    /// has committed.
    pub fn execute(&mut self, connection: &Connection) -> Result<()> {
        self.texts.execute(&self.bytes[self.executed..], connection)?;
        self.executed = self.bytes.len();
        if self.turn == self.executed {
            self.clear();
        }
        Ok(())
    }

    /// The batch failed. What the batches before it wrote is in the journal, too.
    pub fn discard(&mut self) {
        self.clear();
        for write in self.introduced.drain(..) {
            self.known[write as usize] = false;
        }
    }

    /// The journal goes on in another file, where no text stands yet.
    pub fn begin_file(&mut self) {
        self.known = [false; Statement::COUNT];
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.bytes.shrink_to(1 << 20);
        (self.turn, self.executed) = (0, 0);
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
pub struct StatementTexts(HashMap<u8, String>);

/// An entry of a journal record.
enum BufferedEntry<'a> {
    Text(u8, &'a str),
    /// Of the statement with this number, so many values that follow.
    Values(u8, u8),
}

impl StatementTexts {
    /// Learns the texts in a journal record.
    pub fn learn(&mut self, mut buffer: &[u8]) -> Result<()> {
        while !buffer.is_empty() {
            match take_entry(&mut buffer)? {
                BufferedEntry::Text(number, text) => drop(self.0.insert(number, text.to_owned())),
                BufferedEntry::Values(_, count) => {
                    for _ in 0..count {
                        take(&mut buffer)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Executes statements.
    pub fn execute(&mut self, mut buffer: &[u8], connection: &Connection) -> Result<()> {
        let mut statements: HashMap<u8, CachedStatement<'_>> = HashMap::new();
        while !buffer.is_empty() {
            match take_entry(&mut buffer)? {
                BufferedEntry::Text(number, text) => {
                    self.0.insert(number, text.to_owned());
                    statements.remove(&number);
                }
                BufferedEntry::Values(number, count) => {
                    let statement = match statements.entry(number) {
                        Occupied(it) => it.into_mut(),
                        Vacant(it) => {
                            let sql = self.0.get(&number).ok_or(DAMAGED)?;
                            it.insert(connection.prepare_cached(sql)?)
                        }
                    };
                    if statement.parameter_count() != usize::from(count) {
                        return Err(DAMAGED);
                    }
                    for place in 1..=usize::from(count) {
                        let value = take(&mut buffer)?;
                        statement.raw_bind_parameter(place, ToSqlOutput::Borrowed(value))?;
                    }
                    statement.raw_execute()?;
                }
            }
        }
        Ok(())
    }
}

const DAMAGED: StoreError = StoreError::Damaged { what: "journal" };

fn take_entry<'a>(bytes: &mut &'a [u8]) -> Result<BufferedEntry<'a>> {
    let (tag, number) = (take_byte(bytes)?, take_byte(bytes)?);
    match tag {
        TEXT => {
            let text = std::str::from_utf8(take_counted(bytes)?).map_err(|_| DAMAGED)?;
            Ok(BufferedEntry::Text(number, text))
        }
        VALUES => Ok(BufferedEntry::Values(number, take_byte(bytes)?)),
        _ => Err(DAMAGED),
    }
}

fn take<'a>(bytes: &mut &'a [u8]) -> Result<ValueRef<'a>> {
    Ok(match take_byte(bytes)? {
        NULL => ValueRef::Null,
        INTEGER => ValueRef::Integer(packed::take_signed(bytes).ok_or(DAMAGED)?),
        REAL => {
            let number = packed::take_bytes(bytes, 8).and_then(|it| it.try_into().ok());
            ValueRef::Real(f64::from_le_bytes(number.ok_or(DAMAGED)?))
        }
        STRING => ValueRef::Text(take_counted(bytes)?),
        BLOB => ValueRef::Blob(take_counted(bytes)?),
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

/// Tells what a batch writes.
pub struct StatementWriter<'a> {
    connection: &'a Connection,
    buffer: &'a mut StatementBuffer,
}

impl<'a> StatementWriter<'a> {
    pub fn new(connection: &'a Connection, buffer: &'a mut StatementBuffer) -> Self {
        Self { connection, buffer }
    }

    /// Has a statement executed before anybody reads from the segment.
    pub fn execute(&mut self, write: Statement, values: &[&dyn ToSql]) -> Result<()> {
        self.buffer.push(write, values)
    }

    /// The segment as this batch, and all before it, have left it.
    pub fn read(&mut self) -> Result<&'a Connection> {
        self.buffer.execute(self.connection)?;
        Ok(self.connection)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rusqlite::types::Value;

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

    /// A segment with as much as the statements of these tests need.
    fn segment() -> Connection {
        let segment = Connection::open_in_memory().unwrap();
        segment.execute_batch("CREATE TABLE redo (number, changes)").unwrap();
        segment
    }

    fn redo_rows(segment: &Connection) -> Vec<[Value; 2]> {
        let mut statement = segment.prepare("SELECT * FROM redo ORDER BY rowid").unwrap();
        let rows = statement.query_map([], |row| Ok([row.get(0)?, row.get(1)?])).unwrap();
        rows.collect::<Result<_, _>>().unwrap()
    }

    proptest! {
        #[test]
        fn buffered_statements_are_executed(rows in prop::collection::vec([value(), value()], 0..20)) {
            let (mut buffer, segment) = (StatementBuffer::default(), segment());
            for [one, other] in &rows {
                buffer.push(Statement::Redo, &[one, other]).unwrap();
            }
            buffer.execute(&segment).unwrap();
            prop_assert_eq!(redo_rows(&segment), rows);
        }

        #[test]
        fn damage_is_an_error_and_never_a_panic(bytes: Vec<u8>) {
            let _ = StatementTexts::default().learn(&bytes);
            let _ = StatementTexts::default().execute(&bytes, &segment());
        }
    }

    #[test]
    fn a_segment_executes_each_statement_once_however_often_it_is_read() {
        // Given two batches that were kept, and one that is being made
        let (mut buffer, segment) = (StatementBuffer::default(), segment());
        for number in [1, 2] {
            buffer.push(Statement::Redo, &[&number, &"kept"]).unwrap();
            buffer.committed();
        }
        buffer.push(Statement::Redo, &[&3, &"being made"]).unwrap();
        assert!(redo_rows(&segment).is_empty());

        // When it is read twice, and the batch then goes on and is kept
        for _ in 0..2 {
            buffer.execute(&segment).unwrap();
            assert_eq!(redo_rows(&segment).len(), 3);
        }
        buffer.push(Statement::Redo, &[&4, &"being made"]).unwrap();

        // Then the journal keeps what this batch wrote, and the segment has it all
        let mut texts = StatementTexts::default();
        texts.0.insert(Statement::Redo as u8, Statement::Redo.sql().to_owned());
        let after = self::segment();
        texts.execute(buffer.turn(), &after).unwrap();
        assert_eq!(redo_rows(&after).len(), 2);
        buffer.committed();
        buffer.execute(&segment).unwrap();
        assert_eq!(redo_rows(&segment).len(), 4);
        assert_eq!(buffer.ahead(), 0);
    }

    #[test]
    fn a_text_stands_once_in_a_file_and_again_where_it_was_withdrawn() {
        // Given a batch that failed, and two that did not
        let mut buffer = StatementBuffer::default();
        let lengths = [false, true, true].map(|is_kept| {
            buffer.push(Statement::TrimRedo, &[&7]).unwrap();
            let length = buffer.turn().len();
            if is_kept {
                buffer.committed()
            } else {
                buffer.discard()
            }
            length
        });

        // Then the second tells the text, and the third does not
        assert_eq!(lengths[0], lengths[1]);
        assert!(lengths[2] < 10, "{lengths:?}");
    }
}
