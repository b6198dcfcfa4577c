//! The table of kinds: each kind describes itself, and the docs show what it says.

use std::{fs, path::Path};

use serde_json::Value;
use tidegate::{
    model::Secret,
    resources::{self, File, kinds::KindView},
};

use crate::{
    apply::Bench,
    harness::{caller::Caller, gateway::Gateway},
};

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// All references in a schema.
fn references<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
    match value {
        Value::Object(fields) => {
            found.extend(fields.get("$ref").and_then(Value::as_str));
            fields.values().for_each(|it| references(it, found));
        }
        Value::Array(items) => items.iter().for_each(|it| references(it, found)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => (),
    }
}

#[tokio::test]
async fn every_kind_describes_itself_and_its_example_is_valid() {
    for view in KindView::all() {
        let lines: String = view.example.lines().map(|it| format!("    {it}\n")).collect();
        let text = format!(
            "version: 1\nproject: acme\ndestinations:\n  -{}",
            lines.strip_prefix("   ").unwrap()
        );
        let variable = |_: &str| Some(Secret::new(SECRET));
        let file = File::read("example.yaml", &text, &variable);
        let file = file.unwrap_or_else(|error| panic!("{error}"));
        let bench = Bench::new().await;
        let applied =
            resources::apply(&file, &bench.catalog_writer, bench.means(), false).await.unwrap();
        assert_eq!(applied.changes.iter().filter(|it| it.kind == "destination").count(), 1);
        let catalog = bench.catalog();
        let made = catalog.destinations.values().next().unwrap();
        assert_eq!(made.connection.kind(), view.kind);

        // The schema stands alone, and a form has a text for each field that the kind adds.
        let mut found = Vec::new();
        references(&view.schema, &mut found);
        for reference in found {
            let name = reference.strip_prefix("#/$defs/").unwrap_or_else(|| panic!("{reference}"));
            assert!(view.schema["$defs"].get(name).is_some(), "{}: {name}", view.kind);
        }
        let validator = jsonschema::validator_for(&view.schema).unwrap();
        let shown =
            serde_json::to_value(<resources::DestinationSpec as resources::Spec>::of(made).brief())
                .unwrap();
        let errors: Vec<String> = validator.iter_errors(&shown).map(|it| it.to_string()).collect();
        assert!(errors.is_empty(), "{}: {errors:?}", view.kind);
        assert_eq!(view.schema["properties"]["kind"]["enum"][0], view.kind);
        for secret in view.secrets {
            let field = secret.split('.').next().unwrap();
            assert!(view.schema["properties"].get(field).is_some(), "{}: {secret}", view.kind);
        }
    }
}

#[tokio::test]
async fn the_api_lists_the_kinds() {
    let gateway = Gateway::delivering_to("http://127.0.0.1:9/", "").await;
    let reader = Caller::with_scopes(&gateway, "acme", &["read"]).await;
    let answer = reader.get("/api/v1/destination-kinds").await.expect(200).json();
    let expected = serde_json::to_value(KindView::all()).unwrap();
    assert_eq!(answer["data"], expected);
}

#[test]
fn the_documentation_shows_the_fields_that_kinds_have() {
    const BEGIN: &str = "<!-- kinds: made from the code by UPDATE_GOLDEN=1 -->\n";
    const END: &str = "<!-- /kinds -->";
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/destinations.md");
    let text = fs::read_to_string(&path).unwrap();
    let (before, rest) = text.split_once(BEGIN).unwrap();
    let (_, after) = rest.split_once(END).unwrap();
    let expected = format!("{before}{BEGIN}\n{}{END}{after}", resources::kinds::markdown());
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&path, &expected).unwrap();
    }
    let text = fs::read_to_string(&path).unwrap();
    assert!(
        text == expected,
        "docs/destinations.md is not what the code says; if the change is meant, run `UPDATE_GOLDEN=1 cargo test --test it kinds`"
    );
}
