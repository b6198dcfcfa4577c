//! A store so simple that it is obviously right.

use std::{
    collections::{BTreeMap, HashMap},
    ops::Bound,
};

use tidegate::{
    model::{DeliverySeq, DestinationId, Ended, EntryKind, EventSeq, Lane, Owed, Place, Standing},
    store::{Next, OwedQuery, Settlement},
};

type Key = (DestinationId, Place, DeliverySeq);

#[derive(Default)]
pub struct ModelStore {
    owed: BTreeMap<Key, Owed>,
    pub ended: HashMap<DeliverySeq, (Ended, String)>,
    pub planned: Vec<Owed>,
    pub events: u64,
}

impl ModelStore {
    /// A new delivery of a new event, or of an event from before (a replay).
    pub fn plan(&mut self, owed: Owed) {
        let before = self.owed.insert((owed.destination, owed.place, owed.seq), owed);
        assert_eq!(before, None, "the story planned it twice");
        self.planned.push(owed);
        self.events = self.events.max(owed.seq.event().0);
    }

    pub fn next_event(&mut self) -> EventSeq {
        self.events += 1;
        EventSeq(self.events)
    }

    pub fn get(&self, owed: &Owed) -> Option<&Owed> {
        self.owed.get(&(owed.destination, owed.place, owed.seq))
    }

    /// Everything that is owed in the lane of a delivery, in its order.
    pub fn lane(&self, owed: &Owed) -> impl Iterator<Item = &Owed> {
        let at = |position, seq| {
            let place = Place { lane: owed.place.lane, position };
            (owed.destination, place, DeliverySeq::from_bits(seq))
        };
        self.owed.range(at(i64::MIN, 0)..=at(i64::MAX, u64::MAX)).map(|(_, owed)| owed)
    }

    pub fn all(&self) -> impl Iterator<Item = &Owed> {
        self.owed.values()
    }

    pub fn settle(&mut self, settlement: &Settlement) {
        let owed = settlement.owed;
        let key = (owed.destination, owed.place, owed.seq);
        let Some(stored) = self.owed.get_mut(&key) else {
            let (ended, _) = self.ended.get(&owed.seq).expect("it was never planned");
            // A person's cancel may come twice; nothing else may.
            assert_eq!(*ended, Ended::Cancelled, "settled again: {settlement:?}");
            assert_eq!(settlement.next, Next::Ended(Ended::Cancelled));
            return;
        };
        assert_eq!(*stored, owed, "settled on stale knowledge");
        let entry = &settlement.entry;
        assert_eq!((entry.delivery, entry.number), (owed.seq, owed.standing.entries + 1));
        let reason = match &entry.kind {
            EntryKind::Attempt { number, outcome } => {
                assert_eq!(*number, owed.standing.attempts + 1, "an attempt number is burnt");
                outcome.reason.clone()
            }
            EntryKind::Note { reason } | EntryKind::Replayed { reason, .. } => reason.clone(),
        };
        assert!(!reason.is_empty(), "nothing happens without a reason");
        match settlement.next {
            Next::Ended(ended) => {
                assert_eq!(entry.ended, Some(ended));
                self.owed.remove(&key);
                self.ended.insert(owed.seq, (ended, reason));
            }
            Next::Owed(standing) => {
                assert_eq!(entry.ended, None);
                let Standing { attempts, entries, due } = standing;
                assert_eq!(entries, owed.standing.entries + 1);
                let used = match &entry.kind {
                    EntryKind::Attempt { .. } => 1,
                    EntryKind::Note { .. } | EntryKind::Replayed { .. } => 0,
                };
                assert!(due.is_some() && attempts == owed.standing.attempts + used);
                // Halving comes to an end.
                assert!(entries <= attempts + 30, "{settlement:?}");
                stored.standing = standing;
            }
        }
    }

    pub fn owed(&self, query: &OwedQuery) -> Vec<Owed> {
        match query {
            OwedQuery::Line { destination, after, per_lane, limit } => {
                let first = Place { lane: Lane::NONE, position: i64::MIN };
                let start = match after {
                    Some((place, seq)) => Bound::Excluded((*destination, *place, *seq)),
                    None => Bound::Included((*destination, first, DeliverySeq::from_bits(0))),
                };
                let mut taken: HashMap<Lane, usize> = HashMap::new();
                self.owed
                    .range((start, Bound::Unbounded))
                    .take_while(|((it, ..), _)| it == destination)
                    .map(|(_, owed)| *owed)
                    .filter(|owed| {
                        let count = taken.entry(owed.place.lane).or_default();
                        *count += 1;
                        owed.place.lane == Lane::NONE || *count <= *per_lane
                    })
                    .take(*limit)
                    .collect()
            }
            OwedQuery::Due { destination, until, limit } => {
                let place = |lane, position| Place { lane: Lane(lane), position };
                let first = (*destination, place(0, i64::MIN), DeliverySeq::from_bits(0));
                let last =
                    (*destination, place(u64::MAX, i64::MAX), DeliverySeq::from_bits(u64::MAX));
                let mut due: Vec<Owed> = self
                    .owed
                    .range(first..=last)
                    .map(|(_, owed)| owed)
                    .filter(|it| it.standing.due.is_some_and(|due| due <= *until))
                    .copied()
                    .collect();
                due.sort_by_key(|it| (it.standing.due, it.seq));
                due.truncate(*limit);
                due
            }
            OwedQuery::First { destination } => {
                let has_lane =
                    |it: &&Owed| it.destination == *destination && it.place.lane != Lane::NONE;
                let laned = self.owed.values().filter(has_lane);
                laned.min_by_key(|it| it.place.position).copied().into_iter().collect()
            }
            OwedQuery::These(these) => {
                self.owed.values().filter(|it| these.contains(&it.seq)).copied().collect()
            }
        }
    }
}
