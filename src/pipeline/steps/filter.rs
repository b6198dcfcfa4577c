//! `filter.match`: the event goes on if a condition holds.

use serde_json::Value;

use super::{
    invalid::{Invalid, kind_of},
    step::{Next, Step},
    when::When,
};
use crate::{
    expr::{EvalError, Facts, Names},
    model::ProjectId,
    pipeline::Tools,
};

pub(super) struct FilterStep {
    when: When,
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
        let when = When::compile(source, names)
            .map_err(|error| Invalid::expression(Self::KIND, &error))?;
        Ok(Box::new(Self { when }))
    }
}

impl Step for FilterStep {
    fn kind(&self) -> &'static str {
        Self::KIND
    }

    fn apply(&self, facts: &Facts) -> Result<Next, EvalError> {
        let holds = self.when.condition.holds(facts)?;
        Ok(if holds { Next::Same } else { Next::Stop(self.when.reason.clone()) })
    }
}
