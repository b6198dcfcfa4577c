//! Where enrichment looks things up: tables of the project's own, and services outside.

use std::{collections::BTreeMap, num::NonZeroU32, time::Duration};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{LookupId, Name, ProjectId, RawJson, Sealed};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Lookup {
    pub id: LookupId,
    pub project: ProjectId,
    pub name: Name,
    pub settings: LookupSettings,
    pub created_at: Timestamp,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LookupSettings {
    /// Rows that the project puts here itself.
    Table(Table),
    /// A service that knows people by their e-mail address.
    Http(HttpLookup),
    /// A PostgreSQL that has rows.
    Postgres(PostgresLookup),
}

impl LookupSettings {
    /// Which fields of a row are keys of rows elsewhere; `None` where there are no rows.
    pub fn references(&self) -> Option<&BTreeMap<String, Name>> {
        match self {
            Self::Table(it) => Some(&it.references),
            Self::Postgres(it) => Some(&it.references),
            Self::Http(_) => None,
        }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Table {
    /// Fields that are keys of rows in other tables: `account: accounts`.
    #[serde(default)]
    pub references: BTreeMap<String, Name>,
    /// Events that tell of its rows.
    #[serde(default)]
    pub learn: Option<Learn>,
}

/// Which events tell of the rows of a table: one condition, and two expressions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Learn {
    #[schema(example = "type == \"identify\"")]
    pub when: String,
    #[schema(example = "payload.traits.email")]
    pub key: String,
    /// An object, which is laid over the row that there is.
    #[schema(example = "payload.traits")]
    pub fields: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HttpLookup {
    /// A template over `email`, `domain` and `secret.…`. Its host is fixed text.
    pub url: String,
    /// Templates over the same.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    #[serde(default)]
    pub secrets: BTreeMap<String, Sealed>,
    /// What is made of the answer: templates over `response`, `email` and `domain`.
    pub map: RawJson,
    pub limits: LookupLimits,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PostgresLookup {
    /// `postgres://user:password@host/database`, all of it.
    pub database: Sealed,
    /// One `SELECT`, whose `$1` is the key.
    pub query: String,
    /// Fields that are keys of rows in other tables.
    #[serde(default)]
    pub references: BTreeMap<String, Name>,
    pub limits: LookupLimits,
}

/// How much is asked, and for how long answers count.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LookupLimits {
    /// From the question to the whole answer, with the wait for a turn.
    #[serde(with = "humantime_serde")]
    pub timeout: Duration,
    /// Questions at once.
    pub concurrency: NonZeroU32,
    pub cache: LookupCache,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct LookupCache {
    /// How long an answer counts.
    #[serde(with = "humantime_serde")]
    #[schema(value_type = String, example = "1day")]
    pub found: Duration,
    /// How long it counts that there is none.
    #[serde(with = "humantime_serde")]
    #[schema(value_type = String, example = "1h")]
    pub missing: Duration,
    /// Answers that are kept, at most.
    pub entries: usize,
}

impl Default for LookupLimits {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(2),
            concurrency: NonZeroU32::MIN.saturating_add(15),
            cache: LookupCache::default(),
        }
    }
}

impl Default for LookupCache {
    fn default() -> Self {
        let hour = Duration::from_secs(60 * 60);
        Self { found: 24 * hour, missing: hour, entries: 10_000 }
    }
}
