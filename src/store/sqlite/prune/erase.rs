//! Erasing what events say about a person. A segment in which there is something to erase is written
//! again; the newest one is sealed for that first.

use std::time::{Duration, Instant};

use async_trait::async_trait;
use rusqlite::Connection;

use super::{Forgetting, TIMEOUT, wait_for_readers};
use crate::{
    model::{DeliverySeq, EventSeq, Person, ProjectId, SourceId},
    store::{
        Eraser, Result, ScannedRange,
        sqlite::{
            SqliteStore,
            error::unavailable,
            owed::OwedFile,
            query::readers::Readers,
            segment::{blocks::Block, contents::contents_of, rows, segments::Segment},
        },
    },
};

#[async_trait]
impl Eraser for SqliteStore {
    async fn last_event(&self) -> Result<EventSeq> {
        self.read(|it| last_of(&it.segments.newest())).await
    }

    async fn find_person(
        &self,
        project: ProjectId,
        person: &Person,
        after: EventSeq,
        until: EventSeq,
    ) -> Result<Option<ScannedRange>> {
        let person = person.clone();
        self.read_owed(move |readers, owed| find(readers, owed, project, &person, after, until))
            .await
    }

    async fn erase(&self, stretch: &ScannedRange) -> Result<u64> {
        let stretch = stretch.clone();
        self.rewriting(Vec::new(), move |it| it.erase(&stretch)).await
    }
}

fn last_of(segment: &Segment) -> Result<EventSeq> {
    let last: Option<i64> = segment
        .read(|it| Ok(it.query_row("SELECT max(seq) FROM events", [], |row| row.get(0))?))?;
    Ok(EventSeq(last.map_or(segment.first().0 - 1, |it| it as u64)))
}

/// A stretch is what is left of a segment.
fn find(
    readers: &Readers,
    owed: &OwedFile,
    project: ProjectId,
    person: &Person,
    after: EventSeq,
    until: EventSeq,
) -> Result<Option<ScannedRange>> {
    let all = readers.segments.all();
    let at = all.partition_point(|it| it.first().0 <= after.0 + 1).saturating_sub(1);
    // A segment that ends before the place has nothing behind it.
    for (place, segment) in all.iter().enumerate().skip(at) {
        if segment.first() > until || after >= until {
            break;
        }
        let through = match all.get(place + 1) {
            Some(next) => EventSeq(next.first().0 - 1),
            None => last_of(segment)?,
        };
        if through <= after {
            continue;
        }
        let found = readers.control.known_number(project).map(|project| {
            let system = readers.control.known_number(SourceId::SYSTEM);
            segment.read(|it| named_in(it, segment, project, system, person, after))
        });
        let events = found.transpose()?.unwrap_or_default();
        let mut open = Vec::new();
        let owing = owed.events(segment.first(), EventSeq(through.0 + 1))?;
        for event in events.iter().filter(|it| owing.binary_search(it).is_ok()) {
            for about in readers.segments.about_event(*event)? {
                about.read(|it| deliveries_of(it, *event, &mut open))?;
            }
        }
        return Ok(Some(ScannedRange { through, events, open }));
    }
    Ok(None)
}

/// The events of a project behind a place whose payload names a person.
fn named_in(
    connection: &Connection,
    segment: &Segment,
    project: i64,
    system: Option<i64>,
    person: &Person,
    after: EventSeq,
) -> Result<Vec<EventSeq>> {
    if segment.is_sealed() && contents_of(connection, project)?.is_none() {
        return Ok(Vec::new());
    }
    let mut wanted = connection.prepare_cached(
        "SELECT seq FROM events WHERE project = ?1 AND source IS NOT ?2 AND digest <> 0 \
         AND seq BETWEEN ?3 AND ?4 ORDER BY seq",
    )?;
    let mut blocks = connection
        .prepare_cached("SELECT first_seq, count, body FROM blocks ORDER BY first_seq")?;
    let mut rows = blocks.query([])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let (first, count): (i64, u32) = (row.get(0)?, row.get(1)?);
        let last = first + i64::from(count) - 1;
        let seqs = wanted
            .query_map((project, system, first.max(after.0 as i64 + 1), last), |row| {
                row.get::<_, i64>(0)
            })?
            .collect::<Result<Vec<i64>, _>>()?;
        if seqs.is_empty() {
            continue;
        }
        let body = row.get_ref(2)?.as_blob().map_err(rusqlite::Error::from)?;
        let block = Block::open(EventSeq(first as u64), count, body)?;
        for seq in seqs {
            let seq = EventSeq(seq as u64);
            if person.is_meant_by(&block.body(seq)?.1) {
                found.push(seq);
            }
        }
    }
    Ok(found)
}

fn deliveries_of(
    connection: &Connection,
    event: EventSeq,
    found: &mut Vec<DeliverySeq>,
) -> Result<()> {
    let mut statement =
        connection.prepare_cached("SELECT seq FROM deliveries WHERE seq BETWEEN ? AND ?")?;
    let mut rows = statement.query(rows::deliveries_of(event))?;
    while let Some(row) = rows.next()? {
        found.push(DeliverySeq::from_bits(row.get::<_, i64>(0)? as u64));
    }
    Ok(())
}

impl Forgetting {
    fn erase(&self, stretch: &ScannedRange) -> Result<u64> {
        self.wait_until_planned(stretch.through)?;
        let segments = &self.readers.segments;
        let Some(segment) = segments.of_event(stretch.through) else { return Ok(0) };
        let mut erased = segment.read(|it| self.erased_before(it, segment.first()))?;
        if erased.is_empty() && stretch.events.is_empty() {
            return Ok(0);
        }
        if !segment.is_sealed() {
            if segments.newest().first() == segment.first() {
                self.queue.roll()?;
            }
            self.wait_until_sealed(segment.first());
        }
        self.status.check_open()?;
        if !segment.is_sealed() {
            return Err(unavailable("the newest segment is not sealed yet"));
        }
        // From here on no replay of these begins; those that were made are in `owed.db` then, and
        // are sent no more.
        let _hold = segments.hold(stretch.events.clone());
        self.queue.flush_blocking()?;
        // What was written since the first look may be about events that were erased before.
        erased.extend(segment.read(|it| self.erased_before(it, segment.first()))?);
        let mut own = stretch.events.clone();
        own.retain(|it| *it >= segment.first());
        let count = own.len() as u64;
        erased.extend(own);
        self.rewrite(&segment, &[], &erased)?;
        // Whoever read the old file may have kept a block of it in memory.
        wait_for_readers(&segment);
        self.readers.blocks.clear();
        metrics::counter!("tidegate_store_events_erased_total").increment(count);
        Ok(count)
    }

    /// A plan in the making has the bodies in memory, and writes copies of them.
    fn wait_until_planned(&self, through: EventSeq) -> Result<()> {
        let until = Instant::now() + TIMEOUT;
        while self.status.decided_through() < through {
            self.status.check_open()?;
            if Instant::now() >= until {
                return Err(unavailable("events that are to be erased have no plan yet"));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// Events of older segments that are erased, and of which this one still tells something.
    fn erased_before(&self, connection: &Connection, first: EventSeq) -> Result<Vec<EventSeq>> {
        let mut statement = connection.prepare_cached(
            "SELECT delivery >> 11 FROM activity WHERE delivery < ?1 << 11 AND response IS NOT NULL \
             UNION SELECT seq >> 11 FROM deliveries WHERE seq < ?1 << 11 AND copy IS NOT NULL",
        )?;
        let rows = statement.query_map([first.0 as i64], |row| row.get::<_, i64>(0))?;
        let mut found = Vec::new();
        for event in rows {
            let event = EventSeq(event? as u64);
            let Some(own) = self.readers.segments.of_event(event) else { continue };
            let is_erased = own.read(|it| {
                let sql = "SELECT 1 FROM events WHERE seq = ? AND digest = 0";
                Ok(it.prepare_cached(sql)?.exists([event.0 as i64])?)
            })?;
            if is_erased {
                found.push(event);
            }
        }
        Ok(found)
    }
}
