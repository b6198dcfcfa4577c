//! What an endpoint's answer means. Pure.

use std::time::Duration;

use http::{HeaderMap, StatusCode, header};
use jiff::Timestamp;

use super::date;
use crate::{
    destinations::egress::EndpointAnswer,
    model::{Class, OnGone, Outcome, Snippet},
};

/// With this header an endpoint says what should become of the webhook, beside its status:
/// `disable` (send nothing more) or `abort-message` (do not try this message again).
const CONTROL: &str = "webhook-delivery";

/// How a contract has answers understood.
#[derive(Clone, Copy, Debug)]
pub(super) struct AnswerRules {
    /// Nothing has arrived before the whole answer has.
    pub whole: bool,
    pub on_gone: OnGone,
    /// The URL is a template, so what is said about it is said about this message.
    pub is_template: bool,
    /// The request was signed, with the time in it or not.
    pub is_signed: bool,
}

/// The outcome of an answer that came at `now`, after `duration`.
///
/// 2xx accepts, whatever else is said: the message has arrived. Only a contract for which nothing has
/// arrived before the whole answer has (`whole`) waits for the end of its body. 410 and the control
/// header count on every other status.
pub(super) fn outcome(
    answer: EndpointAnswer,
    by: AnswerRules,
    now: Timestamp,
    duration: Duration,
) -> Outcome {
    let status = answer.status;
    if by.whole && answer.is_late && status.is_success() {
        return Outcome {
            class: Class::Timeout,
            status: None,
            reason: format!("timed out reading the answer after its status {}", status.as_u16()),
            retry_after: None,
            duration,
            response: Snippet::of(&answer.body),
        };
    }
    let control = answer.headers.get(CONTROL).map(|it| it.as_bytes().trim_ascii());
    let class = class(status, control, by);
    let may_be_the_signature = matches!(status.as_u16(), 400 | 401 | 403) && by.is_signed;
    let clocks = if may_be_the_signature {
        differing_clocks(&answer.headers, now).unwrap_or_default()
    } else {
        String::new()
    };
    let retry_after = if status.is_success() { None } else { retry_after(&answer.headers, now) };
    Outcome {
        class,
        status: Some(status.as_u16()),
        reason: reason(status, class, control == Some(b"disable")) + &clocks,
        retry_after,
        duration,
        response: Snippet::of(&answer.body),
    }
}

fn class(status: StatusCode, control: Option<&[u8]>, by: AnswerRules) -> Class {
    let about_the_endpoint = if by.is_template { Class::Abort } else { Class::Gone };
    let gone = (status == StatusCode::GONE).then_some(by.on_gone);
    match (control, gone) {
        _ if status.is_success() => Class::Accepted,
        (Some(b"disable"), _) | (_, Some(OnGone::Disable)) => about_the_endpoint,
        (Some(b"abort-message"), _) | (_, Some(OnGone::Dead)) => Class::Abort,
        (_, Some(OnGone::Retry) | None) => Class::Status,
    }
}

/// Who refuses a signature may do so for its time: whether their clock is another than ours.
fn differing_clocks(headers: &HeaderMap, now: Timestamp) -> Option<String> {
    const WORTH_TELLING: i64 = 2;
    let theirs = date::http_date(headers.get(header::DATE)?.to_str().ok()?, now)?;
    let minutes = theirs.duration_since(now).as_mins();
    let side = if minutes > 0 { "ahead of" } else { "behind" };
    (minutes.abs() >= WORTH_TELLING).then(|| {
        let by = minutes.abs();
        format!(
            "; the endpoint's clock is {by} min {side} this machine's, and a signature of another time may be \
             refused: check both clocks"
        )
    })
}

fn reason(status: StatusCode, class: Class, is_to_disable: bool) -> String {
    let more = if class == Class::Abort && is_to_disable {
        ": the endpoint asked to be disabled, which counts for this message since the URL is a template"
    } else if class == Class::Abort && status == StatusCode::GONE {
        ": it counts for this message"
    } else if class == Class::Abort {
        ": the endpoint asked for no more attempts"
    } else if class == Class::Gone && status != StatusCode::GONE {
        ": the endpoint asked to be disabled"
    } else if status.is_redirection() {
        ": redirects are not followed"
    } else {
        ""
    };
    said(status, more)
}

/// A status with its name, and what follows.
pub(in crate::destinations) fn said(status: StatusCode, more: &str) -> String {
    let name = status.canonical_reason().unwrap_or_default();
    let space = if name.is_empty() { "" } else { " " };
    [status.as_str(), space, name, more].concat()
}

/// The wait that the endpoint asks for: seconds, also with decimals, or a date (RFC 9110 §10.2.3).
/// A date that is past asks for none. What is neither asks for nothing.
pub(in crate::destinations) fn retry_after(
    headers: &HeaderMap,
    now: Timestamp,
) -> Option<Duration> {
    let text = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    let is_number = text.starts_with(|it: char| it.is_ascii_digit())
        && text.bytes().all(|it| it.is_ascii_digit() || it == b'.');
    if is_number {
        let seconds: f64 = text.parse().ok()?;
        // Some years are as good as any more: the dispatcher bounds it anyway.
        return Some(Duration::try_from_secs_f64(seconds).unwrap_or(Duration::from_secs(1 << 40)));
    }
    let date = date::http_date(text, now)?;
    Some(date.duration_since(now).try_into().unwrap_or(Duration::ZERO))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    const BY: AnswerRules =
        AnswerRules { whole: true, on_gone: OnGone::Disable, is_template: false, is_signed: true };
    const NOW: &str = "2026-11-21T08:00:00Z";

    fn judged(status: u16, headers: &[(&'static str, &str)]) -> Outcome {
        read(BY, status, headers)
    }

    fn read(by: AnswerRules, status: u16, headers: &[(&'static str, &str)]) -> Outcome {
        let headers = headers
            .iter()
            .map(|(name, value)| (header::HeaderName::from_static(name), value.parse().unwrap()));
        let answer = EndpointAnswer {
            status: StatusCode::from_u16(status).unwrap(),
            headers: headers.collect(),
            body: Bytes::from_static(b"try later"),
            is_late: false,
        };
        outcome(answer, by, NOW.parse().unwrap(), Duration::from_millis(7))
    }

    #[test]
    fn contracts_decide_what_a_410_means() {
        use Class::{Abort, Gone, Status};
        for (on_gone, is_template, class, reason) in [
            (OnGone::Disable, false, Gone, "410 Gone"),
            (OnGone::Disable, true, Abort, "410 Gone: it counts for this message"),
            (OnGone::Dead, false, Abort, "410 Gone: it counts for this message"),
            (OnGone::Dead, true, Abort, "410 Gone: it counts for this message"),
            (OnGone::Retry, false, Status, "410 Gone"),
            (OnGone::Retry, true, Status, "410 Gone"),
        ] {
            let by = AnswerRules { on_gone, is_template, ..BY };
            let outcome = read(by, 410, &[]);
            assert_eq!((outcome.class, outcome.reason.as_str()), (class, reason));
            let asked = read(by, 500, &[(CONTROL, "disable")]);
            assert_eq!(asked.class, if is_template { Abort } else { Gone }, "{on_gone:?}");
        }
    }

    #[test]
    fn refusals_by_another_clock_are_recognised() {
        let minutes_ahead = "Sat, 21 Nov 2026 09:01:30 GMT";
        for (status, date, says) in [
            (401, minutes_ahead, true),
            (400, "Sat, 21 Nov 2026 07:30:00 GMT", true),
            (401, "Sat, 21 Nov 2026 08:01:30 GMT", false),
            (503, minutes_ahead, false),
            (401, "soon", false),
        ] {
            let reason = judged(status, &[("date", date)]).reason;
            assert_eq!(reason.contains("the endpoint's clock is "), says, "{reason}");
        }
        let reason = judged(401, &[("date", minutes_ahead)]).reason;
        assert!(reason.starts_with("401 Unauthorized; the endpoint's clock is 61 min ahead of"));
    }

    #[test]
    fn a_status_and_the_control_header_decide_the_class() {
        for (status, control, class, reason) in [
            (200, None, Class::Accepted, "200 OK"),
            (204, None, Class::Accepted, "204 No Content"),
            (202, Some("disable"), Class::Accepted, "202 Accepted"),
            (301, None, Class::Status, "301 Moved Permanently: redirects are not followed"),
            (400, None, Class::Status, "400 Bad Request"),
            (410, None, Class::Gone, "410 Gone"),
            (410, Some("abort-message"), Class::Gone, "410 Gone"),
            (404, Some("disable"), Class::Gone, "404 Not Found: the endpoint asked to be disabled"),
            (
                422,
                Some(" abort-message "),
                Class::Abort,
                "422 Unprocessable Entity: the endpoint asked for no more attempts",
            ),
            (500, Some("whatever"), Class::Status, "500 Internal Server Error"),
            (999, None, Class::Status, "999"),
        ] {
            let headers: Vec<_> = control.iter().map(|it| (CONTROL, *it)).collect();
            let outcome = judged(status, &headers);
            assert_eq!((outcome.class, outcome.reason.as_str()), (class, reason));
            assert_eq!(outcome.status, Some(status));
            assert_eq!(outcome.response.unwrap().to_text(), "try later");
        }
    }

    #[test]
    fn a_late_body_fails_a_success_only_where_the_whole_answer_counts() {
        for (status, whole, class) in [
            (200, false, Class::Accepted),
            (200, true, Class::Timeout),
            (503, false, Class::Status),
            (503, true, Class::Status),
        ] {
            let answer = EndpointAnswer {
                status: StatusCode::from_u16(status).unwrap(),
                headers: HeaderMap::new(),
                body: Bytes::new(),
                is_late: true,
            };
            let outcome = outcome(
                answer,
                AnswerRules { whole, ..BY },
                NOW.parse().unwrap(),
                Duration::from_secs(5),
            );
            assert_eq!(outcome.class, class, "{status} {whole}");
        }
    }

    #[test]
    fn every_way_to_ask_for_a_wait_is_understood_and_garbage_is_not() {
        for (text, seconds) in [
            ("1", Some(1.0)),
            (" 86400 ", Some(86_400.0)),
            ("120.5", Some(120.5)),
            ("0", Some(0.0)),
            ("1000000000", Some(1e9)),
            ("99999999999999999999999999", Some((1_u64 << 40) as f64)),
            ("Sat, 21 Nov 2026 08:02:00 GMT", Some(120.0)),
            ("Fri, 20 Nov 2026 08:02:00 GMT", Some(0.0)),
            ("Saturday, 21-Nov-26 08:02:00 GMT", Some(120.0)),
            ("Sat Nov 21 08:02:00 2026", Some(120.0)),
            // The wrong weekday.
            ("Mon, 21 Nov 2026 08:02:00 GMT", Some(120.0)),
            ("-5", None),
            ("+5", None),
            ("1e9", None),
            (".5", None),
            ("1.2.3", None),
            ("inf", None),
            ("soon", None),
            ("", None),
            ("5, 6", None),
            ("Sat, 21 Nov 2026", None),
        ] {
            let found = judged(429, &[("retry-after", text)]).retry_after;
            assert_eq!(found.map(|it| it.as_secs_f64()), seconds, "{text:?}");
        }
        assert_eq!(judged(200, &[("retry-after", "5")]).retry_after, None);
        assert_eq!(judged(503, &[]).retry_after, None);
    }
}
