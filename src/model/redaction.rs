//! What is taken out of events: named fields, and values that look like personal data.

use std::fmt;

use serde::{
    Deserialize, Deserializer, Serialize,
    de::{SeqAccess, Visitor, value::SeqAccessDeserializer},
};

/// Fields and detectors, and what becomes of what they find. In YAML:
/// `{ fields: [payload.email], detect: [card, ssn], mode: mask }`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Redaction {
    /// Such as `payload.email`, `metadata.ip` or `payload.users[*].email`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fields: Vec<String>,
    /// What is looked for in every value at any depth, or `all`.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "one_or_more")]
    pub detect: Vec<Detector>,
    #[serde(default)]
    pub mode: RedactionMode,
}

/// A kind of personal data that is known by its form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Detector {
    All,
    Email,
    /// IPv4 and IPv6.
    Ip,
    Phone,
    /// 13 to 19 digits of a payment network whose check digit is right.
    Card,
    Iban,
    /// The number of the US social security, with its separators.
    Ssn,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum RedactionMode {
    /// The field disappears; in a list, null stands in its place; in a text, the kind: `[email]`.
    #[default]
    Drop,
    /// Something to recognise stays: `a***@acme.com`.
    Mask,
    /// A pseudonym: the same for the same value in one project, and it tells nothing of the value.
    Hash,
    /// Addresses of the internet lose their last part: /24 of IPv4, /48 of IPv6.
    Truncate,
}

/// A list, or one word for a list of one.
fn one_or_more<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Detector>, D::Error> {
    struct OneOrMore;
    impl<'de> Visitor<'de> for OneOrMore {
        type Value = Vec<Detector>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("`all`, or a list of email, ip, phone, card, iban, ssn")
        }

        fn visit_str<E: serde::de::Error>(self, word: &str) -> Result<Self::Value, E> {
            let word = serde::de::value::StrDeserializer::<E>::new(word);
            Detector::deserialize(word).map(|it| vec![it])
        }

        fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Self::Value, A::Error> {
            Vec::deserialize(SeqAccessDeserializer::new(list))
        }
    }
    deserializer.deserialize_any(OneOrMore)
}
