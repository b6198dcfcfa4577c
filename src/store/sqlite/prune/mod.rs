//! Retention: forgetting events that are older than their project wants, and all that is about them.
//!
//! It works on sealed segments, one at a time, beside the writer. A segment of which nothing must
//! stay is deleted; one of which a good part may go is [written again](rewrite) without that part.
//! Two things hold at every moment, also after a crash: a row about an event stays as long as the
//! event does, and an event of which something is owed, or that has no plan yet, stays.

mod erase;
mod rewrite;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use rusqlite::Connection;

use super::{
    SqliteStore, blocking,
    folder::{
        beside::remove_files,
        files::{self, Folder},
        manifest::ManifestFile,
    },
    keys::KeyReader,
    owed::OwedFile,
    query::readers::Readers,
    segment::{
        contents::{Contents, all_contents},
        rows,
        segments::Segment,
    },
    status::StoreStatus,
    write::queue::WriteQueue,
};
use crate::{
    model::{EventSeq, ProjectId},
    store::{Result, StoreError},
};

/// Of a segment's events, the share that must be gone before the rest is written again.
const WORTHWHILE_PERCENT: u64 = 30;
/// How long to wait for the active segment to be sealed, if that is where old events are.
const TIMEOUT: Duration = Duration::from_secs(30);

impl SqliteStore {
    pub(super) async fn forget(&self, horizons: &[(ProjectId, Timestamp)]) -> Result<u64> {
        self.status.check_open()?;
        let control = &self.readers.control;
        let horizons = horizons
            .iter()
            .filter_map(|(project, time)| {
                Some((control.known_number(*project)?, rows::micros(*time)))
            })
            .collect();
        self.rewriting(horizons, |it| it.run()).await
    }

    /// Does some work on sealed segments.
    async fn rewriting<T: Send + 'static>(
        &self,
        horizons: Vec<(i64, i64)>,
        work: impl FnOnce(&Forgetting) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.status.check_open()?;
        // One at a time. It is held until the work ends, also when nobody waits for it any more.
        let turn = self.forgetting.clone().lock_owned().await;
        let forgetting = Forgetting {
            folder: self.folder.upgrade().ok_or(StoreError::Closed)?,
            manifest: self.manifest.clone(),
            readers: self.readers.clone(),
            owed: self.owed.clone(),
            keys: self.keys.clone(),
            queue: self.queue.clone(),
            status: self.status.clone(),
            horizons,
        };
        blocking(move || {
            let _turn = turn;
            work(&forgetting)
        })
        .await
    }
}

struct Forgetting {
    folder: Arc<Folder>,
    manifest: Arc<ManifestFile>,
    readers: Arc<Readers>,
    owed: OwedFile,
    keys: KeyReader,
    queue: Arc<WriteQueue>,
    status: Arc<StoreStatus>,
    /// Events of these projects that were received before these times may go.
    horizons: Vec<(i64, i64)>,
}

/// What is to become of a segment.
#[derive(Debug, PartialEq)]
enum SegmentVerdict {
    Leave,
    Delete,
    Rewrite,
}

impl Forgetting {
    fn run(&self) -> Result<u64> {
        self.let_go_of_newest()?;
        let mut count = 0;
        let all = self.readers.segments.all();
        let firsts: Vec<EventSeq> = all.iter().map(|it| it.first()).collect();
        drop(all);
        // The newest is being written to. From old to new: whether a row may go depends on an event
        // that is older than the row.
        for pair in firsts.windows(2) {
            self.status.check_open()?;
            let [first, end] = [pair[0], pair[1]];
            let Some(segment) = self.readers.segments.of_event(first) else { continue };
            let is_planned = end.0 <= self.status.decided_through().0 + 1;
            if segment.is_sealed() && is_planned {
                count += self.segment(segment, end)?;
            }
        }
        metrics::counter!("tidegate_store_events_forgotten_total").increment(count);
        Ok(count)
    }

    /// Old events in the active segment would stay until it is full, which may take for ever: the
    /// writer begins another one.
    fn let_go_of_newest(&self) -> Result<()> {
        let segments = &self.readers.segments;
        let newest = segments.newest();
        let contents = newest.read(count_contents)?;
        let is_due = newest.read(|it| self.tally(it, &contents))?.is_worthwhile();
        if !is_due {
            return Ok(());
        }
        let first = newest.first();
        drop(newest);
        self.queue.roll()?;
        self.wait_until_sealed(first);
        Ok(())
    }

    fn wait_until_sealed(&self, first: EventSeq) {
        self.readers.segments.wait_for(TIMEOUT, |all| {
            self.status.is_closed() || all.iter().any(|it| it.first() == first && it.is_sealed())
        });
    }

    /// Forgets what may go of one segment, if that is worth the work. Says how many events went.
    fn segment(&self, segment: Arc<Segment>, end: EventSeq) -> Result<u64> {
        let contents = segment.read(all_contents)?;
        let is_empty = contents.is_empty();
        let tally = segment.read(|it| self.tally(it, &contents))?;
        if !is_empty && !tally.is_worthwhile() {
            return Ok(0);
        }
        let expired = segment.read(|it| self.expired(it))?;
        // From here on no replay may begin of these events; what began before is in `owed.db` after
        // the flush.
        let _hold = self.readers.segments.hold(expired.clone());
        self.queue.flush_blocking()?;
        let owed = self.owed.events(segment.first(), end)?;
        let gone: Vec<EventSeq> =
            expired.iter().copied().filter(|it| owed.binary_search(it).is_err()).collect();
        let verdict = if gone.len() as u64 == tally.events {
            let must_stay = segment.read(|it| self.must_stay(it, segment.first()))?;
            if !must_stay {
                SegmentVerdict::Delete
            } else if is_empty {
                SegmentVerdict::Leave
            } else {
                SegmentVerdict::Rewrite
            }
        } else if tally.without(expired.len() - gone.len()).is_worthwhile() {
            SegmentVerdict::Rewrite
        } else {
            SegmentVerdict::Leave
        };
        // What was found in later segments must be there after a power cut, too.
        self.queue.flush_blocking()?;
        match verdict {
            SegmentVerdict::Leave => return Ok(0),
            SegmentVerdict::Delete => self.delete(segment)?,
            SegmentVerdict::Rewrite => self.rewrite(&segment, &gone, &[])?,
        }
        Ok(gone.len() as u64)
    }

    fn delete(&self, segment: Arc<Segment>) -> Result<()> {
        // A key outlives its event.
        self.keys.flush()?;
        let covered = self.keys.covered();
        self.manifest.change(|it| {
            it.remove_segment(segment.first());
            it.cover_keys(covered);
        })?;
        self.readers.segments.remove(&segment);
        wait_for_readers(&segment);
        remove_files(segment.path())?;
        files::sync_folder(&self.folder.path().join("segments"))?;
        tracing::info!(first = segment.first().0, "a segment of old events is deleted");
        Ok(())
    }

    /// How many events of a segment are old.
    fn tally(&self, connection: &Connection, contents: &[Contents]) -> Result<PruneTally> {
        let mut tally = PruneTally::default();
        for it in contents {
            tally.events += it.events;
            let Some(horizon) = self.horizon(it.project) else { continue };
            if it.latest < horizon {
                tally.expired += it.events;
                tally.has_whole_project = true;
            } else if it.earliest < horizon {
                let sql = "SELECT count(*) FROM events WHERE project = ? AND received_at < ?";
                let count: i64 = connection
                    .prepare_cached(sql)?
                    .query_row((it.project, horizon), |row| row.get(0))?;
                tally.expired += count as u64;
            }
        }
        Ok(tally)
    }

    fn horizon(&self, project: i64) -> Option<i64> {
        self.horizons.iter().filter(|it| it.0 == project).map(|it| it.1).max()
    }

    /// The old events of a segment, in order.
    fn expired(&self, connection: &Connection) -> Result<Vec<EventSeq>> {
        let sql = "SELECT seq FROM events WHERE project = ? AND received_at < ?";
        let mut statement = connection.prepare_cached(sql)?;
        let mut found = Vec::new();
        for &range in &self.horizons {
            let mut rows = statement.query(range)?;
            while let Some(row) = rows.next()? {
                found.push(EventSeq(row.get::<_, i64>(0)? as u64));
            }
        }
        found.sort_unstable();
        found.dedup();
        Ok(found)
    }

    /// Whether a segment has something that is needed though all of its own events go.
    fn must_stay(&self, connection: &Connection, first: EventSeq) -> Result<bool> {
        if !self.living(connection, first, 1)?.is_empty() {
            return Ok(true);
        }
        let last: Option<i64> =
            connection.query_row("SELECT max(number) FROM redo", [], |row| row.get(0))?;
        let mut replays: Vec<i64> = connection
            .prepare("SELECT replay FROM replays")?
            .query_map([], |row| row.get(0))?
            .collect::<Result<_, _>>()?;
        let mut has_later_redo = false;
        for later in self.readers.segments.all().iter().filter(|it| it.first() > first) {
            later.read(|it| {
                let redo: Option<i64> =
                    it.query_row("SELECT max(number) FROM redo", [], |row| row.get(0))?;
                has_later_redo |= redo.is_some();
                let mut known = it.prepare_cached("SELECT 1 FROM replays WHERE replay = ?")?;
                let mut unknown = Vec::new();
                for replay in std::mem::take(&mut replays) {
                    if !known.exists([replay])? {
                        unknown.push(replay);
                    }
                }
                replays = unknown;
                Ok(())
            })?;
        }
        // The last redo row tells where their numbers stand; others are needed until `owed.db` has
        // what they say.
        let needs_redo = match last {
            Some(last) => !has_later_redo || self.owed.sync()? < last as u64,
            None => false,
        };
        Ok(needs_redo || !replays.is_empty())
    }

    /// The events of older segments that are still there and that a row of this one is about, at
    /// most so many.
    fn living(
        &self,
        connection: &Connection,
        first: EventSeq,
        limit: usize,
    ) -> Result<Vec<EventSeq>> {
        let mut found = Vec::new();
        for event in foreign(connection, first)? {
            if found.len() >= limit {
                break;
            }
            if self.exists(event)? {
                found.push(event);
            }
        }
        Ok(found)
    }

    fn exists(&self, event: EventSeq) -> Result<bool> {
        let Some(own) = self.readers.segments.of_event(event) else { return Ok(false) };
        own.read(|it| {
            let mut statement = it.prepare_cached("SELECT 1 FROM events WHERE seq = ?")?;
            Ok(statement.exists([event.0 as i64])?)
        })
    }
}

/// Who still reads it may finish. A list holds it for a moment only.
fn wait_for_readers(segment: &Arc<Segment>) {
    let until = Instant::now() + TIMEOUT;
    while Arc::strong_count(segment) > 1 && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// The events of older segments that a row of this one is about, in order.
fn foreign(connection: &Connection, first: EventSeq) -> Result<Vec<EventSeq>> {
    let mut statement = connection.prepare_cached(
        "SELECT delivery >> 11 FROM activity WHERE delivery < ?1 << 11 \
         UNION SELECT seq >> 11 FROM deliveries WHERE seq < ?1 << 11 \
         UNION SELECT event FROM skipped WHERE event < ?1 ORDER BY 1",
    )?;
    let rows = statement.query_map([first.0 as i64], |row| row.get::<_, i64>(0))?;
    Ok(rows.map(|it| it.map(|it| EventSeq(it as u64))).collect::<Result<_, _>>()?)
}

/// What a segment that is not sealed would say about itself.
fn count_contents(connection: &Connection) -> Result<Vec<Contents>> {
    let mut statement = connection.prepare_cached(
        "SELECT project, count(*), min(received_at), max(received_at) FROM events GROUP BY project",
    )?;
    let rows = statement.query_map([], super::segment::contents::contents)?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// How much of a segment may go.
#[derive(Clone, Copy, Debug, Default)]
struct PruneTally {
    events: u64,
    expired: u64,
    /// All events of some project. That alone is reason enough: it comes at most once for each, and
    /// otherwise a small project's events would stay for as long as a large one's.
    has_whole_project: bool,
}

impl PruneTally {
    fn is_worthwhile(self) -> bool {
        self.expired > 0
            && (self.has_whole_project || self.expired * 100 >= self.events * WORTHWHILE_PERCENT)
    }

    /// When so many of the old events must stay for now.
    fn without(self, staying: usize) -> Self {
        let expired = self.expired.saturating_sub(staying as u64);
        Self { expired, has_whole_project: self.has_whole_project && staying == 0, ..self }
    }
}
