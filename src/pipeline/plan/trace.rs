//! What happens to one event in one pipeline, step by step, for people who try it. Where nobody looks,
//! it costs one comparison a step.

use std::time::Duration;

use super::answers::QuestionSlot;
use crate::{
    expr::{EvalError, Facts},
    pipeline::steps::{Next, StepLog},
};

/// Applications of steps that are kept. The rest is counted.
pub(super) const MOST: usize = 1024;

#[derive(Default)]
pub(in crate::pipeline) struct Trace {
    /// In their order.
    pub steps: Vec<Applied>,
    pub omitted: usize,
    /// Each route that was reached, with the deliveries and reasons that there were before it.
    pub routes: Vec<(usize, usize)>,
}

/// What one step did with one event.
pub(in crate::pipeline) struct Applied {
    pub slot: QuestionSlot,
    pub kind: &'static str,
    pub before: Facts,
    pub went: Went,
    pub heard: StepLog,
    pub took: Duration,
}

pub(in crate::pipeline) enum Went {
    Same,
    Changed(Facts),
    Several(Vec<Facts>),
    Stopped(String),
    Failed(String),
}

impl Went {
    pub(super) fn of(result: &Result<Next, EvalError>) -> Self {
        match result {
            Ok(Next::Same) => Self::Same,
            Ok(Next::Changed(after)) => Self::Changed(after.clone()),
            Ok(Next::Several(parts)) => Self::Several(parts.clone()),
            Ok(Next::Stop(reason)) => Self::Stopped(reason.clone()),
            Err(error) => Self::Failed(error.to_string()),
        }
    }
}

impl Trace {
    pub fn enter(&mut self, deliveries: usize, skipped: usize) {
        self.routes.push((deliveries, skipped));
    }
}
