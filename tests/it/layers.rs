//! The shape of the code base, as tests: who may import whom, and how a file looks.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// Which module may import which. A line may name only modules of the lines above it, so a circle
/// cannot even be written down. To allow a new import is to change this table, in plain view.
const LAYERS: &[(&str, &str)] = &[
    ("model", ""),
    ("clock", ""),
    ("hint", ""),
    ("tail", "model"),
    ("crypto", "model"),
    ("redact", "model crypto"),
    ("expr", "model"),
    ("settings", "model expr"),
    ("derived", ""),
    ("schema", "model derived"),
    ("script", ""),
    ("store", "model clock hint crypto"),
    ("catalog", "model store"),
    ("gate", "model store catalog"),
    ("pipeline", "model clock hint crypto redact expr script store catalog"),
    ("replay", "model clock store catalog pipeline"),
    ("destinations", "model clock crypto expr settings catalog"),
    ("enrich", "model clock crypto expr store catalog pipeline destinations"),
    ("probe", "model clock tail crypto store catalog destinations"),
    ("dispatch", "model clock hint tail store catalog destinations"),
    ("deletions", "model clock store catalog pipeline dispatch"),
    (
        "resources",
        "model crypto redact expr settings schema store catalog pipeline destinations dispatch",
    ),
    ("problem", "model store gate pipeline resources"),
    ("ingest", "model clock tail derived crypto redact expr schema store catalog gate problem"),
    (
        "api",
        "model clock tail crypto expr schema store catalog gate pipeline replay destinations enrich \
         probe dispatch deletions resources problem ingest",
    ),
    ("dashboard", "problem"),
    ("server", "problem"),
    ("telemetry", ""),
    ("cluster", "clock store"),
    (
        "config",
        "cluster gate store pipeline destinations enrich dispatch resources ingest api server telemetry",
    ),
    (
        "app",
        "model clock hint tail crypto store catalog gate pipeline replay destinations enrich probe \
         dispatch deletions resources ingest api dashboard server telemetry cluster config derived",
    ),
    (
        "cli",
        "model clock tail crypto store catalog destinations resources server telemetry config app",
    ),
];

const LINES_PER_FILE: usize = 500;

#[test]
fn the_table_itself_has_no_circles() {
    for (line, (module, imports)) in LAYERS.iter().enumerate() {
        for import in imports.split_whitespace() {
            let is_above = LAYERS[..line].iter().any(|(name, _)| *name == import);
            assert!(is_above, "`{module}` may import `{import}` only if it stands above it");
        }
    }
}

#[test]
fn modules_import_only_what_their_layer_allows() {
    let src = root().join("src");
    let mut seen = BTreeSet::new();
    let mut wrong = Vec::new();
    for file in files_below(&src, &["rs"]) {
        let module = top_module(&src, &file);
        if module == "lib" || module == "main" {
            continue;
        }
        let Some((_, allowed)) = LAYERS.iter().find(|(name, _)| *name == module) else {
            panic!("`{module}` has no line in LAYERS");
        };
        for import in imports(&read(&file)) {
            if import != module && !allowed.split_whitespace().any(|it| it == import) {
                wrong.push(format!("{}: `{module}` may not import `{import}`", file.display()));
            }
        }
        seen.insert(module);
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    for (module, _) in LAYERS {
        assert!(seen.contains(*module), "LAYERS names `{module}`, which does not exist");
    }
}

#[test]
fn the_import_reader_sees_lists_and_paths() {
    let text = "use crate::{model::{Event, Owed}, store};\nlet it = crate::clock::SystemClock;";
    let expected = ["clock", "model", "store"].map(str::to_owned);
    assert_eq!(imports(text), BTreeSet::from(expected));
}

#[test]
fn every_file_says_what_it_is_and_fits_in_the_head() {
    let mut wrong = Vec::new();
    for folder in ["src", "tests", "bench"] {
        for file in files_below(&root().join(folder), &["rs"]) {
            let text = read(&file);
            if !text.starts_with("//! ") {
                wrong.push(format!("{}: the first line is no `//!`", file.display()));
            }
            let lines = text.lines().count();
            if lines > LINES_PER_FILE {
                wrong.push(format!(
                    "{}: {lines} lines, of at most {LINES_PER_FILE}",
                    file.display()
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_file_is_compiled() {
    for (folder, roots) in [("src", &["lib.rs", "main.rs"][..]), ("tests/it", &["main.rs"])] {
        let top = root().join(folder);
        for file in files_below(&top, &["rs"]) {
            let stem = file.file_stem().unwrap().to_str().unwrap();
            let parent = file.parent().unwrap();
            if parent == top && roots.iter().any(|it| file.ends_with(it)) {
                continue;
            }
            let (module, outer) = match stem {
                "mod" => (parent.file_name().unwrap().to_str().unwrap(), parent.parent().unwrap()),
                _ => (stem, parent),
            };
            let names_it = |it: &Path| it.exists() && read(it).contains(&format!("mod {module};"));
            let is_declared =
                names_it(&outer.join("mod.rs")) || roots.iter().any(|it| names_it(&outer.join(it)));
            assert!(is_declared, "{}: no `mod` line names this file", file.display());
        }
    }
}

#[test]
fn only_egress_connects_and_only_problem_speaks_problem_json() {
    for file in files_below(&root().join("src"), &["rs"]) {
        let text = read(&file);
        let path = file.display().to_string();
        // The command line's own requests go to the gateway, never to an address from a resource.
        if !path.contains("/egress") && !path.contains("/cli/") {
            assert!(
                !text.contains("TcpStream::connect"),
                "{path}: only `egress` opens connections"
            );
        }
        if !path.ends_with("problem.rs") && !path.contains("/cli/") {
            assert!(
                !text.contains("application/problem+json"),
                "{path}: only `problem` speaks RFC 9457"
            );
        }
    }
}

#[test]
fn the_documents_name_only_tests_and_files_that_exist() {
    let code: String = ["tests", "src", "pages"]
        .iter()
        .flat_map(|it| files_below(&root().join(it), &["rs"]))
        .map(|it| read(&it))
        .collect();
    let mut documents = files_below(&root().join("docs/adr"), &["md"]);
    let others = [
        "ARCHITECTURE.md",
        "CONTRIBUTING.md",
        "SECURITY.md",
        "docs/glossary.md",
        "tests/README.md",
    ];
    documents.extend(others.map(|it| root().join(it)));
    let mut wrong = Vec::new();
    for document in documents {
        let name = document.strip_prefix(root()).unwrap().display().to_string();
        for quoted in quoted(&read(&document)) {
            for test in test_names(&quoted) {
                if !code.contains(&format!("fn {test}(")) {
                    wrong.push(format!("{name} names the test `{test}`, which does not exist"));
                }
            }
            let is_path = ["src/", "tests/", "docs/", "bench/", "pages/"]
                .iter()
                .any(|it| quoted.starts_with(it));
            if is_path && !quoted.contains(['*', '<', '{', ' ']) && !root().join(&quoted).exists() {
                wrong.push(format!("{name} names `{quoted}`, which does not exist"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// What looks like tests in a quoted text: `a_test_of_this`, `module::a_test_of_this`, `module::{a_…, b_…}`.
fn test_names(quoted: &str) -> Vec<&str> {
    let words = quoted.split([',', '{', '}', ' ']);
    let last = words.filter_map(|it| it.rsplit("::").next());
    let is_test = |it: &&str| {
        it.matches('_').count() > 3
            && !it.starts_with("tidegate_")
            && it.chars().all(|it| it.is_ascii_lowercase() || it.is_ascii_digit() || it == '_')
    };
    last.map(|it| it.trim_start_matches('…')).filter(is_test).collect()
}

pub fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(file: &Path) -> String {
    fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

pub fn files_below(folder: &Path, endings: &[&str]) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(files_below(&path, endings));
        } else if path.extension().is_some_and(|it| endings.iter().any(|ending| it == *ending)) {
            files.push(path);
        }
    }
    files
}

/// `src/store/sqlite.rs` belongs to `store`.
fn top_module(src: &Path, file: &Path) -> String {
    let relative = file.strip_prefix(src).unwrap();
    let first = Path::new(relative.iter().next().unwrap());
    first.file_stem().unwrap().to_str().unwrap().to_owned()
}

/// The modules that a file names after `crate::`, alone or in the braces of a `use`.
fn imports(text: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (at, path) in text.match_indices("crate::") {
        let rest = &text[at + path.len()..];
        match rest.strip_prefix('{') {
            None => found.extend(word(rest)),
            Some(list) => found.extend(items(list).into_iter().filter_map(word)),
        }
    }
    found
}

/// The items of a list in braces, up to the brace that closes it.
fn items(list: &str) -> Vec<&str> {
    let (mut depth, mut start) = (0, 0);
    let mut found = Vec::new();
    for (at, character) in list.char_indices() {
        match character {
            '{' => depth += 1,
            '}' if depth == 0 => {
                found.push(list[start..at].trim());
                break;
            }
            '}' => depth -= 1,
            ',' if depth == 0 => {
                found.push(list[start..at].trim());
                start = at + 1;
            }
            _ => (),
        }
    }
    found
}

fn word(text: &str) -> Option<String> {
    let end = text.find(|it: char| !it.is_ascii_lowercase() && it != '_').unwrap_or(text.len());
    (0 < end).then(|| text[..end].to_owned())
}

/// What stands between backticks.
fn quoted(text: &str) -> Vec<String> {
    text.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}
