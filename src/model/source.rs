//! Where events come from.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Intake, Name, ProjectId, Redaction, SourceId, WriteKey};

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
    /// How its clients name it, for [`SourceKind::Segment`]: unique over all projects.
    #[serde(default)]
    pub write_key: Option<WriteKey>,
    /// For [`SourceKind::Webhook`].
    #[serde(default)]
    pub intake: Option<Intake>,
    /// An expression that gives an event its idempotency key, where the sender gave none.
    #[serde(default)]
    pub key: Option<String>,
    /// How long the key of one of its events counts; `None`: for ever.
    #[serde(default, with = "humantime_serde::option", skip_serializing_if = "Option::is_none")]
    pub key_window: Option<Duration>,
    /// What its senders may say in `metadata`, though we know better.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub metadata_from_sender: Vec<SenderField>,
    pub created_at: Timestamp,
}

/// A field of `metadata` that Tidegate sets, unless the source believes its senders.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum SenderField {
    Source,
    Ip,
}

/// How a source speaks to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum SourceKind {
    /// Posts to `/api/v1/events` with an API key.
    Api,
    /// Segment's libraries and those that speak like them post to `/v1/…` with a write key.
    Segment,
    /// Another service posts its webhooks to `/in/{source}`.
    Webhook,
}
