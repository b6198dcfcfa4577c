//! Random work of every kind, with crashes in between, against a model that fits a screen.

use std::{collections::BTreeMap, sync::Arc};

use jiff::SignedDuration;
use tidegate::{
    model::{DeliverySeq, Event, EventId, EventSeq, Lane, Owed, Place, SourceId},
    store::{Appended, OwedQuery},
};

use super::home::{
    Home, Open, destinations, ended, event, keyed, note, now, plan_at, projects, recording, retry,
};

#[derive(Default)]
struct Model {
    keys: BTreeMap<u64, EventId>,
    unplanned: Vec<Arc<Event>>,
    owed: BTreeMap<DeliverySeq, Owed>,
    /// Kept to be settled again, in vain.
    gone: Vec<Owed>,
    last: u64,
}

/// Numbers that a seed decides.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963);
        (self.0 >> 33) % bound
    }
}

pub async fn work_of_any_kind_agrees_with_a_model(home: &dyn Home) {
    let mut seed = [0; 8];
    getrandom::fill(&mut seed).unwrap();
    let seed = u64::from_le_bytes(seed);
    println!("seed {seed}");
    let (mut dice, mut model) = (Dice(seed), Model::default());
    let mut open = home.open().await;
    for _ in 0..400 {
        match dice.below(13) {
            12 => model.record(&open, &mut dice).await,
            0..3 => model.append(&open, &mut dice).await,
            3..6 => model.plan(&open, &mut dice).await,
            6..9 => model.settle(&open, &mut dice).await,
            9 => model.check_line(&open, &mut dice).await,
            10 => model.check_due(&open, &mut dice).await,
            _ if dice.below(3) == 0 => {
                open = home.open_again_after_crash(open).await;
                let unplanned = open.store.unplanned(EventSeq(0), usize::MAX).await.unwrap();
                assert_eq!(unplanned, model.unplanned);
            }
            _ => model.check_these(&open, &mut dice).await,
        }
    }
}

impl Model {
    async fn append(&mut self, open: &Open, dice: &mut Dice) {
        let numbers: Vec<u64> = (0..1 + dice.below(20)).map(|_| dice.below(300)).collect();
        let new = |&number: &u64| match number {
            0..150 => keyed(projects(1), &format!("key-{number}"), "1"),
            _ => event(&format!("[{number}]")),
        };
        let answers = open.store.append(numbers.iter().map(new).collect()).await.unwrap();
        for (number, answer) in numbers.into_iter().zip(answers) {
            let first = self.keys.get(&number).filter(|_| number < 150);
            match (first, answer) {
                (None, Appended::New(event)) => {
                    self.last += 1;
                    assert_eq!(event.seq.0, self.last);
                    self.keys.insert(number, event.id);
                    self.unplanned.push(event);
                }
                (Some(first), Appended::Duplicate { id, same_body, .. }) => {
                    assert_eq!((id, same_body), (*first, Some(true)));
                }
                (first, answer) => panic!("{first:?} was first, and yet {answer:?}"),
            }
        }
    }

    /// What was sent already is never owed, and waits for its plan like the others.
    async fn record(&mut self, open: &Open, dice: &mut Dice) {
        self.last += 1;
        let recording = recording(self.last, 1 + u128::from(dice.below(2)));
        let event = open.store.record(recording).await.unwrap();
        assert_eq!(event.seq.0, self.last);
        self.unplanned.push(event);
    }

    async fn plan(&mut self, open: &Open, dice: &mut Dice) {
        let count = dice.below(30).min(self.unplanned.len() as u64) as usize;
        let plans = self.unplanned.drain(..count).map(|event| {
            let place = |dice: &mut Dice| match dice.below(2) {
                0 => Place { lane: Lane::NONE, position: 0 },
                _ => Place { lane: Lane(dice.below(3) << 62), position: dice.below(5) as i64 },
            };
            let most = if event.source == SourceId::SYSTEM { 1 } else { 4 };
            let to: Vec<_> = (0..dice.below(most))
                .map(|_| (1 + u128::from(dice.below(2)), place(dice)))
                .collect();
            plan_at(&event, &to)
        });
        let plans: Vec<_> = plans.collect();
        let planned: usize = plans.iter().map(|it| it.deliveries.len()).sum();
        let owed = open.store.plan(plans).await.unwrap();
        assert_eq!(owed.len(), planned);
        self.owed.extend(owed.into_iter().map(|it| (it.seq, it)));
    }

    /// Several at once, among them some that ended before.
    async fn settle(&mut self, open: &Open, dice: &mut Dice) {
        let mut settlements = Vec::new();
        for _ in 0..dice.below(25) {
            let nth = dice.below(self.owed.len().max(1) as u64) as usize;
            let Some(owed) = self.owed.values().nth(nth).copied() else { break };
            if dice.below(3) == 0 {
                let due = now() + SignedDuration::from_secs(dice.below(100) as i64);
                let (settlement, again) = retry(&owed, due);
                settlements.push(settlement);
                self.owed.insert(owed.seq, again);
            } else {
                settlements.push(note(&owed, ended()));
                self.owed.remove(&owed.seq);
                self.gone.push(owed);
            }
            if dice.below(4) == 0 && !self.gone.is_empty() {
                let late = self.gone[dice.below(self.gone.len() as u64) as usize];
                settlements.push(retry(&late, now()).0);
            }
        }
        open.store.settle(settlements).await.unwrap();
    }

    fn of(&self, number: u128) -> Vec<Owed> {
        let destination = destinations(number);
        self.owed.values().filter(|it| it.destination == destination).copied().collect()
    }

    async fn check_line(&self, open: &Open, dice: &mut Dice) {
        let number = 1 + u128::from(dice.below(2));
        let mut expected = self.of(number);
        expected.sort_by_key(|it| (it.place, it.seq));
        let per_lane = 1 + dice.below(4) as usize;
        let mut lanes = BTreeMap::new();
        expected.retain(|it| {
            let before = lanes.entry(it.place.lane).or_insert(0);
            *before += 1;
            it.place.lane == Lane::NONE || *before <= per_lane
        });
        let limit = dice.below(80) as usize;
        expected.truncate(limit);
        let destination = destinations(number);
        let query = OwedQuery::Line { destination, after: None, per_lane, limit };
        assert_eq!(open.store.owed(query).await.unwrap(), expected);
    }

    async fn check_due(&self, open: &Open, dice: &mut Dice) {
        let until = now() + SignedDuration::from_secs(dice.below(100) as i64);
        let mut expected = self.of(2);
        expected.retain(|it| it.standing.due.is_some_and(|due| due <= until));
        expected.sort_by_key(|it| (it.standing.due, it.place, it.seq));
        let query = OwedQuery::Due { destination: destinations(2), until, limit: usize::MAX };
        assert_eq!(open.store.owed(query).await.unwrap(), expected);
    }

    async fn check_these(&self, open: &Open, dice: &mut Dice) {
        let pick = |at: u64| self.owed.values().nth(at as usize % self.owed.len().max(1));
        let there: Vec<Owed> = (0..5).filter_map(|_| pick(dice.below(1_000))).copied().collect();
        let gone = self.gone.iter().rev().take(3).map(|it| it.seq);
        let wanted = there.iter().map(|it| it.seq).chain(gone).collect();
        assert_eq!(open.store.owed(OwedQuery::These(wanted)).await.unwrap(), there);
    }
}
