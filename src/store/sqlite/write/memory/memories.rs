//! What steps remember: all of it in the writer's memory, and what each commit changed in a row of the
//! active segment.
//!
//! When the rows have grown longer than all there is, and in each new segment, one row takes their place
//! that tells everything. So a change costs its own bytes twice, and reading it back is short.

use std::collections::HashMap;

use rusqlite::{Connection, params};

use crate::{
    model::{EventSeq, Memory, PipelineId, Remembered, StepId, packed},
    store::{
        Result, StoreError,
        sqlite::{
            query::readers::Readers,
            segment::segments::Segments,
            wal::{statement_buffer::StatementWriter, statements::Statement},
        },
    },
};

type Bytes = Box<[u8]>;

#[derive(Default)]
pub struct Memories {
    /// By step and key, each as bytes.
    all: HashMap<Bytes, Bytes>,
    /// What this batch changed, with what was there before.
    before: HashMap<Bytes, Option<Bytes>>,
    /// What all of them weigh as entries.
    weight: usize,
    /// The segment, by its first event, whose rows tell everything.
    told_in: Option<EventSeq>,
    /// The last row there.
    number: i64,
    /// What the rows weigh behind the one that is whole.
    grown: usize,
    /// The last three, before this batch.
    told_before: (Option<EventSeq>, i64, usize),
}

/// Rows that are shorter than this are left as they are.
const LITTLE: usize = 64 * 1024;

impl Memories {
    /// As the segments tell it.
    pub fn open(segments: &Segments) -> Result<Self> {
        let mut memories = Self::default();
        for segment in segments.all().iter().rev() {
            let rows = segment.read(rows)?;
            let Some((last, _, _)) = rows.last() else { continue };
            memories.number = *last;
            memories.told_in = Some(segment.first());
            for (_, is_whole, entries) in &rows {
                memories.grown = if *is_whole { 0 } else { memories.grown + entries.len() };
                memories.read(entries)?;
            }
            break;
        }
        memories.begin();
        Ok(memories)
    }

    fn read(&mut self, entries: &[u8]) -> Result<()> {
        for (id, memory) in parse(entries).ok_or(DAMAGED)? {
            self.set(id.into(), memory.map(Into::into));
        }
        Ok(())
    }

    pub fn begin(&mut self) {
        self.before.clear();
        self.told_before = (self.told_in, self.number, self.grown);
    }

    pub fn change(&mut self, changes: &[Remembered]) {
        for it in changes {
            let id = id_of(it);
            let memory = it.memory.as_ref().map(|it| it.to_bytes().into());
            let before = self.set(id.clone(), memory);
            self.before.entry(id).or_insert(before);
        }
    }

    fn set(&mut self, id: Bytes, memory: Option<Bytes>) -> Option<Bytes> {
        let length = id.len();
        let weight = |it: &Bytes| length + it.len() + ENTRY;
        self.weight += memory.as_ref().map_or(0, weight);
        let before = match memory {
            Some(memory) => self.all.insert(id, memory),
            None => self.all.remove(&id),
        };
        self.weight -= before.as_ref().map_or(0, weight);
        before
    }

    pub fn roll_back(&mut self) {
        for (id, before) in std::mem::take(&mut self.before) {
            self.set(id, before);
        }
        (self.told_in, self.number, self.grown) = self.told_before;
    }

    /// Tells this segment what has changed. Returns how many bytes that took.
    pub fn write(&mut self, writes: &mut StatementWriter<'_>, segment: EventSeq) -> Result<usize> {
        let is_told = self.told_in == Some(segment);
        if self.before.is_empty() && (is_told || self.all.is_empty()) {
            return Ok(0);
        }
        let is_whole = !is_told || self.grown > self.weight.max(LITTLE);
        let mut entries = Vec::new();
        if is_whole {
            writes.execute(Statement::ForgetMemories, &[])?;
            entries.reserve(self.weight);
            self.all.iter().for_each(|(id, memory)| put(&mut entries, id, Some(memory)));
        } else {
            self.before.keys().for_each(|id| put(&mut entries, id, self.all.get(id)));
        }
        self.number += 1;
        writes.execute(Statement::Memories, params![self.number, is_whole, entries])?;
        self.grown = if is_whole { 0 } else { self.grown + entries.len() };
        self.told_in = Some(segment);
        Ok(entries.len())
    }
}

/// All that steps remember, as the last commit left it.
pub fn read(readers: &Readers) -> Result<Vec<Remembered>> {
    let memories = Memories::open(&readers.segments)?;
    let read = |(id, memory): (&Bytes, &Bytes)| {
        let (step, key) = step_of(id)?;
        Some(Remembered { step, key: key.into(), memory: Some(Memory::from_bytes(memory)?) })
    };
    memories.all.iter().map(|it| read(it).ok_or(DAMAGED)).collect()
}

const DAMAGED: StoreError = StoreError::Damaged { what: "memory of a step" };
/// Bytes of an entry besides what it holds, at most.
const ENTRY: usize = 4;

fn rows(connection: &Connection) -> Result<Vec<(i64, bool, Vec<u8>)>> {
    let sql = "SELECT number, is_whole, entries FROM memories ORDER BY number";
    let mut statement = connection.prepare_cached(sql)?;
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

fn id_of(it: &Remembered) -> Bytes {
    let mut id = Vec::with_capacity(24 + it.key.len());
    id.extend(it.step.pipeline.bits().to_be_bytes());
    id.extend(it.step.hash.to_be_bytes());
    id.extend_from_slice(&it.key);
    id.into()
}

fn step_of(id: &[u8]) -> Option<(StepId, &[u8])> {
    let (pipeline, rest) = id.split_first_chunk()?;
    let (hash, key) = rest.split_first_chunk()?;
    let pipeline = PipelineId::from_bits(u128::from_be_bytes(*pipeline));
    Some((StepId { pipeline, hash: u64::from_be_bytes(*hash) }, key))
}

/// The id and the memory, each behind its length; a length of 0 says that there is none any more.
fn put(out: &mut Vec<u8>, id: &[u8], memory: Option<&Bytes>) {
    packed::put(out, id.len() as u64);
    out.extend_from_slice(id);
    let memory = memory.map_or(&[][..], |it| it);
    packed::put(out, memory.len() as u64);
    out.extend_from_slice(memory);
}

/// An id, and what is remembered.
type MemoryEntry<'a> = (&'a [u8], Option<&'a [u8]>);

fn parse(mut entries: &[u8]) -> Option<Vec<MemoryEntry<'_>>> {
    let mut found = Vec::new();
    while !entries.is_empty() {
        let length = packed::take(&mut entries)?;
        let id = packed::take_bytes(&mut entries, length)?;
        let length = packed::take(&mut entries)?;
        let memory = packed::take_bytes(&mut entries, length)?;
        found.push((id, (!memory.is_empty()).then_some(memory)));
    }
    Some(found)
}
