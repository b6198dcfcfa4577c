//! The scheduler in a world that fails: endpoints, the store, hints and the process itself.
//!
//! Each seed is one story of some virtual days, after which the faults stop and everything that can
//! be delivered must be. `SEED=42` runs one story; `SIMULATION_SEEDS=100000` runs so many.

pub mod chance;
mod store;
mod endpoint;
mod rules;
mod world;
mod batches;
mod handover;
mod clock;
mod story;
mod neighbours;
mod orderings;

use std::time::Instant;

#[test]
fn whatever_fails_nothing_is_lost_overtaken_or_stuck() {
    if let Ok(seed) = std::env::var("SEED") {
        story::tell(seed.parse().expect("a seed is a number"));
        return;
    }
    let seeds = std::env::var("SIMULATION_SEEDS").map_or(300, |it| it.parse().expect("a number"));
    let started = Instant::now();
    let mut sum = story::Summary::default();
    for seed in 0..seeds {
        match std::panic::catch_unwind(|| story::tell(seed)) {
            Ok(summary) => sum.add(&summary),
            Err(panic) => {
                eprintln!("the story of SEED={seed} went wrong");
                std::panic::resume_unwind(panic);
            }
        }
    }
    let hours = sum.hours / started.elapsed().as_secs_f64();
    println!("{seeds} seeds, {sum:?}, {hours:.0} virtual hours a second");
    // A world in which nothing goes wrong proves nothing.
    if seeds >= 100 {
        assert!(sum.delivered > 0 && sum.dead > 0 && sum.expired > 0 && sum.cancelled > 0);
        assert!(sum.crashes > 0 && sum.attempts > sum.delivered / 2 && sum.refused > 0);
        let counts = &sum.counts;
        assert!(counts.batches > 0 && counts.further_requests > 0 && counts.cut > 0);
        assert!(counts.waits_for_eras > 0);
        assert!(counts.told_apart > 0 && counts.clocks_set > 0);
        assert!(counts.halved > 0 && counts.too_much > 0 && counts.not_retried > 0);
    }
}
