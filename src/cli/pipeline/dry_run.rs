//! What a pipeline would do, as people read it: one block for each step, and then the requests.

use std::{collections::BTreeMap, fmt::Write as _, time::Duration};

use serde::Deserialize;
use serde_json::Value;

use crate::cli::{
    cases::{Case, FailureView, failures},
    error::{CliError, Result},
    output::{Paint, clip, duration, plural},
};

const LONGEST: usize = 100;
/// Bytes of a body that are shown; `--json` has all of it.
const LONGEST_BODY: usize = 4000;

#[derive(Debug, Deserialize)]
pub struct Tests {
    pub tests: Vec<Case>,
}

#[derive(Debug, Deserialize)]
pub struct Tried {
    pipeline: String,
    pipeline_version: u32,
    saved: bool,
    enabled: bool,
    event: DryRunEvent,
    dropped: Option<Dropped>,
    #[serde(default)]
    steps: Vec<StepView>,
    #[serde(default)]
    routes: Vec<RouteView>,
    #[serde(default)]
    pub failures: Option<Vec<FailureView>>,
}

#[derive(Debug, Deserialize)]
struct DryRunEvent {
    id: String,
    #[serde(rename = "type")]
    event_type: String,
}

#[derive(Debug, Deserialize)]
struct Dropped {
    at: String,
    reason: String,
}

#[derive(Debug, Deserialize)]
struct StepView {
    at: String,
    kind: String,
    duration_ms: f64,
    #[serde(default)]
    events: Vec<Application>,
}

#[derive(Debug, Deserialize)]
struct Application {
    outcome: String,
    #[serde(default)]
    made: Vec<MadeView>,
    #[serde(default)]
    omitted: u64,
    #[serde(default)]
    reason: Option<String>,
    #[serde(default)]
    line: Option<usize>,
    #[serde(default)]
    column: Option<usize>,
    #[serde(default)]
    log: Vec<String>,
    #[serde(default)]
    asked: Option<LookupView>,
}

#[derive(Debug, Deserialize)]
struct MadeView {
    #[serde(default)]
    changes: Vec<ChangeView>,
    #[serde(default)]
    omitted: u64,
}

#[derive(Debug, Deserialize)]
struct ChangeView {
    path: String,
    /// Nothing stood there, or `null`, which is another thing.
    #[serde(default, deserialize_with = "there")]
    before: Option<Value>,
    #[serde(default, deserialize_with = "there")]
    after: Option<Value>,
}

#[derive(Debug, Deserialize)]
struct LookupView {
    status: String,
    #[serde(default)]
    from: Option<String>,
    #[serde(default)]
    reason: Option<String>,
    duration_ms: f64,
}

#[derive(Debug, Deserialize)]
struct RouteView {
    to: String,
    matched: bool,
    #[serde(default)]
    stopped: Vec<StoppedView>,
    #[serde(default)]
    steps: Vec<StepView>,
    #[serde(default)]
    messages: Vec<MessageView>,
}

#[derive(Debug, Deserialize)]
struct StoppedView {
    by: String,
    reason: String,
}

#[derive(Debug, Deserialize)]
struct MessageView {
    message_id: String,
    #[serde(default)]
    requests: Vec<RequestView>,
    #[serde(default)]
    problem: Option<String>,
}

#[derive(Debug, Deserialize)]
struct RequestView {
    method: String,
    url: String,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    #[serde(default)]
    body: String,
}

fn there<'de, D: serde::Deserializer<'de>>(it: D) -> std::result::Result<Option<Value>, D::Error> {
    Value::deserialize(it).map(Some)
}

/// Says how the cases went, by the exit code.
pub fn verdict(outcome: &Tests) -> Result<()> {
    let failed = outcome.tests.iter().filter(|it| !it.passed).count();
    match failed {
        0 => Ok(()),
        _ => {
            let all = plural(outcome.tests.len() as u64, "test case");
            Err(CliError::failed(format!("{failed} of {all} failed")))
        }
    }
}

pub fn render(tried: &Tried, paint: Paint) -> String {
    let mut text = String::new();
    let Tried { pipeline, pipeline_version, event, .. } = tried;
    let what = match (tried.saved, tried.enabled) {
        (true, true) => "",
        (true, false) => "  (it is disabled)",
        (false, _) => "  (it is not saved)",
    };
    let _ = writeln!(
        text,
        "{} v{pipeline_version}{what}  {}  {}",
        paint.bold(pipeline),
        event.event_type,
        paint.cyan(&event.id)
    );
    for it in &tried.steps {
        step(it, "", paint, &mut text);
    }
    if let Some(Dropped { at, reason }) = &tried.dropped {
        let reason = clip(reason, LONGEST);
        let _ = writeln!(text, "\n{}", paint.yellow(format_args!("dropped at {at}: {reason}")));
    }
    for it in &tried.routes {
        route(it, paint, &mut text);
    }
    if let Some(found) = &tried.failures {
        let line = match found.is_empty() {
            true => paint.green("✔ as expected"),
            false => paint.red("✘ not as expected"),
        };
        let _ = writeln!(text, "\n{line}");
        failures(found, paint, &mut text);
    }
    text
}

/// `steps[0] filter.match  12 µs`, and below it what it did.
fn step(it: &StepView, indent: &str, paint: Paint, text: &mut String) {
    let took = paint.dim(duration(millis(it.duration_ms)));
    let _ = writeln!(text, "\n{indent}{} {}  {took}", paint.dim(&it.at), paint.bold(&it.kind));
    let is_many = it.events.len() > 1;
    for (number, application) in (1..).zip(&it.events) {
        if is_many {
            let _ = writeln!(text, "{indent}  {}", paint.dim(format_args!("event {number}")));
        }
        applied(application, indent, paint, text);
    }
}

fn applied(it: &Application, indent: &str, paint: Paint, text: &mut String) {
    for line in &it.log {
        let _ = writeln!(text, "{indent}  {} {}", paint.cyan("console:"), clip(line, LONGEST));
    }
    if let Some(LookupView { status, from, reason, duration_ms }) = &it.asked {
        let from = from.as_ref().map_or(String::new(), |it| format!(" by {it}"));
        let reason = reason.as_ref().map_or(String::new(), |it| format!(": {it}"));
        let took = duration(millis(*duration_ms));
        let line = clip(&format!("asked, {status}{from} after {took}{reason}"), LONGEST);
        let _ = writeln!(text, "{indent}  {}", paint.cyan(line));
    }
    let reason = clip(it.reason.as_deref().unwrap_or_default(), 2 * LONGEST);
    match it.outcome.as_str() {
        "unchanged" => {
            let _ = writeln!(text, "{indent}  {}", paint.dim("goes on as it was"));
        }
        "stopped" => {
            let _ = writeln!(text, "{indent}  {}", paint.yellow(format_args!("stops: {reason}")));
        }
        "failed" => {
            let place = match (it.line, it.column) {
                (Some(line), Some(column)) if !reason.contains(" at line ") => {
                    format!(" at line {line}, column {column}")
                }
                (Some(_) | None, _) => String::new(),
            };
            let _ =
                writeln!(text, "{indent}  {}", paint.red(format_args!("fails: {reason}{place}")));
        }
        _ => {
            let is_many = it.made.len() > 1;
            for (number, made) in (1..).zip(&it.made) {
                if is_many {
                    let count = it.made.len();
                    let title = format!("becomes {number} of {count}");
                    let _ = writeln!(text, "{indent}  {}", paint.dim(title));
                }
                changed(made, indent, paint, text);
            }
            if it.omitted > 0 {
                let more = plural(it.omitted, "more event");
                let _ = writeln!(text, "{indent}  {}", paint.dim(format_args!("and {more}")));
            }
        }
    }
}

fn changed(made: &MadeView, indent: &str, paint: Paint, text: &mut String) {
    for ChangeView { path, before, after } in &made.changes {
        let shown = |it: &Value| clip(&it.to_string(), LONGEST);
        let path = clip(path, LONGEST);
        let line = match (before, after) {
            (Some(before), Some(after)) => {
                format!("~ {path}: {} → {}", paint.red(shown(before)), paint.green(shown(after)))
            }
            (None, Some(after)) => paint.green(format_args!("+ {path}: {}", shown(after))),
            (Some(before), None) => paint.red(format_args!("- {path}: {}", shown(before))),
            (None, None) => continue,
        };
        let _ = writeln!(text, "{indent}  {line}");
    }
    if made.omitted > 0 {
        let more = plural(made.omitted, "more change");
        let _ = writeln!(text, "{indent}  {}", paint.dim(format_args!("and {more}")));
    } else if made.changes.is_empty() {
        let _ = writeln!(text, "{indent}  {}", paint.dim("the same values, formatted differently"));
    }
}

fn route(it: &RouteView, paint: Paint, text: &mut String) {
    let to = paint.bold(&it.to);
    let verdict = match it.matched {
        true => paint.green("gets it"),
        false => paint.yellow("gets nothing"),
    };
    let _ = writeln!(text, "\n→ {to}  {verdict}");
    for StoppedView { by, reason } in &it.stopped {
        let _ = writeln!(
            text,
            "  {}",
            paint.yellow(format_args!("by {by}: {}", clip(reason, LONGEST)))
        );
    }
    for step in &it.steps {
        self::step(step, "  ", paint, text);
    }
    for message in &it.messages {
        if let Some(problem) = &message.problem {
            let problem = clip(problem, LONGEST);
            let line = paint.red(format_args!("nothing is sent: {problem}"));
            let _ = writeln!(text, "  {}  {line}", paint.cyan(&message.message_id));
        }
        for request in &message.requests {
            let _ = writeln!(
                text,
                "\n  {} {}",
                paint.bold(&request.method),
                clip(&request.url, 2 * LONGEST)
            );
            for (name, value) in &request.headers {
                let _ = writeln!(
                    text,
                    "    {} {}",
                    paint.dim(format_args!("{name}:")),
                    clip(value, 2 * LONGEST)
                );
            }
            let _ = writeln!(text, "    {}", clip(&request.body, LONGEST_BODY));
        }
    }
}

fn millis(it: f64) -> Duration {
    Duration::try_from_secs_f64(it / 1e3).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_dry_run_reads_from_top_to_bottom() {
        let tried: Tried = serde_json::from_value(json!({
            "pipeline": "signups", "pipeline_version": 3, "saved": false, "enabled": true,
            "event": {"id": "evt_1", "type": "user.signed_up"}, "dropped": null,
            "steps": [
                {"at": "steps[0]", "kind": "filter.match", "duration_ms": 0.012, "events": [
                    {"outcome": "unchanged", "made": [{"changes": [], "omitted": 0}]}]},
                {"at": "steps[1]", "kind": "transform.js", "duration_ms": 1.2, "events": [
                    {"outcome": "several", "log": ["plan pro"], "made": [
                        {"changes": [{"path": "/payload/n", "before": null, "after": 1}], "omitted": 0},
                        {"changes": [{"path": "/payload/a", "before": 1}, {"path": "/type", "after": "x"}], "omitted": 2}]}]},
            ],
            "routes": [
                {"to": "crm", "matched": true, "messages": [{"message_id": "evt_1_1", "requests": [
                    {"method": "POST", "url": "https://a.com/", "headers": {"host": "a.com"}, "body": "{}"}]}]},
                {"to": "sales", "matched": false, "stopped": [{"by": "when", "reason": "`x` does not hold"}]},
            ],
            "failures": [{"what": "routes", "expected": ["crm"], "got": []}],
        }))
        .unwrap();
        let expected = "\
signups v3  (it is not saved)  user.signed_up  evt_1

steps[0] filter.match  12 µs
  goes on as it was

steps[1] transform.js  1.2 ms
  console: plan pro
  becomes 1 of 2
  ~ /payload/n: null → 1
  becomes 2 of 2
  - /payload/a: 1
  + /type: \"x\"
  and 2 more changes

→ crm  gets it

  POST https://a.com/
    host: a.com
    {}

→ sales  gets nothing
  by when: `x` does not hold

✘ not as expected
    routes: expected [\"crm\"], got []
";
        assert_eq!(render(&tried, Paint::PLAIN), expected);
        assert!(render(&tried, Paint::COLOURED).contains("\x1b[31m- /payload/a: 1"));
    }
}
