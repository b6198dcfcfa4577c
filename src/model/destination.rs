//! Where events go to.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use url::Url;

use super::{Connection, DestinationId, Era, Name, Ordering, Policy, ProjectId};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Destination {
    pub id: DestinationId,
    pub project: ProjectId,
    pub name: Name,
    /// Grows by one with every change.
    pub version: u32,
    pub state: DestinationState,
    pub policy: Policy,
    /// Which of its orderings it has: what was planned under an earlier one goes first.
    #[serde(default)]
    pub era: Era,
    pub connection: Connection,
    pub created_at: Timestamp,
}

impl Destination {
    /// The era that begins where it gets this ordering. Without order nothing begins: nothing waits.
    pub fn era_with(&self, ordering: &Ordering) -> Era {
        let is_new = *ordering != Ordering::None && *ordering != self.policy.ordering;
        if is_new { self.era.next() } else { self.era }
    }
}

/// Whether deliveries are attempted. While they are not, they are held, in their order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum DestinationState {
    Active,
    /// Its contract asks for a proof that the endpoint is there and willing, and none was given yet.
    Unverified {
        since: Timestamp,
        /// What the last try came to. Empty before the first.
        reason: String,
    },
    /// A person paused it.
    Paused {
        since: Timestamp,
    },
    /// A person disabled it, or it said that it is gone (410), or it failed for too long.
    Disabled {
        since: Timestamp,
        reason: String,
    },
}

/// An `http` or `https` URL without userinfo or fragment. Logs see only its scheme, host and port,
/// since paths and queries hold tokens.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct EndpointUrl(Url);

impl EndpointUrl {
    pub fn as_url(&self) -> &Url {
        &self.0
    }

    /// `https://api.acme.com`, for logs and messages.
    pub fn origin(&self) -> String {
        self.0.origin().ascii_serialization()
    }
}

impl TryFrom<String> for EndpointUrl {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let url = Url::parse(&text)
            .map_err(|_| "an endpoint is an absolute URL such as `https://api.acme.com/hooks`")?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err("an endpoint's scheme is `https` or `http`");
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err("an endpoint has no user or password in its URL: use `auth`");
        }
        if url.fragment().is_some() {
            return Err("an endpoint has no `#fragment`");
        }
        if url.port() == Some(0) {
            return Err("an endpoint's port is 1 to 65535");
        }
        Ok(Self(url))
    }
}

impl From<EndpointUrl> for String {
    fn from(url: EndpointUrl) -> Self {
        url.0.into()
    }
}

impl fmt::Debug for EndpointUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/…", self.origin())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_urls_are_refused_and_odd_addresses_become_plain() {
        for text in ["ftp://a/", "/hooks", "https://u:p@a.com/", "https://a.com/#x", "http://a:0/"]
        {
            assert!(EndpointUrl::try_from(text.to_owned()).is_err(), "{text}");
        }
        let url = EndpointUrl::try_from("http://0x7f.1/hooks?token=abc".to_owned()).unwrap();
        assert_eq!(url.as_url().host_str(), Some("127.0.0.1"));
        assert_eq!(format!("{url:?}"), "http://127.0.0.1/…");
    }
}
