//! Deliveries of which the store alone knows, as bounds.

use std::collections::BTreeMap;

use crate::{
    hint::Loss,
    model::{DeliverySeq, DestinationId, Lane, Message, Owed},
    store::OwedFrom,
};

/// Deliveries that are to be read from the store, as bounds by destination.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Spilled(pub BTreeMap<DestinationId, SpilledRange>);

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct SpilledRange {
    /// The first of those without a lane.
    pub loose: Option<DeliverySeq>,
    /// The first position of those with one.
    pub laned: Option<i64>,
}

impl Spilled {
    pub fn note(&mut self, owed: &Owed) {
        let missed = self.0.entry(owed.destination).or_default();
        if owed.place.lane == Lane::NONE {
            missed.loose = Some(missed.loose.map_or(owed.seq, |it| it.min(owed.seq)));
        } else {
            let position = owed.place.position;
            missed.laned = Some(missed.laned.map_or(position, |it| it.min(position)));
        }
    }
}

impl SpilledRange {
    /// Whatever there is.
    pub const ANYTHING: Self =
        Self { loose: Some(DeliverySeq::from_bits(0)), laned: Some(i64::MIN) };

    /// Both together.
    pub fn and(self, other: Self) -> Self {
        Self {
            loose: self.loose.into_iter().chain(other.loose).min(),
            laned: self.laned.into_iter().chain(other.laned).min(),
        }
    }
}

impl Spilled {
    /// As one node tells another.
    pub fn of(owed: &[OwedFrom]) -> Self {
        let mut lost = Self::default();
        for it in owed {
            lost.miss(it.destination, SpilledRange { loose: it.loose, laned: it.laned });
        }
        lost
    }

    pub fn miss(&mut self, destination: DestinationId, missed: SpilledRange) {
        let known = self.0.entry(destination).or_default();
        *known = known.and(missed);
    }

    pub fn to_tell(&self) -> Vec<OwedFrom> {
        let reported = |(destination, it): (&DestinationId, &SpilledRange)| OwedFrom {
            destination: *destination,
            loose: it.loose,
            laned: it.laned,
        };
        self.0.iter().map(reported).collect()
    }
}

impl Loss<Vec<(Owed, Message)>> for Spilled {
    fn add(&mut self, hint: &Vec<(Owed, Message)>) {
        for (owed, _) in hint {
            self.note(owed);
        }
    }
}
