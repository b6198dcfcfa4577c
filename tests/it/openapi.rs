//! The description of the API: it is a promise, and it describes every route there is.

use std::{collections::BTreeSet, fs, path::Path};

use serde_json::Value;
use tidegate::api;

fn document() -> Value {
    serde_json::to_value(api::document()).unwrap()
}

#[test]
fn the_description_of_the_api_is_the_one_that_was_promised() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("openapi.json");
    let now = api::document().to_pretty_json().unwrap() + "\n";
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&path, &now).unwrap();
    }
    let promised = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        promised == now,
        "openapi.json is not what the code says; if the change is meant, run `UPDATE_GOLDEN=1 cargo test --test it openapi`"
    );
}

#[test]
fn every_route_is_described_and_nothing_else_is() {
    let routes: BTreeSet<String> =
        api::route_list().iter().map(|(method, path)| format!("{method} {path}")).collect();
    let document = document();
    let described = document["paths"].as_object().unwrap().iter().flat_map(|(path, item)| {
        item.as_object()
            .unwrap()
            .keys()
            .map(move |method| format!("{} {path}", method.to_uppercase()))
    });
    assert_eq!(described.collect::<BTreeSet<_>>(), routes);
}

#[test]
fn every_operation_has_a_name_of_its_own_a_summary_and_its_problems() {
    let document = document();
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1"));
    let mut names = BTreeSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let it = format!("{method} {path}");
            assert!(names.insert(operation["operationId"].as_str().unwrap().to_owned()), "{it}");
            let summary = operation["summary"].as_str().unwrap_or_default();
            assert!(!summary.is_empty() && !summary.ends_with('.'), "{it}: {summary}");
            let is_open = operation["security"] == serde_json::json!([]);
            let problem = &operation["responses"]["4XX"]["$ref"];
            assert!(is_open || problem == "#/components/responses/Problem", "{it}");
            for name in path.split('/').filter_map(|it| it.strip_prefix('{')) {
                let name = name.trim_end_matches('}');
                let mut parameters = operation["parameters"].as_array().unwrap().iter();
                assert!(
                    parameters.any(|it| it["name"] == name && it["in"] == "path"),
                    "{it}: {name}"
                );
            }
        }
    }
}

#[test]
fn every_reference_leads_somewhere() {
    fn references(value: &Value, found: &mut BTreeSet<String>) {
        match value {
            Value::Object(fields) => {
                found.extend(fields.get("$ref").and_then(Value::as_str).map(str::to_owned));
                fields.values().for_each(|it| references(it, found));
            }
            Value::Array(items) => items.iter().for_each(|it| references(it, found)),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => (),
        }
    }
    let document = document();
    let mut found = BTreeSet::new();
    references(&document, &mut found);
    assert!(found.len() > 20);
    for reference in found {
        let pointer = reference.strip_prefix('#').unwrap();
        assert!(document.pointer(pointer).is_some(), "{reference}");
    }
}
