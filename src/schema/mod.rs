//! What payloads look like: JSON Schemas that are checked within limits, and what traffic shows of
//! types that nobody has described.

mod bounds;
mod cost;
mod explain;
mod fields;
mod shape;
pub mod learned;

use std::{borrow::Cow, fmt};

use jsonschema::{
    PatternOptions, ValidationError, Validator,
    paths::{Location, LocationSegment},
};
use serde_json::Value;

pub use self::{
    cost::SchemaBudget,
    fields::{Field, Kinds, SchemaField, fields},
    learned::Learned,
    shape::{SeenField, Shape},
};

/// A JSON Schema, ready to be asked. What a check costs is counted before it is made.
pub struct Schema {
    validator: Validator,
    source: Value,
}

/// What a schema says of a payload.
#[derive(Debug, PartialEq)]
pub enum Checked {
    /// The first [`MOST_FAULTS`] that are wrong with it; none where it is as the schema says.
    Faults(Vec<Fault>),
    /// The check would take more steps than there may be. Nothing was checked.
    TooLarge,
}

/// Why a schema is refused, and where in it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{rule}, at `{pointer}` of the schema")]
pub struct InvalidSchema {
    /// A JSON pointer into the schema: `/properties/plan/type`. Empty: the whole of it.
    pub pointer: String,
    pub rule: String,
}

/// What is wrong with a payload, without any value of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Where, behind the payload: `.items[2].price`. Empty: the payload itself.
    pub path: String,
    /// What the schema asks for there.
    pub rule: String,
}

/// Faults that are reported of one payload.
pub const MOST_FAULTS: usize = 10;
/// Steps that the checks of one request may take together: some tenths of a second. A step is a keyword
/// that is asked of a value.
pub const MOST_STEPS: u64 = 20_000_000;

impl Schema {
    /// Compiles a schema of any draft from 4 to 2020-12, which is the one without `$schema`.
    pub fn compile(schema: &Value) -> Result<Self, InvalidSchema> {
        bounds::check(schema)?;
        let validator = options().build(schema).map_err(|error| InvalidSchema {
            pointer: error.instance_path().to_string(),
            rule: format!("must be a valid JSON Schema: {}", shortened(&error.masked())),
        })?;
        Ok(Self { validator, source: schema.clone() })
    }

    /// Checks a payload, if that takes no more steps than there are, and takes those.
    pub fn check(&self, payload: &Value, budget: &mut SchemaBudget) -> Checked {
        let before = budget.0;
        if !cost::take(&self.source, &self.source, payload, budget) {
            // It has cost its count. So that one does not take everything from those behind it, and many
            // do not count without end, half is left.
            budget.0 = before / 2;
            return Checked::TooLarge;
        }
        Checked::Faults(match self.validator.is_valid(payload) {
            true => Vec::new(),
            false => explain::faults(&self.source, &self.validator, payload),
        })
    }

    /// What is wrong with a payload: the first [`MOST_FAULTS`] of it, or that it cannot be checked.
    pub fn faults(&self, payload: &Value) -> Vec<Fault> {
        match self.check(payload, &mut SchemaBudget(MOST_STEPS)) {
            Checked::Faults(faults) => faults,
            Checked::TooLarge => vec![Fault::too_large()],
        }
    }
}

impl Fault {
    /// What is reported of a payload that takes too many steps to check.
    pub fn too_large() -> Self {
        let rule = format!(
            "must be smaller to be validated: its values times the keywords of the schema make more than \
             {MOST_STEPS} steps, all events of the request together; send less at once"
        );
        Self { path: String::new(), rule }
    }
}

fn options() -> jsonschema::ValidationOptions<'static> {
    /// Bytes that one pattern of it may take when it is compiled.
    const PATTERN: usize = 1 << 20;
    // The engine that never goes back: a pattern takes time in proportion to its text.
    let patterns = PatternOptions::regex().size_limit(PATTERN).dfa_size_limit(PATTERN);
    jsonschema::options()
        .with_pattern_options(patterns)
        .should_validate_formats(true)
        // To judge it means to compile whatever a sender calls a pattern.
        .with_format("regex", |_: &str| true)
        .offline()
}

/// An error of a value that stands at this path.
fn fault(error: &ValidationError<'_>, path: &str) -> Fault {
    Fault {
        path: format!("{path}{}", path_of(error.instance_path())),
        rule: shortened(&error.masked_with("it")),
    }
}

impl fmt::Debug for Schema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a schema")
    }
}

/// Messages repeat the schema, and names of properties; neither has a limit of its own.
fn shortened(message: &impl fmt::Display) -> String {
    const LONGEST: usize = 300;
    let mut text = message.to_string();
    if let Some((end, _)) = text.char_indices().nth(LONGEST) {
        text.truncate(end);
        text.push('…');
    }
    text
}

fn path_of(location: &Location) -> String {
    let mut path = String::new();
    for segment in location {
        match segment {
            LocationSegment::Property(name) => path.push_str(&member(&name)),
            LocationSegment::Index(index) => path.push_str(&format!("[{index}]")),
        }
    }
    path
}

/// How an expression reads a member of an object: `.plan`, or `["first name"]`.
fn member(name: &str) -> Cow<'static, str> {
    const LONGEST: usize = 64;
    let name: String = name.chars().take(LONGEST).collect();
    let is_plain = name.starts_with(|it: char| it.is_ascii_alphabetic() || it == '_')
        && name.bytes().all(|it| it.is_ascii_alphanumeric() || it == b'_');
    match is_plain {
        true => format!(".{name}").into(),
        // A string always serialises.
        false => format!("[{}]", serde_json::to_string(&name).unwrap_or_default()).into(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_schema_that_makes_no_sense_or_could_take_for_ever_is_refused_where_it_is_wrong() {
        let deep = (0..40).fold(json!({}), |inner, _| json!({ "not": inner }));
        let doubling = (0..12).map(|it| {
            let next = format!("#/$defs/d{}", it + 1);
            (format!("d{it}"), json!({ "anyOf": [{ "$ref": next }, { "$ref": next }] }))
        });
        let mut defs: serde_json::Map<String, Value> = doubling.collect();
        defs.insert("d12".to_owned(), json!({}));
        for (schema, pointer) in [
            (json!({ "type": "objekt" }), "/type"),
            (json!({ "properties": { "a/b": { "minimum": "1" } } }), "/properties/a~1b/minimum"),
            (json!({ "pattern": "(" }), "/pattern"),
            (json!({ "pattern": "(?=a)b" }), "/pattern"),
            (json!({ "$ref": "#" }), "/$ref"),
            (json!({ "$ref": "https://example.com/schema.json" }), "/$ref"),
            (
                json!({ "properties": { "a": { "$ref": "file:///etc/passwd" } } }),
                "/properties/a/$ref",
            ),
            (
                json!({ "$defs": { "a": { "items": { "$ref": "#/$defs/a" } } } }),
                "/$defs/a/items/$ref/items/$ref",
            ),
            (json!({ "unevaluatedProperties": false }), "/unevaluatedProperties"),
            (json!({ "items": { "$id": "x" } }), "/items/$id"),
            (json!("text"), ""),
            (json!({ "description": "x".repeat(70_000) }), ""),
            (deep, &"/not".repeat(33)),
        ] {
            let error = Schema::compile(&schema).map(|_| ()).unwrap_err();
            assert_eq!(error.pointer, pointer, "{error}");
        }
        let error = Schema::compile(&json!({ "$ref": "#/$defs/d0", "$defs": defs })).unwrap_err();
        assert!(error.rule.contains("at most 2000 schemas"), "{error}");
    }

    #[test]
    fn schemas_of_every_draft_are_taken_and_a_property_may_have_any_name() {
        for schema in [
            json!(true),
            json!({ "$schema": "http://json-schema.org/draft-04/schema#", "id": "https://a.example/" }),
            json!({ "$schema": "https://json-schema.org/draft/2020-12/schema", "$id": "https://a.example/" }),
            json!({ "properties": { "$ref": { "type": "string" }, "enum": {}, "$anchor": {} } }),
            json!({ "const": { "$ref": "https://example.com/" } }),
            json!({ "items": { "$ref": "#/$defs/a" }, "not": { "$ref": "#/$defs/a" }, "$defs": { "a": {} } }),
        ] {
            Schema::compile(&schema).unwrap();
        }
    }

    #[test]
    fn a_fault_says_where_and_what_is_asked_and_never_a_value() {
        let schema = json!({
            "required": ["plan"],
            "properties": {
                "plan": { "enum": ["free", "pro"] },
                "email": { "format": "email" },
                "items": { "items": { "properties": { "unit price": { "type": "number" } } } },
            },
        });
        let schema = Schema::compile(&schema).unwrap();
        assert_eq!(schema.faults(&json!({ "plan": "pro", "email": "a@b.example" })), []);
        let payload = json!({
            "plan": "hunter2",
            "email": "hunter2",
            "items": [{}, { "unit price": "hunter2" }],
        });
        let faults = schema.faults(&payload);
        let paths: Vec<_> = faults.iter().map(|it| it.path.as_str()).collect();
        assert_eq!(paths, [".plan", ".email", r#".items[1]["unit price"]"#]);
        assert!(!format!("{faults:?}").contains("hunter2"), "{faults:?}");
        let missing = schema.faults(&json!({}));
        assert_eq!((missing[0].path.as_str(), missing.len()), ("", 1));
        assert!(missing[0].rule.contains("plan"), "{missing:?}");
        assert_eq!(
            schema
                .faults(&json!({ "items": vec![json!({ "unit price": "" }); 50], "plan": 1 }))
                .len(),
            10
        );
    }

    #[test]
    fn a_large_payload_has_ten_faults_with_their_places() {
        let shapes: Vec<Value> = (0..6).map(|it| json!({ "required": [it.to_string()] })).collect();
        let schema = json!({
            "required": ["plan"],
            "properties": {
                "shapes": { "items": { "oneOf": shapes } },
                "texts": { "allOf": [{ "$ref": "#/$defs/texts" }] },
                "one": { "anyOf": [{ "$ref": "#/$defs/texts" }, { "maxItems": 3 }] },
                "a/b~": { "items": { "items": { "type": "string" } } },
            },
            "$defs": { "texts": { "items": { "type": "string" } } },
        });
        let schema = Schema::compile(&schema).unwrap();
        let numbers = json!((0..50_000).collect::<Vec<_>>());
        let last = json!(
            (0..5000)
                .map(|it| json!([if it < 4999 { json!("a") } else { json!(1) }]))
                .collect::<Vec<_>>()
        );
        for (payload, first, count) in [
            (json!({ "plan": 1, "shapes": vec![json!({}); 50_000] }), ".shapes[0]", 10),
            (json!({ "plan": 1, "texts": numbers }), ".texts[0]", 10),
            (json!({ "plan": 1, "one": numbers }), ".one", 1),
            (json!({ "plan": 1, "a/b~": last }), r#"["a/b~"][4999][0]"#, 1),
            (json!({ "texts": vec!["a"; 50_000] }), "", 1),
        ] {
            let faults = schema.faults(&payload);
            assert_eq!((faults[0].path.as_str(), faults.len()), (first, count), "{faults:?}");
        }
    }

    #[test]
    fn schemas_name_what_they_cannot_check() {
        let consts: Vec<Value> = (0..1500).map(|it| json!({ "const": it })).collect();
        let schema = Schema::compile(&json!({ "items": { "anyOf": consts } })).unwrap();
        let payload = json!(vec![-1; 250_000]);
        assert_eq!(schema.check(&payload, &mut SchemaBudget(MOST_STEPS)), Checked::TooLarge);
        assert!(schema.faults(&payload)[0].rule.contains("smaller to be validated"));
        // A request's events share the steps.
        let (mut budget, payload) = (SchemaBudget(10_000), json!([-1]));
        let checked = [0; 3].map(|_| schema.check(&payload, &mut budget) == Checked::TooLarge);
        assert_eq!((checked, budget.0 > 0), ([false, false, true], true));
    }

    #[test]
    fn patterns_and_lists_take_time_in_proportion() {
        let schema = json!({ "pattern": "^(a+)+$", "uniqueItems": true });
        let schema = Schema::compile(&schema).unwrap();
        let text = format!("{}!", "a".repeat(500_000));
        assert_eq!(schema.faults(&json!(text)).len(), 1);
        assert_eq!(schema.faults(&json!((0..100_000).collect::<Vec<_>>())).len(), 0);
    }
}
