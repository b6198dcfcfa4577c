//! What is written for event types of all kinds, against a golden file that `tsc --strict` accepts
//! (`tests/it/sdk/`).

use std::{fs, path::Path};

use serde_json::{Value, json};

use super::{CodegenType, schema::SchemaReader, typescript};

fn golden(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sdk/types").join(name)
}

fn types() -> Vec<CodegenType> {
    serde_json::from_slice(&fs::read(golden("event-types.json")).unwrap()).unwrap()
}

#[test]
fn the_file_of_all_kinds_of_schemas_is_the_golden_one() {
    let text = typescript::file(&types());
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(golden("events.ts"), &text).unwrap();
    }
    let expected = fs::read_to_string(golden("events.ts")).unwrap();
    assert_eq!(text, expected, "UPDATE_GOLDEN=1 writes it again");
    assert_eq!(typescript::file(&types()), text);
}

/// The type of a schema, on one line.
fn read(schema: Value) -> String {
    let mut free = |wanted: &str| wanted.to_owned();
    let text = SchemaReader::new(&schema, "It", &mut free).whole().text(0);
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn each_word_of_a_schema_becomes_the_type_that_says_it() {
    for (schema, expected) in [
        (json!(true), "unknown"),
        (json!({}), "unknown"),
        (json!(false), "never"),
        (json!(7), "unknown"),
        (json!({ "type": "integer" }), "number"),
        (json!({ "type": ["string", "null"] }), "string | null"),
        (json!({ "type": "string", "nullable": true }), "string | null"),
        (json!({ "type": "what?" }), "unknown"),
        (json!({ "const": { "a": [1, "x"] } }), "{ a: [1, \"x\"]; }"),
        (json!({ "type": "string", "enum": ["a", "b", "a"] }), r#""a" | "b""#),
        (json!({ "enum": [null, -1, 1.5, true] }), "null | -1 | 1.5 | true"),
        (json!({ "type": "array" }), "unknown[]"),
        (json!({ "items": { "enum": [1, 2] } }), "(1 | 2)[]"),
        (
            json!({ "prefixItems": [{ "type": "string" }, { "type": ["number", "null"] }], "minItems": 1, "items": false }),
            "[string, (number | null)?]",
        ),
        (
            json!({ "type": "array", "items": [{ "type": "string" }], "additionalItems": { "type": "null" }, "minItems": 9 }),
            "[string, ...null[]]",
        ),
        (json!({ "type": "object" }), "{ [key: string]: unknown; }"),
        (json!({ "type": "object", "additionalProperties": false }), "{ [key: string]: never; }"),
        (
            json!({ "properties": { "a": true, "b-c": { "type": "null" }, "1": true }, "required": ["a", "d"] }),
            r#"{ a: unknown; "b-c"?: null; "1"?: unknown; d: unknown; }"#,
        ),
        (
            json!({ "properties": { "a": { "type": "number" } }, "additionalProperties": { "type": "string" } }),
            "{ a?: number; [key: string]: string | number | undefined; }",
        ),
        (
            json!({ "properties": { "a": { "type": "number" } }, "patternProperties": { "^x": { "type": "string" } } }),
            "{ a?: number; [key: string]: unknown; }",
        ),
        (
            json!({ "anyOf": [{ "type": "string" }, { "oneOf": [{ "type": "number" }, { "type": "string" }] }] }),
            "string | number",
        ),
        (json!({ "anyOf": [{ "type": "string" }, {}] }), "unknown"),
        (
            json!({ "allOf": [{ "required": ["a"] }, {}, { "required": ["b"] }], "not": { "type": "string" } }),
            "{ a: unknown; } & { b: unknown; }",
        ),
        (
            json!({ "type": "string", "anyOf": [{ "enum": ["a"] }, { "enum": ["b"] }] }),
            r#"string & ("a" | "b")"#,
        ),
    ] {
        assert_eq!(read(schema.clone()), expected, "{schema}");
    }
}

#[test]
fn references_go_where_they_point_and_nowhere_else() {
    let defs = json!({
        "tree": { "type": "object", "properties": { "children": { "items": { "$ref": "#/$defs/tree" } } } },
        "itself": { "$ref": "#/$defs/itself" },
        "around": { "anyOf": [{ "type": "string" }, { "$ref": "#/$defs/back" }] },
        "back": { "allOf": [{ "$ref": "#/$defs/around" }] },
        "a b/c": { "type": "string" },
    });
    for (reference, expected) in [
        ("#/$defs/tree", "ItTree"),
        ("#/$defs/a%20b~1c", "ItAB1c"),
        ("#", "unknown"),
        ("#/$defs/itself", "unknown"),
        ("#/$defs/around", "unknown"),
        ("#/$defs/nothing", "unknown"),
        ("#anchor", "unknown"),
        ("https://example.com/schema.json", "unknown"),
        ("", "unknown"),
    ] {
        assert_eq!(read(json!({ "$ref": reference, "$defs": defs })), expected, "{reference}");
    }
    let list = json!({ "type": "object", "properties": { "next": { "$ref": "#" } } });
    assert_eq!(read(list), "{ next?: It; }");
    let beside = json!({ "$ref": "#/$defs/tree", "required": ["id"], "$defs": defs });
    assert_eq!(read(beside), "ItTree & { id: unknown; }");
}

#[test]
fn no_text_of_a_schema_gets_out_of_its_place() {
    let end = "*/ export const evil = 1; /*\u{2028}\" \\";
    let types = [CodegenType {
        name: "a".to_owned(),
        description: end.to_owned(),
        group: Some(end.to_owned()),
        example: Some(json!(end)),
        schema: Some(json!({
            "description": end,
            "properties": { end: { "const": end, "format": end, "pattern": end, "default": end } },
        })),
        registered: None,
    }];
    let text = typescript::file(&types);
    // In a string it is what it is, and stays in it.
    let quoted = r#""*/ export const evil = 1; /*\u2028\" \\""#;
    assert!(text.contains(&format!("{quoted}?: {quoted};")), "{text}");
    let elsewhere = text.replace(quoted, "");
    assert!(!elsewhere.contains("*/ export") && !text.contains('\u{2028}'), "{text}");
}
