//! The words of the code: one meaning a name, the field's terms, and one voice in errors.
//!
//! docs/glossary.md has the words that count.

use std::{collections::BTreeMap, fs, path::PathBuf};

use crate::layers::{files_below, root};

/// Names that mean the same in every module, so that each may have its own.
const COMMON: &[&str] = &[
    // Conventions of Rust and of the libraries.
    "Args",
    "Body",
    "BoxError",
    "Command",
    "Err",
    "Error",
    "Format",
    "ListArgs",
    "Options",
    "Output",
    "Rejection",
    "ShowArgs",
    "Value",
    // Conventions of ours: what a constructor is given, what is behind a mutex, handles of metrics.
    "Meters",
    "Parts",
    "Shared",
    "State",
    // Types of one trait, which each implementation has.
    "Key",
    "Kind",
    "Model",
    "Spec",
    "Tag",
    "Target",
    // The nouns of the product: as a model, as the marker of its ids, and as the API or CLI shows it.
    "Destination",
    "Event",
    "EventType",
    "Project",
    "Replay",
];

/// Words with a plainer one: the field's term stands behind it.
const RETIRED: &[(&str, &str)] = &[
    ("told", "reported, or the name of what it is"),
    ("Turn", "batch, commit, slot"),
    ("Kept", "stored, cached, the name of what it is"),
    ("patience", "timeout, next_deadline"),
    ("PATIENCE", "TIMEOUT"),
    ("anew", "again"),
];

#[test]
fn type_names_have_one_meaning() {
    let mut places: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for file in sources(&["src"]) {
        for line in fs::read_to_string(&file).unwrap().lines() {
            if let Some(name) = defined(line) {
                places.entry(name.to_owned()).or_default().push(shown(&file));
            }
        }
    }
    let many: Vec<_> = places
        .iter()
        .filter(|(name, places)| places.len() > 2 && !COMMON.contains(&name.as_str()))
        .map(|(name, places)| format!("{name}: {}", places.join(", ")))
        .collect();
    assert!(many.is_empty(), "more than two types have one name:\n{}", many.join("\n"));
    let unused: Vec<_> = COMMON.iter().filter(|it| !places.contains_key(**it)).collect();
    assert!(unused.is_empty(), "no type has these names any more: {unused:?}");
}

#[test]
fn retired_words_stay_retired() {
    let mut found = Vec::new();
    for file in sources(&["src"]) {
        let text = fs::read_to_string(&file).unwrap();
        for (number, line) in text.lines().enumerate() {
            for word in line.split(|it: char| !it.is_alphanumeric() && it != '_') {
                if let Some((_, instead)) = RETIRED.iter().find(|it| it.0 == word) {
                    let place = format!("{}:{}", shown(&file), number + 1);
                    found.push(format!("{place}: `{word}`; say {instead}"));
                }
            }
        }
    }
    assert!(found.is_empty(), "{} retired words:\n{}", found.len(), found.join("\n"));
}

#[test]
fn test_names_have_a_subject() {
    let riddles = ["what_", "who_", "whoever_", "where_", "which_", "whatever_is_"];
    let mut found = Vec::new();
    for file in sources(&["src", "tests"]) {
        let text = fs::read_to_string(&file).unwrap();
        for line in text.lines() {
            let Some((_, name)) = line.split_once("fn ") else { continue };
            if riddles.iter().any(|it| name.starts_with(it)) && !line.trim_start().starts_with("//")
            {
                found.push(format!("{}: {name}", shown(&file)));
            }
        }
    }
    assert!(found.is_empty(), "functions whose name has no subject:\n{}", found.join("\n"));
}

#[test]
fn error_rules_have_one_voice() {
    let mut wrong = Vec::new();
    let mut count = 0;
    for file in sources(&["src"]) {
        let text = fs::read_to_string(&file).unwrap();
        // The tests of a module make errors up.
        let text = text.split("#[cfg(test)]").next().unwrap_or_default();
        for rule in rules(text) {
            count += 1;
            if !rule.starts_with("must ") && !rule.starts_with('{') {
                wrong.push(format!("{}: {rule}", shown(&file)));
            }
        }
    }
    assert!(count > 100, "only {count} rules were found: does the test still see them?");
    assert!(wrong.is_empty(), "a rule begins with \"must\":\n{}", wrong.join("\n"));
}

/// The literals that say what would be right: `let rule = "…"`, and the second argument of what makes an error.
fn rules(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (at, begin) in text.match_indices("let rule =") {
        found.extend(literal(&text[at + begin.len()..]));
    }
    for call in ["FieldError::new(", "wrong_field(", "invalid_field("] {
        for (at, begin) in text.match_indices(call) {
            if text[..at].ends_with("fn ") {
                continue;
            }
            found.extend(second_argument(&text[at + begin.len()..]).and_then(literal));
        }
    }
    found
}

/// A text in quotes at the beginning, also within `format!(…)`.
fn literal(text: &str) -> Option<String> {
    let text = text.trim_start();
    let text = text.strip_prefix("format!(").unwrap_or(text).trim_start();
    let inside = text.strip_prefix('"')?;
    let mut escaped = false;
    let end = inside.find(|it| {
        let ends = it == '"' && !escaped;
        escaped = it == '\\' && !escaped;
        ends
    })?;
    Some(inside[..end].to_owned())
}

/// What stands behind the first comma that is in no brackets and no text.
fn second_argument(text: &str) -> Option<&str> {
    let (mut depth, mut in_text, mut escaped) = (0_i32, false, false);
    for (at, it) in text.char_indices() {
        match it {
            '"' if !escaped => in_text = !in_text,
            '(' | '[' | '{' if !in_text => depth += 1,
            ')' | ']' | '}' if !in_text => depth -= 1,
            ',' if !in_text && depth == 0 => return Some(&text[at + 1..]),
            _ => (),
        }
        if depth < 0 {
            return None;
        }
        escaped = it == '\\' && !escaped;
    }
    None
}

#[test]
fn rules_are_found_in_calls_and_variables() {
    let text = r#"
        let rule = "must be a";
        FieldError::new(format!("{path}, b"), "must be \"b\"", found);
        wrong_field("c", format!("must be {c}"), "d");
        FieldError::new(path, rule, found);
    "#;
    assert_eq!(rules(text), ["must be a", r#"must be \"b\""#, "must be {c}"]);
}

/// The name of the type that a line defines.
fn defined(line: &str) -> Option<&str> {
    let mut line = line.trim_start();
    if let Some(rest) = line.strip_prefix("pub") {
        line = match rest.strip_prefix('(') {
            Some(rest) => rest.split_once(')')?.1.trim_start(),
            None => rest.strip_prefix(' ')?,
        };
    }
    let (word, rest) = line.split_once(' ')?;
    if !["struct", "enum", "trait", "type"].contains(&word) {
        return None;
    }
    let end = rest.find(|it: char| !it.is_alphanumeric() && it != '_').unwrap_or(rest.len());
    Some(&rest[..end]).filter(|it| it.starts_with(|it: char| it.is_ascii_uppercase()))
}

fn sources(folders: &[&str]) -> Vec<PathBuf> {
    folders.iter().flat_map(|it| files_below(&root().join(it), &["rs"])).collect()
}

fn shown(file: &std::path::Path) -> String {
    file.strip_prefix(root()).unwrap_or(file).display().to_string()
}
