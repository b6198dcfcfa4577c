//! `t=<unix>,v1=<hex>`: Stripe's scheme, which others took over under their own header names.

use std::fmt::Write as _;

use jiff::Timestamp;

use super::{SecretError, VerifyError, check_timestamp, is_hex_of};
use crate::{crypto::mac::Sha256Key, model::Secret};

/// The header's name differs from system to system; errors speak of it so.
const HEADER: &str = "signature";

/// A prepared key: the secret's text as it is, prefix included.
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

/// The header's value, with one `v1` for each key.
pub fn sign<'k>(keys: impl IntoIterator<Item = &'k Key>, seconds: i64, body: &[u8]) -> String {
    let mut header = format!("t={seconds}");
    let start = format!("{seconds}.");
    for key in keys {
        let code = hex::encode(key.0.code(&[start.as_bytes(), body]));
        // Writing to a `String` cannot fail.
        write!(header, ",v1={code}").ok();
    }
    header
}

/// Whether one of the `v1` is of one of the keys, and fresh. Other versions are passed over.
pub fn verify(keys: &[Key], header: &str, body: &[u8], now: Timestamp) -> Result<(), VerifyError> {
    if header.is_empty() {
        return Err(VerifyError::MissingHeader(HEADER));
    }
    let fields = || header.split(',').filter_map(|it| it.trim().split_once('='));
    let timestamp = fields()
        .find_map(|(name, value)| (name == "t").then_some(value))
        .ok_or(VerifyError::Malformed(HEADER))?;
    check_timestamp(HEADER, timestamp, now)?;
    let start = format!("{timestamp}.");
    let codes: Vec<_> = keys.iter().map(|it| it.0.code(&[start.as_bytes(), body])).collect();
    let accepted = fields()
        .filter(|(name, _)| *name == "v1")
        .any(|(_, text)| codes.iter().any(|code| is_hex_of(text, code)));
    if accepted { Ok(()) } else { Err(VerifyError::Mismatch) }
}
