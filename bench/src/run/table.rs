//! What was measured, as a table in Markdown with the targets beside it.

use std::{fmt::Write as _, path::Path, process::Command};

use super::{Options, process::Memory};
use crate::Result;

#[derive(Default)]
pub struct Table {
    rows: Vec<Row>,
    /// The most memory of any gateway process, MiB.
    peak: f64,
    /// Tables of their own.
    setups: Vec<String>,
    /// Findings that are no row.
    notes: Vec<String>,
}

struct Row {
    what: String,
    relay: String,
    tidegate: String,
    ratio: String,
    target: String,
    met: Option<bool>,
}

/// What a number must be.
#[derive(Clone, Copy, Debug)]
pub enum Target {
    AtLeast(f64),
    AtMost(f64),
}

impl Target {
    fn met(self, value: f64) -> bool {
        match self {
            Self::AtLeast(limit) => value >= limit,
            Self::AtMost(limit) => value <= limit,
        }
    }

    fn sign(self) -> (&'static str, f64) {
        match self {
            Self::AtLeast(limit) => ("≥", limit),
            Self::AtMost(limit) => ("≤", limit),
        }
    }
}

impl Table {
    /// Relay and Tidegate side by side, where more is better; the target is on their ratio.
    pub fn compare(&mut self, what: &str, relay: &[f64], tidegate: &[f64], target: Option<Target>) {
        let ratio = if relay.is_empty() || tidegate.is_empty() {
            None
        } else {
            Some(median(tidegate) / median(relay))
        };
        self.rows.push(Row {
            what: what.to_owned(),
            relay: rounds(relay),
            tidegate: rounds(tidegate),
            ratio: ratio.map(percent).unwrap_or_default(),
            target: target
                .map(Target::sign)
                .map_or_else(String::new, |(sign, limit)| format!("{sign} {:.0} %", limit * 100.0)),
            met: target.zip(ratio).map(|(target, ratio)| target.met(ratio)),
        });
    }

    /// Tidegate beside itself, where more is better; the target is on the ratio to this base.
    pub fn beside(&mut self, what: &str, base: Option<&[f64]>, values: &[f64], target: Target) {
        let ratio = base.map(|base| median(values) / median(base));
        let (sign, limit) = target.sign();
        self.rows.push(Row {
            what: what.to_owned(),
            relay: String::new(),
            tidegate: rounds(values),
            ratio: ratio.map(percent).unwrap_or_default(),
            target: ratio.map_or_else(String::new, |_| format!("{sign} {:.0} %", limit * 100.0)),
            met: ratio.map(|ratio| target.met(ratio)),
        });
    }

    /// Tidegate in several setups beside each other: their names, and for each row what it is and the
    /// rounds of each setup, none where it means nothing.
    pub fn setups(&mut self, what: &str, names: &[&str], rows: &[(&str, Vec<Vec<f64>>)]) {
        let mut text =
            format!("\n| {what} | {} |\n|---{}|\n", names.join(" | "), "|---".repeat(names.len()));
        for (what, columns) in rows {
            let columns: Vec<_> = columns.iter().map(|it| rounds(it)).collect();
            let _ = writeln!(text, "| {what} | {} |", columns.join(" | "));
        }
        self.setups.push(text);
    }

    /// A number of Tidegate alone, or beside the relay's.
    pub fn value(
        &mut self,
        what: &str,
        relay: Option<f64>,
        tidegate: Option<f64>,
        unit: &str,
        target: Option<Target>,
    ) {
        let text = |value: Option<f64>| value.map(|it| number(it, unit)).unwrap_or_default();
        self.rows.push(Row {
            what: what.to_owned(),
            relay: text(relay),
            tidegate: text(tidegate),
            ratio: String::new(),
            target: target.map(Target::sign).map_or_else(String::new, |(sign, limit)| {
                format!("{sign} {}", number(limit, unit))
            }),
            met: target.zip(tidegate).map(|(target, value)| target.met(value)),
        });
    }

    pub fn memory(&mut self, memory: Memory) {
        self.peak = self.peak.max(memory.peak);
    }

    pub fn note(&mut self, note: String) {
        self.notes.push(note);
    }

    pub fn markdown(&mut self, options: &Options) -> String {
        if self.peak > 0.0 {
            let peak = self.peak;
            self.value(
                "most memory of any run",
                None,
                Some(peak),
                "MiB",
                Some(Target::AtMost(256.0)),
            );
        }
        let command: Vec<_> = std::env::args().skip(1).collect();
        let mut text = format!(
            "\n## {}\n\n`tidegate-bench {}` at {} on {}; {}.\n\n",
            output("date", &["-u", "+%Y-%m-%d %H:%M UTC"]),
            command.join(" "),
            output("git", &["describe", "--always", "--dirty"]),
            machine(),
            if options.quick {
                "quick: one short round"
            } else {
                "median of the rounds in brackets"
            },
        );
        text.push_str("| | relay | Tidegate | ratio | target | met |\n|---|---|---|---|---|---|\n");
        for row in &self.rows {
            let met = row.met.map_or("", |met| if met { "yes" } else { "**no**" });
            let Row { what, relay, tidegate, ratio, target, .. } = row;
            let _ =
                writeln!(text, "| {what} | {relay} | {tidegate} | {ratio} | {target} | {met} |");
        }
        for setups in &self.setups {
            text.push_str(setups);
        }
        for note in &self.notes {
            let _ = write!(text, "\n- {note}");
        }
        text.push('\n');
        text
    }

    pub fn append_to(&self, path: &Path, text: &str) -> Result<()> {
        const HEAD: &str =
            "# What was measured\n\nWritten by `make bench`; the newest run stands last.\n";
        let before = std::fs::read_to_string(path).unwrap_or_else(|_| HEAD.to_owned());
        std::fs::write(path, before + text)?;
        Ok(())
    }
}

/// The median, and where there are several, each round.
fn rounds(values: &[f64]) -> String {
    let each: Vec<_> = values.iter().map(|it| number(*it, "")).collect();
    match values.len() {
        0 => String::new(),
        1 => each.concat(),
        _ => format!("{} ({})", number(median(values), ""), each.join(", ")),
    }
}

/// A ratio as people read it.
fn percent(ratio: f64) -> String {
    if ratio < 10.0 { format!("{:.0} %", ratio * 100.0) } else { format!("{ratio:.0} times") }
}

pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => 0.0,
        odd if odd % 2 == 1 => sorted[odd / 2],
        even => (sorted[even / 2 - 1] + sorted[even / 2]) / 2.0,
    }
}

/// `52,103 /s`, `1.84 ms`: as many digits as mean something.
fn number(value: f64, unit: &str) -> String {
    let digits = match value.abs() {
        large if large >= 100.0 => 0,
        middle if middle >= 10.0 => 1,
        _ => 2,
    };
    let text = format!("{value:.digits$}");
    let (whole, fraction) = text.split_once('.').unwrap_or((&text, ""));
    let mut grouped = String::new();
    for (n, digit) in whole.chars().enumerate() {
        if n > 0 && (whole.len() - n) % 3 == 0 && digit.is_ascii_digit() {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    let point = if fraction.is_empty() { "" } else { "." };
    format!("{grouped}{point}{fraction} {unit}").trim_end().to_owned()
}

fn machine() -> String {
    let cores = std::thread::available_parallelism().map_or(0, |it| it.get());
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default();
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    format!(
        "{cores} cores ({}), Linux {}, load average {} at the end",
        model.trim_start_matches([' ', '\t', ':']),
        output("uname", &["-r"]),
        load.split(' ').next().unwrap_or_default(),
    )
}

/// What a command prints, or nothing where it is missing.
fn output(command: &str, arguments: &[&str]) -> String {
    let output = Command::new(command).args(arguments).output();
    let text = output.map(|it| String::from_utf8_lossy(&it.stdout).trim().to_owned());
    text.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_the_digits_that_mean_something() {
        let table = [
            (62_609.519, "/s", "62,610 /s"),
            (1_000_000.0, "", "1,000,000"),
            (235.9, "MiB", "236 MiB"),
            (12.34, "ms", "12.3 ms"),
            (0.1279, "ms", "0.13 ms"),
        ];
        for (value, unit, text) in table {
            assert_eq!(number(value, unit), text);
        }
    }

    #[test]
    fn the_median_is_the_middle() {
        for (values, middle) in [(vec![3.0, 1.0, 2.0], 2.0), (vec![4.0, 2.0], 3.0), (vec![], 0.0)] {
            assert_eq!(median(&values), middle);
        }
    }

    #[test]
    fn a_target_that_is_missed_is_said_to_be_missed() {
        let mut table = Table::default();
        table.compare("delivered/s", &[100.0], &[59.0], Some(Target::AtLeast(0.6)));
        table.value("start", None, Some(0.4), "s", Some(Target::AtMost(1.0)));
        let met: Vec<_> = table.rows.iter().map(|row| row.met).collect();
        assert_eq!(met, [Some(false), Some(true)]);
        assert_eq!(table.rows[0].ratio, "59 %");
    }
}
