//! Rows as they are uploaded: lines of JSON, or CSV with a header (RFC 4180).

use bytes::BytesMut;
use jiff::Timestamp;
use serde_json::{Map, Value};

use crate::{
    enrich,
    model::{Name, RawJson, json},
    problem::kind_of_json,
    store::Entity,
};

/// Which field of a row is its key.
pub struct KeyField(String);

/// No sensible key is longer.
const LONGEST_KEY: usize = 512;
/// Bytes of the fields of one row.
const LARGEST_ROW: usize = 64 * 1024;

impl KeyField {
    pub fn of(table: &Name, given: Option<&str>) -> Self {
        let usual = match table.as_str() {
            "people" => "email",
            "companies" => "domain",
            _ => "id",
        };
        Self(given.filter(|it| !it.is_empty()).unwrap_or(usual).to_owned())
    }

    /// The row, or what is wrong with it. The key stays among its fields.
    pub fn entity(&self, table: &Name, row: Value, now: Timestamp) -> Result<Entity, String> {
        let Value::Object(fields) = row else { return Err("a row is an object".to_owned()) };
        let key = match fields.get(&self.0) {
            Some(Value::String(text)) => text.clone(),
            Some(Value::Number(number)) => number.to_string(),
            Some(_) | None => return Err(format!("a row has its key as `{}`", self.0)),
        };
        let key = checked_key(table, &key)?;
        let fields = RawJson::of(&fields);
        if fields.bytes().len() > LARGEST_ROW {
            return Err(format!("a row has at most {LARGEST_ROW} bytes"));
        }
        Ok(Entity { key, fields, updated_at: now })
    }
}

/// A key as it is kept, or what is wrong with it.
pub fn checked_key(table: &Name, key: &str) -> Result<String, String> {
    let key = enrich::normal_key(table, key);
    let is_right = (1..=LONGEST_KEY).contains(&key.len()) && !key.chars().any(char::is_control);
    let is_email = |it: &str| it.split_once('@').is_some_and(|(_, domain)| domain.contains('.'));
    if !is_right {
        return Err(format!("a key is 1 to {LONGEST_KEY} bytes without control characters"));
    }
    if table.as_str() == "people" && !is_email(&key) {
        return Err("the key of a person is an e-mail address".to_owned());
    }
    Ok(key)
}

/// How rows are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UploadFormat {
    Lines,
    Csv,
}

/// Takes an upload apart, as it comes.
pub struct UploadReader {
    format: UploadFormat,
    buffer: BytesMut,
    /// The names of columns.
    header: Option<Vec<String>>,
    /// The line that comes next, from 1.
    line: u64,
    /// How far the buffer was looked through, and whether that is inside of quotes.
    seen: usize,
    is_quoted: bool,
}

/// A line that is too long, behind which nothing can be understood.
#[derive(Debug, PartialEq, Eq)]
pub struct TooLong {
    pub line: u64,
}

/// A row, or why it is none.
type Read = Result<Value, String>;

impl UploadReader {
    pub fn new(format: UploadFormat) -> Self {
        let (buffer, header) = (BytesMut::new(), None);
        Self { format, buffer, header, line: 1, seen: 0, is_quoted: false }
    }

    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole row with its line; with `is_end`, also one that has no end.
    pub fn next(&mut self, is_end: bool) -> Result<Option<(u64, Read)>, TooLong> {
        loop {
            let Some(record) = self.record(is_end)? else { return Ok(None) };
            let line = self.line;
            self.line += 1 + record.iter().filter(|it| **it == b'\n').count() as u64;
            let record = record.strip_suffix(b"\r").unwrap_or(&record);
            if record.trim_ascii().is_empty() {
                continue;
            }
            // It may stand before the first line.
            let record = if line == 1 { json::without_mark(record) } else { record };
            let read = match (self.format, &self.header) {
                (UploadFormat::Lines, _) => serde_json::from_slice(record)
                    .map_err(|_| format!("must be a row in JSON; found {}", kind_of_json(record))),
                (UploadFormat::Csv, None) => {
                    self.header = Some(cells(record));
                    continue;
                }
                (UploadFormat::Csv, Some(header)) => named(header, cells(record)),
            };
            return Ok(Some((line, read)));
        }
    }

    /// The bytes up to the end of a line that is not inside of quotes.
    fn record(&mut self, is_end: bool) -> Result<Option<BytesMut>, TooLong> {
        while self.seen < self.buffer.len() {
            match self.buffer[self.seen] {
                b'"' if self.format == UploadFormat::Csv => self.is_quoted = !self.is_quoted,
                b'\n' if !self.is_quoted => {
                    let mut record = self.buffer.split_to(self.seen + 1);
                    record.truncate(self.seen);
                    self.seen = 0;
                    return Ok(Some(record));
                }
                _ => (),
            }
            self.seen += 1;
        }
        if self.buffer.len() > 2 * LARGEST_ROW {
            return Err(TooLong { line: self.line });
        }
        let rest = is_end && !self.buffer.is_empty();
        Ok(rest.then(|| {
            (self.seen, self.is_quoted) = (0, false);
            self.buffer.split()
        }))
    }
}

/// The cells of a line of CSV.
fn cells(record: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(record);
    let mut cells = vec![String::new()];
    let mut is_quoted = false;
    let mut rest = text.chars().peekable();
    while let Some(it) = rest.next() {
        let cell_is_empty = cells.last().is_some_and(String::is_empty);
        match it {
            '"' if is_quoted && rest.peek() == Some(&'"') => {
                rest.next();
                push(&mut cells, '"');
            }
            '"' if is_quoted => is_quoted = false,
            '"' if cell_is_empty => is_quoted = true,
            ',' if !is_quoted => cells.push(String::new()),
            it => push(&mut cells, it),
        }
    }
    cells
}

fn push(cells: &mut [String], character: char) {
    if let Some(cell) = cells.last_mut() {
        cell.push(character);
    }
}

/// A row of texts. A cell that is empty is no field.
fn named(header: &[String], cells: Vec<String>) -> Read {
    if cells.len() > header.len() {
        return Err(format!("a line has at most the {} cells of the header", header.len()));
    }
    let fields = header.iter().zip(cells).filter(|(_, cell)| !cell.is_empty());
    let fields: Map<String, Value> =
        fields.map(|(name, cell)| (name.trim().to_owned(), Value::String(cell))).collect();
    Ok(Value::Object(fields))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(format: UploadFormat, text: &str, chunk: usize) -> Vec<(u64, Read)> {
        let mut reader = UploadReader::new(format);
        let mut found = Vec::new();
        for bytes in text.as_bytes().chunks(chunk) {
            reader.push(bytes);
            found.extend(std::iter::from_fn(|| reader.next(false).unwrap()));
        }
        found.extend(std::iter::from_fn(|| reader.next(true).unwrap()));
        found
    }

    #[test]
    fn csv_is_read_by_its_header_however_it_is_cut() {
        let text = "\u{feff}email,name,note\r\n\r\na@b.co,\"Ann, \"\"A\"\"\",\r\nb@b.co,\"two\nlines\",x\n\
                    c@b.co\nd@b.co,1,2,3\ne@b.co,ü";
        for chunk in [1, 2, 7, 1000] {
            let found = read(UploadFormat::Csv, text, chunk);
            let wrong = "a line has at most the 3 cells of the header".to_owned();
            let expected = [
                (3, Ok(json!({"email": "a@b.co", "name": "Ann, \"A\""}))),
                (4, Ok(json!({"email": "b@b.co", "name": "two\nlines", "note": "x"}))),
                (6, Ok(json!({"email": "c@b.co"}))),
                (7, Err(wrong)),
                (8, Ok(json!({"email": "e@b.co", "name": "ü"}))),
            ];
            assert_eq!(found, expected, "{chunk}");
        }
    }

    #[test]
    fn lines_are_read_one_by_one_and_wrong_ones_are_told() {
        let text = "{\"id\":1}\n\n nonsense\n{\"id\":\"\\\"\"}";
        for chunk in [1, 3, 1000] {
            let found = read(UploadFormat::Lines, text, chunk);
            let expected = [
                (1, Ok(json!({"id": 1}))),
                (3, Err("must be a row in JSON; found text that is not JSON".to_owned())),
                (4, Ok(json!({"id": "\""}))),
            ];
            assert_eq!(found, expected);
        }
    }

    #[test]
    fn a_line_without_an_end_is_given_up() {
        let mut reader = UploadReader::new(UploadFormat::Csv);
        reader.push(&vec![b'x'; 2 * LARGEST_ROW + 1]);
        assert_eq!(reader.next(false), Err(TooLong { line: 1 }));
    }

    #[test]
    fn a_row_has_its_key_among_its_fields() {
        let entity = |table: &str, given: Option<&str>, row: Value| {
            let table: Name = table.parse().unwrap();
            KeyField::of(&table, given).entity(&table, row, Timestamp::UNIX_EPOCH).map(|it| it.key)
        };
        assert_eq!(
            entity("people", None, json!({"email": " Ann@B.co"})),
            Ok("ann@b.co".to_owned())
        );
        assert_eq!(entity("users", None, json!({"id": 7})), Ok("7".to_owned()));
        assert_eq!(entity("users", Some("name"), json!({"name": "X"})), Ok("X".to_owned()));
        for (table, row) in [
            ("people", json!({"email": "nobody"})),
            ("people", json!({"name": "Ann"})),
            ("users", json!({"id": ""})),
            ("users", json!({"id": null})),
            ("users", json!([])),
        ] {
            assert!(entity(table, None, row).is_err());
        }
    }
}
