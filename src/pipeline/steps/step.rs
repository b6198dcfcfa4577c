//! What a step is, and what it can do besides: ask the world outside, run a script, remember events.

use std::time::Duration;

use super::detect::absence::AbsenceRule;
use crate::{
    expr::{EvalError, Facts},
    model::{Memory, MemoryKey, PipelineId, StepId},
    pipeline::ask::{LookupAnswer, Question},
    script::Script,
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

    /// Of a step that asks the world outside. Such a step is never [applied](Self::apply): its
    /// question comes before, and its answer is what it goes on with.
    fn asks(&self) -> Option<&dyn Asks> {
        None
    }

    /// Of a step that runs a script, which is better run over many events at once.
    fn script(&self) -> Option<&Script> {
        None
    }

    /// Of a step that remembers events. Such a step is never [applied](Self::apply): what it
    /// remembers goes in with the event.
    fn remembers(&self) -> Option<&dyn Remembers> {
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

/// A step that asks the world outside: it makes a question of an event, and goes on with the answer.
pub trait Asks {
    /// What it wants to know; `None` where the event does not say about whom or what.
    fn question(&self, facts: &Facts) -> Result<Option<Question>, EvalError>;

    /// How the event goes on with the answer.
    fn answered(&self, facts: &Facts, answer: &LookupAnswer) -> Next;

    /// Under which name the answer is added.
    fn into(&self) -> &str;

    /// How long it waits for one answer.
    fn timeout(&self) -> Duration;

    /// For how long after the event was received a failed question is asked again. `None`: never.
    fn retry_for(&self) -> Option<Duration>;
}

/// A step that remembers events, each by its key. All of it is pure: what is remembered goes in and
/// comes out.
pub trait Remembers {
    /// `route` tells apart the routes of a pipeline; 0 is the pipeline itself.
    fn id(&self, pipeline: PipelineId, route: u64) -> StepId;

    /// What the event is counted by. `None` where it has no such value, or a very long one.
    fn find(&self, facts: &Facts) -> Result<Option<DetectKey>, EvalError>;

    fn remembered_as(&self, text: &str) -> MemoryKey;

    /// An event of the key was received at this time, in milliseconds.
    fn seen(&self, facts: &Facts, found: &DetectKey, before: Option<&Memory>, at: i64) -> Decided;

    /// The interval of the key is over that began at `since`, in milliseconds.
    fn over(&self, facts: &Facts, key: &str, before: Option<&Memory>, since: i64) -> Decided;

    /// Keys that are remembered at once.
    fn most_keys(&self) -> usize;

    /// Of a step that makes events of absences: when it does.
    fn absence(&self) -> Option<&AbsenceRule>;
}

/// A key as it is written, and as it is remembered.
pub struct DetectKey {
    pub text: String,
    pub key: MemoryKey,
}

/// What comes of an event at a detecting step: what is remembered from now on (`None`: as before), and
/// how the event goes on.
pub type Decided = (Option<Memory>, Next);
