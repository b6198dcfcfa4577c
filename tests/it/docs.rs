//! The documentation as its readers use it: every block of YAML is a whole file or is completed here,
//! and the real binary applies it; every link leads to a file and a heading that exist.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use serde_json::{Map, Value, json};

use crate::cli::{
    gateway::Serving,
    program::{SECRET, run, stderr},
};

/// A block of YAML, with where it begins.
struct Block {
    at: String,
    text: String,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every page that we ship, by its path from the root.
fn pages() -> Vec<(PathBuf, String)> {
    let mut pages = Vec::new();
    for folder in ["", "docs", "docs/adr", "sdk/typescript", "bench", "tests", "changelog.d"] {
        let Ok(entries) = std::fs::read_dir(root().join(folder)) else { continue };
        for entry in entries {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|it| it == "md") {
                let text = std::fs::read_to_string(&path).unwrap();
                pages.push((path.strip_prefix(root()).unwrap().to_owned(), text));
            }
        }
    }
    pages.sort();
    assert!(pages.len() > 15, "the pages are somewhere else now");
    pages
}

fn blocks() -> Vec<Block> {
    let mut blocks = Vec::new();
    for (path, text) in pages() {
        let mut open: Option<Block> = None;
        for (number, line) in text.lines().enumerate() {
            match (&mut open, line.trim_end()) {
                (None, "```yaml") => {
                    let at = format!("{}:{}", path.display(), number + 1);
                    open = Some(Block { at, text: String::new() });
                }
                (Some(_), "```") => blocks.extend(open.take()),
                (Some(block), line) => {
                    block.text.push_str(line);
                    block.text.push('\n');
                }
                (None, _) => (),
            }
        }
    }
    blocks
}

/// The whole files that a reader would make of a block. Indented lines are settings of a destination,
/// each an alternative to the others.
fn files(block: &Block) -> Vec<Value> {
    let text = &block.text;
    let within = |head: &str, indent: &str| {
        let body: String = text.lines().map(|it| format!("{indent}{it}\n")).collect();
        format!("{head}\n{body}")
    };
    let texts = if text.starts_with(' ') {
        let destination =
            "destinations:\n  - name: crm\n    kind: webhook\n    url: https://example.com/hooks\n";
        text.lines().map(|line| format!("{destination}{line}\n")).collect()
    } else if text.starts_with("- ") {
        vec![within(
            "pipelines:\n  - name: example\n    routes: [{ to: crm }]\n    steps:",
            "      ",
        )]
    } else if text.starts_with("steps:") {
        vec![within("pipelines:\n  - name: example\n    routes: [{ to: crm }]", "    ")]
    } else if text.starts_with("routes:") {
        vec![within("pipelines:\n  - name: example", "    ")]
    } else {
        vec![text.clone()]
    };
    texts.iter().map(|it| complete(it, &block.at)).collect()
}

/// With the version, the project, and whatever is named and stands elsewhere.
fn complete(text: &str, at: &str) -> Value {
    let options = serde_saphyr::options! { strict_booleans: true, with_snippet: false };
    let mut file: Map<String, Value> = serde_saphyr::from_str_with_options(text, options)
        .unwrap_or_else(|error| panic!("{at}: {error}"));
    file.entry("version").or_insert(json!(1));
    file.entry("project").or_insert(json!("example"));
    let mut named = Named::default();
    named.look(&Value::Object(file.clone()));
    add(
        &mut file,
        "destinations",
        &named.destinations,
        |name| json!({ "name": name, "kind": "webhook", "url": "https://example.com/hooks" }),
    );
    add(&mut file, "sources", &named.sources, |name| json!({ "name": name, "kind": "api" }));
    add(&mut file, "lookups", &named.tables, |name| json!({ "name": name, "kind": "table" }));
    Value::Object(file)
}

fn add(
    file: &mut Map<String, Value>,
    kind: &str,
    names: &BTreeSet<String>,
    make: impl Fn(&str) -> Value,
) {
    let list = file.entry(kind).or_insert_with(|| json!([])).as_array_mut().unwrap();
    for name in names {
        if !list.iter().any(|it| it["name"] == *name.as_str()) {
            list.push(make(name));
        }
    }
}

/// What the parts of a file name.
#[derive(Default)]
struct Named {
    destinations: BTreeSet<String>,
    sources: BTreeSet<String>,
    tables: BTreeSet<String>,
}

impl Named {
    fn look(&mut self, value: &Value) {
        match value {
            Value::Array(items) => items.iter().for_each(|it| self.look(it)),
            Value::Object(fields) => {
                for (key, value) in fields {
                    match (key.as_str(), value) {
                        ("to", it) => texts(it, &mut self.destinations),
                        ("table", it) => texts(it, &mut self.tables),
                        ("references", Value::Object(it)) => {
                            it.values().for_each(|it| texts(it, &mut self.tables));
                        }
                        ("sources", Value::Array(it)) if it.iter().all(Value::is_string) => {
                            texts(value, &mut self.sources);
                        }
                        _ => (),
                    }
                    self.look(value);
                }
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => (),
        }
    }
}

fn texts(value: &Value, into: &mut BTreeSet<String>) {
    match value {
        Value::String(it) => _ = into.insert(it.clone()),
        Value::Array(items) => items.iter().for_each(|it| texts(it, into)),
        _ => (),
    }
}

/// The `${NAME}`s of a text, each with a value that fits what its name says.
fn variables(text: &str) -> Vec<(String, &'static str)> {
    text.split("${")
        .skip(1)
        .filter_map(|it| it.split_once('}'))
        .map(|(name, _)| {
            let value = match name {
                _ if name.contains("DATABASE") => "postgres://reader:password@db.example.com/crm",
                _ if name.contains("TOKEN") || name.contains("KEY") => "t0ken",
                _ => SECRET,
            };
            (name.to_owned(), value)
        })
        .collect()
}

#[test]
fn every_yaml_block_of_the_docs_can_be_applied() {
    let serving = Serving::start();
    let mut wrong = Vec::new();
    let mut applied = 0;
    for block in blocks() {
        for mut file in files(&block) {
            // A project of its own, so that no block leans on another.
            let name = format!("docs-{applied}");
            match &mut file["project"] {
                Value::Object(it) => _ = it.insert("name".to_owned(), json!(name)),
                it => *it = json!(name),
            }
            let text = file.to_string();
            let path = serving.file("block.yaml", &text);
            let mut command = serving.command(&["apply", path.to_str().unwrap(), "--yes"]);
            command.env("TIDEGATE_PROJECT", &name).envs(variables(&text));
            let output = run(&mut command, b"");
            if !output.status.success() {
                wrong.push(format!("{}: {}", block.at, stderr(&output)));
            }
            applied += 1;
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(applied > 25, "only {applied} blocks were found");
}

/// The anchor that GitHub gives a heading.
fn anchor(heading: &str) -> String {
    let kept = heading.to_lowercase();
    let kept = kept.chars().filter(|it| it.is_alphanumeric() || matches!(it, ' ' | '-' | '_'));
    kept.map(|it| if it == ' ' { '-' } else { it }).collect()
}

fn anchors(text: &str) -> BTreeSet<String> {
    let headings = text.lines().filter(|it| it.starts_with('#'));
    headings.map(|it| anchor(it.trim_start_matches('#').trim())).collect()
}

/// The targets of `[text](target)`.
fn links(text: &str) -> impl Iterator<Item = &str> {
    text.split("](").skip(1).filter_map(|it| it.split_once(')')).map(|(target, _)| target)
}

#[test]
fn every_link_of_the_docs_leads_somewhere() {
    let mut wrong = Vec::new();
    let mut followed = 0;
    for (page, text) in pages() {
        for link in links(&text).filter(|it| !it.contains("://") && !it.starts_with("mailto:")) {
            followed += 1;
            let (file, heading) = link.split_once('#').unwrap_or((link, ""));
            let path = match file {
                "" => root().join(&page),
                _ => root().join(page.parent().unwrap()).join(file),
            };
            if !path.exists() {
                wrong.push(format!("{}: no file {link}", page.display()));
            } else if !heading.is_empty() {
                let target = std::fs::read_to_string(&path).unwrap();
                if !anchors(&target).contains(heading) {
                    wrong.push(format!("{}: no heading {link}", page.display()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(followed > 50, "only {followed} links were found");
}
