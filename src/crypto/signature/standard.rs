//! Standard Webhooks: `v1` (HMAC-SHA256) and `v1a` (ed25519), as its specification has them.

use std::fmt::Write as _;

use base64::{
    Engine as _,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig, general_purpose::STANDARD},
};
use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use jiff::Timestamp;
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

use super::{SecretError, VerifyError, check_timestamp};
use crate::{
    crypto::{mac::Sha256Key, random::Random},
    model::Secret,
};

pub const ID: &str = "webhook-id";
pub const TIMESTAMP: &str = "webhook-timestamp";
pub const SIGNATURE: &str = "webhook-signature";

const SYMMETRIC: &str = "whsec_";
const PRIVATE: &str = "whsk_";
const PUBLIC: &str = "whpk_";

/// Digits of a number of seconds, with its sign.
const LONGEST_SECONDS: usize = 20;

/// Secrets in the wild come with and without padding; we always write it.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// A key, prepared, that signs or at least verifies. `whsec_…` (or bare base64), `whsk_…`, `whpk_…`.
#[derive(Clone)]
pub struct Key(Kind);

#[derive(Clone)]
enum Kind {
    Symmetric(Sha256Key),
    Private(Box<SigningKey>),
    Public(Box<VerifyingKey>),
}

impl Key {
    /// A key that signs: `whsec_…`, bare base64, or `whsk_…`.
    pub fn signing(secret: &Secret) -> Result<Self, SecretError> {
        let key = Self::verifying(secret)?;
        match key.0 {
            Kind::Symmetric(_) | Kind::Private(_) => Ok(key),
            Kind::Public(_) => Err(SecretError::Public),
        }
    }

    /// A key that verifies: any that signs, or `whpk_…`.
    pub fn verifying(secret: &Secret) -> Result<Self, SecretError> {
        let text = secret.expose().trim();
        let decode = |text: &str| {
            if text.is_empty() {
                return Err(SecretError::Empty);
            }
            LENIENT.decode(text).map(Zeroizing::new).map_err(|_| SecretError::NotBase64)
        };
        if let Some(text) = text.strip_prefix(PRIVATE) {
            return private(&decode(text)?).map(|it| Self(Kind::Private(Box::new(it))));
        }
        if let Some(text) = text.strip_prefix(PUBLIC) {
            return public(&decode(text)?).map(|it| Self(Kind::Public(Box::new(it))));
        }
        let bytes = decode(text.strip_prefix(SYMMETRIC).unwrap_or(text))?;
        if !(24..=64).contains(&bytes.len()) {
            return Err(SecretError::Length);
        }
        Ok(Self(Kind::Symmetric(Sha256Key::new(&bytes))))
    }

    /// The key that a receiver of `v1a` is given. `None` for symmetric keys, which have no such part.
    pub fn public_text(&self) -> Option<String> {
        let key = match &self.0 {
            Kind::Symmetric(_) => return None,
            Kind::Private(key) => key.verifying_key(),
            Kind::Public(key) => **key,
        };
        Some(format!("{PUBLIC}{}", STANDARD.encode(key.as_bytes())))
    }

    /// Appends `v1,…` or `v1a,…` to the header's value, behind a space if there is something
    /// already. A public key appends nothing.
    pub fn sign_into(&self, header: &mut String, id: &str, seconds: i64, body: &[u8]) {
        let separator = if header.is_empty() { "" } else { " " };
        let mut start = String::with_capacity(id.len() + LONGEST_SECONDS + 2);
        // Writing to a `String` cannot fail.
        write!(start, "{id}.{seconds}.").ok();
        match &self.0 {
            Kind::Symmetric(key) => {
                header.push_str(separator);
                header.push_str("v1,");
                STANDARD.encode_string(key.code(&[start.as_bytes(), body]), header);
            }
            Kind::Private(key) => {
                header.push_str(separator);
                header.push_str("v1a,");
                let message = [start.as_bytes(), body].concat();
                STANDARD.encode_string(key.sign(&message).to_bytes(), header);
            }
            Kind::Public(_) => (),
        }
    }

    /// Whether one entry of the header, such as `v1,g0hM9…`, is this key's.
    fn accepts(&self, entry: &str, start: &str, body: &[u8]) -> bool {
        let public = match &self.0 {
            Kind::Symmetric(key) => {
                let Some(text) = entry.strip_prefix("v1,") else { return false };
                let code = key.code(&[start.as_bytes(), body]);
                return LENIENT.decode(text).is_ok_and(|it| it.as_slice().ct_eq(&code).into());
            }
            Kind::Private(key) => key.verifying_key(),
            Kind::Public(key) => **key,
        };
        let Some(text) = entry.strip_prefix("v1a,") else { return false };
        let Ok(bytes) = LENIENT.decode(text) else { return false };
        let message = [start.as_bytes(), body].concat();
        Signature::from_slice(&bytes).is_ok_and(|it| public.verify_strict(&message, &it).is_ok())
    }
}

fn private(bytes: &[u8]) -> Result<SigningKey, SecretError> {
    if let Ok(pair) = <&[u8; 64]>::try_from(bytes) {
        // The public half must belong to the private one, or signatures would leak the key.
        return SigningKey::from_keypair_bytes(pair).map_err(|_| SecretError::NotEd25519);
    }
    let seed = <&[u8; 32]>::try_from(bytes).map_err(|_| SecretError::NotEd25519)?;
    Ok(SigningKey::from_bytes(seed))
}

fn public(bytes: &[u8]) -> Result<VerifyingKey, SecretError> {
    let bytes = <&[u8; 32]>::try_from(bytes).map_err(|_| SecretError::NotEd25519)?;
    VerifyingKey::from_bytes(bytes).map_err(|_| SecretError::NotEd25519)
}

/// A new `whsec_` secret of 32 random bytes.
pub fn new_secret(random: &dyn Random) -> Secret {
    let mut bytes = Zeroizing::new([0; 32]);
    random.fill(bytes.as_mut());
    Secret::new(format!("{SYMMETRIC}{}", STANDARD.encode(bytes.as_ref())))
}

/// A new `whsk_` secret, with its public key behind it.
pub fn new_private_key(random: &dyn Random) -> Secret {
    let mut seed = Zeroizing::new([0; 32]);
    random.fill(seed.as_mut());
    let pair = Zeroizing::new(SigningKey::from_bytes(&seed).to_keypair_bytes());
    Secret::new(format!("{PRIVATE}{}", STANDARD.encode(pair.as_ref())))
}

/// The three headers as they arrived; an absent one is empty.
#[derive(Clone, Copy, Debug, Default)]
pub struct Headers<'a> {
    pub id: &'a str,
    pub timestamp: &'a str,
    pub signature: &'a str,
}

/// Whether one of the signatures is of one of the keys, and fresh.
pub fn verify(
    keys: &[Key],
    headers: Headers<'_>,
    body: &[u8],
    now: Timestamp,
) -> Result<(), VerifyError> {
    let Headers { id, timestamp, signature } = headers;
    for (name, value) in [(ID, id), (TIMESTAMP, timestamp), (SIGNATURE, signature)] {
        if value.is_empty() {
            return Err(VerifyError::MissingHeader(name));
        }
    }
    check_timestamp(TIMESTAMP, timestamp, now)?;
    let start = format!("{id}.{timestamp}.");
    /// More than any rotation needs; a sender who repeats himself does not buy hashing with it.
    const MOST: usize = 32;
    let accepted = signature
        .split(' ')
        .take(MOST)
        .any(|entry| keys.iter().any(|key| key.accepts(entry, &start, body)));
    if accepted { Ok(()) } else { Err(VerifyError::Mismatch) }
}
