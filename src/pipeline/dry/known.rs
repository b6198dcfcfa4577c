//! Answers for steps that ask, while somebody tries a pipeline: given beforehand, asked for real, or
//! missing.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use futures_util::{StreamExt as _, stream};
use serde_json::Value;
use tokio::time::Instant;

use crate::{
    model::{Memory, MemoryKey, ProjectId, RawJson, Remembered, StepId},
    pipeline::{
        ask::{LookupAnswer, LookupStatus, Lookups, Question},
        plan::{Answers, QuestionSlot},
        steps::Asks,
    },
};

/// By the name under which a step adds it: an object is found, `null` is not found, and the word of a
/// failure is that failure.
pub type GivenAnswers = BTreeMap<String, Value>;

/// Who said what is given.
const GIVEN: &str = "test";
/// Questions at once.
const AT_ONCE: usize = 16;

pub(super) struct Known {
    given: GivenAnswers,
    /// Until when others may be asked. `None`: nobody is.
    until: Option<Instant>,
    answers: Vec<(QuestionSlot, LookupAnswer, Duration)>,
    open: Vec<(QuestionSlot, Arc<Question>, Duration)>,
    /// What steps remember. What they learn from this event is forgotten again.
    memories: HashMap<(StepId, MemoryKey), Memory>,
}

impl Known {
    pub fn asking(given: GivenAnswers, remembered: Vec<Remembered>, until: Instant) -> Self {
        let memories = remembered.into_iter();
        let memories = memories.filter_map(|it| Some(((it.step, it.key), it.memory?)));
        Self { until: Some(until), memories: memories.collect(), ..Self::silent(given) }
    }

    /// What is not given has failed, and nothing is remembered.
    pub fn silent(given: GivenAnswers) -> Self {
        let (answers, open) = (Vec::new(), Vec::new());
        Self { given, until: None, answers, open, memories: HashMap::new() }
    }

    /// The answer that a step got, and how long that took.
    pub fn of(&self, slot: QuestionSlot) -> Option<(&LookupAnswer, Duration)> {
        self.answers.iter().find(|it| it.0 == slot).map(|it| (&it.1, it.2))
    }

    /// Asks what is open.
    pub async fn ask(&mut self, lookups: &dyn Lookups, project: ProjectId) {
        let until = self.until.unwrap_or_else(Instant::now);
        let asked = self.open.drain(..).map(|(slot, question, timeout)| async move {
            let start = Instant::now();
            let deadline = until.min(start + timeout);
            let answer = tokio::time::timeout_at(deadline, lookups.ask(project, question)).await;
            (
                slot,
                answer.unwrap_or_else(|_| LookupAnswer::of(LookupStatus::Timeout)),
                start.elapsed(),
            )
        });
        let asked: Vec<_> = asked.collect();
        let answers: Vec<_> = stream::iter(asked).buffer_unordered(AT_ONCE).collect().await;
        self.answers.extend(answers);
    }
}

impl Answers for Known {
    fn answer(
        &mut self,
        slot: QuestionSlot,
        step: &dyn Asks,
        question: Question,
    ) -> Option<LookupAnswer> {
        if let Some((answer, _)) = self.of(slot) {
            return Some(answer.clone());
        }
        let answer = match self.given.get(step.into()) {
            Some(given) => reported(given),
            None if self.until.is_some() => {
                self.open.push((slot, Arc::new(question), step.timeout()));
                return None;
            }
            None => LookupAnswer::failed(
                LookupStatus::Failed,
                GIVEN,
                "the test case has no answer for it",
            ),
        };
        self.answers.push((slot, answer.clone(), Duration::ZERO));
        Some(answer)
    }

    fn recall(&self, step: StepId, key: &[u8]) -> Option<Memory> {
        self.memories.get(&(step, key.into())).cloned()
    }
}

fn reported(given: &Value) -> LookupAnswer {
    let status = match given {
        Value::Object(_) => return LookupAnswer::found(RawJson::of(given), GIVEN),
        Value::Null => LookupStatus::NotFound,
        Value::String(word) => match word.as_str() {
            "not_found" => LookupStatus::NotFound,
            "timeout" => LookupStatus::Timeout,
            "overloaded" => LookupStatus::Overloaded,
            _ => LookupStatus::Failed,
        },
        Value::Bool(_) | Value::Number(_) | Value::Array(_) => LookupStatus::Failed,
    };
    LookupAnswer { from: Some(GIVEN.to_owned()), ..LookupAnswer::of(status) }
}
