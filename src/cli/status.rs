//! `tidegate status`: how everything is, on one screen.

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    Context,
    client::pages,
    error::Result,
    output::{self, Paint, clip, count, distance, plural, table},
    views,
};

/// How everything is: destinations, what is owed to them, and what nobody accepted
#[derive(Debug, clap::Args)]
pub struct Args {
    /// As JSON
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Debug, Deserialize)]
struct Destination {
    name: String,
    #[serde(default)]
    kind: String,
    state: String,
    #[serde(default)]
    reason: Option<String>,
    #[serde(default)]
    backlog: u64,
    #[serde(default)]
    oldest: Option<Timestamp>,
    #[serde(default)]
    last_error: Option<LastError>,
}

#[derive(Clone, Debug, Deserialize)]
struct LastError {
    at: Timestamp,
    reason: String,
}

pub async fn run(context: &Context, args: Args) -> Result<()> {
    let mut rows: Vec<Value> = Vec::new();
    pages(&context.client, "/api/v1/destinations", Vec::new(), usize::MAX, |row| {
        rows.push(row);
        Ok(())
    })
    .await?;
    let dead = json!({ "selection": { "state": "dead" }, "dry_run": true });
    let dead = context.client.post("/api/v1/replays", &dead).await?;
    let dead = dead.get("total").and_then(Value::as_u64).unwrap_or_default();
    if args.json {
        return context.out.json(&json!({ "destinations": rows, "dead_letters": dead }));
    }
    let destinations = rows.into_iter().map(views::read).collect::<Result<Vec<Destination>>>()?;
    let now = context.clock.now();
    context.out.text(&render(&destinations, dead, now, context.out.paint))?;
    if destinations.is_empty() {
        context.out.next("tidegate apply resources.yaml");
    } else if dead > 0 {
        context.out.next("tidegate dead-letters");
    }
    Ok(())
}

fn render(destinations: &[Destination], dead: u64, now: Timestamp, paint: Paint) -> String {
    let owed: u64 = destinations.iter().map(|it| it.backlog).sum();
    let oldest = destinations.iter().filter_map(|it| it.oldest).min();
    let waiting = match oldest {
        Some(oldest) => format!(
            "{} owed, the oldest accepted {}",
            plural(owed, "delivery"),
            distance(oldest, now)
        ),
        None => format!("{} owed", plural(owed, "delivery")),
    };
    let dead = match dead {
        0 => paint.green("no dead letters"),
        count => paint.red(plural(count, "dead letter")),
    };
    let mut text = format!("{waiting} · {dead}\n");
    if destinations.is_empty() {
        return text + "no destinations\n";
    }
    text.push('\n');
    let headings = ["destination", "kind", "state", "owed", "oldest", "last error"];
    let mut rows = vec![headings.map(|it| paint.dim(it)).to_vec()];
    rows.extend(destinations.iter().map(|it| row(it, now, paint)));
    text + &table(&rows)
}

fn row(it: &Destination, now: Timestamp, paint: Paint) -> Vec<String> {
    let state = match it.state.as_str() {
        "active" => paint.green(&it.state),
        "disabled" => paint.red(&it.state),
        _ => paint.yellow(&it.state),
    };
    let last = match (&it.reason, &it.last_error) {
        (Some(reason), _) => clip(reason, 60),
        (None, Some(error)) => format!("{}, {}", clip(&error.reason, 60), distance(error.at, now)),
        (None, None) => "–".to_owned(),
    };
    vec![
        paint.bold(&it.name),
        it.kind.clone(),
        state,
        count(it.backlog),
        it.oldest.map_or_else(|| "–".to_owned(), |at| output::distance(at, now)),
        last,
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_fits_on_one_screen() {
        let destinations: Vec<Destination> = serde_json::from_value(json!([
            {"name": "crm", "kind": "webhook", "state": "active", "backlog": 1200, "oldest": "2026-07-31T14:00:00Z",
             "last_error": {"at": "2026-07-31T14:04:48Z", "reason": "503 Service Unavailable"}},
            {"name": "erp", "kind": "webhook", "state": "disabled", "reason": "410 Gone"},
        ]))
        .unwrap();
        let now = "2026-07-31T14:05:00Z".parse().unwrap();
        let expected = "\
1,200 deliveries owed, the oldest accepted 5 min ago · 2 dead letters

destination  kind     state     owed   oldest     last error
crm          webhook  active    1,200  5 min ago  503 Service Unavailable, 12 s ago
erp          webhook  disabled  0      –          410 Gone
";
        assert_eq!(render(&destinations, 2, now, Paint::PLAIN), expected);
        assert_eq!(
            render(&[], 0, now, Paint::PLAIN),
            "0 deliveries owed · no dead letters\nno destinations\n"
        );
    }
}
