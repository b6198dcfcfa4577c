//! Writing what came of deliveries.

use rusqlite::{OptionalExtension as _, params};

use super::group_commit::GroupCommit;
use crate::{
    model::{Class, Entry, EntryKind, Outcome},
    store::{
        Next, Result, Settlement,
        sqlite::{
            error::is_damage,
            owed::OwedRow,
            query::readers::delivery_in,
            segment::rows::{self, class_code, ended_code, reason_of_status},
            wal::statements::Statement,
        },
    },
};

impl GroupCommit<'_> {
    pub fn settle(&mut self, settlements: &[Settlement]) -> Result<()> {
        for settlement in settlements {
            let Settlement { owed, entry, next } = settlement;
            let destination = self.memory.control.number(owed.destination)?;
            let Some(current) = self.memory.ledger.find(&OwedRow::new(owed, destination))? else {
                metrics::counter!("tidegate_store_settlements_ignored_total").increment(1);
                continue;
            };
            // Two callers may have acted on the same standing: both entries are kept.
            let number = entry.number.max(current.entries.saturating_add(1));
            self.memory.minutes.entry(current.destination, entry);
            let project = self.project_of(&current)?;
            self.insert_entry(entry, number, &current, project)?;
            match next {
                Next::Owed(standing) => self.memory.ledger.update(OwedRow {
                    attempts: standing.attempts,
                    entries: standing.entries.max(number),
                    due: standing.due.map(rows::micros),
                    ..current
                }),
                Next::Ended(_) => self.memory.ledger.end(current),
            }
        }
        Ok(())
    }

    /// Writes a line of the activity log. Of `owed`, seq and destination count.
    pub fn insert_entry(
        &mut self,
        entry: &Entry,
        number: u16,
        owed: &OwedRow,
        project: i64,
    ) -> Result<()> {
        self.note(owed.seq.event());
        let (attempt, outcome, note, by) = match &entry.kind {
            EntryKind::Attempt { number, outcome } => (*number, Some(outcome), None, None),
            EntryKind::Note { reason } => (0, None, Some(reason), None),
            EntryKind::Replayed { by, reason } => (0, None, Some(reason), Some(i64::from(*by))),
        };
        let ended = entry.ended.map(|it| match by {
            Some(_) => rows::replayed_code(it),
            None => ended_code(it),
        });
        let micros = |it: &Outcome| i64::try_from(it.duration.as_micros()).unwrap_or(i64::MAX);
        let response = outcome.and_then(|it| it.response.as_ref()).map(|it| it.bytes().as_ref());
        let reason = note.map(String::as_str).or_else(|| outcome.and_then(reason_to_keep));
        self.memory.marks.written += 50 + response.map_or(0, <[u8]>::len);
        let row = params![
            owed.seq.bits() as i64,
            number,
            rows::micros(entry.at),
            project,
            owed.destination,
            attempt,
            outcome.map(|it| class_code(it.class)),
            outcome.and_then(|it| it.status),
            by.or_else(|| outcome.map(micros)),
            ended,
            reason,
            outcome
                .and_then(|it| it.retry_after)
                .map(|it| i64::try_from(it.as_millis()).unwrap_or(i64::MAX)),
            response,
        ];
        self.writes.execute(Statement::Activity, row)?;
        Ok(())
    }
}

impl GroupCommit<'_> {
    /// The project of a delivery, which is its destination's.
    fn project_of(&mut self, owed: &OwedRow) -> Result<i64> {
        if let Some(project) = self.memory.projects.get(&owed.destination) {
            return Ok(*project);
        }
        for segment in self.memory.segments.about_event(owed.seq.event())? {
            // The newest is read through the transaction, which sees itself.
            let found = if segment.first() == self.segment.first() {
                delivery_in(self.writes.read()?, owed.seq)?
            } else {
                match segment.read(|it| delivery_in(it, owed.seq)) {
                    // Its end counts all the same.
                    Err(error) if is_damage(&error) => {
                        let error = &error as &dyn std::error::Error;
                        tracing::error!(error, event = owed.seq.event().0, "a delivery is damaged");
                        return self.project_by_others(owed.destination);
                    }
                    other => other?,
                }
            };
            if let Some(row) = found {
                self.memory.learn_project(owed.destination, row.project);
                return Ok(row.project);
            }
        }
        // Its row is gone, which prune does not do to what is owed. The end counts all the same.
        tracing::error!(delivery = owed.seq.bits(), "a delivery is owed that was not planned");
        Ok(0)
    }

    /// The project of a destination, by what else was planned for it. What is damaged is left out.
    fn project_by_others(&mut self, destination: i64) -> Result<i64> {
        let sql = "SELECT project FROM deliveries WHERE destination = ? LIMIT 1";
        for segment in self.memory.segments.all().iter().rev() {
            let found: Result<Option<i64>> = segment
                .read(|it| Ok(it.query_row(sql, [destination], |row| row.get(0)).optional()?));
            match found {
                Ok(Some(project)) => return Ok(project),
                Ok(None) => (),
                Err(error) if is_damage(&error) => (),
                Err(error) => return Err(error),
            }
        }
        Ok(0)
    }
}

/// Most attempts are accepted, and say nothing that the status does not.
fn reason_to_keep(outcome: &Outcome) -> Option<&str> {
    let is_told = outcome.class == Class::Accepted
        && outcome.status.is_some_and(|it| reason_of_status(it) == outcome.reason);
    (!is_told).then_some(outcome.reason.as_str())
}
