//! How the webhooks of other systems prove where they come from: a table of schemes, and one function
//! that checks a request against a row of it.
//!
//! Everything is checked over the raw bytes, before any of them is parsed, and codes are compared in
//! constant time. A scheme without a time cannot tell a replayed request from the first; what makes it
//! harmless is that what is signed counts once: the delivery's id in the body, or the body itself.

mod presets;
mod twilio;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use hmac::{Hmac, KeyInit as _, Mac as _};
use http::HeaderMap;
use jiff::Timestamp;
use serde::Serialize;
use sha2::Sha512;
use subtle::ConstantTimeEq as _;

use super::{
    mac::{Sha1Key, Sha256Key},
    signature::{
        TOLERANCE,
        standard::{self, Headers},
    },
};
use crate::model::{Algorithm, Encoding, Form, HmacScheme, InboundScheme as Scheme, Secret};

pub use presets::{NAMES, Preset, preset};

/// A request, as far as a signature is about it.
#[derive(Clone, Copy)]
pub struct Received<'a> {
    pub headers: &'a HeaderMap,
    /// As the sender wrote it: scheme, host, path and query.
    pub url: &'a str,
    pub body: &'a [u8],
}

/// Why a request is not believed. People read this; the sender hears only that it is so.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, thiserror::Error, utoipa::ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Doubt {
    #[error("a header that its scheme needs is missing")]
    MissingHeader,
    #[error("the signature's header is not of the form that its scheme gives it")]
    MalformedHeader,
    #[error("its time is more than five minutes from ours: it is stale, or a clock is wrong")]
    StaleTimestamp,
    #[error("the signature is not in the encoding that its scheme gives it")]
    WrongEncoding,
    #[error("no secret of this source made this signature")]
    BadSignature,
}

/// A secret, made ready for its scheme.
pub enum Key {
    Sha1(Sha1Key),
    Sha256(Sha256Key),
    Sha512(Box<Hmac<Sha512>>),
    Standard(Box<standard::Key>),
    /// An uncompressed point.
    P256(Vec<u8>),
    Plain(Secret),
}

/// Why a secret is of no use for a scheme.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadSecret(pub &'static str);

impl Scheme {
    /// Makes a secret ready.
    pub fn key(&self, secret: &Secret) -> Result<Key, BadSecret> {
        let bytes = secret.expose().as_bytes();
        if bytes.is_empty() {
            return Err(BadSecret("a secret is not empty"));
        }
        Ok(match self {
            Self::Hmac(scheme) => match scheme.algorithm {
                Algorithm::Sha1 => Key::Sha1(Sha1Key::new(bytes)),
                Algorithm::Sha256 => Key::Sha256(Sha256Key::new(bytes)),
                Algorithm::Sha512 => {
                    let hmac = Hmac::new_from_slice(bytes);
                    Key::Sha512(Box::new(hmac.map_err(|_| BadSecret("it cannot be a key"))?))
                }
            },
            Self::Standard { .. } => {
                let key = standard::Key::verifying(secret);
                let rule = "must be `whsec_…` or `whpk_…` followed by base64 (Standard Webhooks)";
                Key::Standard(Box::new(key.map_err(|_| BadSecret(rule))?))
            }
            Self::Ecdsa { .. } => Key::P256(point(secret.expose())?),
            Self::Twilio => Key::Sha1(Sha1Key::new(bytes)),
            Self::Basic if !secret.expose().contains(':') => {
                return Err(BadSecret("a secret of `basic` is `name:password`"));
            }
            Self::Token { .. } | Self::Basic | Self::None => Key::Plain(secret.clone()),
        })
    }

    /// Whether there is nothing to know.
    pub fn needs_secret(&self) -> bool {
        *self != Self::None
    }

    /// Checks a request that came `now`.
    pub fn verify(&self, keys: &[Key], it: &Received<'_>, now: Timestamp) -> Result<(), Doubt> {
        match self {
            Self::Hmac(scheme) => scheme.verify(keys, it, now),
            Self::Standard { prefix } => verify_standard(prefix, keys, it, now),
            Self::Ecdsa { signature, time } => verify_ecdsa(signature, time, keys, it, now),
            Self::Twilio => twilio::verify(keys, it),
            Self::Token { header, prefix } => {
                let token = text(it.headers, header)?;
                let token = token.strip_prefix(prefix.as_ref()).ok_or(Doubt::MalformedHeader)?;
                believe(keys.iter().any(|key| key.is_secret(token)))
            }
            Self::Basic => {
                let encoded = text(it.headers, "authorization")?;
                let encoded = encoded.strip_prefix("Basic ").ok_or(Doubt::MalformedHeader)?;
                let bytes = STANDARD.decode(encoded.trim()).map_err(|_| Doubt::WrongEncoding)?;
                let given = String::from_utf8(bytes).map_err(|_| Doubt::WrongEncoding)?;
                believe(keys.iter().any(|key| key.is_secret(&given)))
            }
            Self::None => Ok(()),
        }
    }
}

impl HmacScheme {
    fn verify(&self, keys: &[Key], it: &Received<'_>, now: Timestamp) -> Result<(), Doubt> {
        let header = text(it.headers, &self.header)?;
        let (in_header, codes): (Option<&str>, Vec<&str>) = match &self.form {
            Form::Prefix(prefix) => {
                let code = header.strip_prefix(prefix.as_ref()).ok_or(Doubt::MalformedHeader)?;
                (None, vec![code])
            }
            Form::Pairs { separator, time, code } => {
                let pairs = || header.split(*separator).filter_map(|it| it.trim().split_once('='));
                let named = |name: &str| -> Vec<&str> {
                    pairs().filter(|(it, _)| *it == name).map(|it| it.1).collect()
                };
                let time = named(time).first().copied().ok_or(Doubt::MalformedHeader)?;
                (Some(time), named(code))
            }
        };
        if codes.is_empty() {
            return Err(Doubt::MalformedHeader);
        }
        let time = match (&self.time, in_header) {
            (Some(header), _) => Some(text(it.headers, header)?),
            (None, in_header) => in_header,
        };
        if let Some(time) = time {
            check_time(time, now)?;
        }
        let id = self.id.as_ref().map(|header| text(it.headers, header)).transpose()?;
        let message = self.message(id, time, it.body);
        let codes: Vec<_> = codes.iter().filter_map(|it| self.encoding.decode(it)).collect();
        if codes.is_empty() {
            return Err(Doubt::WrongEncoding);
        }
        believe(keys.iter().any(|key| {
            let own = key.code(&message);
            codes.iter().any(|it| it.as_slice().ct_eq(&own).into())
        }))
    }

    /// The bytes that are signed.
    fn message(&self, id: Option<&str>, time: Option<&str>, body: &[u8]) -> Vec<u8> {
        let mut message = Vec::with_capacity(body.len() + 64);
        let mut rest = self.signed.as_ref();
        while let Some(at) = rest.find('{') {
            message.extend_from_slice(&rest.as_bytes()[..at]);
            rest = &rest[at..];
            let (part, length): (&[u8], usize) = if rest.starts_with("{body}") {
                (body, 6)
            } else if rest.starts_with("{time}") {
                (time.unwrap_or_default().as_bytes(), 6)
            } else if rest.starts_with("{id}") {
                (id.unwrap_or_default().as_bytes(), 4)
            } else {
                (b"{", 1)
            };
            message.extend_from_slice(part);
            rest = &rest[length..];
        }
        message.extend_from_slice(rest.as_bytes());
        message
    }
}

impl Encoding {
    fn decode(self, text: &str) -> Option<Vec<u8>> {
        match self {
            Self::Hex => hex::decode(text.trim()).ok(),
            Self::Base64 => STANDARD.decode(text.trim()).ok(),
        }
    }
}

impl Key {
    /// The code of a message; nothing for keys that make none, which equals no code.
    fn code(&self, message: &[u8]) -> Vec<u8> {
        match self {
            Self::Sha1(key) => key.code(&[message]).to_vec(),
            Self::Sha256(key) => key.code(&[message]).to_vec(),
            Self::Sha512(key) => {
                let mut mac = Hmac::clone(key);
                mac.update(message);
                mac.finalize().into_bytes().to_vec()
            }
            Self::Standard(_) | Self::P256(_) | Self::Plain(_) => Vec::new(),
        }
    }

    fn is_secret(&self, given: &str) -> bool {
        match self {
            Self::Plain(secret) => secret.expose().as_bytes().ct_eq(given.as_bytes()).into(),
            Self::Sha1(_) | Self::Sha256(_) | Self::Sha512(_) => false,
            Self::Standard(_) | Self::P256(_) => false,
        }
    }
}

fn verify_standard(
    prefix: &str,
    keys: &[Key],
    it: &Received<'_>,
    now: Timestamp,
) -> Result<(), Doubt> {
    let header = |name: &str| text(it.headers, &format!("{prefix}{name}"));
    let (id, time) = (header("id")?, header("timestamp")?);
    check_time(time, now)?;
    let signatures = header("signature")?;
    let keys: Vec<standard::Key> = keys
        .iter()
        .filter_map(|key| match key {
            Key::Standard(key) => Some(standard::Key::clone(key)),
            Key::Sha1(_) | Key::Sha256(_) | Key::Sha512(_) | Key::P256(_) | Key::Plain(_) => None,
        })
        .collect();
    let checked = standard::verify(
        &keys,
        Headers { id, timestamp: time, signature: signatures },
        it.body,
        now,
    );
    checked.map_err(|_| Doubt::BadSignature)
}

fn verify_ecdsa(
    signature: &str,
    time: &str,
    keys: &[Key],
    it: &Received<'_>,
    now: Timestamp,
) -> Result<(), Doubt> {
    use ring::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};

    let signature = text(it.headers, signature)?;
    let time = text(it.headers, time)?;
    check_time(time, now)?;
    let signature = STANDARD.decode(signature).map_err(|_| Doubt::WrongEncoding)?;
    let message = [time.as_bytes(), it.body].concat();
    believe(keys.iter().any(|key| {
        match key {
            Key::P256(point) => UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, point)
                .verify(&message, &signature)
                .is_ok(),
            Key::Sha1(_) | Key::Sha256(_) | Key::Sha512(_) | Key::Standard(_) | Key::Plain(_) => {
                false
            }
        }
    }))
}

/// The point of a public key in base64 of DER (SubjectPublicKeyInfo), as SendGrid shows it.
fn point(text: &str) -> Result<Vec<u8>, BadSecret> {
    const RULE: BadSecret = BadSecret("the key is a P-256 public key in base64 of DER");
    /// What stands before the point of every such key (RFC 5480).
    const HEAD: [u8; 26] = [
        0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08,
        0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
    ];
    let der = STANDARD.decode(text.trim()).map_err(|_| RULE)?;
    let point = der.strip_prefix(&HEAD).ok_or(RULE)?;
    if point.len() == 65 && point[0] == 4 { Ok(point.to_vec()) } else { Err(RULE) }
}

fn text<'h>(headers: &'h HeaderMap, name: &str) -> Result<&'h str, Doubt> {
    let value = headers.get(name).ok_or(Doubt::MissingHeader)?;
    let text = value.to_str().map_err(|_| Doubt::MalformedHeader)?.trim();
    if text.is_empty() { Err(Doubt::MissingHeader) } else { Ok(text) }
}

fn check_time(text: &str, now: Timestamp) -> Result<(), Doubt> {
    if !text.bytes().all(|it| it.is_ascii_digit()) {
        return Err(Doubt::MalformedHeader);
    }
    let seconds: i64 = text.parse().map_err(|_| Doubt::MalformedHeader)?;
    let distance = now.as_second().saturating_sub(seconds).saturating_abs();
    if distance > TOLERANCE.as_secs() { Err(Doubt::StaleTimestamp) } else { Ok(()) }
}

fn believe(is_so: bool) -> Result<(), Doubt> {
    if is_so { Ok(()) } else { Err(Doubt::BadSignature) }
}

#[cfg(test)]
mod tests;
