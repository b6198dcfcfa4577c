//! Settings as people write them: read from YAML or JSON with the place of each value, and errors that name the
//! field, the rule and what was found.

pub mod tree;
pub mod words;
mod secret;
mod setting;

use std::fmt;

use serde::{Serialize, de::DeserializeOwned};

use crate::expr::ExprError;

pub use secret::{AuthSpec, BasicSpec, SecretSpec};
pub use setting::{Setting, Span};

/// What is wrong with a resource, without the value itself: it may be a secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Invalid {
    /// The field: `destinations[0].retry.waits[2]`. Empty: the whole document.
    pub path: String,
    /// What must be so.
    pub rule: String,
    /// The kind of what stands there: `a string`, `nothing`.
    pub found: String,
}

impl Invalid {
    pub fn new(path: impl Into<String>, rule: impl Into<String>, found: impl Into<String>) -> Self {
        Self { path: path.into(), rule: rule.into(), found: found.into() }
    }

    /// An expression or a template that does not compile.
    pub fn expression(path: impl Into<String>, error: &ExprError) -> Self {
        let ExprError { line, column, expected, found } = error;
        let rule = format!("must have {expected} at line {line}, column {column}");
        Self::new(path, rule, found.clone())
    }

    /// There is no such field among these.
    pub fn unknown_field(field: &str, fields: &[&str]) -> Self {
        let (meant, listed) = (words::meant(field, fields), words::listed(fields));
        let text = format!("is not a field here{meant}: there are {listed}");
        Self::new(words::printable(field), text, "an unknown field")
    }

    /// The text is none of these words.
    pub fn unknown_word(path: &str, word: &str, words: &[&str]) -> Self {
        let (meant, listed) = (words::meant(word, words), words::listed(words));
        Self::new(path, format!("must be one of {listed}{meant}"), "a string")
    }

    /// The same inside of `parent`.
    pub fn within(mut self, parent: &str) -> Self {
        let dot = if self.path.is_empty() || self.path.starts_with('[') { "" } else { "." };
        self.path = format!("{parent}{dot}{}", self.path);
        self
    }
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        write!(f, "{}, found {}", self.rule, self.found)
    }
}

/// What is wrong with a text that is no YAML, without its place.
pub fn invalid_yaml(error: &serde_saphyr::Error) -> Invalid {
    let (rule, found) = words::yaml(error);
    Invalid::new("", rule, found)
}

/// Reads the body of an API request into one of the shapes. The path of an error names the field.
pub fn read_json<T: DeserializeOwned>(body: &[u8]) -> Result<T, Invalid> {
    tree::from_json(body)?.read()
}
