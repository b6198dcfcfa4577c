//! `tidegate codegen`: code from what the project has registered.

mod types;
mod schema;
mod typescript;

use std::{fs, path::PathBuf};

use serde::Deserialize;
use serde_json::Value;

use super::{
    Context,
    client::pages,
    error::{CliError, Result},
    output::{self, plural},
};

/// Generate typed code from the project's event types
#[derive(Debug, clap::Subcommand)]
#[command(after_help = "\
Examples:
  tidegate codegen typescript --out src/events.ts            ingest() of @tidegate/sdk takes only these
  tidegate codegen typescript --out src/events.ts --check    fails when the file is out of date")]
pub enum Command {
    Typescript(Args),
}

/// TypeScript types of events and payloads, for @tidegate/sdk
///
/// The same event types give the same file. What a JSON Schema says and TypeScript cannot is left out,
/// so that a type is never narrower than its schema.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Where to; standard output without it
    #[arg(long, short, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Write nothing, and fail if the file differs
    #[arg(long, requires = "out")]
    check: bool,
}

/// A registered type of event, as far as code depends on it.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct CodegenType {
    name: String,
    description: String,
    group: Option<String>,
    example: Option<Value>,
    schema: Option<Value>,
    /// Not so: it is known from traffic alone, and nobody has said that it may be sent.
    registered: Option<bool>,
}

pub async fn run(context: &Context, command: Command) -> Result<()> {
    let Command::Typescript(args) = command;
    let mut types: Vec<CodegenType> = Vec::new();
    let take = |row: super::json::Json| {
        let event_type: CodegenType = row.read()?;
        if event_type.registered != Some(false) {
            types.push(event_type);
        }
        Ok(())
    };
    pages(&context.client, "/api/v1/event-types", Vec::new(), usize::MAX, take).await?;
    types.sort_by(|a, b| a.name.cmp(&b.name));
    let text = typescript::file(&types);
    let Some(path) = args.out else { return context.out.text(&text) };
    let is_there = fs::read(&path).is_ok_and(|it| it == text.as_bytes());
    let shown = path.display();
    if args.check {
        if is_there {
            return Ok(());
        }
        let advice = format!("tidegate codegen typescript --out {shown}");
        return Err(CliError::failed(format!("`{shown}` is out of date")).then(advice));
    }
    // A file that is as it should be keeps its time, so that nothing is built again for it.
    if !is_there {
        fs::write(&path, text).map_err(|source| CliError::File {
            what: format!("`{shown}` cannot be written"),
            source,
        })?;
    }
    output::note(format_args!("{shown} has {}", plural(types.len() as u64, "event type")));
    if types.iter().all(|it| it.schema.is_none()) {
        context.out.next("give an event type a `schema`: without one its payload is `unknown`");
    }
    Ok(())
}

#[cfg(test)]
mod tests;
