//! Destinations, and what people do with them: pause, disable, try out.

use axum::{
    Json,
    extract::{Path, State},
    http::StatusCode,
    response::Response,
};
use jiff::Timestamp;
use serde::Serialize;

use super::{ResourcesQuery, SpecResource, create, delete, find, list, replace, verify::settled};
use crate::{
    api::{
        Api,
        page::{Listing, Page},
        request::{Access, Administer, Body, Operate, Query, Read},
    },
    catalog::{Catalog, Edit, Resource},
    crypto::{SealContext, SecretField},
    model::{Destination, DestinationId, DestinationState, ProjectId, SigningKey},
    problem::{self, Problem},
    resources::{DestinationSpec, Spec as _, check_limits},
};

/// A place that events go to. Placeholders such as `${CRM_WEBHOOK_SECRET}` stand for its secrets.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = Destination)]
pub struct DestinationView {
    #[schema(value_type = String)]
    pub id: DestinationId,
    /// Grows by one with every change.
    pub version: u32,
    #[serde(flatten)]
    pub state: StateView,
    #[serde(flatten)]
    pub spec: DestinationSpec,
    /// The secrets that sign, newest first, without the secrets.
    pub signing_keys: Vec<SigningKeyView>,
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
}

/// Whether deliveries are attempted. While they are not, they are held, in their order.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct StateView {
    /// `active`, `unverified`, `paused` or `disabled`.
    pub state: &'static str,
    /// Since when it is not active.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub since: Option<Timestamp>,
    /// Why it is disabled, or what the last try to verify it came to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct SigningKeyView {
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    /// When it begins to sign, if that was chosen.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub active_from: Option<Timestamp>,
    /// When it stops to sign. Null for the newest.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub expires_at: Option<Timestamp>,
}

/// A destination that was made just now.
#[derive(Serialize, utoipa::ToSchema)]
#[schema(as = NewDestination)]
pub struct NewDestinationView {
    #[serde(flatten)]
    pub view: DestinationView,
    /// The secret that signs, if it was made for this destination. It is shown this once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signing_secret: Option<String>,
}

impl DestinationView {
    pub fn of(it: &Destination) -> Self {
        Self {
            id: it.id,
            version: it.version,
            state: StateView::of(&it.state),
            spec: DestinationSpec::of(it),
            signing_keys: signing_keys(it).iter().map(SigningKeyView::of).collect(),
            created_at: it.created_at,
        }
    }
}

impl StateView {
    fn of(state: &DestinationState) -> Self {
        match state {
            DestinationState::Active => Self { state: "active", since: None, reason: None },
            DestinationState::Paused { since } => {
                Self { state: "paused", since: Some(*since), reason: None }
            }
            DestinationState::Unverified { since, reason } => {
                let reason = match reason.is_empty() {
                    true => "it is being verified".to_owned(),
                    false => reason.clone(),
                };
                Self { state: "unverified", since: Some(*since), reason: Some(reason) }
            }
            DestinationState::Disabled { since, reason } => {
                Self { state: "disabled", since: Some(*since), reason: Some(reason.clone()) }
            }
        }
    }
}

impl SigningKeyView {
    pub fn of(key: &SigningKey) -> Self {
        Self {
            created_at: key.created_at,
            active_from: key.active_from,
            expires_at: key.expires_at,
        }
    }
}

pub fn signing_keys(destination: &Destination) -> &[SigningKey] {
    destination.connection.signing_keys()
}

kept!(Destination, "destination", destinations);

impl SpecResource for Destination {
    type Spec = DestinationSpec;

    fn into_resource(self) -> Resource {
        Resource::Destination(self)
    }

    fn delete(id: DestinationId) -> Edit {
        Edit::DeleteDestination(id)
    }

    fn user(&self, catalog: &Catalog) -> Option<String> {
        let mut pipelines = catalog.pipelines.values().filter(|it| it.project == self.project);
        let user = pipelines.find(|it| it.routes.iter().any(|route| route.to == self.name))?;
        Some(format!("the pipeline `{}`", user.name))
    }
}

/// List destinations
#[utoipa::path(
    get,
    path = "/api/v1/destinations",
    tag = "destinations",
    params(ResourcesQuery),
    responses(
        (status = 200, description = "A page of them", body = Listing<DestinationView>),
        (status = "4XX", response = Problem),
    )
)]
pub async fn list_destinations(
    State(api): State<Api>,
    access: Access<Read>,
    query: Query<ResourcesQuery>,
) -> Result<Page<DestinationView>, Problem> {
    list(&api.catalog_writer.current(), access.project, &query, DestinationView::of)
}

/// Make a destination
///
/// If it signs and the body gives no secret, one is made, and this answer alone shows it. Where its
/// contract asks for it, the answer waits until the endpoint is verified: then `state` is `active`, or
/// `unverified` with the `reason`.
#[utoipa::path(
    post,
    path = "/api/v1/destinations",
    tag = "destinations",
    request_body = DestinationSpec,
    responses(
        (status = 201, description = "It is there", body = NewDestinationView),
        (status = "4XX", response = Problem),
    )
)]
pub async fn create_destination(
    State(api): State<Api>,
    access: Access<Administer>,
    body: Body,
) -> Result<(StatusCode, Json<NewDestinationView>), Problem> {
    let was_given = body.read::<DestinationSpec>()?.has_signing_secret();
    let made: Destination = create(&api, &access, &body).await?;
    let made = settled(&api, made).await;
    let context = SealContext::of_destination(made.project, made.id, SecretField::SigningKey);
    let secret = signing_keys(&made).first().filter(|_| !was_given);
    let secret = secret.and_then(|key| api.vault.open(&key.secret, &context).ok());
    let view = NewDestinationView {
        view: DestinationView::of(&made),
        signing_secret: secret.map(|it| it.expose().to_owned()),
    };
    Ok((StatusCode::CREATED, Json(view)))
}

/// Get a destination
#[utoipa::path(
    get,
    path = "/api/v1/destinations/{destination}",
    tag = "destinations",
    params(("destination" = String, Path, description = "Its name or id")),
    responses(
        (status = 200, description = "As it is", body = DestinationView),
        (status = "4XX", response = Problem),
    )
)]
pub async fn get_destination(
    State(api): State<Api>,
    access: Access<Read>,
    Path(destination): Path<String>,
) -> Result<Json<DestinationView>, Problem> {
    let catalog = api.catalog_writer.current();
    let found = find::<Destination>(&catalog, access.project, &destination)?;
    Ok(Json(DestinationView::of(found)))
}

/// Replace a destination
///
/// What the body leaves out has the value of its profile again, but for secrets: those stay. One whose
/// contract asks for it is verified again when its URLs change.
#[utoipa::path(
    put,
    path = "/api/v1/destinations/{destination}",
    tag = "destinations",
    params(("destination" = String, Path, description = "Its name or id")),
    request_body = DestinationSpec,
    responses(
        (status = 200, description = "As it is now", body = DestinationView),
        (status = "4XX", response = Problem),
    )
)]
pub async fn put_destination(
    State(api): State<Api>,
    access: Access<Administer>,
    Path(destination): Path<String>,
    body: Body,
) -> Result<Json<DestinationView>, Problem> {
    let changed = replace(&api, &access, &destination, &body).await?;
    let changed = settled(&api, changed).await;
    Ok(Json(DestinationView::of(&changed)))
}

/// Delete a destination
///
/// What is still owed to it is cancelled; the header `tidegate-cancelled-deliveries` says how much that was. One
/// that a pipeline routes to cannot be deleted.
#[utoipa::path(
    delete,
    path = "/api/v1/destinations/{destination}",
    tag = "destinations",
    params(("destination" = String, Path, description = "Its name or id")),
    responses(
        (status = 204, description = "It is gone"),
        (status = "4XX", response = Problem),
    )
)]
pub async fn delete_destination(
    State(api): State<Api>,
    access: Access<Administer>,
    Path(destination): Path<String>,
) -> Result<Response, Problem> {
    let found =
        find::<Destination>(access.session.catalog(), access.project, &destination)?.clone();
    let owed = super::deleted::owed(&api).await?.get(&found.id).copied().unwrap_or(0);
    delete::<Destination>(&api, access.project, &destination).await?;
    Ok(super::deleted::gone("destination", found.name.as_str(), owed))
}

/// Changes one destination by a rule, or says why not.
pub(super) async fn change<T>(
    api: &Api,
    project: ProjectId,
    id_or_name: &str,
    rule: impl FnOnce(&mut Destination) -> Result<T, Problem>,
) -> Result<(Destination, T), Problem> {
    let decide = |catalog: &Catalog| {
        let old = find::<Destination>(catalog, project, id_or_name)?;
        let mut new = Destination::clone(old);
        let answer = rule(&mut new)?;
        if new == **old {
            return Ok((Vec::new(), (new, answer)));
        }
        check_limits(catalog, api.limits, &new, Some(old))
            .map_err(|full| Problem::new(problem::Kind::Conflict).detail(full.to_string()))?;
        new.version += 1;
        Ok((vec![Edit::Put(Resource::Destination(new.clone()))], (new, answer)))
    };
    api.catalog_writer.edit(decide).await
}

/// Pause a destination
///
/// Its deliveries are held, in their order, until it is resumed.
#[utoipa::path(
    post,
    path = "/api/v1/destinations/{destination}/pause",
    tag = "destinations",
    params(("destination" = String, Path, description = "Its name or id")),
    responses(
        (status = 200, description = "As it is now", body = DestinationView),
        (status = "4XX", response = Problem),
    )
)]
pub async fn pause_destination(
    State(api): State<Api>,
    access: Access<Operate>,
    Path(destination): Path<String>,
) -> Result<Json<DestinationView>, Problem> {
    let since = api.clock.now();
    let rule = |it: &mut Destination| match it.state {
        DestinationState::Active => {
            it.state = DestinationState::Paused { since };
            Ok(())
        }
        DestinationState::Paused { .. } => Ok(()),
        DestinationState::Unverified { .. } => Err(is_unverified()),
        DestinationState::Disabled { .. } => Err(is_disabled()),
    };
    let (now, ()) = change(&api, access.project, &destination, rule).await?;
    Ok(Json(DestinationView::of(&now)))
}

/// Resume a destination that is paused
#[utoipa::path(
    post,
    path = "/api/v1/destinations/{destination}/resume",
    tag = "destinations",
    params(("destination" = String, Path, description = "Its name or id")),
    responses(
        (status = 200, description = "As it is now", body = DestinationView),
        (status = "4XX", response = Problem),
    )
)]
pub async fn resume_destination(
    State(api): State<Api>,
    access: Access<Operate>,
    Path(destination): Path<String>,
) -> Result<Json<DestinationView>, Problem> {
    let rule = |it: &mut Destination| match it.state {
        DestinationState::Active | DestinationState::Paused { .. } => {
            it.state = DestinationState::Active;
            Ok(())
        }
        DestinationState::Unverified { .. } => Err(is_unverified()),
        DestinationState::Disabled { .. } => Err(is_disabled()),
    };
    let (now, ()) = change(&api, access.project, &destination, rule).await?;
    Ok(Json(DestinationView::of(&now)))
}

pub(super) fn is_disabled() -> Problem {
    Problem::new(problem::Kind::Conflict).detail("the destination is disabled: enable it first")
}

fn is_unverified() -> Problem {
    Problem::new(problem::Kind::Conflict)
        .detail("the destination is not verified yet: it gets nothing before that")
}

/// Enable a destination that is disabled
///
/// One whose contract asks for it is verified first.
#[utoipa::path(
    post,
    path = "/api/v1/destinations/{destination}/enable",
    tag = "destinations",
    params(("destination" = String, Path, description = "Its name or id")),
    responses(
        (status = 200, description = "As it is now", body = DestinationView),
        (status = "4XX", response = Problem),
    )
)]
pub async fn enable_destination(
    State(api): State<Api>,
    access: Access<Operate>,
    Path(destination): Path<String>,
) -> Result<Json<DestinationView>, Problem> {
    let since = api.clock.now();
    let rule = |it: &mut Destination| {
        if matches!(it.state, DestinationState::Disabled { .. }) {
            let verifies = it.connection.verifies();
            it.state = match verifies {
                true => DestinationState::Unverified { since, reason: String::new() },
                false => DestinationState::Active,
            };
        }
        Ok(())
    };
    let (now, ()) = change(&api, access.project, &destination, rule).await?;
    Ok(Json(DestinationView::of(&settled(&api, now).await)))
}

/// Disable a destination
///
/// Its deliveries are held, in their order, until it is enabled.
#[utoipa::path(
    post,
    path = "/api/v1/destinations/{destination}/disable",
    tag = "destinations",
    params(("destination" = String, Path, description = "Its name or id")),
    responses(
        (status = 200, description = "As it is now", body = DestinationView),
        (status = "4XX", response = Problem),
    )
)]
pub async fn disable_destination(
    State(api): State<Api>,
    access: Access<Operate>,
    Path(destination): Path<String>,
) -> Result<Json<DestinationView>, Problem> {
    let since = api.clock.now();
    let rule = |it: &mut Destination| {
        if !matches!(it.state, DestinationState::Disabled { .. }) {
            let reason = "a person disabled it".to_owned();
            it.state = DestinationState::Disabled { since, reason };
        }
        Ok(())
    };
    let (now, ()) = change(&api, access.project, &destination, rule).await?;
    Ok(Json(DestinationView::of(&now)))
}
