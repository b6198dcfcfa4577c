//! Counts of what each destination did, by minute, added up in memory and written once a commit.

use std::time::Duration;

use jiff::Timestamp;
use rusqlite::params;

use crate::{
    model::{Class, Ended, Entry, EntryKind, IdMap},
    store::{
        Result,
        sqlite::wal::{statement_buffer::StatementWriter, statements::Statement},
    },
};

#[derive(Default)]
pub struct Minutes {
    counts: IdMap<(i64, i64), MinuteCounts>,
}

#[derive(Clone, Copy, Default)]
struct MinuteCounts {
    planned: i64,
    delivered: i64,
    failed_attempts: i64,
    dead: i64,
    dropped: i64,
    durations: [i64; 7],
}

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
    pub fn planned(&mut self, destination: i64, at: Timestamp) {
        self.at(destination, at).planned += 1;
    }

    pub fn entry(&mut self, destination: i64, entry: &Entry) {
        let counts = self.at(destination, entry.at);
        match &entry.kind {
            EntryKind::Attempt { outcome, .. } => {
                counts.failed_attempts += i64::from(outcome.class != Class::Accepted);
                let range = BOUNDS.partition_point(|&bound| bound <= outcome.duration);
                counts.durations[range] += 1;
            }
            EntryKind::Note { .. } | EntryKind::Replayed { .. } => (),
        }
        match entry.ended {
            Some(Ended::Delivered) => counts.delivered += 1,
            Some(Ended::Dead) => counts.dead += 1,
            Some(Ended::Expired | Ended::Cancelled) => counts.dropped += 1,
            None => (),
        }
    }

    fn at(&mut self, destination: i64, at: Timestamp) -> &mut MinuteCounts {
        let minute = at.as_second().div_euclid(60);
        self.counts.entry((destination, minute)).or_default()
    }

    /// Adds them to those that the file has.
    pub fn write(&mut self, writes: &mut StatementWriter<'_>) -> Result<()> {
        for (&(destination, minute), it) in &self.counts {
            let [a, b, c, d, e, f, g] = it.durations;
            let row = params![
                destination,
                minute,
                it.planned,
                it.delivered,
                it.failed_attempts,
                it.dead,
                it.dropped,
                a,
                b,
                c,
                d,
                e,
                f,
                g,
            ];
            writes.execute(Statement::Minute, row)?;
        }
        self.counts.clear();
        Ok(())
    }

    pub fn clear(&mut self) {
        self.counts.clear();
    }
}
