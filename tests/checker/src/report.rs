//! The verdict, for people.

use std::fmt::Write as _;

use crate::{
    judge::{Kind, Verdict},
    log::Order,
};

/// Violations of one kind that are spelled out; the rest is counted.
const SHOWN: usize = 5;

pub fn text(verdict: &Verdict) -> String {
    let mut text = String::new();
    let Verdict { acked, failed, unknown, faults, .. } = verdict;
    let _ = writeln!(text, "posted    {acked} acked, {failed} refused, {unknown} unknown");
    let _ = writeln!(text, "faults    {faults}");
    let _ = writeln!(
        text,
        "\n{:<16} {:<6} {:>10} {:>10} {:>8} {:>8} {:>13} {:>8}",
        "endpoint",
        "order",
        "requests",
        "delivered",
        "retries",
        "repeats",
        "most at once",
        "allowed"
    );
    for it in &verdict.endpoints {
        let order = it.order.name();
        let _ = writeln!(
            text,
            "{:<16} {order:<6} {:>10} {:>10} {:>8} {:>8} {:>13} {:>8}",
            it.name, it.requests, it.delivered, it.retries, it.repeats, it.most_repeats, it.allowed
        );
    }
    // Of kills alone there is nothing to tell apart.
    if verdict.by_fault.len() > 1 {
        let _ = writeln!(
            text,
            "\n{:<16} {:>6} {:>8} {:>14}",
            "fault", "times", "repeats", "longest gap"
        );
        for it in &verdict.by_fault {
            let seconds = it.longest_gap as f64 / 1e9;
            let _ = writeln!(
                text,
                "{:<16} {:>6} {:>8} {seconds:>12.1} s",
                it.name, it.count, it.repeats
            );
        }
    }
    text.push('\n');
    for kind in Kind::ALL {
        let of_kind = || verdict.violations.iter().filter(|it| it.kind == kind);
        let count = of_kind().count();
        let _ = writeln!(text, "{:<12} {count}", kind.name());
        for violation in of_kind().take(SHOWN) {
            let _ = writeln!(text, "    {}", violation.what);
        }
        if count > SHOWN {
            let _ = writeln!(text, "    … and {} more", count - SHOWN);
        }
    }
    let end = if verdict.violations.is_empty() { "every promise was kept" } else { "BROKEN" };
    let _ = writeln!(text, "\n{end}");
    text
}

impl Kind {
    const ALL: [Self; 7] = [
        Self::Missing,
        Self::Unexpected,
        Self::Duplicate,
        Self::Order,
        Self::Stall,
        Self::Body,
        Self::Identity,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Unexpected => "unexpected",
            Self::Duplicate => "duplicate",
            Self::Order => "order",
            Self::Stall => "stall",
            Self::Body => "body",
            Self::Identity => "identity",
        }
    }
}

impl Order {
    fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Key => "key",
            Self::Fifo => "fifo",
        }
    }
}
