//! The activity log of a project.

use std::ops::ControlFlow;

use rusqlite::Connection;

use super::{
    Archive, LARGEST_PAGE,
    event::{Heads, push},
    filter::SqlCondition,
    walk::{Cursor, SegmentRange, Window},
};
use crate::{
    model::{DeliverySeq, Entry, EventSeq, ProjectId},
    store::{
        ActivityFilter, ActivityRecord, Page, Result,
        sqlite::segment::{
            rows::{self, ENTRY_COLUMNS, class_code},
            segments::Segment,
        },
    },
};

impl Archive {
    pub fn activity(
        &self,
        project: ProjectId,
        filter: &ActivityFilter,
        page: Page,
    ) -> Result<Vec<ActivityRecord>> {
        let control = &self.readers.control;
        let Some(project) = control.known_number(project) else { return Ok(Vec::new()) };
        let mut condition = SqlCondition::new("project = ?", project);
        if let Some(destination) = filter.destination {
            let Some(number) = control.known_number(destination) else { return Ok(Vec::new()) };
            condition.and("destination = ?", number);
        }
        if let Some(class) = filter.class {
            condition.and("class = ?", class_code(class));
        }
        condition.and_time("at", filter.from, filter.until);

        let limit = page.limit.min(LARGEST_PAGE);
        let before = page.before.unwrap_or((u64::MAX >> 1, 0));
        let mut list = Vec::new();
        if limit == 0 {
            return Ok(list);
        }
        let event = DeliverySeq::from_bits(before.0).event();
        for stretch in SegmentRange::below(&self.readers.segments, EventSeq(event.0 + 1)) {
            let fetch = |connection: &Connection, segment: &Segment, window| {
                fetch(&condition, only_failures(filter), connection, segment, window)
            };
            let visit = |own: &Connection, rows: Vec<(Cursor, (i64, Entry))>| {
                let mut heads = Heads::default();
                for (cursor, (destination, entry)) in rows {
                    let Some(head) = heads.of(own, cursor)? else { continue };
                    if filter.event_type.as_ref().is_some_and(|it| !it.matches(&head.event_type)) {
                        continue;
                    }
                    let record = ActivityRecord {
                        event: head.id,
                        event_type: head.event_type,
                        destination: control.id(destination)?,
                        entry,
                    };
                    if push(&mut list, record, limit).is_break() {
                        return Ok(ControlFlow::Break(()));
                    }
                }
                Ok(ControlFlow::Continue(()))
            };
            if stretch?.walk(before, fetch, visit)?.is_break() {
                break;
            }
        }
        Ok(list)
    }
}

/// Whether only attempts that were not accepted are wanted. Those have an index.
fn only_failures(filter: &ActivityFilter) -> bool {
    filter.failed_only || filter.class.is_some_and(|it| class_code(it) > 0)
}

fn fetch(
    condition: &SqlCondition,
    only_failures: bool,
    connection: &Connection,
    segment: &Segment,
    window: Window,
) -> Result<Vec<(Cursor, (i64, Entry))>> {
    let mut condition = condition.clone();
    condition.and("delivery >= ?", window.low as i64);
    let (delivery, number) = window.before;
    condition.and_all("(delivery, number) < (?, ?)", [(delivery as i64).into(), number.into()]);
    let mut index = "";
    if only_failures {
        condition.and_all("class > 0", []);
        if segment.is_sealed() {
            index = "INDEXED BY activity_by_failure";
        }
    }
    let sql = format!(
        "SELECT {ENTRY_COLUMNS}, destination FROM activity {index} WHERE {} \
         ORDER BY delivery DESC, number DESC LIMIT {}",
        condition.sql(),
        window.limit
    );
    let mut statement = connection.prepare_cached(&sql)?;
    let mut rows = statement.query(condition.values())?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let entry = rows::entry(row)?;
        let cursor = (entry.delivery.bits(), entry.number);
        found.push((cursor, (row.get("destination")?, entry)));
    }
    Ok(found)
}
