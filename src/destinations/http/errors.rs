//! What the answer of an HTTP API means. Pure.

use std::{fmt, time::Duration};

use http::StatusCode;
use jiff::Timestamp;
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{self, Unexpected, Visitor},
};

use crate::{
    destinations::{
        egress::EndpointAnswer,
        webhook::answer::{retry_after, said},
    },
    model::{Class, Outcome, Snippet},
};

/// Statuses that count as delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StatusPattern {
    /// `2xx`: all with this first digit.
    Hundred(u16),
    One(u16),
}

impl StatusPattern {
    fn has(self, status: StatusCode) -> bool {
        match self {
            Self::Hundred(digit) => status.as_u16() / 100 == digit,
            Self::One(one) => status.as_u16() == one,
        }
    }

    fn parse(text: &str) -> Option<Self> {
        let found = match text.strip_suffix("xx") {
            Some(digit) => Self::Hundred(digit.parse().ok()?),
            None => Self::One(text.parse().ok()?),
        };
        let hundred = match found {
            Self::Hundred(digit) => digit,
            Self::One(one) => one / 100,
        };
        (1..=5).contains(&hundred).then_some(found)
    }
}

impl fmt::Display for StatusPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hundred(digit) => write!(f, "{digit}xx"),
            Self::One(one) => one.fmt(f),
        }
    }
}

impl Serialize for StatusPattern {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for StatusPattern {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct StatusVisitor;

        impl Visitor<'_> for StatusVisitor {
            type Value = StatusPattern;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("`1xx` to `5xx`, or a status from 100 to 599")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<StatusPattern, E> {
                StatusPattern::parse(text)
                    .ok_or_else(|| E::invalid_value(Unexpected::Other("a text"), &self))
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<StatusPattern, E> {
                StatusPattern::parse(&number.to_string())
                    .ok_or_else(|| E::invalid_value(Unexpected::Unsigned(number), &self))
            }
        }

        deserializer.deserialize_any(StatusVisitor)
    }
}

/// The outcome of an answer that came at `now`, after `duration`. What an answer with 410 says is about the
/// destination, or where its URL is a template, about that message.
pub(super) fn outcome(
    answer: &EndpointAnswer,
    success: &[StatusPattern],
    is_template: bool,
    now: Timestamp,
    duration: Duration,
) -> Outcome {
    let status = answer.status;
    let class = match status {
        _ if success.iter().any(|it| it.has(status)) => Class::Accepted,
        StatusCode::GONE if is_template => Class::Abort,
        StatusCode::GONE => Class::Gone,
        _ => Class::Status,
    };
    let is_accepted = class == Class::Accepted;
    Outcome {
        class,
        status: Some(status.as_u16()),
        reason: reason(status, class),
        retry_after: if is_accepted { None } else { retry_after(&answer.headers, now) },
        duration,
        response: Snippet::of(&answer.body),
    }
}

fn reason(status: StatusCode, class: Class) -> String {
    let more = match class {
        Class::Status if status.is_redirection() => ": redirects are not followed",
        Class::Status if status.is_success() => ": `success` does not have this status",
        Class::Abort => ": it counts for this message",
        _ => "",
    };
    said(status, more)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[test]
    fn statuses_decide_the_class() {
        use Class::{Abort, Accepted, Gone, Status};
        let usual = [StatusPattern::Hundred(2)];
        let own = [StatusPattern::One(200), StatusPattern::One(404), StatusPattern::Hundred(3)];
        for (success, status, is_template, class, reason) in [
            (&usual[..], 200, false, Accepted, "200 OK"),
            (&usual, 204, false, Accepted, "204 No Content"),
            (&usual, 302, false, Status, "302 Found: redirects are not followed"),
            (&usual, 404, false, Status, "404 Not Found"),
            (&usual, 410, false, Gone, "410 Gone"),
            (&usual, 410, true, Abort, "410 Gone: it counts for this message"),
            (&usual, 503, false, Status, "503 Service Unavailable"),
            (&usual, 599, false, Status, "599"),
            (&own, 404, false, Accepted, "404 Not Found"),
            (&own, 302, false, Accepted, "302 Found"),
            (&own, 201, false, Status, "201 Created: `success` does not have this status"),
        ] {
            let headers = [(http::header::RETRY_AFTER, "7".parse().unwrap())];
            let answer = EndpointAnswer {
                status: StatusCode::from_u16(status).unwrap(),
                headers: headers.into_iter().collect(),
                body: Bytes::from_static(b"x"),
                is_late: false,
            };
            let now = Timestamp::UNIX_EPOCH;
            let outcome = outcome(&answer, success, is_template, now, Duration::ZERO);
            assert_eq!((outcome.class, outcome.reason.as_str()), (class, reason));
            let wait = (class != Accepted).then_some(Duration::from_secs(7));
            assert_eq!(outcome.retry_after, wait, "{status}");
        }
    }
}
