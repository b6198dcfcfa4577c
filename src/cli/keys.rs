//! `tidegate keys`: who may call the API.

use std::time::Duration;

use clap::ValueEnum;
use jiff::Timestamp;
use serde_json::{Map, Value};

use super::{
    Context,
    client::pages,
    deliveries::id_part,
    error::{CliError, Result},
    output::{self, confirm, table},
    times::duration,
};

/// Create, list and revoke API keys
#[derive(Debug, clap::Subcommand)]
#[command(after_help = "\
Examples:
  tidegate keys create app --scopes ingest
  tidegate keys create support --scopes read,operate --expires-in 90d
  tidegate keys revoke key_01ka…")]
pub enum Command {
    Create(CreateArgs),
    List(ListArgs),
    Revoke(RevokeArgs),
}

/// Create a key; it is shown only once
#[derive(Debug, clap::Args)]
pub struct CreateArgs {
    /// What it is for
    #[arg(value_name = "NAME")]
    name: String,
    /// What it may do
    #[arg(long, value_enum, value_delimiter = ',', required = true)]
    scopes: Vec<KeyScope>,
    /// Expire the key after this time, such as 90d (default: never)
    #[arg(long, value_name = "TIME", value_parser = duration)]
    expires_in: Option<Duration>,
    /// Allow every project; only such a key can create another one
    #[arg(long)]
    all_projects: bool,
    /// Print only the key, for scripts
    #[arg(long, short, conflicts_with = "json")]
    quiet: bool,
    /// As JSON
    #[arg(long)]
    json: bool,
}

/// List API keys (names and prefixes only)
#[derive(Debug, clap::Args)]
pub struct ListArgs {
    /// Print one JSON object per line
    #[arg(long)]
    json: bool,
}

/// Revoke an API key; cannot be undone
#[derive(Debug, clap::Args)]
pub struct RevokeArgs {
    /// The key's id, key_…
    #[arg(value_name = "ID")]
    id: String,
    /// Do not ask for confirmation
    #[arg(long, short)]
    yes: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum KeyScope {
    /// Post events
    Ingest,
    /// Read everything but secrets
    Read,
    /// Replay, cancel, pause and resume
    Operate,
    /// Change resources, keys and projects
    Admin,
}

impl KeyScope {
    fn word(self) -> &'static str {
        match self {
            Self::Ingest => "ingest",
            Self::Read => "read",
            Self::Operate => "operate",
            Self::Admin => "admin",
        }
    }
}

pub async fn run(context: &Context, command: Command) -> Result<()> {
    match command {
        Command::Create(args) => create(context, args).await,
        Command::List(args) => list(context, args).await,
        Command::Revoke(args) => revoke(context, args).await,
    }
}

async fn create(context: &Context, args: CreateArgs) -> Result<()> {
    let mut body = Map::new();
    body.insert("name".to_owned(), args.name.clone().into());
    body.insert("scopes".to_owned(), args.scopes.iter().map(|it| it.word()).collect());
    if let Some(life) = args.expires_in {
        let end = context
            .clock
            .now()
            .checked_add(life)
            .map_err(|_| CliError::usage("--expires-in is too long"))?;
        body.insert("expires_at".to_owned(), end.to_string().into());
    }
    if args.all_projects {
        body.insert("all_projects".to_owned(), true.into());
    }
    let answer = context.client.post("/api/v1/keys", &body.into()).await?;
    if args.json {
        return context.out.json(&answer);
    }
    let key = answer.text("key");
    if args.quiet {
        return context.out.line(key);
    }
    let paint = context.out.paint;
    context.out.line(format_args!("{}  {}", paint.cyan(answer.text("id")), args.name))?;
    context.out.line(format_args!("\n  {}\n", paint.bold(&key)))?;
    output::note("keep it now: it is not shown again, and only its hash is stored");
    context.out.next(format_args!("export TIDEGATE_API_KEY={key}"));
    Ok(())
}

async fn list(context: &Context, args: ListArgs) -> Result<()> {
    let paint = context.out.paint;
    let mut rows = Vec::new();
    pages(&context.client, "/api/v1/keys", Vec::new(), usize::MAX, |row| {
        if args.json {
            return context.out.json_line(&row);
        }
        let row = row.to_value();
        let scopes = row
            .get("scopes")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .filter_map(Value::as_str);
        rows.push(vec![
            paint.cyan(text(&row, "id")),
            paint.bold(text(&row, "name")),
            format!("{}…", text(&row, "hint")),
            scopes.collect::<Vec<_>>().join(", "),
            expiry(&row, context.clock.now()),
        ]);
        Ok(())
    })
    .await?;
    context.out.text(&table(&rows))
}

fn text<'a>(row: &'a Value, name: &str) -> &'a str {
    row.get(name).and_then(Value::as_str).unwrap_or_default()
}

fn expiry(row: &Value, now: Timestamp) -> String {
    match text(row, "expires_at").parse::<Timestamp>() {
        Ok(at) if at <= now => "expired".to_owned(),
        Ok(at) => format!("expires {}", output::distance(at, now)),
        Err(_) => String::new(),
    }
}

async fn revoke(context: &Context, args: RevokeArgs) -> Result<()> {
    let id = id_part("key", &args.id)?;
    if !args.yes && !confirm(&format!("Revoke {id}? Whoever uses it is refused at once."))? {
        output::note("the key was not revoked");
        return Ok(());
    }
    context.client.delete(&format!("/api/v1/keys/{id}")).await?;
    context.out.line(format_args!("{id} is revoked"))
}
