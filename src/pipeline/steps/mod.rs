//! Which kinds of steps there are: one file each, and one line in [`KINDS`].

mod invalid;
mod when;
mod settings;
mod field;
mod step;
mod filter;
mod map;
mod redact;
mod transform;
mod enrich;
pub(super) mod detect;

use serde_json::Value;

use self::{
    detect::Detect, enrich::Enrich, filter::FilterStep, map::Map, redact::Redact,
    transform::Transform,
};
use crate::{
    expr::Names,
    model::{ProjectId, StepSpec},
    pipeline::Tools,
};

pub use invalid::Invalid;
pub use step::{Asks, Next, OnError, Remembers, Step, StepLog};
pub use transform::script_input;
pub use when::When;

/// The kinds of steps that name look-ups.
pub const ENRICH_PERSON: &str = Enrich::PERSON;
pub const ENRICH_ENTITY: &str = Enrich::ENTITY;

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
