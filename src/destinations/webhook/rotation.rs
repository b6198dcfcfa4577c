//! How one signing secret takes over from another.
//!
//! Where a scheme carries several signatures, the old secret signs next to the new one for a while,
//! so that receivers change when it suits them. Where it carries one, exactly one secret signs at
//! any time, and receivers change at the chosen moment.

use jiff::Timestamp;

use crate::{
    crypto::{
        Random,
        signature::{SecretError, prefixed, segment, stamped, standard},
    },
    model::{Scheme, Secret, SigningKey},
};

/// Old secrets that may be alive next to the newest.
pub const MOST_OLD: usize = 10;

/// Ten old secrets are still alive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{MOST_OLD} old secrets are still alive: wait for one to expire, or use a shorter overlap")]
pub struct TooMany;

/// Puts the newest first, and lets the current one sign until then. An older one keeps the end that it was
/// promised, unless all are to end now. A secret that was to take over and has not yet is dropped: its
/// successor is here.
pub fn rotate(
    keys: &mut Vec<SigningKey>,
    newest: SigningKey,
    until: Timestamp,
) -> Result<(), TooMany> {
    let now = newest.created_at;
    let before = keys.len();
    keys.retain(|key| key.active_from.is_none_or(|it| it <= now));
    if keys.len() < before
        && let Some(current) = keys.first_mut()
    {
        // It was to end when the dropped one began, and would leave a time without a signature.
        current.expires_at = None;
    }
    for key in keys.iter_mut() {
        key.expires_at = Some(key.expires_at.filter(|_| until > now).unwrap_or(until));
    }
    keys.retain(|key| key.expires_at.is_none_or(|it| it > now));
    if keys.len() > MOST_OLD {
        return Err(TooMany);
    }
    keys.insert(0, newest);
    Ok(())
}

/// Leaves one secret alive at each moment: an older one ends when the newer one begins.
pub fn one_at_a_time(keys: &mut Vec<SigningKey>) {
    // Newest first; the first has no end.
    let mut from = None;
    let mut is_newest = true;
    keys.retain_mut(|key| {
        if !is_newest {
            let Some(from) = from else { return false };
            key.expires_at = Some(key.expires_at.map_or(from, |it: Timestamp| it.min(from)));
        }
        is_newest = false;
        from = key.active_from;
        true
    });
}

/// A new secret in the form that the scheme wants.
pub fn new_secret(scheme: Scheme, random: &dyn Random) -> Secret {
    match scheme {
        Scheme::Standard => standard::new_secret(random),
        Scheme::Stamped | Scheme::Prefixed | Scheme::Sha1 => {
            let mut bytes = zeroize::Zeroizing::new([0; 32]);
            random.fill(bytes.as_mut_slice());
            Secret::new(hex::encode(bytes.as_slice()))
        }
    }
}

/// Whether the scheme can sign with this secret.
pub fn check_secret(scheme: Scheme, secret: &Secret) -> Result<(), SecretError> {
    match scheme {
        Scheme::Standard => standard::Key::signing(secret).map(drop),
        Scheme::Stamped => stamped::Key::new(secret).map(drop),
        Scheme::Prefixed => prefixed::Key::new(secret).map(drop),
        Scheme::Sha1 => segment::Key::new(secret).map(drop),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Sealed;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn key(created_at: i64, expires_at: Option<i64>) -> SigningKey {
        SigningKey {
            secret: Sealed::from_text(created_at.to_string()),
            created_at: at(created_at),
            active_from: None,
            expires_at: expires_at.map(at),
        }
    }

    fn planned(created_at: i64, active_from: i64) -> SigningKey {
        SigningKey { active_from: Some(at(active_from)), ..key(created_at, None) }
    }

    #[test]
    fn old_secrets_sign_until_the_end_that_each_was_promised() {
        let mut keys = vec![key(3, None), key(2, Some(120)), key(1, Some(500)), key(0, Some(100))];
        rotate(&mut keys, key(100, None), at(150)).unwrap();
        let expected = [key(100, None), key(3, Some(150)), key(2, Some(120)), key(1, Some(500))];
        assert_eq!(keys, expected);
    }

    #[test]
    fn without_overlap_only_the_new_secret_signs() {
        let mut keys = vec![key(3, None), key(2, Some(120))];
        rotate(&mut keys, key(100, None), at(100)).unwrap();
        assert_eq!(keys, [key(100, None)]);
    }

    #[test]
    fn at_most_ten_old_secrets_live_at_once() {
        let mut keys = vec![key(0, None)];
        for created_at in 1..=10 {
            rotate(&mut keys, key(created_at, None), at(1000)).unwrap();
        }
        assert_eq!(keys.len(), 11);
        assert_eq!(rotate(&mut keys, key(11, None), at(1000)), Err(TooMany));
    }

    #[test]
    fn at_a_chosen_moment_one_secret_ends_and_the_other_begins() {
        let mut keys = vec![key(1, None)];
        rotate(&mut keys, planned(10, 50), at(50)).unwrap();
        assert_eq!(keys, [planned(10, 50), key(1, Some(50))]);
        let alive = |second| keys.iter().filter(|it| it.is_alive(at(second))).count();
        assert!((0..100).all(|second| alive(second) == 1));

        // Changing one's mind: the first plan is gone, and at no time does nobody sign.
        for moment in [40, 90] {
            let mut keys = keys.clone();
            rotate(&mut keys, planned(20, moment), at(moment)).unwrap();
            assert_eq!(keys, [planned(20, moment), key(1, Some(moment))]);
        }
    }

    #[test]
    fn a_scheme_that_carries_one_is_left_with_one_at_each_moment() {
        for (before, after) in [
            (vec![key(3, None), key(2, Some(90))], vec![key(3, None)]),
            (
                vec![planned(3, 50), key(2, Some(90)), key(1, Some(90))],
                vec![planned(3, 50), key(2, Some(50))],
            ),
            (vec![planned(3, 50), key(2, Some(50))], vec![planned(3, 50), key(2, Some(50))]),
        ] {
            let mut keys = before;
            one_at_a_time(&mut keys);
            assert_eq!(keys, after);
        }
    }
}
