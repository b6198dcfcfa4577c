//! Questions about `owed.db` that only people and retention ask. Some go through all that a
//! destination is owed.

use rusqlite::OptionalExtension;

use super::file::{self, OwedFile};
use crate::{
    model::{DeliverySeq, EventSeq},
    store::Result,
};

impl OwedFile {
    /// The newest deliveries below `before` that are owed to a destination: those that failed before,
    /// or those that were never attempted.
    pub fn newest(
        &self,
        destination: i64,
        attempted: bool,
        before: u64,
        limit: usize,
    ) -> Result<Vec<DeliverySeq>> {
        let sql = format!(
            "SELECT seq FROM owed WHERE destination = ? AND {} AND seq < ? \
             ORDER BY seq DESC LIMIT ?",
            attempts(attempted)
        );
        self.read(|connection| {
            let mut statement = connection.prepare_cached(&sql)?;
            let rows = statement.query_map((destination, before as i64, limit as i64), |row| {
                Ok(DeliverySeq::from_bits(row.get::<_, i64>(0)? as u64))
            })?;
            Ok(rows.collect::<Result<_, _>>()?)
        })
    }

    pub fn count(&self, destination: i64, attempted: bool) -> Result<u64> {
        let sql =
            format!("SELECT count(*) FROM owed WHERE destination = ? AND {}", attempts(attempted));
        self.read(|connection| {
            let count: i64 =
                connection.prepare_cached(&sql)?.query_row([destination], |row| row.get(0))?;
            Ok(count as u64)
        })
    }

    pub fn total(&self) -> Result<u64> {
        self.read(|connection| {
            let count: i64 =
                connection.query_row("SELECT count(*) FROM owed", [], |it| it.get(0))?;
            Ok(count as u64)
        })
    }

    /// Any delivery that is owed to a destination.
    pub fn any(&self, destination: i64) -> Result<Option<DeliverySeq>> {
        self.read(|connection| {
            let sql = "SELECT seq FROM owed WHERE destination = ? LIMIT 1";
            let mut statement = connection.prepare_cached(sql)?;
            let found: Option<i64> =
                statement.query_row([destination], |row| row.get(0)).optional()?;
            Ok(found.map(|it| DeliverySeq::from_bits(it as u64)))
        })
    }

    /// The events from `first` on and before `end` of which a delivery is owed, in order.
    pub fn events(&self, first: EventSeq, end: EventSeq) -> Result<Vec<EventSeq>> {
        let range = [first, end].map(|it| DeliverySeq::first_of(it).bits() as i64);
        self.read(|connection| {
            let sql = "SELECT DISTINCT seq >> 11 FROM owed WHERE seq >= ? AND seq < ? ORDER BY 1";
            let mut statement = connection.prepare_cached(sql)?;
            let rows =
                statement.query_map(range, |row| Ok(EventSeq(row.get::<_, i64>(0)? as u64)))?;
            Ok(rows.collect::<Result<_, _>>()?)
        })
    }

    /// Brings what the file has to the disk. Returns the last redo row of which this is certain.
    pub fn sync(&self) -> Result<u64> {
        let connection = self.open_writer()?;
        let applied = file::applied(&connection)?.unwrap_or(0);
        Ok(if file::checkpoint(&connection)? { applied } else { 0 })
    }
}

fn attempts(attempted: bool) -> &'static str {
    if attempted { "attempts > 0" } else { "attempts = 0" }
}
