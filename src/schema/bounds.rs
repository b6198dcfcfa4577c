//! What a schema may ask of us: how large it is, and that its check always ends soon.

use serde_json::{Map, Value};

use super::InvalidSchema;

/// Bytes of a schema.
const BYTES: usize = 64 * 1024;
/// Schemas within schemas, one in the other.
const DEPTH: usize = 32;
/// Schemas in a schema, each counted wherever it is referred to.
const SCHEMAS: usize = 2000;

/// Keywords that hold a map of schemas.
const MAPS: [&str; 6] =
    ["properties", "patternProperties", "$defs", "definitions", "dependentSchemas", "dependencies"];
/// Keywords that hold data, in which nothing means anything.
const DATA: [&str; 6] = ["const", "enum", "default", "example", "examples", "required"];
/// Keywords whose check can take for ever, or that make it hard to say what a reference means.
const REFUSED: [&str; 6] = [
    "$dynamicRef",
    "$dynamicAnchor",
    "$recursiveRef",
    "$anchor",
    "unevaluatedProperties",
    "unevaluatedItems",
];

/// Refuses what is too large, refers to itself, or points outside. What passes unfolds to a finite
/// tree of at most [`SCHEMAS`] schemas.
pub(super) fn check(schema: &Value) -> Result<(), InvalidSchema> {
    let bytes = schema.to_string().len();
    if bytes > BYTES {
        return Err(wrong("", format!("must be at most {BYTES} bytes")));
    }
    if !schema.is_object() && !schema.is_boolean() {
        return Err(wrong("", "must be an object"));
    }
    let mut walk = Walk { root: schema, schemas: 0, open: Vec::new() };
    walk.schema(schema, "", 0)
}

fn wrong(pointer: &str, rule: impl Into<String>) -> InvalidSchema {
    InvalidSchema { pointer: pointer.to_owned(), rule: rule.into() }
}

struct Walk<'a> {
    root: &'a Value,
    schemas: usize,
    /// References that are being followed.
    open: Vec<&'a str>,
}

impl<'a> Walk<'a> {
    fn schema(&mut self, schema: &'a Value, at: &str, depth: usize) -> Result<(), InvalidSchema> {
        let Some(schema) = schema.as_object() else { return Ok(()) };
        self.schemas += 1;
        if self.schemas > SCHEMAS {
            let rule =
                format!("must have at most {SCHEMAS} schemas, each counted where it is used");
            return Err(wrong(at, rule));
        }
        if depth > DEPTH {
            return Err(wrong(at, format!("must be at most {DEPTH} schemas deep")));
        }
        for (keyword, value) in schema {
            let here = format!("{at}/{}", escaped(keyword));
            if REFUSED.contains(&keyword.as_str()) {
                return Err(wrong(&here, format!("must do without `{keyword}`")));
            }
            if matches!(keyword.as_str(), "$id" | "id") && value.is_string() && !at.is_empty() {
                return Err(wrong(&here, "must have an `$id` only at its top"));
            }
            match value {
                Value::String(reference) if keyword == "$ref" => {
                    self.reference(reference, &here, depth)?;
                }
                Value::Object(map) if MAPS.contains(&keyword.as_str()) => {
                    self.each(map, &here, depth)?;
                }
                _ if DATA.contains(&keyword.as_str()) => (),
                Value::Object(_) => self.schema(value, &here, depth + 1)?,
                Value::Array(items) => {
                    for (place, item) in items.iter().enumerate() {
                        self.schema(item, &format!("{here}/{place}"), depth + 1)?;
                    }
                }
                Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => (),
            }
        }
        Ok(())
    }

    fn each(
        &mut self,
        map: &'a Map<String, Value>,
        at: &str,
        depth: usize,
    ) -> Result<(), InvalidSchema> {
        for (name, value) in map {
            self.schema(value, &format!("{at}/{}", escaped(name)), depth + 1)?;
        }
        Ok(())
    }

    fn reference(
        &mut self,
        reference: &'a str,
        at: &str,
        depth: usize,
    ) -> Result<(), InvalidSchema> {
        let target = resolve(self.root, reference).ok_or_else(|| {
            wrong(at, "must refer to a part of this schema, as `#/$defs/address` does")
        })?;
        if reference == "#" || self.open.contains(&reference) {
            return Err(wrong(at, "must not refer to itself, since a check has to end"));
        }
        self.open.push(reference);
        let checked = self.schema(target, at, depth + 1);
        self.open.pop();
        checked
    }
}

/// What a reference within a schema points at.
pub(super) fn resolve<'a>(root: &'a Value, reference: &str) -> Option<&'a Value> {
    let pointer = reference.strip_prefix('#')?;
    // An escaped one would have two spellings.
    if pointer.contains('%') || !(pointer.is_empty() || pointer.starts_with('/')) {
        return None;
    }
    root.pointer(pointer)
}

pub(super) fn escaped(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
}
