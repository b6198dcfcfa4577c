//! The story of one event: received, planned, and each attempt, in the order of time.

use std::time::Duration;

use jiff::{Timestamp, tz::TimeZone};

use super::{
    json::Json,
    output::{self, Paint, clip, date_time, duration, plural},
    views::{self, Delivery, EntryView, Skipped, StoredEventView},
};
use crate::model::{Class, DeliveryState};

const LONGEST_REASON: usize = 72;

/// What happened to an event, as far as `now`.
pub fn render(event: &StoredEventView, now: Timestamp, paint: Paint, zone: &TimeZone) -> String {
    let mut text = format!("{}  {}\n", paint.bold(&event.event_type), paint.cyan(&event.id));
    let source = event.source.as_deref().unwrap_or("?");
    text.push_str(&format!("  received   {}  from {source}\n", date_time(event.received_at, zone)));
    if let Some(happened) = event.timestamp.filter(|it| *it != event.received_at) {
        text.push_str(&format!("  happened   {}\n", date_time(happened, zone)));
    }
    if let Some(key) = &event.idempotency_key {
        text.push_str(&format!("  key        {}\n", clip(key, LONGEST_REASON)));
    }
    text.push_str(&format!("  {}\n", planned(event, paint)));
    for skipped in &event.skipped {
        text.push_str(&format!("    {} {}\n", paint.dim("skipped"), skip(skipped)));
    }
    for it in &event.deliveries {
        text.push('\n');
        text.push_str(&delivery(it, event.received_at, now, paint));
    }
    text
}

fn planned(event: &StoredEventView, paint: Paint) -> String {
    if !event.planned && event.deliveries.is_empty() {
        return paint.yellow("not yet planned: the pipeline has not come to it");
    }
    match event.deliveries.len() as u64 {
        0 => paint.yellow("planned    no delivery: no route wanted it"),
        count => format!("planned    {}", plural(count, "delivery")),
    }
}

/// `signups → sales-slack by when: payload.plan == "scale" is false`
fn skip(it: &Skipped) -> String {
    let place = match (&it.pipeline, &it.route) {
        (Some(pipeline), Some(route)) => format!("{pipeline} → {route} "),
        (Some(pipeline), None) => format!("{pipeline} "),
        (None, _) => String::new(),
    };
    format!("{place}by {}: {}", it.by, clip(&it.reason, LONGEST_REASON))
}

/// The state of a delivery, and its attempts with bars as long as they took.
pub fn delivery(it: &Delivery, since: Timestamp, now: Timestamp, paint: Paint) -> String {
    let tries = match it.attempts {
        0 => String::new(),
        count => format!(" after {}", plural(count.into(), "attempt")),
    };
    let mut text = format!(
        "  → {}  {}{tries}  {}\n",
        paint.bold(&it.destination),
        views::state(it.state, paint),
        paint.dim(&it.id),
    );
    if let Some(replay) = &it.replay {
        text.push_str(&format!("    {}\n", paint.dim(format_args!("made by replay {replay}"))));
    }
    let longest = it.log.iter().map(EntryView::duration).max().unwrap_or_default();
    for entry in &it.log {
        text.push_str(&format!("    {}\n", line(entry, since, longest, paint)));
        if let Some(response) =
            entry.response.as_deref().filter(|_| entry.class != Some(Class::Accepted))
        {
            text.push_str(&format!(
                "               {}\n",
                paint.dim(format_args!("it said: {}", clip(response, LONGEST_REASON)))
            ));
        }
    }
    match (it.state, it.due) {
        (DeliveryState::Retrying, Some(due)) => {
            text.push_str(&format!(
                "    {}\n",
                paint.yellow(format_args!("next attempt {}", output::distance(due, now)))
            ));
        }
        (DeliveryState::Pending, _) => {
            text.push_str(&format!("    {}\n", paint.cyan("waits for its first attempt")))
        }
        (
            DeliveryState::Retrying
            | DeliveryState::Delivered
            | DeliveryState::Dead
            | DeliveryState::Expired
            | DeliveryState::Cancelled,
            _,
        ) => (),
    }
    text
}

/// `+5.1 s     ✘ attempt 1  ████  120 ms  503 Service Unavailable`
fn line(it: &EntryView, since: Timestamp, longest: Duration, paint: Paint) -> String {
    let offset = Duration::try_from(it.at.duration_since(since)).unwrap_or_default();
    let offset = format!("{:<10}", format!("+{}", duration(offset)));
    let outcome = clip(&views::outcome(it.status, &it.reason), LONGEST_REASON);
    let Some(number) = it.attempt else {
        return format!("{} {} {outcome}", paint.dim(offset), paint.dim("–"));
    };
    let is_accepted = it.class == Some(Class::Accepted);
    let (mark, outcome) = match is_accepted {
        true => (paint.green("✔"), paint.green(outcome)),
        false => (paint.red("✘"), paint.red(outcome)),
    };
    let took = duration(it.duration());
    format!(
        "{} {mark} attempt {number:<3} {} {took:>8}  {outcome}",
        paint.dim(offset),
        bar(it.duration(), longest, paint)
    )
}

/// Ten cells for the longest attempt, at least one for each.
fn bar(took: Duration, longest: Duration, paint: Paint) -> String {
    const CELLS: f64 = 10.0;
    let share = if longest.is_zero() { 0.0 } else { took.as_secs_f64() / longest.as_secs_f64() };
    let filled = (share * CELLS).round().clamp(1.0, CELLS) as usize;
    format!("{}{}", paint.cyan("▆".repeat(filled)), " ".repeat(CELLS as usize - filled))
}

/// Payload and metadata, for `--body`.
pub fn body(event: &StoredEventView) -> String {
    let indented = |name: &str, value: &Json| {
        let lines: Vec<_> = value.pretty().lines().map(|line| format!("    {line}\n")).collect();
        format!("\n  {name}\n{}", lines.concat())
    };
    format!("{}{}", indented("payload", &event.payload), indented("metadata", &event.metadata))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn shown(event: Value) -> String {
        let now = "2026-07-31T14:05:00Z".parse().unwrap();
        render(&Json::of(&event).read().unwrap(), now, Paint::PLAIN, &TimeZone::UTC)
    }

    #[test]
    fn the_story_of_an_event_reads_from_top_to_bottom() {
        let text = shown(json!({
            "id": "evt_1", "type": "user.signed_up", "source": "app", "idempotency_key": "user-42",
            "timestamp": "2026-07-31T14:00:00Z", "received_at": "2026-07-31T14:03:21.482Z", "planned": true,
            "skipped": [{"pipeline": "signups", "route": "sales-slack", "by": "when", "reason": "payload.plan == \"scale\" is false"}],
            "deliveries": [
                {"id": "dlv_1", "destination": "crm", "state": "delivered", "attempts": 2, "log": [
                    {"at": "2026-07-31T14:03:21.483Z", "attempt": 1, "class": "status", "status": 503,
                     "reason": "503 Service Unavailable", "duration_ms": 120.0, "response": "try\nlater"},
                    {"at": "2026-07-31T14:03:26.6Z", "attempt": 2, "class": "accepted", "status": 200, "reason": "200 OK", "duration_ms": 18.4},
                ]},
                {"id": "dlv_2", "destination": "erp", "state": "retrying", "attempts": 1, "due": "2026-07-31T14:06:30Z", "log": [
                    {"at": "2026-07-31T14:03:21.49Z", "attempt": 1, "class": "connect", "reason": "connection refused", "duration_ms": 0.3},
                ]},
                {"id": "dlv_3", "destination": "old", "state": "expired", "replay": "rpl_1", "log": [
                    {"at": "2026-07-31T15:03:21.482Z", "reason": "expired after 1 h"},
                ]},
            ],
        }));
        let expected = "\
user.signed_up  evt_1
  received   2026-07-31 14:03:21  from app
  happened   2026-07-31 14:00:00
  key        user-42
  planned    3 deliveries
    skipped signups → sales-slack by when: payload.plan == \"scale\" is false

  → crm  delivered after 2 attempts  dlv_1
    +1.0 ms    ✘ attempt 1   ▆▆▆▆▆▆▆▆▆▆   120 ms  503 Service Unavailable
               it said: try later
    +5.1 s     ✔ attempt 2   ▆▆          18.4 ms  200 OK

  → erp  retrying after 1 attempt  dlv_2
    +8.0 ms    ✘ attempt 1   ▆▆▆▆▆▆▆▆▆▆   300 µs  connection refused
    next attempt in 1 min 30 s

  → old  expired  dlv_3
    made by replay rpl_1
    +1 h       – expired after 1 h
";
        assert_eq!(text, expected);
    }

    #[test]
    fn an_event_that_went_nowhere_says_why() {
        let mut event = json!({"id": "evt_1", "type": "x", "received_at": "2026-07-31T14:03:21Z", "planned": false});
        assert!(shown(event.clone()).contains("not yet planned"));
        event["planned"] = json!(true);
        event["skipped"] = json!([{"by": "trigger", "reason": "no pipeline wants `x`"}]);
        let text = shown(event);
        assert!(
            text.contains(
                "no delivery: no route wanted it\n    skipped by trigger: no pipeline wants `x`\n"
            ),
            "{text}"
        );
    }
}
