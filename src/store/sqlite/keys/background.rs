//! The two threads behind the key index: one turns full tables into runs, one merges runs. A merge
//! may take long, and tables must not wait for it.

use std::{
    fs,
    ops::Range,
    path::{Path, PathBuf},
    sync::{Arc, MutexGuard, atomic::Ordering},
    thread::{self, JoinHandle},
    time::Duration,
};

use super::{
    KeyHash, KeyIndexLimits, Shared, State, Table, merge,
    run::{self, EXTENSION, Run},
    wait,
    write::{self, RunWriter, UNFINISHED},
};
use crate::{
    model::EventId,
    store::{Result, StoreError},
};

/// How long to leave a disk alone that failed.
const PAUSE: Duration = Duration::from_secs(1);

pub fn start(shared: &Arc<Shared>) -> Result<Vec<JoinHandle<()>>> {
    let spawn = |name: &str, work: fn(&Shared)| {
        let shared = shared.clone();
        thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || work(&shared))
            .map_err(run::failure)
    };
    Ok(vec![spawn("keys-flush", flush_tables)?, spawn("keys-merge", merge_runs)?])
}

/// The runs of a folder, from old to new. They join without a gap.
pub fn open_runs(
    folder: &Path,
    secret_check: u64,
    limits: &KeyIndexLimits,
) -> Result<Vec<Arc<Run>>> {
    const GAP: StoreError = StoreError::Damaged { what: "key index: a run is missing" };
    let mut ranges = Vec::new();
    for entry in fs::read_dir(folder).map_err(run::failure)? {
        let path = entry.map_err(run::failure)?.path();
        match path.extension().and_then(|it| it.to_str()) {
            Some(UNFINISHED) => fs::remove_file(&path).map_err(run::failure)?,
            Some(EXTENSION) => ranges.push((range_of(&path)?, path)),
            Some(_) | None => (),
        }
    }
    // By their first event, the longest first: what follows within its range was merged into it.
    ranges.sort_by_key(|(range, _)| (range.start, u64::MAX - range.end));
    let mut kept: Vec<(Range<u64>, PathBuf)> = Vec::new();
    for (range, path) in ranges {
        let next = kept.last().map_or(1, |(last, _)| last.end);
        if range.end <= next {
            fs::remove_file(&path).map_err(run::failure)?;
        } else if range.start == next {
            kept.push((range, path));
        } else {
            return Err(GAP);
        }
    }
    // The newest first, since those are asked most.
    let mut memory = limits.filter_memory;
    let mut runs = Vec::new();
    for (range, path) in kept.iter().rev() {
        let run = Run::open(path, secret_check, memory)?;
        if run.events() != (range.start..=range.end - 1) {
            return Err(run::DAMAGED);
        }
        memory -= run.filter_memory();
        runs.push(Arc::new(run));
    }
    runs.reverse();
    Ok(runs)
}

/// The last event that the name of a run tells; 0 where there is none.
pub fn highest(folder: &Path) -> Result<u64> {
    if !folder.exists() {
        return Ok(0);
    }
    let mut highest = 0;
    for entry in fs::read_dir(folder).map_err(run::failure)? {
        let path = entry.map_err(run::failure)?.path();
        if path.extension().is_some_and(|it| it == EXTENSION)
            && let Ok(range) = range_of(&path)
        {
            highest = highest.max(range.end - 1);
        }
    }
    Ok(highest)
}

/// `<first>-<last>.keys`
fn range_of(path: &Path) -> Result<Range<u64>> {
    let parse = || {
        let (first, last) = path.file_stem()?.to_str()?.split_once('-')?;
        let (first, last): (u64, u64) = (first.parse().ok()?, last.parse().ok()?);
        (first <= last).then_some(first..last + 1)
    };
    parse().ok_or(StoreError::Damaged { what: "key index: a file has a strange name" })
}

fn flush_tables(shared: &Shared) {
    let mut state = shared.lock();
    while !shared.stop.load(Ordering::Relaxed) {
        let Some(table) = state.full.front().cloned() else {
            state = wait(&shared.moved, state);
            continue;
        };
        let first = state.covered + 1;
        let memory = filter_memory_left(shared, &state, &[]);
        drop(state);
        let written = write_table(shared, &table, first, memory);
        state = shared.lock();
        match written {
            Ok(run) => {
                let mut runs = Vec::clone(&state.runs);
                runs.push(Arc::new(run));
                state.show(runs);
                state.full.pop_front();
                state.covered = table.last;
                state.failure = None;
                shared.moved.notify_all();
            }
            Err(error) => {
                tracing::error!(error = &error as &dyn std::error::Error, "keys are not written");
                shared.status.record_failure(&error);
                state.failure = Some(error);
                shared.moved.notify_all();
                state = pause(shared, state);
            }
        }
    }
}

fn write_table(shared: &Shared, table: &Table, first: u64, filter_memory: u64) -> Result<Run> {
    let mut items: Vec<(u128, EventId)> = table.entries.iter().map(|(k, v)| (*k, *v)).collect();
    items.sort_unstable();
    let range = (first, table.last);
    let mut writer =
        RunWriter::create(&shared.folder, shared.secret_check(), range, items.len() as u64)?;
    for (bits, id) in items {
        writer.push((KeyHash(bits.to_be_bytes()), id))?;
    }
    writer.finish(filter_memory)
}

fn merge_runs(shared: &Shared) {
    let mut state = shared.lock();
    while !shared.stop.load(Ordering::Relaxed) {
        let counts: Vec<u64> = state.runs.iter().map(|it| it.count()).collect();
        let base = shared.limits.recent_keys as u64;
        let Some(range) = merge::pick(&counts, base, shared.limits.fan_in) else {
            state = wait(&shared.moved, state);
            continue;
        };
        let parts = state.runs[range.clone()].to_vec();
        let memory = filter_memory_left(shared, &state, &parts);
        drop(state);
        let merged =
            merge::merge(&shared.folder, shared.secret_check(), &parts, memory, &shared.stop);
        state = shared.lock();
        match merged {
            Ok(Some(run)) => {
                // Only this thread removes runs, and new ones come behind, so the range still holds.
                let mut runs = Vec::clone(&state.runs);
                runs.splice(range, [Arc::new(run)]);
                state.show(runs);
                shared.moved.notify_all();
                drop(state);
                remove(shared, &parts);
                state = shared.lock();
            }
            Ok(None) => (),
            Err(error) => {
                // Nothing is lost: the runs stay as they are, and a search looks at a few more.
                shared.status.record_failure(&error);
                tracing::warn!(error = &error as &dyn std::error::Error, "keys are not merged");
                state = pause(shared, state);
            }
        }
    }
}

/// Those that are searching hold the files open; a file that stays is removed at the next opening.
fn remove(shared: &Shared, runs: &[Arc<Run>]) {
    for run in runs {
        if let Err(error) = fs::remove_file(run.path()) {
            tracing::warn!(error = &error as &dyn std::error::Error, "a merged run stays");
        }
    }
    if let Err(error) = write::sync_folder(&shared.folder) {
        shared.status.record_failure(&error);
    }
}

/// What a run that takes the place of `replaced` may use for its filter.
fn filter_memory_left(shared: &Shared, state: &State, replaced: &[Arc<Run>]) -> u64 {
    let taken = |runs: &[Arc<Run>]| runs.iter().map(|it| it.filter_memory()).sum::<u64>();
    shared.limits.filter_memory.saturating_sub(taken(&state.runs) - taken(replaced))
}

impl State {
    fn show(&mut self, runs: Vec<Arc<Run>>) {
        metrics::gauge!("tidegate_store_key_runs").set(runs.len() as f64);
        metrics::gauge!("tidegate_store_keys")
            .set(runs.iter().map(|it| it.count()).sum::<u64>() as f64);
        self.runs = Arc::new(runs);
    }
}

fn pause<'state>(
    shared: &'state Shared,
    state: MutexGuard<'state, State>,
) -> MutexGuard<'state, State> {
    let stopped = |_: &mut State| !shared.stop.load(Ordering::Relaxed);
    shared
        .moved
        .wait_timeout_while(state, PAUSE, stopped)
        .map_or_else(|poisoned| poisoned.into_inner().0, |(state, _)| state)
}
