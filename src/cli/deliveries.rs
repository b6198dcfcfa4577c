//! `tidegate deliveries` and `tidegate dead-letters`: what is owed, what was delivered, what failed.

use jiff::Timestamp;
use serde_json::Value;

use super::{
    Context,
    client::pages,
    error::{CliError, Result},
    output::{self, clip, date_time, table},
    tail::pattern,
    times::{Moment, moment},
    views::{self, Delivery},
    waterfall,
};
use crate::model::{DeliveryState, Pattern};

/// List and show deliveries
#[derive(Debug, clap::Subcommand)]
#[command(after_help = "\
Examples:
  tidegate deliveries list --destination crm --state retrying
  tidegate deliveries show dlv_01ka…")]
pub enum Command {
    List(ListArgs),
    Show(ShowArgs),
}

/// List deliveries, newest events first
#[derive(Debug, clap::Args)]
pub struct ListArgs {
    #[command(flatten)]
    filter: DeliveriesFilter,
    /// Only in this state
    #[arg(long, value_name = "STATE", value_parser = state)]
    state: Option<DeliveryState>,
    #[command(flatten)]
    shape: ListShape,
}

/// Show one delivery with its attempts
#[derive(Debug, clap::Args)]
pub struct ShowArgs {
    /// The delivery's id, dlv_…
    #[arg(value_name = "ID")]
    id: String,
    /// As JSON
    #[arg(long)]
    json: bool,
}

/// List deliveries that failed for good, newest events first
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  tidegate dead-letters --since 24h
  tidegate replay --destination crm --state dead --since 24h     brings them back")]
pub struct DeadLettersArgs {
    #[command(flatten)]
    filter: DeliveriesFilter,
    #[command(flatten)]
    shape: ListShape,
}

/// Which deliveries.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct DeliveriesFilter {
    /// Only to this destination
    #[arg(long, value_name = "NAME")]
    pub destination: Option<String>,
    /// Only of this type, or group such as 'user.*'
    #[arg(long = "type", value_name = "TYPE", value_parser = pattern)]
    pub event_type: Option<Pattern>,
    /// Events received since: 2h (ago) or 2026-07-31T14:00:00Z
    #[arg(long, value_name = "TIME", value_parser = moment)]
    pub since: Option<Moment>,
    /// Events received before this time
    #[arg(long, value_name = "TIME", value_parser = moment)]
    pub until: Option<Moment>,
}

#[derive(Debug, clap::Args)]
struct ListShape {
    /// Maximum number to list
    #[arg(long, value_name = "N", default_value_t = 20)]
    limit: usize,
    /// Print one JSON object per line
    #[arg(long)]
    json: bool,
}

/// For clap: a state by the name that the API gives it.
pub fn state(text: &str) -> Result<DeliveryState, String> {
    serde_json::from_value(Value::String(text.to_owned())).map_err(|_| {
        "a state is pending, retrying, delivered, dead, expired or cancelled".to_owned()
    })
}

/// The word of a state.
pub fn state_word(state: DeliveryState) -> String {
    serde_json::to_value(state)
        .ok()
        .and_then(|it| it.as_str().map(str::to_owned))
        .unwrap_or_default()
}

/// An id that may stand in a path: checked here, so that a slip is no call to another one.
pub fn id_part<'a>(prefix: &str, id: &'a str) -> Result<&'a str> {
    let rest = id.strip_prefix(prefix).and_then(|it| it.strip_prefix('_')).unwrap_or_default();
    if rest.len() == 26 && rest.bytes().all(|it| it.is_ascii_alphanumeric()) {
        return Ok(id);
    }
    Err(CliError::usage(format!(
        "`{}` is no id: it starts with {prefix}_ and 26 letters or digits follow",
        clip(id, 60)
    )))
}

impl DeliveriesFilter {
    pub fn query(&self, now: Timestamp) -> Vec<(&'static str, String)> {
        let mut query = Vec::new();
        query.extend(self.destination.clone().map(|it| ("destination", it)));
        query.extend(self.event_type.clone().map(|it| ("type", String::from(it))));
        query.extend(self.since.map(|it| ("from", it.resolve(now).to_string())));
        query.extend(self.until.map(|it| ("until", it.resolve(now).to_string())));
        query
    }
}

pub async fn run(context: &Context, command: Command) -> Result<()> {
    match command {
        Command::List(args) => {
            let mut query = args.filter.query(context.clock.now());
            query.extend(args.state.map(|it| ("state", state_word(it))));
            if list(context, query, &args.shape).await? == 0 && !args.shape.json {
                output::note("no deliveries");
            }
            Ok(())
        }
        Command::Show(args) => show(context, args).await,
    }
}

pub async fn dead_letters(context: &Context, args: DeadLettersArgs) -> Result<()> {
    let mut query = args.filter.query(context.clock.now());
    query.push(("state", state_word(DeliveryState::Dead)));
    let found = list(context, query, &args.shape).await?;
    if args.shape.json {
        return Ok(());
    }
    match (found, &args.filter.destination) {
        (0, _) => output::note("no dead letters"),
        (_, Some(name)) => context
            .out
            .next(format_args!("tidegate replay --destination {name} --state dead --plan")),
        (_, None) => context.out.next("tidegate replay --state dead --plan"),
    }
    Ok(())
}

async fn list(
    context: &Context,
    query: Vec<(&'static str, String)>,
    shape: &ListShape,
) -> Result<usize> {
    let paint = context.out.paint;
    let now = context.clock.now();
    let mut rows = Vec::new();
    let mut found = 0;
    pages(&context.client, "/api/v1/deliveries", query, shape.limit, |row| {
        found += 1;
        if shape.json {
            return context.out.json_line(&row);
        }
        let it: Delivery = row.read()?;
        let due = it.due.filter(|_| it.state == DeliveryState::Retrying);
        rows.push(vec![
            it.received_at.map(|at| date_time(at, &context.zone)).unwrap_or_default(),
            paint.cyan(&it.id),
            paint.bold(&it.event_type),
            format!("→ {}", it.destination),
            views::state(it.state, paint),
            output::plural(it.attempts.into(), "attempt"),
            due.map(|due| format!("next {}", output::distance(due, now))).unwrap_or_default(),
        ]);
        Ok(())
    })
    .await?;
    context.out.text(&table(&rows))?;
    if found > 0 && !shape.json {
        context.out.next("tidegate deliveries show ID");
    }
    Ok(found)
}

async fn show(context: &Context, args: ShowArgs) -> Result<()> {
    let answer = context
        .client
        .get(&format!("/api/v1/deliveries/{}", id_part("dlv", &args.id)?), &[])
        .await?;
    if args.json {
        return context.out.json(&answer);
    }
    let it: Delivery = answer.read()?;
    let paint = context.out.paint;
    let now = context.clock.now();
    context.out.line(format_args!(
        "{}  {}",
        paint.bold(&it.event_type),
        paint.cyan(&it.event_id)
    ))?;
    context.out.text(&waterfall::delivery(&it, it.received_at.unwrap_or(now), now, paint))?;
    if it.state == DeliveryState::Dead {
        context.out.next(format_args!("tidegate replay --delivery {}", it.id));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_checked_before_they_become_a_path() {
        assert!(id_part("evt", "evt_01ka0000000000000000000000").is_ok());
        for id in [
            "evt_../../keys",
            "dlv_01ka0000000000000000000000",
            "",
            "evt_01ka000000000000000000000/",
        ] {
            assert!(id_part("evt", id).is_err(), "{id}");
        }
    }

    #[test]
    fn states_have_the_names_of_the_api() {
        for name in ["pending", "retrying", "delivered", "dead", "expired", "cancelled"] {
            assert_eq!(state_word(state(name).unwrap()), name);
        }
        assert!(state("Dead").is_err());
    }
}
