//! What a step is, and which kinds there are. A new kind is one file and one line in [`KINDS`].

use serde_json::Value;

use super::{
    Invalid, Tools, detect::Detect, enrich::Enrich, filter::FilterStep, map::Map, redact::Redact,
    transform::Transform,
};
use crate::{
    expr::{EvalError, Facts, Names},
    model::{ProjectId, StepSpec},
};

/// One thing that is done to an event on its way to its destinations.
///
/// A step decides by what it is given: it reads no clock and does no I/O, so that an event that is
/// planned again gets the same plan. It never changes the event, only what the steps behind it see.
pub trait Step: Send + Sync {
    /// The word that chooses it: `filter.match`.
    fn kind(&self) -> &'static str;

    fn apply(&self, facts: &Facts) -> Result<Next, EvalError>;

    /// The same, for a person who tries it and wants to know what it said.
    fn apply_heard(&self, facts: &Facts, _: &mut StepLog) -> Result<Next, EvalError> {
        self.apply(facts)
    }

    /// The names under which it adds what it found out, if it does.
    fn adds(&self) -> Vec<&str> {
        Vec::new()
    }

    /// Of a step that asks the world outside: its question comes before it is applied, and its answer
    /// is what it goes on with. Such a step is never [applied](Self::apply).
    fn enrich(&self) -> Option<&Enrich> {
        None
    }

    /// Of a step that runs a script, which is better run over many events at once.
    fn transform(&self) -> Option<&Transform> {
        None
    }

    /// Of a step that remembers events: what it remembers goes in with the event. Such a step is never
    /// [applied](Self::apply).
    fn detect(&self) -> Option<&Detect> {
        None
    }

    /// What becomes of an event for which it cannot be applied.
    fn on_error(&self) -> OnError {
        OnError::Drop
    }
}

/// What a step says besides its result.
#[derive(Clone, Debug, Default)]
pub struct StepLog {
    /// What a script logged.
    pub log: Vec<String>,
    /// Where in the source it failed: line and column, from 1.
    pub place: Option<(usize, usize)>,
}

/// What becomes of an event with which a step failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnError {
    /// It goes no further, and says why.
    Drop,
    /// It goes on as it was, and each of its deliveries is a dead letter from the start.
    DeadLetter,
    /// It goes on as it was, and what failed stands under this name.
    Continue(&'static str),
}

/// How an event goes on.
pub enum Next {
    Same,
    /// With another type, payload or metadata, or with what a step found out.
    Changed(Facts),
    /// As several, more than one, in this order.
    Several(Vec<Facts>),
    /// Not at all, and why.
    Stop(String),
}

/// A kind of step: its word, and how one is made.
type Kind = (&'static str, Build);

/// Makes a step of its settings, after steps that added `Names`, for a pipeline of this project.
type Build = fn(&Value, &Names<'_>, ProjectId, &Tools) -> Result<Box<dyn Step>, Invalid>;

const KINDS: &[Kind] = &[
    (FilterStep::KIND, FilterStep::build),
    (Map::KIND, Map::build),
    (Redact::KIND, Redact::build),
    (Transform::KIND, Transform::build),
    (Enrich::PERSON, Enrich::person),
    (Enrich::ENTITY, Enrich::entity),
    (Detect::SPIKE, Detect::spike),
    (Detect::ABSENCE, Detect::absence),
];

/// The step that was written. The path of an error is inside of it.
pub(super) fn build(
    spec: &StepSpec,
    results: &[String],
    project: ProjectId,
    tools: &Tools,
) -> Result<Box<dyn Step>, Invalid> {
    let mut entries = spec.0.iter();
    let (Some((kind, settings)), None) = (entries.next(), entries.next()) else {
        let found = if spec.0.is_empty() { "none" } else { "more" };
        return Err(Invalid::new("", "must have one key, the kind of the step", found));
    };
    let Some((_, build)) = KINDS.iter().find(|(name, _)| name == kind) else {
        let names: Vec<String> = KINDS.iter().map(|(name, _)| format!("`{name}`")).collect();
        let rule = format!("must be a step: there are {}", names.join(", "));
        return Err(Invalid::new("", rule, "another kind of step"));
    };
    build(settings, &Names { results, bare: false }, project, tools)
}

/// What stands there, for errors.
pub(super) fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "a map",
    }
}
