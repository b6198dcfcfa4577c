//! What steps remember from one event to the next. It belongs to the store, and changes in the same
//! transaction as the plan of the event that changed it: so no event counts twice.

use super::{PipelineId, packed};

/// A step that remembers, as long as its key and its window stay as they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StepId {
    pub pipeline: PipelineId,
    /// Of what makes it this step among those of its pipeline.
    pub hash: u64,
}

/// Within a step: bytes that stand for one thing that it watches. At most 512 of them.
pub type MemoryKey = Box<[u8]>;

/// What a step remembers of one key from now on.
#[derive(Clone, Debug, PartialEq)]
pub struct Remembered {
    pub step: StepId,
    pub key: MemoryKey,
    /// `None`: nothing any more.
    pub memory: Option<Memory>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Memory {
    Spike(SpikeMemory),
    Absence(AbsenceMemory),
}

/// Of `detect.spike`. Times are milliseconds since 1970.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SpikeMemory {
    /// The latest event.
    pub latest: i64,
    /// It does not fire before.
    pub quiet_until: i64,
    /// Events by the slot of time in which they came, oldest first. No slot is empty.
    pub slots: Vec<(i64, u64)>,
}

/// Of `detect.absence`. Times are milliseconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AbsenceMemory {
    /// The interval began then: with the last event, or when the key was declared.
    pub since: i64,
    /// Whether there ever was an event.
    pub is_seen: bool,
    /// It did not come by then, and that has been reported.
    pub missed: Option<i64>,
}

const SPIKE: u8 = 1;
const ABSENCE: u8 = 2;

impl Memory {
    /// When something last happened, in milliseconds since 1970: what is oldest is forgotten first.
    pub fn touched(&self) -> i64 {
        match self {
            Self::Spike(it) => it.latest,
            Self::Absence(it) => it.since,
        }
    }

    /// The form in which every store keeps it.
    pub fn to_bytes(&self) -> Vec<u8> {
        match self {
            Self::Spike(it) => {
                let mut out = Vec::with_capacity(24 + 4 * it.slots.len());
                out.push(SPIKE);
                packed::put_signed(&mut out, it.latest);
                packed::put_signed(&mut out, it.quiet_until);
                let mut last = 0;
                for &(slot, count) in &it.slots {
                    packed::put_signed(&mut out, slot - last);
                    packed::put(&mut out, count);
                    last = slot;
                }
                out
            }
            Self::Absence(it) => {
                let mut out = vec![ABSENCE, u8::from(it.is_seen)];
                packed::put_signed(&mut out, it.since);
                if let Some(missed) = it.missed {
                    packed::put_signed(&mut out, missed);
                }
                out
            }
        }
    }

    /// What [`Self::to_bytes`] wrote; `None` when it is damaged.
    pub fn from_bytes(mut bytes: &[u8]) -> Option<Self> {
        let (kind, rest) = bytes.split_first()?;
        bytes = rest;
        match *kind {
            SPIKE => {
                let latest = packed::take_signed(&mut bytes)?;
                let quiet_until = packed::take_signed(&mut bytes)?;
                let (mut slots, mut last) = (Vec::new(), 0_i64);
                while !bytes.is_empty() {
                    last = last.checked_add(packed::take_signed(&mut bytes)?)?;
                    slots.push((last, packed::take(&mut bytes)?));
                }
                Some(Self::Spike(SpikeMemory { latest, quiet_until, slots }))
            }
            ABSENCE => {
                let (seen, rest) = bytes.split_first()?;
                bytes = rest;
                let since = packed::take_signed(&mut bytes)?;
                let missed = match bytes.is_empty() {
                    true => None,
                    false => Some(packed::take_signed(&mut bytes)?),
                };
                Some(Self::Absence(AbsenceMemory { since, is_seen: *seen != 0, missed }))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memories_are_read_back() {
        for memory in [
            Memory::Spike(SpikeMemory::default()),
            Memory::Spike(SpikeMemory {
                latest: 1_800_000_000_123,
                quiet_until: -5,
                slots: vec![(-3, 1), (9, 400), (1 << 40, 7)],
            }),
            Memory::Absence(AbsenceMemory { since: 5, is_seen: true, missed: None }),
            Memory::Absence(AbsenceMemory { since: -5, is_seen: false, missed: Some(1 << 40) }),
        ] {
            assert_eq!(Memory::from_bytes(&memory.to_bytes()), Some(memory));
        }
        for damaged in [&[][..], &[0], &[3, 1], &[SPIKE], &[SPIKE, 0, 0, 0], &[ABSENCE, 1]] {
            assert_eq!(Memory::from_bytes(damaged), None, "{damaged:?}");
        }
    }
}
