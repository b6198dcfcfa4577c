//! Reading events and what was planned for them, across segments. For everything but the writer's
//! own transaction; safe to use from many threads at once.

use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension, Row};
use xxhash_rust::xxh3::xxh3_64;

use crate::{
    model::{
        DeliverySeq, Event, EventId, EventSeq, IdempotencyKey, Message, ProjectId, TypeName,
        headers,
    },
    store::{
        Result, StoreError,
        codes::ERASED_METADATA,
        sqlite::{
            error::is_damage,
            keys::gate::PendingEvent,
            registry::control::Control,
            segment::{
                blocks::{Block, Blocks},
                rows::{self, DELIVERY_COLUMNS, DeliveryRow},
                segments::{Segment, Segments},
            },
        },
    },
};

/// What is remembered of an event that had a key first.
pub struct First {
    /// Of the payload; `None` when it is erased.
    pub digest: Option<u64>,
    pub event_type: TypeName,
}

pub struct Readers {
    pub control: Arc<Control>,
    pub segments: Arc<Segments>,
    pub blocks: Blocks,
}

/// The columns that [`Readers::event_of_row`] reads, in its order.
pub const EVENT_COLUMNS: &str =
    "seq, id, given_id, project, source, type, timestamp, received_at, key, digest";

impl Readers {
    /// One event; `None` when there is none, or no longer.
    pub fn event(&self, seq: EventSeq) -> Result<Option<Event>> {
        let Some(segment) = self.segments.of_event(seq) else { return Ok(None) };
        segment.read(|connection| self.event_in(connection, seq))
    }

    /// One event out of the file that holds it.
    pub fn event_in(&self, connection: &Connection, seq: EventSeq) -> Result<Option<Event>> {
        let sql = select_event("WHERE seq = ?");
        let mut statement = connection.prepare_cached(&sql)?;
        let mut rows = statement.query([seq.0 as i64])?;
        rows.next()?.map(|row| self.event_of_row(connection, row)).transpose()
    }

    /// The events from `from` on, in their order, until there are `limit` or about `bytes` of them.
    /// At least one, if there is one.
    pub fn events_from(&self, from: EventSeq, limit: usize, bytes: usize) -> Result<Vec<Event>> {
        let (mut events, mut weight, mut next) = (Vec::new(), 0, from);
        let all = self.segments.all();
        let start = all.partition_point(|it| it.first() <= from).saturating_sub(1);
        for segment in &all[start..] {
            if events.len() >= limit || weight >= bytes {
                break;
            }
            segment.read(|connection| {
                let sql = select_event("WHERE seq >= ? ORDER BY seq");
                let mut statement = connection.prepare_cached(&sql)?;
                let mut rows = statement.query([next.0 as i64])?;
                while events.len() < limit && weight < bytes {
                    let Some(row) = rows.next()? else { break };
                    let event = self.event_of_row(connection, row)?;
                    weight += event.payload.bytes().len() + event.metadata.bytes().len();
                    next = EventSeq(event.seq.0 + 1);
                    events.push(event);
                }
                Ok(())
            })?;
        }
        Ok(events)
    }

    /// The event of a row of [`EVENT_COLUMNS`], with its body, which is in the same file.
    pub fn event_of_row(&self, connection: &Connection, row: &Row<'_>) -> Result<Event> {
        let seq = EventSeq(row.get::<_, i64>(0)? as u64);
        let id = match row.get::<_, Option<[u8; 16]>>(2)? {
            Some(given) => given,
            None => row.get(1)?,
        };
        let (metadata, payload) = self.block(connection, seq)?.body(seq)?;
        let digest = row.get::<_, i64>(9)? as u64;
        if digest != 0 && xxh3_64(payload.bytes()).max(1) != digest {
            return Err(StoreError::Damaged { what: "body" });
        }
        let text =
            |at| row.get_ref(at)?.as_str().map_err(|_| StoreError::Damaged { what: "event" });
        let key = row.get_ref(8)?.as_str_or_null();
        Ok(Event {
            seq,
            id: EventId::from_bits(u128::from_be_bytes(id)),
            project: self.control.id(row.get(3)?)?,
            source: self.control.id(row.get(4)?)?,
            event_type: TypeName::trusted(text(5)?),
            timestamp: rows::time(row.get(6)?)?,
            received_at: rows::time(row.get(7)?)?,
            key: key
                .map_err(|_| StoreError::Damaged { what: "event" })?
                .map(IdempotencyKey::trusted),
            metadata: headers::without_hidden(metadata, &[]),
            payload,
        })
    }

    fn block(&self, connection: &Connection, seq: EventSeq) -> Result<Arc<Block>> {
        if let Some(block) = self.blocks.find(seq) {
            return Ok(block);
        }
        let mut statement = connection.prepare_cached(
            "SELECT first_seq, count, body FROM blocks WHERE first_seq <= ? \
             ORDER BY first_seq DESC LIMIT 1",
        )?;
        let mut rows = statement.query([seq.0 as i64])?;
        let row = rows.next()?.ok_or(StoreError::Damaged { what: "block" })?;
        let first = EventSeq(row.get::<_, i64>(0)? as u64);
        let packed =
            row.get_ref(2)?.as_blob().map_err(|_| StoreError::Damaged { what: "block" })?;
        let block = Arc::new(Block::open(first, row.get(1)?, packed)?);
        self.blocks.keep(block.clone());
        Ok(block)
    }

    /// What `look` finds of the events that go by this id: one, none, or one in each of several projects
    /// when senders gave it, which may also be an id that another event has from us. The 12 order bits do
    /// not count, so that the id of a delivery finds its event.
    pub fn find_by_id<T>(
        &self,
        id: EventId,
        mut look: impl FnMut(EventSeq) -> Result<Option<T>>,
    ) -> Result<Option<T>> {
        for seq in self.ours(id)? {
            if let Some(found) = look(seq)? {
                return Ok(Some(found));
            }
        }
        for seq in self.given(id, usize::MAX)? {
            if let Some(found) = look(seq)? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// The events in so many of the newest segments to which a sender gave this id, but for the 12 order bits.
    fn given(&self, id: EventId, segments: usize) -> Result<Vec<EventSeq>> {
        let masked = rows::masked(id).to_be_bytes();
        let mut found = Vec::new();
        for segment in self.segments.all().iter().rev().take(segments) {
            segment.read(|connection| {
                let sql = "SELECT seq FROM given_ids WHERE id = ?";
                let mut statement = connection.prepare_cached(sql)?;
                let mut rows = statement.query([masked])?;
                while let Some(row) = rows.next()? {
                    found.push(EventSeq(row.get::<_, i64>(0)? as u64));
                }
                Ok(())
            })?;
        }
        Ok(found)
    }

    /// The events to which we gave this id: one, or none, but for the 12 order bits.
    fn ours(&self, id: EventId) -> Result<Vec<EventSeq>> {
        let all = self.segments.all();
        let mut found = Vec::new();
        // The events of this millisecond may stand on both sides of a border between segments.
        for segment in all.iter().rev() {
            match segment.first_id()? {
                Some(first) if first.millis() > id.millis() => continue,
                Some(_) => segment.read(|it| ours_in(it, id, &mut found))?,
                None => continue,
            }
            if segment.first_id()?.is_some_and(|it| it.millis() < id.millis()) {
                break;
            }
        }
        Ok(found)
    }

    /// Notes of each event that brings an id whether an event of its project has that already, whoever gave it.
    /// Ids that senders gave are known by their hashes as well, for ever; here they are looked for among the
    /// newest, but for the bits in which a hash differs and the ids of deliveries do not.
    pub fn mark_taken(&self, mut offered: Vec<PendingEvent>) -> Result<Vec<PendingEvent>> {
        const NEWEST: usize = 4;
        for it in &mut offered {
            let (Some(id), Some(project)) =
                (it.event.id, self.control.known_number(it.event.project))
            else {
                continue;
            };
            let mut seqs = self.ours(id)?;
            seqs.extend(self.given(id, NEWEST)?);
            for seq in seqs {
                let Some(segment) = self.segments.of_event(seq) else { continue };
                let own: Option<[u8; 16]> = segment.read(|connection| {
                    let sql =
                        "SELECT coalesce(given_id, id) FROM events WHERE seq = ? AND project = ?";
                    let mut statement = connection.prepare_cached(sql)?;
                    Ok(statement.query_row([seq.0 as i64, project], |row| row.get(0)).optional()?)
                })?;
                it.taken = own.map(|it| EventId::from_bits(u128::from_be_bytes(it))).or(it.taken);
            }
        }
        Ok(offered)
    }

    /// Type and digest of the payload of this event; `None` when it is forgotten.
    pub fn first(&self, project: ProjectId, id: EventId) -> Result<Option<First>> {
        let project = self.control.known_number(project);
        self.find_by_id(id, |seq| {
            let Some(segment) = self.segments.of_event(seq) else { return Ok(None) };
            let row: Option<(i64, [u8; 16], i64, String)> = segment.read(|connection| {
                let sql =
                    "SELECT project, coalesce(given_id, id), digest, type FROM events WHERE seq = ?";
                let mut statement = connection.prepare_cached(sql)?;
                let read =
                    |row: &Row<'_>| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?));
                Ok(statement.query_row([seq.0 as i64], read).optional()?)
            })?;
            let is_it = |it: &(i64, [u8; 16], i64, String)| {
                Some(it.0) == project && it.1 == id.bits().to_be_bytes()
            };
            Ok(row.filter(is_it).map(|it| First {
                // That of an event whose body is erased is erased with it.
                digest: Some(it.2 as u64).filter(|it| *it != 0),
                event_type: TypeName::trusted(&it.3),
            }))
        })
    }

    /// What was planned as this delivery.
    pub fn delivery(&self, seq: DeliverySeq) -> Result<Option<DeliveryRow>> {
        for segment in self.segments.about_event(seq.event())? {
            if let Some(row) = segment.read(|it| delivery_in(it, seq))? {
                return Ok(Some(row));
            }
        }
        Ok(None)
    }

    /// The number of the next delivery of an event, by the segments from old to new.
    pub fn next_ordinal(&self, event: EventSeq, segments: &[Arc<Segment>]) -> Result<u16> {
        let mut next = 0;
        for segment in segments {
            next = next.max(segment.read(|it| next_ordinal_in(it, event))?);
        }
        Ok(next)
    }

    /// What to send for these deliveries, in their order; one whose event is gone or damaged is left out,
    /// and the latter is reported.
    pub fn messages(&self, deliveries: &[DeliverySeq]) -> Result<Vec<Message>> {
        let mut messages: Vec<Message> = Vec::with_capacity(deliveries.len());
        for &seq in deliveries {
            match self.message(seq, messages.last()) {
                Ok(message) => messages.extend(message),
                Err(error) if is_damage(&error) => {
                    let (event, error) = (seq.event().0, &error as &dyn std::error::Error);
                    tracing::error!(event, error, "an event is damaged, and cannot be delivered");
                    metrics::counter!("tidegate_store_damaged_messages_total").increment(1);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(messages)
    }

    fn message(&self, seq: DeliverySeq, before: Option<&Message>) -> Result<Option<Message>> {
        let Some(row) = self.delivery(seq)? else { return Ok(None) };
        // Deliveries of one event often stand together.
        let event = match before {
            Some(last) if last.seq.event() == seq.event() => last.event.clone(),
            Some(_) | None => match self.event(seq.event())? {
                Some(event) if event.metadata.bytes() == ERASED_METADATA => return Ok(None),
                Some(event) => Arc::new(event),
                None => return Ok(None),
            },
        };
        let copy = row.copy.as_deref().map(rows::copy).transpose()?;
        Ok(Some(Message { seq, event, copy, fresh_id: row.fresh_id }))
    }
}

pub fn delivery_in(connection: &Connection, seq: DeliverySeq) -> Result<Option<DeliveryRow>> {
    let sql = format!("SELECT {DELIVERY_COLUMNS} FROM deliveries WHERE seq = ?");
    let mut statement = connection.prepare_cached(&sql)?;
    let mut rows = statement.query([seq.bits() as i64])?;
    rows.next()?.map(rows::delivery).transpose()
}

pub fn next_ordinal_in(connection: &Connection, event: EventSeq) -> Result<u16> {
    let sql = "SELECT seq FROM deliveries WHERE seq BETWEEN ? AND ? ORDER BY seq DESC LIMIT 1";
    let mut statement = connection.prepare_cached(sql)?;
    let last: Option<i64> =
        statement.query_row(rows::deliveries_of(event), |row| row.get(0)).optional()?;
    Ok(last.map_or(0, |it| DeliverySeq::from_bits(it as u64).ordinal() + 1))
}

fn select_event(rest: &str) -> String {
    format!("SELECT {EVENT_COLUMNS} FROM events {rest}")
}

/// The first and the last event. Each by itself: SQLite finds one of them in its tree, but reads all
/// rows when it is asked for both.
const BOUNDS: &str = "SELECT (SELECT min(seq) FROM events), (SELECT max(seq) FROM events)";
/// Retention may have left gaps: what stands in one is judged by the next event.
const NEXT_ID: &str = "SELECT id FROM events WHERE seq >= ? ORDER BY seq LIMIT 1";
/// Those with a given id are read, too: the first of a later millisecond ends the search.
const IDS_FROM: &str = "SELECT seq, id, given_id IS NULL FROM events WHERE seq >= ? ORDER BY seq";

/// Adds the events of one segment that we gave this id, found by binary search over the
/// milliseconds in the ids, which grow with `seq`. Each event that brings an id asks for this, so
/// it must cost the same however many events there are.
fn ours_in(connection: &Connection, id: EventId, found: &mut Vec<EventSeq>) -> Result<()> {
    let bounds = connection
        .prepare_cached(BOUNDS)?
        .query_row([], |row| Ok((row.get::<_, Option<i64>>(0)?, row.get::<_, Option<i64>>(1)?)))?;
    let (Some(mut low), Some(last)) = bounds else { return Ok(()) };
    let mut high = last + 1;
    let mut at = connection.prepare_cached(NEXT_ID)?;
    let mut id_at = |seq: i64| -> Result<EventId> {
        let bits = at.query_row([seq], |row| row.get(0)).optional()?;
        let bits = bits.ok_or(StoreError::Damaged { what: "order of events" })?;
        Ok(EventId::from_bits(u128::from_be_bytes(bits)))
    };
    while low < high {
        let middle = low + (high - low) / 2;
        if id_at(middle)?.millis() < id.millis() {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    let mut statement = connection.prepare_cached(IDS_FROM)?;
    let mut rows = statement.query([low])?;
    while let Some(row) = rows.next()? {
        let ours = EventId::from_bits(u128::from_be_bytes(row.get(1)?));
        if ours.millis() != id.millis() {
            break;
        }
        if row.get(2)? && rows::masked(ours) == rows::masked(id) {
            found.push(EventSeq(row.get::<_, i64>(0)? as u64));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use rusqlite::StatementStatus;

    use super::*;

    const COUNT: i64 = 20_000;

    /// One event in each millisecond, all but the last with an id of their sender's.
    fn events() -> Connection {
        let connection = Connection::open_in_memory().unwrap();
        let segment = include_str!("../folder/migrations/segment_0001.sql");
        connection.execute_batch(segment).unwrap();
        connection.execute_batch("BEGIN").unwrap();
        for seq in 1..=COUNT {
            let given = (seq < COUNT).then_some([1_u8; 16]);
            let sql = "INSERT INTO events VALUES (?, ?, ?, 1, 1, 'a', 0, 0, NULL, 1)";
            let bits = id_of(seq).bits().to_be_bytes();
            connection.execute(sql, (seq, bits, given)).unwrap();
        }
        connection.execute_batch("COMMIT").unwrap();
        connection
    }

    fn id_of(seq: i64) -> EventId {
        EventId::from_bits((seq as u128) << 80)
    }

    #[test]
    fn an_id_is_looked_up_in_few_steps_among_many_events() {
        let connection = events();
        for (seq, expected) in [(1, None), (COUNT / 2, None), (COUNT, Some(COUNT))] {
            let mut found = Vec::new();
            ours_in(&connection, id_of(seq), &mut found).unwrap();
            let expected: Vec<_> = expected.iter().map(|it| EventSeq(*it as u64)).collect();
            assert_eq!(found, expected);
        }
        // The statements count over all of their runs.
        let steps = [BOUNDS, NEXT_ID, IDS_FROM]
            .map(|sql| connection.prepare_cached(sql).unwrap().get_status(StatementStatus::VmStep));
        assert!(steps.iter().all(|it| (1..2_000).contains(it)), "{steps:?}");
    }
}
