//! Which of the orderings that its destination has had a delivery was planned under.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Counts the orderings of a destination, from 0. It stands in the highest bits of a delivery's position,
/// above those that a time can have: so whoever sees a delivery knows its era, and within a lane an earlier
/// era stands before a later one.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Era(u16);

impl Era {
    pub const FIRST: Self = Self(0);
    /// An ordering that is changed still more often stays in this one.
    const LAST: u16 = 8_190;
    /// Every time in milliseconds is from -2⁴⁹ to 2⁴⁹.
    const TIME_BITS: u32 = 50;
    const BEFORE_TIMES: i64 = -1 << (Self::TIME_BITS - 1);

    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1).min(Self::LAST))
    }

    /// Where in an ordered lane an event of this time stands.
    pub fn position(self, time: Timestamp) -> i64 {
        (i64::from(self.0) << Self::TIME_BITS) + time.as_millisecond()
    }

    /// Of a delivery at this position of an ordered lane.
    pub fn of(position: i64) -> Self {
        let era = position.saturating_sub(Self::BEFORE_TIMES) >> Self::TIME_BITS;
        Self(era.clamp(0, i64::from(Self::LAST)) as u16)
    }

    /// The first position behind it.
    pub fn end(self) -> i64 {
        ((i64::from(self.0) + 1) << Self::TIME_BITS) + Self::BEFORE_TIMES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_says_its_era_whatever_the_time() {
        let last = (0..10_000).fold(Era::FIRST, |it, _| it.next());
        for era in [Era::FIRST, Era::FIRST.next(), Era(77), last] {
            for time in [Timestamp::MIN, Timestamp::UNIX_EPOCH, Timestamp::MAX] {
                let position = era.position(time);
                assert_eq!(Era::of(position), era, "{time}");
                assert!(position < era.end() && Era::of(era.end()) == era.next(), "{time}");
            }
        }
        assert_eq!(last.next(), last);
    }

    #[test]
    fn positions_from_before_there_were_eras_are_of_the_first() {
        for time in [Timestamp::MIN, Timestamp::UNIX_EPOCH, Timestamp::MAX] {
            assert_eq!(Era::FIRST.position(time), time.as_millisecond());
        }
        assert_eq!((Era::of(0), Era::of(i64::MIN)), (Era::FIRST, Era::FIRST));
    }

    #[test]
    fn an_earlier_era_stands_before_a_later_one() {
        let (old, new) = (Era::FIRST.position(Timestamp::MAX), Era(1).position(Timestamp::MIN));
        assert!(old < new);
    }
}
