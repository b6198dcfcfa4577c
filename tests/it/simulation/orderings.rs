//! The ordering of a destination changes while its endpoint is down.

use std::{collections::BTreeMap, num::NonZeroU32, time::Duration};

use jiff::Timestamp;
use tidegate::{
    dispatch::Options,
    model::{
        DeliverySeq, DestinationId, Era, Lane, Ordering, Owed, Place, Policy, Retry, RetryPreset,
        Standing,
    },
};

use super::{
    endpoint::{Endpoint, Mode},
    story::destination,
    world::World,
};

const KEYS: u64 = 5;
const EVENTS: u64 = 40;

/// What happens after the orderings have changed, while the endpoint is down.
#[derive(Clone, Copy, Debug)]
enum Then {
    Nothing,
    Crash,
    /// The process dies, and the first that waits is cancelled.
    CrashAndCancel,
    /// Of what was planned last, no hint came.
    LostHints,
}

struct Seen {
    /// The events of each key that arrived, in the order of arrival.
    keys: BTreeMap<u64, Vec<u64>>,
    /// How many had arrived before the endpoint was mended.
    early: usize,
}

fn lane(ordering: &Ordering, key: u64) -> Lane {
    match ordering {
        Ordering::None => Lane::NONE,
        Ordering::Fifo => Lane(1),
        Ordering::Key(by) => {
            let hash = (key + by.len() as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            Lane(hash.rotate_left(by.len() as u32) | 1)
        }
    }
}

fn plan(world: &mut World, id: DestinationId, is_lost: bool) {
    let settings = world.destinations[&id].clone();
    for _ in 0..EVENTS {
        let event = world.store.next_event();
        let lane = lane(&settings.policy.ordering, event.0 % KEYS);
        let position = match lane {
            Lane::NONE => 0,
            Lane(_) => settings.era.position(world.wall()),
        };
        let owed = Owed {
            seq: DeliverySeq::new(event, 0),
            destination: id,
            place: Place { lane, position },
            accepted_at: world.wall(),
            standing: Standing::NEW,
        };
        world.plan(vec![owed], is_lost);
    }
}

fn run_until(world: &mut World, end: Timestamp) {
    while world.now < end && world.next().is_some() {}
}

fn change(orderings: &[Ordering], options: Options, then: Then) -> Seen {
    let mut world = World::new(3, options);
    world.cancels_at_once = false;
    world.hints_are_late = false;
    let mut destination = destination(1, 1, Policy::default());
    let id = destination.id;
    destination.policy = Policy {
        ordering: orderings[0].clone(),
        retry: Retry::Preset(RetryPreset::Standard),
        concurrency: NonZeroU32::new(16).unwrap(),
        ..Policy::default()
    };
    world.add(destination, Endpoint { mode: Mode::Dead, poison_in: 0 });
    let minute = Duration::from_secs(60);
    for (number, ordering) in orderings.iter().enumerate() {
        world.change(id, |it| it.policy.ordering = ordering.clone());
        let is_last = number + 1 == orderings.len();
        plan(&mut world, id, is_last && matches!(then, Then::LostHints));
        let end = world.now + minute;
        run_until(&mut world, end);
    }
    let first = world.store.all().min_by_key(|it| it.seq).copied();
    match then {
        Then::Nothing | Then::LostHints => (),
        Then::Crash => world.crash(),
        Then::CrashAndCancel => {
            world.crash();
            world.cancel(first.into_iter().collect());
        }
    }
    let early = world.arrivals.len();
    world.endpoints.get_mut(&id).unwrap().mode = Mode::Healthy;
    while world.next().is_some() {}
    assert_eq!(world.store.all().count(), 0, "something is stuck");
    let mut arrivals: Vec<(Timestamp, u64)> =
        world.arrivals.iter().map(|(seq, at)| (*at, seq.event().0)).collect();
    arrivals.sort_unstable();
    let mut keys: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
    for (_, event) in arrivals {
        keys.entry(event % KEYS).or_default().push(event);
    }
    Seen { keys, early }
}

fn small() -> Options {
    Options { window: 12, held_at_most: 30, per_lane: 2, page: 7, ..Options::default() }
}

fn by(key: &str) -> Ordering {
    Ordering::Key(key.to_owned())
}

#[test]
fn each_key_keeps_its_order_over_changes_of_the_ordering() {
    let fifo = || Ordering::Fifo;
    for orderings in [
        vec![fifo(), by("a")],
        vec![by("a"), fifo()],
        vec![by("a"), by("bcd")],
        vec![fifo(), by("a"), fifo()],
        vec![by("a"), by("bcd"), by("a"), fifo()],
    ] {
        for options in [small(), Options::default()] {
            for then in [Then::Nothing, Then::Crash, Then::CrashAndCancel, Then::LostHints] {
                let case = format!("{orderings:?}, then {then:?}, {} held", options.window);
                let seen = change(&orderings, options.clone(), then);
                assert_eq!(seen.early, 0, "{case}");
                let count: usize = seen.keys.values().map(Vec::len).sum();
                let is_cancelled = usize::from(matches!(then, Then::CrashAndCancel));
                assert_eq!(count + is_cancelled, EVENTS as usize * orderings.len(), "{case}");
                assert!(seen.keys.values().all(|it| it.is_sorted()), "{case}: {:?}", seen.keys);
            }
        }
    }
}

#[test]
fn loose_deliveries_neither_wait_nor_are_waited_for() {
    for (old, new) in [(Ordering::None, by("a")), (by("a"), Ordering::None)] {
        let mut world = World::new(3, Options::default());
        world.cancels_at_once = false;
        let policy = Policy {
            ordering: old.clone(),
            retry: Retry::Waits(vec![Duration::from_secs(7_200).into()]),
            ..Policy::default()
        };
        let destination = destination(1, 1, policy);
        let id = destination.id;
        world.add(destination, Endpoint { mode: Mode::Dead, poison_in: 0 });
        plan(&mut world, id, false);
        let end = world.now + Duration::from_secs(60);
        run_until(&mut world, end);
        world.endpoints.get_mut(&id).unwrap().mode = Mode::Healthy;
        world.change(id, |it| it.policy.ordering = new.clone());
        let before = world.store.events;
        plan(&mut world, id, false);
        let end = world.now + Duration::from_secs(600);
        run_until(&mut world, end);
        let new_ones = world.arrivals.keys().filter(|it| it.event().0 > before).count();
        assert_eq!(new_ones, EVENTS as usize, "{old:?} → {new:?}");
        assert!(world.store.all().any(|it| it.seq.event().0 <= before), "{old:?} → {new:?}");
    }
}

#[test]
fn an_ordering_that_comes_back_is_another_era() {
    let mut destination = destination(1, 1, Policy::default());
    let mut eras = Vec::new();
    for ordering in
        [Ordering::None, by("a"), by("a"), Ordering::None, by("a"), Ordering::Fifo, by("a")]
    {
        destination.era = destination.era_with(&ordering);
        destination.policy.ordering = ordering;
        eras.push(destination.era);
    }
    let mut numbers = vec![Era::FIRST];
    numbers.extend((0..4).scan(Era::FIRST, |era, _| {
        *era = era.next();
        Some(*era)
    }));
    let expected: Vec<Era> = [0, 1, 1, 1, 2, 3, 4].map(|it| numbers[it]).to_vec();
    assert_eq!(eras, expected);
}
