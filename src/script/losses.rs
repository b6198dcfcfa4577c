//! Events that scripts lost to the machine: how many, since when, and what is reported of it.
//!
//! Such an event was not run, or its script could not be stopped. It becomes a dead letter, so that
//! people have to hear of it, and by name.

use std::{
    sync::{Arc, Mutex, Weak, atomic::Ordering},
    time::{Duration, Instant},
};

use super::{
    ScriptError, Shared,
    leash::lock,
    stuck::{FORGOTTEN_AFTER, LostThreads},
};

/// Of one script, the log tells once in this time, however many events it loses.
const TOLD_EVERY: Duration = Duration::from_secs(60);

/// Where a script stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// By name, or by its id where that is not known.
    pub project: String,
    pub pipeline: String,
    /// `steps[0]`, or `routes[1].steps[0]`
    pub step: String,
}

/// A script that lost events lately.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failing {
    pub pipeline: String,
    pub step: String,
    /// So long ago it lost the first of them,
    pub since: Duration,
    /// … and the last.
    pub last: Duration,
    pub events: u64,
    /// Threads that it holds on to.
    pub threads: usize,
    /// So long it is not run. `None`: it is run with the next event, unless something else is in the way.
    pub retry_in: Option<Duration>,
    /// Why it is not run, whatever the time.
    pub blocked: Option<&'static str>,
}

impl Failing {
    /// The same script in another pool: nodes that plan several logs have one for each.
    fn add(&mut self, other: Self) {
        self.since = self.since.max(other.since);
        self.last = self.last.min(other.last);
        self.events += other.events;
        self.threads += other.threads;
        self.retry_in = self.retry_in.max(other.retry_in);
        self.blocked = self.blocked.or(other.blocked);
    }
}

/// Events that one script lost without a longer pause.
#[derive(Debug, Default)]
pub(super) struct Losses {
    events: u64,
    first: Option<Instant>,
    last: Option<Instant>,
    reported: Option<Instant>,
}

impl Losses {
    /// Counts one more. `Some`: it is time to tell how many there are.
    fn note(&mut self, now: Instant) -> Option<u64> {
        if !self.is_fresh(now) {
            *self = Self { first: Some(now), ..Self::default() };
        }
        self.events += 1;
        self.last = Some(now);
        let is_told = self.reported.is_some_and(|it| now.duration_since(it) < TOLD_EVERY);
        (!is_told).then(|| {
            self.reported = Some(now);
            self.events
        })
    }

    fn is_fresh(&self, now: Instant) -> bool {
        self.last.is_some_and(|it| now.duration_since(it) < FORGOTTEN_AFTER)
    }
}

/// The scripts that lost events, and what their threads are counted by.
#[derive(Default)]
pub(super) struct Register(Mutex<Vec<ScriptLoss>>);

type ScriptLoss = (Weak<Shared>, Arc<Mutex<LostThreads>>);

impl Register {
    /// A script lost an event.
    pub fn lose(
        &self,
        script: &Arc<Shared>,
        lost: &Arc<Mutex<LostThreads>>,
        error: &ScriptError,
        now: Instant,
    ) {
        let reported = lock(&script.losses).note(now);
        let mut register = lock(&self.0);
        register.retain(|it| it.0.strong_count() > 0);
        if !register.iter().any(|it| std::ptr::eq(it.0.as_ptr(), Arc::as_ptr(script))) {
            register.push((Arc::downgrade(script), lost.clone()));
        }
        drop(register);
        let (Some(events), Some(place)) = (reported, script.place.get()) else { return };
        let Place { project, pipeline, step } = place;
        let threads = script.threads.load(Ordering::Relaxed);
        tracing::warn!(
            project, pipeline, step, events, threads, %error,
            "a script was stuck or could not be run, and its events became dead letters; `tidegate status` says \
             when it is tried again"
        );
    }

    /// The owner's scripts that lost events in the last ten minutes.
    pub fn failing(&self, owner: u128, now: Instant) -> Vec<Failing> {
        let mut all: Vec<Failing> = Vec::new();
        for (script, lost) in &*lock(&self.0) {
            let Some(script) = script.upgrade().filter(|it| it.owner == owner) else { continue };
            let Some(next) = failing(&script, lost, now) else { continue };
            let is_same = |it: &&mut Failing| it.pipeline == next.pipeline && it.step == next.step;
            match all.iter_mut().find(is_same) {
                Some(it) => it.add(next),
                None => all.push(next),
            }
        }
        all.sort_by(|a, b| (&a.pipeline, &a.step).cmp(&(&b.pipeline, &b.step)));
        all
    }
}

fn failing(script: &Shared, lost: &Mutex<LostThreads>, now: Instant) -> Option<Failing> {
    let place = script.place.get()?;
    let threads = script.threads.load(Ordering::Relaxed);
    let (events, first, last) = {
        let losses = lock(&script.losses);
        if !losses.is_fresh(now) && threads == 0 {
            return None;
        }
        (losses.events, losses.first?, losses.last?)
    };
    let (retry_in, is_suspect) = {
        let stuck = lock(&script.stuck);
        (stuck.waits(now), stuck.is_suspect(now))
    };
    Some(Failing {
        pipeline: place.pipeline.clone(),
        step: place.step.clone(),
        since: now.saturating_duration_since(first),
        last: now.saturating_duration_since(last),
        events,
        threads,
        retry_in,
        blocked: lock(lost).refuses(script.owner, is_suspect),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses_are_told_once_in_a_while_and_forgotten_later() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut losses = Losses::default();
        for (seconds, reported) in [
            (0, Some(1)),
            (1, None),
            (59, None),
            (60, Some(4)),
            (61, None),
            (130, Some(6)),
            // A series has ended ten minutes after its last loss.
            (729, Some(7)),
            (1_329, Some(1)),
        ] {
            assert_eq!(losses.note(at(seconds)), reported, "after {seconds} s");
        }
        assert!(losses.is_fresh(at(1_330)) && !losses.is_fresh(at(1_929)));
    }
}
