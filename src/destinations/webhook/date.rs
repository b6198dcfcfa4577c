//! The three dates of HTTP (RFC 9110 §5.6.7), as endpoints write them. Pure.

use jiff::{Timestamp, civil, fmt::rfc2822, tz::Offset};

const MONTHS: [&str; 12] =
    ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];

/// `Sun, 06 Nov 1994 08:49:37 GMT`, `Sunday, 06-Nov-94 08:49:37 GMT`, or `Sun Nov  6 08:49:37 1994`.
/// What day of the week it is said to be counts for nothing.
pub(super) fn http_date(text: &str, now: Timestamp) -> Option<Timestamp> {
    let (day_name, rest) = text.trim().split_once([',', ' '])?;
    if day_name.is_empty() || !day_name.bytes().all(|it| it.is_ascii_alphabetic()) {
        return None;
    }
    let parts: Vec<&str> = rest.split([' ', '-']).filter(|it| !it.is_empty()).collect();
    match parts[..] {
        [day, month, year, time, zone] if is_utc(zone) => moment(year, month, day, time, now),
        [month, day, time, year] => moment(year, month, day, time, now),
        // With another zone, as e-mail has it.
        _ => rfc2822::DateTimeParser::new().parse_timestamp(rest.trim()).ok(),
    }
}

fn is_utc(zone: &str) -> bool {
    zone.eq_ignore_ascii_case("GMT") || zone.eq_ignore_ascii_case("UTC")
}

fn moment(year: &str, month: &str, day: &str, time: &str, now: Timestamp) -> Option<Timestamp> {
    let month = MONTHS.iter().position(|it| it.eq_ignore_ascii_case(month))? as i8 + 1;
    let full_year = match year.len() {
        4 => number(year)?,
        // Two digits are of the last year with them that is at most 50 years ahead.
        2 => {
            let this = Offset::UTC.to_datetime(now).year();
            let of_this_century = this - this % 100 + number(year)?;
            if of_this_century > this + 50 { of_this_century - 100 } else { of_this_century }
        }
        _ => return None,
    };
    let mut parts = time.split(':');
    let mut next = || number(parts.next()?);
    let (hour, minute, second) = (next()?, next()?, next()?);
    if parts.next().is_some() {
        return None;
    }
    let small = |it: i16| i8::try_from(it).ok();
    let date = civil::Date::new(full_year, month, small(number(day)?)?).ok()?;
    // A leap second is the one before it.
    let time = civil::Time::new(small(hour)?, small(minute)?, small(second.min(59))?, 0).ok()?;
    (second <= 60).then(|| Offset::UTC.to_timestamp(date.to_datetime(time)).ok())?
}

fn number(text: &str) -> Option<i16> {
    let is_number = !text.is_empty() && text.bytes().all(|it| it.is_ascii_digit());
    if is_number { text.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_three_dates_of_http_are_read_whatever_weekday_they_name() {
        let now = "2026-11-21T08:00:00Z".parse().unwrap();
        for (text, expected) in [
            ("Sun, 06 Nov 1994 08:49:37 GMT", Some("1994-11-06T08:49:37Z")),
            ("Sunday, 06-Nov-94 08:49:37 GMT", Some("1994-11-06T08:49:37Z")),
            ("Sun Nov  6 08:49:37 1994", Some("1994-11-06T08:49:37Z")),
            ("Tue, 06 Nov 1994 08:49:37 GMT", Some("1994-11-06T08:49:37Z")),
            ("Friday, 06-Nov-76 08:49:37 GMT", Some("2076-11-06T08:49:37Z")),
            ("Sunday, 06-Nov-77 08:49:37 GMT", Some("1977-11-06T08:49:37Z")),
            ("sat, 21 nov 2026 08:02:60 gmt", Some("2026-11-21T08:02:59Z")),
            ("Sat, 21 Nov 2026 09:02:00 +0100", Some("2026-11-21T08:02:00Z")),
            ("Sun, 31 Feb 2026 08:49:37 GMT", None),
            ("Sun, 06 Nov 1994 25:49:37 GMT", None),
            ("Sun, 06 Nov 1994 08:49 GMT", None),
            ("Sun, 06 Nov 1994", None),
            ("06 Nov 1994 08:49:37 GMT", None),
            ("Sun, 06 Nov 1994 08:49:37", None),
            ("soon", None),
            ("", None),
        ] {
            let expected = expected.map(|it| it.parse().unwrap());
            assert_eq!(http_date(text, now), expected, "{text}");
        }
    }
}
