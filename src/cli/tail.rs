//! `tidegate tail`: events and attempts as they happen.

use jiff::{Timestamp, tz::TimeZone};
use serde::Deserialize;

use super::{
    Context,
    error::{CliError, Result},
    json::Json,
    output::{self, Paint, clip, clock_time},
    sse::{self, StreamNote},
    views::{self, EntryView, StoredEventView},
};
use crate::model::{Class, Pattern};

/// Follow events and delivery attempts live
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  tidegate tail                                    everything
  tidegate tail --type 'user.*' --destination crm  one kind of event, one destination
  tidegate tail --failed                           only attempts that failed
  tidegate tail --json | jq .id                    for programs")]
pub struct Args {
    /// Only events of this type, or group such as 'user.*'
    #[arg(long = "type", value_name = "TYPE", value_parser = pattern)]
    event_type: Option<Pattern>,
    /// Only attempts to this destination
    #[arg(long, value_name = "NAME")]
    destination: Option<String>,
    /// Only failed attempts
    #[arg(long)]
    failed: bool,
    /// Print one JSON object per line
    #[arg(long)]
    json: bool,
}

/// For clap.
pub fn pattern(text: &str) -> Result<Pattern, String> {
    Pattern::try_from(text.to_owned()).map_err(|error| error.to_string())
}

impl Args {
    fn query(&self) -> Vec<(&'static str, String)> {
        let mut query = Vec::new();
        query.extend(self.event_type.clone().map(|it| ("type", String::from(it))));
        query.extend(self.destination.clone().map(|it| ("destination", it)));
        query.extend(self.failed.then(|| ("failed", "true".to_owned())));
        query
    }
}

/// What the stream says.
pub enum Sight {
    Event(StoredEventView),
    Attempt(EntryView),
    /// So many were left out, because we read too slowly.
    Missed(u64),
}

impl Sight {
    /// `None`: something that only a newer version knows.
    pub fn read(event: &sse::StreamEvent) -> Result<Option<Self>> {
        #[derive(Deserialize)]
        struct MissedNote {
            missed: u64,
        }
        let value = Json::parse(event.data.as_bytes())
            .map_err(|_| CliError::Answer { what: "the stream does not speak JSON".to_owned() })?;
        Ok(match event.name.as_str() {
            "event" => Some(Self::Event(value.read()?)),
            "attempt" => Some(Self::Attempt(value.read()?)),
            "missed" => Some(Self::Missed(value.read::<MissedNote>()?.missed)),
            _ => None,
        })
    }
}

/// Runs until Ctrl-C, or until nobody reads.
pub async fn run(context: &Context, args: Args) -> Result<()> {
    let mut stream = sse::Stream::new(context.client.clone(), "/api/v1/tail", args.query());
    let mut reported = ConnectionNotes::default();
    loop {
        let next = tokio::select! {
            next = stream.next() => next?,
            _ = tokio::signal::ctrl_c() => return Ok(()),
        };
        let Some(event) = reported.note(next) else { continue };
        let Some(sight) = Sight::read(&event)? else { continue };
        if let Sight::Missed(count) = sight {
            output::note(format_args!(
                "{count} more were left out: they came faster than they could be shown"
            ));
        } else if args.json {
            context.out.line(to_json_line(&event))?;
        } else {
            context.out.line(render(&sight, context.out.paint, &context.zone))?;
        }
    }
}

/// What was sent, on one line, with its kind in front. Numbers stay as they were written.
fn to_json_line(event: &sse::StreamEvent) -> String {
    // JSON has line breaks only between its tokens.
    let data = event.data.replace('\n', " ");
    let kind = serde_json::Value::from(event.name.as_str());
    match data.trim_start().strip_prefix('{').map(str::trim_start) {
        Some("}") => format!("{{\"kind\":{kind}}}"),
        Some(rest) => format!("{{\"kind\":{kind},{rest}"),
        None => data,
    }
}

/// Tells people about connections, once for each change.
#[derive(Default)]
pub struct ConnectionNotes {
    is_broken: bool,
    was_connected: bool,
}

impl ConnectionNotes {
    pub fn note(&mut self, reported: StreamNote) -> Option<sse::StreamEvent> {
        match reported {
            StreamNote::Event(event) if event.name == "end" => {
                // What follows is tried again; where that is refused, the gateway says so itself.
                let reason = sse::end_reason(&event);
                output::note(format_args!("the gateway ended the stream: {reason}; trying again"));
                self.is_broken = true;
                return None;
            }
            StreamNote::Event(event) => return Some(event),
            StreamNote::Connected if self.is_broken => output::note("connected again"),
            StreamNote::Connected if !self.was_connected => {
                output::note("connected · waiting for events · Ctrl-C ends")
            }
            StreamNote::Connected => (),
            StreamNote::Broken { reason, .. } if !self.is_broken => {
                output::note(format_args!("the connection broke ({reason}); trying again"));
                self.is_broken = true;
                return None;
            }
            StreamNote::Broken { .. } => return None,
        }
        (self.is_broken, self.was_connected) = (false, true);
        None
    }
}

/// One line for each.
fn render(sight: &Sight, paint: Paint, zone: &TimeZone) -> String {
    let time = |at: Timestamp| clock_time(at, zone);
    match sight {
        Sight::Event(it) => {
            let source = it.source.as_deref().unwrap_or("?");
            let name = paint.bold(&it.event_type);
            let payload = paint.dim(clip(it.payload.as_str(), 60));
            format!(
                "{}  ● {name}  {}  from {source}  {payload}",
                time(it.received_at),
                paint.cyan(&it.id)
            )
        }
        Sight::Attempt(it) => {
            let outcome = clip(&views::outcome(it.status, &it.reason), 60);
            let (mark, outcome) = match it.class {
                Some(Class::Accepted) => (paint.green("✔"), paint.green(outcome)),
                Some(_) => (paint.red("✘"), paint.red(outcome)),
                None => (paint.dim("–"), paint.dim(outcome)),
            };
            let number = it.attempt.map(|it| format!("  attempt {it}")).unwrap_or_default();
            let took = match it.attempt {
                Some(_) => format!("  {}", output::duration(it.duration())),
                None => String::new(),
            };
            let ended =
                it.ended.map(|it| format!("  {}", views::state(it, paint))).unwrap_or_default();
            format!(
                "{}  {mark} {}  {}  → {}{number}  {outcome}{took}{ended}",
                time(it.at),
                it.event_type,
                paint.cyan(&it.event_id),
                it.destination,
            )
        }
        Sight::Missed(count) => format!("{count} left out"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(name: &str, data: &str) -> String {
        let event = sse::StreamEvent { name: name.to_owned(), data: data.to_owned() };
        render(&Sight::read(&event).unwrap().unwrap(), Paint::PLAIN, &TimeZone::UTC)
    }

    #[test]
    fn each_sight_is_one_line() {
        let event = r#"{"id":"evt_1","type":"user.signed_up","source":"app","received_at":"2026-07-31T14:03:21.482Z","payload":{"plan":"pro"}}"#;
        let failed = r#"{"event_id":"evt_1","event_type":"user.signed_up","delivery_id":"dlv_1","destination":"crm","at":"2026-07-31T14:03:21.5Z",
            "attempt":1,"class":"status","status":503,"reason":"503 Service Unavailable","duration_ms":12.34}"#;
        let delivered = r#"{"event_id":"evt_1","event_type":"user.signed_up","delivery_id":"dlv_1","destination":"crm","at":"2026-07-31T14:03:26.5Z",
            "attempt":2,"class":"accepted","status":200,"reason":"","duration_ms":8,"ended":"delivered"}"#;
        let cancelled = r#"{"event_id":"evt_1","event_type":"user.signed_up","delivery_id":"dlv_1","destination":"crm","at":"2026-07-31T14:03:26.5Z",
            "reason":"cancelled by a person","ended":"cancelled"}"#;
        for (name, data, expected) in [
            ("event", event, "14:03:21.482  ● user.signed_up  evt_1  from app  {\"plan\":\"pro\"}"),
            (
                "attempt",
                failed,
                "14:03:21.500  ✘ user.signed_up  evt_1  → crm  attempt 1  503 Service Unavailable  12.3 ms",
            ),
            (
                "attempt",
                delivered,
                "14:03:26.500  ✔ user.signed_up  evt_1  → crm  attempt 2  200  8.0 ms  delivered",
            ),
            (
                "attempt",
                cancelled,
                "14:03:26.500  – user.signed_up  evt_1  → crm  cancelled by a person  cancelled",
            ),
        ] {
            assert_eq!(shown(name, data), expected);
        }
    }

    #[test]
    fn json_is_one_line_that_says_its_kind() {
        for (data, expected) in [
            (
                "{\"id\":\"evt_1\",\n\"payload\":{\"n\":1.50}}",
                r#"{"kind":"event","id":"evt_1", "payload":{"n":1.50}}"#,
            ),
            ("{}", r#"{"kind":"event"}"#),
        ] {
            let event = sse::StreamEvent { name: "event".to_owned(), data: data.to_owned() };
            assert_eq!(to_json_line(&event), expected);
        }
    }

    #[test]
    fn unknown_messages_of_a_newer_gateway_are_skipped() {
        let event = sse::StreamEvent { name: "weather".to_owned(), data: "{}".to_owned() };
        assert!(Sight::read(&event).unwrap().is_none());
    }
}
