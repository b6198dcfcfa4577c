//! The one expression language: conditions, mappings, templates and ordering keys.
//!
//! It is Jinja, carried out by `minijinja`, over the fields of an event by name. What differs from
//! Jinja is what people mean when a field is missing: it equals nothing. docs/expressions.md says
//! it all. An expression is compiled once, when its pipeline is; it reads no clock and no file, and
//! ends within set limits on steps, work and output.

mod lexer;
mod rewrite;
mod tags;
mod json;
mod facts;
mod compare;
mod engine;
mod braces;
mod costs;
mod mapping;

use std::fmt;

use minijinja::{Environment, ErrorKind, Expression as Program, value::Value};
use xxhash_rust::xxh3::xxh3_64;

pub use facts::{Facts, Mask};
pub use mapping::{InvalidMapping, Mapping};

use crate::model::Lane;
use engine::ENGINE;
use rewrite::Rewriter;
use tags::TemplateText;

/// The longest source of an expression or a template, in bytes.
const LONGEST_SOURCE: usize = 64 * 1024;

/// Why an expression was refused when it was to be saved.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("at line {line}, column {column}: expected {expected}, found {found}")]
pub struct ExprError {
    /// From 1, in characters.
    pub line: usize,
    pub column: usize,
    pub expected: String,
    pub found: String,
}

impl ExprError {
    fn new(source: &str, at: usize, expected: &str, found: &str) -> Self {
        let before = source.get(..at).unwrap_or(source);
        let line_start = before.rfind('\n').map_or(0, |it| it + 1);
        Self {
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
            expected: expected.to_owned(),
            found: found.to_owned(),
        }
    }
}

pub use costs::EventBudget;

/// Why an expression has no value for this event.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EvalError {
    /// It took more steps, or looked through more bytes, than one evaluation may.
    #[error("the expression takes too long")]
    TooLong,
    #[error("{0}")]
    Failed(String),
    /// Nothing is wrong with the event or with what was written for it: the machine could not do it now.
    #[error("{0}")]
    Unavailable(String),
}

impl From<minijinja::Error> for EvalError {
    fn from(error: minijinja::Error) -> Self {
        match error.kind() {
            ErrorKind::OutOfFuel => Self::TooLong,
            ErrorKind::WriteFailure => Self::Failed("the text is longer than 1 MiB".to_owned()),
            kind => Self::Failed(error.detail().map_or_else(|| kind.to_string(), str::to_owned)),
        }
    }
}

/// The names that an expression may use: those of every event, and what earlier steps add.
#[derive(Clone, Copy, Debug, Default)]
pub struct Names<'a> {
    pub results: &'a [String],
    /// There is no event, and so none of its fields: only the results.
    pub bare: bool,
}

impl Names<'_> {
    fn has(&self, name: &str) -> bool {
        !self.bare && facts::NAMES.contains(&name) || self.results.iter().any(|it| it == name)
    }

    /// Whether a step may add its result under this name.
    pub fn is_free(&self, name: &str) -> bool {
        let is_name = name.bytes().all(|it| it.is_ascii_alphanumeric() || it == b'_')
            && name.starts_with(|it: char| it.is_ascii_alphabetic());
        is_name && !self.has(name) && !rewrite::is_reserved(name)
    }

    fn listed(&self) -> String {
        let results = self.results.iter().map(String::as_str);
        let fields = if self.bare { &[][..] } else { &facts::NAMES[..] };
        fields.iter().copied().chain(results).collect::<Vec<_>>().join(", ")
    }
}

/// A compiled expression, in the one engine that all share.
struct Compiled {
    expression: Program<'static, 'static>,
    /// `payload.user.id`: for these the engine need not run.
    path: Option<Vec<String>>,
}

impl Compiled {
    fn new(source: &str, names: &Names<'_>) -> Result<Self, ExprError> {
        check_length(source)?;
        let (text, _) = Rewriter::new(source, 0, false, names, Vec::new())
            .and_then(Rewriter::finish)
            .map_err(|error| braces::explained(source, names).unwrap_or(error))?;
        let expression =
            ENGINE.compile_expression_owned(text).map_err(|error| refused(source, &error))?;
        Ok(Self { expression, path: plain_path(source, names) })
    }

    fn value(&self, facts: &Facts) -> Result<Value, EvalError> {
        if let Some(path) = &self.path {
            return Ok(follow(path, facts));
        }
        costs::start();
        Ok(self.expression.eval(facts.root())?)
    }
}

impl Compiled {
    /// Writes the value as JSON, or nothing and `false` when it is missing. What is only passed on
    /// goes out byte for byte, so that `1.50` stays `1.50`.
    fn write_json(&self, facts: &Facts, out: &mut Vec<u8>) -> Result<bool, EvalError> {
        if self.path.as_deref().is_some_and(|it| it == ["payload"]) {
            out.extend_from_slice(facts.payload().bytes());
            return Ok(true);
        }
        if let Some([before @ .., last]) = self.path.as_deref()
            && !before.is_empty()
            && let Some(parent) = follow(before, facts).downcast_object_ref::<json::Json>()
        {
            let raw = parent.raw_field(last);
            out.extend_from_slice(raw.map_or(&[], |it| it));
            return Ok(raw.is_some());
        }
        let value = self.value(facts)?;
        if value.is_undefined() {
            return Ok(false);
        }
        json::write(&value, out);
        Ok(true)
    }
}

/// The value at a plain path.
fn follow(path: &[String], facts: &Facts) -> Value {
    let mut value = facts.get(&path[0]).unwrap_or_default();
    for name in &path[1..] {
        value = match value.as_object().map(|it| it.get_value_by_str(name)) {
            Some(Some(it)) => it,
            Some(None) | None => return Value::UNDEFINED,
        };
    }
    value
}

fn check_length(source: &str) -> Result<(), ExprError> {
    if source.len() <= LONGEST_SOURCE {
        return Ok(());
    }
    Err(ExprError::new(source, 0, "at most 64 KiB", "a longer text"))
}

/// What the engine refuses although we did not: nothing but nesting beyond its depth is known.
fn refused(source: &str, error: &minijinja::Error) -> ExprError {
    let expected = "a simpler expression";
    let found = error.detail().unwrap_or("one that the engine refuses").to_owned();
    ExprError { found, ..ExprError::new(source, 0, expected, "") }
}

/// The parts of `payload.user.id`, if the source is no more than that.
fn plain_path(source: &str, names: &Names<'_>) -> Option<Vec<String>> {
    let parts: Vec<String> = source.trim().split('.').map(str::to_owned).collect();
    let is_plain = |it: &String| {
        it.starts_with(|it: char| it.is_ascii_alphabetic() || it == '_')
            && it.bytes().all(|it| it.is_ascii_alphanumeric() || it == b'_')
    };
    (names.has(parts.first()?) && parts.iter().all(is_plain)).then_some(parts)
}

/// An expression that is true or false of an event.
pub struct Condition {
    compiled: Compiled,
}

impl Condition {
    pub fn compile(source: &str) -> Result<Self, ExprError> {
        Self::compile_with(source, &Names::default())
    }

    pub fn compile_with(source: &str, names: &Names<'_>) -> Result<Self, ExprError> {
        Ok(Self { compiled: Compiled::new(source, names)? })
    }

    /// Whether it holds. On an error it does not, and the caller says so where people see it.
    pub fn holds(&self, facts: &Facts) -> Result<bool, EvalError> {
        self.compiled.value(facts).map(|it| it.is_true())
    }
}

/// A text with `{{ … }}` in it.
pub struct Template {
    parts: Parts,
}

enum Parts {
    Plain(String),
    Single(Compiled),
    /// An engine of its own, since that is what owns a template. Filters and tests are shared.
    Engine(Box<Environment<'static>>),
}

/// The only template of its engine.
const ONLY: &str = "template";

impl Template {
    pub fn compile(source: &str) -> Result<Self, ExprError> {
        Self::compile_with(source, &Names::default())
    }

    pub fn compile_with(source: &str, names: &Names<'_>) -> Result<Self, ExprError> {
        check_length(source)?;
        let parts = match tags::read(source, names)? {
            TemplateText::Plain => Parts::Plain(source.to_owned()),
            TemplateText::Single(expression) => Parts::Single(Compiled::new(&expression, names)?),
            TemplateText::Template(text) => {
                let mut engine = Box::new(ENGINE.clone());
                engine.add_template_owned(ONLY, text).map_err(|error| refused(source, &error))?;
                Parts::Engine(engine)
            }
        };
        Ok(Self { parts })
    }

    /// The text for this event. What is missing or null prints as nothing.
    pub fn render(&self, facts: &Facts) -> Result<String, EvalError> {
        match &self.parts {
            Parts::Plain(text) => Ok(text.clone()),
            Parts::Single(compiled) => {
                let value = compiled.value(facts)?;
                costs::start();
                Ok(engine::text(&value)?)
            }
            Parts::Engine(engine) => {
                costs::start();
                let mut printed = engine::Printed(Vec::new());
                engine.get_template(ONLY)?.render_captured_to(facts.root(), &mut printed)?;
                Ok(String::from_utf8(printed.0).unwrap_or_default())
            }
        }
    }
}

/// An expression whose value is wanted as a text, such as an e-mail address or a key.
pub struct Expression {
    compiled: Compiled,
}

impl Expression {
    pub fn compile_with(source: &str, names: &Names<'_>) -> Result<Self, ExprError> {
        Ok(Self { compiled: Compiled::new(source, names)? })
    }

    /// The text, without space around it. `None` where it is missing, null or empty, and where it
    /// is no single value.
    pub fn text(&self, facts: &Facts) -> Result<Option<String>, EvalError> {
        let value = self.compiled.value(facts)?;
        let is_single = value.as_object().is_none() || json::written(&value).is_some();
        if value.is_undefined() || value.is_none() || !is_single {
            return Ok(None);
        }
        costs::start();
        let text = engine::text(&value)?;
        Ok(Some(text.trim()).filter(|it| !it.is_empty()).map(str::to_owned))
    }
}

/// An expression whose value says which deliveries wait for each other.
pub struct Key {
    compiled: Compiled,
}

impl Key {
    pub fn compile(source: &str) -> Result<Self, ExprError> {
        Ok(Self { compiled: Compiled::new(source, &Names::default())? })
    }

    /// The lane of this event's value. Events without a value share one, so that they are in order
    /// among themselves. Never [`Lane::NONE`].
    pub fn lane(&self, facts: &Facts) -> Result<Lane, EvalError> {
        let value = self.compiled.value(facts)?;
        let hash = match value.as_str() {
            Some(text) => xxh3_64(text.as_bytes()),
            None => {
                let mut json = Vec::new();
                json::write(&value, &mut json);
                // Not the hash of the text `1`, but of the number.
                xxh3_64(&json) ^ 1
            }
        };
        Ok(Lane(hash.max(1)))
    }

    /// Where events go whose key cannot be evaluated.
    pub fn fallback() -> Lane {
        Lane(xxh3_64(b"null").max(1))
    }
}

impl fmt::Debug for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Condition")
    }
}

#[cfg(test)]
mod tests;
