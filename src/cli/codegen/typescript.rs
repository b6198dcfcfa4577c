//! The file for `@tidegate/sdk`: a type for each payload, and the map that `ingest` looks at.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{
    CodegenType,
    schema::{SchemaReader, pascal, remarks},
    types::{Type, comment, quoted},
};

const HEAD: &str = "\
// Made by `tidegate codegen typescript` from the project's event types. Do not edit it: run that again.
//
// Where this file is part of the program, `ingest` of @tidegate/sdk takes these types of events only, each
// with its payload.
/* eslint-disable */

import \"@tidegate/sdk\";
";

/// The whole file. `types` are in order.
pub fn file(types: &[CodegenType]) -> String {
    // What stands in the file already.
    let mut taken = BTreeSet::from(["EventMap".to_owned()]);
    let names: Vec<String> =
        types.iter().map(|it| free_name(&mut taken, &pascal(&it.name))).collect();
    let mut map = String::new();
    let mut payloads = String::new();
    for (event_type, name) in types.iter().zip(&names) {
        map.push_str(&comment(&about(event_type), "    "));
        map.push_str(&format!("    {}: {name};\n", quoted(&event_type.name)));
        payloads.push_str(&payload(event_type, name, &mut taken));
    }
    format!(
        "{HEAD}\ndeclare module \"@tidegate/sdk\" {{\n  interface EventMap {{\n{map}  }}\n}}\n{payloads}"
    )
}

/// The types of one event's payload.
fn payload(event_type: &CodegenType, name: &str, taken: &mut BTreeSet<String>) -> String {
    const ANYTHING: &Value = &Value::Bool(true);
    let schema = event_type.schema.as_ref().unwrap_or(ANYTHING);
    let mut free = |wanted: &str| free_name(taken, wanted);
    let mut reader = SchemaReader::new(schema, name, &mut free);
    let whole = reader.whole();
    let said = match remarks(schema) {
        said if said.is_empty() => vec![format!("The payload of `{}`.", event_type.name)],
        said => said,
    };
    let mut text = declaration(name, &said, &whole);
    while let Some((name, schema, part)) = reader.next_part() {
        text.push_str(&declaration(&name, &remarks(schema), &part));
    }
    text
}

fn declaration(name: &str, said: &[String], declared: &Type) -> String {
    let comment = comment(said, "");
    match declared {
        Type::Object(object) => format!("\n{comment}export interface {name} {}\n", object.text(0)),
        other => format!("\n{comment}export type {name} = {};\n", other.text(0)),
    }
}

/// What people see who look at the type in `ingest(`.
fn about(event_type: &CodegenType) -> Vec<String> {
    let mut lines = Vec::new();
    if !event_type.description.is_empty() {
        lines.push(event_type.description.clone());
    }
    lines.extend(event_type.group.iter().map(|it| format!("Group: {it}")));
    lines.extend(event_type.example.iter().map(|it| format!("@example {it}")));
    lines
}

/// The name, or the first with a number behind it that nothing else has.
fn free_name(taken: &mut BTreeSet<String>, wanted: &str) -> String {
    let wanted = match wanted.starts_with(|it: char| it.is_ascii_alphabetic()) {
        true => wanted.to_owned(),
        false => format!("Event{wanted}"),
    };
    let mut name = wanted.clone();
    let mut number = 1;
    while !taken.insert(name.clone()) {
        number += 1;
        name = format!("{wanted}{number}");
    }
    name
}
