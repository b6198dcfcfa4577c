//! Test cases of pipelines: their shape, and that a change which breaks one is not made unasked.

use std::{collections::HashSet, fmt, sync::Arc};

use serde::Serialize;

use super::{Invalid, Means};
use crate::{
    catalog::Catalog,
    model::{Pipeline, TestCase},
    pipeline::{
        Tools,
        dry::{CaseResult, rehearse},
    },
};

const MOST_CASES: usize = 100;
const LONGEST_NAME: usize = 200;

/// What is wrong with the shape of cases. What they expect is not judged here: a route that is not there
/// is a case that fails.
pub(super) fn check(cases: &[TestCase], wrong: &mut Vec<Invalid>) {
    if cases.len() > MOST_CASES {
        return wrong.push(Invalid::new("tests", "must hold at most 100 test cases", "more"));
    }
    let mut names = HashSet::new();
    for (place, case) in cases.iter().enumerate() {
        let mut refuse = |field: &str, rule: &str, found: &str| {
            wrong.push(Invalid::new(format!("tests[{place}].{field}"), rule, found));
        };
        if case.name.trim().is_empty() || case.name.len() > LONGEST_NAME {
            refuse("name", "must be 1 to 200 bytes", "another length");
        }
        if !names.insert(&case.name) {
            refuse(
                "name",
                "must be a name that no other test case of this pipeline has",
                "it again",
            );
        }
        let expect = &case.expect;
        if let Some(at) = &expect.dropped_at {
            if !is_place(at) {
                refuse(
                    "expect.dropped_at",
                    "must be `trigger`, `when` or `steps[0]`",
                    "another text",
                );
            }
            if expect.dropped == Some(false) {
                refuse("expect.dropped", "must not be `false` beside `dropped_at`", "false");
            }
        }
        let mut pointers = expect.fields.values().flat_map(|it| it.keys());
        if pointers.any(|it| !it.starts_with('/')) {
            refuse(
                "expect.fields",
                "must name fields by JSON pointers, such as `/payload/plan`",
                "another text",
            );
        }
    }
}

fn is_place(text: &str) -> bool {
    let step = text.strip_prefix("steps[").and_then(|it| it.strip_suffix(']'));
    matches!(text, "trigger" | "when") || step.is_some_and(|it| it.parse::<u16>().is_ok())
}

/// Test cases that fail after a change: it is not made, unless whoever makes it has confirmed that.
#[derive(Clone, Debug, PartialEq, Serialize, thiserror::Error)]
pub struct FailingTests(pub Vec<CaseResult>);

impl fmt::Display for FailingTests {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("test cases fail: ")?;
        for (place, case) in self.0.iter().enumerate() {
            let separator = if place == 0 { "" } else { "; " };
            write!(f, "{separator}{} · {}", case.pipeline, case.name)?;
            if let Some(it) = case.failures.first() {
                write!(f, " ({}: expected {}, got {})", it.what, it.expected, it.got)?;
            }
        }
        Ok(())
    }
}

/// The test cases that fail of a pipeline as it is to be, among the resources as they are to be.
pub fn failing_tests(
    pipeline: &Arc<Pipeline>,
    catalog: &Catalog,
    means: Means<'_>,
) -> Vec<CaseResult> {
    if pipeline.tests.is_empty() {
        return Vec::new();
    }
    let results = rehearse(pipeline, catalog, &Tools::new(means.vault));
    results.into_iter().filter(|it| !it.passed).collect()
}
