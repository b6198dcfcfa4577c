//! How a destination is spoken to, by kind; and what other stages ask of a connection of any kind.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de, ser::SerializeMap as _};
use serde_json::{Map, Value};

use super::{Profile, Scheme, SigningKey, Target, Webhook};

/// Stored under `kind`: `{"kind":"webhook", …}`. A kind that this program does not know is kept as it is.
#[derive(Clone, Debug, PartialEq)]
pub enum Connection {
    Webhook(Webhook),
    Other(OtherConnection),
}

/// The connection of a kind whose settings only the kind itself understands.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct OtherConnection {
    pub kind: String,
    /// Every setting, resolved; secrets are sealed texts.
    pub settings: Map<String, Value>,
    /// `https://api.acme.com`: where it connects to.
    pub origins: Vec<String>,
    /// The address differs from message to message, so an answer is about one message.
    #[serde(default)]
    pub is_template: bool,
}

impl Connection {
    /// The word of its kind.
    pub fn kind(&self) -> &str {
        match self {
            Self::Webhook(_) => "webhook",
            Self::Other(it) => &it.kind,
        }
    }

    /// `None`: it is of another kind.
    pub fn webhook(&self) -> Option<&Webhook> {
        match self {
            Self::Webhook(it) => Some(it),
            Self::Other(_) => None,
        }
    }

    /// The settings, where it is of this kind, and the kind is not `webhook`.
    pub fn other(&self, kind: &str) -> Option<&OtherConnection> {
        match self {
            Self::Other(it) if it.kind == kind => Some(it),
            Self::Other(_) | Self::Webhook(_) => None,
        }
    }

    /// Whether its endpoint gets nothing before it was verified.
    pub fn verifies(&self) -> bool {
        self.webhook().is_some_and(|it| it.contract.verify)
    }

    /// Whether what verified this connection goes for the new one.
    pub fn proves(&self, new: &Self) -> bool {
        match (self.webhook(), new.webhook()) {
            (Some(old), Some(new)) => old.contract.verify && old.urls == new.urls,
            (None, _) | (_, None) => false,
        }
    }

    /// The name by which an event's `integrations` can exclude the destination.
    pub fn integration(&self) -> Option<&str> {
        self.webhook()?.contract.integration.as_deref()
    }

    /// Where it connects to: scheme, host and port of each of its addresses.
    pub fn origins(&self) -> Vec<String> {
        match self {
            Self::Webhook(it) => it.urls.iter().map(Target::origin).collect(),
            Self::Other(it) => it.origins.clone(),
        }
    }

    /// How many endpoints it counts for.
    pub fn endpoints(&self) -> usize {
        match self {
            Self::Webhook(it) => it.urls.len(),
            Self::Other(_) => 1,
        }
    }

    /// Whether an answer is about one message and not about the destination.
    pub fn is_template(&self) -> bool {
        match self {
            Self::Webhook(it) => it.urls.iter().any(Target::is_template),
            Self::Other(it) => it.is_template,
        }
    }

    /// Whether its receiver gets a notice when a person is deleted: an event of Tidegate's own.
    pub fn gets_deletion_notices(&self) -> bool {
        self.webhook().is_some()
    }

    /// The profile, of kinds that have profiles.
    pub fn profile(&self) -> Option<Profile> {
        self.webhook().map(|it| it.profile)
    }

    /// The keys that sign, newest first. Empty: it does not sign.
    pub fn signing_keys(&self) -> &[SigningKey] {
        self.webhook().map_or(&[], |it| &it.signing_keys)
    }

    /// The scheme and the keys, to rotate them. `None` for a kind that never signs.
    pub fn signing(&mut self) -> Option<(Scheme, &mut Vec<SigningKey>)> {
        match self {
            Self::Webhook(it) => Some((it.contract.signature.scheme, &mut it.signing_keys)),
            Self::Other(_) => None,
        }
    }
}

impl From<Webhook> for Connection {
    fn from(webhook: Webhook) -> Self {
        Self::Webhook(webhook)
    }
}

impl fmt::Debug for OtherConnection {
    /// Without the settings: an address may hold a token.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?} …", self.kind, self.origins)
    }
}

impl Serialize for Connection {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        #[serde(tag = "kind", rename = "webhook")]
        struct Tagged<'a> {
            #[serde(flatten)]
            webhook: &'a Webhook,
        }
        match self {
            Self::Webhook(webhook) => Tagged { webhook }.serialize(serializer),
            Self::Other(it) => {
                let mut map = serializer.serialize_map(None)?;
                map.serialize_entry("kind", &it.kind)?;
                map.serialize_entry("settings", &it.settings)?;
                map.serialize_entry("origins", &it.origins)?;
                map.serialize_entry("is_template", &it.is_template)?;
                map.end()
            }
        }
    }
}

impl<'de> Deserialize<'de> for Connection {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut map = Map::deserialize(deserializer)?;
        let is_webhook = map.get("kind").and_then(Value::as_str) == Some("webhook");
        if is_webhook {
            map.remove("kind");
            return serde_json::from_value(Value::Object(map))
                .map(Self::Webhook)
                .map_err(de::Error::custom);
        }
        serde_json::from_value(Value::Object(map)).map(Self::Other).map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_of_every_kind_are_read_as_they_were_stored() {
        let webhook = r#"{"kind":"webhook","profile":"standard","urls":["https://a.com/x"],"headers":{},"auth":{"auth":"none"},"signing_keys":[],"contract":{"envelope":"standard","method":"POST","user_agent":"Tidegate","signature":{"scheme":"standard","header":"webhook-signature","over":"body"},"idempotency_key":"message","https_only":false,"verify":false,"whole_answer":false,"integration":null,"on_gone":"disable"}}"#;
        let other = r#"{"kind":"pigeon","settings":{"loft":"v1.a.b"},"origins":["https://b.com"],"is_template":true}"#;
        for text in [webhook, other] {
            let connection: Connection = serde_json::from_str(text).unwrap();
            assert_eq!(serde_json::to_string(&connection).unwrap(), text);
        }
        let connection: Connection = serde_json::from_str(other).unwrap();
        assert_eq!((connection.kind(), connection.endpoints()), ("pigeon", 1));
        assert!(connection.is_template() && !connection.verifies());
        assert_eq!(format!("{connection:?}"), r#"Other(pigeon ["https://b.com"] …)"#);
    }
}
