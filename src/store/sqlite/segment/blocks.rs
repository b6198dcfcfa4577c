//! Blocks: the bodies of up to 64 events in one compressed frame.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use bytes::{Bytes, BytesMut};
use zstd::{
    bulk::{Compressor, Decompressor},
    zstd_safe,
};

use crate::{
    model::{Event, EventSeq, RawJson},
    store::{
        Result, StoreError,
        sqlite::{error::of_file, lock},
    },
};

/// Events in a block at most.
const EVENTS: u32 = 64;
/// A block is closed when it has so many bytes; a single event may have more.
const BYTES: usize = 256 * 1024;
/// No body is larger. What claims to be is damaged.
const LARGEST: u64 = 1 << 30;

/// For blocks: bodies of events are alike, and much is gained.
const LEVEL: i32 = 1;
/// For a value on its own, on which a block's level takes three times as long for little.
const QUICK: i32 = -1;

/// Compresses, and keeps its buffers for the next time.
pub struct Packer {
    compressor: Compressor<'static>,
    quick: Compressor<'static>,
    first: u64,
    count: u32,
    raw: Vec<u8>,
    packed: Vec<u8>,
}

impl Packer {
    pub fn new() -> Result<Self> {
        let mut compressor = Compressor::new(LEVEL).map_err(of_file)?;
        let mut quick = Compressor::new(QUICK).map_err(of_file)?;
        // Compared whenever it is unpacked. Frames of earlier versions have none.
        compressor.include_checksum(true).map_err(of_file)?;
        quick.include_checksum(true).map_err(of_file)?;
        Ok(Self { compressor, quick, first: 0, count: 0, raw: Vec::new(), packed: Vec::new() })
    }

    /// Events follow each other without gaps.
    pub fn add(&mut self, event: &Event) {
        self.add_body(event.seq, event.metadata.bytes(), event.payload.bytes());
    }

    /// The same for a body on its own.
    pub fn add_body(&mut self, seq: EventSeq, metadata: &[u8], payload: &[u8]) {
        if self.count == 0 {
            self.first = seq.0;
        }
        self.raw.extend_from_slice(&(metadata.len() as u32).to_le_bytes());
        self.raw.extend_from_slice(&(payload.len() as u32).to_le_bytes());
        self.raw.extend_from_slice(metadata);
        self.raw.extend_from_slice(payload);
        self.count += 1;
    }

    pub fn is_full(&self) -> bool {
        self.count >= EVENTS || self.raw.len() >= BYTES
    }

    /// The block so far: its first event, how many there are, and their bodies. The next begins.
    pub fn take(&mut self) -> Result<Option<(EventSeq, u32, &[u8])>> {
        if self.count == 0 {
            return Ok(None);
        }
        let count = std::mem::take(&mut self.count);
        pack(&mut self.compressor, &self.raw, &mut self.packed)?;
        shrink(&mut self.raw);
        Ok(Some((EventSeq(self.first), count, &self.packed)))
    }

    /// One value on its own.
    pub fn pack(&mut self, value: &[u8]) -> Result<&[u8]> {
        pack(&mut self.quick, value, &mut self.packed)?;
        Ok(&self.packed)
    }

    /// Forgets the block so far.
    pub fn clear(&mut self) {
        self.count = 0;
        shrink(&mut self.raw);
    }
}

/// Empties a buffer, and gives back what one large event took.
fn shrink(buffer: &mut Vec<u8>) {
    buffer.clear();
    buffer.shrink_to(2 * BYTES);
}

fn pack(compressor: &mut Compressor<'_>, raw: &[u8], packed: &mut Vec<u8>) -> Result<()> {
    shrink(packed);
    packed.reserve(zstd_safe::compress_bound(raw.len()));
    compressor.compress_to_buffer(raw, packed).map_err(of_file)?;
    Ok(())
}

/// One value on its own, for those who have no packer at hand.
pub fn packed(value: &[u8]) -> Result<Vec<u8>> {
    let mut packed = Vec::new();
    pack(&mut Compressor::new(QUICK).map_err(of_file)?, value, &mut packed)?;
    Ok(packed)
}

/// What [`Packer::pack`] made.
pub fn unpack(packed: &[u8]) -> Result<Vec<u8>> {
    let damaged = || StoreError::Damaged { what: "body" };
    let size = zstd_safe::get_frame_content_size(packed).ok().flatten().ok_or_else(damaged)?;
    if size > LARGEST {
        return Err(damaged());
    }
    let mut decompressor = Decompressor::new().map_err(of_file)?;
    decompressor.decompress(packed, size as usize).map_err(|_| damaged())
}

/// A block in clear.
pub struct Block {
    first: u64,
    raw: Vec<u8>,
    /// Of each event: where its metadata begins, where its payload does, and where that ends.
    places: Vec<[usize; 3]>,
}

impl Block {
    pub fn open(first: EventSeq, count: u32, packed: &[u8]) -> Result<Self> {
        let raw = unpack(packed)?;
        let damaged = || StoreError::Damaged { what: "block" };
        let mut places = Vec::with_capacity(count as usize);
        let mut at = 0;
        for _ in 0..count {
            let length = |from: usize| -> Result<usize> {
                let bytes = raw.get(from..from + 4).ok_or_else(damaged)?;
                Ok(u32::from_le_bytes(bytes.try_into().map_err(|_| damaged())?) as usize)
            };
            let (metadata, payload) = (length(at)?, length(at + 4)?);
            let place = [at + 8, at + 8 + metadata, at + 8 + metadata + payload];
            at = place[2];
            places.push(place);
        }
        if at != raw.len() {
            return Err(damaged());
        }
        Ok(Self { first: first.0, raw, places })
    }

    pub fn holds(&self, seq: EventSeq) -> bool {
        (self.first..self.first + self.places.len() as u64).contains(&seq.0)
    }

    /// Metadata and payload, copied out: an event that is kept must not keep its whole block.
    pub fn body(&self, seq: EventSeq) -> Result<(RawJson, RawJson)> {
        let [metadata, payload, end] = seq
            .0
            .checked_sub(self.first)
            .and_then(|it| self.places.get(it as usize))
            .ok_or(StoreError::Damaged { what: "block" })?;
        let both: Bytes = BytesMut::from(&self.raw[*metadata..*end]).freeze();
        let middle = payload - metadata;
        Ok((RawJson::trusted(both.slice(..middle)), RawJson::trusted(both.slice(middle..))))
    }

    fn weight(&self) -> usize {
        self.raw.len() + self.places.len() * size_of::<[usize; 3]>()
    }
}

/// The blocks that were read last, up to a number of bytes.
pub struct Blocks {
    limit: usize,
    state: Mutex<Recent>,
}

#[derive(Default)]
struct Recent {
    blocks: HashMap<u64, (u64, Arc<Block>)>,
    tick: u64,
    weight: usize,
}

impl Blocks {
    pub fn new(limit: usize) -> Self {
        Self { limit, state: Mutex::default() }
    }

    /// The block that holds this event, if it was read lately.
    pub fn find(&self, seq: EventSeq) -> Option<Arc<Block>> {
        let mut state = lock(&self.state);
        let tick = state.tick + 1;
        // A block begins at most 63 events before the one that is asked for.
        let found =
            (0..u64::from(EVENTS)).map_while(|back| seq.0.checked_sub(back)).find_map(|it| {
                let (used, block) = state.blocks.get_mut(&it)?;
                if !block.holds(seq) {
                    return None;
                }
                *used = tick;
                Some(block.clone())
            });
        state.tick = tick;
        found
    }

    /// Lets go of all of them.
    pub fn clear(&self) {
        *lock(&self.state) = Recent::default();
    }

    pub fn keep(&self, block: Arc<Block>) {
        if block.weight() > self.limit / 4 {
            return;
        }
        let mut state = lock(&self.state);
        state.tick += 1;
        let (tick, first) = (state.tick, block.first);
        state.weight += block.weight();
        if let Some((_, old)) = state.blocks.insert(first, (tick, block)) {
            state.weight -= old.weight();
        }
        // There are a few hundred at most: the oldest is found by looking at all.
        while state.weight > self.limit {
            let Some(oldest) = state.blocks.iter().min_by_key(|it| it.1.0).map(|it| *it.0) else {
                break;
            };
            if let Some((_, old)) = state.blocks.remove(&oldest) {
                state.weight -= old.weight();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_bit_of_a_block_changes_without_being_told() {
        let mut packer = Packer::new().unwrap();
        for seq in 1..=20 {
            let payload = format!("{{\"number\":{seq},\"name\":\"somebody\"}}");
            packer.add_body(EventSeq(seq), b"{}", payload.as_bytes());
        }
        let (first, count, packed) = packer.take().unwrap().unwrap();
        let packed = packed.to_vec();
        let whole = Block::open(first, count, &packed).unwrap().raw;
        for bit in 0..packed.len() * 8 {
            let mut damaged = packed.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            // A bit that means nothing may change.
            if let Ok(block) = Block::open(first, count, &damaged) {
                assert_eq!(block.raw, whole, "{bit}");
            }
        }
    }
}
