//! One story: random destinations, events, faults and people, from a seed.

use std::{collections::BTreeMap, num::NonZeroU32, sync::Arc, time::Duration};

use jiff::Timestamp;
use tidegate::{
    destinations::profiles,
    dispatch::{Input, Options},
    model::{
        Auth, Batch, Breaker, Connection, DeliverySeq, Destination, DestinationId,
        DestinationState, Ended, Era, EventSeq, Exponential, Lane, Ordering, Owed, Place, Policy,
        Profile, ProjectId, RateLimit, Retry, RetryOn, RetryPreset, Standing, Webhook,
    },
};

use super::{
    batches::Counts,
    chance::Chance,
    endpoint::{Endpoint, Mode},
    rules::FIRST_OF_REPLAYS,
    world::{Happening, World, start_of_time},
};

#[derive(Debug, Default)]
pub struct Summary {
    pub hours: f64,
    pub steps: u64,
    pub attempts: u64,
    pub crashes: u64,
    pub delivered: u64,
    pub dead: u64,
    pub expired: u64,
    pub cancelled: u64,
    pub refused: u64,
    pub counts: Counts,
}

impl Summary {
    pub fn add(&mut self, other: &Self) {
        self.hours += other.hours;
        self.steps += other.steps;
        self.attempts += other.attempts;
        self.crashes += other.crashes;
        self.delivered += other.delivered;
        self.dead += other.dead;
        self.expired += other.expired;
        self.cancelled += other.cancelled;
        self.refused += other.refused;
        let (counts, others) = (&mut self.counts, &other.counts);
        counts.batches += others.batches;
        counts.further_requests += others.further_requests;
        counts.cut += others.cut;
        counts.halved += others.halved;
        counts.too_much += others.too_much;
        counts.not_retried += others.not_retried;
        counts.told_apart += others.told_apart;
        counts.clocks_set += others.clocks_set;
        counts.waits_for_eras += others.waits_for_eras;
    }
}

// The plots of a story.
const EVENTS: u32 = 0;
const FAULT: u32 = 1;
const PEOPLE: u32 = 2;
const CRASH: u32 = 3;
const STORE_DOWN: u32 = 4;
const STORE_UP: u32 = 5;
const FAULTS_STOP: u32 = 6;
const HANDOVER: u32 = 7;
const CLOCK: u32 = 8;

struct Story {
    world: World,
    ids: Vec<DestinationId>,
    end: Timestamp,
    events_left: u64,
    /// Percent of hints that are dropped.
    loses_hints: u64,
    crashes: u64,
    /// As whoever plans knows them: some time behind.
    known: BTreeMap<DestinationId, Arc<Destination>>,
}

pub fn tell(seed: u64) -> Summary {
    let mut chance = Chance::new(seed.wrapping_mul(7_919).wrapping_add(1));
    let options = random_options(&mut chance);
    let mut world = World::new(seed, options);
    world.groups = *chance.of(&[1, 1, 2, 5]);
    world.line_bytes = *chance.of(&[usize::MAX, usize::MAX, 300, 3_000]);
    let days = chance.seconds(6 * 3_600, 4 * 24 * 3_600);
    let mut story = Story {
        world,
        ids: Vec::new(),
        end: start_of_time() + days,
        events_left: chance.between(20, 400),
        loses_hints: *chance.of(&[0, 0, 5, 30, 100]),
        crashes: 0,
        known: BTreeMap::new(),
    };
    for number in 1..=chance.between(1, 6) {
        let destination = random_destination(number, &mut chance);
        story.ids.push(destination.id);
        let poison_in = *chance.of(&[0, 0, 10, 50]);
        story.world.add(destination, Endpoint { mode: Mode::Healthy, poison_in });
    }
    for plot in [EVENTS, FAULT, PEOPLE, CRASH, STORE_DOWN, HANDOVER] {
        story.world.after(chance.seconds(0, 3_600), Happening::Plot(plot));
    }
    if chance.happens(30) {
        story.world.after(chance.seconds(0, 3_600), Happening::Plot(CLOCK));
    }
    let end = story.end;
    story.world.at(end, Happening::Plot(FAULTS_STOP));
    story.run();
    story.summary()
}

impl Story {
    fn run(&mut self) {
        let mut at_once = 0;
        let mut last = self.world.now;
        while let Some(plot) = self.world.next() {
            if let Some(plot) = plot {
                self.play(plot);
            }
            at_once = if self.world.now > last { 0 } else { at_once + 1 };
            last = self.world.now;
            assert!(at_once < 10_000, "it goes round without time passing");
            assert!(self.world.steps < 2_000_000, "it does not come to an end");
        }
        // Everything was healthy for so long that every schedule came to its end.
        let stuck = self.world.store.all().next();
        if let Some(stuck) = stuck.copied() {
            let status = self.world.scheduler.status(stuck.destination, self.world.wall());
            panic!("nothing fails any more, and still owed is {stuck:?}: {status:?}");
        }
        assert!(self.world.scheduler.is_idle() && self.world.scheduler.totals().held == 0);
        let after = self.world.now.duration_since(self.end).as_hours();
        assert!(after <= 24 * 6 / 5 + 10, "it took {after} hours to settle");
        self.world.check_ends();
    }

    fn play(&mut self, plot: u32) {
        let is_over = self.world.now >= self.end;
        match plot {
            FAULTS_STOP => return self.stop_faults(),
            STORE_UP => self.world.store_is_down = false,
            _ if is_over => return,
            EVENTS => self.events(),
            PEOPLE if self.world.chance.happens(2) => {
                // Retention takes events of which something is still owed.
                let forgotten: Vec<_> = self.world.store.all().map(|it| it.seq).take(3).collect();
                self.world.rules.forgotten.extend(forgotten);
            }
            FAULT => {
                let id = *self.world.chance.of(&self.ids);
                let mode = Endpoint::random_mode(&mut self.world.chance);
                if let Some(endpoint) = self.world.endpoints.get_mut(&id) {
                    endpoint.mode = mode;
                }
            }
            PEOPLE => self.people(),
            CLOCK => {
                self.world.set_clock();
                self.world.counts.clocks_set += 1;
            }
            HANDOVER => {
                let id = *self.world.chance.of(&self.ids);
                self.world.hand_over(id);
            }
            CRASH => {
                if self.world.chance.happens(50) {
                    self.world.crash();
                    self.crashes += 1;
                }
            }
            STORE_DOWN => {
                if self.world.chance.happens(30) {
                    self.world.store_is_down = true;
                    let wait = self.world.chance.seconds(1, 300);
                    self.world.after(wait, Happening::Plot(STORE_UP));
                }
            }
            _ => panic!("no such plot"),
        }
        let wait = match plot {
            STORE_UP => return,
            // Mostly bursts, sometimes long pauses.
            EVENTS if self.events_left == 0 => return,
            EVENTS if self.world.chance.happens(60) => self.world.chance.millis(0, 500),
            EVENTS => self.world.chance.seconds(1, 7_200),
            HANDOVER if self.world.chance.happens(60) => self.world.chance.millis(0, 2_000),
            CRASH | STORE_DOWN => self.world.chance.seconds(60, 24 * 3_600),
            _ => self.world.chance.seconds(1, 4 * 3_600),
        };
        self.world.after(wait, Happening::Plot(plot));
    }

    fn events(&mut self) {
        let mut owed = Vec::new();
        let mut replayed = Vec::new();
        for _ in 0..self.world.chance.between(1, 12).min(self.events_left) {
            self.events_left -= 1;
            if self.world.chance.happens(5) && self.world.store.events > 0 {
                let replay = self.replay(&replayed);
                replayed.push(replay);
                continue;
            }
            let event = self.world.store.next_event();
            self.look_at_settings();
            for (ordinal, id) in self.ids.clone().into_iter().enumerate() {
                if self.world.chance.happens(70) {
                    let by = self.known.get(&id).cloned();
                    owed.push(self.delivery(event, ordinal as u16, id, by.as_deref()));
                }
            }
        }
        let is_lost = self.world.chance.happens(self.loses_hints);
        self.world.plan(owed, is_lost);
        // The scheduler is not handed replays; it is told to read them.
        self.world.plan(replayed, true);
    }

    /// A new delivery of an old event, with an ordinal that no other has.
    fn replay(&mut self, others: &[Owed]) -> Owed {
        let event = EventSeq(self.world.chance.between(1, self.world.store.events));
        let id = *self.world.chance.of(&self.ids);
        let all = self.world.store.planned.iter().chain(others);
        let made = all.filter(|it| it.seq.event() == event).count();
        let by = self.world.destinations.get(&id).cloned();
        self.delivery(event, FIRST_OF_REPLAYS + made as u16, id, by.as_deref())
    }

    fn look_at_settings(&mut self) {
        for (id, destination) in &self.world.destinations {
            if self.world.chance.happens(50) || !self.known.contains_key(id) {
                self.known.insert(*id, destination.clone());
            }
        }
    }

    fn delivery(
        &mut self,
        event: EventSeq,
        ordinal: u16,
        id: DestinationId,
        by: Option<&Destination>,
    ) -> Owed {
        let now = self.world.wall();
        let late = match self.world.chance.happens(10) {
            true => self.world.chance.millis(0, 3_600_000),
            false => Duration::ZERO,
        };
        let position = by.map_or(0, |it| it.era.position(now - late));
        let place = match by.map(|it| &it.policy.ordering) {
            None | Some(Ordering::None) => Place { lane: Lane::NONE, position: 0 },
            Some(Ordering::Fifo) => Place { lane: Lane(1), position },
            Some(Ordering::Key(_)) => {
                // Lanes all over the range, the ends included.
                let key = self.world.chance.between(1, 8);
                Place { lane: Lane(key.wrapping_mul(0x2492_4924_9249_2492) | 1), position }
            }
        };
        let is_earlier = |it: &Owed| {
            let (lane, era) = (it.place.lane, Era::of(it.place.position));
            it.destination == id && lane != Lane::NONE && era < Era::of(place.position)
        };
        if place.lane != Lane::NONE && self.world.store.all().any(is_earlier) {
            self.world.counts.waits_for_eras += 1;
        }
        let seq = DeliverySeq::new(event, ordinal);
        Owed { seq, destination: id, place, accepted_at: now, standing: Standing::NEW }
    }

    fn people(&mut self) {
        let id = *self.world.chance.of(&self.ids);
        let since = self.world.now;
        match self.world.chance.between(0, 10) {
            0 => self.world.change(id, |it| it.state = DestinationState::Paused { since }),
            1..=3 => {
                // Whatever is not active is resumed.
                for id in self.ids.clone() {
                    if self.world.is_inactive(id) {
                        self.world.change(id, |it| it.state = DestinationState::Active);
                    }
                }
            }
            4 => {
                let count = self.world.chance.size(1, 5);
                let skip = self.world.chance.size(0, 50);
                let owed = self.world.store.all().skip(skip).take(count).copied().collect();
                self.world.cancel(owed);
            }
            5 => {
                let mut policy = random_policy(&mut self.world.chance);
                if let Some(destination) = self.world.destinations.get(&id) {
                    if self.world.chance.happens(70) {
                        policy.ordering = destination.policy.ordering.clone();
                    }
                    self.world.change(id, |it| it.policy = policy);
                }
            }
            6 => {
                self.world.rules.reset(id);
                self.world.step(Input::Poke(id));
            }
            8 | 9 if self.world.chance.happens(30) => {
                let ordering = random_ordering(&mut self.world.chance);
                self.world.change(id, |it| it.policy.ordering = ordering);
            }
            7 if self.world.chance.happens(20) => self.world.delete(id),
            _ => (),
        }
    }

    fn stop_faults(&mut self) {
        self.world.store_is_down = false;
        for id in self.ids.clone() {
            self.world.come_back(id);
        }
        for endpoint in self.world.endpoints.values_mut() {
            *endpoint = Endpoint { mode: Mode::Healthy, poison_in: 0 };
        }
        // Also those that are about to be disabled.
        for id in self.ids.clone() {
            self.world.change(id, |it| it.state = DestinationState::Active);
        }
    }

    fn summary(&mut self) -> Summary {
        let counts = std::mem::take(&mut self.world.counts);
        let count =
            |ended| self.world.store.ended.values().filter(|it| it.0 == ended).count() as u64;
        Summary {
            hours: self.world.now.duration_since(start_of_time()).as_secs_f64() / 3_600.0,
            steps: self.world.steps,
            attempts: self.world.rules.attempts,
            crashes: self.crashes,
            delivered: count(Ended::Delivered),
            dead: count(Ended::Dead),
            expired: count(Ended::Expired),
            cancelled: count(Ended::Cancelled),
            refused: self.world.elsewhere.refused,
            counts,
        }
    }
}

fn random_options(chance: &mut Chance) -> Options {
    Options {
        in_flight: chance.size(2, 24),
        window: *chance.of(&[1, 2, 5, 20, 100]),
        held_at_most: chance.size(10, 200),
        per_lane: chance.size(1, 8),
        page: chance.size(1, 20),
        blocked_lanes_at_most: 1_000,
        reads_at_once: chance.size(1, 3),
        unsettled_at_most: chance.size(2, 60),
        park_after: chance.seconds(1, 120),
        ..Options::default()
    }
}

fn random_ordering(chance: &mut Chance) -> Ordering {
    chance.of(&[Ordering::None, Ordering::Fifo, Ordering::Key("x".into())]).clone()
}

pub fn random_policy(chance: &mut Chance) -> Policy {
    let waits = |chance: &mut Chance| {
        let longest = *chance.of(&[5, 300, 7_200]);
        (0..chance.between(1, 6)).map(|_| chance.seconds(1, longest).into()).collect()
    };
    let retry = match chance.between(0, 5) {
        0 => Retry::Preset(RetryPreset::Standard),
        1 => Retry::Preset(RetryPreset::Admin24h),
        2 => Retry::Preset(RetryPreset::Segment4h),
        3 => Retry::Exponential(Exponential {
            base: chance.seconds(1, 60),
            factor: 2.0,
            max: chance.seconds(60, 7_200),
            attempts: nonzero(chance.between(2, 12)),
            within: chance.happens(30).then(|| chance.seconds(600, 36_000)),
        }),
        _ => Retry::Waits(waits(chance)),
    };
    let batch = chance.happens(50).then(|| Batch {
        events: nonzero(*chance.of(&[1, 2, 3, 10, 50])),
        bytes: nonzero(*chance.of(&[100, 2_000, 100_000])),
        linger: *chance.of(&[Duration::ZERO, Duration::from_millis(50), Duration::from_secs(5)]),
    });
    Policy {
        batch,
        retry_on: *chance.of(&[
            RetryOn::All,
            RetryOn::All,
            RetryOn::Temporary,
            RetryOn::ServerErrors,
        ]),
        ordering: random_ordering(chance),
        retry,
        expires_after: chance.happens(30).then(|| chance.seconds(600, 72_000)),
        concurrency: nonzero(chance.between(1, 8)),
        rate_limit: chance.happens(40).then(|| RateLimit {
            events: nonzero(chance.between(1, 200)),
            per: chance.seconds(1, 60),
        }),
        breaker: Breaker {
            failures_in_a_row: nonzero(chance.between(2, 8)),
            open_for: chance.seconds(1, 20),
            // Above 1 it never counts, and the rules can tell from outside when the breaker opens.
            failure_share: *chance.of(&[0.3, 2.0, 2.0]),
            ..Breaker::default()
        },
        ..Policy::default()
    }
}

fn random_destination(number: u64, chance: &mut Chance) -> Destination {
    destination(number, chance.between(1, 3), random_policy(chance))
}

pub fn destination(number: u64, project: u64, policy: Policy) -> Destination {
    Destination {
        id: DestinationId::from_bits(u128::from(number) << 64 | 7),
        project: ProjectId::from_bits(u128::from(project)),
        name: format!("d{number}").parse().unwrap(),
        version: 1,
        state: DestinationState::Active,
        policy,
        era: Era::FIRST,
        connection: Connection::Webhook(Webhook {
            profile: Profile::Standard,
            urls: vec!["https://example.com/".to_owned().try_into().unwrap()],
            headers: Default::default(),
            auth: Auth::None,
            signing_keys: Vec::new(),
            contract: profiles::values(Profile::Standard).contract,
        }),
        created_at: start_of_time(),
    }
}

fn nonzero(number: u64) -> NonZeroU32 {
    NonZeroU32::new(number as u32).unwrap()
}
