//! The list of events.

use rusqlite::Connection;

use super::{Archive, LARGEST_PAGE, filter::SqlCondition};
use crate::{
    model::{Event, EventSeq, ProjectId},
    store::{
        EventFilter, PAGE_BYTES, Page, Result, StoreError,
        sqlite::segment::{contents::contents_of, segments::Segment},
    },
};

impl Archive {
    pub fn events(
        &self,
        project: ProjectId,
        filter: &EventFilter,
        page: Page,
    ) -> Result<Vec<Event>> {
        let Some((project, condition)) = self.condition(project, filter) else {
            return Ok(Vec::new());
        };
        let limit = page.limit.min(LARGEST_PAGE);
        let before = page.before.map_or(i64::MAX, |it| it.0 as i64);
        let (mut events, mut bytes) = (Vec::<Event>::new(), 0);
        // The one that is too much is given, too: it says that there are more.
        let is_enough = |count, bytes| count >= limit || (count > 1 && bytes > PAGE_BYTES);
        for segment in self.readers.segments.all().iter().rev() {
            if is_enough(events.len(), bytes) {
                break;
            }
            if segment.first().0 as i64 >= before {
                continue;
            }
            segment.read(|connection| {
                if !may_have(connection, segment, project, filter)? {
                    return Ok(());
                }
                for seq in newest(connection, segment, &condition, before, limit - events.len())? {
                    let event = self.readers.event_in(connection, seq)?;
                    let event = event.ok_or(StoreError::Damaged { what: "index of events" })?;
                    bytes += event.weight();
                    events.push(event);
                    if is_enough(events.len(), bytes) {
                        break;
                    }
                }
                Ok(())
            })?;
        }
        Ok(events)
    }

    pub fn events_behind(
        &self,
        project: ProjectId,
        filter: &EventFilter,
        after: EventSeq,
        limit: usize,
    ) -> Result<Vec<Event>> {
        let Some((project, mut condition)) = self.condition(project, filter) else {
            return Ok(Vec::new());
        };
        condition.and("seq > ?", after.0 as i64);
        let limit = limit.min(LARGEST_PAGE);
        let sql = format!(
            "SELECT seq FROM events NOT INDEXED WHERE {} ORDER BY seq LIMIT {limit}",
            condition.sql()
        );
        let (mut events, mut bytes) = (Vec::new(), 0);
        let all = self.readers.segments.all();
        let first = all.partition_point(|it| it.first() <= after).saturating_sub(1);
        for segment in &all[first..] {
            segment.read(|connection| {
                if !may_have(connection, segment, project, filter)? {
                    return Ok(());
                }
                let mut statement = connection.prepare_cached(&sql)?;
                let mut rows = statement.query(condition.values())?;
                while events.len() < limit
                    && bytes < PAGE_BYTES
                    && let Some(row) = rows.next()?
                {
                    let seq = EventSeq(row.get::<_, i64>(0)? as u64);
                    let event = self.readers.event_in(connection, seq)?;
                    let event = event.ok_or(StoreError::Damaged { what: "index of events" })?;
                    bytes += event.weight();
                    events.push(event);
                }
                Ok(())
            })?;
            if events.len() >= limit || bytes >= PAGE_BYTES {
                break;
            }
        }
        Ok(events)
    }

    pub fn count_events(&self, project: ProjectId, filter: &EventFilter) -> Result<u64> {
        let Some((project, condition)) = self.condition(project, filter) else { return Ok(0) };
        let sql = format!("SELECT count(*) FROM events NOT INDEXED WHERE {}", condition.sql());
        let mut count = 0;
        for segment in self.readers.segments.all().iter() {
            count += segment.read(|connection| {
                if !may_have(connection, segment, project, filter)? {
                    return Ok(0);
                }
                let mut statement = connection.prepare_cached(&sql)?;
                Ok(statement.query_row(condition.values(), |row| row.get::<_, i64>(0))? as u64)
            })?;
        }
        Ok(count)
    }

    /// The project's number, and the condition on its rows. `None`: no row can match.
    fn condition(&self, project: ProjectId, filter: &EventFilter) -> Option<(i64, SqlCondition)> {
        let control = &self.readers.control;
        let project = control.known_number(project)?;
        let mut condition = SqlCondition::new("project = ?", project);
        if let Some(source) = filter.source {
            condition.and("source = ?", control.known_number(source)?);
        }
        condition.and_type("type", filter.event_type.as_ref());
        condition.and_time("received_at", filter.from, filter.until);
        Some((project, condition))
    }
}

/// Whether it is worth to look: a sealed segment knows whose events it has, and from when.
fn may_have(
    connection: &Connection,
    segment: &Segment,
    project: i64,
    filter: &EventFilter,
) -> Result<bool> {
    if !segment.is_sealed() {
        return Ok(true);
    }
    let contents = contents_of(connection, project)?;
    Ok(contents.is_some_and(|it| it.overlaps(filter.from, filter.until)))
}

/// List the newest events for which a condition holds. Looks at the last events first, which mostly is
/// enough; what is rarer than that, a sealed segment finds by its index.
fn newest(
    connection: &Connection,
    segment: &Segment,
    condition: &SqlCondition,
    before: i64,
    limit: usize,
) -> Result<Vec<EventSeq>> {
    const LAST: i64 = 10_000;

    let last: Option<i64> = connection
        .prepare_cached("SELECT max(seq) FROM events WHERE seq < ?")?
        .query_row([before], |row| row.get(0))?;
    let Some(last) = last else { return Ok(Vec::new()) };
    let (low, index) =
        if segment.is_sealed() { (last - LAST, "INDEXED BY events_by_project") } else { (0, "") };
    let mut found = select(connection, "NOT INDEXED", condition, (low, before), limit)?;
    if found.len() < limit && low > 0 {
        let rest = limit - found.len();
        found.extend(select(connection, index, condition, (0, low), rest)?);
    }
    Ok(found)
}

/// From `low` on and below `before`, from new to old.
fn select(
    connection: &Connection,
    index: &str,
    condition: &SqlCondition,
    (low, before): (i64, i64),
    limit: usize,
) -> Result<Vec<EventSeq>> {
    let mut condition = condition.clone();
    condition.and("seq >= ?", low);
    condition.and("seq < ?", before);
    let sql = format!(
        "SELECT seq FROM events {index} WHERE {} ORDER BY seq DESC LIMIT {limit}",
        condition.sql()
    );
    let mut statement = connection.prepare_cached(&sql)?;
    let found = statement
        .query_map(condition.values(), |row| Ok(EventSeq(row.get::<_, i64>(0)? as u64)))?;
    Ok(found.collect::<Result<_, _>>()?)
}
