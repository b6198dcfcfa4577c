//! What a sealed segment says about itself: whose events it has, and when they were received.

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, Row};

use super::rows::micros;
use crate::store::Result;

/// The events of one project in one segment.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Contents {
    /// The project's number.
    pub project: i64,
    pub events: u64,
    /// When the first and the last were received, in microseconds since 1970. They need not be the
    /// first and the last by place: a clock may step back.
    pub earliest: i64,
    pub latest: i64,
}

impl Contents {
    /// Whether an event of these may have been received from `from` on and before `until`.
    pub fn overlaps(&self, from: Option<Timestamp>, until: Option<Timestamp>) -> bool {
        from.is_none_or(|it| micros(it) <= self.latest)
            && until.is_none_or(|it| self.earliest < micros(it))
    }

    /// Whether all of these were.
    pub fn is_within(&self, from: Option<Timestamp>, until: Option<Timestamp>) -> bool {
        from.is_none_or(|it| micros(it) <= self.earliest)
            && until.is_none_or(|it| self.latest < micros(it))
    }
}

const COLUMNS: &str = "project, events, earliest, latest";

pub fn contents(row: &Row<'_>) -> rusqlite::Result<Contents> {
    Ok(Contents {
        project: row.get(0)?,
        events: row.get::<_, i64>(1)? as u64,
        earliest: row.get(2)?,
        latest: row.get(3)?,
    })
}

/// Of one project, in a sealed segment; `None` when it has no event there.
pub fn contents_of(connection: &Connection, project: i64) -> Result<Option<Contents>> {
    let sql = format!("SELECT {COLUMNS} FROM contents WHERE project = ?");
    Ok(connection.prepare_cached(&sql)?.query_row([project], contents).optional()?)
}

/// Of every project that has an event in a sealed segment.
pub fn all_contents(connection: &Connection) -> Result<Vec<Contents>> {
    let sql = format!("SELECT {COLUMNS} FROM contents ORDER BY project");
    let mut statement = connection.prepare_cached(&sql)?;
    Ok(statement.query_map([], contents)?.collect::<Result<_, _>>()?)
}
