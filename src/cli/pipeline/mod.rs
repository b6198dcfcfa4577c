//! `tidegate pipeline`: pipelines tried before they are trusted, and what they were before.

pub mod dry_run;
mod versions;

use std::path::PathBuf;

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{
    Context, cases,
    client::pages,
    deliveries::id_part,
    emit::read_json_argument,
    error::{CliError, Result},
    output::{self, plural, table},
    yaml::ResourceFile,
};
use crate::model::Name;

/// Test pipelines, compare versions, roll back
#[derive(Debug, clap::Subcommand)]
#[command(after_help = "\
Examples:
  tidegate pipeline test signups                       its test cases; without any, the last event that it takes
  tidegate pipeline test signups --recent              what it would do with that event, and what would be sent
  tidegate pipeline test signups --type user.signed_up --data '{\"plan\":\"pro\"}'
  tidegate pipeline test signups --file acme.yaml      the same before the file is applied
  tidegate pipeline diff signups                       what the last change changed
  tidegate pipeline rollback signups 3                 a new version that is as version 3 was")]
pub enum Command {
    /// List the project's pipelines
    List {
        /// Print one JSON object per line
        #[arg(long)]
        json: bool,
    },
    Test(TestArgs),
    Versions(versions::VersionsArgs),
    Diff(versions::DiffArgs),
    Rollback(versions::RollbackArgs),
}

/// Try a pipeline on an event or run its test cases; nothing is sent or stored
#[derive(Debug, clap::Args)]
#[command(after_help = "\
The exit code is 1 when a test case fails, or an expectation.

Examples:
  tidegate pipeline test signups                                  its test cases
  tidegate pipeline test signups --case 'a scale plan reaches sales'
  tidegate pipeline test signups --event evt_01ka…
  tidegate pipeline test signups --recent --type user.signed_up
  tidegate pipeline test signups --type user.signed_up --data @event.json --expect '{\"routes\":[\"crm\"]}'
  tidegate pipeline test signups --file acme.yaml --recent --json | jq '.routes[].messages[].requests'")]
pub struct TestArgs {
    /// The name of the pipeline
    #[arg(value_name = "NAME")]
    name: Name,
    /// A stored event, evt_…
    #[arg(long, value_name = "ID", conflicts_with_all = ["recent", "data", "case", "event_type"])]
    event: Option<String>,
    /// Use the most recent event that matches the trigger
    #[arg(long, conflicts_with_all = ["data", "case"])]
    recent: bool,
    /// With --data, the event's type; with --recent, a type or group such as user.*
    #[arg(long = "type", value_name = "TYPE", conflicts_with = "case")]
    event_type: Option<String>,
    /// An event that is not stored, with this payload: JSON, @file, or - for standard input
    #[arg(long, short, value_name = "JSON", requires = "event_type", conflicts_with = "case")]
    data: Option<String>,
    /// Its metadata: a JSON object
    #[arg(long, value_name = "JSON", requires = "data")]
    metadata: Option<String>,
    /// The source that it comes from
    #[arg(long, value_name = "NAME", requires = "data")]
    source: Option<Name>,
    /// One of the test cases, step by step
    #[arg(long, value_name = "CASE")]
    case: Option<String>,
    /// Answers for look-ups: a JSON object such as {"person":{"role":"CTO"}}
    #[arg(long, value_name = "JSON", conflicts_with = "case")]
    enriched: Option<String>,
    /// Expected result, as in a test case: a JSON object such as {"routes":["crm"]}
    #[arg(long, value_name = "JSON")]
    expect: Option<String>,
    /// Use the pipeline of this resource file, without applying it
    #[arg(long, short, value_name = "FILE")]
    file: Option<PathBuf>,
    /// As JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Deserialize)]
struct PipelineRow {
    name: String,
    version: u32,
    #[serde(default = "yes")]
    enabled: bool,
    #[serde(default)]
    on: Vec<String>,
    #[serde(default)]
    routes: Vec<Value>,
    #[serde(default)]
    tests: Vec<Value>,
}

fn yes() -> bool {
    true
}

const PATH: &str = "/api/v1/pipelines";

pub async fn run(context: &Context, command: Command) -> Result<()> {
    match command {
        Command::List { json } => list(context, json).await,
        Command::Test(args) => test(context, args).await,
        Command::Versions(args) => versions::list(context, args).await,
        Command::Diff(args) => versions::diff(context, args).await,
        Command::Rollback(args) => versions::rollback(context, args).await,
    }
}

async fn list(context: &Context, is_json: bool) -> Result<()> {
    let paint = context.out.paint;
    let mut rows = Vec::new();
    pages(&context.client, PATH, Vec::new(), usize::MAX, |row| {
        if is_json {
            return context.out.json_line(&row);
        }
        let it: PipelineRow = row.read()?;
        let state = if it.enabled { paint.green("enabled") } else { paint.yellow("disabled") };
        let on = if it.on.is_empty() { "*".to_owned() } else { it.on.join(", ") };
        let version = format!("v{}", it.version);
        let routes = plural(it.routes.len() as u64, "route");
        let tests = plural(it.tests.len() as u64, "test case");
        rows.push(vec![paint.bold(&it.name), version, state, on, routes, tests]);
        Ok(())
    })
    .await?;
    if rows.is_empty() && !is_json {
        output::note("there is no pipeline");
    }
    context.out.text(&table(&rows))
}

impl TestArgs {
    /// Whether an event was chosen.
    fn has_event(&self) -> bool {
        self.event.is_some()
            || self.recent
            || self.event_type.is_some()
            || self.data.is_some()
            || self.case.is_some()
    }

    /// What is not saved, and is to be tried.
    fn unsaved(&self) -> Result<(Map<String, Value>, Option<ResourceFile>)> {
        let mut request = Map::new();
        let Some(path) = &self.file else { return Ok((request, None)) };
        let file = ResourceFile::read(path, |name| std::env::var(name).ok())?;
        request.insert("resources".to_owned(), file.resources.clone());
        Ok((request, Some(file)))
    }

    fn event(&self, request: &mut Map<String, Value>) -> Result<()> {
        let mut put = |name: &str, value: Value| drop(request.insert(name.to_owned(), value));
        if let Some(id) = &self.event {
            put("event_id", id_part("evt", id)?.into());
        } else if let Some(case) = &self.case {
            put("case", case.as_str().into());
        } else if let Some(data) = &self.data {
            let mut event = json!({
                "type": self.event_type,
                "payload": read_json_argument(data)?,
            });
            if let Some(metadata) = &self.metadata {
                event["metadata"] = object("--metadata", metadata)?;
            }
            if let Some(source) = &self.source {
                event["source"] = source.as_str().into();
            }
            put("event", event);
        } else {
            put("recent", true.into());
            if let Some(event_type) = &self.event_type {
                put("type", event_type.as_str().into());
            }
        }
        if let Some(enriched) = &self.enriched {
            put("enriched", object("--enriched", enriched)?);
        }
        if let Some(expect) = &self.expect {
            put("expect", object("--expect", expect)?);
        }
        Ok(())
    }
}

fn object(option: &str, text: &str) -> Result<Value> {
    match serde_json::from_str::<Value>(text) {
        Ok(value) if value.is_object() => Ok(value),
        Ok(_) => Err(CliError::usage(format!("{option} is a JSON object"))),
        Err(error) => Err(CliError::usage(format!("{option} is not JSON: {error}"))),
    }
}

async fn test(context: &Context, args: TestArgs) -> Result<()> {
    let (mut request, file) = args.unsaved()?;
    let explain = |error: CliError| match &file {
        Some(file) => file.explain(error),
        None => error,
    };
    if !args.has_event() && args.expect.is_none() {
        let path = format!("{PATH}/{}/tests", args.name);
        let answer = context.client.post(&path, &Value::Object(request.clone())).await;
        let answer = answer.map_err(explain)?;
        let outcome: dry_run::Tests = answer.read()?;
        if !outcome.tests.is_empty() {
            if args.json {
                context.out.json(&answer)?;
            } else {
                context.out.text(&cases::cases(&outcome.tests, context.out.paint))?;
            }
            return dry_run::verdict(&outcome);
        }
        output::note("it has no test cases: this is the most recent event that it takes");
    }
    args.event(&mut request)?;
    let path = format!("{PATH}/{}/test", args.name);
    let answer = context.client.post(&path, &Value::Object(request)).await.map_err(explain)?;
    let tried: dry_run::Tried = answer.read()?;
    if args.json {
        context.out.json(&answer)?;
    } else {
        context.out.text(&dry_run::render(&tried, context.out.paint))?;
    }
    match tried.failures.as_ref().map_or(0, Vec::len) as u64 {
        0 => Ok(()),
        count => Err(CliError::failed(format!("not as expected in {}", plural(count, "place")))),
    }
}
