//! No circle of files anywhere in `src`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use crate::layers::{files_below, root};

/// Rooms in which circles of files are left. The list may only become shorter.
const LEFT: [&str; 3] = ["api/", "dispatch/", "store/postgres/"];

/// A module: its path below `crate`.
type Module = Vec<String>;

/// Which file names which others.
type Graph = BTreeMap<String, BTreeSet<String>>;

#[test]
fn no_files_import_each_other_in_a_circle() {
    let src = root().join("src");
    let files = files_below(&src, &["rs"]).into_iter().map(|file| {
        let name = file.strip_prefix(&src).unwrap().display().to_string();
        (name, fs::read_to_string(&file).unwrap())
    });
    let mut circles = circles(&graph(&files.collect()));
    for room in LEFT {
        let is_in = |it: &BTreeSet<String>| it.iter().all(|it| it.starts_with(room));
        assert!(circles.iter().any(is_in), "`{room}` has no circle any more: take it off the list");
        circles.retain(|it| !is_in(it));
    }
    assert!(circles.is_empty(), "files that import each other in circles: {circles:#?}");
}

#[test]
fn the_circle_reader_finds_a_planted_circle() {
    let planted = |back: &str| {
        BTreeMap::from(
            [
                ("room/mod.rs", "mod one; mod two; mod three; use one::One;"),
                ("room/one.rs", "use super::{Room, two::{self, Two as Other}};"),
                ("room/two.rs", "fn it() -> crate::room::three::Three { todo!() }"),
                ("room/three.rs", back),
            ]
            .map(|(name, text)| (name.to_owned(), text.to_owned())),
        )
    };
    let all = ["room/one.rs", "room/three.rs", "room/two.rs"].map(str::to_owned);
    for (back, is_circle) in [
        ("use crate::{model::Event, room::one::One};", true),
        ("pub(super) use super::one as first;", true),
        ("// use super::one;\n/// As super::one::One says.", false),
        ("#[cfg(test)]\nmod tests { use super::super::one::One; }", false),
        ("use super::Room;", false),
    ] {
        let expected = if is_circle { vec![BTreeSet::from(all.clone())] } else { Vec::new() };
        assert_eq!(circles(&graph(&planted(back))), expected, "{back}");
    }
}

/// Which file names which, without a `mod.rs` and the files below it: a room may name its parts, and
/// they may name it.
fn graph(files: &BTreeMap<String, String>) -> Graph {
    let modules: BTreeMap<Module, &String> = files.keys().map(|it| (module(it), it)).collect();
    let mut graph = Graph::new();
    for (name, text) in files {
        let mut own = BTreeSet::new();
        for path in paths(text, &module(name)) {
            let ends = (1..=path.len()).rev();
            let found = ends.filter_map(|end| modules.get(&path[..end])).next();
            let is_room = |room: &str, part: &str| {
                room.strip_suffix("mod.rs").is_some_and(|it| part.starts_with(it))
            };
            own.extend(
                found
                    .filter(|it| **it != name && !is_room(it, name) && !is_room(name, it))
                    .map(|it| (*it).clone()),
            );
        }
        graph.insert(name.clone(), own);
    }
    graph
}

/// `store/mod.rs` is `store`, and `store/page.rs` is `store::page`.
fn module(file: &str) -> Module {
    let path = file.strip_suffix(".rs").unwrap_or(file);
    path.strip_suffix("/mod").unwrap_or(path).split('/').map(str::to_owned).collect()
}

/// The paths that a file names: in its `use`s, and after `crate::` and `super::` elsewhere. Comments
/// and the tests at its end do not count.
fn paths(text: &str, own: &[String]) -> Vec<Module> {
    let text = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
    let lines = text.lines().map(|it| it.split("//").next().unwrap_or_default());
    let text = lines.collect::<Vec<_>>().join("\n");
    let mut found = Vec::new();
    for statement in text.split(';') {
        let start = statement
            .rfind("use ")
            .filter(|at| *at == 0 || statement[..*at].ends_with(|it: char| it.is_whitespace()));
        if let Some(at) = start {
            expand(&statement[at + "use ".len()..], &[], &mut found);
        }
        let is_part = |it: char| it.is_alphanumeric() || it == '_' || it == ':';
        for word in statement.split(|it| !is_part(it)) {
            if word.starts_with("crate::") || word.starts_with("super::") {
                found.push(word.split("::").map(str::to_owned).collect());
            }
        }
    }
    found.into_iter().map(|it| absolute(it, own)).collect()
}

/// The paths of a tree of a `use`, each behind what stands before the tree.
fn expand(tree: &str, before: &[String], found: &mut Vec<Module>) {
    let (head, list) = match tree.split_once('{') {
        Some((head, rest)) => (head, Some(rest)),
        None => (tree, None),
    };
    let head = head.split_whitespace().next().unwrap_or_default();
    let parts = head.split("::").filter(|it| !it.is_empty() && *it != "*").map(str::to_owned);
    let path: Module = before.iter().cloned().chain(parts).collect();
    match list {
        None => found.push(path),
        Some(list) => items(list).iter().for_each(|it| expand(it, &path, found)),
    }
}

/// The items of a list in braces, up to the brace that closes it.
fn items(list: &str) -> Vec<&str> {
    let (mut depth, mut start, mut found) = (0, 0, Vec::new());
    for (at, letter) in list.char_indices() {
        match letter {
            '{' => depth += 1,
            ',' | '}' if depth == 0 => {
                found.push(list[start..at].trim());
                start = at + 1;
                if letter == '}' {
                    break;
                }
            }
            '}' => depth -= 1,
            _ => (),
        }
    }
    found.retain(|it| !it.is_empty());
    found
}

/// A path as it is from the top, for who stands in this module.
fn absolute(path: Module, own: &[String]) -> Module {
    let first = path.first().map(String::as_str).unwrap_or_default();
    let (base, skipped) = match first {
        "crate" => (0, 1),
        "self" => (own.len(), 1),
        "super" => {
            let up = path.iter().take_while(|it| *it == "super").count();
            (own.len().saturating_sub(up), up)
        }
        // A name of its own: a part of this module, or a crate, which is no file of ours.
        _ => (own.len(), 0),
    };
    let rest = path.into_iter().skip(skipped).filter(|it| it != "self");
    own[..base].iter().cloned().chain(rest).collect()
}

/// The files that reach each other.
fn circles(graph: &Graph) -> Vec<BTreeSet<String>> {
    let reached: BTreeMap<&String, BTreeSet<&String>> = graph
        .keys()
        .map(|file| {
            let (mut seen, mut next) = (BTreeSet::new(), vec![file]);
            while let Some(it) = next.pop() {
                next.extend(graph[it].iter().filter(|it| seen.insert(*it)));
            }
            (file, seen)
        })
        .collect();
    let mut found: Vec<BTreeSet<String>> = Vec::new();
    for (file, seen) in &reached {
        let circle: BTreeSet<String> =
            seen.iter().filter(|it| reached[*it].contains(file)).map(|it| (*it).clone()).collect();
        if !circle.is_empty() && !found.contains(&circle) {
            found.push(circle);
        }
    }
    found
}
