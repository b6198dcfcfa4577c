//! The shapes in which people write resources: the same in YAML and in JSON.
//!
//! What is not written has its default. A shape that was read is not yet checked: `check` does that.

use std::{collections::BTreeMap, fmt, num::NonZeroU32, time::Duration};

use serde::{Deserialize, Serialize, Serializer};

use super::setting::{Setting, Span};
use crate::model::{
    Batch, Breaker, Envelope, IdempotencyHeader, Method, Name, OnGone, Ordering, Pattern, Profile,
    RateLimit, Retry, RetryOn, Scheme, Secret, Signed, StepSpec, TestCase, TypeName, Validate,
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
    /// Whose contract it keeps. Everything below that is left out has the profile's value, which
    /// `GET /api/v1/profiles` shows.
    #[serde(default)]
    pub profile: Profile,
    /// An absolute `https` or `http` URL. Its path and query may hold `{{ … }}` over the event.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "https://api.acme.com/hooks")]
    pub url: Option<String>,
    /// Several URLs, in the place of `url`, where the profile allows several: each message goes to
    /// all of them, and one that accepts it is enough.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub urls: Vec<String>,
    /// Sent with every attempt. Their values are kept like secrets, and may hold `{{ … }}`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schema(value_type = BTreeMap<String, String>)]
    pub headers: BTreeMap<String, SecretSpec>,
    #[serde(default, skip_serializing_if = "AuthSpec::is_none")]
    pub auth: AuthSpec,
    /// Signs each attempt: `whsec_…` or `whsk_…` where the scheme is `standard`, any text for the
    /// others. Left out: the one there is; or a new one, where the profile makes one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, example = "${CRM_WEBHOOK_SECRET}")]
    pub secret: Option<SecretSpec>,
    /// `false`: attempts are not signed. `true`: they are, and a secret is made where there is none.
    /// Left out: as the profile has it. With `segment`, `segment-actions` and `customerio` they are signed if
    /// there is a `secret`; with `ingestlayer` not beside `auth`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signed: Option<bool>,

    /// What stands around the payload: `standard`, `type_payload`, `full`, `segment`, `payload`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub envelope: Option<Envelope>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<Method>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "Tidegate")]
    pub user_agent: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signature: Option<SignatureSpec>,
    /// What stands in the header `Idempotency-Key`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idempotency_key: Option<IdempotencyHeader>,
    /// `true`: an `http` URL is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub https_only: Option<bool>,
    /// `true`: an endpoint gets nothing before it has answered a signed test event with 2xx.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verify: Option<bool>,
    /// `true`: a 2xx counts only when the body of the answer has ended within the timeout, too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub whole_answer: Option<bool>,
    /// The name by which an event's `integrations` can exclude this destination, or `false`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Value>, example = "Webhooks")]
    pub integration: Option<Setting<String>>,
    /// What a 410 means: `disable` the destination, `dead` for that message, or `retry`. Where the URL is a
    /// template it is about that message, whatever stands here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_gone: Option<OnGone>,

    /// Which deliveries wait for which: `none`, `fifo`, or `key: <expression>`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub ordering: Option<Ordering>,
    /// `preset: standard`, `waits: [5s, 5m]`, or `exponential: { base, factor, max, attempts }`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub retry: Option<Retry>,
    /// Which failures are tried again: `all`, `temporary` or `server_errors`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub retry_on: Option<RetryOn>,
    /// How long after its event was accepted a delivery may still be tried, or `false`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Value>, example = "24h")]
    pub expires_after: Option<Setting<Span>>,
    /// Several messages in one request, as a JSON array: `true`, `{ events, bytes, linger }`, or
    /// `false`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Value>)]
    pub batch: Option<Setting<Batch>>,
    /// Attempts in flight at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u32>)]
    pub concurrency: Option<NonZeroU32>,
    /// `{ events: 100, per: 1s }`, or `false`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Value>)]
    pub rate_limit: Option<Setting<RateLimit>>,
    /// One deadline over connect, TLS, headers and body of one attempt.
    #[serde(default, with = "humantime_serde::option", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, example = "15s")]
    pub timeout: Option<Duration>,
    /// For how long a `Retry-After` may hold up the whole destination.
    #[serde(default, with = "humantime_serde::option", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, example = "1h")]
    pub retry_after_at_most: Option<Duration>,
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

/// How a request proves that it is ours. What is left out follows from the profile and the scheme.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SignatureSpec {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scheme: Option<Scheme>,
    /// The header that carries it. `standard` has always `webhook-signature`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "x-signature")]
    pub header: Option<String>,
    /// What is signed of a batch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub over: Option<Signed>,
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
        let mut text = format!("{name}_{field}").to_ascii_uppercase();
        text = text.replace(|it: char| !it.is_ascii_alphanumeric(), "_");
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
