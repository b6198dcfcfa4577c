//! Keys of events that may not be on disk yet. The index must not have them, for it lasts: after a power cut
//! it would know keys of events that nobody has.

use std::collections::{HashMap, VecDeque};

use super::{KeyHash, KeyIndex};
use crate::model::{EventId, EventSeq};

#[derive(Default)]
pub struct UnsyncedKeys {
    turns: VecDeque<BatchKeys>,
    /// The newest event of each key of those batches.
    ids: HashMap<KeyHash, EventId>,
}

/// What a batch accepted.
pub struct BatchKeys {
    /// Its number in the journal.
    pub turn: u64,
    pub keys: Vec<(KeyHash, EventId, EventSeq)>,
    pub last: EventSeq,
}

impl UnsyncedKeys {
    pub fn find(&self, key: &KeyHash) -> Option<EventId> {
        self.ids.get(key).copied()
    }

    /// Turns come in their order. The index gets the keys of those up to `synced`.
    pub fn add(&mut self, turn: BatchKeys, synced: u64, index: &mut KeyIndex) {
        self.hand_on(synced, index);
        if turn.turn <= synced {
            turn.hand_on(index);
        } else {
            self.ids.extend(turn.keys.iter().map(|it| (it.0, it.1)));
            self.turns.push_back(turn);
        }
    }

    /// The batches up to this one are on disk: the index gets their keys.
    pub fn hand_on(&mut self, synced: u64, index: &mut KeyIndex) {
        let on_disk = self.turns.partition_point(|it| it.turn <= synced);
        for turn in self.turns.drain(..on_disk) {
            for (key, id, _) in &turn.keys {
                // A key that counts for a while only may have been taken again.
                if self.ids.get(key) == Some(id) {
                    self.ids.remove(key);
                }
            }
            turn.hand_on(index);
        }
    }
}

impl BatchKeys {
    fn hand_on(self, index: &mut KeyIndex) {
        for (key, id, seq) in self.keys {
            index.add(key, id, seq);
        }
        index.pass(self.last);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::model::{IdempotencyKey, ProjectId};

    fn id(number: u128) -> EventId {
        EventId::from_bits(number)
    }

    fn turn(turn: u64, keys: &[(KeyHash, u128)], last: u64) -> BatchKeys {
        let keys = keys.iter().map(|&(key, number)| (key, id(number), EventSeq(last))).collect();
        BatchKeys { turn, keys, last: EventSeq(last) }
    }

    #[test]
    fn the_index_gets_keys_when_their_turn_is_on_disk_and_until_then_they_are_found_here() {
        // Given two batches, of which the later takes a key again
        let folder = tempfile::tempdir().unwrap();
        let mut index = KeyIndex::open(folder.path(), [7; 32], Arc::default()).unwrap();
        let key = |text: &str| {
            let key = IdempotencyKey::trusted(text);
            index.reader().hash(0, ProjectId::from_bits(1), key.as_str())
        };
        let (once, again) = (key("once"), key("again"));
        let mut unsynced = UnsyncedKeys::default();
        unsynced.add(turn(4, &[(once, 1), (again, 2)], 2), 3, &mut index);
        unsynced.add(turn(6, &[(again, 3)], 3), 3, &mut index);
        assert_eq!(unsynced.find(&again), Some(id(3)));

        // When only the first is on disk
        unsynced.hand_on(5, &mut index);

        // Then the index has its keys, and the key that was taken again is found where it counts
        assert_eq!(unsynced.find(&once), None);
        assert_eq!(index.find(&once).unwrap(), Some(id(1)));
        assert_eq!(unsynced.find(&again), Some(id(3)));
        index.reader().flush().unwrap();
        assert_eq!(index.covered(), EventSeq(2));

        // And the second follows, after which nothing is left here
        unsynced.hand_on(6, &mut index);
        assert_eq!(index.find(&again).unwrap(), Some(id(3)));
        assert!(unsynced.ids.is_empty() && unsynced.turns.is_empty());

        // And what is on disk already never stands here
        unsynced.add(turn(7, &[(once, 4)], 4), 7, &mut index);
        assert_eq!(unsynced.find(&once), None);
        assert_eq!(index.find(&once).unwrap(), Some(id(4)));
    }
}
