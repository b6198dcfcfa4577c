//! What people see: colours where a terminal shows them, times and numbers that can be read at a
//! glance, and output that stops quietly when nobody reads it any more.

use std::{
    fmt::Display,
    io::{self, IsTerminal, Write},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp, tz::TimeZone};

pub use super::paint::{Paint, clip, width};
use super::{
    error::{CliError, Result},
    json::Json,
};

/// Standard output: for people, or as JSON for programs.
#[derive(Clone, Copy, Debug)]
pub struct Output {
    pub paint: Paint,
}

impl Output {
    pub fn standard() -> Self {
        Self { paint: Paint::for_stdout() }
    }

    /// One line, which is out when this returns, so that a pipe sees it at once.
    pub fn line(self, text: impl Display) -> Result<()> {
        let mut out = io::stdout().lock();
        writeln!(out, "{text}").and_then(|()| out.flush()).map_err(closed)
    }

    /// Text that ends its own lines.
    pub fn text(self, text: &str) -> Result<()> {
        self.bytes(text.as_bytes())
    }

    pub fn bytes(self, bytes: &[u8]) -> Result<()> {
        let mut out = io::stdout().lock();
        out.write_all(bytes).and_then(|()| out.flush()).map_err(closed)
    }

    /// JSON for programs, on as many lines as it takes.
    pub fn json(self, value: &Json) -> Result<()> {
        self.line(value.pretty())
    }

    /// JSON for programs that read line by line.
    pub fn json_line(self, value: &Json) -> Result<()> {
        self.line(value.line())
    }

    /// What to do next, for people only: on standard error, so that output can be piped.
    pub fn next(self, text: impl Display) {
        note(format_args!("{} {text}", Paint::for_stderr().dim("next:")));
    }
}

/// A remark that is not part of the output. Nobody reading it is no reason to fail.
pub fn note(text: impl Display) {
    let _nobody_listens = writeln!(io::stderr().lock(), "{text}");
}

fn closed(error: io::Error) -> CliError {
    match error.kind() {
        io::ErrorKind::BrokenPipe => CliError::OutputClosed,
        _ => CliError::File { what: "standard output cannot be written".to_owned(), source: error },
    }
}

/// Asks a question whose answer is no unless it is `y` or `yes`. Where nobody can answer, says
/// which option answers it instead.
pub fn confirm(question: &str) -> Result<bool> {
    if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        return Err(CliError::usage(format!(
            "confirmation needed ({question}), but this is not a terminal"
        ))
        .then("add --yes to answer it beforehand"));
    }
    let asked =
        write!(io::stderr().lock(), "{question} [y/N] ").and_then(|()| io::stderr().flush());
    asked.map_err(|source| CliError::File {
        what: "the question cannot be asked".to_owned(),
        source,
    })?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer).map_err(|source| CliError::File {
        what: "the answer cannot be read".to_owned(),
        source,
    })?;
    Ok(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
}

/// `14:03:21.482` in the zone of the reader.
pub fn clock_time(at: Timestamp, zone: &TimeZone) -> String {
    let at = at.to_zoned(zone.clone());
    at.strftime("%H:%M:%S.%3f").to_string()
}

/// `2026-07-31 14:03:21` in the zone of the reader.
pub fn date_time(at: Timestamp, zone: &TimeZone) -> String {
    at.to_zoned(zone.clone()).strftime("%Y-%m-%d %H:%M:%S").to_string()
}

/// `480 µs`, `12.3 ms`, `1.2 s`, `4 min 10 s`, `3 h 2 min`, `2 d 4 h`: three digits or two units.
pub fn duration(it: Duration) -> String {
    let micros = it.as_micros();
    let seconds = it.as_secs();
    match micros {
        0..1_000 => format!("{micros} µs"),
        1_000..100_000 => format!("{:.1} ms", micros as f64 / 1e3),
        100_000..1_000_000 => format!("{} ms", micros / 1_000),
        1_000_000..60_000_000 => format!("{:.1} s", micros as f64 / 1e6),
        _ if seconds < 3_600 => two_units(seconds, 60, "min", "s"),
        _ if seconds < 86_400 => two_units(seconds / 60, 60, "h", "min"),
        _ => two_units(seconds / 3_600, 24, "d", "h"),
    }
}

fn two_units(count: u64, size: u64, large: &str, small: &str) -> String {
    match count % size {
        0 => format!("{} {large}", count / size),
        rest => format!("{} {large} {rest} {small}", count / size),
    }
}

/// `3 min ago`, `in 12.0 s`, `now`.
pub fn distance(at: Timestamp, now: Timestamp) -> String {
    let gap = at.duration_since(now);
    let rounded = duration(Duration::from_secs(gap.unsigned_abs().as_secs())).replace(".0 s", " s");
    if gap.abs() < SignedDuration::from_secs(1) {
        "now".to_owned()
    } else if gap.is_negative() {
        format!("{rounded} ago")
    } else {
        format!("in {rounded}")
    }
}

/// `1,234,567`.
pub fn count(it: u64) -> String {
    let digits = it.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `1 event`, `2 events`.
pub fn plural(it: u64, noun: &str) -> String {
    match (it, noun.strip_suffix('y')) {
        (1, _) => format!("1 {noun}"),
        (_, Some(stem)) => format!("{} {stem}ies", count(it)),
        (_, None) => format!("{} {noun}s", count(it)),
    }
}

/// Columns as wide as their widest cell, two spaces apart; the last is not padded. Cells may be
/// coloured: what a terminal does not show is not counted.
pub fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns)
        .map(|column| {
            rows.iter().filter_map(|row| row.get(column)).map(|cell| width(cell)).max().unwrap_or(0)
        })
        .collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (column, cell) in row.iter().enumerate() {
            line.push_str(cell);
            if column + 1 < row.len() {
                line.push_str(&" ".repeat(widths[column] + 2 - width(cell)));
            }
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_at_a_glance() {
        for (micros, expected) in [
            (0, "0 µs"),
            (480, "480 µs"),
            (12_345, "12.3 ms"),
            (482_000, "482 ms"),
            (1_234_000, "1.2 s"),
            (60_000_000, "1 min"),
            (250_000_000, "4 min 10 s"),
            (10_920_000_000, "3 h 2 min"),
            (187_200_000_000, "2 d 4 h"),
        ] {
            assert_eq!(duration(Duration::from_micros(micros)), expected);
        }
    }

    #[test]
    fn a_distance_says_before_or_after() {
        let now = Timestamp::from_second(1_000).unwrap();
        for (second, expected) in
            [(1_000, "now"), (988, "12 s ago"), (1_090, "in 1 min 30 s"), (400, "10 min ago")]
        {
            assert_eq!(distance(Timestamp::from_second(second).unwrap(), now), expected);
        }
    }

    #[test]
    fn counts_have_their_commas_and_nouns_their_number() {
        for (number, expected) in
            [(0, "0"), (999, "999"), (1_000, "1,000"), (1_234_567, "1,234,567")]
        {
            assert_eq!(count(number), expected);
        }
        assert_eq!(
            (plural(1, "delivery"), plural(2_000, "delivery")),
            ("1 delivery".into(), "2,000 deliveries".into())
        );
    }

    #[test]
    fn columns_line_up_whatever_their_colour() {
        let rows = [
            vec![Paint::COLOURED.red("dead"), "1".to_owned()],
            vec!["delivered".to_owned(), "22".to_owned()],
        ];
        assert_eq!(table(&rows), "\x1b[31mdead\x1b[0m       1\ndelivered  22\n");
    }

    #[test]
    fn times_are_in_the_readers_zone() {
        let at: Timestamp = "2026-07-31T12:03:21.482Z".parse().unwrap();
        let zone = TimeZone::fixed(jiff::tz::offset(2));
        assert_eq!(clock_time(at, &zone), "14:03:21.482");
        assert_eq!(date_time(at, &zone), "2026-07-31 14:03:21");
    }
}
