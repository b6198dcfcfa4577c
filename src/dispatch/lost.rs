//! Deliveries of which the store alone knows, as bounds.

use std::collections::BTreeMap;

use crate::{
    hint::Loss,
    model::{DeliverySeq, DestinationId, Lane, Message, Owed},
};

/// Deliveries that are to be read from the store, as bounds by destination.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Lost(pub BTreeMap<DestinationId, Missed>);

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Missed {
    /// The first of those without a lane.
    pub loose: Option<DeliverySeq>,
    /// The first position of those with one.
    pub laned: Option<i64>,
}

impl Lost {
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

impl Loss<Vec<(Owed, Message)>> for Lost {
    fn add(&mut self, hint: &Vec<(Owed, Message)>) {
        for (owed, _) in hint {
            self.note(owed);
        }
    }
}
