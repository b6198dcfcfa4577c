//! API keys: what they look like, and how one is recognised without being kept.
//!
//! A key is `tg_`, 8 characters that may be shown, 43 that are the secret (32 random bytes), and 6
//! that check the rest: scanners and typing errors are distinguished from keys without asking anyone. Since
//! 32 random bytes cannot be guessed, a fast keyed hash is enough to keep.

use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

use super::{
    mac::Sha256Key,
    random::Random,
    vault::{API_KEYS, Vault},
};
use crate::model::Secret;

const PREFIX: &str = "tg_";
const PUBLIC: usize = 8;
/// Digits of base 62 that hold 32 bytes.
const SECRET: usize = 43;
/// Digits of base 62 that hold 32 bits.
const CHECK: usize = 6;
const LENGTH: usize = PREFIX.len() + PUBLIC + SECRET + CHECK;
const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// An API key in clear, whose form and checksum are right. Whether it opens anything is another question.
#[derive(Clone, PartialEq, Eq)]
pub struct PlainKey(Secret);

/// The text is no key of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseKeyError {
    #[error("an API key starts with `tg_` and has {LENGTH} characters")]
    Form,
    #[error("the API key was mistyped: its checksum does not match")]
    Checksum,
}

impl PlainKey {
    pub fn generate(random: &dyn Random) -> Self {
        let mut text = Zeroizing::new(String::with_capacity(LENGTH));
        text.push_str(PREFIX);
        let mut public = [0; 8];
        random.fill(&mut public);
        push_digits(&mut text, &public, PUBLIC);
        let mut secret = Zeroizing::new([0; 32]);
        random.fill(secret.as_mut());
        push_digits(&mut text, secret.as_ref(), SECRET);
        let check = crc32(text.as_bytes());
        push_digits(&mut text, &check.to_be_bytes(), CHECK);
        Self(Secret::new(text.as_str()))
    }

    /// Refuses what cannot be a key, offline.
    pub fn parse(text: &str) -> Result<Self, ParseKeyError> {
        let is_well_formed = text.len() == LENGTH
            && text.starts_with(PREFIX)
            && text[PREFIX.len()..].bytes().all(|it| it.is_ascii_alphanumeric());
        if !is_well_formed {
            return Err(ParseKeyError::Form);
        }
        let (body, check) = text.split_at(LENGTH - CHECK);
        let mut expected = String::with_capacity(CHECK);
        push_digits(&mut expected, &crc32(body.as_bytes()).to_be_bytes(), CHECK);
        if check == expected { Ok(Self(Secret::new(text))) } else { Err(ParseKeyError::Checksum) }
    }

    /// The first characters, by which a key is found and people tell their keys apart.
    pub fn hint(&self) -> &str {
        const HINT: usize = 12;
        &self.0.expose()[..HINT]
    }

    /// To be shown once, when it is made.
    pub fn expose(&self) -> &str {
        self.0.expose()
    }
}

/// Digits of base 62 of a number in big-endian bytes, the lowest `count` of them.
fn push_digits(text: &mut String, number: &[u8], count: usize) {
    let mut number = Zeroizing::new(number.to_vec());
    let mut digits = Zeroizing::new(vec![0; count]);
    for digit in digits.iter_mut().rev() {
        let mut rest: u32 = 0;
        for byte in number.iter_mut() {
            let value = rest << 8 | u32::from(*byte);
            *byte = (value / 62) as u8;
            rest = value % 62;
        }
        *digit = ALPHABET[rest as usize];
    }
    text.extend(digits.iter().copied().map(char::from));
}

/// CRC-32 as in zip and PNG (ISO 3309). A table would be faster and is not needed for 54 bytes.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| {
            if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 }
        })
    })
}

/// Hashes keys under a pepper that comes from the master key, so that a stolen database does not
/// even tell whether a key that one holds is in it.
#[derive(Clone)]
pub struct KeyHasher {
    /// One for each master key, the newest first.
    peppers: Vec<Sha256Key>,
}

impl KeyHasher {
    pub fn of(vault: &Vault) -> Self {
        let peppers = vault.derive(API_KEYS);
        Self { peppers: peppers.iter().map(|it| Sha256Key::new(it.as_ref())).collect() }
    }

    /// What is kept of a key: HMAC-SHA256 in hexadecimal.
    pub fn hash(&self, key: &PlainKey) -> String {
        hex::encode(self.peppers[0].code(&[key.expose().as_bytes()]))
    }

    /// Whether the hash is this key's, under the newest pepper or an older one. Takes as long for
    /// a wrong hash as for a right one.
    pub fn matches(&self, key: &PlainKey, hash: &str) -> bool {
        let mut stored = [0; 32];
        if hex::decode_to_slice(hash, &mut stored).is_err() {
            return false;
        }
        self.peppers.iter().fold(false, |found, pepper| {
            found | bool::from(pepper.code(&[key.expose().as_bytes()]).ct_eq(&stored))
        })
    }
}

/// The administrator's key as it is given to the process, in `TIDEGATE_ADMIN_KEY`: any text.
#[derive(Clone)]
pub struct AdminKey {
    key: Sha256Key,
    code: [u8; 32],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an admin key has at least {} characters", AdminKey::SHORTEST)]
pub struct AdminKeyTooShort;

impl AdminKey {
    /// The environment variable that gives it.
    pub const VARIABLE: &str = "TIDEGATE_ADMIN_KEY";
    /// In characters.
    pub const SHORTEST: usize = 16;

    /// Keeps a keyed hash of it only; the hash's key lives as long as the process.
    pub fn new(secret: &Secret, random: &dyn Random) -> Result<Self, AdminKeyTooShort> {
        if secret.expose().chars().count() < Self::SHORTEST {
            return Err(AdminKeyTooShort);
        }
        let mut key = Zeroizing::new([0; 32]);
        random.fill(key.as_mut());
        let key = Sha256Key::new(key.as_ref());
        let code = key.code(&[secret.expose().as_bytes()]);
        Ok(Self { key, code })
    }

    /// Compares in a time that tells neither how much matched nor how long the key is.
    pub fn matches(&self, text: &str) -> bool {
        self.key.code(&[text.as_bytes()]).ct_eq(&self.code).into()
    }
}

#[cfg(test)]
mod tests {
    use std::{path::Path, sync::Arc};

    use super::*;
    use crate::crypto::random::SeededRandom;

    #[test]
    fn the_checksum_is_the_one_that_everybody_computes() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
        assert_eq!(crc32(b""), 0);
    }

    #[test]
    fn digits_hold_the_whole_number() {
        for (number, count, expected) in [
            (&[0][..], 3, "000"),
            (&[61], 2, "0z"),
            (&[62], 2, "10"),
            (&[255, 255, 255, 255], 6, "4gfFC3"),
        ] {
            let mut text = String::new();
            push_digits(&mut text, number, count);
            assert_eq!(text, expected);
        }
    }

    #[test]
    fn a_key_parses_and_every_mistyped_one_does_not() {
        let key = PlainKey::generate(&SeededRandom::new(1));
        let text = key.expose();
        assert_eq!((text.len(), &text[..3]), (60, "tg_"));
        assert_eq!(key.hint(), &text[..12]);
        assert!(PlainKey::parse(text).is_ok_and(|it| it == key));
        for place in 3..text.len() {
            let mut mistyped = text.to_owned().into_bytes();
            mistyped[place] = if mistyped[place] == b'x' { b'y' } else { b'x' };
            let mistyped = String::from_utf8(mistyped).unwrap();
            assert_eq!(PlainKey::parse(&mistyped).err(), Some(ParseKeyError::Checksum));
        }
        for other in
            ["", "tg_", "sk_live_123", &text[..59], &format!("{text}0"), &"tg_é".repeat(15)]
        {
            assert_eq!(PlainKey::parse(other).err(), Some(ParseKeyError::Form), "{other}");
        }
    }

    #[test]
    fn a_hash_matches_its_key_only_and_survives_a_new_master_key() {
        let old = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
        let new = "ICEiIyQlJicoKSorLC0uLzAxMjM0NTY3ODk6Ozw9Pj8=";
        let random = Arc::new(SeededRandom::new(1));
        let hasher = |keys: &str| {
            let keys = Secret::new(keys);
            KeyHasher::of(&Vault::load(Path::new(""), Some(&keys), random.clone()).unwrap())
        };
        let key = PlainKey::generate(random.as_ref());
        let hash = hasher(old).hash(&key);

        assert_eq!(hash.len(), 64);
        assert!(hasher(old).matches(&key, &hash));
        assert!(hasher(&format!("{new},{old}")).matches(&key, &hash));
        assert!(!hasher(new).matches(&key, &hash));
        assert!(!hasher(old).matches(&PlainKey::generate(random.as_ref()), &hash));
        assert!(!hasher(old).matches(&key, ""));
    }

    #[test]
    fn an_admin_key_is_any_text_of_sixteen_characters() {
        let random = SeededRandom::new(1);
        assert!(AdminKey::new(&Secret::new("fifteen letters"), &random).is_err());
        let key = AdminKey::new(&Secret::new("correct horse battery"), &random).unwrap();
        assert!(key.matches("correct horse battery"));
        assert!(!key.matches("correct horse batterz") && !key.matches(""));
    }
}
