//! A registered type of event, which documents what a source sends.

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
    /// A payload to show and to test with.
    #[serde(default)]
    pub example: Option<RawJson>,
    pub created_at: Timestamp,
}
