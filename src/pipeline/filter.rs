//! `filter.match`: the event goes on if a condition holds.

use serde_json::Value;

use super::{
    Invalid, Tools,
    steps::{Next, Step, kind_of},
};
use crate::{
    expr::{Condition, EvalError, Facts, Names},
    model::ProjectId,
};

pub(super) struct FilterStep {
    condition: Condition,
    reason: String,
}

impl FilterStep {
    pub const KIND: &str = "filter.match";

    pub fn build(
        settings: &Value,
        names: &Names<'_>,
        _: ProjectId,
        _: &Tools,
    ) -> Result<Box<dyn Step>, Invalid> {
        let Value::String(source) = settings else {
            return Err(Invalid::new(Self::KIND, "must be a condition", kind_of(settings)));
        };
        let condition = Condition::compile_with(source, names)
            .map_err(|error| Invalid::expression(Self::KIND, &error))?;
        Ok(Box::new(Self { condition, reason: super::reasons::does_not_hold(source) }))
    }
}

impl Step for FilterStep {
    fn kind(&self) -> &'static str {
        Self::KIND
    }

    fn apply(&self, facts: &Facts) -> Result<Next, EvalError> {
        let holds = self.condition.holds(facts)?;
        Ok(if holds { Next::Same } else { Next::Stop(self.reason.clone()) })
    }
}
