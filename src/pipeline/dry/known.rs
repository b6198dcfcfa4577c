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
        answers::{Answers, Slot},
        ask::{Answer, Lookups, Question, Status},
        enrich::Enrich,
    },
};

/// By the name under which a step adds it: an object is found, `null` is not found, and the word of a
/// failure is that failure.
pub type Given = BTreeMap<String, Value>;

/// Who said what is given.
const GIVEN: &str = "test";
/// Questions at once.
const AT_ONCE: usize = 16;

pub(super) struct Known {
    given: Given,
    /// Until when others may be asked. `None`: nobody is.
    until: Option<Instant>,
    answers: Vec<(Slot, Answer, Duration)>,
    open: Vec<(Slot, Arc<Question>, Duration)>,
    /// What steps remember. What they learn from this event is forgotten again.
    memories: HashMap<(StepId, MemoryKey), Memory>,
}

impl Known {
    pub fn asking(given: Given, remembered: Vec<Remembered>, until: Instant) -> Self {
        let memories = remembered.into_iter();
        let memories = memories.filter_map(|it| Some(((it.step, it.key), it.memory?)));
        Self { until: Some(until), memories: memories.collect(), ..Self::silent(given) }
    }

    /// What is not given has failed, and nothing is remembered.
    pub fn silent(given: Given) -> Self {
        let (answers, open) = (Vec::new(), Vec::new());
        Self { given, until: None, answers, open, memories: HashMap::new() }
    }

    /// The answer that a step got, and how long that took.
    pub fn of(&self, slot: Slot) -> Option<(&Answer, Duration)> {
        self.answers.iter().find(|it| it.0 == slot).map(|it| (&it.1, it.2))
    }

    /// Asks what is open.
    pub async fn ask(&mut self, lookups: &dyn Lookups, project: ProjectId) {
        let until = self.until.unwrap_or_else(Instant::now);
        let asked = self.open.drain(..).map(|(slot, question, timeout)| async move {
            let start = Instant::now();
            let deadline = until.min(start + timeout);
            let answer = tokio::time::timeout_at(deadline, lookups.ask(project, question)).await;
            (slot, answer.unwrap_or_else(|_| Answer::of(Status::Timeout)), start.elapsed())
        });
        let asked: Vec<_> = asked.collect();
        let answers: Vec<_> = stream::iter(asked).buffer_unordered(AT_ONCE).collect().await;
        self.answers.extend(answers);
    }
}

impl Answers for Known {
    fn answer(&mut self, slot: Slot, step: &Enrich, question: Question) -> Option<Answer> {
        if let Some((answer, _)) = self.of(slot) {
            return Some(answer.clone());
        }
        let answer = match self.given.get(&step.into) {
            Some(given) => told(given),
            None if self.until.is_some() => {
                self.open.push((slot, Arc::new(question), step.timeout));
                return None;
            }
            None => Answer::failed(Status::Failed, GIVEN, "the test case has no answer for it"),
        };
        self.answers.push((slot, answer.clone(), Duration::ZERO));
        Some(answer)
    }

    fn recall(&self, step: StepId, key: &[u8]) -> Option<Memory> {
        self.memories.get(&(step, key.into())).cloned()
    }
}

fn told(given: &Value) -> Answer {
    let status = match given {
        Value::Object(_) => return Answer::found(RawJson::of(given), GIVEN),
        Value::Null => Status::NotFound,
        Value::String(word) => match word.as_str() {
            "not_found" => Status::NotFound,
            "timeout" => Status::Timeout,
            "overloaded" => Status::Overloaded,
            _ => Status::Failed,
        },
        Value::Bool(_) | Value::Number(_) | Value::Array(_) => Status::Failed,
    };
    Answer { from: Some(GIVEN.to_owned()), ..Answer::of(status) }
}
