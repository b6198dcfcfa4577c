//! Counts of what each destination did, by minute.
//!
//! Each transaction adds rows of its own, so that none waits for another; readers add them up, and
//! [`fold`] makes one row of many when nobody adds to a minute any more.

use std::{collections::BTreeMap, time::Duration};

use jiff::Timestamp;
use tokio_postgres::types::ToSql;

use super::{connect::Session, values::Uuid};
use crate::{
    model::{Class, DestinationId, Ended, Entry, EntryKind},
    store::Result,
};

#[derive(Default)]
pub(super) struct Minutes {
    counts: BTreeMap<(Uuid, i64), [i64; 12]>,
    columns: Columns,
}

#[derive(Default)]
struct Columns {
    destinations: Vec<Uuid>,
    minutes: Vec<i64>,
    counts: [Vec<i64>; 12],
}

const PLANNED: usize = 0;
const DELIVERED: usize = 1;
const FAILED: usize = 2;
const DEAD: usize = 3;
const DROPPED: usize = 4;
const DURATIONS: usize = 5;

/// Upper bounds of the first six ranges of durations.
const BOUNDS: [Duration; 6] = [
    Duration::from_millis(10),
    Duration::from_millis(50),
    Duration::from_millis(100),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(5),
];

impl Minutes {
    pub const INSERT: &str = "INSERT INTO minutes (destination, minute, planned, delivered, \
         failed_attempts, dead, dropped, durations) SELECT d, m, a, b, c, e, f, \
         ARRAY[g, h, i, j, k, l, n] FROM unnest($1::uuid[], $2::bigint[], $3::bigint[], \
         $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[], $8::bigint[], $9::bigint[], \
         $10::bigint[], $11::bigint[], $12::bigint[], $13::bigint[], $14::bigint[]) \
         AS w (d, m, a, b, c, e, f, g, h, i, j, k, l, n)";

    pub fn planned(&mut self, destination: DestinationId, at: Timestamp) {
        self.at(destination, at)[PLANNED] += 1;
    }

    pub fn entry(&mut self, destination: DestinationId, entry: &Entry) {
        let counts = self.at(destination, entry.at);
        match &entry.kind {
            EntryKind::Attempt { outcome, .. } => {
                counts[FAILED] += i64::from(outcome.class != Class::Accepted);
                let range = BOUNDS.partition_point(|&bound| bound <= outcome.duration);
                counts[DURATIONS + range] += 1;
            }
            EntryKind::Note { .. } | EntryKind::Replayed { .. } => (),
        }
        match entry.ended {
            Some(Ended::Delivered) => counts[DELIVERED] += 1,
            Some(Ended::Dead) => counts[DEAD] += 1,
            Some(Ended::Expired | Ended::Cancelled) => counts[DROPPED] += 1,
            None => (),
        }
    }

    fn at(&mut self, destination: DestinationId, at: Timestamp) -> &mut [i64; 12] {
        let minute = at.as_second().div_euclid(60);
        self.counts.entry((destination.into(), minute)).or_default()
    }

    pub fn is_empty(&self) -> bool {
        self.counts.is_empty()
    }

    pub fn values(&mut self) -> [&(dyn ToSql + Sync); 14] {
        let mut columns = Columns::default();
        for ((destination, minute), counts) in &self.counts {
            columns.destinations.push(*destination);
            columns.minutes.push(*minute);
            for (column, count) in columns.counts.iter_mut().zip(counts) {
                column.push(*count);
            }
        }
        self.columns = columns;
        let Columns { destinations, minutes, counts: [a, b, c, d, e, f, g, h, i, j, k, l] } =
            &self.columns;
        [destinations, minutes, a, b, c, d, e, f, g, h, i, j, k, l]
    }
}

/// Makes one row of those of the same destination and minute, before a minute.
pub(super) async fn fold(connection: &mut Session, before: i64) -> Result<()> {
    let sql = "WITH many AS (SELECT destination, minute FROM minutes WHERE minute < $1 \
         GROUP BY destination, minute HAVING count(*) > 1 LIMIT 10000), \
         gone AS (DELETE FROM minutes m USING many \
         WHERE m.destination = many.destination AND m.minute = many.minute RETURNING m.*) \
         INSERT INTO minutes SELECT destination, minute, sum(planned), sum(delivered), \
         sum(failed_attempts), sum(dead), sum(dropped), ARRAY[sum(durations[1]), \
         sum(durations[2]), sum(durations[3]), sum(durations[4]), sum(durations[5]), \
         sum(durations[6]), sum(durations[7])] FROM gone GROUP BY destination, minute";
    connection.execute(sql, &[&before]).await?;
    Ok(())
}
