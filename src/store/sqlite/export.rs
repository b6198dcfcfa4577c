//! Events as text, one JSON object a line, for whoever wants them outside.

use std::io::{self, Write};

use jiff::Timestamp;
use serde::Serialize;

use super::{
    SqliteStore,
    contents::contents_of,
    error::is_damage,
    readers::{EVENT_COLUMNS, Readers},
    records::filter::SqlCondition,
    segments::Segment,
};
use crate::{
    model::{Event, EventId, EventSeq, IdempotencyKey, ProjectId, RawJson, SourceId, TypeName},
    store::StoreError,
};

#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    #[error("the events cannot be read")]
    Store(#[from] StoreError),
    #[error("the events cannot be written out")]
    Write(#[from] io::Error),
}

/// A line of an export. Metadata and payload are what the sender sent, byte for byte, except that
/// a line break between two values is a space.
#[derive(Serialize)]
struct Line {
    seq: EventSeq,
    id: EventId,
    #[serde(rename = "type")]
    event_type: TypeName,
    source: SourceId,
    timestamp: Timestamp,
    received_at: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    idempotency_key: Option<IdempotencyKey>,
    metadata: RawJson,
    payload: RawJson,
}

impl SqliteStore {
    /// Writes the events of a project that were received from `from` on and before `until`, from old
    /// to new, and says how many. `progress` gets how many there are so far, now and then.
    ///
    /// It blocks, for long if there are many, and holds a few hundred events at most. Events that are
    /// accepted or forgotten meanwhile may be in it or not; all others are, once each.
    pub fn events_as_ndjson(
        &self,
        project: ProjectId,
        from: Option<Timestamp>,
        until: Option<Timestamp>,
        out: &mut dyn Write,
        progress: &mut dyn FnMut(u64),
    ) -> Result<u64, ExportError> {
        let readers = &self.readers;
        self.queue.publish_blocking()?;
        let Some(number) = readers.control.known_number(project) else { return Ok(0) };
        let mut condition = SqlCondition::new("project = ?", number);
        condition.and_time("received_at", from, until);
        let mut count = 0;
        // One segment after the other is asked for by its place, and not all are held: retention
        // waits for those who hold a segment before it deletes one.
        let mut next = EventSeq(0);
        while let Some((segment, end)) = segment_from(readers, next) {
            let is_worth_it = !segment.is_sealed()
                || segment
                    .read(|it| contents_of(it, number))?
                    .is_some_and(|it| it.overlaps(from, until));
            let mut at = is_worth_it.then(|| segment.first());
            while let Some(from) = at {
                let events = chunk(readers, &segment, &condition, from)?;
                at = events.last().map(|it| EventSeq(it.0.0 + 1));
                count += events.len() as u64;
                for (seq, event) in events {
                    match event {
                        Ok(event) => write(event, out)?,
                        Err(error) => write_damaged(seq, &error, out)?,
                    }
                }
                progress(count);
            }
            let Some(end) = end else { break };
            next = end;
        }
        out.flush()?;
        Ok(count)
    }
}

/// The segment that begins at `from` or is the first behind it, and where the one behind begins.
fn segment_from(
    readers: &Readers,
    from: EventSeq,
) -> Option<(std::sync::Arc<Segment>, Option<EventSeq>)> {
    let all = readers.segments.all();
    let at = all.partition_point(|it| it.first() < from);
    Some((all.get(at)?.clone(), all.get(at + 1).map(|it| it.first())))
}

/// An event, or why it cannot be read.
type Found = (EventSeq, Result<Event, StoreError>);

fn chunk(
    readers: &Readers,
    segment: &Segment,
    condition: &SqlCondition,
    from: EventSeq,
) -> Result<Vec<Found>, StoreError> {
    const EVENTS: usize = 256;
    const BYTES: usize = 4 << 20;

    let mut condition = condition.clone();
    condition.and("seq >= ?", from.0 as i64);
    let sql = format!(
        "SELECT {EVENT_COLUMNS} FROM events NOT INDEXED WHERE {} ORDER BY seq LIMIT {EVENTS}",
        condition.sql()
    );
    segment.read(|connection| {
        let mut statement = connection.prepare_cached(&sql)?;
        let mut rows = statement.query(condition.values())?;
        let (mut events, mut bytes) = (Vec::new(), 0);
        while bytes < BYTES
            && let Some(row) = rows.next()?
        {
            let seq = EventSeq(row.get::<_, i64>(0)? as u64);
            let event = readers.event_of_row(connection, row);
            match &event {
                Ok(event) => bytes += event.metadata.bytes().len() + event.payload.bytes().len(),
                Err(error) if is_damage(error) => (),
                Err(_) => return event.map(|_| Vec::new()),
            }
            events.push((seq, event));
        }
        Ok(events)
    })
}

fn write(event: Event, out: &mut dyn Write) -> io::Result<()> {
    let line = Line {
        seq: event.seq,
        id: event.id,
        event_type: event.event_type,
        source: event.source,
        timestamp: event.timestamp,
        received_at: event.received_at,
        idempotency_key: event.key,
        metadata: event.metadata.in_one_line(),
        payload: event.payload.in_one_line(),
    };
    serde_json::to_writer(&mut *out, &line)?;
    out.write_all(b"\n")
}

/// Who reads the export hears that one is missing, and the export goes on.
fn write_damaged(seq: EventSeq, error: &StoreError, out: &mut dyn Write) -> io::Result<()> {
    let buffer = error as &dyn std::error::Error;
    tracing::error!(
        event = seq.0,
        error = buffer,
        "an event is damaged, and is left out of an export"
    );
    writeln!(out, "{}", serde_json::json!({ "seq": seq, "error": error.to_string() }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_break_between_values_becomes_a_space_and_nothing_else_changes() {
        let json = RawJson::trusted("{\r\n  \"a\": 1.50,\n  \"b\": \"x\\ny\"}");
        assert_eq!(json.in_one_line().as_str(), "{    \"a\": 1.50,   \"b\": \"x\\ny\"}");
    }
}
