//! The world around the scheduler: time, the store's delays and failures, and everything that happens.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use tidegate::{
    dispatch::{Action, Input, Options, Scheduler, Spilled},
    model::{DeliverySeq, Destination, DestinationId, DestinationState, Ended, Outcome, Owed},
    store::{OwedQuery, Settlement},
};

use super::{
    batches::{Batch, Counts, weight},
    chance::Chance,
    clock::{End, Wall},
    endpoint::Endpoint,
    handover::Elsewhere,
    rules::Rules,
    store::ModelStore,
};

/// Something that happens at its time. What carries a life belongs to one run of the process, and
/// ends with it.
#[derive(Debug)]
pub enum Happening {
    Wake {
        life: u32,
    },
    Hints {
        life: u32,
        owed: Vec<Owed>,
    },
    Lost {
        life: u32,
        lost: Spilled,
        seqs: Vec<DeliverySeq>,
    },
    AttemptEnds {
        life: u32,
        owed: Owed,
        outcome: Outcome,
    },
    TooMuch {
        life: u32,
        owed: Owed,
    },
    Cut {
        life: u32,
        destination: DestinationId,
        batch: u32,
        left: Vec<DeliverySeq>,
        missing: Vec<DeliverySeq>,
    },
    PartEnds {
        life: u32,
        destination: DestinationId,
        batch: u32,
        part: Vec<Owed>,
        outcome: Outcome,
    },
    BreaksOff {
        life: u32,
        destination: DestinationId,
        batch: u32,
    },
    Commit {
        life: u32,
        settlements: Vec<Settlement>,
    },
    Confirm {
        life: u32,
        settled: Vec<(DestinationId, DeliverySeq)>,
    },
    Refuse {
        life: u32,
        refused: Vec<(DestinationId, DeliverySeq)>,
    },
    Snapshot {
        life: u32,
        query: OwedQuery,
    },
    Answer {
        life: u32,
        destination: DestinationId,
        rows: Option<Vec<Owed>>,
    },
    Change {
        destination: Arc<Destination>,
    },
    /// The scenario's own doing, by its number.
    Plot(u32),
}

pub struct World {
    pub chance: Chance,
    pub now: Timestamp,
    pub life: u32,
    pub options: Options,
    pub scheduler: Scheduler,
    pub store: ModelStore,
    pub rules: Rules,
    pub destinations: BTreeMap<DestinationId, Arc<Destination>>,
    pub endpoints: HashMap<DestinationId, Endpoint>,
    agenda: BTreeMap<(Timestamp, u64), Happening>,
    order: u64,
    last_hint: Timestamp,
    wake: Option<Timestamp>,
    /// Deliveries that endpoints have accepted.
    pub accepted: HashSet<DeliverySeq>,
    pub cancelled: HashSet<DeliverySeq>,
    /// When each was accepted by its endpoint first.
    pub arrivals: HashMap<DeliverySeq, Timestamp>,
    /// People cancel some just after an attempt, before what came of it is on disk.
    pub cancels_at_once: bool,
    /// Some hints take a while.
    pub hints_are_late: bool,
    /// While set, the store answers nothing.
    pub store_is_down: bool,
    pub steps: u64,
    pub most_held: usize,
    /// Batches under way: what names each, and the requests that it has not made.
    pub batches: BTreeMap<(DestinationId, u32), Batch>,
    /// What endpoints tell apart: deliveries are of one of so many groups.
    pub groups: u64,
    /// The most that may be under way to one destination, in the same unit as a policy's batch.
    pub line_bytes: usize,
    pub bytes: HashMap<DestinationId, usize>,
    pub told: BTreeMap<DestinationId, Arc<Destination>>,
    pub counts: Counts,
    pub elsewhere: Elsewhere,
    pub clock: Wall,
    /// What the scheduler hears of in the next step.
    pub ended: Option<End>,
    actions: Vec<Action>,
}

pub fn start_of_time() -> Timestamp {
    Timestamp::from_second(1_800_000_000).unwrap()
}

impl World {
    pub fn new(seed: u64, options: Options) -> Self {
        Self {
            chance: Chance::new(seed),
            now: start_of_time(),
            life: 0,
            scheduler: Scheduler::new(options.clone()),
            options,
            store: ModelStore::default(),
            rules: Rules::default(),
            destinations: BTreeMap::new(),
            endpoints: HashMap::new(),
            agenda: BTreeMap::new(),
            order: 0,
            last_hint: start_of_time(),
            wake: None,
            accepted: HashSet::new(),
            cancelled: HashSet::new(),
            arrivals: HashMap::new(),
            cancels_at_once: true,
            hints_are_late: true,
            store_is_down: false,
            steps: 0,
            most_held: 0,
            batches: BTreeMap::new(),
            groups: 1,
            line_bytes: usize::MAX,
            bytes: HashMap::new(),
            told: BTreeMap::new(),
            counts: Counts::default(),
            elsewhere: Elsewhere::default(),
            clock: Wall::default(),
            ended: None,
            actions: Vec::new(),
        }
    }

    pub fn at(&mut self, time: Timestamp, happening: Happening) {
        self.order += 1;
        self.agenda.insert((time, self.order), happening);
    }

    pub fn after(&mut self, wait: Duration, happening: Happening) {
        self.at(self.now + wait, happening);
    }

    pub fn add(&mut self, destination: Destination, endpoint: Endpoint) {
        let destination = Arc::new(destination);
        self.endpoints.insert(destination.id, endpoint);
        self.destinations.insert(destination.id, destination.clone());
        self.tell(destination);
    }

    pub fn tell(&mut self, destination: Arc<Destination>) {
        self.told.insert(destination.id, destination.clone());
        self.step(Input::Settings(destination));
    }

    /// Changes a destination, and the scheduler hears of it a moment later.
    pub fn change(&mut self, id: DestinationId, change: impl FnOnce(&mut Destination)) {
        let Some(destination) = self.destinations.get(&id) else { return };
        let mut changed = Destination::clone(destination);
        change(&mut changed);
        changed.era = destination.era_with(&changed.policy.ordering);
        changed.version += 1;
        let destination = Arc::new(changed);
        self.destinations.insert(id, destination.clone());
        self.at(self.now, Happening::Change { destination });
    }

    pub fn delete(&mut self, id: DestinationId) {
        self.come_back(id);
        if self.destinations.remove(&id).is_some() {
            self.step(Input::Removed(id));
        }
    }

    pub fn cancel(&mut self, owed: Vec<Owed>) {
        let owed = self.ours(owed);
        self.cancelled.extend(owed.iter().map(|it| it.seq));
        self.rules.cancelled.extend(owed.iter().map(|it| it.seq));
        self.step(Input::Cancel(owed));
    }

    /// The store has taken these on; the hint of them is on its way, or dropped.
    pub fn plan(&mut self, owed: Vec<Owed>, is_lost: bool) {
        for it in &owed {
            self.store.plan(*it);
        }
        // Hints stay in their order.
        let wait = match self.hints_are_late && self.chance.happens(10) {
            true => self.chance.millis(0, 300),
            false => self.chance.millis(0, 2),
        };
        self.last_hint = self.last_hint.max(self.now + wait);
        let life = self.life;
        let happening = if is_lost {
            let mut lost = Spilled::default();
            owed.iter().for_each(|it| lost.note(it));
            Happening::Lost { life, lost, seqs: owed.iter().map(|it| it.seq).collect() }
        } else {
            Happening::Hints { life, owed }
        };
        self.at(self.last_hint, happening);
    }

    /// The process dies and starts again.
    pub fn crash(&mut self) {
        self.life += 1;
        self.wake = None;
        self.batches.clear();
        self.bytes.clear();
        self.all_is_here();
        self.scheduler = Scheduler::new(self.options.clone());
        self.rules.restart(&self.store);
        if let Some(input) = self.set_back_at_start() {
            self.step(input);
        }
        for destination in self.destinations.values().cloned().collect::<Vec<_>>() {
            self.tell(destination);
        }
        let mut backlog: Vec<DestinationId> = self.store.all().map(|it| it.destination).collect();
        backlog.dedup();
        backlog.iter().for_each(|it| self.rules.start_slowly(*it));
        self.step(Input::Backlog(backlog));
    }

    /// What happens next; the number of a plot, if it is one. `None`: nothing will ever happen again.
    pub fn next(&mut self) -> Option<Option<u32>> {
        let ((time, _), happening) = self.agenda.pop_first()?;
        assert!(time >= self.now);
        self.now = time;
        match happening {
            Happening::Wake { life } if life == self.life && self.wake == Some(time) => {
                self.wake = None;
                self.step(Input::Tick);
            }
            Happening::Hints { life, owed } if life == self.life => {
                let owed = self.ours(owed);
                self.rules.tell(owed.iter().map(|it| it.seq));
                self.step(Input::Planned(owed));
            }
            Happening::Lost { life, lost, seqs } if life == self.life => {
                self.rules.tell(seqs.into_iter());
                self.step(Input::Spilled(self.our_loss(lost)));
            }
            Happening::AttemptEnds { life, owed, outcome } => {
                self.attempt_ends(life, owed, outcome);
            }
            Happening::TooMuch { life, owed } if life == self.life => {
                self.counts.too_much += 1;
                self.rules.note_over(&owed, true, true);
                let (destination, delivery) = (owed.destination, owed.seq);
                self.step(Input::TooMuch { destination, delivery });
            }
            Happening::Cut { life, destination, batch, left, missing } if life == self.life => {
                self.cut(destination, batch, left, missing);
            }
            Happening::PartEnds { life, destination, batch, part, outcome } => {
                self.part_ends(life, destination, batch, part, outcome);
            }
            Happening::BreaksOff { life, destination, batch } if life == self.life => {
                self.batch_over(destination, batch, false);
                self.step(Input::BrokenOff { destination, batch });
            }
            Happening::Commit { life, settlements } if life == self.life => {
                self.commit(life, settlements);
            }
            Happening::Confirm { life, settled } if life == self.life => {
                self.step(Input::Settled(settled));
            }
            Happening::Refuse { life, refused } if life == self.life => {
                self.step(Input::Refused(refused));
            }
            Happening::Snapshot { life, query } if life == self.life => self.snapshot(life, &query),
            Happening::Answer { life, destination, rows } if life == self.life => {
                self.step(Input::Refilled { destination, rows });
            }
            Happening::Change { destination } => {
                let is_here = !self.elsewhere.away.contains(&destination.id);
                if is_here && self.destinations.get(&destination.id) == Some(&destination) {
                    self.rules.reset(destination.id);
                    self.tell(destination);
                }
            }
            Happening::Plot(number) => return Some(Some(number)),
            Happening::Wake { .. }
            | Happening::Hints { .. }
            | Happening::Lost { .. }
            | Happening::TooMuch { .. }
            | Happening::Cut { .. }
            | Happening::BreaksOff { .. }
            | Happening::Commit { .. }
            | Happening::Confirm { .. }
            | Happening::Refuse { .. }
            | Happening::Snapshot { .. }
            | Happening::Answer { .. } => (),
        }
        Some(None)
    }

    pub fn cancel_at_once(&mut self, owed: &Owed) {
        if self.cancels_at_once
            && self.chance.happens(1)
            && let Some(stored) = self.store.get(owed).copied()
        {
            self.cancel(vec![stored]);
        }
    }

    fn commit(&mut self, life: u32, settlements: Vec<Settlement>) {
        if self.store_is_down {
            let wait = self.chance.seconds(1, 3);
            self.after(wait, Happening::Commit { life, settlements });
            return;
        }
        let settlements = self.taken(life, settlements);
        for settlement in &settlements {
            self.store.settle(settlement);
        }
        let settled = settlements.iter().map(|it| (it.owed.destination, it.owed.seq)).collect();
        let wait = self.chance.millis(0, 3);
        self.after(wait, Happening::Confirm { life, settled });
    }

    fn snapshot(&mut self, life: u32, query: &OwedQuery) {
        let (OwedQuery::Line { destination, .. }
        | OwedQuery::Due { destination, .. }
        | OwedQuery::First { destination }) = query
        else {
            panic!("not asked for here");
        };
        let rows = (!self.store_is_down).then(|| self.store.owed(query));
        let wait = self.chance.millis(0, 5);
        let destination = *destination;
        self.after(wait, Happening::Answer { life, destination, rows });
    }

    pub fn step(&mut self, input: Input) {
        self.steps += 1;
        let mut actions = std::mem::take(&mut self.actions);
        let wall = self.wall();
        if let Some(set_back) = self.set_back_unseen() {
            self.scheduler.step(wall, set_back, &mut actions);
        }
        self.scheduler.step(wall, input, &mut actions);
        if let Some(end) = self.ended.take() {
            self.note_end(end, &actions);
        }
        let mut settlements = Vec::new();
        let mut news = Vec::new();
        let life = self.life;
        for action in actions.drain(..) {
            match action {
                // What is made of them comes later, as everything that the scheduler has decided.
                Action::Attempt(_)
                | Action::Batch { .. }
                | Action::GoOn { .. }
                | Action::Leave { .. } => news.push(action),
                Action::Settle(settlement) => {
                    self.check_verdict(&settlement);
                    settlements.push(settlement);
                }
                Action::Refill(query) => {
                    let wait = self.chance.millis(0, 3);
                    self.after(wait, Happening::Snapshot { life, query });
                }
                Action::Wake(Some(at)) => {
                    let at = self.true_time(at).max(self.now);
                    self.wake = Some(at);
                    self.at(at, Happening::Wake { life });
                }
                Action::Wake(None) => self.wake = None,
                Action::Disable { destination, version, reason } => {
                    let since = self.now;
                    if self.destinations.get(&destination).is_some_and(|it| it.version == version) {
                        self.change(destination, |it| {
                            it.state = DestinationState::Disabled { since, reason };
                        });
                    }
                }
                Action::Drained => (),
            }
        }
        self.actions = actions;
        for action in news {
            match action {
                Action::Attempt(owed) => self.attempt(owed),
                Action::Batch { destination, number, deliveries, bytes } => {
                    self.batch(destination, number, deliveries, bytes);
                }
                Action::GoOn { destination, number } => self.go_on(destination, number),
                Action::Leave { destination, number } => {
                    self.batch_over(destination, number, false);
                }
                _ => (),
            }
        }
        if !settlements.is_empty() {
            let wait = self.chance.millis(0, 5);
            self.after(wait, Happening::Commit { life, settlements });
        }
        self.check_bounds();
    }

    fn attempt(&mut self, owed: Owed) {
        let destination = self.destinations.get(&owed.destination);
        self.rules.check_start(&owed, destination, self.now);
        let decided = self.rules.tellings;
        self.rules.check_carried(decided, &[owed], destination, &self.store, self.wall());
        let life = self.life;
        if !self.take(owed.destination, weight(owed.seq)) {
            let now = self.now;
            return self.at(now, Happening::TooMuch { life, owed });
        }
        let endpoint = &self.endpoints[&owed.destination];
        let outcome = endpoint.answer(&[owed.seq], self.now, &mut self.chance);
        self.after(outcome.duration, Happening::AttemptEnds { life, owed, outcome });
    }

    fn check_bounds(&mut self) {
        let totals = self.scheduler.totals();
        assert!(totals.in_flight <= self.options.in_flight, "more in flight than allowed");
        assert_eq!(totals.in_flight, self.rules.in_flight());
        self.most_held = self.most_held.max(totals.held);
    }

    /// Every delivery that ended did so rightly.
    pub fn check_ends(&self) {
        for owed in &self.store.planned {
            let Some((ended, reason)) = self.store.ended.get(&owed.seq) else {
                assert!(self.store.get(owed).is_some(), "{owed:?} is lost");
                continue;
            };
            let is_deleted = !self.destinations.contains_key(&owed.destination);
            match ended {
                Ended::Delivered => assert!(self.accepted.contains(&owed.seq), "{owed:?}"),
                Ended::Cancelled => {
                    assert!(is_deleted || self.cancelled.contains(&owed.seq), "{owed:?}: {reason}");
                }
                Ended::Expired | Ended::Dead => {
                    assert!(!reason.is_empty());
                }
            }
        }
    }
}
