//! `detect.spike` and `detect.absence`: what is reported by many events together, or by none.
//!
//! What such a step remembers of a key is a value that goes in with the event and comes out with its
//! plan, and is kept with that. docs/detection.md says what is promised.

pub mod absence;
mod build;
mod origin;
pub mod spike;

use jiff::Timestamp;
use serde_json::{Map, Value, json};
use xxhash_rust::xxh3::xxh3_128_with_seed;

use super::{
    field::with_field,
    step::{Decided, DetectKey, Next, Remembers, Step},
};
use crate::{
    expr::{EvalError, Expression, Facts},
    model::{Memory, MemoryKey, PipelineId, RawJson, StepId},
};

pub use origin::Origin;

pub struct Detect {
    rule: DetectRule,
    /// `None`: all events belong together.
    key: Option<Expression>,
    /// Under which name the facts are added.
    into: String,
    /// Whether the receiver gets them, too.
    in_payload: bool,
    /// Keys that are remembered at once.
    most_keys: usize,
    /// Of what makes it the step that it is: another key or window is another step.
    hash: u64,
    /// So that what is remembered of a spike says nothing about the key.
    seed: u64,
}

enum DetectRule {
    Spike { rule: spike::SpikeRule, window: String },
    Absence(absence::AbsenceRule),
}

/// The longest key in bytes.
const LONGEST_KEY: usize = 512;

impl Detect {
    pub const SPIKE: &str = "detect.spike";
    pub const ABSENCE: &str = "detect.absence";

    fn of_spike(
        &self,
        facts: &Facts,
        found: &DetectKey,
        verdict: spike::SpikeVerdict,
        (rule, window): (&spike::SpikeRule, &str),
    ) -> Next {
        let so_many = |count| format!("{count} of {} in {window}", rule.threshold);
        match verdict {
            spike::SpikeVerdict::Below { count } => Next::Stop(so_many(count)),
            spike::SpikeVerdict::Quiet { count, until } => {
                let reason =
                    format!("{}; it fired, and is quiet until {}", so_many(count), time(until));
                Next::Stop(reason)
            }
            spike::SpikeVerdict::Reached { count, since } => self.tell(
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
        verdict: absence::AbsenceVerdict,
        (rule, at): (&absence::AbsenceRule, i64),
    ) -> Next {
        let reported = |status: &str, last_seen: Option<i64>, due: i64| {
            let mut reported = Map::new();
            reported.insert("key".to_owned(), self.shown(key));
            reported.insert("status".to_owned(), json!(status));
            reported.insert("last_seen".to_owned(), json!(last_seen.map(time)));
            reported.insert("due".to_owned(), json!(time(due)));
            reported
        };
        match verdict {
            absence::AbsenceVerdict::Expected { due } => {
                Next::Stop(format!("it is there; the next is due until {}", time(due)))
            }
            absence::AbsenceVerdict::Outdated => {
                Next::Stop("it came back, or its absence was reported".to_owned())
            }
            absence::AbsenceVerdict::Absent { before, due } => {
                let reported = reported("absent", before, due);
                Next::Changed(facts.with_result(&self.into, &RawJson::of(&reported)))
            }
            absence::AbsenceVerdict::Back { before } => {
                let Some(recovery) = &rule.recovery else {
                    return Next::Stop("it is back".to_owned());
                };
                let due = before.missed.unwrap_or_else(|| rule.due(before.since));
                let last_seen = before.is_seen.then_some(before.since);
                let mut reported = reported("back", last_seen, due);
                reported.insert("back_at".to_owned(), json!(time(at)));
                let reported = RawJson::of(&reported);
                let back = facts.with_result(&self.into, &reported).with_type(recovery.clone());
                Next::Changed(back.with_payload(reported))
            }
        }
    }

    /// The event with what the step found out.
    fn tell(&self, facts: &Facts, reported: &Value) -> Next {
        let reported = RawJson::of(reported);
        let mut next = facts.with_result(&self.into, &reported);
        if self.in_payload && facts.payload().bytes().first() == Some(&b'{') {
            next = next.with_payload(with_field(Some(facts.payload()), &self.into, &reported));
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

pub fn time(millis: i64) -> Timestamp {
    Timestamp::from_millisecond(millis).unwrap_or(if millis < 0 {
        Timestamp::MIN
    } else {
        Timestamp::MAX
    })
}

impl Step for Detect {
    fn kind(&self) -> &'static str {
        match self.rule {
            DetectRule::Spike { .. } => Self::SPIKE,
            DetectRule::Absence(_) => Self::ABSENCE,
        }
    }

    fn apply(&self, _: &Facts) -> Result<Next, EvalError> {
        Ok(Next::Same)
    }

    fn adds(&self) -> Vec<&str> {
        vec![&self.into]
    }

    fn remembers(&self) -> Option<&dyn Remembers> {
        Some(self)
    }
}

impl Remembers for Detect {
    fn id(&self, pipeline: PipelineId, route: u64) -> StepId {
        StepId { pipeline, hash: self.hash ^ route }
    }

    fn find(&self, facts: &Facts) -> Result<Option<DetectKey>, EvalError> {
        let text = match &self.key {
            None => Some(String::new()),
            Some(key) => key.text(facts)?.filter(|it| it.len() <= LONGEST_KEY),
        };
        Ok(text.map(|text| DetectKey { key: self.remembered_as(&text), text }))
    }

    fn remembered_as(&self, text: &str) -> MemoryKey {
        match &self.rule {
            // A hash of a few bytes, since keys are often personal and need not be read again.
            DetectRule::Spike { .. } => {
                xxh3_128_with_seed(text.as_bytes(), self.seed).to_le_bytes().into()
            }
            DetectRule::Absence(_) => text.as_bytes().into(),
        }
    }

    fn seen(&self, facts: &Facts, found: &DetectKey, before: Option<&Memory>, at: i64) -> Decided {
        match &self.rule {
            DetectRule::Spike { rule, window } => {
                let before = match before {
                    Some(Memory::Spike(it)) => Some(it),
                    Some(Memory::Absence(_)) | None => None,
                };
                let (after, verdict) = spike::step(rule, before, at);
                let next = self.of_spike(facts, found, verdict, (rule, window));
                (Some(Memory::Spike(after)), next)
            }
            DetectRule::Absence(rule) => {
                let (after, verdict) =
                    absence::step(rule, of(before), absence::AbsenceInput::Seen(at));
                let next = self.of_absence(facts, &found.text, verdict, (rule, at));
                (after.map(Memory::Absence), next)
            }
        }
    }

    fn over(&self, facts: &Facts, key: &str, before: Option<&Memory>, since: i64) -> Decided {
        let DetectRule::Absence(rule) = &self.rule else {
            return (None, Next::Stop("the step has no intervals".to_owned()));
        };
        let (after, verdict) =
            absence::step(rule, of(before), absence::AbsenceInput::Over { since });
        (after.map(Memory::Absence), self.of_absence(facts, key, verdict, (rule, since)))
    }

    fn most_keys(&self) -> usize {
        self.most_keys
    }

    fn absence(&self) -> Option<&absence::AbsenceRule> {
        match &self.rule {
            DetectRule::Spike { .. } => None,
            DetectRule::Absence(rule) => Some(rule),
        }
    }
}
