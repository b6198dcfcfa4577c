//! `tidegate destinations`: where events go to, and what an operator does about them at night.

mod kinds;
mod show;

use std::time::Duration;

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Map, json};

use super::{
    Context,
    client::pages,
    emit::read_json_argument,
    error::{CliError, Result},
    output::{self, Paint, clip, confirm, distance, duration, table},
    times, views,
};
use crate::model::{Name, Scheme, TypeName};

/// List, test, pause and resume destinations; rotate secrets
#[derive(Debug, clap::Subcommand)]
#[command(after_help = "\
Examples:
  tidegate destinations list
  tidegate destinations kinds                           the kinds that there are, with an example each
  tidegate destinations show crm                        where it goes, how it is, what it is owed
  tidegate destinations test crm                        one signed test event, and what it answered
  tidegate destinations pause crm                       deliveries wait, in their order
  tidegate destinations rotate-secret crm --overlap 7d  both secrets sign for a week")]
pub enum Command {
    /// List the project's destinations
    List {
        /// Print one JSON object per line
        #[arg(long)]
        json: bool,
    },
    /// Print the kinds of destinations, with examples; needs no gateway
    Kinds {
        /// Only this kind, with each of its fields
        #[arg(value_name = "KIND")]
        kind: Option<String>,
        /// Print one JSON object per line, with the JSON Schema
        #[arg(long)]
        json: bool,
    },
    Show(ShowArgs),
    Test(TestArgs),
    /// Ask an unverified endpoint again to prove ownership
    Verify(One),
    /// Stop deliveries until resumed; they wait in order
    Pause(One),
    /// Resume after a pause
    Resume(One),
    /// Enable a disabled destination
    Enable(One),
    /// Stop deliveries to a broken endpoint; they wait in order
    Disable(One),
    RotateSecret(RotateArgs),
}

/// Which one.
#[derive(Debug, clap::Args)]
pub struct One {
    /// The name of the destination
    #[arg(value_name = "NAME")]
    name: Name,
}

/// Show one destination: URL, health, pending deliveries
#[derive(Debug, clap::Args)]
pub struct ShowArgs {
    /// The name of the destination
    #[arg(value_name = "NAME")]
    name: Name,
    /// As JSON
    #[arg(long)]
    json: bool,
}

/// Send one signed test event and show the result
#[derive(Debug, clap::Args)]
pub struct TestArgs {
    /// The name of the destination
    #[arg(value_name = "NAME")]
    name: Name,
    /// The type of the event
    #[arg(long = "type", value_name = "TYPE")]
    event_type: Option<TypeName>,
    /// The payload: JSON, @file, or - for standard input
    #[arg(long, short, value_name = "JSON")]
    data: Option<String>,
    /// As JSON
    #[arg(long)]
    json: bool,
}

/// Create a new signing secret; the old one keeps signing for a while
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Schemes that carry one signature only (prefixed, sha1) have no overlap: choose the moment instead.

Examples:
  tidegate destinations rotate-secret crm --overlap 7d
  tidegate destinations rotate-secret crm --at 2026-12-01T00:00:00Z")]
pub struct RotateArgs {
    /// The name of the destination
    #[arg(value_name = "NAME")]
    name: Name,
    /// How long the old secret keeps signing (default: 24h where the scheme allows it; 0s: not at all)
    #[arg(long, value_name = "TIME", value_parser = times::duration)]
    overlap: Option<Duration>,
    /// When the new secret starts to sign (default: now)
    #[arg(long, value_name = "MOMENT")]
    at: Option<Timestamp>,
    /// Do not ask for confirmation
    #[arg(long, short)]
    yes: bool,
    /// Print only the new secret, for scripts
    #[arg(long, short)]
    quiet: bool,
}

#[derive(Debug, Deserialize)]
struct DestinationView {
    name: String,
    #[serde(default)]
    kind: String,
    #[serde(default)]
    url: Option<String>,
    /// In the place of `url`, where there are several.
    #[serde(default)]
    urls: Vec<String>,
    #[serde(flatten)]
    state: State,
}

/// What a rotation depends on.
#[derive(Debug, Deserialize)]
struct Signing {
    signature: Signature,
}

#[derive(Debug, Deserialize)]
struct Signature {
    scheme: Scheme,
}

impl RotateArgs {
    /// For people. The gateway refuses an overlap where there can be none.
    fn old_secret_sentence(&self, scheme: Scheme) -> String {
        let usual = if scheme.carries_several() { 24 * 3600 } else { 0 };
        let overlap = self.overlap.unwrap_or(Duration::from_secs(usual));
        match (self.at, overlap.is_zero()) {
            (None, true) => "The old secret stops signing at once.".to_owned(),
            (None, false) => format!("The old secret goes on signing for {}.", duration(overlap)),
            (Some(at), true) => format!("The old secret signs until {at}, the new one from then."),
            (Some(at), false) => {
                let overlap = duration(overlap);
                format!("The new secret signs from {at}, the old one for {overlap} longer.")
            }
        }
    }
}

#[derive(Debug, Deserialize)]
struct State {
    state: String,
    #[serde(default)]
    since: Option<Timestamp>,
    #[serde(default)]
    reason: Option<String>,
}

#[derive(Debug, Deserialize)]
struct TestOutcome {
    message_id: String,
    accepted: bool,
    #[serde(default)]
    status: Option<u16>,
    #[serde(default)]
    reason: String,
    #[serde(default)]
    duration_ms: f64,
    #[serde(default)]
    response: Option<String>,
}

pub async fn run(context: &Context, command: Command) -> Result<()> {
    match command {
        Command::List { json } => list(context, json).await,
        Command::Kinds { kind, json } => kinds::run(context, kind.as_deref(), json),
        Command::Show(args) => show::run(context, &args.name, args.json).await,
        Command::Test(args) => test(context, args).await,
        Command::Verify(one) => change(context, &one.name, "verify").await,
        Command::Pause(one) => change(context, &one.name, "pause").await,
        Command::Resume(one) => change(context, &one.name, "resume").await,
        Command::Enable(one) => change(context, &one.name, "enable").await,
        Command::Disable(one) => change(context, &one.name, "disable").await,
        Command::RotateSecret(args) => rotate(context, args).await,
    }
}

async fn list(context: &Context, is_json: bool) -> Result<()> {
    let now = context.clock.now();
    let mut rows = Vec::new();
    pages(&context.client, "/api/v1/destinations", Vec::new(), usize::MAX, |row| {
        if is_json {
            return context.out.json_line(&row);
        }
        rows.push(self::row(&row.read()?, now, context.out.paint));
        Ok(())
    })
    .await?;
    if is_json {
        return Ok(());
    }
    if rows.is_empty() {
        output::note("no destinations");
        context.out.next("tidegate apply resources.yaml");
        return Ok(());
    }
    context.out.text(&table(&rows))?;
    context.out.next("tidegate destinations show <name>");
    Ok(())
}

fn row(it: &DestinationView, now: Timestamp, paint: Paint) -> Vec<String> {
    let url = it.url.as_ref().or_else(|| it.urls.first()).map(String::as_str).unwrap_or_default();
    let mut url = clip(url, 60);
    if it.urls.len() > 1 {
        url.push_str(&format!(" and {} more", it.urls.len() - 1));
    }
    vec![paint.bold(&it.name), it.kind.clone(), url, sentence(&it.state, now, paint)]
}

/// `disabled 5 min ago: 410 Gone`
fn sentence(it: &State, now: Timestamp, paint: Paint) -> String {
    let mut text = match it.state.as_str() {
        "active" => paint.green("active"),
        "disabled" => paint.red("disabled"),
        other => paint.yellow(other),
    };
    if let Some(since) = it.since {
        text.push_str(&format!(" {}", distance(since, now)));
    }
    if let Some(reason) = &it.reason {
        text.push_str(&format!(": {}", clip(reason, 80)));
    }
    text
}

async fn change(context: &Context, name: &Name, verb: &str) -> Result<()> {
    let path = format!("/api/v1/destinations/{name}/{verb}");
    let changed: DestinationView = context.client.post(&path, &json!({})).await?.read()?;
    let state = sentence(&changed.state, context.clock.now(), context.out.paint);
    context.out.line(format_args!("{} is {state}", context.out.paint.bold(name)))?;
    if changed.state.state == "unverified" {
        return Err(CliError::failed(format!(
            "{name} did not answer with 2xx; what it is owed is held"
        ))
        .then(format!("correct the endpoint, then: tidegate destinations verify {name}")));
    }
    context.out.next(next_command(name, &changed.state));
    Ok(())
}

/// What a person does next with a destination that stands so.
fn next_command(name: &Name, it: &State) -> String {
    match it.state.as_str() {
        "paused" => format!("tidegate destinations resume {name}"),
        "disabled" => format!(
            "tidegate destinations test {name}; when it is well: tidegate destinations enable {name}"
        ),
        "unverified" => format!("tidegate destinations verify {name}"),
        _ => format!("tidegate deliveries list --destination {name}"),
    }
}

async fn test(context: &Context, args: TestArgs) -> Result<()> {
    let mut body = Map::new();
    body.extend(args.event_type.map(|it| ("type".to_owned(), it.as_str().into())));
    if let Some(data) = &args.data {
        body.insert("payload".to_owned(), read_json_argument(data)?);
    }
    let path = format!("/api/v1/destinations/{}/test", args.name);
    let answer = context.client.post(&path, &body.into()).await?;
    if args.json {
        context.out.json(&answer)?;
    }
    let outcome: TestOutcome = answer.read()?;
    if !args.json {
        context.out.text(&story(&args.name, &outcome, context.out.paint))?;
    }
    if outcome.accepted {
        if !args.json {
            context.out.next(format_args!("tidegate destinations show {}", args.name));
        }
        return Ok(());
    }
    Err(CliError::failed(format!("{} did not take the test event", args.name)).then(
        "correct the endpoint, or the destination's url, secret and auth; then test it again",
    ))
}

fn story(name: &Name, it: &TestOutcome, paint: Paint) -> String {
    let took = duration(Duration::try_from_secs_f64(it.duration_ms / 1e3).unwrap_or_default());
    let outcome = clip(&views::outcome(it.status, &it.reason), 80);
    let (mark, outcome) = match it.accepted {
        true => (paint.green("✔"), paint.green(outcome)),
        false => (paint.red("✘"), paint.red(outcome)),
    };
    let mut text =
        format!("{mark} {}  {outcome}  {took}  {}\n", paint.bold(name), paint.dim(&it.message_id));
    if let Some(response) = it.response.as_deref().filter(|it| !it.trim().is_empty()) {
        text.push_str(&format!(
            "  {}\n",
            paint.dim(format_args!("it said: {}", clip(response, 200)))
        ));
    }
    text
}

async fn rotate(context: &Context, args: RotateArgs) -> Result<()> {
    let name = &args.name;
    let path = format!("/api/v1/destinations/{name}");
    let destination: Signing = context.client.get(&path, &[]).await?.read()?;
    let old = args.old_secret_sentence(destination.signature.scheme);
    if !args.yes && !confirm(&format!("Make a new signing secret for {name}? {old}"))? {
        output::note("the secret was not rotated");
        return Ok(());
    }
    let mut body = Map::new();
    body.extend(args.at.map(|it| ("at".to_owned(), it.to_string().into())));
    let overlap = args.overlap.map(|it| format!("{}s", it.as_secs()));
    body.extend(overlap.map(|it| ("overlap".to_owned(), it.into())));
    let answer = context.client.post(&format!("{path}/rotate-secret"), &body.into()).await?;
    let secret = answer.text("signing_secret");
    if args.quiet {
        return context.out.line(secret);
    }
    context.out.line(format_args!("\n  {}\n", context.out.paint.bold(secret)))?;
    output::note(format_args!("keep it now: it is not shown again. {old}"));
    context
        .out
        .next(format_args!("give it to the receiver, then: tidegate destinations test {name}"));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_destination_says_how_it_is() {
        let now = "2026-07-31T14:05:00Z".parse().unwrap();
        for (state, expected) in [
            (json!({"state": "active"}), "active"),
            (json!({"state": "paused", "since": "2026-07-31T14:00:00Z"}), "paused 5 min ago"),
            (
                json!({"state": "disabled", "since": "2026-07-31T14:00:00Z", "reason": "410 Gone"}),
                "disabled 5 min ago: 410 Gone",
            ),
        ] {
            assert_eq!(
                sentence(&serde_json::from_value(state).unwrap(), now, Paint::PLAIN),
                expected
            );
        }
    }

    #[test]
    fn a_test_event_shows_what_was_answered() {
        let outcome = serde_json::from_value(json!({
            "message_id": "evt_1", "accepted": false, "class": "status", "status": 503,
            "reason": "503 Service Unavailable", "duration_ms": 12.34, "response": "try\nlater",
        }))
        .unwrap();
        let expected = "✘ crm  503 Service Unavailable  12.3 ms  evt_1\n  it said: try later\n";
        assert_eq!(story(&"crm".parse().unwrap(), &outcome, Paint::PLAIN), expected);
    }
}
