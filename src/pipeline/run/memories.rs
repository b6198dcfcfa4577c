//! What all steps remember, in memory: the copy of the one who plans, of what the store keeps.
//!
//! It runs ahead of the store by the plans that are on their way. When one of those fails, all of it is
//! forgotten and read again. Beside it stand the times at which an absence is to be reported.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap, HashSet},
};

use jiff::Timestamp;

use crate::{
    crypto::Pseudonyms,
    model::{AbsenceMemory, Memory, MemoryKey, Name, NewEvent, ProjectId, Remembered, StepId},
    pipeline::{
        compile::Compiled,
        steps::{
            Remembers,
            detect::{Origin, absence, time},
        },
    },
};

#[derive(Default)]
pub(super) struct Memories {
    steps: HashMap<StepId, Watched>,
    /// One for each key that may be missed, at the time at which it is looked at again.
    timers: BinaryHeap<Reverse<(i64, StepId, MemoryKey)>>,
    /// When this process began to watch.
    began: i64,
}

struct Watched {
    keys: HashMap<MemoryKey, StoredMemory>,
    most_keys: usize,
    absence: Option<Absence>,
}

/// A step that makes events.
struct Absence {
    project: ProjectId,
    pipeline: Name,
    rule: absence::AbsenceRule,
    /// Whoever could not be heard while no process was there gets the grace to be heard now.
    not_before: i64,
}

impl Absence {
    /// When it is reported that nothing came since.
    fn due(&self, since: i64) -> i64 {
        self.rule.due(since).max(self.not_before)
    }
}

struct StoredMemory {
    memory: Memory,
    /// It has one of the `timers`.
    is_timed: bool,
}

impl Memories {
    /// For a process that began at this time.
    pub fn new(began: Timestamp) -> Self {
        Self { began: began.as_millisecond(), ..Self::default() }
    }

    /// What the store keeps, and what it must be given: keys that were declared since, and steps that are
    /// no more.
    pub fn load(
        &mut self,
        kept: Vec<Remembered>,
        compiled: &Compiled,
        is_ours: impl Fn(ProjectId) -> bool,
        now: Timestamp,
    ) -> Vec<Remembered> {
        self.steps.clear();
        for Remembered { step, key, memory } in kept {
            let Some(memory) = memory else { continue };
            let watched = self.steps.entry(step).or_insert_with(Watched::unknown);
            watched.keys.insert(key, StoredMemory { memory, is_timed: false });
        }
        self.follow(compiled, is_ours, now)
    }

    /// Takes over how the pipelines are now. Returns what the store must be given.
    pub fn follow(
        &mut self,
        compiled: &Compiled,
        is_ours: impl Fn(ProjectId) -> bool,
        now: Timestamp,
    ) -> Vec<Remembered> {
        let mut changes = Vec::new();
        let mut there = HashSet::new();
        for (project, pipeline, step, detect) in compiled.detects().filter(|it| is_ours(it.0)) {
            there.insert(step);
            let watched = self.steps.entry(step).or_insert_with(Watched::unknown);
            watched.most_keys = detect.most_keys();
            watched.absence = detect.absence().map(|rule| {
                changes.extend(watched.declare(step, detect, rule, now));
                let grace = i64::try_from(rule.grace.as_millis()).unwrap_or(i64::MAX);
                let not_before = self.began.saturating_add(grace);
                let (pipeline, rule) = (pipeline.clone(), rule.clone());
                Absence { project, pipeline, rule, not_before }
            });
        }
        self.steps.retain(|step, watched| {
            let stays = there.contains(step) || compiled.is_broken(step.pipeline);
            if !stays {
                let gone = watched.keys.drain();
                changes.extend(gone.map(|(key, _)| Remembered { step: *step, key, memory: None }));
            }
            stays
        });
        self.timers.clear();
        let Self { steps, timers, .. } = self;
        for (step, watched) in steps {
            let Watched { absence: Some(it), keys, .. } = watched else { continue };
            for (key, kept) in keys {
                kept.is_timed = false;
                kept.set_timer(timers, *step, key, it);
            }
        }
        changes
    }

    pub fn recall(&self, step: StepId, key: &[u8]) -> Option<Memory> {
        self.steps.get(&step)?.keys.get(key).map(|it| it.memory.clone())
    }

    /// Remembers what a plan says, and returns it with what had to be forgotten for it.
    pub fn keep(&mut self, changes: Vec<Remembered>) -> Vec<Remembered> {
        let mut all = changes;
        for place in 0..all.len() {
            let Remembered { step, key, memory: Some(memory) } = all[place].clone() else {
                continue;
            };
            let watched = self.steps.entry(step).or_insert_with(Watched::unknown);
            if !watched.keys.contains_key(&key) && watched.keys.len() >= watched.most_keys {
                let forgotten = watched.make_room();
                metrics::counter!("tidegate_detect_forgotten_total")
                    .increment(forgotten.len() as u64);
                let gone = |key| Remembered { step, key, memory: None };
                all.extend(forgotten.into_iter().map(gone));
            }
            let is_timed = watched.keys.get(&key).is_some_and(|it| it.is_timed);
            let mut kept = StoredMemory { memory, is_timed };
            if let Some(absence) = &watched.absence {
                kept.set_timer(&mut self.timers, step, &key, absence);
            }
            watched.keys.insert(key, kept);
        }
        all
    }

    /// When somebody has to look whether something is missing.
    pub fn next_due(&self) -> Option<Timestamp> {
        self.timers.peek().map(|Reverse((due, _, _))| time(*due))
    }

    /// The events that tell of what is missing now, up to a limit.
    pub fn due(&mut self, now: Timestamp, most: usize, pseudonyms: &Pseudonyms) -> Vec<Due> {
        let mut due = Vec::new();
        while due.len() < most {
            if self.next_due().is_none_or(|it| it > now) {
                break;
            }
            let Some(Reverse((_, step, key))) = self.timers.pop() else { break };
            let Some(watched) = self.steps.get_mut(&step) else { continue };
            let (Some(absence), Some(kept)) = (&watched.absence, watched.keys.get_mut(&key)) else {
                continue;
            };
            kept.is_timed = false;
            let Memory::Absence(memory) = kept.memory else { continue };
            if absence.due(memory.since) > now.as_millisecond() {
                // It has come since the timer was set.
                kept.set_timer(&mut self.timers, step, &key, absence);
                continue;
            }
            if memory.missed.is_some() {
                continue;
            }
            let last_seen = memory.is_seen.then_some(memory.since);
            let text = String::from_utf8_lossy(&key).into_owned();
            let origin = Origin::new(step, text, memory.since);
            let about = (&absence.rule, last_seen);
            let event = origin.event(absence.project, &absence.pipeline, about, (pseudonyms, now));
            due.push(Due { event, step, key });
        }
        due
    }

    /// They could not be reported, and are reported later.
    pub fn tell_later(&mut self, due: Vec<Due>, later: Timestamp) {
        for Due { step, key, .. } in due {
            let kept = self.steps.get_mut(&step).and_then(|it| it.keys.get_mut(&key));
            if let Some(kept) = kept
                && !std::mem::replace(&mut kept.is_timed, true)
            {
                self.timers.push(Reverse((later.as_millisecond(), step, key)));
            }
        }
    }
}

/// An event that tells of an absence, on its way to the store.
pub(super) struct Due {
    pub event: NewEvent,
    step: StepId,
    key: MemoryKey,
}

impl StoredMemory {
    fn set_timer(
        &mut self,
        timers: &mut BinaryHeap<Reverse<(i64, StepId, MemoryKey)>>,
        step: StepId,
        key: &MemoryKey,
        absence: &Absence,
    ) {
        if let Memory::Absence(AbsenceMemory { since, missed: None, .. }) = self.memory
            && !std::mem::replace(&mut self.is_timed, true)
        {
            timers.push(Reverse((absence.due(since), step, key.clone())));
        }
    }
}

impl Watched {
    fn unknown() -> Self {
        Self { keys: HashMap::new(), most_keys: usize::MAX, absence: None }
    }

    /// Keys of which nothing is known yet.
    fn declare(
        &mut self,
        step: StepId,
        detect: &dyn Remembers,
        rule: &absence::AbsenceRule,
        now: Timestamp,
    ) -> Vec<Remembered> {
        let mut changes = Vec::new();
        for text in &rule.keys {
            let key = detect.remembered_as(text);
            if self.keys.contains_key(&key) {
                continue;
            }
            let input = absence::AbsenceInput::Declared(now.as_millisecond());
            if let (Some(memory), _) = absence::step(rule, None, input) {
                let memory = Memory::Absence(memory);
                self.keys
                    .insert(key.clone(), StoredMemory { memory: memory.clone(), is_timed: false });
                changes.push(Remembered { step, key, memory: Some(memory) });
            }
        }
        changes
    }

    /// Forgets the keys of which nothing was heard for longest: a sixteenth, so that it is not done each time.
    fn make_room(&mut self) -> Vec<MemoryKey> {
        let mut oldest: Vec<(i64, MemoryKey)> =
            self.keys.iter().map(|(key, it)| (it.memory.touched(), key.clone())).collect();
        oldest.sort_unstable();
        oldest.truncate(
            (self.keys.len() - self.most_keys.min(self.keys.len())) + 1 + self.most_keys / 16,
        );
        let keys: Vec<MemoryKey> = oldest.into_iter().map(|it| it.1).collect();
        for key in &keys {
            self.keys.remove(key);
        }
        keys
    }
}
