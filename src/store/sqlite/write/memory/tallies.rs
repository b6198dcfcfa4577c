//! Counts of what happened at each place of each pipeline, by minute: added up in memory, and written once
//! a commit, in one row for each pipeline that had something to do.

use std::collections::{HashMap, HashSet, hash_map::Entry};

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, params};

use crate::{
    model::{EventSeq, Passed, Tally},
    store::{
        Result,
        counts::{Counts, add_packed, pack},
        sqlite::wal::{statement_buffer::StatementWriter, statements::Statement},
    },
};

/// A pipeline by its number, a minute, and a version.
type TallyKey = (i64, i64, u32);

#[derive(Default)]
pub struct Tallies {
    /// Of the minutes that are not over, as the segment has them with what was added.
    open: HashMap<TallyKey, Counts>,
    changed: HashSet<TallyKey>,
    segment: Option<EventSeq>,
}

impl Tallies {
    pub fn add(
        &mut self,
        (writes, segment): (&mut StatementWriter<'_>, EventSeq),
        pipeline: i64,
        tally: &Tally,
        at: Timestamp,
    ) -> Result<()> {
        if self.segment.replace(segment) != Some(segment) {
            self.open.clear();
        }
        let place = (pipeline, at.as_second().div_euclid(60), tally.version);
        let counts = match self.open.entry(place) {
            Entry::Occupied(it) => it.into_mut(),
            Entry::Vacant(it) => it.insert(stored(writes.read()?, place)?),
        };
        for (edge, passed) in tally.edges.iter().zip(&tally.passed) {
            if *passed != Passed::default() {
                *counts.entry(*edge).or_default() += *passed;
            }
        }
        self.changed.insert(place);
        Ok(())
    }

    pub fn write(&mut self, writes: &mut StatementWriter<'_>) -> Result<()> {
        if self.changed.is_empty() {
            return Ok(());
        }
        for place in self.changed.drain() {
            let Some(counts) = self.open.get(&place) else { continue };
            let row = params![place.0, place.1, place.2, pack(counts)];
            writes.execute(Statement::Tally, row)?;
        }
        // Minutes that are over are read again, should anything still be added.
        if let Some(latest) = self.open.keys().map(|it| it.1).max() {
            self.open.retain(|it, _| it.1 == latest);
        }
        Ok(())
    }

    /// What was added in this batch is not in the file.
    pub fn roll_back(&mut self) {
        self.open.clear();
        self.changed.clear();
    }
}

fn stored(connection: &Connection, place: TallyKey) -> Result<Counts> {
    let sql = "SELECT counts FROM tallies WHERE pipeline = ? AND minute = ? AND version = ?";
    let found: Option<Vec<u8>> =
        connection.prepare_cached(sql)?.query_row(place, |row| row.get(0)).optional()?;
    let mut counts = Counts::new();
    if let Some(found) = found {
        add_packed(&found, &mut counts)?;
    }
    Ok(counts)
}
