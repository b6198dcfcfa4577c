//! Secrets on their way in, and the placeholders that stand for them on the way out.

use std::fmt;

use serde::{Deserialize, Serialize, Serializer};

use crate::model::{Name, Secret};

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
    pub fn is_none(&self) -> bool {
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
