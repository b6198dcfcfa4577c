//! `detect.spike` and `detect.absence`: what is told by many events together, or by none.
//!
//! What such a step remembers of a key is a value that goes in with the event and comes out with its
//! plan, and is kept with that. docs/detection.md says what is promised.

pub(super) mod absence;
mod build;
mod memories;
mod origin;
mod plan;
pub(super) mod spike;

use jiff::Timestamp;
use serde_json::{Map, Value, json};
use xxhash_rust::xxh3::xxh3_128_with_seed;

use super::{
    field::with_field,
    steps::{Next, Step},
};
use crate::{
    expr::{EvalError, Expression, Facts},
    model::{Memory, MemoryKey, PipelineId, RawJson, StepId},
};

pub(super) use memories::Memories;
pub(super) use origin::Origin;

pub struct Detect {
    pub(super) rule: Rule,
    /// `None`: all events belong together.
    key: Option<Expression>,
    /// Under which name the facts are added.
    into: String,
    /// Whether the receiver gets them, too.
    in_payload: bool,
    /// Keys that are remembered at once.
    pub(super) most_keys: usize,
    /// Of what makes it the step that it is: another key or window is another step.
    hash: u64,
    /// So that what is remembered of a spike says nothing about the key.
    seed: u64,
}

pub(super) enum Rule {
    Spike { rule: spike::Rule, window: String },
    Absence(absence::Rule),
}

/// A key as it is written, and as it is remembered.
pub(super) struct Found {
    pub text: String,
    pub key: MemoryKey,
}

/// What comes of an event at a detecting step: what is remembered from now on (`None`: as before), and
/// how the event goes on.
type Decided = (Option<Memory>, Next);

/// The longest key in bytes.
const LONGEST_KEY: usize = 512;

impl Detect {
    pub const SPIKE: &str = "detect.spike";
    pub const ABSENCE: &str = "detect.absence";

    /// `route` tells apart the routes of a pipeline; 0 is the pipeline itself.
    pub(super) fn id(&self, pipeline: PipelineId, route: u64) -> StepId {
        StepId { pipeline, hash: self.hash ^ route }
    }

    /// What the event is counted by. `None` where it has no such value, or a very long one.
    pub(super) fn find(&self, facts: &Facts) -> Result<Option<Found>, EvalError> {
        let text = match &self.key {
            None => Some(String::new()),
            Some(key) => key.text(facts)?.filter(|it| it.len() <= LONGEST_KEY),
        };
        Ok(text.map(|text| Found { key: self.remembered_as(&text), text }))
    }

    pub(super) fn remembered_as(&self, text: &str) -> MemoryKey {
        match &self.rule {
            // A hash of a few bytes, since keys are often personal and need not be read again.
            Rule::Spike { .. } => {
                xxh3_128_with_seed(text.as_bytes(), self.seed).to_le_bytes().into()
            }
            Rule::Absence(_) => text.as_bytes().into(),
        }
    }

    /// An event of the key was received at this time, in milliseconds. A pure function.
    pub(super) fn seen(
        &self,
        facts: &Facts,
        found: &Found,
        before: Option<&Memory>,
        at: i64,
    ) -> Decided {
        match &self.rule {
            Rule::Spike { rule, window } => {
                let before = match before {
                    Some(Memory::Spike(it)) => Some(it),
                    Some(Memory::Absence(_)) | None => None,
                };
                let (after, verdict) = spike::step(rule, before, at);
                let next = self.of_spike(facts, found, verdict, (rule, window));
                (Some(Memory::Spike(after)), next)
            }
            Rule::Absence(rule) => {
                let (after, verdict) = absence::step(rule, of(before), absence::Input::Seen(at));
                let next = self.of_absence(facts, &found.text, verdict, (rule, at));
                (after.map(Memory::Absence), next)
            }
        }
    }

    /// The interval of the key is over that began at `since`. A pure function.
    pub(super) fn over(
        &self,
        facts: &Facts,
        key: &str,
        before: Option<&Memory>,
        since: i64,
    ) -> Decided {
        let Rule::Absence(rule) = &self.rule else {
            return (None, Next::Stop("the step has no intervals".to_owned()));
        };
        let (after, verdict) = absence::step(rule, of(before), absence::Input::Over { since });
        (after.map(Memory::Absence), self.of_absence(facts, key, verdict, (rule, since)))
    }

    fn of_spike(
        &self,
        facts: &Facts,
        found: &Found,
        verdict: spike::Verdict,
        (rule, window): (&spike::Rule, &str),
    ) -> Next {
        let so_many = |count| format!("{count} of {} in {window}", rule.threshold);
        match verdict {
            spike::Verdict::Below { count } => Next::Stop(so_many(count)),
            spike::Verdict::Quiet { count, until } => {
                let reason =
                    format!("{}; it fired, and is quiet until {}", so_many(count), time(until));
                Next::Stop(reason)
            }
            spike::Verdict::Reached { count, since } => self.tell(
                facts,
                &json!({
                    "key": self.shown(&found.text),
                    "count": count,
                    "threshold": rule.threshold,
                    "window": window,
                    "since": time(since),
                }),
            ),
        }
    }

    fn of_absence(
        &self,
        facts: &Facts,
        key: &str,
        verdict: absence::Verdict,
        (rule, at): (&absence::Rule, i64),
    ) -> Next {
        let told = |status: &str, last_seen: Option<i64>, due: i64| {
            let mut told = Map::new();
            told.insert("key".to_owned(), self.shown(key));
            told.insert("status".to_owned(), json!(status));
            told.insert("last_seen".to_owned(), json!(last_seen.map(time)));
            told.insert("due".to_owned(), json!(time(due)));
            told
        };
        match verdict {
            absence::Verdict::Expected { due } => {
                Next::Stop(format!("it is there; the next is due until {}", time(due)))
            }
            absence::Verdict::Outdated => {
                Next::Stop("it is there meanwhile, or its absence was told".to_owned())
            }
            absence::Verdict::Absent { before, due } => {
                let told = told("absent", before, due);
                Next::Changed(facts.with_result(&self.into, &RawJson::of(&told)))
            }
            absence::Verdict::Back { before } => {
                let Some(recovery) = &rule.recovery else {
                    return Next::Stop("it is back".to_owned());
                };
                let due = before.missed.unwrap_or_else(|| rule.due(before.since));
                let last_seen = before.is_seen.then_some(before.since);
                let mut told = told("back", last_seen, due);
                told.insert("back_at".to_owned(), json!(time(at)));
                let told = RawJson::of(&told);
                let back = facts.with_result(&self.into, &told).with_type(recovery.clone());
                Next::Changed(back.with_payload(told))
            }
        }
    }

    /// The event with what the step found out.
    fn tell(&self, facts: &Facts, told: &Value) -> Next {
        let told = RawJson::of(told);
        let mut next = facts.with_result(&self.into, &told);
        if self.in_payload && facts.payload().bytes().first() == Some(&b'{') {
            next = next.with_payload(with_field(Some(facts.payload()), &self.into, &told));
        }
        Next::Changed(next)
    }

    fn shown(&self, key: &str) -> Value {
        self.key.as_ref().map_or(Value::Null, |_| json!(key))
    }
}

fn of(before: Option<&Memory>) -> Option<crate::model::AbsenceMemory> {
    match before {
        Some(Memory::Absence(it)) => Some(*it),
        Some(Memory::Spike(_)) | None => None,
    }
}

pub(super) fn time(millis: i64) -> Timestamp {
    Timestamp::from_millisecond(millis).unwrap_or(if millis < 0 {
        Timestamp::MIN
    } else {
        Timestamp::MAX
    })
}

impl Step for Detect {
    fn kind(&self) -> &'static str {
        match self.rule {
            Rule::Spike { .. } => Self::SPIKE,
            Rule::Absence(_) => Self::ABSENCE,
        }
    }

    fn apply(&self, _: &Facts) -> Result<Next, EvalError> {
        Ok(Next::Same)
    }

    fn adds(&self) -> Vec<&str> {
        vec![&self.into]
    }

    fn detect(&self) -> Option<&Detect> {
        Some(self)
    }
}
