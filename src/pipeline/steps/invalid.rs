//! What is wrong with a pipeline, and where.

use serde_json::Value;

use crate::expr::ExprError;

/// What is wrong with a pipeline, and where: `routes[0].steps[1].filter.match`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {rule}, found {found}")]
pub struct Invalid {
    pub path: String,
    pub rule: String,
    /// The kind of what stands there, never its value.
    pub found: String,
}

impl Invalid {
    pub fn new(path: &str, rule: impl Into<String>, found: impl Into<String>) -> Self {
        Self { path: path.to_owned(), rule: rule.into(), found: found.into() }
    }

    pub fn expression(path: &str, error: &ExprError) -> Self {
        let ExprError { line, column, expected, found } = error;
        let rule = format!("must have {expected} at line {line}, column {column}");
        Self::new(path, rule, found.clone())
    }
}

/// What stands there, for errors.
pub(super) fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "a map",
    }
}
