//! Signing schemes, as pure functions: what we send, and how a receiver checks it.
//!
//! | scheme       | signed bytes        | code        | form                                |
//! |--------------|---------------------|-------------|-------------------------------------|
//! | [`standard`] | `id.timestamp.body` | HMAC-SHA256 | `v1,<base64>`, several by spaces    |
//! | [`standard`] | the same            | ed25519     | `v1a,<base64>`                      |
//! | [`stamped`]  | `timestamp.body`    | HMAC-SHA256 | `t=<unix>,v1=<hex>`, several `v1`   |
//! | [`prefixed`] | `body`              | HMAC-SHA256 | `sha256=<hex>`                      |
//! | [`segment`]  | `body`              | HMAC-SHA1   | `<hex>`                             |
//!
//! Codes are compared in constant time. A timestamp counts within [`TOLERANCE`] of the receiver's clock.

pub mod standard;
pub mod stamped;
pub mod prefixed;
pub mod segment;

use jiff::{SignedDuration, Timestamp};
use subtle::ConstantTimeEq as _;

/// How far a timestamp may be from the receiver's clock, to either side.
pub const TOLERANCE: SignedDuration = SignedDuration::from_mins(5);

/// Why a signature is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    #[error("the header `{0}` is missing or empty")]
    MissingHeader(&'static str),
    /// A header that does not have the form that its scheme gives it.
    #[error("the header `{0}` is malformed")]
    Malformed(&'static str),
    #[error("the timestamp is more than 5 minutes old")]
    TooOld,
    #[error("the timestamp is more than 5 minutes in the future")]
    TooNew,
    /// Well formed, and of no key that was given.
    #[error("no signature matches")]
    Mismatch,
}

/// Why a secret cannot sign or verify.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SecretError {
    #[error("the secret is empty")]
    Empty,
    #[error("a signing secret is base64, after `whsec_`, `whsk_` or `whpk_`")]
    NotBase64,
    #[error("a `whsec_` secret holds 24 to 64 bytes")]
    Length,
    #[error(
        "a `whsk_` secret is an ed25519 key of 32 bytes, or 64 with its public key; a `whpk_` key is 32 bytes"
    )]
    NotEd25519,
    #[error("a public key cannot sign")]
    Public,
}

/// Unix seconds in plain digits, within the tolerance.
fn check_timestamp(header: &'static str, text: &str, now: Timestamp) -> Result<(), VerifyError> {
    if text.is_empty() || !text.bytes().all(|it| it.is_ascii_digit()) {
        return Err(VerifyError::Malformed(header));
    }
    let seconds: i64 = text.parse().map_err(|_| VerifyError::Malformed(header))?;
    let age = now.as_second().saturating_sub(seconds);
    if age > TOLERANCE.as_secs() {
        Err(VerifyError::TooOld)
    } else if age < -TOLERANCE.as_secs() {
        Err(VerifyError::TooNew)
    } else {
        Ok(())
    }
}

/// Whether the hexadecimal text is this code. A text of another form is not.
fn is_hex_of(text: &str, code: &[u8]) -> bool {
    hex::decode(text).is_ok_and(|it| it.as_slice().ct_eq(code).into())
}

#[cfg(test)]
mod tests;
