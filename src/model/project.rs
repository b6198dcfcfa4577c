//! A project, which nothing crosses, and the keys that open it.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{KeyId, Name, ProjectId};

/// A hard boundary: keys, events, resources and retention belong to one project.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Project {
    pub id: ProjectId,
    pub name: Name,
    /// How long ended events are kept. `None` is for ever.
    #[serde(default, with = "humantime_serde::option")]
    pub retention: Option<Duration>,
    pub created_at: Timestamp,
}

/// The right to call the API. The key itself is shown once, when it is made; we keep a hash.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ApiKey {
    pub id: KeyId,
    /// `None`: the key administers every project.
    pub project: Option<ProjectId>,
    pub name: Name,
    pub scopes: Vec<Scope>,
    /// HMAC-SHA256 of the key, in hexadecimal.
    pub hash: String,
    /// The first characters, by which people tell their keys apart.
    pub hint: String,
    pub created_at: Timestamp,
    #[serde(default)]
    pub expires_at: Option<Timestamp>,
}

/// What a key may do. `Admin` includes the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// Post events.
    Ingest,
    /// Read everything but secrets.
    Read,
    /// Replay, cancel, pause and resume.
    Operate,
    /// Change resources, keys and projects.
    Admin,
}
