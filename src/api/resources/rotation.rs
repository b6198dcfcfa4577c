//! A new signing secret for a destination: next to the old one for a while, or from a chosen moment.

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
    crypto::{SealContext, SecretField},
    destinations::webhook::rotation::{check_secret, new_secret, rotate},
    model::{Destination, Scheme, Secret, SigningKey},
    problem::{FieldError, Kind, Problem},
    resources::SecretSpec,
};

const USUAL_OVERLAP: Duration = Duration::from_secs(24 * 3600);
const LONGEST_OVERLAP: Duration = Duration::from_secs(90 * 24 * 3600);
/// How far ahead a rotation may be planned.
const LONGEST_PLAN: SignedDuration = SignedDuration::from_hours(366 * 24);
const LONGEST_SECRET: usize = 4096;

/// How to rotate. Every field may be left out, and so may the body.
#[derive(Debug, Default, Deserialize, utoipa::ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Rotation {
    /// When the new secret begins to sign: now, unless given. Until then the old one does.
    #[schema(value_type = Option<String>, format = DateTime, example = "2026-12-01T00:00:00Z")]
    #[serde(deserialize_with = "crate::model::moment::optional")]
    at: Option<Timestamp>,
    /// How long the secret of before goes on signing, next to the new one: `24h` unless given, at most
    /// `90d`. `0s` ends it at once. Only where the scheme carries several signatures: elsewhere one
    /// secret signs until the moment, and the other from it on.
    #[serde(with = "humantime_serde::option")]
    #[schema(value_type = Option<String>, example = "24h")]
    overlap: Option<Duration>,
    /// The new secret. Left out: one is made.
    #[schema(value_type = Option<String>)]
    secret: Option<SecretSpec>,
}

#[derive(Serialize, utoipa::ToSchema)]
pub struct Rotated {
    /// The new secret. It is shown this once.
    pub signing_secret: String,
    /// The secrets that sign, newest first, without the secrets.
    pub signing_keys: Vec<SigningKeyView>,
}

/// Rotate a destination's signing secret
///
/// Where the scheme carries several signatures (`standard`, `stamped`), every attempt carries one by
/// the new secret and one by each old one until it expires. Where it carries one, the new secret
/// takes over at the chosen moment.
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
    let now = api.clock.now();
    let rule = |it: &mut Destination| {
        let context = SealContext::of_destination(it.project, it.id, SecretField::SigningKey);
        let unsigned = |detail: String| Problem::new(Kind::Conflict).detail(detail);
        let kind = it.connection.kind().to_owned();
        let Some((scheme, keys)) = it.connection.signing() else {
            return Err(unsigned(format!("destinations of the kind `{kind}` do not sign")));
        };
        if keys.is_empty() {
            let detail =
                "the destination does not sign: give it a `secret`, or `signed: true`, first";
            return Err(unsigned(detail.to_owned()));
        }
        let until = rotation.until(scheme, now)?;
        let secret = match &rotation.secret {
            None => new_secret(scheme, api.random.as_ref()),
            Some(given) => checked(given, scheme)?,
        };
        let newest = SigningKey {
            secret: api.vault.seal(&secret, &context),
            created_at: now,
            active_from: rotation.at.filter(|it| *it > now),
            expires_at: None,
        };
        rotate(keys, newest, until)
            .map_err(|error| Problem::new(Kind::Conflict).detail(error.to_string()))?;
        Ok(secret)
    };
    let (changed, secret) = change(&api, access.project, &destination, rule).await?;
    Ok(Json(Rotated {
        signing_secret: secret.expose().to_owned(),
        signing_keys: signing_keys(&changed).iter().map(SigningKeyView::of).collect(),
    }))
}

impl Rotation {
    /// How long the old secrets sign.
    fn until(&self, scheme: Scheme, now: Timestamp) -> Result<Timestamp, Problem> {
        /// For clocks that differ from ours.
        const PAST: SignedDuration = SignedDuration::from_mins(1);
        let from = self.at.unwrap_or(now);
        if from < now.saturating_sub(PAST).unwrap_or(now) {
            return Err(wrong_field("at", "must not be in the past", "a moment in the past"));
        }
        if from > now.saturating_add(LONGEST_PLAN).unwrap_or(now) {
            return Err(wrong_field("at", "must be at most 366 days ahead", "a later moment"));
        }
        let from = from.max(now);
        if !scheme.carries_several() {
            return match self.overlap {
                None | Some(Duration::ZERO) => Ok(from),
                Some(_) => Err(wrong_field(
                    "overlap",
                    "must not be given where the signature scheme carries only one signature: choose the moment with `at`",
                    "a time",
                )),
            };
        }
        let overlap = self.overlap.unwrap_or(USUAL_OVERLAP);
        if overlap > LONGEST_OVERLAP {
            return Err(wrong_field("overlap", "must be at most 90d", "a longer time"));
        }
        let overlap = SignedDuration::try_from(overlap).unwrap_or(SignedDuration::MAX);
        Ok(from.saturating_add(overlap).unwrap_or(from))
    }
}

/// The secret that the caller gave, if the scheme can sign with it.
fn checked(given: &SecretSpec, scheme: Scheme) -> Result<Secret, Problem> {
    let secret = given.secret();
    let text = secret.expose();
    if given.is_placeholder() {
        return Err(wrong_field("secret", "must differ from the present secret", "a placeholder"));
    }
    if text.is_empty() || text.len() > LONGEST_SECRET || text.chars().any(char::is_control) {
        let rule = "must have 1 to 4096 bytes without control characters";
        return Err(wrong_field("secret", rule, "another text"));
    }
    check_secret(scheme, secret).map_err(|error| {
        Problem::invalid(vec![FieldError::new(
            "secret".to_owned(),
            error.to_string(),
            "another text",
        )])
    })?;
    Ok(secret.clone())
}
