//! Identifiers.
//!
//! One generic [`Id`] serves every kind of row, so that the compiler refuses a delivery id where an
//! event id is meant. The text form is a TypeID: a UUIDv7 in 26 digits of Crockford's base 32,
//! behind a prefix that tells the kinds apart in any log line.

use std::{
    fmt,
    hash::{Hash, Hasher},
    marker::PhantomData,
    str::FromStr,
};

use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

pub type ProjectId = Id<kind::Project>;
pub type KeyId = Id<kind::Key>;
pub type SourceId = Id<kind::Source>;
pub type DestinationId = Id<kind::Destination>;
pub type PipelineId = Id<kind::Pipeline>;
pub type EventTypeId = Id<kind::EventType>;
pub type EventId = Id<kind::Event>;
pub type DeliveryId = Id<kind::Delivery>;
pub type ReplayId = Id<kind::Replay>;
pub type LookupId = Id<kind::Lookup>;
pub type DeletionId = Id<kind::Deletion>;

/// The identifier of one row of kind `K`: the 128 bits of a UUIDv7 (RFC 9562 §5.7).
pub struct Id<K> {
    bits: u128,
    kind: PhantomData<fn() -> K>,
}

/// A kind of row, and the prefix that its ids carry.
pub trait Kind {
    const PREFIX: &'static str;
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseIdError {
    #[error("an id of this kind starts with `{0}_`")]
    Prefix(&'static str),
    #[error("an id ends with 26 digits of Crockford's base 32, in lower case")]
    Digits,
}

/// Digits in the text form: 26 of 5 bits each hold the 128 bits.
const DIGITS: usize = 26;
/// Bytes of a prefix.
const PREFIX_AT_MOST: usize = 8;
const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

impl<K> Id<K> {
    pub const fn from_bits(bits: u128) -> Self {
        Self { bits, kind: PhantomData }
    }

    pub const fn bits(self) -> u128 {
        self.bits
    }

    /// A UUIDv7 of the given moment. `order` (12 bits) sorts ids within a millisecond; `random`
    /// gives 62 bits that nobody can guess.
    pub fn new(at: Timestamp, order: u16, random: u64) -> Self {
        let millis = at.as_millisecond().clamp(0, (1 << 48) - 1) as u128;
        let high = millis << 80 | 0x7 << 76 | u128::from(order & 0xfff) << 64;
        Self::from_bits(high | 0b10 << 62 | u128::from(random >> 2))
    }

    /// The moment that the id carries, in milliseconds since 1970.
    pub fn millis(self) -> i64 {
        (self.bits >> 80) as i64
    }

    /// The 12 bits that sort ids within a millisecond.
    pub fn order(self) -> u16 {
        (self.bits >> 64 & 0xfff) as u16
    }
}

impl SourceId {
    /// Tidegate itself: tests of destinations, and what it tells their owners. No source of the
    /// catalogue has it, so no sender can speak in its name.
    pub const SYSTEM: Self = Self::from_bits(0);
}

impl PipelineId {
    /// Stands for the pipeline of deliveries that an event of [`SourceId::SYSTEM`] asks for itself.
    pub const DIRECTED: Self = Self::from_bits(0);
}

/// Makes ids that only grow, also when the clock steps back or thousands fall in a millisecond.
#[derive(Debug, Default)]
pub struct IdSequence {
    millis: i64,
    order: u16,
}

impl IdSequence {
    /// Continues behind an id that was made before.
    pub fn after<K>(last: Id<K>) -> Self {
        Self { millis: last.millis(), order: last.order() }
    }

    pub fn next<K>(&mut self, now: Timestamp, random: u64) -> Id<K> {
        let millis = now.as_millisecond();
        if millis > self.millis {
            (self.millis, self.order) = (millis, 0);
        } else if self.order < 0xfff {
            self.order += 1;
        } else {
            (self.millis, self.order) = (self.millis + 1, 0);
        }
        let at = Timestamp::from_millisecond(self.millis).unwrap_or(now);
        Id::new(at, self.order, random)
    }
}

impl<K: Kind> Id<K> {
    /// Bytes of the text form.
    pub const LENGTH: usize = K::PREFIX.len() + 1 + DIGITS;

    /// Gives the text form to `act`. Ids stand in every answer and delivery, and so it takes no memory.
    pub fn with_text<T>(self, act: impl FnOnce(&str) -> T) -> T {
        const { assert!(K::PREFIX.len() <= PREFIX_AT_MOST, "a prefix is short") };
        let mut text = [b'_'; PREFIX_AT_MOST + 1 + DIGITS];
        let (prefix, digits) = text.split_at_mut(K::PREFIX.len());
        prefix.copy_from_slice(K::PREFIX.as_bytes());
        let mut bits = self.bits;
        for digit in digits[1..=DIGITS].iter_mut().rev() {
            *digit = ALPHABET[(bits & 31) as usize];
            bits >>= 5;
        }
        // All of it is ASCII.
        act(std::str::from_utf8(&text[..Self::LENGTH]).unwrap_or_default())
    }
}

impl<K: Kind> fmt::Display for Id<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.with_text(|text| f.write_str(text))
    }
}

impl<K: Kind> FromStr for Id<K> {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits = text
            .strip_prefix(K::PREFIX)
            .and_then(|rest| rest.strip_prefix('_'))
            .ok_or(ParseIdError::Prefix(K::PREFIX))?;
        // 26 digits hold 130 bits: a first digit above 7 would overflow.
        if digits.len() != DIGITS || digits.as_bytes()[0] > b'7' {
            return Err(ParseIdError::Digits);
        }
        let mut bits: u128 = 0;
        for digit in digits.bytes() {
            let value = ALPHABET.iter().position(|&it| it == digit).ok_or(ParseIdError::Digits)?;
            bits = bits << 5 | value as u128;
        }
        Ok(Self::from_bits(bits))
    }
}

impl<K: Kind> fmt::Debug for Id<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl<K: Kind> Serialize for Id<K> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.with_text(|text| serializer.serialize_str(text))
    }
}

impl<'de, K: Kind> Deserialize<'de> for Id<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

// Written by hand, because a derive would ask the same of `K`, which is never a value.
impl<K> Clone for Id<K> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<K> Copy for Id<K> {}

impl<K> PartialEq for Id<K> {
    fn eq(&self, other: &Self) -> bool {
        self.bits == other.bits
    }
}

impl<K> Eq for Id<K> {}

impl<K> PartialOrd for Id<K> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<K> Ord for Id<K> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.bits.cmp(&other.bits)
    }
}

impl<K> Hash for Id<K> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.bits.hash(state);
    }
}

/// The kinds, as types without values: they exist for the compiler only.
pub mod kind {
    use super::Kind;

    pub enum Project {}
    impl Kind for Project {
        const PREFIX: &'static str = "prj";
    }

    pub enum Key {}
    impl Kind for Key {
        const PREFIX: &'static str = "key";
    }

    pub enum Source {}
    impl Kind for Source {
        const PREFIX: &'static str = "src";
    }

    pub enum Destination {}
    impl Kind for Destination {
        const PREFIX: &'static str = "dst";
    }

    pub enum Pipeline {}
    impl Kind for Pipeline {
        const PREFIX: &'static str = "pip";
    }

    pub enum EventType {}
    impl Kind for EventType {
        const PREFIX: &'static str = "typ";
    }

    pub enum Event {}
    impl Kind for Event {
        const PREFIX: &'static str = "evt";
    }

    pub enum Delivery {}
    impl Kind for Delivery {
        const PREFIX: &'static str = "dlv";
    }

    pub enum Lookup {}
    impl Kind for Lookup {
        const PREFIX: &'static str = "lkp";
    }

    pub enum Replay {}
    impl Kind for Replay {
        const PREFIX: &'static str = "rpl";
    }

    pub enum Deletion {}
    impl Kind for Deletion {
        const PREFIX: &'static str = "del";
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_millisecond(millis).unwrap()
    }

    #[test]
    fn an_id_survives_its_text_form() {
        let id = EventId::new(at(1_700_000_000_000), 7, u64::MAX);
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!((id.millis(), id.order()), (1_700_000_000_000, 7));
    }

    #[test]
    fn an_id_of_another_kind_is_refused() {
        let text = DeliveryId::new(at(0), 0, 0).to_string();
        assert_eq!(text.parse::<EventId>(), Err(ParseIdError::Prefix("evt")));
    }

    #[test]
    fn ids_only_grow_even_when_the_clock_steps_back() {
        let mut sequence = IdSequence::default();
        let mut last: EventId = sequence.next(at(1_000), u64::MAX);
        for step in 0..10_000 {
            let next = sequence.next(at(1_000 - step % 3), 0);
            assert!(last < next && last.to_string() < next.to_string());
            last = next;
        }
    }
}
