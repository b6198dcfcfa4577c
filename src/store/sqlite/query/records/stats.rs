//! Counts by minute.

use std::collections::BTreeMap;

use jiff::Timestamp;
use rusqlite::Connection;

use super::Archive;
use crate::{
    model::DestinationId,
    store::{Minute, Result, sqlite::segment::rows},
};

const MINUTE: i64 = 60 * 1_000_000;

impl Archive {
    pub fn stats(
        &self,
        destination: DestinationId,
        from: Timestamp,
        until: Timestamp,
    ) -> Result<Vec<Minute>> {
        let Some(destination) = self.readers.control.known_number(destination) else {
            return Ok(Vec::new());
        };
        let mut minutes = BTreeMap::new();
        // A minute counts when it begins in the range.
        let first = (rows::micros(from) + MINUTE - 1).div_euclid(MINUTE);
        let end = (rows::micros(until) + MINUTE - 1).div_euclid(MINUTE);
        for segment in self.readers.segments.all().iter() {
            segment.read(|it| add_minutes(it, (destination, first, end), &mut minutes))?;
        }
        Ok(minutes.into_values().collect())
    }
}

/// Several segments may have a part of the same minute.
fn add_minutes(
    connection: &Connection,
    range: (i64, i64, i64),
    minutes: &mut BTreeMap<i64, Minute>,
) -> Result<()> {
    let mut statement = connection.prepare_cached(
        "SELECT minute, planned, delivered, failed_attempts, dead, dropped, below_10ms, \
         below_50ms, below_100ms, below_500ms, below_1s, below_5s, longer FROM minutes \
         WHERE destination = ? AND minute >= ? AND minute < ?",
    )?;
    let mut found = statement.query(range)?;
    while let Some(row) = found.next()? {
        let number: i64 = row.get(0)?;
        let minute = minutes.entry(number).or_default();
        minute.start = rows::time(number * MINUTE)?;
        let count = |column: usize| row.get::<_, i64>(column).map(|it| it as u64);
        minute.planned += count(1)?;
        minute.delivered += count(2)?;
        minute.failed_attempts += count(3)?;
        minute.dead += count(4)?;
        minute.dropped += count(5)?;
        for (place, total) in minute.durations.iter_mut().enumerate() {
            *total += count(6 + place)?;
        }
    }
    Ok(())
}
