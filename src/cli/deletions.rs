//! `tidegate deletions`: people who want to be forgotten.

use std::time::Duration;

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Map, json};

use super::{
    Context,
    client::pages,
    deliveries::id_part,
    emit::progress_bar,
    error::{CliError, Result},
    output::{self, Paint, clip, confirm, distance, plural, table},
};
use crate::model::{DeletionState, Then};

/// Delete a user: notify destinations and erase stored data
#[derive(Debug, clap::Subcommand)]
#[command(after_help = "\
Examples:
  tidegate deletions create u-42                            tell every webhook that gets events
  tidegate deletions create u-42 --erase --watch            and erase what is stored, with progress
  tidegate deletions create 42 --field user.id --suppress   and turn their events away from now on
  tidegate deletions lift del_01ka…                         let them in again")]
pub enum Command {
    Create(CreateArgs),
    /// List the project's deletion requests
    List {
        /// Print one JSON object per line
        #[arg(long)]
        json: bool,
    },
    /// Show the progress of a request
    Show {
        /// The request's id, del_…
        #[arg(value_name = "ID")]
        id: String,
        /// Wait until it is done
        #[arg(long, short)]
        watch: bool,
        /// As JSON
        #[arg(long, conflicts_with = "watch")]
        json: bool,
    },
    /// Cancel the erasure if it has not begun
    Cancel {
        /// The request's id, del_…
        #[arg(value_name = "ID")]
        id: String,
    },
    /// Delete a finished request; a suppressed user's events are accepted again
    Lift {
        /// The request's id, del_…
        #[arg(value_name = "ID")]
        id: String,
    },
}

/// Ask every webhook destination to delete a user's data
#[derive(Debug, clap::Args)]
pub struct CreateArgs {
    /// The user's id, as it stands in events
    #[arg(value_name = "USER")]
    user_id: String,
    /// Where it stands in the payload; without it, userId or user_id
    #[arg(long, value_name = "PATH")]
    field: Option<String>,
    /// Erase the bodies of the user's stored events
    #[arg(long)]
    erase: bool,
    /// Reject the user's events from now on
    #[arg(long)]
    suppress: bool,
    /// Do not ask for confirmation
    #[arg(long, short)]
    yes: bool,
    /// Wait until it is done
    #[arg(long, short)]
    watch: bool,
    /// As JSON
    #[arg(long, conflicts_with = "watch")]
    json: bool,
}

#[derive(Clone, Debug, Deserialize)]
struct DeletionView {
    id: String,
    user_id: String,
    state: DeletionState,
    #[serde(default)]
    suppressing: bool,
    #[serde(default)]
    notified: u64,
    #[serde(default)]
    erased_events: u64,
    #[serde(default)]
    cancelled_deliveries: u64,
    #[serde(default)]
    in_flight_deliveries: u64,
    #[serde(default)]
    progress: Option<f64>,
    created_at: Timestamp,
}

const PATH: &str = "/api/v1/deletions";

pub async fn run(context: &Context, command: Command) -> Result<()> {
    match command {
        Command::Create(args) => create(context, args).await,
        Command::List { json } => list(context, json).await,
        Command::Show { id, json: true, .. } => {
            let answer = context.client.get(&path(&id)?, &[]).await?;
            context.out.json(&answer)
        }
        Command::Show { id, watch: true, json: false } => watch(context, &id).await,
        Command::Show { id, watch: false, json: false } => {
            let found = fetch(context, &id).await?;
            context.out.line(sentence(&found, context.out.paint))
        }
        Command::Cancel { id } => {
            let path = format!("{}/cancel", path(&id)?);
            let found: DeletionView = context.client.post(&path, &json!({})).await?.read()?;
            context.out.line(sentence(&found, context.out.paint))
        }
        Command::Lift { id } => lift(context, &id).await,
    }
}

fn path(id: &str) -> Result<String> {
    Ok(format!("{PATH}/{}", id_part("del", id)?))
}

/// Lets a user in again, unless another request still turns them away.
async fn lift(context: &Context, id: &str) -> Result<()> {
    let lifted = fetch(context, id).await?;
    context.client.delete(&path(id)?).await?;
    let mut others = Vec::new();
    pages(&context.client, PATH, Vec::new(), usize::MAX, |row| {
        let it: DeletionView = row.read()?;
        if it.suppressing && it.user_id == lifted.user_id {
            others.push(it.id);
        }
        Ok(())
    })
    .await?;
    context.out.line(lifted_sentence(id, &lifted, &others))?;
    if let Some(other) = others.first() {
        context.out.next(format_args!("tidegate deletions lift {other}"));
    }
    Ok(())
}

fn lifted_sentence(id: &str, lifted: &DeletionView, others: &[String]) -> String {
    match (others, lifted.suppressing) {
        ([], true) => format!("{id} is gone, and its user is not turned away any more"),
        ([], false) => format!("{id} is gone; it turned nobody away"),
        (others, _) => {
            format!("{id} is gone, but its user is still turned away by {}", others.join(", "))
        }
    }
}

/// What a request will do, as a question.
fn question(args: &CreateArgs) -> String {
    let mut parts = vec![
        "Every webhook destination that gets events is asked to delete this user at once"
            .to_owned(),
        "what is still to be delivered of the user is cancelled".to_owned(),
    ];
    if args.suppress {
        parts.push("the user's events are turned away from now on".to_owned());
    }
    if args.erase {
        parts.push("the bodies of all stored events of the user are erased".to_owned());
    }
    format!("{}. It cannot be undone. Go on?", parts.join("; "))
}

async fn create(context: &Context, args: CreateArgs) -> Result<()> {
    if !args.yes && !confirm(&question(&args))? {
        output::note("nothing was done");
        return Ok(());
    }
    let then = match (args.suppress, args.erase) {
        (false, false) => Then::Keep,
        (false, true) => Then::Erase,
        (true, false) => Then::Suppress,
        (true, true) => Then::SuppressAndErase,
    };
    let mut body = Map::new();
    body.insert("user_id".to_owned(), args.user_id.into());
    body.insert("then".to_owned(), json!(then));
    body.extend(args.field.map(|it| ("field".to_owned(), it.into())));
    let answer = context.client.post(PATH, &body.into()).await?;
    if args.json {
        return context.out.json(&answer);
    }
    let begun: DeletionView = answer.read()?;
    if args.watch {
        return watch(context, &begun.id).await;
    }
    context.out.line(sentence(&begun, context.out.paint))?;
    context.out.next(format_args!("tidegate deletions show {} --watch", begun.id));
    Ok(())
}

async fn list(context: &Context, is_json: bool) -> Result<()> {
    let (now, paint) = (context.clock.now(), context.out.paint);
    let mut rows = Vec::new();
    pages(&context.client, PATH, Vec::new(), usize::MAX, |row| {
        if is_json {
            return context.out.json_line(&row);
        }
        let it: DeletionView = row.read()?;
        let when = distance(it.created_at, now);
        rows.push(vec![paint.cyan(&it.id), clip(&it.user_id, 40), when, story(&it, paint)]);
        Ok(())
    })
    .await?;
    if rows.is_empty() && !is_json {
        output::note("nobody asked to be forgotten");
    }
    context.out.text(&table(&rows))
}

async fn fetch(context: &Context, id: &str) -> Result<DeletionView> {
    context.client.get(&path(id)?, &[]).await?.read()
}

/// Shows progress until it is done. Leaving does not stop it.
async fn watch(context: &Context, id: &str) -> Result<()> {
    const PAUSE: Duration = Duration::from_millis(250);
    const STEPS: f64 = 1000.0;
    let bar = progress_bar(STEPS as u64);
    let watching = async {
        loop {
            let it = fetch(context, id).await?;
            bar.set_position((it.progress.unwrap_or(0.0) * STEPS) as u64);
            match it.state {
                DeletionState::Done | DeletionState::Cancelled => return Ok::<_, CliError>(it),
                DeletionState::Notifying | DeletionState::Waiting | DeletionState::Erasing => (),
            }
            tokio::time::sleep(PAUSE).await;
        }
    };
    let watched = tokio::select! {
        watched = watching => watched,
        _ = tokio::signal::ctrl_c() => {
            bar.finish_and_clear();
            output::note("it goes on without you");
            context.out.next(format_args!("tidegate deletions show {id} --watch"));
            return Ok(());
        }
    };
    bar.finish_and_clear();
    context.out.line(sentence(&watched?, context.out.paint))
}

fn sentence(it: &DeletionView, paint: Paint) -> String {
    format!("{} {}", paint.cyan(&it.id), story(it, paint))
}

/// `is done: asked 2 destinations, erased 17 events, cancelled 1 delivery`
fn story(it: &DeletionView, paint: Paint) -> String {
    let mut text = match it.state {
        DeletionState::Notifying => paint.cyan("tells the destinations"),
        DeletionState::Waiting => paint.yellow("waits to erase"),
        DeletionState::Erasing => {
            paint.cyan(format_args!("erases, {:.0} %", it.progress.unwrap_or(0.0) * 100.0))
        }
        DeletionState::Done => paint.green("is done"),
        DeletionState::Cancelled => paint.yellow("was cancelled"),
    };
    text.push_str(&format!(": asked {}", plural(it.notified, "destination")));
    if it.progress.is_some() {
        text.push_str(&format!(", erased {}", plural(it.erased_events, "event")));
    }
    text.push_str(&format!(", cancelled {}", plural(it.cancelled_deliveries, "delivery")));
    if it.in_flight_deliveries > 0 {
        let count = plural(it.in_flight_deliveries, "attempt");
        text.push_str(&format!(" ({count} under way at the time may have arrived)"));
    }
    if it.suppressing {
        text.push_str(", and turns the user's events away");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deletion_says_how_far_it_is() {
        for (answer, expected) in [
            (
                json!({"state": "notifying", "in_flight_deliveries": 1}),
                "tells the destinations: asked 0 destinations, cancelled 0 deliveries (1 attempt under way at the time may have arrived)",
            ),
            (
                json!({"state": "erasing", "progress": 0.4, "notified": 1, "erased_events": 2}),
                "erases, 40 %: asked 1 destination, erased 2 events, cancelled 0 deliveries",
            ),
            (
                json!({"state": "done", "notified": 2, "suppressing": true}),
                "is done: asked 2 destinations, cancelled 0 deliveries, and turns the user's events away",
            ),
        ] {
            let mut answer = answer;
            answer["id"] = json!("del_1");
            answer["user_id"] = json!("u-1");
            answer["created_at"] = json!("2026-07-31T14:05:00Z");
            let it: DeletionView = serde_json::from_value(answer).unwrap();
            assert_eq!(story(&it, Paint::PLAIN), expected);
        }
    }

    #[test]
    fn lifting_says_who_else_turns_the_user_away() {
        let answer = json!({
            "id": "del_1", "user_id": "u-1", "state": "done", "suppressing": true,
            "created_at": "2026-07-31T14:05:00Z",
        });
        let lifted: DeletionView = serde_json::from_value(answer).unwrap();
        for (others, expected) in [
            (vec![], "del_1 is gone, and its user is not turned away any more"),
            (vec!["del_2".to_owned()], "del_1 is gone, but its user is still turned away by del_2"),
        ] {
            assert_eq!(lifted_sentence("del_1", &lifted, &others), expected);
        }
    }

    #[test]
    fn a_request_asks_whatever_it_will_do() {
        let mut args = CreateArgs {
            user_id: "u-1".to_owned(),
            field: None,
            erase: false,
            suppress: false,
            yes: false,
            watch: false,
            json: false,
        };
        assert!(question(&args).contains("asked to delete") && !question(&args).contains("erased"));
        (args.erase, args.suppress) = (true, true);
        assert!(question(&args).contains("erased") && question(&args).contains("turned away"));
    }
}
