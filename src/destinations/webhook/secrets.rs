//! The secrets of a webhook: `auth`, the values of headers, and the keys that sign.

use std::collections::BTreeMap;

use jiff::SignedDuration;

use super::{check_header, rotation};
use crate::{
    crypto::SecretField,
    destinations::secrets::Safe,
    model::{Auth, Scheme, Sealed, SigningKey},
    settings::{AuthSpec, Invalid, SecretSpec},
};

/// How long a signing secret goes on signing after another has taken its place.
const OVERLAP: SignedDuration = SignedDuration::from_hours(24);

/// Notes a user name that `Authorization: Basic` cannot carry (RFC 7617 §2).
pub(in crate::destinations) fn check_username(username: &str, wrong: &mut Vec<Invalid>) {
    if username.contains(':') || username.chars().any(char::is_control) {
        let rule = "must have no `:` and no control characters";
        wrong.push(Invalid::new("auth.basic.username", rule, "another text"));
    }
}

impl Safe<'_> {
    pub(super) fn auth(
        &self,
        given: &AuthSpec,
        old: Option<&Auth>,
        wrong: &mut Vec<Invalid>,
    ) -> Option<Auth> {
        match given {
            AuthSpec::None => Some(Auth::None),
            AuthSpec::Bearer(token) => {
                let old = match old {
                    Some(Auth::Bearer { token }) => Some(token),
                    Some(Auth::None | Auth::Basic { .. }) | None => None,
                };
                let field = SecretField::BearerToken;
                let token = self.sealed(field, "auth.bearer", token, old, wrong)?;
                Some(Auth::Bearer { token })
            }
            AuthSpec::Basic(basic) => {
                let old = match old {
                    Some(Auth::Basic { password, .. }) => Some(password),
                    Some(Auth::None | Auth::Bearer { .. }) | None => None,
                };
                let username = &basic.username;
                check_username(username, wrong);
                let (field, path) = (SecretField::BasicPassword, "auth.basic.password");
                let password = self.sealed(field, path, &basic.password, old, wrong)?;
                Some(Auth::Basic { username: username.clone(), password })
            }
        }
    }

    /// The values of headers. They are often keys, so all of them are kept like keys.
    pub(super) fn headers(
        &self,
        given: &BTreeMap<String, SecretSpec>,
        old: Option<&BTreeMap<String, Sealed>>,
        wrong: &mut Vec<Invalid>,
    ) -> BTreeMap<String, Sealed> {
        let mut headers = BTreeMap::new();
        for (name, value) in given {
            let path = format!("headers.{name}");
            if let Err(error) = check_header(name, value.secret().expose()) {
                wrong.push(Invalid::new(path, error.to_string(), "another text"));
                continue;
            }
            let old = old.and_then(|it| it.get(name));
            if let Some(value) = self.sealed(SecretField::Header, &path, value, old, wrong) {
                headers.insert(name.clone(), value);
            }
        }
        headers
    }

    /// The keys that sign from now on. Another secret than before takes over as the newest; where
    /// the scheme carries several, the one before goes on signing for a day, since the receiver may
    /// still verify with it.
    pub(super) fn signing_keys(
        &self,
        scheme: Scheme,
        given: Option<&SecretSpec>,
        old: &[SigningKey],
        wrong: &mut Vec<Invalid>,
    ) -> Option<Vec<SigningKey>> {
        let Self { vault, random, now, .. } = *self;
        let context = self.context(SecretField::SigningKey);
        let newest = old.iter().find(|it| it.expires_at.is_none());
        let secret = match (given, newest) {
            (None, Some(_)) => return self.kept(scheme, old, wrong),
            (Some(given), Some(_)) if given.is_placeholder() => {
                return self.kept(scheme, old, wrong);
            }
            (None, None) => vault.seal(&rotation::new_secret(scheme, random), &context),
            (Some(given), _) => {
                if !given.is_placeholder()
                    && let Err(error) = rotation::check_secret(scheme, given.secret())
                {
                    wrong.push(Invalid::new("secret", error.to_string(), "another text"));
                    return None;
                }
                let field = SecretField::SigningKey;
                self.sealed(field, "secret", given, newest.map(|it| &it.secret), wrong)?
            }
        };
        if newest.is_some_and(|it| it.secret == secret) {
            return self.kept(scheme, old, wrong);
        }
        let mut keys = old.to_vec();
        // One that comes back signs once.
        if let Some(given) = given {
            keys.retain(|key| {
                vault.open(&key.secret, &context).is_ok_and(|it| it != *given.secret())
            });
        }
        keys.retain(|key| self.fits(scheme, key));
        keys.truncate(rotation::MOST_OLD);
        let newest = SigningKey { secret, created_at: now, active_from: None, expires_at: None };
        let until = if scheme.carries_several() { now + OVERLAP } else { now };
        // After the cut above there is room.
        rotation::rotate(&mut keys, newest, until).ok()?;
        Some(keys)
    }

    /// The keys as they are, as far as the scheme can sign with them.
    fn kept(
        &self,
        scheme: Scheme,
        old: &[SigningKey],
        wrong: &mut Vec<Invalid>,
    ) -> Option<Vec<SigningKey>> {
        let mut keys = old.to_vec();
        keys.retain(|key| self.fits(scheme, key));
        if keys.first() != old.first() {
            let rule = "must be given: the scheme cannot sign with the one that is there";
            wrong.push(Invalid::new("secret", rule, "nothing"));
            return None;
        }
        if !scheme.carries_several() {
            rotation::one_at_a_time(&mut keys);
        }
        Some(keys)
    }

    fn fits(&self, scheme: Scheme, key: &SigningKey) -> bool {
        let secret = self.vault.open(&key.secret, &self.context(SecretField::SigningKey));
        secret.is_ok_and(|it| rotation::check_secret(scheme, &it).is_ok())
    }
}
