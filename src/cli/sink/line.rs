//! A received webhook as one line for people, or as JSON for programs.

use jiff::{Timestamp, tz::TimeZone};
use serde::Serialize;

use super::{Counters, Judgement, Received};
use crate::cli::{
    json::Json,
    output::{Paint, clip, clock_time, plural},
};

/// `14:03:21.482  user.signed_up  evt_…  attempt 2  ✔ signed  200`
pub fn render(it: &Received, paint: Paint, zone: &TimeZone) -> String {
    const LONGEST: usize = 80;
    let name = match &it.event_type {
        Some(name) => paint.bold(clip(name, LONGEST)),
        None => paint.dim(format_args!("{} {}", it.method, clip(&it.path, LONGEST))),
    };
    let id =
        it.id.as_deref().map_or_else(|| paint.dim("no id"), |it| paint.cyan(clip(it, LONGEST)));
    let attempt = match it.attempt {
        1 => format!("attempt {}", it.attempt),
        _ => paint.yellow(format_args!("attempt {}", it.attempt)),
    };
    let signature = match it.signature {
        Judgement::NotAsked => paint.dim("– not verified"),
        Judgement::Verified => paint.green("✔ signature verified"),
        Judgement::Refused(error) => paint.red(format_args!("✘ {error}")),
    };
    let mut parts = vec![clock_time(it.at, zone), name, id, attempt, signature];
    if it.is_duplicate {
        parts.push(paint.yellow("duplicate"));
    }
    let status = it.answer.as_u16();
    parts.push(match (it.answer.is_success(), it.is_failed_on_purpose) {
        (true, _) => paint.green(status),
        (false, true) => paint.red(format_args!("{status} on purpose")),
        (false, false) => paint.red(status),
    });
    parts.join("  ")
}

/// What a program reads of a webhook. The body is as it came, where it is JSON.
#[derive(Serialize)]
struct SinkLine<'a> {
    at: Timestamp,
    method: &'a str,
    path: &'a str,
    #[serde(rename = "type")]
    event_type: Option<&'a str>,
    id: Option<&'a str>,
    attempt: u32,
    duplicate: bool,
    verified: Option<bool>,
    /// Why the signature does not hold.
    reason: Option<String>,
    status: u16,
    body: Json,
}

pub fn to_json(it: &Received) -> Json {
    let (verified, reason) = match it.signature {
        Judgement::NotAsked => (None, None),
        Judgement::Verified => (Some(true), None),
        Judgement::Refused(error) => (Some(false), Some(error.to_string())),
    };
    Json::of(&SinkLine {
        at: it.at,
        method: it.method.as_str(),
        path: &it.path,
        event_type: it.event_type.as_deref(),
        id: it.id.as_deref(),
        attempt: it.attempt,
        duplicate: it.is_duplicate,
        verified,
        reason,
        status: it.answer.as_u16(),
        body: Json::parse(&it.body)
            .unwrap_or_else(|_| Json::of(&String::from_utf8_lossy(&it.body))),
    })
}

/// The body, indented below its line.
pub fn body(bytes: &[u8]) -> String {
    let text = match Json::parse(bytes) {
        Ok(json) => json.pretty(),
        Err(_) => String::from_utf8_lossy(bytes).into_owned(),
    };
    text.lines().map(|line| format!("    {}\n", clip(line, usize::MAX))).collect()
}

/// `12 webhooks: 10 accepted, 2 failed on purpose, 1 duplicate · 12 signatures verified, 0 refused`
pub fn summary(it: &Counters, verifies: bool) -> String {
    let mut text = format!("{}: {} accepted", plural(it.received, "webhook"), it.accepted);
    if it.failed_on_purpose > 0 {
        text.push_str(&format!(", {} failed on purpose", it.failed_on_purpose));
    }
    text.push_str(&format!(", {}", plural(it.duplicates, "duplicate")));
    if verifies {
        text.push_str(&format!(
            " · {} verified, {} refused",
            plural(it.verified, "signature"),
            it.refused
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::{Method, StatusCode};

    use super::*;
    use crate::crypto::signature::VerifyError;

    fn received() -> Received {
        Received {
            at: "2026-07-31T14:03:21.482Z".parse().unwrap(),
            method: Method::POST,
            path: "/hooks".to_owned(),
            event_type: Some("user.signed_up".to_owned()),
            id: Some("evt_1".to_owned()),
            attempt: 1,
            is_duplicate: false,
            signature: Judgement::Verified,
            answer: StatusCode::OK,
            is_failed_on_purpose: false,
            body: Bytes::from_static(br#"{"type":"user.signed_up"}"#),
        }
    }

    #[test]
    fn a_webhook_is_one_line() {
        let usual = received();
        let again = Received { attempt: 2, is_duplicate: true, ..received() };
        let wrong = Received {
            signature: Judgement::Refused(VerifyError::Mismatch),
            answer: StatusCode::UNAUTHORIZED,
            ..received()
        };
        let bare = Received {
            event_type: None,
            id: None,
            signature: Judgement::NotAsked,
            answer: StatusCode::SERVICE_UNAVAILABLE,
            is_failed_on_purpose: true,
            ..received()
        };
        for (it, expected) in [
            (usual, "14:03:21.482  user.signed_up  evt_1  attempt 1  ✔ signature verified  200"),
            (
                again,
                "14:03:21.482  user.signed_up  evt_1  attempt 2  ✔ signature verified  duplicate  200",
            ),
            (wrong, "14:03:21.482  user.signed_up  evt_1  attempt 1  ✘ no signature matches  401"),
            (bare, "14:03:21.482  POST /hooks  no id  attempt 1  – not verified  503 on purpose"),
        ] {
            assert_eq!(render(&it, Paint::PLAIN, &TimeZone::UTC), expected);
        }
    }

    #[test]
    fn a_hostile_type_cannot_move_the_cursor() {
        let it = Received { event_type: Some("a\x1b[2J\nb".to_owned()), ..received() };
        let line = render(&it, Paint::PLAIN, &TimeZone::UTC);
        assert!(!line.contains(['\x1b', '\n']), "{line:?}");
    }

    #[test]
    fn the_counters_add_up() {
        let mut counters = Counters::default();
        counters.add(&received());
        counters.add(&Received { is_duplicate: true, ..received() });
        let expected = "2 webhooks: 2 accepted, 1 duplicate · 2 signatures verified, 0 refused";
        assert_eq!(summary(&counters, true), expected);
    }

    #[test]
    fn json_for_programs_keeps_the_body_as_it_came() {
        let it = Received { body: Bytes::from_static(br#"{"n":1.50}"#), ..received() };
        let expected = r#"{"at":"2026-07-31T14:03:21.482Z","method":"POST","path":"/hooks","type":"user.signed_up","id":"evt_1","attempt":1,"duplicate":false,"verified":true,"reason":null,"status":200,"body":{"n":1.50}}"#;
        assert_eq!(to_json(&it).line(), expected);
        let it = Received { body: Bytes::from_static(b"hi"), ..received() };
        assert!(to_json(&it).line().ends_with(r#""body":"hi"}"#));
    }

    #[test]
    fn a_body_is_shown_indented() {
        assert_eq!(body(br#"{"a":1}"#), "    {\n      \"a\": 1\n    }\n");
        assert_eq!(body(b"plain"), "    plain\n");
    }
}
