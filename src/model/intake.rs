//! How a source judges and reads what is posted to it by another service.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use super::Sealed;

/// What a source of kind `webhook` does with a request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Intake {
    pub verify: Verify,
    /// Each of them is believed: during a rotation there are two.
    #[serde(default)]
    pub secrets: Vec<Sealed>,
    /// An expression over `headers` and `payload` that gives the event's type. `None`: the provider's.
    #[serde(default)]
    pub event_type: Option<String>,
    /// The URL as the sender knows it, where that is signed and we cannot see it.
    #[serde(default)]
    pub url: Option<String>,
    /// What the sender hears. `None`: what the provider wants to hear.
    #[serde(default)]
    pub answer: Option<Acknowledgement>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verify {
    Preset(Provider),
    Scheme(Scheme),
}

/// An answer to a request that was taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Acknowledgement {
    /// 200 to 299.
    #[serde(default = "ok")]
    pub status: u16,
    #[serde(default = "json")]
    pub content_type: String,
    #[serde(default)]
    pub body: String,
}

fn ok() -> u16 {
    200
}

fn json() -> String {
    "application/json".to_owned()
}

/// A system that sends webhooks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Provider {
    Stripe,
    Github,
    Slack,
    Shopify,
    StandardWebhooks,
    Svix,
    Twilio,
    Gitlab,
    Sendgrid,
    Paddle,
    Segment,
    Customerio,
}

impl Provider {
    pub const ALL: [Self; 12] = [
        Self::Stripe,
        Self::Github,
        Self::Slack,
        Self::Shopify,
        Self::StandardWebhooks,
        Self::Svix,
        Self::Twilio,
        Self::Gitlab,
        Self::Sendgrid,
        Self::Paddle,
        Self::Segment,
        Self::Customerio,
    ];
}

type Text = Cow<'static, str>;

/// How a request proves where it comes from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scheme {
    Hmac(HmacScheme),
    /// Standard Webhooks, under these headers' common prefix: `webhook-` or `svix-`.
    Standard {
        prefix: Text,
    },
    /// ECDSA over P-256 with SHA-256, in base64 of ASN.1; the secret is the public key.
    Ecdsa {
        signature: Text,
        time: Text,
    },
    /// HMAC-SHA1 over the URL and what was posted.
    Twilio,
    /// The secret itself, in this header, behind this prefix.
    Token {
        header: Text,
        prefix: Text,
    },
    /// `Authorization: Basic`; the secret is `name:password`.
    Basic,
    /// Anybody may post.
    None,
}

impl Scheme {
    /// The headers that prove who sends: the secret itself, its signature, and the time of that.
    pub fn proofs(&self) -> Vec<String> {
        let names: Vec<&str> = match self {
            Self::Hmac(it) => [Some(&it.header), it.time.as_ref()]
                .into_iter()
                .flatten()
                .map(AsRef::as_ref)
                .collect(),
            Self::Standard { prefix } => {
                return vec![format!("{prefix}signature"), format!("{prefix}timestamp")];
            }
            Self::Ecdsa { signature, time } => vec![signature, time],
            Self::Twilio => vec!["x-twilio-signature"],
            Self::Token { header, .. } => vec![header],
            Self::Basic => vec!["authorization"],
            Self::None => Vec::new(),
        };
        names.into_iter().map(str::to_ascii_lowercase).collect()
    }

    /// The header that holds the secret itself, for which the body need not be read.
    pub fn secret_header(&self) -> Option<&str> {
        match self {
            Self::Token { header, .. } => Some(header),
            Self::Basic => Some("authorization"),
            Self::Hmac(_) | Self::Standard { .. } | Self::Ecdsa { .. } => None,
            Self::Twilio | Self::None => None,
        }
    }
}

/// A keyed hash over a text that is made of the request's parts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HmacScheme {
    pub algorithm: Algorithm,
    /// The header with the signature.
    pub header: Text,
    /// What the header holds.
    #[serde(default)]
    pub form: Form,
    #[serde(default)]
    pub encoding: Encoding,
    /// What is signed, with `{id}`, `{time}` and `{body}` in it.
    #[serde(default = "body_alone")]
    pub signed: Text,
    /// The header with the time, in seconds since 1970, where the signature's own does not hold it.
    #[serde(default)]
    pub time: Option<Text>,
    /// The header with the id that is signed.
    #[serde(default)]
    pub id: Option<Text>,
}

const fn body_alone() -> Text {
    Cow::Borrowed("{body}")
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Algorithm {
    /// For systems that force it.
    Sha1,
    Sha256,
    Sha512,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Form {
    /// One signature behind this text, which may be empty: `sha256=`.
    Prefix(Text),
    /// `t=1492774577,v1=5257a8…`: named values, of which one is the time and some are signatures.
    Pairs { separator: char, time: Text, code: Text },
}

impl Default for Form {
    fn default() -> Self {
        Self::Prefix(Cow::Borrowed(""))
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Encoding {
    #[default]
    Hex,
    Base64,
}
