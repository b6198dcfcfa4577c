//! `tidegate replay`: old events, delivered again. It says how many before it starts.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{
    Context,
    client::pages_while,
    deliveries::{DeliveriesFilter, id_part, state, state_word},
    emit::progress_bar,
    error::{CliError, Result},
    json::Json,
    output::{self, Paint, confirm, plural},
};
use crate::model::{DeliveryState, ReplayState};

/// Replay old events; shows the count before it starts
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
#[command(after_help = "\
Examples:
  tidegate replay --event evt_01ka…                                 one event, to every destination that had it
  tidegate replay --delivery dlv_01ka…                              one delivery
  tidegate replay --destination crm --state dead --since 24h        what failed for good since yesterday
  tidegate replay --destination crm --since 24h --plan              only say how many
  tidegate replay --missed --destination crm --since 30d            events that crm never had, through today's pipelines
  tidegate replay --missed --type order.paid --since 2h             events that went nowhere, after a wrong filter
  tidegate replay cancel rpl_01ka…                                  stop one that runs")]
pub struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    /// All deliveries of this event
    #[arg(long, value_name = "ID", conflicts_with_all = ["delivery", "destination", "state", "event_type", "since", "until"])]
    event: Option<String>,
    /// Only this delivery
    #[arg(long, value_name = "ID", conflicts_with_all = ["destination", "state", "event_type", "since", "until"])]
    delivery: Option<String>,
    #[command(flatten)]
    filter: DeliveriesFilter,
    /// Only deliveries in this final state: delivered, dead, expired or cancelled
    #[arg(long, value_name = "STATE", value_parser = ended_state)]
    state: Option<DeliveryState>,
    /// Events that the destination never had; without --destination, events that went nowhere
    #[arg(long, conflicts_with_all = ["event", "delivery", "state", "raw"])]
    missed: bool,
    /// Only show the count
    #[arg(long, conflicts_with_all = ["yes", "watch"])]
    plan: bool,
    /// Do not ask for confirmation
    #[arg(long, short)]
    yes: bool,
    /// Give each delivery a new message id, so that receivers do not drop it as a duplicate
    #[arg(long)]
    fresh_id: bool,
    /// Send the stored payload unchanged, bypassing routes and steps (scope admin)
    #[arg(long, conflicts_with_all = ["destination", "state", "event_type", "since", "until"])]
    raw: bool,
    /// Stay until every delivery was attempted; the exit code is 1 where one was not accepted
    #[arg(long, short)]
    watch: bool,
    /// As JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Cancel a running replay; deliveries already made stay
    Cancel {
        /// The replay's id, rpl_…
        #[arg(value_name = "ID")]
        id: String,
    },
    /// Show the progress of a replay
    Show {
        /// The replay's id, rpl_…
        #[arg(value_name = "ID")]
        id: String,
        /// Wait until it is done and every delivery was attempted; the exit code is 1 where one was not accepted
        #[arg(long, short)]
        watch: bool,
    },
}

#[derive(Clone, Debug, Deserialize)]
struct ReplayView {
    id: String,
    state: ReplayState,
    #[serde(default)]
    total: u64,
    #[serde(default)]
    done: u64,
    #[serde(default)]
    event: Option<String>,
    #[serde(default)]
    selection: Option<Selected>,
}

/// What a replay was asked for, as the gateway shows it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Selected {
    missed: bool,
    destination: Option<String>,
    #[serde(rename = "type")]
    event_type: Option<String>,
    from: Option<String>,
    until: Option<String>,
}

/// What became of the deliveries that a replay made.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Made {
    delivered: u64,
    /// Dead, expired or cancelled.
    died: u64,
    /// An attempt failed, and another follows.
    retrying: u64,
    /// Not attempted yet.
    pending: u64,
}

#[derive(Debug, Deserialize)]
struct MadeDelivery {
    state: DeliveryState,
    replay: Option<String>,
}

#[derive(Debug, Deserialize)]
struct ReplayPlan {
    total: u64,
}

impl Args {
    /// The request, but for `dry_run`.
    fn request(&self, now: Timestamp) -> Result<Map<String, Value>> {
        let mut request = Map::new();
        if let Some(event) = &self.event {
            request.insert("event".to_owned(), id_part("evt", event)?.into());
        }
        if let Some(delivery) = &self.delivery {
            request.insert("delivery".to_owned(), id_part("dlv", delivery)?.into());
        }
        if request.is_empty() {
            let mut selection: Map<_, _> = self
                .filter
                .query(now)
                .into_iter()
                .map(|(name, value)| (name.to_owned(), Value::String(value)))
                .collect();
            if self.missed {
                selection.insert("missed".to_owned(), true.into());
            }
            selection
                .extend(self.state.map(|it| ("state".to_owned(), Value::String(state_word(it)))));
            if selection.is_empty() {
                return Err(CliError::usage("say what to replay").then(
                    "name it with --event or --delivery, or select with --destination, --state, --type, --since, --until or --missed",
                ));
            }
            request.insert("selection".to_owned(), Value::Object(selection));
        }
        if self.raw {
            request.insert("raw".to_owned(), true.into());
        }
        if self.fresh_id {
            request.insert("fresh_ids".to_owned(), true.into());
        }
        Ok(request)
    }
}

/// For clap. What has not ended is attempted anyway.
fn ended_state(text: &str) -> Result<DeliveryState, String> {
    match state(text)? {
        DeliveryState::Pending | DeliveryState::Retrying => {
            Err("what has not ended is attempted anyway; a replay is of delivered, dead, expired or cancelled".to_owned())
        }
        ended @ (DeliveryState::Delivered
        | DeliveryState::Dead
        | DeliveryState::Expired
        | DeliveryState::Cancelled) => Ok(ended),
    }
}

pub async fn run(context: &Context, args: Args) -> Result<()> {
    match &args.command {
        Some(Command::Cancel { id }) => return cancel(context, id).await,
        Some(Command::Show { id, watch }) => return show(context, id, *watch).await,
        None => (),
    }
    let mut request = args.request(context.clock.now())?;
    request.insert("dry_run".to_owned(), true.into());
    let planned: ReplayPlan =
        context.client.post("/api/v1/replays", &request.clone().into()).await?.read()?;
    if args.plan && args.json {
        return context.out.json(&Json::of(&json!({ "total": planned.total })));
    }
    if planned.total == 0 {
        output::note("nothing matches: there is nothing to replay");
        return Ok(());
    }
    let deliveries = selected(planned.total, args.missed);
    if args.plan {
        context.out.line(match args.missed {
            true => format!("{deliveries} would be looked at, and those that were missed replayed"),
            false => format!("{deliveries} would be replayed"),
        })?;
        context.out.next("the same command without --plan");
        return Ok(());
    }
    let question = match args.missed {
        true => format!("Look at {deliveries} and replay those that were missed?"),
        false => format!("Replay {deliveries}?"),
    };
    if !args.yes && !confirm(&question)? {
        output::note("nothing was replayed");
        return Ok(());
    }
    request.insert("dry_run".to_owned(), false.into());
    let answer = context.client.post("/api/v1/replays", &request.into()).await?;
    if args.json && !args.watch {
        return context.out.json(&answer);
    }
    let replay: ReplayView = answer.read()?;
    context.out.line(format_args!(
        "replay {} of {deliveries} has begun",
        context.out.paint.cyan(&replay.id)
    ))?;
    if args.watch {
        return watch(context, &replay.id).await;
    }
    context.out.next(format_args!(
        "tidegate replay show {0} --watch, or tidegate replay cancel {0}",
        replay.id
    ));
    Ok(())
}

async fn cancel(context: &Context, id: &str) -> Result<()> {
    let path = format!("/api/v1/replays/{}/cancel", id_part("rpl", id)?);
    let replay: ReplayView = context.client.post(&path, &json!({})).await?.read()?;
    context.out.line(sentence(&replay, context.out.paint))
}

async fn show(context: &Context, id: &str, stay: bool) -> Result<()> {
    let replay = fetch(context, id).await?;
    if stay {
        return watch(context, id).await;
    }
    context.out.line(sentence(&replay, context.out.paint))
}

async fn fetch(context: &Context, id: &str) -> Result<ReplayView> {
    context.client.get(&format!("/api/v1/replays/{}", id_part("rpl", id)?), &[]).await?.read()
}

/// Shows progress until it is done. Leaving does not stop it.
async fn watch(context: &Context, id: &str) -> Result<()> {
    const PAUSE: Duration = Duration::from_millis(250);
    let bar = progress_bar(0);
    let watching = async {
        loop {
            let replay = fetch(context, id).await?;
            bar.set_length(replay.total);
            bar.set_position(replay.done);
            if replay.state != ReplayState::Running {
                return Ok(replay);
            }
            tokio::time::sleep(PAUSE).await;
        }
    };
    let watched: Result<ReplayView> = tokio::select! {
        watched = watching => watched,
        _ = tokio::signal::ctrl_c() => {
            bar.finish_and_clear();
            output::note("the replay goes on without you");
            context.out.next(format_args!("tidegate replay cancel {id}"));
            return Ok(());
        }
    };
    bar.finish_and_clear();
    let replay = watched?;
    context.out.line(sentence(&replay, context.out.paint))?;
    outcome(context, &replay).await
}

/// Says what became of what it made, once each was attempted; an error where not all of it was delivered.
async fn outcome(context: &Context, replay: &ReplayView) -> Result<()> {
    /// More than this is not looked at one by one.
    const MOST: u64 = 10_000;
    /// So long without a change, what has not been attempted waits for something else.
    const TIMEOUT: Duration = Duration::from_secs(10);
    const PAUSE: Duration = Duration::from_millis(250);
    if replay.done > MOST {
        output::note("it is too large to look at each delivery");
        context.out.next("tidegate status");
        return Ok(());
    }
    let (mut made, mut since) = (Made::default(), Instant::now());
    loop {
        let begun = Instant::now();
        let now = Made::of(context, replay).await?;
        if now != made {
            (made, since) = (now, Instant::now());
        }
        if made.pending == 0 || since.elapsed() > TIMEOUT {
            break;
        }
        // Looking takes no more than half of the time.
        tokio::time::sleep(PAUSE.max(begun.elapsed())).await;
    }
    context.out.line(made.sentence())?;
    let Made { died, .. } = made;
    if made.delivered >= replay.done.min(made.all()) {
        return Ok(());
    }
    let next = match (&replay.event, died) {
        (_, 0) => format!(
            "tidegate status says what they wait for; tidegate replay show {} --watch looks again",
            replay.id
        ),
        (Some(event), _) => format!("tidegate events show {event} says why"),
        (None, _) => "tidegate dead-letters says which, and tidegate deliveries show ID says why; then replay \
                      them again"
            .to_owned(),
    };
    let undelivered = plural(made.all() - made.delivered, "replayed delivery");
    Err(CliError::failed(format!("not accepted: {undelivered}")).then(next))
}

/// Deliveries that are looked at, the replay's and others.
const MOST_ROWS: usize = 100_000;

impl Made {
    async fn of(context: &Context, replay: &ReplayView) -> Result<Self> {
        let mut made = Self::default();
        if let Some(event) = &replay.event {
            let path = format!("/api/v1/events/{}", id_part("evt", event)?);
            let event: Event = context.client.get(&path, &[]).await?.read()?;
            event.deliveries.into_iter().for_each(|it| made.add(it, &replay.id));
            return Ok(made);
        }
        let Selected { destination, event_type, from, until, .. } =
            replay.selection.clone().unwrap_or_default();
        let query =
            [("destination", destination), ("type", event_type), ("from", from), ("until", until)];
        let query = query.into_iter().filter_map(|(name, it)| Some((name, it?))).collect();
        let wanted = replay.done;
        let take = |row: Json| {
            made.add(row.read()?, &replay.id);
            Ok(made.all() < wanted)
        };
        pages_while(&context.client, "/api/v1/deliveries", query, MOST_ROWS, take).await?;
        Ok(made)
    }

    fn add(&mut self, it: MadeDelivery, replay: &str) {
        if it.replay.as_deref() != Some(replay) {
            return;
        }
        *match it.state {
            DeliveryState::Delivered => &mut self.delivered,
            DeliveryState::Dead | DeliveryState::Expired | DeliveryState::Cancelled => {
                &mut self.died
            }
            DeliveryState::Retrying => &mut self.retrying,
            DeliveryState::Pending => &mut self.pending,
        } += 1;
    }

    fn all(self) -> u64 {
        self.delivered + self.died + self.retrying + self.pending
    }

    fn sentence(self) -> String {
        let [delivered, died, waiting] =
            [self.delivered, self.died, self.retrying + self.pending].map(output::count);
        format!("{delivered} delivered, {died} died, {waiting} still waiting")
    }
}

#[derive(Debug, Deserialize)]
struct Event {
    #[serde(default)]
    deliveries: Vec<MadeDelivery>,
}

fn sentence(it: &ReplayView, paint: Paint) -> String {
    let is_missed = it.selection.as_ref().is_some_and(|it| it.missed);
    let (done, total) = (output::count(it.done), selected(it.total, is_missed));
    let state = match it.state {
        ReplayState::Running => paint.cyan("runs"),
        ReplayState::Done => paint.green("is done"),
        ReplayState::Cancelled => paint.yellow("was cancelled"),
    };
    let made = match is_missed {
        true => format!("made {} of {total}", plural(it.done, "delivery")),
        false => format!("made {done} of {total}"),
    };
    format!("replay {} {state}: {made}", paint.cyan(&it.id))
}

fn selected(count: u64, missed: bool) -> String {
    plural(count, if missed { "event" } else { "delivery" })
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn request(line: &str) -> Result<Value> {
        let words = std::iter::once("replay").chain(line.split_whitespace());
        let args =
            Line::try_parse_from(words).map_err(|error| CliError::usage(error.to_string()))?.args;
        args.request(Timestamp::from_second(3_600).unwrap()).map(Value::Object)
    }

    #[test]
    fn flags_of_replay_become_the_apis_request() {
        let event = "evt_01ka0000000000000000000000";
        for (line, expected) in [
            (format!("--event {event}"), json!({ "event": event })),
            (
                "--destination crm --state dead --since 1h --fresh-id".to_owned(),
                json!({
                    "selection": {"destination": "crm", "from": "1970-01-01T00:00:00Z", "state": "dead"},
                    "fresh_ids": true,
                }),
            ),
            (
                "--missed --destination crm".to_owned(),
                json!({"selection": {"destination": "crm", "missed": true}}),
            ),
        ] {
            assert_eq!(request(&line).unwrap(), expected, "{line}");
        }
    }

    #[test]
    fn a_replay_of_everything_or_of_two_things_is_refused() {
        let id = "evt_01ka0000000000000000000000";
        for line in [
            "--state pending",
            "",
            "--fresh-id",
            "--event x",
            &format!("--event {id} --state dead"),
            "--plan --yes --state dead",
        ] {
            assert!(request(line).is_err(), "{line}");
        }
    }
}
