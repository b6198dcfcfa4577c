//! Test cases of pipelines as the gateway reports them, one line for each.

use std::fmt::Write as _;

use serde::Deserialize;
use serde_json::Value;

use super::paint::{Paint, clip};

const LONGEST: usize = 100;

#[derive(Debug, Deserialize)]
pub struct Case {
    #[serde(default)]
    pub pipeline: String,
    pub name: String,
    pub passed: bool,
    #[serde(default)]
    pub failures: Vec<FailureView>,
}

#[derive(Debug, Deserialize)]
pub struct FailureView {
    pub what: String,
    #[serde(default)]
    pub expected: Value,
    #[serde(default)]
    pub got: Value,
}

/// One line for each case, and below it what was expected and what came.
pub fn cases(cases: &[Case], paint: Paint) -> String {
    let mut text = String::new();
    for case in cases {
        let mark = if case.passed { paint.green("✔") } else { paint.red("✘") };
        // Writing to a text cannot fail, here and below.
        let _ = writeln!(text, "{mark} {} · {}", case.pipeline, clip(&case.name, LONGEST));
        failures(&case.failures, paint, &mut text);
    }
    text
}

/// What was expected and what came, one line for each failure.
pub fn failures(failures: &[FailureView], paint: Paint, text: &mut String) {
    for it in failures {
        let expected = paint.green(clip(&it.expected.to_string(), LONGEST));
        let got = paint.red(clip(&it.got.to_string(), LONGEST));
        let _ = writeln!(text, "    {}: expected {expected}, got {got}", clip(&it.what, LONGEST));
    }
}
