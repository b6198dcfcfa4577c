//! How many deliveries a selection means, exactly.
//!
//! Most rows are about events of their own segment, and SQL counts them there. The others, about
//! older events, are looked at one by one: there are few.

use rusqlite::Connection;

use super::{
    Archive,
    deliveries::{AccessPath, Selected, by_end},
    event::head_in,
    filter::{SqlCondition, is_within},
};
use crate::{
    model::{DeliverySeq, Ended, Pattern, ProjectId, Selection},
    store::{
        Result,
        sqlite::segment::{
            contents::contents_of,
            rows::{ended_code, replayed_code},
            segments::Segment,
        },
    },
};

/// A table whose rows are counted, and its column with the delivery.
#[derive(Clone, Copy)]
struct CountedTable {
    table: &'static str,
    delivery: &'static str,
    /// The code of an end.
    ended: Option<i64>,
}

impl Archive {
    pub fn count(&self, project: ProjectId, selection: &Selection) -> Result<u64> {
        let Some(selected) = self.selected(project, selection) else { return Ok(0) };
        let counted =
            |ended| CountedTable { table: "activity", delivery: "delivery", ended: Some(ended) };
        let of_end = |ended| self.count_rows(&selected, counted(ended_code(ended)));
        let replayed = |ended| self.count_rows(&selected, counted(replayed_code(ended)));
        match AccessPath::of(selection.state) {
            AccessPath::Owed { attempted } => self.count_owed(&selected, attempted),
            // A dead letter that was replayed is none any more.
            AccessPath::Ended(ended @ (Ended::Dead | Ended::Expired)) => {
                Ok(of_end(ended)?.saturating_sub(replayed(ended)?))
            }
            AccessPath::Ended(ended) => of_end(ended),
            AccessPath::Planned(Some(_)) => of_end(Ended::Delivered),
            AccessPath::Planned(None) => {
                let all = CountedTable { table: "deliveries", delivery: "seq", ended: None };
                self.count_rows(&selected, all)
            }
        }
    }

    fn count_rows(&self, selected: &Selected<'_>, counted: CountedTable) -> Result<u64> {
        let mut count = 0;
        for segment in self.readers.segments.all().iter() {
            count += segment.read(|it| self.count_in(it, segment, selected, counted))?;
        }
        Ok(count)
    }

    fn count_in(
        &self,
        connection: &Connection,
        segment: &Segment,
        selected: &Selected<'_>,
        counted: CountedTable,
    ) -> Result<u64> {
        let CountedTable { table, delivery, ended } = counted;
        let first = DeliverySeq::first_of(segment.first()).bits() as i64;
        let mut condition = SqlCondition::new("r.project = ?", selected.project);
        if let Some(destination) = selected.destination {
            condition.and("r.destination = ?", destination);
        }
        let mut index = "";
        if let Some(ended) = ended {
            condition.and("r.ended = ?", ended);
            if ended > 1 {
                condition.and_all("r.ended > 1", []);
                index = by_end(segment);
            }
        }
        let mut foreign = condition.clone();
        foreign.and(&format!("r.{delivery} < ?"), first);
        let sql = format!("SELECT r.{delivery} FROM {table} r {index} WHERE {}", foreign.sql());
        let mut count = 0;
        let mut statement = connection.prepare_cached(&sql)?;
        let mut rows = statement.query(foreign.values())?;
        while let Some(row) = rows.next()? {
            let seq = DeliverySeq::from_bits(row.get::<_, i64>(0)? as u64);
            count += u64::from(self.is_meant(seq, selected.selection)?);
        }
        drop(rows);

        condition.and(&format!("r.{delivery} >= ?"), first);
        let mut join = String::new();
        if needs_events(connection, segment, selected)? {
            let Selection { event_type, from, until, .. } = selected.selection;
            join = format!("JOIN events e ON e.seq = r.{delivery} >> 11");
            condition.and_type("e.type", event_type.as_ref());
            condition.and_time("e.received_at", *from, *until);
        }
        // `CROSS` keeps the planner from beginning with the events, of which there are more.
        let sql = format!(
            "SELECT count(*) FROM {table} r {index} {} WHERE {}",
            join.replace("JOIN", "CROSS JOIN"),
            condition.sql()
        );
        let own: i64 =
            connection.prepare_cached(&sql)?.query_row(condition.values(), |row| row.get(0))?;
        Ok(count + own as u64)
    }

    /// Whether an event is still there, and is one of those that are meant.
    fn is_meant(&self, seq: DeliverySeq, selection: &Selection) -> Result<bool> {
        let Some(own) = self.readers.segments.of_event(seq.event()) else { return Ok(false) };
        let head = own.read(|it| head_in(it, seq.event()))?;
        Ok(head.is_some_and(|head| {
            selection.event_type.as_ref().is_none_or(|it| it.matches(&head.event_type))
                && is_within(head.received_at, selection.from, selection.until)
        }))
    }

    fn count_owed(&self, selected: &Selected<'_>, attempted: bool) -> Result<u64> {
        const CHUNK: usize = 65_536;
        let mut count = 0;
        for destination in self.owing(selected)? {
            if !is_narrowed(selected.selection) {
                count += self.owed.count(destination, attempted)?;
                continue;
            }
            let mut before = u64::MAX >> 1;
            loop {
                let seqs = self.owed.newest(destination, attempted, before, CHUNK)?;
                let Some(last) = seqs.last() else { break };
                before = last.bits();
                for seq in seqs {
                    count += u64::from(self.is_meant(seq, selected.selection)?);
                }
            }
        }
        Ok(count)
    }
}

/// Whether a selection asks about the events themselves.
fn is_narrowed(selection: &Selection) -> bool {
    let of_any_type = matches!(selection.event_type, None | Some(Pattern::All));
    !of_any_type || selection.from.is_some() || selection.until.is_some()
}

/// Whether the events of a segment must be looked at to know which of their rows count.
fn needs_events(
    connection: &Connection,
    segment: &Segment,
    selected: &Selected<'_>,
) -> Result<bool> {
    let Selection { event_type, from, until, .. } = selected.selection;
    let of_any_type = matches!(event_type, None | Some(Pattern::All));
    if !of_any_type || !segment.is_sealed() {
        return Ok(is_narrowed(selected.selection));
    }
    let contents = contents_of(connection, selected.project)?;
    Ok(!contents.is_some_and(|it| it.is_within(*from, *until)))
}
