//! A new JSON value out of an event, by a template for it.

use super::{EvalError, ExprError, Facts, Names, Parts, Template, json};
use crate::model::RawJson;

/// JSON with `{{ … }}` in its strings. A string that is one `{{ … }}` and nothing else keeps the
/// type of its value; what is missing disappears from its object; null stays null.
pub struct Mapping {
    shape: MappingShape,
}

enum MappingShape {
    /// Without any `{{ … }}`: JSON as it goes out.
    Fixed(Vec<u8>),
    Text(Template),
    List(Vec<MappingShape>),
    Map(Vec<(String, MappingShape)>),
}

/// Which string of a mapping was refused, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{path}")]
pub struct InvalidMapping {
    /// Inside of the mapping: `user.names[0]`.
    pub path: String,
    pub source: ExprError,
}

/// The largest mapping result.
const LARGEST: usize = 4 * 1024 * 1024;

impl Mapping {
    pub fn compile(shape: &serde_json::Value) -> Result<Self, InvalidMapping> {
        Self::compile_with(shape, &Names::default())
    }

    pub fn compile_with(
        shape: &serde_json::Value,
        names: &Names<'_>,
    ) -> Result<Self, InvalidMapping> {
        compile(shape, names).map(|shape| Self { shape })
    }

    /// The JSON for this event. It is `null` when all of it is one value that is missing.
    pub fn apply(&self, facts: &Facts) -> Result<RawJson, EvalError> {
        let mut out = Vec::with_capacity(256);
        if !self.shape.write(facts, &mut out)? {
            return Ok(RawJson::NULL);
        }
        Ok(RawJson::trusted(out))
    }
}

fn compile(shape: &serde_json::Value, names: &Names<'_>) -> Result<MappingShape, InvalidMapping> {
    use serde_json::Value;
    let within = |place: String| {
        move |mut error: InvalidMapping| {
            let dot = if error.path.is_empty() || error.path.starts_with('[') { "" } else { "." };
            error.path = format!("{place}{dot}{}", error.path);
            error
        }
    };
    let shape = match shape {
        Value::String(text) => {
            let template = Template::compile_with(text, names)
                .map_err(|source| InvalidMapping { path: String::new(), source })?;
            match template.parts {
                Parts::Plain(text) => MappingShape::Fixed(RawJson::of(&text).bytes().to_vec()),
                Parts::Single(_) | Parts::Engine(_) => MappingShape::Text(template),
            }
        }
        Value::Array(items) => MappingShape::List(
            (items.iter().enumerate())
                .map(|(place, item)| compile(item, names).map_err(within(format!("[{place}]"))))
                .collect::<Result<_, _>>()?,
        ),
        Value::Object(fields) => MappingShape::Map(
            (fields.iter())
                .map(|(key, field)| {
                    let shape = compile(field, names).map_err(within(key.clone()))?;
                    Ok((key.clone(), shape))
                })
                .collect::<Result<_, InvalidMapping>>()?,
        ),
        Value::Null | Value::Bool(_) | Value::Number(_) => {
            MappingShape::Fixed(RawJson::of(shape).bytes().to_vec())
        }
    };
    Ok(shape)
}

impl MappingShape {
    /// Writes the value, or nothing and `false` when it is missing.
    fn write(&self, facts: &Facts, out: &mut Vec<u8>) -> Result<bool, EvalError> {
        if out.len() > LARGEST {
            return Err(EvalError::Failed("the result is larger than 4 MiB".to_owned()));
        }
        match self {
            Self::Fixed(json) => out.extend_from_slice(json),
            Self::Text(template) => match &template.parts {
                Parts::Single(compiled) => return compiled.write_json(facts, out),
                Parts::Plain(_) | Parts::Engine(_) => {
                    json::write_text(&template.render(facts)?, out);
                }
            },
            Self::List(items) => {
                out.push(b'[');
                for (place, item) in items.iter().enumerate() {
                    if place > 0 {
                        out.push(b',');
                    }
                    // A place in a list means something, so it stays.
                    if !item.write(facts, out)? {
                        out.extend_from_slice(b"null");
                    }
                }
                out.push(b']');
            }
            Self::Map(fields) => {
                out.push(b'{');
                let start = out.len();
                for (key, field) in fields {
                    let before = out.len();
                    if before > start {
                        out.push(b',');
                    }
                    json::write_text(key, out);
                    out.push(b':');
                    if !field.write(facts, out)? {
                        out.truncate(before);
                    }
                }
                out.push(b'}');
            }
        }
        Ok(true)
    }
}
