//! Signing schemes by the names that people know them by, and the headers that each uses.

use clap::ValueEnum;
use http::HeaderMap;
use jiff::Timestamp;

use super::error::{CliError, Result};
use crate::{
    crypto::signature::{SecretError, VerifyError, prefixed, segment, stamped, standard},
    model::Secret,
};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum SignScheme {
    /// Standard Webhooks: webhook-id, webhook-timestamp, webhook-signature (secret: whsec_…, whsk_… or whpk_…)
    #[default]
    Standard,
    /// `t=<unix>,v1=<hex>` over `timestamp.body`, in Stripe-Signature
    Stripe,
    /// `sha256=<hex>` over the body, in X-Hub-Signature-256
    Github,
    /// HMAC-SHA1 in hexadecimal over the body, in X-Signature; Customer.io's, too
    #[value(alias = "customerio", alias = "segment-actions")]
    Segment,
    /// `t=<unix>,v1=<hex>` over `timestamp.body`, in X-Ingestlayer-Signature
    Ingestlayer,
    /// `sha256=<hex>` over the body, in X-Admin-Signature
    Admin,
}

impl SignScheme {
    /// The header that carries the signature unless another is given.
    pub fn header(self) -> &'static str {
        match self {
            Self::Standard => standard::SIGNATURE,
            Self::Stripe => "stripe-signature",
            Self::Github => "x-hub-signature-256",
            Self::Segment => segment::SIGNATURE,
            Self::Ingestlayer => "x-ingestlayer-signature",
            Self::Admin => "x-admin-signature",
        }
    }
}

/// Keys of one scheme, prepared.
#[derive(Clone)]
enum SchemeKeys {
    Standard(Vec<standard::Key>),
    Stamped(Vec<stamped::Key>),
    Prefixed(Vec<prefixed::Key>),
    Sha1(Vec<segment::Key>),
}

impl SchemeKeys {
    fn new(scheme: SignScheme, secrets: &[Secret], signs: bool) -> Result<Self, SecretError> {
        let secrets = secrets.iter();
        match scheme {
            SignScheme::Standard if signs => {
                secrets.map(standard::Key::signing).collect::<Result<_, _>>().map(Self::Standard)
            }
            SignScheme::Standard => {
                secrets.map(standard::Key::verifying).collect::<Result<_, _>>().map(Self::Standard)
            }
            SignScheme::Stripe | SignScheme::Ingestlayer => {
                secrets.map(stamped::Key::new).collect::<Result<_, _>>().map(Self::Stamped)
            }
            SignScheme::Github | SignScheme::Admin => {
                secrets.map(prefixed::Key::new).collect::<Result<_, _>>().map(Self::Prefixed)
            }
            SignScheme::Segment => {
                secrets.map(segment::Key::new).collect::<Result<_, _>>().map(Self::Sha1)
            }
        }
    }
}

/// Signs with each of its keys; schemes with room for one signature use the first.
pub struct Signer {
    keys: SchemeKeys,
    header: String,
}

impl Signer {
    pub fn new(scheme: SignScheme, secrets: &[Secret], header: Option<&str>) -> Result<Self> {
        let keys = SchemeKeys::new(scheme, secrets, true).map_err(refused_secret)?;
        Ok(Self { keys, header: header.unwrap_or(scheme.header()).to_owned() })
    }

    /// The headers to send, by name.
    pub fn headers(&self, id: &str, seconds: i64, body: &[u8]) -> Vec<(String, String)> {
        match &self.keys {
            SchemeKeys::Standard(keys) => {
                let mut signature = String::new();
                for key in keys {
                    key.sign_into(&mut signature, id, seconds, body);
                }
                vec![
                    (standard::ID.to_owned(), id.to_owned()),
                    (standard::TIMESTAMP.to_owned(), seconds.to_string()),
                    (self.header.clone(), signature),
                ]
            }
            SchemeKeys::Stamped(keys) => {
                vec![(self.header.clone(), stamped::sign(keys, seconds, body))]
            }
            SchemeKeys::Prefixed(keys) => keys
                .first()
                .map(|key| (self.header.clone(), prefixed::sign(key, body)))
                .into_iter()
                .collect(),
            SchemeKeys::Sha1(keys) => keys
                .first()
                .map(|key| (self.header.clone(), segment::sign(key, body)))
                .into_iter()
                .collect(),
        }
    }
}

/// Checks requests with any of its keys.
#[derive(Clone)]
pub struct Verifier {
    keys: SchemeKeys,
    header: String,
}

impl Verifier {
    pub fn new(scheme: SignScheme, secrets: &[Secret], header: Option<&str>) -> Result<Self> {
        let keys = SchemeKeys::new(scheme, secrets, false).map_err(refused_secret)?;
        Ok(Self { keys, header: header.unwrap_or(scheme.header()).to_owned() })
    }

    pub fn verify(
        &self,
        headers: &HeaderMap,
        body: &[u8],
        now: Timestamp,
    ) -> Result<(), VerifyError> {
        let text =
            |name: &str| headers.get(name).and_then(|it| it.to_str().ok()).unwrap_or_default();
        let signature = text(&self.header);
        match &self.keys {
            SchemeKeys::Standard(keys) => {
                let headers = standard::Headers {
                    id: text(standard::ID),
                    timestamp: text(standard::TIMESTAMP),
                    signature,
                };
                standard::verify(keys, headers, body, now)
            }
            SchemeKeys::Stamped(keys) => stamped::verify(keys, signature, body, now),
            SchemeKeys::Prefixed(keys) => prefixed::verify(keys, signature, body),
            SchemeKeys::Sha1(keys) => segment::verify(keys, signature, body),
        }
    }
}

fn refused_secret(error: SecretError) -> CliError {
    CliError::usage(format!("the secret cannot be used: {error}"))
        .then("copy the destination's signing secret; quote it, so that the shell leaves it alone")
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;
    use crate::{
        destinations::profiles,
        model::{self, Profile},
    };

    #[test]
    fn schemes_verify_only_what_they_signed() {
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        let right = Secret::new("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw");
        let wrong = Secret::new("whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA");
        for scheme in SignScheme::value_variants() {
            let signer = Signer::new(*scheme, std::slice::from_ref(&right), None).unwrap();
            let headers: HeaderMap = signer
                .headers("evt_1", now.as_second(), b"{}")
                .into_iter()
                .map(|(name, value)| {
                    (HeaderName::try_from(name).unwrap(), HeaderValue::try_from(value).unwrap())
                })
                .collect();
            let verify = |secret: &Secret, body: &[u8]| {
                let verifier = Verifier::new(*scheme, std::slice::from_ref(secret), None).unwrap();
                verifier.verify(&headers, body, now)
            };
            assert_eq!(verify(&right, b"{}"), Ok(()), "{scheme:?}");
            assert_eq!(verify(&right, b"{ }"), Err(VerifyError::Mismatch), "{scheme:?}");
            assert_eq!(verify(&wrong, b"{}"), Err(VerifyError::Mismatch), "{scheme:?}");
        }
    }

    #[test]
    fn every_profile_of_a_webhook_has_its_scheme_and_header_here() {
        for profile in Profile::ALL {
            let name = profile_name(profile);
            let scheme = SignScheme::from_str(&name, false).unwrap();
            let signature = profiles::values(profile).contract.signature;
            assert_eq!(scheme.header(), signature.header, "{name}");
            let keys = SchemeKeys::new(scheme, &[], true).unwrap();
            let is_same = match signature.scheme {
                model::Scheme::Standard => matches!(keys, SchemeKeys::Standard(_)),
                model::Scheme::Stamped => matches!(keys, SchemeKeys::Stamped(_)),
                model::Scheme::Prefixed => matches!(keys, SchemeKeys::Prefixed(_)),
                model::Scheme::Sha1 => matches!(keys, SchemeKeys::Sha1(_)),
            };
            assert!(is_same, "{name}");
        }
    }

    /// As it is written in a destination.
    fn profile_name(profile: Profile) -> String {
        serde_json::to_value(profile).unwrap().as_str().unwrap().to_owned()
    }

    #[test]
    fn the_header_can_have_another_name() {
        let secret = Secret::new("shared");
        let signer = Signer::new(SignScheme::Github, &[secret], Some("x-admin-signature")).unwrap();
        assert_eq!(signer.headers("", 0, b"")[0].0, "x-admin-signature");
    }
}
