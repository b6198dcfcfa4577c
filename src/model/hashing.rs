//! Maps by ids and places of ours, which the hot path looks into a dozen times for each delivery.
//!
//! Nobody outside chooses these keys, so they need no hash that withstands people who look for
//! collisions, which costs ten times as much. What senders choose (lanes, keys of events) stays with the
//! standard library's.

use std::{
    collections::{HashMap, HashSet},
    hash::{BuildHasherDefault, Hasher},
};

pub type IdMap<K, V> = HashMap<K, V, BuildHasherDefault<IdHasher>>;
pub type IdSet<K> = HashSet<K, BuildHasherDefault<IdHasher>>;

/// Multiplies, and brings the upper half down: places that differ by a power of two spread well, too.
#[derive(Clone, Copy, Debug, Default)]
pub struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write_u64(&mut self, number: u64) {
        // 2^64 divided by the golden ratio.
        let product = (self.0 ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = product ^ product >> 32;
    }

    fn write_u128(&mut self, number: u128) {
        self.write_u64((number >> 64) as u64);
        self.write_u64(number as u64);
    }

    fn write_u32(&mut self, number: u32) {
        self.write_u64(number.into());
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|it| self.write_u64((*it).into()));
    }
}

#[cfg(test)]
mod tests {
    use std::hash::{BuildHasher as _, BuildHasherDefault, Hash};

    use jiff::Timestamp;

    use super::*;
    use crate::model::{DeliverySeq, DestinationId, EventSeq};

    /// Whether the lowest and the highest bits, by which a map looks, fall apart about as chance would.
    fn spreads<K: Hash>(keys: impl Iterator<Item = K>) -> bool {
        let hashes: Vec<u64> =
            keys.map(|it| BuildHasherDefault::<IdHasher>::default().hash_one(it)).collect();
        let different = |part: &dyn Fn(u64) -> u64| {
            hashes.iter().map(|it| part(*it)).collect::<HashSet<_>>().len()
        };
        // Of 4,096 in as many places, chance fills 63 of 100.
        hashes.len() == 4_096
            && different(&|it| it & 0xfff) > 2_300
            && different(&|it| it >> 57) == 128
    }

    #[test]
    fn places_and_ids_that_follow_each_other_spread() {
        for step in [1, 2, 64, 4_096] {
            let seqs = (0..4_096).map(|it| DeliverySeq::new(EventSeq(it * step), 0));
            assert!(spreads(seqs), "every {step}th event");
        }
        assert!(spreads((0..4_096).map(|it| (1_u64 << 40) + it)), "of another log");
        let ids = |it: u64| DestinationId::new(Timestamp::UNIX_EPOCH, it as u16, 77);
        assert!(spreads((0..4_096).map(ids)), "ids of one millisecond");
    }
}
