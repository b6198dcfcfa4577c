//! Invariant 8: what one destination does, the others do not feel.

use std::{num::NonZeroU32, time::Duration};

use tidegate::{
    dispatch::Options,
    model::{
        Breaker, DeliverySeq, DestinationId, Lane, Owed, Place, Policy, Retry, RetryPreset,
        Standing,
    },
};

use super::{
    endpoint::{Endpoint, Mode},
    story::destination,
    world::{Happening, World},
};

const HEALTHY: u64 = 10;

/// The 99th percentile of the time from plan to arrival at ten healthy destinations, each of which
/// gets an event every 100 ms for ten seconds, beside so many others that are in this state and get
/// five times as much.
fn p99_beside(bad: u64, mode: Mode, projects: u64) -> Duration {
    let options = Options { in_flight: 64, window: 100, held_at_most: 2_000, ..Options::default() };
    let mut world = World::new(7, options);
    world.hints_are_late = false;
    world.cancels_at_once = false;
    let policy = Policy {
        retry: Retry::Preset(RetryPreset::Standard),
        concurrency: NonZeroU32::new(32).unwrap(),
        // Never opens: the neighbours are protected by their shares alone.
        breaker: Breaker {
            failures_in_a_row: NonZeroU32::MAX,
            failure_share: 2.0,
            ..Breaker::default()
        },
        ..Policy::default()
    };
    for number in 0..HEALTHY + bad {
        let is_bad = number >= HEALTHY;
        let project = if is_bad { projects } else { 1 };
        let mode = if is_bad { mode } else { Mode::Healthy };
        let endpoint = Endpoint { mode, poison_in: 0 };
        world.add(destination(number, project, policy.clone()), endpoint);
    }
    for tick in 0..1_000_u64 {
        let after = Duration::from_millis(10 * tick);
        world.after(after, Happening::Plot(tick as u32));
    }
    let end = world.now + Duration::from_secs(20);
    while world.now < end {
        let Some(plot) = world.next() else { break };
        if let Some(tick) = plot {
            let event = world.store.next_event();
            let owed = (0..HEALTHY + bad)
                .filter(|number| match *number >= HEALTHY {
                    true => tick % 2 == 0,
                    false => u64::from(tick) % 10 == *number,
                })
                .map(|number| Owed {
                    seq: DeliverySeq::new(event, number as u16),
                    destination: id(number),
                    place: Place { lane: Lane::NONE, position: 0 },
                    accepted_at: world.now,
                    standing: Standing::NEW,
                })
                .collect();
            world.plan(owed, false);
        }
    }
    let healthy = world.store.planned.iter().filter(|it| it.destination < id(HEALTHY));
    let mut waits: Vec<Duration> = healthy
        .map(|it| match world.arrivals.get(&it.seq) {
            Some(arrival) => arrival.duration_since(it.accepted_at).unsigned_abs(),
            None => Duration::MAX,
        })
        .collect();
    waits.sort_unstable();
    assert!(world.most_held <= 2_000 + 16 * (HEALTHY + bad) as usize, "{}", world.most_held);
    waits[waits.len() * 99 / 100]
}

fn id(number: u64) -> DestinationId {
    DestinationId::from_bits(u128::from(number) << 64 | 7)
}

#[test]
fn healthy_destinations_do_not_feel_dead_or_flooded_neighbours() {
    let alone = p99_beside(0, Mode::Healthy, 1);
    for (mode, projects) in [
        (Mode::Dead, 1),
        (Mode::Dead, 2),
        (Mode::Slow, 1),
        (Mode::Slow, 2),
        (Mode::Flaky(100), 1),
        (Mode::Healthy, 2),
    ] {
        let beside = p99_beside(20, mode, projects);
        assert!(beside <= alone * 6 / 5, "{mode:?} in project {projects}: {beside:?}, {alone:?}");
    }
}
