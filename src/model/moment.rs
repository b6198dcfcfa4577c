//! Moments as the API reads them: RFC 3339, section 5.6, and nothing more lenient.

use jiff::Timestamp;
use serde::{Deserialize, Deserializer, de};

/// Why a text is no moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.rule())]
pub enum NoMoment {
    Form,
    Offset,
    Calendar,
    Range,
}

impl NoMoment {
    /// What would be right.
    pub const fn rule(self) -> &'static str {
        match self {
            Self::Form => "must be a moment in RFC 3339, such as `2026-01-31T09:30:00.123456Z`",
            Self::Offset => {
                "must end with its offset from UTC: `Z`, or one such as `+01:30`, up to `23:59`"
            }
            Self::Calendar => {
                "must be a date and a time that exist: a day of its month, and at most `23:59:60`"
            }
            Self::Range => "must be from `0000-01-01T00:00:00Z` to `9999-12-30T22:00:00Z`",
        }
    }
}

/// Reads a moment, to the microsecond: what is finer is cut off. A leap second is the second before it.
pub fn parse(text: &str) -> Result<Timestamp, NoMoment> {
    let bytes = text.as_bytes();
    let head = bytes.get(..19).ok_or(NoMoment::Form)?;
    let has_form = head[4] == b'-'
        && head[7] == b'-'
        && matches!(head[10], b'T' | b't')
        && head[13] == b':'
        && head[16] == b':';
    let number = |from: usize, to: usize| digits(&head[from..to]).filter(|_| has_form);
    let date = (number(0, 4), number(5, 7), number(8, 10));
    let time = (number(11, 13), number(14, 16), number(17, 19));
    let ((Some(year), Some(month), Some(day)), (Some(hour), Some(minute), Some(second))) =
        (date, time)
    else {
        return Err(NoMoment::Form);
    };
    let (micros, offset) = fraction(&bytes[19..])?;
    let offset = seconds_of(offset)?;
    let is_there = (1..=12).contains(&month)
        && (1..=days_of(year, month)).contains(&day)
        && hour <= 23
        && minute <= 59
        && second <= 60;
    if !is_there {
        return Err(NoMoment::Calendar);
    }
    let days = days_since_1970(year, month, day);
    let seconds = days * 86_400 + hour * 3600 + minute * 60 + second.min(59) - offset;
    let moment = Timestamp::from_microsecond(seconds * 1_000_000 + micros);
    moment.ok().filter(|it| is_writable(*it)).ok_or(NoMoment::Range)
}

/// Whether RFC 3339 has a way to write it: it has no years before 0.
pub fn is_writable(moment: Timestamp) -> bool {
    /// 0000-01-01T00:00:00Z.
    const FIRST: i64 = -62_167_219_200;
    moment.as_second() >= FIRST
}

/// The microseconds of a fraction, if there is one, and what stands behind it.
fn fraction(rest: &[u8]) -> Result<(i64, &[u8]), NoMoment> {
    let Some(fraction) = rest.strip_prefix(b".") else { return Ok((0, rest)) };
    let length = fraction.iter().take_while(|it| it.is_ascii_digit()).count();
    if length == 0 {
        return Err(NoMoment::Form);
    }
    let (fraction, rest) = fraction.split_at(length);
    let digit = |place: usize| i64::from(fraction.get(place).map_or(0, |it| it - b'0'));
    Ok(((0..6).fold(0, |sum, place| sum * 10 + digit(place)), rest))
}

/// The seconds of an offset.
fn seconds_of(offset: &[u8]) -> Result<i64, NoMoment> {
    let (sign, hours, minutes) = match offset {
        b"Z" | b"z" => return Ok(0),
        [b'+', a, b, b':', c, d] => (1, [*a, *b], [*c, *d]),
        [b'-', a, b, b':', c, d] => (-1, [*a, *b], [*c, *d]),
        [] => return Err(NoMoment::Offset),
        [b'+' | b'-', ..] => return Err(NoMoment::Offset),
        _ => return Err(NoMoment::Form),
    };
    match (digits(&hours), digits(&minutes)) {
        (Some(hours @ 0..=23), Some(minutes @ 0..=59)) => Ok(sign * (hours * 3600 + minutes * 60)),
        _ => Err(NoMoment::Offset),
    }
}

fn digits(text: &[u8]) -> Option<i64> {
    let is_number = text.iter().all(u8::is_ascii_digit);
    is_number.then(|| text.iter().fold(0, |sum, it| sum * 10 + i64::from(it - b'0')))
}

fn days_of(year: i64, month: i64) -> i64 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// In the proleptic Gregorian calendar, by years that begin in March.
fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

/// For fields of requests that may be left out.
pub fn optional<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Timestamp>, D::Error> {
    let text = Option::<String>::deserialize(deserializer)?;
    text.map(|it| parse(&it).map_err(de::Error::custom)).transpose()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_rfc_3339_to_the_microsecond() {
        for (text, expected) in [
            ("2026-01-31T09:30:00Z", Ok(1_769_851_800_000_000)),
            ("2026-01-31t09:30:00.123456789z", Ok(1_769_851_800_123_456)),
            ("2026-01-31T09:30:00.123456789012Z", Ok(1_769_851_800_123_456)),
            ("2026-01-31T09:30:00.5+01:30", Ok(1_769_846_400_500_000)),
            ("2026-01-31T09:30:00-00:00", Ok(1_769_851_800_000_000)),
            ("2016-12-31T23:59:60Z", Ok(1_483_228_799_000_000)),
            ("2024-02-29T00:00:00Z", Ok(1_709_164_800_000_000)),
            ("0000-01-01T00:00:00Z", Ok(-62_167_219_200_000_000)),
            ("1969-12-31T23:59:59.999999Z", Ok(-1)),
            ("9999-12-30T22:00:00Z", Ok(253_402_207_200_000_000)),
            ("2026-01-31T09:30:00", Err(NoMoment::Offset)),
            ("2026-01-31T09:30:00+01", Err(NoMoment::Offset)),
            ("2026-01-31T09:30:00+0100", Err(NoMoment::Offset)),
            ("2026-01-31T09:30:00+25:59", Err(NoMoment::Offset)),
            ("2026-01-31T09:30:00+00:00[UTC]", Err(NoMoment::Offset)),
            ("2026-01-31T09:30:00,5Z", Err(NoMoment::Form)),
            ("2026-01-31T09:30:00.Z", Err(NoMoment::Form)),
            ("2026-01-31T09:30Z", Err(NoMoment::Form)),
            ("2026-01-31 09:30:00Z", Err(NoMoment::Form)),
            ("20260131T093000.000000Z", Err(NoMoment::Form)),
            ("-000001-12-31T19:00:00Z", Err(NoMoment::Form)),
            ("now", Err(NoMoment::Form)),
            ("2026-02-30T09:30:00Z", Err(NoMoment::Calendar)),
            ("2026-13-01T09:30:00Z", Err(NoMoment::Calendar)),
            ("2026-01-31T24:00:00Z", Err(NoMoment::Calendar)),
            ("9999-12-31T23:59:59Z", Err(NoMoment::Range)),
            ("0000-01-01T00:00:00+05:00", Err(NoMoment::Range)),
        ] {
            assert_eq!(parse(text).map(|it| it.as_microsecond()), expected, "{text}");
        }
    }

    #[test]
    fn moments_survive_a_round_trip() {
        for text in ["0000-01-01T00:00:00Z", "1969-07-20T20:17:40.000001Z", "9999-12-30T22:00:00Z"]
        {
            let moment = parse(text).unwrap();
            assert_eq!(
                (moment.to_string().as_str(), parse(&moment.to_string())),
                (text, Ok(moment))
            );
            assert_eq!(text.parse::<Timestamp>().unwrap(), moment, "{text}");
        }
    }
}
