//! `tidegate events`: what was accepted, and the story of each.

use std::{
    fs::File,
    io::{BufWriter, Write},
    path::{Path, PathBuf},
    time::Duration,
};

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use http::Response;
use hyper::body::Incoming;
use indicatif::ProgressBar;
use jiff::{SignedDuration, Timestamp};

use super::{
    Context,
    client::{next_chunk, pages},
    deliveries::id_part,
    error::{CliError, Result},
    json::Json,
    output::{self, clip, date_time, plural, table},
    tail::pattern,
    times::{Moment, moment},
    views::{Delivery, StoredEventView},
    waterfall,
};
use crate::model::{DeliveryState, Pattern};

/// List, show and export events
#[derive(Debug, clap::Subcommand)]
#[command(after_help = "\
Examples:
  tidegate events list --type 'user.*' --since 1h
  tidegate events list --key order-42             the one with this idempotency key
  tidegate events show evt_01ka…                  the story of one: received, planned, each attempt
  tidegate events export --since 7d --out week.ndjson")]
pub enum Command {
    List(ListArgs),
    Show(ShowArgs),
    Export(ExportArgs),
}

/// List the newest events
#[derive(Debug, clap::Args)]
pub struct ListArgs {
    #[command(flatten)]
    filter: EventsFilter,
    /// The event with this idempotency key
    #[arg(long, value_name = "KEY", conflicts_with_all = ["event_type", "source", "since", "until"])]
    key: Option<String>,
    /// Maximum number to list
    #[arg(long, value_name = "N", default_value_t = 20)]
    limit: usize,
    /// Print one JSON object per line
    #[arg(long)]
    json: bool,
}

/// Show one event: when received, where it went, each attempt with its answer
#[derive(Debug, clap::Args)]
pub struct ShowArgs {
    /// The event's id, evt_…
    #[arg(value_name = "ID")]
    id: String,
    /// Payload and metadata, too
    #[arg(long)]
    body: bool,
    /// Wait until its deliveries have ended, or the next attempt is further away than a few seconds
    #[arg(long, short)]
    watch: bool,
    /// As JSON
    #[arg(long)]
    json: bool,
}

/// Export events as NDJSON, oldest first
#[derive(Debug, clap::Args)]
pub struct ExportArgs {
    #[command(flatten)]
    filter: EventsFilter,
    /// The file to write; it appears when it is whole. Without it, standard output
    #[arg(long, short, value_name = "FILE")]
    out: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
struct EventsFilter {
    /// Only this type, or group such as 'user.*'
    #[arg(long = "type", value_name = "TYPE", value_parser = pattern)]
    event_type: Option<Pattern>,
    /// Only from this source
    #[arg(long, value_name = "NAME")]
    source: Option<String>,
    /// Received from then on: 2h (ago), or 2026-07-31T14:00:00Z
    #[arg(long, value_name = "TIME", value_parser = moment)]
    since: Option<Moment>,
    /// Received before then
    #[arg(long, value_name = "TIME", value_parser = moment)]
    until: Option<Moment>,
}

impl EventsFilter {
    fn query(&self, now: Timestamp) -> Vec<(&'static str, String)> {
        let mut query = Vec::new();
        query.extend(self.event_type.clone().map(|it| ("type", String::from(it))));
        query.extend(self.source.clone().map(|it| ("source", it)));
        query.extend(self.since.map(|it| ("from", it.resolve(now).to_string())));
        query.extend(self.until.map(|it| ("until", it.resolve(now).to_string())));
        query
    }
}

pub async fn run(context: &Context, command: Command) -> Result<()> {
    match command {
        Command::List(args) => list(context, args).await,
        Command::Show(args) => show(context, args).await,
        Command::Export(args) => export(context, args).await,
    }
}

async fn list(context: &Context, args: ListArgs) -> Result<()> {
    let mut query = args.filter.query(context.clock.now());
    query.push(("payload", "true".to_owned()));
    query.extend(args.key.map(|it| ("idempotency_key", it)));
    let paint = context.out.paint;
    let mut rows = Vec::new();
    pages(&context.client, "/api/v1/events", query, args.limit, |row| {
        if args.json {
            return context.out.json_line(&row);
        }
        let it: StoredEventView = row.read()?;
        rows.push(vec![
            date_time(it.received_at, &context.zone),
            paint.cyan(&it.id),
            paint.bold(&it.event_type),
            it.source.unwrap_or_default(),
            paint.dim(clip(it.payload.as_str(), 50)),
        ]);
        Ok(())
    })
    .await?;
    if args.json {
        return Ok(());
    }
    if rows.is_empty() {
        output::note("no events");
        context.out.next("tidegate emit user.signed_up");
        return Ok(());
    }
    context.out.text(&table(&rows))?;
    context.out.next("tidegate events show ID");
    Ok(())
}

async fn show(context: &Context, args: ShowArgs) -> Result<()> {
    let answer = match args.watch {
        true => settled(context, &args.id).await?,
        false => fetch(context, &args.id).await?,
    };
    if args.json {
        return context.out.json(&answer);
    }
    tell(context, &answer, args.body).await
}

async fn fetch(context: &Context, id: &str) -> Result<Json> {
    context.client.get(&format!("/api/v1/events/{}", id_part("evt", id)?), &[]).await
}

/// Prints the story of an event.
pub async fn tell(context: &Context, answer: &Json, with_body: bool) -> Result<()> {
    let mut event: StoredEventView = answer.read()?;
    event.deliveries = with_logs(context, event.deliveries).await?;
    let story = waterfall::render(&event, context.clock.now(), context.out.paint, &context.zone);
    context.out.text(&story)?;
    if with_body {
        context.out.text(&waterfall::body(&event))?;
    }
    if let Some(dead) = event.deliveries.iter().find(|it| it.state == DeliveryState::Dead) {
        context.out.next(format_args!("tidegate replay --delivery {}", dead.id));
    }
    Ok(())
}

/// The deliveries with their attempts, which the event's own answer may leave out.
async fn with_logs(context: &Context, deliveries: Vec<Delivery>) -> Result<Vec<Delivery>> {
    const AT_ONCE: usize = 8;
    stream::iter(deliveries)
        .map(|it| async move {
            if it.attempts == 0 || !it.log.is_empty() {
                return Ok(it);
            }
            context.client.get(&format!("/api/v1/deliveries/{}", it.id), &[]).await?.read()
        })
        .buffered(AT_ONCE)
        .try_collect()
        .await
}

/// The event, once there is nothing more to see soon; at the latest after half a minute.
pub async fn settled(context: &Context, id: &str) -> Result<Json> {
    const PAUSE: Duration = Duration::from_millis(100);
    const LONGEST: Duration = Duration::from_secs(30);
    let begun = context.clock.now();
    loop {
        let answer = fetch(context, id).await?;
        let event: StoredEventView = answer.read()?;
        let now = context.clock.now();
        if is_settled(&event, now) || now.duration_since(begun).unsigned_abs() > LONGEST {
            return Ok(answer);
        }
        tokio::time::sleep(PAUSE).await;
    }
}

fn is_settled(event: &StoredEventView, now: Timestamp) -> bool {
    const SOON: SignedDuration = SignedDuration::from_secs(10);
    event.planned
        && event.deliveries.iter().all(|it| match it.state {
            DeliveryState::Pending => false,
            DeliveryState::Retrying => it.due.is_some_and(|due| due.duration_since(now) > SOON),
            DeliveryState::Delivered
            | DeliveryState::Dead
            | DeliveryState::Expired
            | DeliveryState::Cancelled => true,
        })
}

async fn export(context: &Context, args: ExportArgs) -> Result<()> {
    let query = args.filter.query(context.clock.now());
    let mut response = context.client.stream("/api/v1/events/export", &query, &[]).await?;
    let mut target = ShowTarget::open(args.out.as_deref())?;
    match copy(&mut response, &mut target).await {
        Ok(events) => {
            target.finish()?;
            output::note(format_args!("{} exported", plural(events, "event")));
            Ok(())
        }
        Err(error) => {
            target.discard();
            Err(error)
        }
    }
}

/// Copies to the end, and counts lines. An end in the middle of a line is an error.
async fn copy(response: &mut Response<Incoming>, target: &mut ShowTarget) -> Result<u64> {
    let bar = ProgressBar::new_spinner();
    if let Ok(style) = indicatif::ProgressStyle::with_template(
        "{spinner} {human_pos} events  {per_sec}  {elapsed}",
    ) {
        bar.set_style(style);
    }
    // Counted by their ends; a line is written as it comes, in whatever pieces.
    let mut events = 0;
    let mut last_byte = b'\n';
    let body = response.body_mut();
    while let Some(chunk) = next_chunk(body).await {
        let chunk = chunk.map_err(|error| {
            CliError::failed(format!(
                "the export broke off after {}: {error}",
                plural(events, "event")
            ))
            .then("repeat the command; an unfinished file is not kept")
        })?;
        let ends = chunk.iter().filter(|&&it| it == b'\n').count() as u64;
        events += ends;
        last_byte = chunk.last().copied().unwrap_or(last_byte);
        bar.inc(ends);
        target.write(&chunk)?;
    }
    bar.finish_and_clear();
    if last_byte != b'\n' {
        return Err(CliError::failed("the export broke off in the middle of an event")
            .then("repeat the command"));
    }
    Ok(events)
}

/// Where an export goes. A file has another name until it is whole.
enum ShowTarget {
    Stdout(super::output::Output),
    File { file: BufWriter<File>, partial: PathBuf, whole: PathBuf },
}

impl ShowTarget {
    fn open(path: Option<&Path>) -> Result<Self> {
        let Some(whole) = path.filter(|it| it.as_os_str() != "-") else {
            return Ok(Self::Stdout(super::output::Output::standard()));
        };
        let mut partial = whole.as_os_str().to_owned();
        partial.push(".partial");
        let partial = PathBuf::from(partial);
        let file = File::create(&partial).map_err(|source| cannot_write(&partial, source))?;
        Ok(Self::File { file: BufWriter::new(file), partial, whole: whole.to_owned() })
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        match self {
            Self::Stdout(out) => out.bytes(bytes),
            Self::File { file, partial, .. } => {
                file.write_all(bytes).map_err(|source| cannot_write(partial, source))
            }
        }
    }

    /// Flushed and synced, and then under its own name.
    fn finish(self) -> Result<()> {
        let Self::File { file, partial, whole } = self else { return Ok(()) };
        let file = file.into_inner().map_err(|error| cannot_write(&partial, error.into_error()))?;
        file.sync_all().map_err(|source| cannot_write(&partial, source))?;
        std::fs::rename(&partial, &whole).map_err(|source| cannot_write(&whole, source))
    }
}

impl ShowTarget {
    /// Half an export is not kept.
    fn discard(self) {
        if let Self::File { partial, .. } = self {
            let _was_never_there = std::fs::remove_file(partial);
        }
    }
}

fn cannot_write(path: &Path, source: std::io::Error) -> CliError {
    CliError::File { what: format!("`{}` cannot be written", path.display()), source }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_export_has_its_name_only_when_it_is_whole() {
        let folder = tempfile::tempdir().unwrap();
        let whole = folder.path().join("week.ndjson");
        let mut target = ShowTarget::open(Some(&whole)).unwrap();
        target.write(b"{}\n").unwrap();
        assert!(!whole.exists());
        target.finish().unwrap();
        assert_eq!(std::fs::read(&whole).unwrap(), b"{}\n");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_filter_becomes_the_apis_query() {
        let filter = EventsFilter {
            event_type: Some(pattern("user.*").unwrap()),
            source: None,
            since: Some(moment("1h").unwrap()),
            until: None,
        };
        let query = filter.query(Timestamp::from_second(3_600).unwrap());
        assert_eq!(
            query,
            [("type", "user.*".to_owned()), ("from", "1970-01-01T00:00:00Z".to_owned())]
        );
    }

    #[test]
    fn waiting_ends_when_nothing_more_comes_soon() {
        let now: Timestamp = "2026-07-31T14:00:00Z".parse().unwrap();
        for (planned, delivery, expected) in [
            (false, None, false),
            (true, None, true),
            (true, Some(("pending", None)), false),
            (true, Some(("delivered", None)), true),
            (true, Some(("retrying", Some("2026-07-31T14:00:05Z"))), false),
            (true, Some(("retrying", Some("2026-07-31T14:05:00Z"))), true),
        ] {
            let delivery =
                delivery.map(|(state, due)| json!({"id": "dlv_1", "destination": "crm", "state": state, "due": due}));
            let deliveries: Vec<_> = delivery.into_iter().collect();
            let event = json!({"id": "evt_1", "type": "x", "received_at": now.to_string(), "planned": planned,
                "deliveries": deliveries});
            assert_eq!(is_settled(&Json::of(&event).read().unwrap(), now), expected, "{event}");
        }
    }
}
