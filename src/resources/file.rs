//! A file of resources: YAML for people, or the same as JSON from the API.
//!
//! `${NAME}` in a string reads the environment, and `$${` is a plain `${`. An error names the file,
//! the line, the column and the field.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{Unexpected, Visitor, value::MapAccessDeserializer},
};

use super::{
    DestinationSpec, EventTypeSpec, Invalid, LookupSpec, PipelineSpec, ProjectSpec, SourceSpec,
    tree::{self, Location, TreeNode, Value},
};
use crate::model::{Name, Secret};

/// A file that was read: its shape is right, its meaning is not yet checked. It holds secrets, and
/// has no `Debug`.
pub struct File {
    name: String,
    root: TreeNode,
    pub(super) content: FileContent,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FileContent {
    #[serde(rename = "version")]
    _version: Version,
    pub project: ProjectEntry,
    #[serde(default)]
    pub sources: Vec<SourceSpec>,
    #[serde(default)]
    pub lookups: Vec<LookupSpec>,
    #[serde(default)]
    pub destinations: Vec<DestinationSpec>,
    #[serde(default)]
    pub pipelines: Vec<PipelineSpec>,
    #[serde(default)]
    pub event_types: Vec<EventTypeSpec>,
}

/// The version of the format, of which there is one.
struct Version;

impl<'de> Deserialize<'de> for Version {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct FileResource;

        impl Visitor<'_> for FileResource {
            type Value = Version;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("1, the one version of the format that there is")
            }

            fn visit_u64<E: serde::de::Error>(self, version: u64) -> Result<Version, E> {
                let other = || E::invalid_value(Unexpected::Unsigned(version), &self);
                (version == 1).then_some(Version).ok_or_else(other)
            }
        }

        deserializer.deserialize_any(FileResource)
    }
}

/// `project: acme`, which leaves its settings alone, or `project: { name: acme, retention: 30d }`.
pub(super) enum ProjectEntry {
    Named(Name),
    Full(ProjectSpec),
}

impl ProjectEntry {
    pub fn name(&self) -> &Name {
        match self {
            Self::Named(name) => name,
            Self::Full(spec) => &spec.name,
        }
    }
}

impl<'de> Deserialize<'de> for ProjectEntry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;

        impl<'de> Visitor<'de> for Either {
            type Value = ProjectEntry;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the name of a project, or a map with `name` and `retention`")
            }

            fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<ProjectEntry, E> {
                name.parse().map(ProjectEntry::Named).map_err(E::custom)
            }

            fn visit_map<A: serde::de::MapAccess<'de>>(
                self,
                map: A,
            ) -> Result<ProjectEntry, A::Error> {
                ProjectSpec::deserialize(MapAccessDeserializer::new(map)).map(ProjectEntry::Full)
            }
        }

        deserializer.deserialize_any(Either)
    }
}

/// Everything that is wrong with a file. Nothing of it was applied.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct FileError {
    pub problems: Vec<FileProblem>,
}

/// One thing that is wrong, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileProblem {
    pub file: String,
    /// `None` when there is no line to point at, e.g. in JSON from the API.
    pub location: Option<Location>,
    pub invalid: Invalid,
}

impl fmt::Display for FileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, problem) in self.problems.iter().enumerate() {
            if place > 0 {
                f.write_str("\n")?;
            }
            problem.fmt(f)?;
        }
        Ok(())
    }
}

impl fmt::Display for FileProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file)?;
        if let Some(Location { line, column }) = self.location {
            write!(f, ":{line}:{column}")?;
        }
        write!(f, ": {}", self.invalid)
    }
}

impl File {
    /// The name of the project that it is about.
    pub fn project(&self) -> &Name {
        self.content.project.name()
    }

    /// Whether it gives the destination of this name a signing secret.
    pub fn has_secret(&self, destination: &str) -> bool {
        let mut all = self.content.destinations.iter();
        all.any(|it| it.name.as_str() == destination && it.has_signing_secret())
    }

    /// Reads YAML. `name` is how errors call the file; `variable` looks into the environment.
    pub fn read(
        name: &str,
        text: &str,
        variable: &dyn Fn(&str) -> Option<Secret>,
    ) -> Result<Self, FileError> {
        let mut root = tree::from_yaml(text).map_err(|(location, invalid)| FileError {
            problems: vec![FileProblem { file: name.to_owned(), location, invalid }],
        })?;
        let wrong = fill_in(&mut root, variable);
        if !wrong.is_empty() {
            return Err(explain(name, &root, wrong));
        }
        Self::of(name, root)
    }

    /// The same as JSON, as the API takes it. What looks like a variable stays as it is.
    pub fn from_json(json: serde_json::Value) -> Result<Self, FileError> {
        Self::of("resources", TreeNode::from(json))
    }

    fn of(name: &str, root: TreeNode) -> Result<Self, FileError> {
        if !matches!(root.value, Value::Map(_)) {
            let rule = "must be a map that begins with `version: 1` and `project: NAME`";
            let found =
                if matches!(root.value, Value::Null) { "nothing" } else { root.value.kind() };
            return Err(explain(name, &root, vec![Invalid::new("", rule, found)]));
        }
        match root.read::<FileContent>() {
            Ok(content) => Ok(Self { name: name.to_owned(), root, content }),
            Err(invalid) => Err(explain(name, &root, vec![invalid])),
        }
    }

    /// Errors in the fields of this file, with their lines.
    pub(super) fn explain(&self, wrong: Vec<Invalid>) -> FileError {
        explain(&self.name, &self.root, wrong)
    }
}

fn explain(name: &str, root: &TreeNode, wrong: Vec<Invalid>) -> FileError {
    let problem = |invalid: Invalid| FileProblem {
        file: name.to_owned(),
        location: root.at(&invalid.path).place,
        invalid,
    };
    FileError { problems: wrong.into_iter().map(problem).collect() }
}

/// Replaces `${NAME}` by the environment's value, in every string.
fn fill_in(root: &mut TreeNode, variable: &dyn Fn(&str) -> Option<Secret>) -> Vec<Invalid> {
    let mut wrong = Vec::new();
    root.each_text("", &mut |path, text| {
        if !text.contains("${") {
            return;
        }
        match filled_in(text, variable) {
            Ok(filled) => *text = filled,
            Err((rule, found)) => wrong.push(Invalid::new(path, rule, found)),
        }
    });
    wrong
}

fn filled_in(
    text: &str,
    variable: &dyn Fn(&str) -> Option<Secret>,
) -> Result<String, (String, &'static str)> {
    let mut filled = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find("${") {
        let (before, after) = (&rest[..start], &rest[start + 2..]);
        if let Some(before) = before.strip_suffix('$') {
            filled.push_str(before);
            filled.push_str("${");
            rest = after;
            continue;
        }
        filled.push_str(before);
        let name = after.split('}').next().unwrap_or_default();
        let is_name = name.starts_with(|it: char| it.is_ascii_alphabetic() || it == '_')
            && name.bytes().all(|it| it.is_ascii_alphanumeric() || it == b'_');
        if !is_name || name.len() == after.len() {
            let rule = "must name a variable as `${NAME}`, or be `$${` where it is plain text";
            return Err((rule.to_owned(), "another text behind `${`"));
        }
        let value = variable(name).ok_or_else(|| {
            (format!("must have the environment variable `{name}`"), "none of this name")
        })?;
        filled.push_str(value.expose());
        rest = &after[name.len() + 1..];
    }
    filled.push_str(rest);
    Ok(filled)
}
