//! Test cases that stand beside a pipeline: an event, and what must become of it.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{Name, TypeName};

/// An event, and what the pipeline must make of it. It runs whenever the pipeline is changed, and asks
/// nothing outside: the answers of steps that ask stand in it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = PipelineTestCase)]
pub struct TestCase {
    /// What is tested, for people. Unique in its pipeline.
    #[schema(example = "a scale plan reaches sales")]
    pub name: String,
    pub event: TestEvent,
    /// What steps that ask are answered, by the name under which they add it: an object is what was
    /// found, `null` that nothing was, and `failed`, `timeout` or `overloaded` that nobody knows. What is
    /// not said here has failed.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schema(value_type = Object)]
    pub enriched: BTreeMap<String, Value>,
    pub expect: Expectation,
}

/// The event of a test case.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = PipelineTestEvent)]
pub struct TestEvent {
    #[serde(rename = "type")]
    #[schema(value_type = String, example = "user.signed_up")]
    pub event_type: TypeName,
    /// Left out: `null`.
    #[serde(default)]
    #[schema(value_type = Value)]
    pub payload: Value,
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    #[schema(value_type = Object)]
    pub metadata: Map<String, Value>,
    /// The name of a source. Left out: the first one that the pipeline names, or that the project has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub source: Option<Name>,
    /// Left out: `2026-01-01T00:00:00Z` in a saved case, the time of now otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub timestamp: Option<Timestamp>,
}

/// What must become of the event. What is left out may be as it is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default, deny_unknown_fields)]
#[schema(as = PipelineExpectation)]
pub struct Expectation {
    /// Whether no route gets anything.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dropped: Option<bool>,
    /// Where it goes no further: `trigger`, `when`, or a step of the pipeline, such as `steps[0]`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "steps[0]")]
    pub dropped_at: Option<String>,
    /// The destinations that get it: all of these, and no other.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<String>>)]
    pub routes: Option<Vec<Name>>,
    /// For a destination, what stands where in what it gets, by JSON pointer: `/payload/plan`, `/type`,
    /// `/metadata/…`; where a step makes several of the event, `/messages/1/payload/plan` is the
    /// second's. `null` means that nothing stands there, or `null`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schema(value_type = Object)]
    pub fields: BTreeMap<Name, BTreeMap<String, Value>>,
}
