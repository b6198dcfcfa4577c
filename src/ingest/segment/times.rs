//! When a message happened, by a clock that we trust: clients' clocks are wrong, but wrong in the same
//! way when a message is made and when it is sent.

use jiff::{SignedDuration, Timestamp, civil};
use serde_json::Value;

use crate::model::{json, moment};

/// Whether a client's `sentAt` may tell how wrong its clock is. One that is further off was not written when
/// the message was sent: an old queue, or a fault of the client.
pub fn tells_skew(sent_at: Timestamp, received_at: Timestamp) -> bool {
    sent_at.duration_since(received_at).abs() <= SignedDuration::from_hours(24)
}

/// `receivedAt − (sentAt − made)`. Without `sent_at`, the client's own time has to do.
pub fn corrected(made: Timestamp, sent_at: Option<Timestamp>, received_at: Timestamp) -> Timestamp {
    let Some(sent_at) = sent_at else { return made };
    let corrected = received_at.checked_sub(sent_at.duration_since(made)).ok();
    corrected.filter(|it| moment::is_writable(*it)).unwrap_or(made)
}

/// A time as clients write it: ISO 8601 with an offset or none (then it is UTC), or a number of seconds or
/// milliseconds since 1970.
pub fn parse(json: &[u8]) -> Option<Timestamp> {
    /// As seconds, this would be in the year 5138; as milliseconds, in 1973.
    const SECONDS_AT_MOST: f64 = 1e11;
    let time = match json::value(json) {
        Value::String(text) => {
            let text = text.trim();
            let zoned = text.parse::<Timestamp>().ok();
            zoned.or_else(|| {
                let local: civil::DateTime = text.parse().ok()?;
                local.to_zoned(jiff::tz::TimeZone::UTC).ok().map(|it| it.timestamp())
            })
        }
        Value::Number(number) => {
            let number = number.as_f64()?;
            let is_seconds = number.abs() < SECONDS_AT_MOST;
            let millis = if is_seconds { number * 1e3 } else { number };
            Timestamp::from_millisecond(millis as i64).ok()
        }
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
    };
    time.filter(|it| moment::is_writable(*it))
}

/// Milliseconds and `Z`, as Segment writes times.
pub fn text(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(json: &str) -> Option<String> {
        parse(json.as_bytes()).map(text)
    }

    #[test]
    fn every_way_to_write_a_time_is_understood() {
        for (json, expected) in [
            (r#""2024-01-02T03:04:05.678Z""#, Some("2024-01-02T03:04:05.678Z")),
            (r#""2024-01-02T03:04:05.678901+00:00""#, Some("2024-01-02T03:04:05.678Z")),
            (r#""2024-01-02T04:04:05+01:00""#, Some("2024-01-02T03:04:05.000Z")),
            (r#""2024-01-02T03:04:05""#, Some("2024-01-02T03:04:05.000Z")),
            (r#""2024-01-02 03:04:05""#, Some("2024-01-02T03:04:05.000Z")),
            ("1704164645", Some("2024-01-02T03:04:05.000Z")),
            ("1704164645678", Some("2024-01-02T03:04:05.678Z")),
            (r#""0000-01-01T00:00:00+05:00""#, None),
            (r#""-000009-12-31T19:00:00Z""#, None),
            ("1e400", None),
            (r#""soon""#, None),
            ("null", None),
            ("{}", None),
        ] {
            assert_eq!(raw(json).as_deref(), expected, "{json}");
        }
    }

    #[test]
    fn a_clock_that_is_wrong_is_corrected() {
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let (made, sent) = (at("2024-01-02T03:04:05.678Z"), at("2024-01-02T03:04:10.678Z"));
        let received = at("2024-01-02T04:04:10.900Z");
        assert_eq!(text(corrected(made, Some(sent), received)), "2024-01-02T04:04:05.900Z");
        assert_eq!(corrected(made, None, received), made);
        assert!(tells_skew(sent, received));
        assert!(!tells_skew(at("2024-01-01T04:04:10.800Z"), received));
        assert!(!tells_skew(at("2026-01-02T03:04:10Z"), received));
    }
}
