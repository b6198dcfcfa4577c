//! Hexadecimal HMAC-SHA1 over the body, in `X-Signature`: the scheme of Segment and of systems that
//! came after it. For a batch those systems sign the first element only; what the caller gives as
//! `body` decides.

use super::{SecretError, VerifyError, is_hex_of};
use crate::{crypto::mac::Sha1Key, model::Secret};

pub const SIGNATURE: &str = "x-signature";

/// A prepared key: the secret's text as it is.
#[derive(Clone)]
pub struct Key(Sha1Key);

impl Key {
    pub fn new(secret: &Secret) -> Result<Self, SecretError> {
        if secret.expose().is_empty() {
            return Err(SecretError::Empty);
        }
        Ok(Self(Sha1Key::new(secret.expose().as_bytes())))
    }
}

/// The header's value. The scheme has room for one signature only.
pub fn sign(key: &Key, body: &[u8]) -> String {
    hex::encode(key.0.code(&[body]))
}

pub fn verify(keys: &[Key], header: &str, body: &[u8]) -> Result<(), VerifyError> {
    if header.is_empty() {
        return Err(VerifyError::MissingHeader(SIGNATURE));
    }
    let accepted = keys.iter().any(|key| is_hex_of(header, &key.0.code(&[body])));
    if accepted { Ok(()) } else { Err(VerifyError::Mismatch) }
}
