//! Merges runs, so that their number grows only with the logarithm of the keys.

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use super::{KeyHash, run::Run, write::RunWriter};
use crate::store::Result;

/// The next runs to merge, as a range of `counts`, which holds the sizes of the runs from old to new.
///
/// A run's tier is the logarithm of its size. Only neighbours merge, so that a run always holds the
/// keys of one stretch of events; a run in front of a larger one counts as if it were as large.
pub fn pick(counts: &[u64], base: u64, fan_in: usize) -> Option<std::ops::Range<usize>> {
    let mut end = counts.len();
    let mut tier = 0;
    while end > 0 {
        tier = tier.max(tier_of(counts[end - 1], base, fan_in));
        let start = counts[..end]
            .iter()
            .rposition(|&count| tier_of(count, base, fan_in) > tier)
            .map_or(0, |larger| larger + 1);
        if end - start >= fan_in {
            return Some(start..end);
        }
        end = start;
    }
    None
}

fn tier_of(count: u64, base: u64, fan_in: usize) -> u32 {
    (count / base.max(1)).checked_ilog(fan_in as u64).unwrap_or(0)
}

/// One run of several neighbours, given from old to new; `None` when it was stopped. What it
/// was made of is left as it is: until those files are gone, a crash leaves both, and both are right.
pub fn merge(
    folder: &Path,
    secret_check: u64,
    runs: &[Arc<Run>],
    filter_memory: u64,
    stop: &AtomicBool,
) -> Result<Option<Run>> {
    let first = runs.iter().map(|it| *it.events().start()).min().unwrap_or_default();
    let last = runs.iter().map(|it| *it.events().end()).max().unwrap_or_default();
    let most = runs.iter().map(|it| it.count()).sum();
    let mut writer = RunWriter::create(folder, secret_check, (first, last), most)?;

    let mut sources: Vec<_> = runs.iter().map(|it| it.items()).collect();
    let mut heads = BinaryHeap::new();
    for (age, source) in sources.iter_mut().enumerate() {
        if let Some((hash, id)) = source.next().transpose()? {
            heads.push(Reverse((hash, Reverse(age), id)));
        }
    }
    let mut previous: Option<KeyHash> = None;
    while let Some(Reverse((hash, Reverse(age), id))) = heads.pop() {
        if stop.load(Ordering::Relaxed) {
            return Ok(None);
        }
        // Of equal hashes the one in the newest run stays: a key that counts for a while only may have
        // been taken again.
        if previous != Some(hash) {
            writer.push((hash, id))?;
        }
        previous = Some(hash);
        if let Some((hash, id)) = sources[age].next().transpose()? {
            heads.push(Reverse((hash, Reverse(age), id)));
        }
    }
    writer.finish(filter_memory).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_of_one_tier_merge_when_there_are_enough() {
        #[track_caller]
        fn check(counts: &[u64], expected: Option<std::ops::Range<usize>>) {
            assert_eq!(pick(counts, 100, 4), expected, "{counts:?}");
        }
        check(&[], None);
        check(&[100, 100, 100], None);
        check(&[100, 100, 100, 100], Some(0..4));
        check(&[400, 100, 100, 100], None);
        check(&[400, 100, 100, 100, 100], Some(1..5));
        check(&[400, 400, 400, 400], Some(0..4));
        check(&[400, 400, 400, 400, 100], Some(0..4));
        check(&[400, 400, 400, 100, 100, 100], None);
        // Small runs, left by an early flush, go with the larger ones behind them.
        check(&[3, 400, 5, 400, 400], Some(0..5));
        check(&[0, 0, 0, 0], Some(0..4));
    }

    #[test]
    fn the_number_of_runs_grows_with_the_logarithm() {
        let mut counts = Vec::new();
        let mut written = 0;
        for _ in 0..10_000 {
            counts.extend([100]);
            while let Some(range) = pick(&counts, 100, 4) {
                let merged: u64 = counts[range.clone()].iter().sum();
                written += merged;
                counts.splice(range, [merged]);
            }
        }
        assert!(counts.len() <= 3 * 7, "{counts:?}");
        assert!(written <= 7 * 100 * 10_000, "each key is written once a tier: {written}");
    }
}
