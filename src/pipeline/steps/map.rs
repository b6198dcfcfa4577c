//! `map`: builds a new payload from templates.

use serde_json::Value;

use super::{
    invalid::{Invalid, kind_of},
    step::{Next, Step},
};
use crate::{
    expr::{EvalError, Facts, Mapping, Names},
    model::ProjectId,
    pipeline::Tools,
};

pub(super) struct Map {
    mapping: Mapping,
}

impl Map {
    pub const KIND: &str = "map";

    pub fn build(
        settings: &Value,
        names: &Names<'_>,
        _: ProjectId,
        _: &Tools,
    ) -> Result<Box<dyn Step>, Invalid> {
        if matches!(settings, Value::Null | Value::Bool(_) | Value::Number(_)) {
            let rule = "must be an object, a list or a text of templates";
            return Err(Invalid::new(Self::KIND, rule, kind_of(settings)));
        }
        let mapping = Mapping::compile_with(settings, names).map_err(|error| {
            let dot = if error.path.is_empty() || error.path.starts_with('[') { "" } else { "." };
            Invalid::expression(&format!("{}{dot}{}", Self::KIND, error.path), &error.source)
        })?;
        Ok(Box::new(Self { mapping }))
    }
}

impl Step for Map {
    fn kind(&self) -> &'static str {
        Self::KIND
    }

    fn apply(&self, facts: &Facts) -> Result<Next, EvalError> {
        Ok(Next::Changed(facts.with_payload(self.mapping.apply(facts)?)))
    }
}
