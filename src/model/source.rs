//! Where events come from.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Name, ProjectId, Redaction, SourceId};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Source {
    pub id: SourceId,
    pub project: ProjectId,
    pub name: Name,
    pub kind: SourceKind,
    pub enabled: bool,
    /// What is taken out of its events before anything of them is kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub never_store: Option<Redaction>,
    pub created_at: Timestamp,
}

/// How a source speaks to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum SourceKind {
    /// Posts to `/api/v1/events` with an API key.
    Api,
}
