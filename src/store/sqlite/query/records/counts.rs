//! Counts of pipelines by minute.

use std::collections::BTreeMap;

use jiff::Timestamp;
use rusqlite::Connection;

use super::Archive;
use crate::{
    model::{Counted, PipelineId},
    store::{
        Result,
        counts::{Counts, add_packed},
        sqlite::segment::rows,
    },
};

const MINUTE: i64 = 60 * 1_000_000;

impl Archive {
    pub fn counts(
        &self,
        pipeline: PipelineId,
        from: Timestamp,
        until: Timestamp,
    ) -> Result<Vec<Counted>> {
        let Some(pipeline) = self.readers.control.known_number(pipeline) else {
            return Ok(Vec::new());
        };
        let mut minutes: BTreeMap<(i64, u32), Counts> = BTreeMap::new();
        // A minute counts when it begins in the range.
        let first = (rows::micros(from) + MINUTE - 1).div_euclid(MINUTE);
        let end = (rows::micros(until) + MINUTE - 1).div_euclid(MINUTE);
        for segment in self.readers.segments.all().iter() {
            segment.read(|it| add(it, (pipeline, first, end), &mut minutes))?;
        }
        let mut counted = Vec::new();
        for ((minute, version), counts) in minutes {
            let start = rows::time(minute * MINUTE)?;
            let of = |(edge, passed)| Counted { start, version, edge, passed };
            counted.extend(counts.into_iter().map(of));
        }
        Ok(counted)
    }
}

/// Several segments may have a part of the same minute.
fn add(
    connection: &Connection,
    range: (i64, i64, i64),
    minutes: &mut BTreeMap<(i64, u32), Counts>,
) -> Result<()> {
    let mut statement = connection.prepare_cached(
        "SELECT minute, version, counts FROM tallies \
         WHERE pipeline = ? AND minute >= ? AND minute < ?",
    )?;
    let mut found = statement.query(range)?;
    while let Some(row) = found.next()? {
        let counts: Vec<u8> = row.get(2)?;
        add_packed(&counts, minutes.entry((row.get(0)?, row.get(1)?)).or_default())?;
    }
    Ok(())
}
