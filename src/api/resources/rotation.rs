//! A new signing secret for a destination, with the old one alive until receivers have changed.

use std::time::Duration;

use axum::{
    Json,
    extract::{Path, State},
};
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::destinations::{SigningKeyView, change, signing_keys};
use crate::{
    api::{
        Api,
        request::{Access, Administer, Body, wrong_field},
    },
    crypto::{Context, Field, signature::standard},
    model::{Connection, Destination, SigningKey},
    problem::{Kind, Problem},
};

/// Old secrets that may be alive next to the newest.
const MOST_OLD: usize = 10;
const LONGEST_OVERLAP: Duration = Duration::from_secs(90 * 24 * 3600);

/// How to rotate. It may be left out, and so may the body.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Rotation {
    /// How long the secret of before goes on signing, next to the new one: `24h` unless given, at most
    /// `90d`. `0s` ends it at once.
    #[serde(with = "humantime_serde")]
    #[schema(value_type = Option<String>, example = "24h")]
    overlap: Duration,
}

impl Default for Rotation {
    fn default() -> Self {
        Self { overlap: Duration::from_secs(24 * 3600) }
    }
}

#[derive(Serialize, utoipa::ToSchema)]
pub struct Rotated {
    /// The new secret. It is shown this once.
    pub signing_secret: String,
    /// The secrets that sign from now on, newest first, without the secrets.
    pub signing_keys: Vec<SigningKeyView>,
}

/// Rotate a destination's signing secret
///
/// From now on every attempt carries a signature by the new secret, and by each old one until it expires.
#[utoipa::path(
    post,
    path = "/api/v1/destinations/{destination}/rotate-secret",
    tag = "destinations",
    params(("destination" = String, Path, description = "Its name or id")),
    request_body(content = Option<Rotation>),
    responses(
        (status = 200, description = "The new secret", body = Rotated),
        (status = "4XX", response = Problem),
    )
)]
pub async fn rotate_secret(
    State(api): State<Api>,
    access: Access<Administer>,
    Path(destination): Path<String>,
    body: Body,
) -> Result<Json<Rotated>, Problem> {
    let rotation: Rotation = body.read_or_default()?;
    if rotation.overlap > LONGEST_OVERLAP {
        return Err(wrong_field("overlap", "it is at most 90d", "a longer time"));
    }
    let now = api.clock.now();
    let overlap = SignedDuration::try_from(rotation.overlap).unwrap_or(SignedDuration::MAX);
    let until = now.saturating_add(overlap).unwrap_or(now);
    let secret = standard::new_secret(api.random.as_ref());
    let rule = |it: &mut Destination| {
        let context = Context::of_destination(it.project, it.id, Field::SigningKey);
        let sealed = api.vault.seal(&secret, &context);
        let newest =
            SigningKey { secret: sealed, created_at: now, active_from: None, expires_at: None };
        let Connection::Webhook(webhook) = &mut it.connection;
        rotate(&mut webhook.signing_keys, newest, until)
    };
    let (changed, ()) = change(&api, access.project, &destination, rule).await?;
    Ok(Json(Rotated {
        signing_secret: secret.expose().to_owned(),
        signing_keys: signing_keys(&changed).iter().map(SigningKeyView::of).collect(),
    }))
}

/// Puts the newest first, and lets the others sign until then at most.
fn rotate(keys: &mut Vec<SigningKey>, newest: SigningKey, until: Timestamp) -> Result<(), Problem> {
    let conflict = |detail| Problem::new(Kind::Conflict).detail(detail);
    if keys.is_empty() {
        return Err(conflict("the destination does not sign: set `signed` first"));
    }
    let now = newest.created_at;
    for key in keys.iter_mut() {
        key.expires_at = Some(key.expires_at.map_or(until, |it| it.min(until)));
    }
    keys.retain(|key| key.expires_at.is_none_or(|it| it > now));
    if keys.len() > MOST_OLD {
        return Err(conflict(
            "10 old secrets are still alive: wait for one to expire, or use a shorter overlap",
        ));
    }
    keys.insert(0, newest);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Sealed;

    fn key(created_at: i64, expires_at: Option<i64>) -> SigningKey {
        let at = |second| Timestamp::from_second(second).unwrap();
        SigningKey {
            secret: Sealed::from_text(created_at.to_string()),
            created_at: at(created_at),
            active_from: None,
            expires_at: expires_at.map(at),
        }
    }

    #[test]
    fn old_secrets_sign_until_the_overlap_ends_and_never_longer_than_before() {
        let until = Timestamp::from_second(150).unwrap();
        let mut keys = vec![key(3, None), key(2, Some(120)), key(1, Some(500)), key(0, Some(100))];
        rotate(&mut keys, key(100, None), until).unwrap();
        let expected = [key(100, None), key(3, Some(150)), key(2, Some(120)), key(1, Some(150))];
        assert_eq!(keys, expected);
    }

    #[test]
    fn without_overlap_only_the_new_secret_signs() {
        let mut keys = vec![key(3, None), key(2, Some(120))];
        rotate(&mut keys, key(100, None), Timestamp::from_second(100).unwrap()).unwrap();
        assert_eq!(keys, [key(100, None)]);
    }

    #[test]
    fn at_most_ten_old_secrets_live_at_once() {
        let until = Timestamp::from_second(1000).unwrap();
        let mut keys = vec![key(0, None)];
        for created_at in 1..=10 {
            rotate(&mut keys, key(created_at, None), until).unwrap();
        }
        assert_eq!(keys.len(), 11);
        assert!(rotate(&mut keys, key(11, None), until).is_err());
        assert!(rotate(&mut Vec::new(), key(1, None), until).is_err());
    }
}
