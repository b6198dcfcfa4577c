//! What a webhook says, to whom, and how it proves that it is us: its contract.
//!
//! A [`Profile`] is a named set of values for all of this; `destinations::profiles` holds them.
//! A destination keeps every value, resolved, so that a later version of Tidegate does not
//! change what a receiver has come to expect.

use std::{collections::BTreeMap, fmt};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{EndpointUrl, Sealed};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Webhook {
    pub profile: Profile,
    /// One, or as many as the profile allows. Each message goes to all of them, and one that accepts
    /// it is enough.
    pub urls: Vec<Target>,
    /// Values or templates of them, sealed: such values are often keys. Names that Tidegate sets
    /// itself are refused when they are saved.
    #[serde(default)]
    pub headers: BTreeMap<String, Sealed>,
    pub auth: Auth,
    /// Signs with each that is alive; empty means unsigned.
    #[serde(default)]
    pub signing_keys: Vec<SigningKey>,
    pub contract: Contract,
}

/// Whose contract it is. Every value of it can be overridden.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum Profile {
    /// Standard Webhooks.
    #[default]
    Standard,
    Ingestlayer,
    Admin,
    /// Segment's classic webhooks.
    Segment,
    /// Segment's Webhooks (Actions).
    SegmentActions,
    Customerio,
}

impl Profile {
    pub const ALL: [Self; 6] = [
        Self::Standard,
        Self::Ingestlayer,
        Self::Admin,
        Self::Segment,
        Self::SegmentActions,
        Self::Customerio,
    ];
}

/// What a receiver can rely on in each request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Contract {
    pub envelope: Envelope,
    pub method: Method,
    pub user_agent: String,
    pub signature: Signature,
    pub idempotency_key: IdempotencyHeader,
    /// `http` URLs are refused when they are saved.
    pub https_only: bool,
    /// An endpoint gets nothing before it has answered a signed `webhook.configured` with 2xx.
    pub verify: bool,
    /// An answer counts only when its body has ended within the timeout, too. Otherwise a 2xx counts as
    /// soon as it is there.
    #[serde(default)]
    pub whole_answer: bool,
    /// The name by which an event's `integrations` object can exclude this destination.
    pub integration: Option<String>,
    /// What a 410 means.
    #[serde(default)]
    pub on_gone: OnGone,
}

/// What becomes of a destination whose endpoint answers 410, and of the message. Where the URL is a
/// template, the answer is about that URL, and the destination is never disabled by it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnGone {
    /// The destination is disabled, and holds what it is owed.
    #[default]
    Disable,
    /// That message is dead, and the others go on.
    Dead,
    /// As every other answer that is not 2xx.
    Retry,
}

/// What stands around the payload in the body.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Envelope {
    /// `{"type","timestamp","data"}`, as Standard Webhooks recommends.
    Standard,
    /// `{"type","payload"}`.
    TypePayload,
    /// `{"id","type","timestamp","data","metadata"}`.
    Full,
    /// The payload is a Segment message, and goes out with `"version":1` before its fields.
    Segment,
    /// The payload alone.
    Payload,
}

/// How a request proves that it is ours.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signature {
    pub scheme: Scheme,
    /// The header that carries it, in lower case. `webhook-signature` always for [`Scheme::Standard`].
    pub header: String,
    /// What is signed of a batch.
    pub over: Signed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Scheme {
    /// Standard Webhooks: `webhook-id`, `webhook-timestamp`, `webhook-signature`. Carries several.
    Standard,
    /// `t=<unix>,v1=<hex>` over `t.body`, HMAC-SHA256. Carries several.
    Stamped,
    /// `sha256=<hex>` over the body, HMAC-SHA256. Carries one.
    Prefixed,
    /// `<hex>` over the body, HMAC-SHA1; the body is what ECMAScript's `JSON.stringify` writes.
    /// Carries one.
    Sha1,
}

impl Scheme {
    /// Whether receivers can check against an old and a new secret at the same time.
    pub fn carries_several(self) -> bool {
        match self {
            Self::Standard | Self::Stamped => true,
            Self::Prefixed | Self::Sha1 => false,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Signed {
    Body,
    /// The first element of a batch, as its bytes stand in the body; all of a body that is no batch.
    FirstElement,
}

/// What stands in `Idempotency-Key`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum IdempotencyHeader {
    None,
    /// The message's id, the same for every destination.
    Message,
    /// One of its own for each message and destination, the same on every attempt.
    MessageAndDestination,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum Method {
    #[default]
    Post,
    Put,
    Patch,
    Delete,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "auth", rename_all = "snake_case")]
pub enum Auth {
    None,
    Bearer { token: Sealed },
    Basic { username: String, password: Sealed },
}

/// One secret that signs. During a rotation two or more are alive.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SigningKey {
    /// In the form that its scheme wants, sealed: `whsec_…` (HMAC-SHA256) or `whsk_…` (ed25519) for
    /// Standard Webhooks, any text for the others.
    pub secret: Sealed,
    pub created_at: Timestamp,
    /// It signs from this time on: the chosen moment of a rotation. `None`: from the beginning.
    #[serde(default)]
    pub active_from: Option<Timestamp>,
    /// `None` for the newest.
    #[serde(default)]
    pub expires_at: Option<Timestamp>,
}

impl SigningKey {
    pub fn is_alive(&self, at: Timestamp) -> bool {
        self.active_from.is_none_or(|it| it <= at) && self.expires_at.is_none_or(|it| at < it)
    }
}

/// The URL of an endpoint, whose path and query may hold `{{ … }}` templates over the event. Scheme,
/// host and port are written out: no event decides who is spoken to.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Target(String);

impl Target {
    pub fn as_text(&self) -> &str {
        &self.0
    }

    pub fn is_template(&self) -> bool {
        self.0.contains("{{")
    }

    /// `https://api.acme.com`, for logs and messages.
    pub fn origin(&self) -> String {
        let fixed = self.fixed_part().to_owned();
        EndpointUrl::try_from(fixed).map(|it| it.origin()).unwrap_or_default()
    }

    /// The URL with something harmless in place of each template; `None` when one has no end.
    fn sample(&self) -> Option<String> {
        let mut parts = self.0.split("{{");
        let mut sample = parts.next()?.to_owned();
        for part in parts {
            sample.push('x');
            sample.push_str(part.split_once("}}")?.1);
        }
        Some(sample)
    }

    /// What stands before the first template.
    fn fixed_part(&self) -> &str {
        self.0.split_once("{{").map_or(self.0.as_str(), |(fixed, _)| fixed)
    }
}

const UNCLOSED: &str = "a `{{` in an endpoint's URL has a `}}` behind it";

impl TryFrom<String> for Target {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let target = Self(text);
        let fixed = target.fixed_part();
        let url = EndpointUrl::try_from(fixed.to_owned())?;
        // The whole must be a URL also when the templates are filled in.
        if target.is_template() {
            EndpointUrl::try_from(target.sample().ok_or(UNCLOSED)?)?;
        }
        // The authority must have ended before the first template begins.
        let ends = fixed.find("://").is_some_and(|at| fixed[at + 3..].contains(['/', '?']));
        if target.is_template() && !ends {
            return Err(
                "an endpoint's scheme, host and port are written out: `{{ … }}` comes after them",
            );
        }
        // Odd spellings become plain before they are judged.
        Ok(if target.is_template() { target } else { Self(url.as_url().to_string()) })
    }
}

impl From<Target> for String {
    fn from(target: Target) -> Self {
        target.0
    }
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/…", self.origin())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_stand_only_after_the_host() {
        for (text, is_right) in [
            ("https://a.com/hooks", true),
            ("https://a.com/users/{{ payload.id }}?x={{ type }}", true),
            ("https://a.com?x={{ type }}", true),
            ("https://{{ payload.host }}/", false),
            ("https://a.com{{ payload.path }}", false),
            ("https://a.com:{{ payload.port }}/", false),
            ("{{ payload.url }}", false),
            ("ftp://a.com/{{ type }}", false),
            ("https://a.com/{{ type", false),
            ("https://a.com/{{ type }}#part", false),
        ] {
            assert_eq!(Target::try_from(text.to_owned()).is_ok(), is_right, "{text}");
        }
        let target = Target::try_from("https://A.com/t/{{ payload.token }}".to_owned()).unwrap();
        assert_eq!(format!("{target:?}"), "https://a.com/…");
    }

    #[test]
    fn a_key_signs_from_its_moment_until_it_expires() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let key = SigningKey {
            secret: Sealed::from_text("x"),
            created_at: at(0),
            active_from: Some(at(10)),
            expires_at: Some(at(20)),
        };
        assert_eq!([9, 10, 19, 20].map(|it| key.is_alive(at(it))), [false, true, true, false]);
    }
}
