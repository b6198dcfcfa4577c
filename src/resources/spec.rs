//! The shapes in which people write resources: the same in YAML and in JSON.
//!
//! What is not written has its default. A shape that was read is not yet checked: `check` does that.

use std::{collections::BTreeMap, fmt, num::NonZeroU32, time::Duration};

use serde::{Deserialize, Serialize, Serializer};

use crate::model::{
    Breaker, Method, Name, Ordering, Pattern, RateLimit, Retry, Secret, StepSpec, TypeName,
};

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
pub struct DestinationSpec {
    #[schema(value_type = String, example = "crm-webhook")]
    pub name: Name,
    pub kind: DestinationKind,
    /// An absolute `https` or `http` URL.
    #[schema(example = "https://api.acme.com/hooks")]
    pub url: String,
    #[serde(default)]
    pub method: Method,
    /// Sent with every attempt. Their values are kept like secrets.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schema(value_type = BTreeMap<String, String>)]
    pub headers: BTreeMap<String, SecretSpec>,
    #[serde(default, skip_serializing_if = "AuthSpec::is_none")]
    pub auth: AuthSpec,
    /// Signs each attempt: `whsec_…` or `whsk_…`. Left out: the one there is, or a new one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, example = "${CRM_WEBHOOK_SECRET}")]
    pub secret: Option<SecretSpec>,
    /// `false`: attempts are not signed.
    #[serde(default = "yes", skip_serializing_if = "is_yes")]
    pub signed: bool,

    /// Which deliveries wait for which: `none`, `fifo`, or `key: <expression>`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub ordering: Option<Ordering>,
    /// `preset: standard`, `waits: [5s, 5m]`, or `exponential: { base, factor, max, attempts }`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub retry: Option<Retry>,
    /// How long after its event was accepted a delivery may still be tried.
    #[serde(default, with = "humantime_serde::option", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, example = "24h")]
    pub expires_after: Option<Duration>,
    /// Attempts in flight at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u32>)]
    pub concurrency: Option<NonZeroU32>,
    /// `events: 100, per: 1s`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub rate_limit: Option<RateLimit>,
    /// One deadline over connect, TLS, headers and body of one attempt.
    #[serde(default, with = "humantime_serde::option", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, example = "15s")]
    pub timeout: Option<Duration>,
    /// When the endpoint is left alone for a while.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub breaker: Option<Breaker>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum DestinationKind {
    Webhook,
}

/// How an attempt says who we are: `none`, `bearer: …`, or `basic: { username, password }`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum AuthSpec {
    #[default]
    None,
    #[schema(value_type = String)]
    Bearer(SecretSpec),
    Basic(BasicSpec),
}

impl AuthSpec {
    fn is_none(&self) -> bool {
        *self == Self::None
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BasicSpec {
    pub username: String,
    #[schema(value_type = String)]
    pub password: SecretSpec,
}

/// A secret on its way in, or the placeholder that stands for it on the way out.
///
/// What comes out is `${CRM_WEBHOOK_SECRET}`. When that comes in again through the API, it means the
/// secret that is there; in a file it was replaced from the environment before.
#[derive(Clone, PartialEq, Deserialize)]
#[serde(transparent)]
pub struct SecretSpec(Secret);

impl SecretSpec {
    pub fn new(text: impl Into<String>) -> Self {
        Self(Secret::new(text))
    }

    /// The placeholder of a secret: destination `crm-webhook` and `secret` give
    /// `${CRM_WEBHOOK_SECRET}`.
    pub fn placeholder(name: &Name, field: &str) -> Self {
        let mut text = format!("{name}_{field}").to_ascii_uppercase().replace('-', "_");
        if text.starts_with(|it: char| it.is_ascii_digit()) {
            text.insert(0, '_');
        }
        Self::new(format!("${{{text}}}"))
    }

    pub fn secret(&self) -> &Secret {
        &self.0
    }

    pub fn is_placeholder(&self) -> bool {
        let text = self.0.expose();
        text.starts_with("${") && text.ends_with('}')
    }
}

impl fmt::Debug for SecretSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

impl Serialize for SecretSpec {
    /// A placeholder as it is, and a secret as `…`.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(if self.is_placeholder() { self.0.expose() } else { "…" })
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PipelineSpec {
    #[schema(value_type = String, example = "signups")]
    pub name: Name,
    #[serde(default = "yes", skip_serializing_if = "is_yes")]
    pub enabled: bool,
    /// Event types and groups of them (`user.*`). Left out: every type.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<String>, example = json!(["user.signed_up", "user.*"]))]
    pub on: Vec<Pattern>,
    /// Names of sources. Left out: any source.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
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
    /// A payload to show and to test with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub example: Option<serde_json::Value>,
}

pub(super) fn yes() -> bool {
    true
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde hands a reference")]
pub(super) fn is_yes(it: &bool) -> bool {
    *it
}
