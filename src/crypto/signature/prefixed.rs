//! `sha256=<hex>` over the body: GitHub's scheme, which others took over. It knows no time, so a
//! receiver must tell repeats by the message's id.

use super::{SecretError, VerifyError, is_hex_of};
use crate::{crypto::mac::Sha256Key, model::Secret};

/// The header's name differs from system to system; errors speak of it so.
const HEADER: &str = "signature";
const PREFIX: &str = "sha256=";

/// A prepared key: the secret's text as it is.
#[derive(Clone)]
pub struct Key(Sha256Key);

impl Key {
    pub fn new(secret: &Secret) -> Result<Self, SecretError> {
        if secret.expose().is_empty() {
            return Err(SecretError::Empty);
        }
        Ok(Self(Sha256Key::new(secret.expose().as_bytes())))
    }
}

/// The header's value. The scheme has room for one signature only.
pub fn sign(key: &Key, body: &[u8]) -> String {
    format!("{PREFIX}{}", hex::encode(key.0.code(&[body])))
}

pub fn verify(keys: &[Key], header: &str, body: &[u8]) -> Result<(), VerifyError> {
    if header.is_empty() {
        return Err(VerifyError::MissingHeader(HEADER));
    }
    let text = header.strip_prefix(PREFIX).ok_or(VerifyError::Malformed(HEADER))?;
    let accepted = keys.iter().any(|key| is_hex_of(text, &key.0.code(&[body])));
    if accepted { Ok(()) } else { Err(VerifyError::Mismatch) }
}
