//! What is counted at each place of a pipeline, and what becomes of an event with which a step failed.

use std::sync::Arc;

use super::planner::Planner;
use crate::{
    expr::{EvalError, Facts},
    model::{Passed, RawJson, Tally},
    pipeline::steps::{OnError, Step},
};

impl Planner<'_> {
    /// How an event goes on with which a step failed; or why it does not.
    pub(in crate::pipeline) fn after_failure(
        &mut self,
        step: &dyn Step,
        before: &Facts,
        error: &EvalError,
    ) -> Result<Facts, String> {
        let reason = self.failed(error);
        // What the machine could not do is nobody's wish: the event is kept, for a replay.
        let on_error = match error {
            EvalError::Unavailable(_) => OnError::DeadLetter,
            EvalError::TooLong | EvalError::Failed(_) => step.on_error(),
        };
        match on_error {
            OnError::Drop => Err(reason),
            OnError::DeadLetter => Ok(before.doomed(&format!("{}: {reason}", step.kind()))),
            OnError::Continue(name) => {
                let mark = serde_json::json!({ "status": "failed", "reason": reason });
                Ok(before.with_result(name, &RawJson::of(&mark)))
            }
        }
    }

    /// What is counted at one place of the pipeline.
    pub(in crate::pipeline) fn passed(&mut self, edge: usize) -> &mut Passed {
        let tally = self.made.tally.get_or_insert_with(|| Tally {
            pipeline: self.scope.0,
            version: 0,
            edges: Arc::default(),
            passed: Vec::new(),
        });
        if tally.passed.len() <= edge {
            tally.passed.resize(edge + 1, Passed::default());
        }
        &mut tally.passed[edge]
    }
}
