//! `tidegate status`: how everything is, on one screen.

use std::time::Duration;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::json;

use super::{
    Context,
    client::ListPage,
    error::Result,
    json::Json,
    output::{self, Paint, clip, count, distance, plural, table},
    views::{self, EntryView},
};

/// Dead letters are counted up to here: more is more.
const MOST_DEAD: u64 = 200;

/// Show the gateway's health: destinations, pending deliveries, dead letters
#[derive(Debug, clap::Args)]
pub struct Args {
    /// As JSON
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Debug, Deserialize)]
struct StatusView {
    #[serde(default)]
    version: String,
    now: Timestamp,
    #[serde(default)]
    refuses: Option<String>,
    #[serde(default)]
    destinations: Vec<DestinationLine>,
    #[serde(default)]
    conflicts: Vec<Conflicts>,
    #[serde(default)]
    stuck_scripts: Vec<StuckScript>,
}

#[derive(Clone, Debug, Deserialize)]
struct StuckScript {
    pipeline: String,
    step: String,
    since: Timestamp,
    events: u64,
    #[serde(default)]
    threads: u64,
    #[serde(default)]
    retry_at: Option<Timestamp>,
    #[serde(default)]
    blocked: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
struct Conflicts {
    source: String,
    events: u64,
}

#[derive(Clone, Debug, Deserialize)]
struct DestinationLine {
    name: String,
    state: String,
    #[serde(default)]
    owed: u64,
    #[serde(default)]
    oldest_seconds: Option<f64>,
}

/// Everything that the screen shows.
struct Screen {
    status: StatusView,
    dead: u64,
    /// By destination, in the same order.
    last_failures: Vec<Option<EntryView>>,
}

pub async fn run(context: &Context, args: Args) -> Result<()> {
    let answer = context.client.get("/api/v1/status", &[]).await?;
    let status: StatusView = answer.read()?;
    let dead = rows(context, "/api/v1/dead-letters", vec![("limit", MOST_DEAD.to_string())])
        .await?
        .len() as u64;
    let failures = last_failures(context, &status.destinations).await?;
    if args.json {
        let mut whole = answer.to_value();
        whole["dead_letters"] = dead.into();
        let named = status.destinations.iter().zip(&failures);
        whole["last_failures"] =
            named.map(|(it, failure)| (it.name.clone(), json!(failure))).collect();
        return context.out.json(&Json::of(&whole));
    }
    let last_failures =
        failures.into_iter().map(|it| it.map(|it| it.read()).transpose()).collect::<Result<_>>()?;
    let screen = Screen { status, dead, last_failures };
    context.out.text(&render(&screen, context.out.paint))?;
    if screen.status.destinations.is_empty() {
        context.out.next("tidegate apply resources.yaml");
    } else if dead > 0 {
        context.out.next("tidegate dead-letters");
    }
    Ok(())
}

/// The newest failed attempt at each, a few asked for at a time.
async fn last_failures(
    context: &Context,
    destinations: &[DestinationLine],
) -> Result<Vec<Option<Json>>> {
    const AT_ONCE: usize = 8;
    stream::iter(destinations)
        .map(|it| async move {
            let query = vec![
                ("destination", it.name.clone()),
                ("failed", "true".to_owned()),
                ("limit", "1".to_owned()),
            ];
            Ok(rows(context, "/api/v1/attempts", query).await?.pop())
        })
        .buffered(AT_ONCE)
        .try_collect()
        .await
}

async fn rows(context: &Context, path: &str, query: Vec<(&str, String)>) -> Result<Vec<Json>> {
    let page: ListPage = context.client.get(path, &query).await?.read()?;
    Ok(page.data)
}

fn render(screen: &Screen, paint: Paint) -> String {
    let Screen { status, dead, last_failures } = screen;
    let owed: u64 = status.destinations.iter().map(|it| it.owed).sum();
    let oldest = status.destinations.iter().filter_map(|it| it.oldest_seconds).fold(None, later);
    let mut text = match status.refuses.as_deref() {
        None => format!("tidegate {} {}", status.version, paint.green("accepts events")),
        Some("disk_full") => format!(
            "tidegate {} {}",
            status.version,
            paint.red("accepts no events: the disk is full")
        ),
        Some(_) => format!(
            "tidegate {} {}",
            status.version,
            paint.red("accepts no events: the disk failed; restart it")
        ),
    };
    text.push_str(&format!(" · {} owed", plural(owed, "delivery")));
    if let Some(oldest) = oldest {
        text.push_str(&format!(", the oldest since {}", age(oldest)));
    }
    text.push_str(" · ");
    text.push_str(&match *dead {
        0 => paint.green("no dead letters"),
        MOST_DEAD.. => paint.red(format_args!("{MOST_DEAD} dead letters or more")),
        dead => paint.red(plural(dead, "dead letter")),
    });
    text.push('\n');
    for Conflicts { source, events } in &status.conflicts {
        let events = plural(*events, "event");
        let line = format!(
            "{events} of {source} not kept: their keys were used before for another type or body"
        );
        text.push_str(&paint.yellow(line));
        text.push('\n');
    }
    for it in &status.stuck_scripts {
        text.push_str(&paint.yellow(stuck(it, status.now)));
        text.push('\n');
    }
    if status.destinations.is_empty() {
        return text + "no destinations\n";
    }
    let mut table_rows = vec![
        ["destination", "state", "owed", "oldest", "last failure"].map(|it| paint.dim(it)).to_vec(),
    ];
    let failures = last_failures.iter().map(Option::as_ref);
    table_rows.extend(
        status
            .destinations
            .iter()
            .zip(failures)
            .map(|(it, failure)| row(it, failure, status.now, paint)),
    );
    text + "\n" + &table(&table_rows)
}

/// What a script lost, and when it is tried again.
fn stuck(it: &StuckScript, now: Timestamp) -> String {
    let StuckScript { pipeline, step, since, events, threads, retry_at, blocked } = it;
    let events = plural(*events, "event");
    let since = distance(*since, now);
    let mut text = format!(
        "the script of {pipeline}, {step}, got stuck {since}: {events} became dead letters; "
    );
    text.push_str(&match (blocked, retry_at) {
        (Some(reason), _) => reason.clone(),
        (None, Some(at)) => format!("it is tried again {}", distance(*at, now)),
        (None, None) => "it is tried again with the next event".to_owned(),
    });
    if *threads > 0 {
        text.push_str(&format!("; it holds {}", plural(*threads, "thread")));
    }
    text
}

fn later(longest: Option<f64>, seconds: f64) -> Option<f64> {
    Some(longest.map_or(seconds, |it| it.max(seconds)))
}

/// So long ago, from the seconds that the gateway counts.
pub fn age(seconds: f64) -> String {
    output::duration(Duration::try_from_secs_f64(seconds).unwrap_or_default())
}

fn row(
    it: &DestinationLine,
    failure: Option<&EntryView>,
    now: Timestamp,
    paint: Paint,
) -> Vec<String> {
    let state = match it.state.as_str() {
        "active" => paint.green(&it.state),
        "disabled" => paint.red(&it.state),
        _ => paint.yellow(&it.state),
    };
    let failure = failure.map_or_else(
        || "–".to_owned(),
        |it| {
            format!(
                "{}, {}",
                clip(&views::outcome(it.status, &it.reason), 60),
                distance(it.at, now)
            )
        },
    );
    let oldest = it.oldest_seconds.map_or_else(|| "–".to_owned(), age);
    vec![paint.bold(&it.name), state, count(it.owed), oldest, failure]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_fits_on_one_screen() {
        let status = json!({
            "version": "0.1.0", "now": "2026-07-31T14:05:00Z", "refuses": null,
            "destinations": [
                {"id": "dst_1", "name": "crm", "state": "active", "owed": 1200, "oldest_seconds": 300.0},
                {"id": "dst_2", "name": "erp", "state": "disabled", "owed": 0, "oldest_seconds": null},
            ],
        });
        let failure = json!({"at": "2026-07-31T14:04:48Z", "attempt": 3, "class": "status", "status": 503,
            "reason": "503 Service Unavailable", "duration_ms": 1.5});
        let mut screen = Screen {
            status: serde_json::from_value(status).unwrap(),
            dead: 2,
            last_failures: vec![serde_json::from_value(failure).unwrap(), None],
        };
        let expected = "\
tidegate 0.1.0 accepts events · 1,200 deliveries owed, the oldest since 5 min · 2 dead letters

destination  state     owed   oldest  last failure
crm          active    1,200  5 min   503 Service Unavailable, 12 s ago
erp          disabled  0      –       –
";
        assert_eq!(render(&screen, Paint::PLAIN), expected);

        screen.status.conflicts = vec![Conflicts { source: "app".to_owned(), events: 2 }];
        let line =
            "\n2 events of app not kept: their keys were used before for another type or body\n";
        assert!(render(&screen, Paint::PLAIN).contains(line));

        let stuck = json!({
            "pipeline": "orders", "step": "routes[0].steps[1]", "since": "2026-07-31T14:03:00Z",
            "last": "2026-07-31T14:04:50Z", "events": 3, "threads": 1,
            "retry_at": "2026-07-31T14:05:20Z", "blocked": null,
        });
        screen.status.stuck_scripts = vec![serde_json::from_value(stuck).unwrap()];
        let line = "\nthe script of orders, routes[0].steps[1], got stuck 2 min ago: 3 events became dead \
                    letters; it is tried again in 20 s; it holds 1 thread\n";
        let rendered = render(&screen, Paint::PLAIN);
        assert!(rendered.contains(line), "{rendered}");
        screen.status.stuck_scripts.clear();

        screen.status.conflicts.clear();
        screen.status.destinations.clear();
        screen.status.refuses = Some("disk_full".to_owned());
        screen.dead = 200;
        let expected = "tidegate 0.1.0 accepts no events: the disk is full · 0 deliveries owed · 200 dead letters or more\nno destinations\n";
        assert_eq!(render(&screen, Paint::PLAIN), expected);
    }
}
