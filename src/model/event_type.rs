//! A registered type of event, which documents what a source sends, and may be held to it.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{EventTypeId, ProjectId, RawJson, TypeName};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EventType {
    pub id: EventTypeId,
    pub project: ProjectId,
    pub name: TypeName,
    #[serde(default)]
    pub description: String,
    /// Heading under which it is listed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// A payload to show and to test with. It agrees with the schema.
    #[serde(default)]
    pub example: Option<RawJson>,
    /// A JSON Schema of its payloads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schema: Option<RawJson>,
    #[serde(default)]
    pub validate: Validate,
    pub created_at: Timestamp,
}

/// What becomes of an event whose payload is not as its type's schema says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Validate {
    /// Nobody looks.
    #[default]
    Off,
    /// It is kept, with `metadata.schema_errors`.
    Flag,
    /// It is not kept, and its sender gets the reason.
    Reject,
}

impl Validate {
    #[allow(clippy::trivially_copy_pass_by_ref, reason = "serde hands a reference")]
    pub fn is_off(&self) -> bool {
        *self == Self::Off
    }
}
