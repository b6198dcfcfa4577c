//! Counts of what happened at each place of each pipeline, by minute: added up in memory, and written once
//! a commit, in one row for each pipeline that had something to do.

use std::collections::{BTreeMap, HashMap, HashSet, hash_map::Entry};

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension};

use crate::{
    model::{Edge, EventSeq, Passed, Tally, packed},
    store::{Result, StoreError},
};

/// A pipeline by its number, a minute, and a version.
type Place = (i64, i64, u32);
pub(super) type Counts = BTreeMap<Edge, Passed>;

#[derive(Default)]
pub(super) struct Tallies {
    /// Of the minutes that are not over, as the segment has them with what was added.
    open: HashMap<Place, Counts>,
    changed: HashSet<Place>,
    segment: Option<EventSeq>,
}

impl Tallies {
    pub fn add(
        &mut self,
        (connection, segment): (&Connection, EventSeq),
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
            Entry::Vacant(it) => it.insert(stored(connection, place)?),
        };
        for (edge, passed) in tally.edges.iter().zip(&tally.passed) {
            if *passed != Passed::default() {
                *counts.entry(*edge).or_default() += *passed;
            }
        }
        self.changed.insert(place);
        Ok(())
    }

    pub fn write(&mut self, connection: &Connection) -> Result<()> {
        if self.changed.is_empty() {
            return Ok(());
        }
        let mut statement = connection.prepare_cached(
            "INSERT OR REPLACE INTO tallies (pipeline, minute, version, counts) VALUES (?, ?, ?, ?)",
        )?;
        for place in self.changed.drain() {
            let Some(counts) = self.open.get(&place) else { continue };
            statement.execute((place.0, place.1, place.2, pack(counts)))?;
        }
        // Minutes that are over are read again, should anything still be added.
        if let Some(latest) = self.open.keys().map(|it| it.1).max() {
            self.open.retain(|it, _| it.1 == latest);
        }
        Ok(())
    }

    /// What was added in this turn is not in the file.
    pub fn roll_back(&mut self) {
        self.open.clear();
        self.changed.clear();
    }
}

fn stored(connection: &Connection, place: Place) -> Result<Counts> {
    let sql = "SELECT counts FROM tallies WHERE pipeline = ? AND minute = ? AND version = ?";
    let found: Option<Vec<u8>> =
        connection.prepare_cached(sql)?.query_row(place, |row| row.get(0)).optional()?;
    let mut counts = Counts::new();
    if let Some(found) = found {
        add_packed(&found, &mut counts)?;
    }
    Ok(counts)
}

/// For each place: route and step (0: none), and four counts.
fn pack(counts: &Counts) -> Vec<u8> {
    let mut out = Vec::with_capacity(12 * counts.len());
    let number = |it: Option<u16>| it.map_or(0, |it| u64::from(it) + 1);
    for (edge, it) in counts {
        for number in [number(edge.route), number(edge.step)] {
            packed::put(&mut out, number);
        }
        for count in [it.arrived, it.filtered, it.errored, it.left] {
            packed::put(&mut out, count);
        }
    }
    out
}

/// Adds what [`pack`] wrote.
pub(super) fn add_packed(mut bytes: &[u8], counts: &mut Counts) -> Result<()> {
    const DAMAGED: StoreError = StoreError::Damaged { what: "count of a pipeline" };
    while !bytes.is_empty() {
        let mut next = || packed::take(&mut bytes).ok_or(DAMAGED);
        let place = |it: u64| it.checked_sub(1).map(|it| it as u16);
        let edge = Edge { route: place(next()?), step: place(next()?) };
        let (arrived, filtered) = (next()?, next()?);
        let passed = Passed { arrived, filtered, errored: next()?, left: next()? };
        *counts.entry(edge).or_default() += passed;
    }
    Ok(())
}
