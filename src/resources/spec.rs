//! The shapes in which people write resources: the same in YAML and in JSON.
//!
//! What is not written has its default. A shape that was read is not yet checked: `check` does that.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::model::{Name, Pattern, StepSpec, TestCase, TypeName, Validate};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ProjectSpec {
    #[schema(value_type = String, example = "acme")]
    pub name: Name,
    /// How long ended events are kept, e.g. `30d`. Left out: for ever.
    #[serde(default, with = "humantime_serde::option")]
    #[schema(value_type = Option<String>, example = "30d")]
    pub retention: Option<Duration>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PipelineSpec {
    #[schema(value_type = String, example = "signups")]
    pub name: Name,
    #[serde(default = "yes", skip_serializing_if = "is_yes")]
    pub enabled: bool,
    /// Event types and groups of them (`user.*`), one at least. Left out: every type.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "one_at_least")]
    #[schema(value_type = Vec<String>, example = json!(["user.signed_up", "user.*"]))]
    pub on: Vec<Pattern>,
    /// Names of sources, one at least. Left out: any source.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "one_at_least")]
    #[schema(value_type = Vec<String>)]
    pub sources: Vec<Name>,
    /// A condition over the event.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "payload.plan != \"internal\"")]
    pub when: Option<String>,
    /// One after the other, before the routes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<Object>)]
    pub steps: Vec<StepSpec>,
    /// Every route whose condition holds gets a delivery.
    pub routes: Vec<RouteSpec>,
    /// They run whenever the pipeline is changed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tests: Vec<TestCase>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RouteSpec {
    /// The name of a destination.
    #[schema(value_type = String, example = "crm-webhook")]
    pub to: Name,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub when: Option<String>,
    /// They work on this destination's own copy.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<Object>)]
    pub steps: Vec<StepSpec>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct EventTypeSpec {
    #[schema(value_type = String, example = "user.signed_up")]
    pub name: TypeName,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// Heading under which it is listed, e.g. `billing`. Up to 64 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "accounts")]
    pub group: Option<String>,
    /// A payload to show and to test with. With a schema, it must agree with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Value>)]
    pub example: Option<serde_json::Value>,
    /// A JSON Schema of the payload: of any draft from 4 to 2020-12, which is the usual one. It refers to
    /// nothing outside of itself, and not to itself as a whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub schema: Option<serde_json::Value>,
    /// What becomes of an event whose payload is not as the schema says.
    #[serde(default, skip_serializing_if = "Validate::is_off")]
    pub validate: Validate,
}

pub(super) fn yes() -> bool {
    true
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde hands a reference")]
pub(super) fn is_yes(it: &bool) -> bool {
    *it
}

/// A list of what counts. Left out, everything does; a list that is there and empty could be meant to say that
/// nothing does, and so it is refused.
fn one_at_least<'de, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Deserialize<'de>,
{
    let list = Vec::deserialize(deserializer)?;
    match list.is_empty() {
        false => Ok(list),
        true => Err(serde::de::Error::custom(
            "must hold one entry at least, and found an empty list: leave it out for all of them, or \
             say `enabled: false` for none",
        )),
    }
}
