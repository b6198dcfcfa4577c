//! From the embedded store to a PostgreSQL: everything, under the ids that it has.
//!
//! It goes file by file, in batches, each of which is one transaction of the target that also keeps
//! where to go on. So whatever ends it, the next one goes on where it was; and until the last
//! batch, no gateway takes the target for a store.

use std::{collections::HashMap, path::Path, sync::Arc};

use serde_json::Value;

use super::{
    Document, Result, StoreError,
    postgres::{
        self, Address,
        intake::{Intake, IntakeCursor, IntakeError, Rest},
    },
    sqlite::{
        RandomSource,
        snapshot::{Sizes, Snapshot},
    },
};
use crate::{
    clock::Clock,
    model::{EventSeq, PipelineId, ProjectId, RawJson, Remembered, ReplayId},
};

/// What goes where.
pub struct TransferRequest<'a> {
    /// Data folder; no gateway may be running on it.
    pub from: &'a Path,
    /// A database that is empty, or that an earlier transfer of the same folder has begun to fill.
    pub to: &'a Address,
    pub options: &'a postgres::Options,
    /// Rows of a batch, at most.
    pub batch: usize,
    pub clock: Arc<dyn Clock>,
    pub random: RandomSource,
}

impl TransferRequest<'_> {
    pub const BATCH: usize = 4_000;
}

/// Rows, keys included.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct TransferProgress {
    pub done: u64,
    pub of: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct TransferReport {
    pub events: u64,
    /// Deliveries, attempts and the like.
    pub rows: u64,
    pub keys: u64,
    pub resources: u64,
    /// There was nothing left to do.
    pub was_done: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    #[error("the embedded store cannot be read")]
    Source(#[source] StoreError),
    #[error("the database cannot take the store in")]
    Target(#[from] IntakeError),
}

impl From<StoreError> for TransferError {
    fn from(error: StoreError) -> Self {
        Self::Target(error.into())
    }
}

/// The parts of a file, in the order in which they go.
const EVENTS: u32 = 0;
const DELIVERIES: u32 = 1;
const SKIPPED: u32 = 2;
const ACTIVITY: u32 = 3;
const COUNTS: u32 = 4;
const PARTS: u32 = COUNTS + 1;
/// Behind all files.
const BEHIND: u64 = u64::MAX;
const OWED: u32 = 0;
const ENTITIES: u32 = 1;
const KEYS: u32 = 2;

/// Carries all of it over, and says how far it has come after each batch.
pub async fn transfer(
    request: TransferRequest<'_>,
    reported: &mut (dyn FnMut(TransferProgress) + Send),
) -> Result<TransferReport, TransferError> {
    let TransferRequest { from, to, options, batch, clock, random } = request;
    let from = Snapshot::open(from, batch, clock, random).await.map_err(TransferError::Source)?;
    let secret = from.secret().map_err(TransferError::Source)?;
    let (sizes, documents) =
        from.read(|it| Ok((it.sizes()?, it.documents()?))).await.map_err(TransferError::Source)?;
    // Keys may move between their files.
    let Sizes { events, rows, .. } = sizes;
    let (through, waiting) = (from.planned_through.0, from.waiting.len());
    let state = format!("{events} events, {rows} rows, plans through {through}, {waiting} wait");
    let to = Intake::open(to, options, secret, state).await?;
    let report = TransferReport {
        events: sizes.events,
        rows: sizes.rows,
        keys: sizes.keys,
        resources: documents.len() as u64,
        was_done: to.is_done(),
    };
    if report.was_done {
        return Ok(report);
    }
    let done = to.taken();
    let mut transfer = Transfer { from, to, reported, documents, sizes, done };
    transfer.run().await?;
    Ok(report)
}

struct Transfer<'a> {
    from: Snapshot,
    to: Intake,
    reported: &'a mut (dyn FnMut(TransferProgress) + Send),
    documents: Vec<Document>,
    sizes: Sizes,
    done: u64,
}

impl Transfer<'_> {
    async fn run(&mut self) -> Result<(), TransferError> {
        self.tell(0);
        let (projects, unplanned) = self.read(|it| Ok((it.projects()?, it.unplanned()?))).await?;
        let segments = self.from.segments();
        let first = segments.first().copied().unwrap_or(EventSeq(1));
        let through = self.from.planned_through;
        self.to.make_room(&projects, first, through, unplanned).await?;
        for segment in segments {
            let begun = self.to.place();
            if segment.0 < begun.segment {
                continue;
            }
            let is_begun = segment.0 == begun.segment;
            let first = if is_begun { begun.part } else { EVENTS };
            for part in first..PARTS {
                let after = if is_begun && part == begun.part { begun.after } else { (-1, -1) };
                self.part(IntakeCursor { segment: segment.0, part, after }).await?;
            }
        }
        self.rest().await
    }

    async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Snapshot) -> Result<T> + Send + 'static,
    ) -> Result<T, TransferError> {
        self.from.read(read).await.map_err(TransferError::Source)
    }

    fn tell(&mut self, rows: usize) {
        self.done += rows as u64;
        let of = self.sizes.events + self.sizes.rows + self.sizes.keys;
        (self.reported)(TransferProgress { done: self.done.min(of), of });
    }

    /// A part of a file, to its end.
    async fn part(&mut self, mut place: IntakeCursor) -> Result<(), TransferError> {
        let segment = EventSeq(place.segment);
        loop {
            let after = place.after;
            let (end, count) = match place.part {
                EVENTS => {
                    let taken = self.read(move |it| it.events(segment, after.0)).await?;
                    place.after = taken.end.unwrap_or(after);
                    self.to.events(&taken.rows, place).await?;
                    (taken.end, taken.rows.len())
                }
                DELIVERIES => {
                    let taken = self.read(move |it| it.deliveries(segment, after.0)).await?;
                    place.after = taken.end.unwrap_or(after);
                    self.to.deliveries(&taken.rows, place).await?;
                    (taken.end, taken.rows.len())
                }
                SKIPPED => {
                    let taken = self.read(move |it| it.skipped(segment, after.0)).await?;
                    place.after = taken.end.unwrap_or(after);
                    self.to.skipped(&taken.rows, place).await?;
                    (taken.end, taken.rows.len())
                }
                ACTIVITY => {
                    let taken = self.read(move |it| it.activity(segment, after)).await?;
                    place.after = taken.end.unwrap_or(after);
                    self.to.activity(&taken.rows, place).await?;
                    (taken.end, taken.rows.len())
                }
                _ => {
                    // All of it, once: the mark behind it is that of the next part.
                    self.counts(IntakeCursor { part: PARTS, ..place }).await?;
                    (None, 0)
                }
            };
            self.tell(count);
            if end.is_none() {
                return Ok(());
            }
        }
    }

    async fn counts(&mut self, place: IntakeCursor) -> Result<(), TransferError> {
        let segment = EventSeq(place.segment);
        let (minutes, tallies, replays) = self
            .read(move |it| Ok((it.minutes(segment)?, it.tallies(segment)?, it.replays(segment)?)))
            .await?;
        let projects = self.projects_of("replay");
        // A replay that is deleted goes nowhere any more.
        let replays: Vec<(ReplayId, ProjectId, _, u64)> = replays
            .into_iter()
            .filter_map(|(id, cursor, done)| Some((id, *projects.get(&id.bits())?, cursor, done)))
            .collect();
        self.to.counts(&minutes, &tallies, &replays, place).await?;
        Ok(())
    }

    /// To which project each document of a kind belongs.
    fn projects_of(&self, kind: &str) -> HashMap<u128, ProjectId> {
        let of_kind = self.documents.iter().filter(|it| it.kind == kind);
        let project = |it: &Document| {
            let body: Value = serde_json::from_slice(it.body.bytes()).ok()?;
            Some((it.id, body["project"].as_str()?.parse().ok()?))
        };
        of_kind.filter_map(project).collect()
    }

    async fn rest(&mut self) -> Result<(), TransferError> {
        let begun = self.to.place();
        let first = if begun.segment == BEHIND { begun.part } else { OWED };
        let place = |part| IntakeCursor { segment: BEHIND, part, after: (0, 0) };
        if first == OWED {
            self.owed(place(OWED)).await?;
        }
        if first <= ENTITIES {
            self.to.begin_again("entities");
            let mut after = (ProjectId::from_bits(0), String::new(), String::new());
            loop {
                let rows = self.read(move |it| it.entities(&after)).await?;
                self.to.entities(&rows, place(ENTITIES)).await?;
                let Some((project, table, last)) = rows.last() else { break };
                after = (*project, table.clone(), last.key.clone());
            }
        }
        for run in 0..self.from.runs() {
            let mut from = 0;
            loop {
                let rows = self.read(move |it| it.keys(run, from)).await?;
                if rows.is_empty() {
                    break;
                }
                from += rows.len();
                self.to.keys(&rows, place(KEYS)).await?;
                self.tell(rows.len());
            }
        }
        self.end().await
    }

    async fn owed(&mut self, place: IntakeCursor) -> Result<(), TransferError> {
        self.to.begin_again("open");
        for destination in self.read(Snapshot::owing).await? {
            let mut after = None;
            loop {
                let rows = self.read(move |it| it.owed(destination, after)).await?;
                let Some((last, _)) = rows.last() else { break };
                after = Some((last.place, last.seq));
                self.to.owed(&rows, place).await?;
            }
        }
        Ok(())
    }

    async fn end(&mut self) -> Result<(), TransferError> {
        self.to.verify(self.sizes.events).await?;
        let projects = self.projects_of("pipeline");
        let of = |it: Remembered| {
            let pipeline: PipelineId = it.step.pipeline;
            Some((*projects.get(&pipeline.bits())?, it))
        };
        let (memories, waiting) = self
            .read(|it| {
                let mut waiting = Vec::new();
                for event in it.waiting.iter() {
                    waiting.extend(it.project_of(*event)?.map(|project| (*event, project)));
                }
                Ok((it.memories()?, waiting))
            })
            .await?;
        let rest = Rest {
            documents: self.documents.iter().map(carried).collect(),
            memories: memories.into_iter().filter_map(of).collect(),
            waiting,
        };
        self.to.finish(&rest).await?;
        Ok(())
    }
}

/// A deletion that is under way knows places of events: it begins again, which finds nothing twice.
fn carried(document: &Document) -> Document {
    let mut carried = document.clone();
    if document.kind == "deletion"
        && let Ok(mut body) = serde_json::from_slice::<Value>(document.body.bytes())
        && let Some(fields) = body.as_object_mut()
    {
        if fields.get("state").is_some_and(|it| it == "erasing") {
            fields.insert("state".to_owned(), "waiting".into());
        }
        fields.insert("cursor".to_owned(), 0.into());
        fields.insert("until".to_owned(), 0.into());
        carried.body = RawJson::of(&body);
    }
    carried
}
