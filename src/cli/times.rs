//! Times as people type them: how long ago, or when.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

/// A moment, fixed or relative to now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// `2026-07-31T14:00:00Z`
    At(Timestamp),
    /// `1h`: an hour ago.
    Ago(Duration),
}

impl Moment {
    pub fn resolve(self, now: Timestamp) -> Timestamp {
        match self {
            Self::At(at) => at,
            Self::Ago(ago) => SignedDuration::try_from(ago)
                .ok()
                .and_then(|ago| now.checked_sub(ago).ok())
                .unwrap_or(Timestamp::UNIX_EPOCH),
        }
    }
}

/// For clap: `90s`, `2h 30m`, `7d`, or `2026-07-31T14:00:00Z`.
pub fn moment(text: &str) -> Result<Moment, String> {
    if let Ok(ago) = humantime_serde::re::humantime::parse_duration(text) {
        return Ok(Moment::Ago(ago));
    }
    text.parse().map(Moment::At).map_err(|_| {
        "a time is how long ago (90s, 2h, 7d) or a moment such as 2026-07-31T14:00:00Z".to_owned()
    })
}

/// For clap: `50ms`, `2s`.
pub fn duration(text: &str) -> Result<Duration, String> {
    humantime_serde::re::humantime::parse_duration(text)
        .map_err(|_| "a duration is such as 50ms, 2s or 1m".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_ago_or_at() {
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        for (text, expected) in [
            ("90s", "2027-01-15T07:58:30Z"),
            ("2h", "2027-01-15T06:00:00Z"),
            ("2026-07-31T14:00:00+02:00", "2026-07-31T12:00:00Z"),
            ("100000y", "1970-01-01T00:00:00Z"),
        ] {
            assert_eq!(moment(text).unwrap().resolve(now).to_string(), expected, "{text}");
        }
        for text in ["", "yesterday", "5", "2026-07-31"] {
            assert!(moment(text).is_err(), "{text}");
        }
    }
}
