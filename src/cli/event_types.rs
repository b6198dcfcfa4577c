//! `tidegate event-types`: what events look like, by their schemas and by what came.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{
    Context,
    client::pages,
    error::Result,
    output::{self, Paint, clip, count, distance, plural, table},
};
use crate::model::{TypeName, Validate};

/// List event types and register the unknown ones
#[derive(Debug, clap::Subcommand)]
#[command(after_help = "\
Examples:
  tidegate event-types list                                  registered types, and those that came
  tidegate event-types show user.signed_up                   its fields, by its schema and by what came
  tidegate event-types adopt user.signed_up                  register it, with a schema of what came
  tidegate event-types adopt user.signed_up --validate flag  and mark events that are otherwise")]
pub enum Command {
    /// List the project's event types
    List {
        /// Only those that are not registered
        #[arg(long)]
        unregistered: bool,
        /// Print one JSON object per line
        #[arg(long)]
        json: bool,
    },
    /// Show the fields of a type
    Show {
        /// Its name
        #[arg(value_name = "TYPE")]
        name: TypeName,
        /// As JSON: the type, with its fields
        #[arg(long)]
        json: bool,
    },
    Adopt(AdoptArgs),
}

/// Register a type, with a schema inferred from its events
#[derive(Debug, clap::Args)]
pub struct AdoptArgs {
    /// Its name
    #[arg(value_name = "TYPE")]
    name: TypeName,
    /// What to do with events that do not match the schema: off, flag or reject
    #[arg(long, value_name = "MODE", value_parser = validate)]
    validate: Option<Validate>,
    /// What it means
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,
    /// Heading under which it is listed
    #[arg(long, value_name = "NAME")]
    group: Option<String>,
    /// Replace an existing schema
    #[arg(long)]
    replace: bool,
    /// As JSON
    #[arg(long)]
    json: bool,
}

fn validate(text: &str) -> std::result::Result<Validate, String> {
    serde_json::from_value(Value::from(text))
        .map_err(|_| "there are off, flag and reject".to_owned())
}

#[derive(Deserialize)]
struct EventTypeView {
    name: String,
    registered: bool,
    #[serde(default)]
    group: Option<String>,
    #[serde(default)]
    description: String,
    #[serde(default)]
    schema: Option<Value>,
    #[serde(default)]
    validate: Validate,
    traffic: Option<Traffic>,
}

#[derive(Deserialize)]
struct Traffic {
    events: u64,
    flagged: u64,
    rejected: u64,
    last_seen_at: Timestamp,
}

#[derive(Deserialize)]
struct FieldsView {
    looked_into: u64,
    fields: Vec<FieldView>,
}

#[derive(Deserialize)]
struct FieldView {
    path: String,
    kinds: Vec<String>,
    in_schema: bool,
    required: bool,
    #[serde(default)]
    values: Vec<Value>,
    seen: Option<SeenType>,
}

#[derive(Deserialize)]
struct SeenType {
    share: f64,
    kinds: BTreeMap<String, u64>,
}

const PATH: &str = "/api/v1/event-types";

pub async fn run(context: &Context, command: Command) -> Result<()> {
    match command {
        Command::List { unregistered, json } => list(context, unregistered, json).await,
        Command::Show { name, json } => show(context, &name, json).await,
        Command::Adopt(args) => adopt(context, args).await,
    }
}

async fn list(context: &Context, only_others: bool, is_json: bool) -> Result<()> {
    let (now, paint) = (context.clock.now(), context.out.paint);
    let query = match only_others {
        true => vec![("registered", "false".to_owned())],
        false => Vec::new(),
    };
    let mut rows = Vec::new();
    pages(&context.client, PATH, query, usize::MAX, |row| {
        if is_json {
            return context.out.json_line(&row);
        }
        let it: EventTypeView = row.read()?;
        let came = match &it.traffic {
            None => vec![String::new(), paint.dim("never came")],
            Some(traffic) => {
                vec![count(traffic.events), distance(traffic.last_seen_at, now)]
            }
        };
        let mut cells = vec![paint.bold(&it.name), it.group.clone().unwrap_or_default()];
        cells.extend(came);
        cells.push(state(&it, paint));
        rows.push(cells);
        Ok(())
    })
    .await?;
    if rows.is_empty() && !is_json {
        output::note("there are no types of events yet: they show when events come");
    }
    context.out.text(&table(&rows))
}

/// `flag, 3 flagged`
fn state(it: &EventTypeView, paint: Paint) -> String {
    let mut parts = Vec::new();
    match (it.registered, &it.schema, it.validate) {
        (false, _, _) => parts.push(paint.yellow("not registered")),
        (true, None, _) => parts.push(paint.dim("no schema")),
        (true, Some(_), Validate::Off) => parts.push("schema".to_owned()),
        (true, Some(_), Validate::Flag) => parts.push("flags".to_owned()),
        (true, Some(_), Validate::Reject) => parts.push("rejects".to_owned()),
    }
    if let Some(traffic) = &it.traffic {
        for (number, word) in [(traffic.flagged, "flagged"), (traffic.rejected, "rejected")] {
            if number > 0 {
                parts.push(paint.red(format_args!("{} {word}", count(number))));
            }
        }
    }
    parts.join(", ")
}

async fn show(context: &Context, name: &TypeName, is_json: bool) -> Result<()> {
    let one = format!("{PATH}/{name}");
    let answer = context.client.get(&one, &[]).await?;
    let fields = context.client.get(&format!("{one}/fields"), &[]).await?;
    if is_json {
        let (mut whole, fields): (Map<String, Value>, Map<String, Value>) =
            (answer.read()?, fields.read()?);
        whole.extend(
            fields.into_iter().filter(|(name, _)| name == "fields" || name == "looked_into"),
        );
        return context.out.line(Value::Object(whole));
    }
    let paint = context.out.paint;
    let (it, fields): (EventTypeView, FieldsView) = (answer.read()?, fields.read()?);
    let events = it.traffic.as_ref().map_or(0, |it| it.events);
    let came = plural(events, "event");
    context.out.line(format_args!("{}  {came}  {}", paint.bold(&it.name), state(&it, paint)))?;
    if !it.description.is_empty() {
        context.out.line(&it.description)?;
    }
    let rows: Vec<Vec<String>> = fields.fields.iter().map(|it| row(it, paint)).collect();
    context.out.text(&table(&rows))?;
    if fields.looked_into > 0 {
        let looked = plural(fields.looked_into, "payload");
        output::note(format_args!("{looked} looked into; no value of any is kept"));
    }
    if !it.registered {
        context.out.next(format_args!("tidegate event-types adopt {name}"));
    }
    Ok(())
}

/// `payload.plan  string  required  100 %  pro, free`
fn row(it: &FieldView, paint: Paint) -> Vec<String> {
    const VALUES: usize = 60;
    let kinds = match &it.seen {
        Some(seen) if it.kinds.is_empty() => seen.kinds.keys().cloned().collect::<Vec<_>>(),
        Some(_) | None => it.kinds.clone(),
    };
    let place = match (it.in_schema, it.required) {
        (true, true) => "required".to_owned(),
        (true, false) => "optional".to_owned(),
        (false, _) => paint.yellow("not in the schema"),
    };
    let share = match &it.seen {
        Some(seen) => format!("{:.0} %", seen.share * 100.0),
        None => paint.dim("never came"),
    };
    let values = it.values.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    vec![paint.cyan(&it.path), kinds.join(" or "), place, share, clip(&values, VALUES)]
}

async fn adopt(context: &Context, args: AdoptArgs) -> Result<()> {
    let mut body = Map::new();
    body.extend(args.validate.map(|it| ("validate".to_owned(), json!(it))));
    body.extend(args.description.map(|it| ("description".to_owned(), it.into())));
    body.extend(args.group.map(|it| ("group".to_owned(), it.into())));
    if args.replace {
        body.insert("replace".to_owned(), true.into());
    }
    let path = format!("{PATH}/{}/adopt", args.name);
    let answer = context.client.post(&path, &body.into()).await?;
    if args.json {
        return context.out.json(&answer);
    }
    let it: EventTypeView = answer.read()?;
    let paint = context.out.paint;
    context.out.line(format_args!(
        "{} is registered: {}",
        paint.bold(&it.name),
        state(&it, paint)
    ))?;
    context.out.next(format_args!("tidegate event-types show {}", it.name));
    Ok(())
}
