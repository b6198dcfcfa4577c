//! Answers for steps that ask, while somebody tries a pipeline: given beforehand, asked for real, or
//! missing.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures_util::{StreamExt as _, stream};
use serde_json::Value;
use tokio::time::Instant;

use crate::{
    model::{ProjectId, RawJson},
    pipeline::{
        ask::{Answer, Lookups, Question, Status},
        enrich::Enrich,
        plan::{Answers, Slot},
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
}

impl Known {
    pub fn asking(given: Given, until: Instant) -> Self {
        Self { given, until: Some(until), answers: Vec::new(), open: Vec::new() }
    }

    /// What is not given has failed.
    pub fn silent(given: Given) -> Self {
        Self { given, until: None, answers: Vec::new(), open: Vec::new() }
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
