//! One batch of the writer: everything that waited, written to the journal and to the active segment.
//!
//! What the writer remembers changes as the batch goes on, so that a later request sees an earlier
//! one. When the batch fails, [`WriterState::roll_back`] makes all of it undone.

use std::{collections::HashMap, sync::Arc};

use jiff::Timestamp;
use rusqlite::params;

use super::{
    memory::{memories::Memories, minutes::Minutes, tallies::Tallies, waiting::WaitingPlans},
    requests::WriteTask,
};
use crate::{
    clock::Clock,
    model::{
        DeliverySeq, Event, EventId, EventSeq, IdMap, IdSequence, NewEvent, Owed, Place, Standing,
    },
    store::{
        Appended, ReplayProgress, Result,
        sqlite::{
            keys::{KeyHash, KeyIndex, gate::PendingEvent, unsynced::UnsyncedKeys},
            owed::{Ledger, OwedRow},
            registry::control::Control,
            segment::{
                active::ActiveSegment,
                blocks::Packer,
                rows::{self, DeliveryRow},
                segments::{Segment, Segments},
            },
            wal::{statement_buffer::StatementWriter, statements::Statement},
        },
    },
};

/// What the writer remembers from batch to batch.
pub struct WriterState {
    pub control: Arc<Control>,
    pub segments: Arc<Segments>,
    pub clock: Arc<dyn Clock>,
    pub keys: KeyIndex,
    pub unsynced: UnsyncedKeys,
    pub ids: IdSequence,
    pub packer: Packer,
    pub ledger: Ledger,
    pub minutes: Minutes,
    pub tallies: Tallies,
    pub memories: Memories,
    pub replays: HashMap<i64, ReplayProgress>,
    /// Events whose plan is not whole yet.
    pub waiting: WaitingPlans,
    /// The projects of destinations, by their numbers.
    pub projects: IdMap<i64, i64>,
    pub marks: HighWaterMarks,
}

/// How far things have come.
#[derive(Clone, Copy, Debug)]
pub struct HighWaterMarks {
    /// The place of the next event.
    pub next_event: EventSeq,
    /// Every event up to here has a plan.
    pub planned_through: EventSeq,
    /// The lowest event that a row of the active segment is about.
    pub oldest: EventSeq,
    /// Redo rows of the active segment up to here are deleted.
    pub trimmed: u64,
    /// Roughly what was written to the active segment since it was last asked to be checkpointed.
    pub written: usize,
}

impl WriterState {
    pub fn learn_project(&mut self, destination: i64, project: i64) {
        /// There are rarely so many destinations at all.
        const MOST: usize = 100_000;
        if self.projects.len() >= MOST {
            self.projects.clear();
        }
        self.projects.insert(destination, project);
    }

    /// A transaction is about to begin.
    pub fn begin(&mut self) {
        self.waiting.begin();
        self.memories.begin();
    }

    /// The transaction failed: everything stands as it did at `marks`.
    pub fn roll_back(&mut self, marks: HighWaterMarks) {
        self.marks = marks;
        self.ledger.roll_back();
        self.packer.clear();
        self.minutes.clear();
        self.tallies.roll_back();
        self.memories.roll_back();
        self.waiting.roll_back();
        // Read again when it is needed.
        self.replays.clear();
    }
}

/// What a batch accepted, to be acknowledged and remembered once it is committed.
#[derive(Default)]
pub struct AcceptedBatch {
    pub events: Vec<Arc<Event>>,
    pub keys: Vec<(KeyHash, EventId, EventSeq)>,
}

pub struct GroupCommit<'a> {
    pub memory: &'a mut WriterState,
    pub now: Timestamp,
    pub segment: &'a Segment,
    marks: HighWaterMarks,
    accepted: AcceptedBatch,
    /// Keys of this batch's events.
    fresh: HashMap<KeyHash, EventId>,
    pub writes: StatementWriter<'a>,
}

impl<'a> GroupCommit<'a> {
    /// Begins within the open transaction of a segment.
    pub fn begin(newest: &'a mut ActiveSegment, memory: &'a mut WriterState) -> Self {
        let ActiveSegment { connection, segment, buffer, .. } = newest;
        Self {
            now: memory.clock.now(),
            segment,
            marks: memory.marks,
            memory,
            accepted: AcceptedBatch::default(),
            fresh: HashMap::new(),
            writes: StatementWriter::new(connection, buffer),
        }
    }

    /// Accepts events. `same_body` of duplicates is left for the caller to find out.
    pub fn append(&mut self, events: Vec<PendingEvent>) -> Result<Vec<Appended>> {
        let mut answers = Vec::with_capacity(events.len());
        for offered in events {
            answers.push(match self.first(&offered)? {
                Some(id) => Appended::Duplicate { id, same_body: None, same_type: None },
                None => Appended::New(self.accept(offered)?),
            });
        }
        Ok(answers)
    }

    /// The event that had the key first, or else the id.
    fn first(&self, offered: &PendingEvent) -> Result<Option<EventId>> {
        if let Some(hash) = offered.gate.key
            && let Some(id) = self.find(&hash)?
            && self.counts(id, &offered.event)
        {
            return Ok(Some(id));
        }
        match offered.gate.id {
            Some(hash) => Ok(self.find(&hash)?.or(offered.taken)),
            None => Ok(None),
        }
    }

    fn find(&self, hash: &KeyHash) -> Result<Option<EventId>> {
        let fresh = self.fresh.get(hash).copied();
        match fresh.or_else(|| self.memory.unsynced.find(hash)) {
            Some(first) => Ok(Some(first)),
            None => self.memory.keys.find(hash),
        }
    }

    /// Whether the key of the event that has this id counts for a new one.
    fn counts(&self, first: EventId, new: &NewEvent) -> bool {
        let Some(window) = new.key_counts_for else { return true };
        let accepted = Timestamp::from_millisecond(first.millis()).unwrap_or(Timestamp::MAX);
        self.now.duration_since(accepted) <= window
    }

    pub fn accept(&mut self, offered: PendingEvent) -> Result<Arc<Event>> {
        let PendingEvent { event, digest, gate, random, .. } = offered;
        let seq = self.memory.marks.next_event;
        let ours: EventId = self.memory.ids.next(self.now, random);
        let event = Arc::new(accepted(event, seq, ours));
        let given = (event.id != ours).then(|| event.id.bits().to_be_bytes());
        let row = params![
            seq.0 as i64,
            ours.bits().to_be_bytes(),
            given,
            self.memory.control.number(event.project)?,
            self.memory.control.number(event.source)?,
            event.event_type.as_str(),
            rows::micros(event.timestamp),
            rows::micros(event.received_at),
            event.key.as_ref().map(|it| it.as_str()),
            // 0 stands for a body that is erased.
            digest.max(1) as i64,
        ];
        self.writes.execute(Statement::Event, row)?;
        if given.is_some() {
            let row = params![rows::masked(event.id).to_be_bytes(), seq.0 as i64];
            self.writes.execute(Statement::GivenId, row)?;
        }
        self.memory.packer.add(&event);
        if self.memory.packer.is_full() {
            self.write_block()?;
        }
        self.memory.marks.next_event = EventSeq(seq.0 + 1);
        self.memory.marks.written += 160;
        for hash in gate.iter() {
            self.fresh.insert(hash, event.id);
            self.accepted.keys.push((hash, event.id, seq));
        }
        self.accepted.events.push(event.clone());
        Ok(event)
    }

    fn write_block(&mut self) -> Result<()> {
        if let Some((first, count, body)) = self.memory.packer.take()? {
            self.writes.execute(Statement::Block, params![first.0 as i64, count, body])?;
            self.memory.marks.written += body.len();
        }
        Ok(())
    }

    /// Does one task. The outer error ends the transaction; the inner one is the caller's alone,
    /// and then nothing was written for it.
    pub fn task(&mut self, task: &WriteTask) -> Result<Result<Vec<Owed>>> {
        match task {
            WriteTask::Plan(plans) => self.plan(plans),
            WriteTask::Settle(settlements) => self.settle(settlements).map(|()| Ok(Vec::new())),
            WriteTask::Replay(prepared) => self.replay(prepared),
            WriteTask::Record(recorded) => self.record(recorded),
            WriteTask::Remember(changes) => {
                self.memory.memories.change(changes);
                Ok(Ok(Vec::new()))
            }
        }
    }

    /// Writes a delivery, which is owed from now on.
    pub fn insert_delivery(&mut self, row: &DeliveryRow, copy: Option<&[u8]>) -> Result<()> {
        self.memory.minutes.planned(row.destination, self.now);
        self.insert_uncounted(row, copy)
    }

    /// Writes a delivery.
    pub fn insert_uncounted(&mut self, row: &DeliveryRow, copy: Option<&[u8]>) -> Result<()> {
        let values = params![
            row.seq.bits() as i64,
            row.project,
            row.destination,
            row.pipeline,
            row.version,
            row.place.lane.0 as i64,
            row.place.position,
            row.accepted_at,
            row.replay,
            row.fresh_id,
            copy,
        ];
        self.writes.execute(Statement::Delivery, values)?;
        self.memory.learn_project(row.destination, row.project);
        self.memory.marks.written += 60 + copy.map_or(0, <[u8]>::len);
        self.note(row.seq.event());
        Ok(())
    }

    /// A delivery that nobody attempted yet, as it is owed.
    pub fn owe(&mut self, new: NewOwed, destination: i64) -> Owed {
        let owed = new.owed();
        self.memory.ledger.insert(OwedRow::new(&owed, destination));
        owed
    }

    /// A row about this event is written.
    pub fn note(&mut self, event: EventSeq) {
        self.memory.marks.oldest = self.memory.marks.oldest.min(event);
    }

    /// Writes what was gathered. After this, the transaction can be committed.
    pub fn finish(mut self) -> Result<AcceptedBatch> {
        self.write_block()?;
        let memory = self.memory;
        let writes = &mut self.writes;
        memory.minutes.write(writes)?;
        memory.tallies.write(writes)?;
        let buffer = memory.memories.write(writes, self.segment.first())?;
        memory.marks.written += buffer;
        if memory.marks.oldest < self.marks.oldest {
            writes.execute(Statement::OldestEvent, params![memory.marks.oldest.0 as i64])?;
            self.segment.note_oldest(memory.marks.oldest);
        }
        if let Some((number, changes)) = memory.ledger.redo() {
            writes.execute(Statement::Redo, params![number as i64, changes])?;
            memory.marks.written += changes.len();
        }
        trim(writes, memory)?;
        Ok(self.accepted)
    }
}

/// Deletes some of the redo rows that are of no more use.
fn trim(writes: &mut StatementWriter<'_>, memory: &mut WriterState) -> Result<()> {
    /// So that no commit has much to do for the ones before it.
    const AT_ONCE: u64 = 64;
    let until = memory.ledger.spent().min(memory.marks.trimmed + AT_ONCE);
    if until > memory.marks.trimmed {
        writes.execute(Statement::TrimRedo, params![until as i64])?;
        memory.marks.trimmed = until;
    }
    Ok(())
}

/// What makes a delivery owed.
pub struct NewOwed {
    pub seq: DeliverySeq,
    pub destination: crate::model::DestinationId,
    pub place: Place,
    pub accepted_at: Timestamp,
}

impl NewOwed {
    pub fn owed(&self) -> Owed {
        Owed {
            seq: self.seq,
            destination: self.destination,
            place: self.place,
            accepted_at: rows::rounded(self.accepted_at),
            standing: Standing::NEW,
        }
    }
}

fn accepted(event: NewEvent, seq: EventSeq, ours: EventId) -> Event {
    Event {
        seq,
        id: event.id.unwrap_or(ours),
        project: event.project,
        source: event.source,
        event_type: event.event_type,
        timestamp: rows::rounded(event.timestamp.unwrap_or(event.received_at)),
        received_at: rows::rounded(event.received_at),
        key: event.key,
        metadata: event.metadata,
        payload: event.payload,
    }
}
