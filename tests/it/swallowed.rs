//! Where an error in JSON is taken for something else. "Nothing there" is how filters, opt-outs and the
//! wish to be forgotten were lost, so each such place stands here, with what then happens.

use std::{fs, path::PathBuf};

use crate::layers::files_below;

/// A file, how many such places it has, and what happens there.
const EXCEPTIONS: &[(&str, usize, &str)] = &[
    ("derived.rs", 1, "a file of ours that can be made anew is made anew"),
    ("destinations/webhook/mod.rs", 1, "hops that cannot be read are the most that there may be"),
    ("expr/json.rs", 2, "a stored body that is no JSON is damage; every JSON is read"),
    ("ingest/event.rs", 2, "asked whether a name or a text is one; if not, 400 names the field"),
    ("ingest/parsers/mod.rs", 4, "for the fuzzers: a strict reader has nothing to compare"),
    ("ingest/parsers/senders.rs", 1, "for the fuzzers: an error there is a broken promise"),
    ("ingest/parsers/promise.rs", 1, "for the fuzzers: an error there is a broken promise"),
    ("ingest/segment/fields.rs", 1, "the body was parsed as a whole, and this part is an object"),
    ("ingest/segment/merge.rs", 1, "what is no object is laid under nothing, as documented"),
    (
        "ingest/segment/message.rs",
        2,
        "what is no object stays as it is, byte for byte; an odd time that serde refuses is shown as `…`",
    ),
    (
        "ingest/metadata.rs",
        1,
        "a `source` or `ip` that is no text is not believed, and ours stands",
    ),
    ("model/headers.rs", 1, "headers that are none of ours stay as their sender wrote them"),
    ("redact/taken.rs", 1, "what serde refuses is hidden as a whole"),
    ("app/rekey.rs", 1, "a resource of ours; a secret that does not open is an error"),
    (
        "store/sqlite/folder/manifest.rs",
        1,
        "a manifest that cannot be read is damage, and the start says so",
    ),
    ("ingest/webhook/content.rs", 3, "what is no JSON is text, and what is no list is one event"),
    ("model/deletion.rs", 1, "a stored body that is no JSON is damage, and names nobody"),
    ("model/json/value.rs", 4, "the way on for what serde refuses; what is no JSON is null"),
    (
        "pipeline/plan/directed.rs",
        1,
        "an event of the system that names no destination; the plan says so",
    ),
    (
        "pipeline/steps/field.rs",
        2,
        "the field is put behind all others, where the last counts; results of steps are JSON of ours",
    ),
    ("pipeline/plan/integrations.rs", 2, "an opt-out that cannot be read is an opt-out"),
    ("problem.rs", 1, "asked what it is; what is no JSON is described by its form"),
    ("script/same.rs", 1, "the engine is asked instead"),
    ("store/fields.rs", 2, "rows are objects by the check of who puts them"),
    ("store/transfer/mod.rs", 2, "resources of ours, not what senders wrote"),
    ("enrich/service/postgres.rs", 1, "the answer of a lookup fails, with a reason"),
];

/// What reads JSON.
const READERS: [&str; 8] = [
    "serde_json::from_slice",
    "serde_json::from_str",
    "serde_json::Deserializer::from",
    "scan::fields(",
    "scan::elements(",
    "value_at(",
    "Object::read(",
    "RawJson::parse(",
];
/// What makes something else of an error.
const SWALLOWERS: [&str; 11] = [
    "unwrap_or_default()",
    ".ok()",
    "Err(_)",
    "is_ok_and(",
    "is_some_and(",
    "unwrap_or(",
    "unwrap_or_else(|_|",
    "let Ok(",
    ".is_ok()",
    ".is_err()",
    "let _ =",
];

#[test]
fn an_error_in_json_is_taken_for_nothing_only_where_it_says() {
    let src = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut wrong = Vec::new();
    for file in files_below(&src, &["rs"]) {
        let name = file.strip_prefix(&src).unwrap().to_str().unwrap();
        // The command line reads what its user wrote, and what the gateway answers.
        if name.starts_with("cli/") || name.ends_with("tests.rs") {
            continue;
        }
        let text = fs::read_to_string(&file).unwrap();
        let places = swallowed(text.split("#[cfg(test)]\nmod ").next().unwrap());
        let known = EXCEPTIONS.iter().find(|it| it.0 == name).map_or(0, |it| it.1);
        if places.len() != known {
            let places = places.join("\n    ");
            wrong.push(format!(
                "{name}: {known} places are named, and these are there:\n    {places}"
            ));
        }
    }
    for (name, _, _) in EXCEPTIONS {
        assert!(src.join(name).exists(), "{name} is named, and does not exist");
    }
    assert!(wrong.is_empty(), "say what happens, or answer the error:\n{}", wrong.join("\n"));
}

#[test]
fn a_swallowed_error_is_seen() {
    for (text, count) in [
        ("let it: Value = serde_json::from_slice(bytes).unwrap_or_default();\n", 1),
        ("let it =\n    serde_json::from_str::<Value>(text)\n        .ok()?;\n", 1),
        ("if let Ok(it) = serde_json::from_str(text) {\n", 1),
        ("match serde_json::from_str(text) {\n    Ok(it) => it,\n    Err(_) => return,\n}\n", 1),
        ("let it = serde_json::from_str(text)?;\nlet other = other.ok()?;\n", 0),
        ("// serde_json::from_str(text).ok()\n", 0),
    ] {
        assert_eq!(swallowed(text).len(), count, "{text}");
    }
}

/// The statements that read JSON and make something else of an error.
fn swallowed(text: &str) -> Vec<String> {
    /// Lines of a statement, and of the arms of a `match`.
    const LONGEST: usize = 6;
    let lines: Vec<&str> = text.lines().collect();
    let ends = |line: &str, with: &[char]| line.trim_end().ends_with(with);
    let mut found = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let is_comment = line.trim_start().starts_with("//");
        if is_comment || !READERS.iter().any(|it| line.contains(it)) {
            continue;
        }
        let start = (0..at).rev().find(|it| ends(lines[*it], &[';', '{', '}', ',']));
        let start = start.map_or(0, |it| it + 1);
        let end = (at..lines.len()).take(LONGEST).find(|it| ends(lines[*it], &[';', '{', '}']));
        let mut end = end.unwrap_or((at + LONGEST).min(lines.len() - 1));
        if ends(lines[end], &['{']) && lines[start..=end].iter().any(|it| it.contains("match ")) {
            end = (end + LONGEST).min(lines.len() - 1);
        }
        let statement = lines[start..=end].join("\n");
        if SWALLOWERS.iter().any(|it| statement.contains(it)) {
            found.push(format!("line {}: {}", at + 1, line.trim()));
        }
    }
    found
}
