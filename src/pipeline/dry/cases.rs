//! Test cases of pipelines: what was expected, and what came of it.
//!
//! A case gives the same result whenever it runs: its event has one id and one time, and steps that ask
//! are answered by the case. So a case that fails says something about the pipeline.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::{Report, Trial, report::Route};
use crate::{
    catalog::Catalog,
    model::{
        Event, EventId, EventSeq, Expectation, Name, Pipeline, RawJson, SourceId, TestCase,
        TestEvent,
    },
    pipeline::Tools,
};

/// How long the cases of one pipeline may take together. Those that had no time have failed.
const TIMEOUT: Duration = Duration::from_secs(10);
/// When events of cases happen that do not say it: the first second of 2026.
const USUAL_TIME: i64 = 1_767_225_600;

/// What came of a test case.
#[derive(Clone, Debug, PartialEq, Serialize, utoipa::ToSchema)]
#[schema(as = PipelineTestResult)]
pub struct CaseResult {
    pub pipeline: String,
    pub name: String,
    pub passed: bool,
    pub failures: Vec<CaseFailure>,
}

/// One thing that is not as it was expected.
#[derive(Clone, Debug, PartialEq, Serialize, utoipa::ToSchema)]
#[schema(as = PipelineTestFailure)]
pub struct CaseFailure {
    /// `dropped`, `dropped_at`, `routes`, `fields.crm./payload/plan`; or `source` or `time` where the case
    /// could not run.
    pub what: String,
    #[schema(value_type = Value)]
    pub expected: Value,
    #[schema(value_type = Value)]
    pub got: Value,
}

impl CaseFailure {
    fn new(what: impl Into<String>, expected: impl Into<Value>, got: impl Into<Value>) -> Self {
        Self { what: what.into(), expected: expected.into(), got: got.into() }
    }
}

/// Runs the test cases of a pipeline among the resources of a catalogue, in which it need not be.
/// Blocks for as long as that takes, which is bounded.
pub fn rehearse(pipeline: &Arc<Pipeline>, catalog: &Catalog, tools: &Tools) -> Vec<CaseResult> {
    if pipeline.tests.is_empty() {
        return Vec::new();
    }
    let trial = Trial::new(pipeline, catalog, tools);
    let start = Instant::now();
    let result = |case: &TestCase| {
        let failures = if start.elapsed() < TIMEOUT {
            trial.rehearse(case, catalog)
        } else {
            let limit = format!("all test cases within {} s", TIMEOUT.as_secs());
            vec![CaseFailure::new("time", limit, "the cases before it took longer")]
        };
        let (pipeline, name) = (pipeline.name.to_string(), case.name.clone());
        CaseResult { pipeline, name, passed: failures.is_empty(), failures }
    };
    pipeline.tests.iter().map(result).collect()
}

impl Trial {
    /// The event of a saved case: the same whenever it runs. An error is the name of a source that there
    /// is not.
    pub fn case_event(&self, case: &TestCase, catalog: &Catalog) -> Result<Arc<Event>, Name> {
        let usual = Timestamp::from_second(USUAL_TIME).unwrap_or(Timestamp::UNIX_EPOCH);
        let now = case.event.timestamp.unwrap_or(usual);
        let id = EventId::new(now, 0, 0);
        event(&case.event, self.pipeline(), catalog, id, now).map(Arc::new)
    }

    fn rehearse(&self, case: &TestCase, catalog: &Catalog) -> Vec<CaseFailure> {
        let event = match self.case_event(case, catalog) {
            Ok(event) => event,
            Err(source) => {
                return vec![CaseFailure::new("source", source.as_str(), "no source of this name")];
            }
        };
        match self.run_alone(&event, case.enriched.clone()) {
            Some(report) => judge(&case.expect, &report),
            None => vec![CaseFailure::new("time", "an outcome", "none")],
        }
    }
}

/// The event that a test describes; an error is the name of a source that there is not.
pub fn event(
    test: &TestEvent,
    pipeline: &Pipeline,
    catalog: &Catalog,
    id: EventId,
    now: Timestamp,
) -> Result<Event, Name> {
    let project = pipeline.project;
    let source = match test.source.as_ref().or(pipeline.sources.first()) {
        Some(name) => {
            Some(catalog.source_named(project, name.as_str()).ok_or_else(|| name.clone())?)
        }
        None => catalog.sources.values().find(|it| it.project == project),
    };
    let mut metadata = test.metadata.clone();
    if let Some(source) = source {
        let name = || Value::from(source.name.as_str());
        metadata.entry("source").or_insert_with(name);
    }
    Ok(Event {
        seq: EventSeq(0),
        id,
        project,
        // Any that is not the system's: no pipeline sees its events.
        source: source.map_or(SourceId::from_bits(1), |it| it.id),
        event_type: test.event_type.clone(),
        timestamp: test.timestamp.unwrap_or(now),
        received_at: now,
        key: None,
        metadata: RawJson::of(&metadata),
        payload: RawJson::of(&test.payload),
    })
}

/// What is not as it was expected.
pub fn judge(expected: &Expectation, report: &Report) -> Vec<CaseFailure> {
    let mut failures = Vec::new();
    let at = report.dropped.as_ref().map(|it| it.at.as_str());
    if let Some(expected) = expected.dropped
        && expected != report.is_dropped()
    {
        failures.push(CaseFailure::new("dropped", expected, report.is_dropped()));
    }
    if let Some(expected) = expected.dropped_at.as_deref()
        && Some(expected) != at
    {
        failures.push(CaseFailure::new("dropped_at", expected, at));
    }
    if let Some(expected) = &expected.routes {
        let matched = report.routes.iter().filter(|it| it.matched);
        let sorted = |names: Vec<&str>| {
            let mut names = names;
            names.sort_unstable();
            names.dedup();
            names.into_iter().map(Value::from).collect::<Vec<_>>()
        };
        let expected = sorted(expected.iter().map(Name::as_str).collect());
        let got = sorted(matched.map(|it| it.to.as_str()).collect());
        if expected != got {
            failures.push(CaseFailure::new("routes", expected, got));
        }
    }
    for (to, fields) in &expected.fields {
        let outcome = outcome(report.routes.iter().filter(|it| it.to == *to));
        for (pointer, expected) in fields {
            let got = outcome.pointer(pointer).cloned().unwrap_or_default();
            if *expected != got {
                failures.push(CaseFailure::new(
                    format!("fields.{to}.{pointer}"),
                    expected.clone(),
                    got,
                ));
            }
        }
    }
    failures
}

/// What one destination gets: the first message, with all of them beside it.
fn outcome<'a>(routes: impl Iterator<Item = &'a Route>) -> Value {
    let messages: Vec<Value> = routes.flat_map(|it| &it.messages).map(|it| it.document()).collect();
    let mut outcome = match messages.first() {
        Some(Value::Object(first)) => first.clone(),
        Some(_) | None => Map::new(),
    };
    outcome.insert("messages".to_owned(), json!(messages));
    Value::Object(outcome)
}
