//! What stands in the signature's header, by the scheme of the contract.

use http::HeaderName;
use jiff::Timestamp;

use super::BuildError;
use crate::{
    crypto::signature::{SecretError, prefixed, segment, stamped, standard},
    model::{Scheme, Secret, Signature, SigningKey},
};

/// The keys of one destination, prepared.
pub(super) struct Signer {
    pub header: HeaderName,
    keys: Keys,
}

enum Keys {
    Standard(Vec<Timed<standard::Key>>),
    Stamped(Vec<Timed<stamped::Key>>),
    Prefixed(Vec<Timed<prefixed::Key>>),
    Sha1(Vec<Timed<segment::Key>>),
}

/// A key and when it signs.
struct Timed<K> {
    key: K,
    times: SigningKey,
}

/// Bytes of one `v1,…`: what nearly all requests carry.
const SIGNATURE_LENGTH: usize = 47;

/// There are keys, and none of them signs at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NoKeyAlive;

impl Signer {
    /// `keys` come with their secrets in clear.
    pub fn new(signature: &Signature, keys: Vec<(SigningKey, Secret)>) -> Result<Self, BuildError> {
        let header = match signature.scheme {
            Scheme::Standard => HeaderName::from_static(standard::SIGNATURE),
            Scheme::Stamped | Scheme::Prefixed | Scheme::Sha1 => {
                HeaderName::from_bytes(signature.header.as_bytes())
                    .map_err(|_| BuildError::SignatureHeader)?
            }
        };
        let keys = match signature.scheme {
            Scheme::Standard => Keys::Standard(prepared(keys, standard::Key::signing)?),
            Scheme::Stamped => Keys::Stamped(prepared(keys, stamped::Key::new)?),
            Scheme::Prefixed => Keys::Prefixed(prepared(keys, prefixed::Key::new)?),
            Scheme::Sha1 => Keys::Sha1(prepared(keys, segment::Key::new)?),
        };
        Ok(Self { header, keys })
    }

    /// Whether there are keys at all.
    pub fn signs(&self) -> bool {
        match &self.keys {
            Keys::Standard(keys) => !keys.is_empty(),
            Keys::Stamped(keys) => !keys.is_empty(),
            Keys::Prefixed(keys) => !keys.is_empty(),
            Keys::Sha1(keys) => !keys.is_empty(),
        }
    }

    /// The header's value for these bytes; `None` when there are no keys at all.
    ///
    /// Each key that is alive signs where the scheme carries several. Where it carries one, it is the
    /// key whose moment came last, so that a rotation happens at the moment that was chosen for it.
    pub fn sign(
        &self,
        id: &str,
        bytes: &[u8],
        at: Timestamp,
    ) -> Result<Option<String>, NoKeyAlive> {
        let seconds = at.as_second();
        match &self.keys {
            Keys::Standard(keys) => all(keys, at, |keys| {
                let mut signatures = String::with_capacity(SIGNATURE_LENGTH);
                keys.for_each(|it| it.sign_into(&mut signatures, id, seconds, bytes));
                signatures
            }),
            Keys::Stamped(keys) => all(keys, at, |keys| stamped::sign(keys, seconds, bytes)),
            Keys::Prefixed(keys) => newest(keys, at, |key| prefixed::sign(key, bytes)),
            Keys::Sha1(keys) => newest(keys, at, |key| segment::sign(key, bytes)),
        }
    }
}

fn prepared<K>(
    keys: Vec<(SigningKey, Secret)>,
    prepare: impl Fn(&Secret) -> Result<K, SecretError>,
) -> Result<Vec<Timed<K>>, SecretError> {
    keys.into_iter().map(|(times, secret)| Ok(Timed { key: prepare(&secret)?, times })).collect()
}

type Signed = Result<Option<String>, NoKeyAlive>;

fn all<'k, K: 'k>(
    keys: &'k [Timed<K>],
    at: Timestamp,
    sign: impl FnOnce(&mut dyn Iterator<Item = &'k K>) -> String,
) -> Signed {
    if keys.is_empty() {
        return Ok(None);
    }
    let mut alive = keys.iter().filter(|it| it.times.is_alive(at)).map(|it| &it.key).peekable();
    if alive.peek().is_none() {
        return Err(NoKeyAlive);
    }
    Ok(Some(sign(&mut alive)))
}

fn newest<K>(keys: &[Timed<K>], at: Timestamp, sign: impl FnOnce(&K) -> String) -> Signed {
    if keys.is_empty() {
        return Ok(None);
    }
    let moment = |it: &&Timed<K>| it.times.active_from.unwrap_or(it.times.created_at);
    // The newest stands first, and of equals the last would be taken.
    let key = keys.iter().rev().filter(|it| it.times.is_alive(at)).max_by_key(moment);
    key.map(|it| Some(sign(&it.key))).ok_or(NoKeyAlive)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Sealed, Signed as Over};

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn key(created_at: i64, active_from: Option<i64>, expires_at: Option<i64>) -> SigningKey {
        SigningKey {
            secret: Sealed::from_text("sealed"),
            created_at: at(created_at),
            active_from: active_from.map(at),
            expires_at: expires_at.map(at),
        }
    }

    fn signer(scheme: Scheme, keys: &[(SigningKey, &str)]) -> Signer {
        let signature = Signature { scheme, header: "x-signature".to_owned(), over: Over::Body };
        let keys = keys.iter().map(|(key, secret)| (key.clone(), Secret::new(*secret))).collect();
        Signer::new(&signature, keys).unwrap()
    }

    #[test]
    fn a_scheme_that_carries_one_changes_keys_at_the_chosen_moment() {
        for (keys, moments) in [
            // The new key stands first; both are alive from its moment on.
            (
                vec![(key(50, Some(100), None), "new"), (key(0, None, Some(200)), "old")],
                [(50, "old"), (99, "old"), (100, "new"), (250, "new")],
            ),
            // Without a chosen moment the newest signs at once.
            (
                vec![(key(50, None, None), "new"), (key(0, None, Some(200)), "old")],
                [(50, "new"), (99, "new"), (100, "new"), (250, "new")],
            ),
            (
                vec![(key(0, None, None), "first"), (key(0, None, None), "second")],
                [(50, "first"), (99, "first"), (100, "first"), (250, "first")],
            ),
        ] {
            for scheme in [Scheme::Prefixed, Scheme::Sha1] {
                let several = signer(scheme, &keys);
                for (second, secret) in moments {
                    let one = signer(scheme, &[(key(0, None, None), secret)]);
                    let expected = one.sign("", b"{}", at(second)).unwrap();
                    assert_eq!(several.sign("", b"{}", at(second)), Ok(expected), "{second}");
                }
            }
        }
    }

    #[test]
    fn schemes_that_carry_several_carry_every_key_that_is_alive() {
        let secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
        let keys = [
            (key(50, Some(100), None), secret),
            (key(0, None, Some(200)), secret),
            (key(0, None, Some(10)), secret),
        ];
        for (scheme, mark) in [(Scheme::Standard, "v1,"), (Scheme::Stamped, "v1=")] {
            for (second, count) in [(5, 2), (50, 1), (100, 2), (200, 1)] {
                let text = signer(scheme, &keys).sign("evt_1", b"{}", at(second)).unwrap().unwrap();
                assert_eq!(text.matches(mark).count(), count, "{scheme:?} at {second}");
            }
        }
    }

    #[test]
    fn nothing_goes_out_unsigned_because_its_keys_have_expired() {
        for scheme in [Scheme::Standard, Scheme::Stamped, Scheme::Prefixed, Scheme::Sha1] {
            let secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
            let expired = signer(scheme, &[(key(0, None, Some(10)), secret)]);
            assert_eq!(expired.sign("evt_1", b"{}", at(10)), Err(NoKeyAlive));
            assert_eq!(signer(scheme, &[]).sign("evt_1", b"{}", at(10)), Ok(None));
        }
    }
}
