//! The kinds of destinations as people read them: for the API, the command line and the docs, all from the table of
//! kinds.

use serde::Serialize;
use serde_json::{Map, Value, json};
use utoipa::PartialSchema as _;

use super::{
    PolicySpec,
    destination::{field_names, schema_of},
};
use crate::destinations::{
    kind::{Kind, is_secret},
    kinds::KINDS,
};

/// A kind of destination: what a form for it is made of.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
#[schema(as = DestinationKind)]
pub struct KindView {
    /// The value of the field `kind`.
    #[schema(example = "webhook")]
    pub kind: &'static str,
    pub title: &'static str,
    /// One sentence.
    pub help: &'static str,
    /// A destination of this kind in YAML, as one entry of the list `destinations`.
    pub example: &'static str,
    /// Where secrets stand, e.g. `auth.bearer` and `headers.*`. They are never shown again.
    pub secrets: &'static [&'static str],
    /// The JSON Schema (2020-12) of a destination of this kind, the common fields included. It refers to nothing
    /// outside of itself.
    #[schema(value_type = Object)]
    pub schema: Value,
}

impl KindView {
    /// Every kind, in the order of the table.
    pub fn all() -> Vec<Self> {
        KINDS.iter().map(|it| Self::of(*it)).collect()
    }

    fn of(kind: &dyn Kind) -> Self {
        let about = kind.about();
        Self {
            kind: about.word,
            title: about.title,
            help: about.help,
            example: about.example,
            secrets: about.secrets,
            schema: schema(kind),
        }
    }
}

/// The schema with the parts that it refers to in `$defs`.
fn schema(kind: &dyn Kind) -> Value {
    let mut whole = serde_json::to_value(schema_of(kind)).unwrap_or_default();
    let mut parts = Map::new();
    for (name, part) in kind.schema().parts {
        parts.insert(name, serde_json::to_value(part).unwrap_or_default());
    }
    whole["$schema"] = json!("https://json-schema.org/draft/2020-12/schema");
    if !parts.is_empty() {
        whole["$defs"] = Value::Object(parts);
    }
    point_inside(&mut whole);
    whole
}

/// Makes references to components of the API's description ones to `$defs`.
fn point_inside(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            if let Some(Value::String(to)) = fields.get_mut("$ref") {
                *to = to.replace("#/components/schemas/", "#/$defs/");
            }
            fields.values_mut().for_each(point_inside);
        }
        Value::Array(items) => items.iter_mut().for_each(point_inside),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => (),
    }
}

/// The fields of each kind in Markdown, as docs/destinations.md has them.
pub fn markdown() -> String {
    let mut text = String::new();
    for view in KindView::all() {
        text.push_str(&format!("### `{}`: {}\n\n{}\n\n", view.kind, view.title, view.help));
        text.push_str(&format!("```yaml\n{}```\n\n", as_a_file(view.example)));
        text.push_str(&table(&view));
        text.push('\n');
    }
    text
}

/// A file of resources that has this destination alone.
fn as_a_file(destination: &str) -> String {
    let mut text = "destinations:\n".to_owned();
    for (number, line) in destination.lines().enumerate() {
        let begin = if number == 0 { "  - " } else { "    " };
        text.push_str(&format!("{begin}{line}\n"));
    }
    text
}

/// A row for each of the kind's own fields.
fn table(view: &KindView) -> String {
    let common = field_names(&PolicySpec::schema());
    let mut text = "| field | type | about |\n|---|---|---|\n".to_owned();
    let fields = view.schema["properties"].as_object().into_iter().flatten();
    let required = view.schema["required"].as_array();
    for (name, field) in fields {
        if common.contains(name) || matches!(name.as_str(), "name" | "kind") {
            continue;
        }
        let is_required = required.is_some_and(|it| it.iter().any(|it| it == name));
        let mut about = field["description"].as_str().unwrap_or_default().replace('\n', " ");
        let any = format!("{name}.x");
        if is_secret(view.secrets, name) || is_secret(view.secrets, &any) {
            about.push_str(" Secret.");
        }
        if is_required {
            about.insert_str(0, "Required. ");
        }
        let about = about.trim().replace('|', "\\|");
        text.push_str(&format!("| `{name}` | {} | {about} |\n", kind_of(field)));
    }
    text
}

/// The type of a field in a word or two.
fn kind_of(field: &Value) -> String {
    let name = |it: &Value| match it.as_str() {
        Some(reference) => reference.rsplit('/').next().unwrap_or_default().to_owned(),
        None => String::new(),
    };
    if let Some(any) = field.get("oneOf").and_then(Value::as_array) {
        let all: Vec<String> = any.iter().map(kind_of).filter(|it| it != "null").collect();
        return all.join(" or ");
    }
    if field.get("$ref").is_some() {
        return name(&field["$ref"]);
    }
    match &field["type"] {
        Value::Array(types) => {
            let all = types.iter().filter_map(Value::as_str).filter(|it| *it != "null");
            all.collect::<Vec<_>>().join(" or ")
        }
        Value::String(it) => it.clone(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => "any".to_owned(),
    }
}
