//! A Bloom filter in lines of 64 bytes: one look at one cache line says that a key is not in a run.
//!
//! A key's line grows with its hash, so a run that is written in the order of its hashes writes its
//! filter from front to back as well, and never needs all of it in memory.

use super::KeyHash;

/// Keys for which a line has room: about 10.7 bits a key, and 1 to 2 wrong answers in a hundred.
const KEYS_PER_LINE: u64 = 48;
const PROBES: u32 = 7;
const BITS_PER_PROBE: u32 = 9;

/// 512 bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheLine([u64; Self::WORDS]);

impl CacheLine {
    pub const BYTES: usize = 64;
    const WORDS: usize = 8;

    pub fn insert(&mut self, hash: KeyHash) {
        for (word, bit) in probes(hash) {
            self.0[word] |= bit;
        }
    }

    /// `false` is certain.
    pub fn may_contain(&self, hash: KeyHash) -> bool {
        probes(hash).all(|(word, bit)| self.0[word] & bit != 0)
    }

    pub fn from_bytes(bytes: &[u8; Self::BYTES]) -> Self {
        let (words, _) = bytes.as_chunks::<8>();
        Self(std::array::from_fn(|word| u64::from_le_bytes(words[word])))
    }

    pub fn to_bytes(self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        let (chunks, _) = bytes.as_chunks_mut::<8>();
        for (chunk, word) in chunks.iter_mut().zip(self.0) {
            *chunk = word.to_le_bytes();
        }
        bytes
    }
}

/// How many lines the filter of this many keys has; at least one.
pub fn lines_for(keys: u64) -> u64 {
    keys.div_ceil(KEYS_PER_LINE).max(1)
}

/// The line that a key belongs to: never before the line of a smaller hash.
pub fn line_of(hash: KeyHash, lines: u64) -> u64 {
    ((u128::from(hash.high()) * u128::from(lines)) >> 64) as u64
}

/// The upper half of the hash chose the line; the lower half, independent of it, chooses the bits.
fn probes(hash: KeyHash) -> impl Iterator<Item = (usize, u64)> {
    let low = hash.low();
    (0..PROBES).map(move |probe| {
        let position = low >> (probe * BITS_PER_PROBE) & 511;
        ((position / 64) as usize, 1 << (position % 64))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Any spread will do: hashes are uniform by construction.
    fn hash(number: u64) -> KeyHash {
        KeyHash(xxhash_rust::xxh3::xxh3_128(&number.to_le_bytes()).to_be_bytes())
    }

    #[test]
    fn a_filter_never_misses_a_key_and_is_seldom_wrong_about_others() {
        let (keys, others) = (100_000, 100_000);
        let mut lines = vec![CacheLine::default(); lines_for(keys) as usize];
        let count = lines.len() as u64;
        for key in 0..keys {
            lines[line_of(hash(key), count) as usize].insert(hash(key));
        }
        let says_yes = |key: u64| lines[line_of(hash(key), count) as usize].may_contain(hash(key));
        assert!((0..keys).all(says_yes));
        let wrong = (keys..keys + others).filter(|&key| says_yes(key)).count();
        assert!(wrong < 2_000, "{wrong} of {others} wrong");
    }

    #[test]
    fn a_line_survives_its_bytes() {
        let mut line = CacheLine::default();
        line.insert(hash(1));
        assert_eq!(CacheLine::from_bytes(&line.to_bytes()), line);
    }
}
