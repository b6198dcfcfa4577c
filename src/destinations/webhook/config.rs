//! The settings of a webhook, as people write them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    model::{Envelope, IdempotencyHeader, Method, OnGone, Profile, Scheme, Signed},
    settings::{AuthSpec, SecretSpec, Setting},
};

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct WebhookSpec {
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
