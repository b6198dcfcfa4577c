//! The fields that a schema describes, by the paths by which expressions read them.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{bounds::resolve, member};

/// The kinds of value that a field has, as JSON Schema names them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kinds(pub u8);

/// A field of payloads.
#[derive(Clone, Debug, PartialEq)]
pub struct Field {
    /// `payload.items[].price`: `[]` stands for every element.
    pub path: String,
    pub kinds: Kinds,
}

/// A field that a schema describes.
#[derive(Clone, Debug, PartialEq)]
pub struct SchemaField {
    pub field: Field,
    /// Whether it is there whenever what it stands in is.
    pub required: bool,
    pub description: Option<String>,
    /// The values that it may have, if they are listed.
    pub values: Vec<Value>,
}

/// Fields of one schema that are reported.
const MOST_FIELDS: usize = 1000;
const DEPTH: usize = 32;

impl Kinds {
    const ALL: [&str; 7] = ["null", "boolean", "integer", "number", "string", "array", "object"];

    pub fn of(value: &Value) -> Self {
        Self::named(match value {
            Value::Null => "null",
            Value::Bool(_) => "boolean",
            Value::Number(it) if it.is_f64() => "number",
            Value::Number(_) => "integer",
            Value::String(_) => "string",
            Value::Array(_) => "array",
            Value::Object(_) => "object",
        })
    }

    fn named(name: &str) -> Self {
        Self::ALL.iter().position(|it| *it == name).map_or(Self(0), |it| Self(1 << it))
    }

    pub fn add(&mut self, other: Self) {
        self.0 |= other.0;
    }

    pub fn names(self) -> Vec<&'static str> {
        let has = |it: &(usize, &'static str)| self.0 >> it.0 & 1 == 1;
        Self::ALL.into_iter().enumerate().filter(has).map(|it| it.1).collect()
    }
}

/// The fields of a schema that compiles, in its order. Alternatives (`anyOf` and the like) are reported together.
pub fn fields(schema: &Value) -> Vec<SchemaField> {
    let mut found = Vec::new();
    collect(schema, schema, "payload", 0, &mut found);
    found
}

fn collect(root: &Value, schema: &Value, path: &str, depth: usize, found: &mut Vec<SchemaField>) {
    let Some(schema) = schema.as_object().filter(|_| depth < DEPTH) else { return };
    let target = schema.get("$ref").and_then(Value::as_str).and_then(|it| resolve(root, it));
    for part in target.into_iter().chain(alternatives(schema)) {
        collect(root, part, path, depth + 1, found);
    }
    let required = schema.get("required").and_then(Value::as_array);
    let properties = schema.get("properties").and_then(Value::as_object);
    for (name, value) in properties.into_iter().flatten() {
        let path = format!("{path}{}", member(name));
        let is_required = required.is_some_and(|it| it.iter().any(|it| it == name));
        note(root, value, &path, is_required, found);
        collect(root, value, &path, depth + 1, found);
    }
    if let Some(items) = schema.get("items").filter(|it| it.is_object()) {
        collect(root, items, &format!("{path}[]"), depth + 1, found);
    }
}

fn alternatives(schema: &Map<String, Value>) -> impl Iterator<Item = &Value> {
    let lists = ["allOf", "anyOf", "oneOf"].into_iter().filter_map(|it| schema.get(it)?.as_array());
    let branches = ["then", "else"].into_iter().filter_map(|it| schema.get(it));
    lists.flatten().chain(branches)
}

fn note(root: &Value, schema: &Value, path: &str, required: bool, found: &mut Vec<SchemaField>) {
    let mut field = SchemaField {
        field: Field { path: path.to_owned(), kinds: Kinds::default() },
        required,
        description: None,
        values: Vec::new(),
    };
    describe(root, schema, &mut field, 0);
    if let Some(old) = found.iter_mut().find(|it| it.field.path == path) {
        old.field.kinds.add(field.field.kinds);
        old.required |= field.required;
        old.description = old.description.take().or(field.description);
        old.values.extend(field.values);
    } else if found.len() < MOST_FIELDS {
        found.push(field);
    }
}

/// What a schema and those that it refers to say about the value itself.
fn describe(root: &Value, schema: &Value, field: &mut SchemaField, depth: usize) {
    let Some(schema) = schema.as_object().filter(|_| depth < DEPTH) else { return };
    let text = schema.get("description").and_then(Value::as_str);
    field.description = field.description.take().or(text.map(str::to_owned));
    match schema.get("type") {
        Some(Value::String(name)) => field.field.kinds.add(Kinds::named(name)),
        Some(Value::Array(names)) => {
            let names = names.iter().filter_map(Value::as_str);
            names.for_each(|it| field.field.kinds.add(Kinds::named(it)));
        }
        Some(_) => (),
        None => {
            let one = schema.get("const").into_iter();
            let many = schema.get("enum").and_then(Value::as_array).into_iter().flatten();
            one.chain(many).for_each(|it| field.field.kinds.add(Kinds::of(it)));
        }
    }
    let one = schema.get("const").into_iter();
    let many = schema.get("enum").and_then(Value::as_array).into_iter().flatten();
    field.values.extend(one.chain(many).cloned());
    let target = schema.get("$ref").and_then(Value::as_str).and_then(|it| resolve(root, it));
    for part in target.into_iter().chain(alternatives(schema)) {
        describe(root, part, field, depth + 1);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_field_has_the_path_by_which_expressions_read_it() {
        let schema = json!({
            "type": "object",
            "required": ["plan"],
            "properties": {
                "plan": { "enum": ["free", "pro"], "description": "What is paid for." },
                "first name": { "type": ["string", "null"] },
                "items": { "type": "array", "items": { "$ref": "#/$defs/item" } },
            },
            "anyOf": [{ "properties": { "plan": { "type": "string" }, "email": true } }],
            "$defs": { "item": { "type": "object", "properties": { "price": { "type": "number" } } } },
        });
        let found = fields(&schema);
        let shown = found.iter().map(|it| (it.field.path.as_str(), it.field.kinds.names()));
        let mut shown: Vec<_> = shown.collect();
        shown.sort();
        let expected = [
            ("payload.email", vec![]),
            ("payload.items", vec!["array"]),
            ("payload.items[].price", vec!["number"]),
            ("payload.plan", vec!["string"]),
            (r#"payload["first name"]"#, vec!["null", "string"]),
        ];
        assert_eq!(shown, expected);
        let plan = found.iter().find(|it| it.field.path == "payload.plan").unwrap();
        assert_eq!((plan.required, plan.values.len()), (true, 2));
        assert_eq!(plan.description.as_deref(), Some("What is paid for."));
    }
}
