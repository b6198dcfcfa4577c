//! What a pipeline was before, what changed, and the way back.

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::json;

use super::PATH;
use crate::{
    cli::{
        Context,
        error::Result,
        json::Json,
        output::{self, Paint, confirm, date_time, table},
    },
    model::Name,
};

/// List stored versions, newest first
#[derive(Debug, clap::Args)]
pub struct VersionsArgs {
    /// The name of the pipeline
    #[arg(value_name = "NAME")]
    name: Name,
    /// As JSON
    #[arg(long)]
    json: bool,
}

/// Show the difference between two versions
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  tidegate pipeline diff signups         what the last change changed
  tidegate pipeline diff signups 3       from version 3 to the one that it has
  tidegate pipeline diff signups 3 5")]
pub struct DiffArgs {
    /// The name of the pipeline
    #[arg(value_name = "NAME")]
    name: Name,
    /// A version; without it, the one before
    #[arg(value_name = "FROM")]
    from: Option<u32>,
    /// A version; without it, the one that it has
    #[arg(value_name = "TO")]
    to: Option<u32>,
    /// As JSON, field by field
    #[arg(long)]
    json: bool,
}

/// Restore an old version as a new one; shows the difference and asks
#[derive(Debug, clap::Args)]
pub struct RollbackArgs {
    /// The name of the pipeline
    #[arg(value_name = "NAME")]
    name: Name,
    /// The version to go back to
    #[arg(value_name = "VERSION")]
    version: u32,
    /// Do not ask for confirmation
    #[arg(long, short)]
    yes: bool,
    /// Also when test cases of that version fail
    #[arg(long)]
    confirm_failing_tests: bool,
    /// The pipeline as it is then, as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Deserialize)]
struct Versions {
    data: Vec<Version>,
}

#[derive(Debug, Deserialize)]
struct Version {
    version: u32,
    #[serde(default)]
    current: bool,
    #[serde(default)]
    saved_at: Option<Timestamp>,
    #[serde(default)]
    saved_by: Option<Author>,
}

#[derive(Debug, Deserialize)]
struct Author {
    kind: String,
    #[serde(default)]
    key: Option<String>,
    #[serde(default)]
    name: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Difference {
    from: u32,
    to: u32,
    text: String,
}

pub async fn list(context: &Context, args: VersionsArgs) -> Result<()> {
    let path = format!("{PATH}/{}/versions", args.name);
    let answer = context.client.get(&path, &[]).await?;
    if args.json {
        return context.out.json(&answer);
    }
    let (paint, versions): (_, Versions) = (context.out.paint, answer.read()?);
    let rows: Vec<Vec<String>> = (versions.data.iter())
        .map(|it| {
            let saved = it.saved_at.map_or("?".to_owned(), |it| date_time(it, &context.zone));
            let current = if it.current { paint.green("current") } else { String::new() };
            vec![paint.bold(format_args!("v{}", it.version)), saved, author(it), current]
        })
        .collect();
    context.out.text(&table(&rows))?;
    if rows.len() > 1 {
        context.out.next(format_args!("tidegate pipeline diff {}", args.name));
    }
    Ok(())
}

fn author(it: &Version) -> String {
    match &it.saved_by {
        None => "?".to_owned(),
        Some(Author { kind, key, name }) => match (kind.as_str(), name, key) {
            ("admin_key", ..) => "the administrator's key".to_owned(),
            ("file", ..) => "the file of `serve`".to_owned(),
            (_, Some(name), _) => format!("key {name}"),
            (_, None, key) => format!("key {}", key.as_deref().unwrap_or("?")),
        },
    }
}

async fn difference(
    context: &Context,
    name: &Name,
    from: Option<u32>,
    to: Option<u32>,
) -> Result<(Json, Difference)> {
    let number = |name: &'static str, it: Option<u32>| it.map(|it| (name, it.to_string()));
    let query: Vec<_> = [number("from", from), number("to", to)].into_iter().flatten().collect();
    let answer = context.client.get(&format!("{PATH}/{name}/diff"), &query).await?;
    let difference = answer.read()?;
    Ok((answer, difference))
}

pub async fn diff(context: &Context, args: DiffArgs) -> Result<()> {
    let (answer, difference) = difference(context, &args.name, args.from, args.to).await?;
    if args.json {
        return context.out.json(&answer);
    }
    if difference.text.is_empty() {
        let Difference { from, to, .. } = difference;
        output::note(format_args!("nothing differs between version {from} and version {to}"));
        return Ok(());
    }
    context.out.text(&shown(&args.name, &difference, context.out.paint))
}

/// As `diff -u` would show it.
fn shown(name: &Name, it: &Difference, paint: Paint) -> String {
    let titles = [format!("--- {name} v{}", it.from), format!("+++ {name} v{}", it.to)];
    let mut text: String = titles.iter().map(|it| paint.bold(it) + "\n").collect();
    for line in it.text.lines() {
        // What stands in a pipeline must not move the reader's cursor.
        let line: String = line.chars().filter(|it| !it.is_control() || *it == '\t').collect();
        text.push_str(&match line.chars().next() {
            Some('+') => paint.green(line),
            Some('-') => paint.red(line),
            Some('@') => paint.cyan(line),
            Some(_) | None => line,
        });
        text.push('\n');
    }
    text
}

pub async fn rollback(context: &Context, args: RollbackArgs) -> Result<()> {
    let RollbackArgs { name, version, .. } = &args;
    let current: u32 = {
        let found = context.client.get(&format!("{PATH}/{name}"), &[]).await?;
        found.read::<Version>()?.version
    };
    if !args.yes {
        let (_, difference) = difference(context, name, Some(current), Some(*version)).await?;
        if difference.text.is_empty() {
            output::note(format_args!("nothing differs from version {version}"));
            return Ok(());
        }
        output::note(shown(name, &difference, Paint::for_stderr()).trim_end());
        if !confirm(&format!("Make {name} as version {version} was?"))? {
            output::note("nothing was changed");
            return Ok(());
        }
    }
    let query: &[_] = match args.confirm_failing_tests {
        true => &[("confirm", "failing-tests".to_owned())],
        false => &[],
    };
    let body = json!({ "version": version }).to_string().into();
    let path = format!("{PATH}/{name}/rollback");
    let answer = context.client.post_as(&path, query, "application/json", body).await?;
    if args.json {
        return context.out.json(&answer);
    }
    let now: Version = answer.read()?;
    if now.version == current {
        return context.out.line(format_args!("{name} is as version {version} was already"));
    }
    context
        .out
        .line(format_args!("{name} is at version {}, as version {version} was", now.version))?;
    context.out.next(format_args!("tidegate pipeline test {name}"));
    Ok(())
}
