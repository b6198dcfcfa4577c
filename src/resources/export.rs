//! A project as the file that makes it again, with `${NAME}` for its secrets.

use serde::Serialize;

use super::{
    DestinationSpec, EventTypeSpec, LookupSpec, PipelineSpec, ProjectSpec, SourceSpec, Spec,
};
use crate::{
    catalog::Catalog,
    destinations::{kind, kinds},
    model::ProjectId,
};

/// The file, in the order of its fields. Lists that are empty are left out.
#[derive(Serialize)]
struct ExportedFile {
    version: u32,
    project: ExportedProject,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    sources: Vec<SourceSpec>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    lookups: Vec<LookupSpec>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    destinations: Vec<DestinationSpec>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pipelines: Vec<PipelineSpec>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    event_types: Vec<EventTypeSpec>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum ExportedProject {
    Named(String),
    Full(ProjectSpec),
}

/// The project's resources as YAML, or `None` when there is no such project. It can be applied
/// again: without its secrets in the environment it is refused, and with them nothing changes.
pub fn export(catalog: &Catalog, project: ProjectId) -> Option<String> {
    let document = catalog.projects.get(&project)?;
    let written = ExportedFile {
        version: 1,
        project: match document.retention {
            None => ExportedProject::Named(document.name.to_string()),
            Some(_) => ExportedProject::Full(ProjectSpec::of(document)),
        },
        sources: (catalog.sources.values())
            .filter(|it| it.project == project)
            .map(|it| SourceSpec::of(it))
            .collect(),
        lookups: (catalog.lookups.values())
            .filter(|it| it.project == project)
            .map(|it| LookupSpec::of(it))
            .collect(),
        destinations: (catalog.destinations.values())
            .filter(|it| it.project == project)
            .map(|it| DestinationSpec::of(it).brief())
            .collect(),
        pipelines: (catalog.pipelines.values())
            .filter(|it| it.project == project)
            .map(|it| PipelineSpec::of(it))
            .collect(),
        event_types: (catalog.event_types.values())
            .filter(|it| it.project == project)
            .map(|it| EventTypeSpec::of(it))
            .collect(),
    };
    // Through JSON, so that a plain `${` in a text can be doubled and read again.
    let mut json = serde_json::to_value(&written).unwrap_or_default();
    let mut variables = Vec::new();
    escape(&mut json, "", &mut variables);
    let options = serde_saphyr::ser_options! { prefer_block_scalars: false };
    let text = serde_saphyr::to_string_with_options(&json, options).ok()?;
    Some(about_secrets(&variables) + &text)
}

/// A comment that names the variables, and says how the file is applied without them.
fn about_secrets(variables: &[String]) -> String {
    if variables.is_empty() {
        return String::new();
    }
    let mut text = "# Secrets are not exported. Set these variables before you apply this file. A destination that\n\
                    # exists keeps its signing secret where you delete its `secret` line.\n"
        .to_owned();
    for name in variables {
        text.push_str(&format!("#   export {name}=…\n"));
    }
    text
}

/// Whether a placeholder stands at this path. That of a destination names its kind: `destinations[webhook].secret`.
fn is_placeholder(path: &str) -> bool {
    let destination = path.strip_prefix("destinations[").and_then(|it| it.split_once("]."));
    match destination.map(|(word, field)| (kinds::named(word), field)) {
        Some((Some(kind), field)) => kind::is_secret(kind.about().secrets, field),
        Some((None, _)) => false,
        None => path.starts_with("lookups[].secrets."),
    }
}

/// Doubles the `$` of every `${`, but for the placeholders of secrets, whose names are collected.
fn escape(json: &mut serde_json::Value, path: &str, variables: &mut Vec<String>) {
    use serde_json::Value;
    match json {
        Value::Null | Value::Bool(_) | Value::Number(_) => (),
        Value::String(text) => {
            if !is_placeholder(path) {
                *text = text.replace("${", "$${");
            } else if let Some(name) = text.strip_prefix("${").and_then(|it| it.strip_suffix('}'))
                && !variables.iter().any(|it| it == name)
            {
                variables.push(name.to_owned());
            }
        }
        Value::Array(items) => {
            for item in items {
                let kind = item.get("kind").and_then(Value::as_str).unwrap_or_default();
                let kind = if path == "destinations" { kind } else { "" };
                escape(item, &format!("{path}[{kind}]"), variables);
            }
        }
        Value::Object(fields) => {
            for (key, value) in fields {
                let dot = if path.is_empty() { "" } else { "." };
                escape(value, &format!("{path}{dot}{key}"), variables);
            }
        }
    }
}
