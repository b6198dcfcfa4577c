//! `tidegate emit`: sends an event, and says where to look at it.

use std::{io::Read as _, path::Path, time::Duration};

use bytes::Bytes;
use http::StatusCode;
use indicatif::ProgressBar;
use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Value, json, value::RawValue};
use tokio::task::JoinSet;

use super::{
    Context,
    client::Client,
    error::{CliError, Result},
    events,
    json::Json,
    output::{self, plural},
};
use crate::model::{RawJson, TypeName};

const EVENTS: &str = "/api/v1/events";
const LARGEST: u64 = 64 * 1024 * 1024;

/// Send an event and print its id
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  tidegate emit user.signed_up --data '{\"plan\":\"pro\"}' --watch
  tidegate emit order.paid --data @order.json --key order-paid:42     once, however often it is sent
  echo '{\"a\":1}' | tidegate emit test --data -
  tidegate emit load.test --count 10000                          many, one request each")]
pub struct Args {
    /// Event type, such as user.signed_up
    #[arg(value_name = "TYPE")]
    event_type: TypeName,
    /// The payload: JSON, @file, or - for standard input
    #[arg(long, short, value_name = "JSON", default_value = "{}")]
    data: String,
    /// Idempotency key: two requests with the same key are one event (such as signup:42)
    #[arg(long, value_name = "KEY")]
    key: Option<String>,
    /// Metadata to send along: a JSON object
    #[arg(long, value_name = "JSON")]
    metadata: Option<String>,
    /// Source, where the API key does not imply one
    #[arg(long, value_name = "NAME")]
    source: Option<String>,
    /// Time of the event, such as 2026-07-31T14:00:00Z (default: now)
    #[arg(long, value_name = "TIME")]
    timestamp: Option<Timestamp>,
    /// Number of events; with --idempotency-key, `-1`, `-2`, … is appended to the key
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    count: u64,
    /// Concurrent requests, with --count
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=1024))]
    concurrency: u16,
    /// Wait and show its deliveries
    #[arg(long, short, conflicts_with = "count")]
    watch: bool,
    /// The answer as JSON
    #[arg(long)]
    json: bool,
}

/// The body of a request. Payload and metadata go as they were written: 1.50 stays 1.50.
#[derive(Serialize)]
struct EventBody<'a> {
    #[serde(rename = "type")]
    event_type: &'a str,
    payload: &'a RawValue,
    #[serde(skip_serializing_if = "Option::is_none")]
    idempotency_key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    metadata: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    timestamp: Option<Timestamp>,
}

/// What is sent, once or many times.
struct Emission<'a> {
    args: &'a Args,
    payload: Box<RawValue>,
    metadata: Option<Box<RawValue>>,
}

impl<'a> Emission<'a> {
    fn read(args: &'a Args) -> Result<Self> {
        let metadata = args.metadata.as_deref().map(|it| parse_json("--metadata", it.as_bytes()));
        Ok(Self { args, payload: read_data(&args.data)?, metadata: metadata.transpose()? })
    }

    /// The body of the `number`th request, from 1.
    fn body(&self, number: u64) -> Bytes {
        let numbered = |key: &String| match self.args.count {
            1 => key.clone(),
            _ => format!("{key}-{number}"),
        };
        let body = EventBody {
            event_type: self.args.event_type.as_str(),
            payload: &self.payload,
            idempotency_key: self.args.key.as_ref().map(numbered),
            metadata: self.metadata.as_deref(),
            source: self.args.source.as_deref(),
            timestamp: self.args.timestamp,
        };
        RawJson::of(&body).bytes().clone()
    }
}

pub async fn run(context: &Context, args: Args) -> Result<()> {
    let emission = Emission::read(&args)?;
    if args.count > 1 {
        return many(context, &emission).await;
    }
    let (status, answer) = context.client.post_bytes(EVENTS, emission.body(1)).await?;
    let id = answer.text("id");
    if is_suppressed(&answer.to_value()) {
        if args.json {
            context.out.json(&answer)?;
        }
        return Err(CliError::failed("the event was turned away: its user is to be forgotten")
            .then("tidegate deletions list"));
    }
    if args.watch {
        if let Some(message) = conflict(&answer.to_value()) {
            return Err(CliError::KeyTaken { message, id });
        }
        let event = events::settled(context, &id).await?;
        return if args.json {
            context.out.json(&event)
        } else {
            events::tell(context, &event, false).await
        };
    }
    if args.json {
        context.out.json(&answer)?;
        return match conflict(&answer.to_value()) {
            Some(message) => Err(CliError::KeyTaken { message, id }),
            None => Ok(()),
        };
    }
    if let Some(message) = conflict(&answer.to_value()) {
        return Err(CliError::KeyTaken { message, id });
    }
    let paint = context.out.paint;
    let verdict =
        if status == StatusCode::OK { paint.yellow("duplicate") } else { paint.green("accepted") };
    context.out.line(format_args!("{verdict}  {}  {}", paint.cyan(&id), args.event_type))?;
    if let Some(remark) = remark_on_duplicate(&answer.to_value()) {
        output::note(remark);
    }
    context.out.next(format_args!("tidegate events show {id}"));
    Ok(())
}

fn is_suppressed(answer: &Value) -> bool {
    answer.get("suppressed").and_then(Value::as_bool) == Some(true)
}

fn remark_on_duplicate(answer: &Value) -> Option<&'static str> {
    if answer.get("duplicate").and_then(Value::as_bool) != Some(true) {
        return None;
    }
    Some(match answer.get("same_body").and_then(Value::as_bool) {
        Some(true) => "the key was used before, for the same event: this is the first one's id",
        Some(false) | None => "the key was used before: this is the first event's id",
    })
}

/// Why a duplicate is not the same event once more.
fn conflict(answer: &Value) -> Option<&'static str> {
    let differs = |name: &str| answer.get(name).and_then(Value::as_bool) == Some(false);
    if differs("same_type") {
        Some("the key was used before, for an event of another type: what you sent was not kept")
    } else if differs("same_body") {
        Some("the key was used before, for another body: what you sent was not kept")
    } else {
        None
    }
}

/// What came of many.
#[derive(Default)]
struct EmitTally {
    accepted: u64,
    duplicates: u64,
    /// Duplicates of another type or body.
    conflicts: u64,
    /// Turned away.
    suppressed: u64,
    first: Option<String>,
    last: Option<String>,
}

impl EmitTally {
    fn add(&mut self, status: StatusCode, answer: &Json) {
        if is_suppressed(&answer.to_value()) {
            self.suppressed += 1;
            return;
        }
        if status == StatusCode::OK {
            self.duplicates += 1
        } else {
            self.accepted += 1
        }
        self.conflicts += u64::from(conflict(&answer.to_value()).is_some());
        let id = answer.text("id");
        self.first.get_or_insert_with(|| id.clone());
        self.last = Some(id);
    }
}

async fn many(context: &Context, emission: &Emission<'_>) -> Result<()> {
    let args = emission.args;
    let begun = context.clock.now();
    let bar = progress_bar(args.count);
    let mut running = JoinSet::new();
    let mut tally = EmitTally::default();
    let mut number = 0;
    let result = loop {
        while number < args.count && running.len() < usize::from(args.concurrency) {
            number += 1;
            let (client, body) = (context.client.clone(), emission.body(number));
            running.spawn(async move { post_patiently(&client, body).await });
        }
        match running.join_next().await {
            None => break Ok(()),
            Some(Ok(Ok((status, answer)))) => tally.add(status, &answer),
            Some(Ok(Err(error))) => break Err(error),
            Some(Err(_)) => break Err(CliError::failed("a request was broken off")),
        }
        bar.inc(1);
    };
    bar.finish_and_clear();
    let elapsed = context.clock.now().duration_since(begun).unsigned_abs();
    summary(context, args, &tally, elapsed)?;
    result?;
    match tally.conflicts {
        0 => Ok(()),
        _ => Err(CliError::KeyTaken {
            message: "some keys were used before, for another type or body: those events were not kept",
            id: tally.last.unwrap_or_default(),
        }),
    }
}

/// Posts an event; while the gateway says that it has too much to do, waits and tries again.
async fn post_patiently(client: &Client, body: Bytes) -> Result<(StatusCode, Json)> {
    const PAUSE: Duration = Duration::from_secs(1);
    const TRIES: usize = 60;
    for _ in 1..TRIES {
        match client.post_bytes(EVENTS, body.clone()).await {
            // It says with this status that nothing was kept.
            Err(CliError::Refused(problem)) if problem.status == 429 => {
                tokio::time::sleep(PAUSE).await
            }
            other => return other,
        }
    }
    client.post_bytes(EVENTS, body).await
}

fn summary(context: &Context, args: &Args, tally: &EmitTally, elapsed: Duration) -> Result<()> {
    let per_second = (tally.accepted + tally.duplicates) as f64 / elapsed.as_secs_f64().max(1e-3);
    if args.json {
        return context.out.json(&Json::of(&json!({
            "accepted": tally.accepted,
            "duplicates": tally.duplicates,
            "conflicts": tally.conflicts,
            "suppressed": tally.suppressed,
            "seconds": elapsed.as_secs_f64(),
            "first": tally.first,
            "last": tally.last,
        })));
    }
    let line = format!(
        "{} accepted, {} in {} ({} per second)",
        plural(tally.accepted, "event"),
        plural(tally.duplicates, "duplicate"),
        output::duration(elapsed),
        output::count(per_second as u64),
    );
    context.out.line(line)?;
    if tally.suppressed > 0 {
        let events = plural(tally.suppressed, "event");
        output::note(format_args!("{events} turned away, since their user is to be forgotten"));
    }
    if let Some(last) = &tally.last {
        context.out.next(format_args!("tidegate events show {last}"));
    }
    Ok(())
}

/// A bar on standard error, which hides itself where that is no terminal.
pub fn progress_bar(length: u64) -> ProgressBar {
    let bar = ProgressBar::new(length);
    let template = "{bar:30} {human_pos} of {human_len}  {per_sec}  {eta} left";
    if let Ok(style) = indicatif::ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar
}

fn read_data(data: &str) -> Result<Box<RawValue>> {
    if data == "-" {
        return parse_json(
            "standard input",
            &read_bounded(std::io::stdin().lock(), "standard input")?,
        );
    }
    let Some(path) = data.strip_prefix('@') else { return parse_json("--data", data.as_bytes()) };
    let cannot = |source| CliError::File { what: format!("`{path}` cannot be read"), source };
    let file = std::fs::File::open(Path::new(path)).map_err(cannot)?;
    parse_json(path, &read_bounded(file, path)?)
}

/// Reads to the end, unless that is further away than any gateway would take.
pub fn read_bounded(from: impl std::io::Read, name: &str) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    from.take(LARGEST + 1)
        .read_to_end(&mut bytes)
        .map_err(|source| CliError::File { what: format!("{name} cannot be read"), source })?;
    if bytes.len() as u64 > LARGEST {
        return Err(CliError::usage(format!("{name} is larger than 64 MiB")));
    }
    Ok(bytes)
}

/// The same as a value, for requests that are not kept.
pub fn read_json_argument(data: &str) -> Result<Value> {
    let raw = read_data(data)?;
    serde_json::from_str(raw.get())
        .map_err(|error| CliError::usage(format!("--data is not JSON: {error}")))
}

fn parse_json(name: &str, bytes: &[u8]) -> Result<Box<RawValue>> {
    let bytes = crate::model::json::without_mark(bytes);
    serde_json::from_slice(bytes).map_err(|error| {
        let line = String::from_utf8_lossy(bytes.split(|&it| it == b'\n').nth(error.line().saturating_sub(1)).unwrap_or_default())
            .into_owned();
        CliError::usage(format!("{name} is not JSON: {error}\n  {}", output::clip(&line, 100)))
            .then("quote it for the shell: --data '{\"plan\":\"pro\"}', or put it into a file: --data @file.json")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_that_is_no_json_says_where_it_breaks() {
        let error = read_data("{plan: pro}").unwrap_err();
        assert_eq!(error.exit_code(), 2);
        let text = error.to_string();
        assert!(
            text.starts_with(
                "--data is not JSON: key must be a string at line 1 column 2\n  {plan: pro}"
            ),
            "{text}"
        );
    }

    #[test]
    fn a_payload_is_sent_as_it_was_written_and_keys_are_numbered() {
        #[derive(clap::Parser)]
        struct InputLine {
            #[command(flatten)]
            args: Args,
        }
        for (line, number, expected) in [
            ("x --data [1.50,1e400]", 1, r#"{"type":"x","payload":[1.50,1e400]}"#),
            (
                "x --key k --source app",
                1,
                r#"{"type":"x","payload":{},"idempotency_key":"k","source":"app"}"#,
            ),
            ("x --key k --count 9", 7, r#"{"type":"x","payload":{},"idempotency_key":"k-7"}"#),
            (
                "x --timestamp 2026-07-31T14:00:00+02:00 --metadata {\"a\":1.0}",
                1,
                r#"{"type":"x","payload":{},"metadata":{"a":1.0},"timestamp":"2026-07-31T12:00:00Z"}"#,
            ),
        ] {
            let words = std::iter::once("emit").chain(line.split_whitespace());
            let args = <InputLine as clap::Parser>::try_parse_from(words).unwrap().args;
            let body = Emission::read(&args).unwrap().body(number);
            assert_eq!(std::str::from_utf8(&body).unwrap(), expected);
        }
    }

    #[test]
    fn a_duplicate_is_explained() {
        for (answer, remark, other) in [
            (json!({"id": "evt_1"}), None, None),
            (json!({"duplicate": true, "same_body": true}), Some("for the same event"), None),
            (json!({"duplicate": true, "same_body": null}), Some("used before"), None),
            (json!({"duplicate": true, "same_body": false}), Some("first"), Some("another body")),
            (
                json!({"duplicate": true, "same_body": true, "same_type": false}),
                Some("first"),
                Some("another type"),
            ),
        ] {
            let found = [remark_on_duplicate(&answer), conflict(&answer)];
            for (found, expected) in found.into_iter().zip([remark, other]) {
                assert_eq!(found.is_some(), expected.is_some(), "{answer}");
                assert!(found.unwrap_or_default().contains(expected.unwrap_or_default()));
            }
        }
    }
}
