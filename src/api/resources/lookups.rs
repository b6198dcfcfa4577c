//! Look-ups.

use std::{collections::BTreeMap, sync::Arc};

use axum::{
    Json,
    extract::{Path, State},
    http::StatusCode,
};
use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;

use super::{ProjectResource, ResourcesQuery, SpecResource, create, delete, find, list, replace};
use crate::{
    api::{
        Api,
        page::{Listing, Page},
        request::{Access, Administer, Body, Query, Read},
    },
    catalog::{Catalog, Edit, Resource},
    model::{Lookup, LookupId, ProjectId, StepSpec, kind},
    pipeline,
    problem::Problem,
    resources::{LookupSpec, Spec as _},
};

/// Where enrichment looks things up.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = Lookup)]
pub struct LookupView {
    #[schema(value_type = String)]
    pub id: LookupId,
    #[serde(flatten)]
    pub spec: LookupSpec,
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
}

impl LookupView {
    fn of(it: &Lookup) -> Self {
        Self { id: it.id, spec: LookupSpec::of(it), created_at: it.created_at }
    }

    fn of_shared(it: &Arc<Lookup>) -> Self {
        Self::of(it)
    }
}

impl ProjectResource for Lookup {
    type Tag = kind::Lookup;
    const WORD: &'static str = "look-up";

    fn all(catalog: &Catalog) -> &BTreeMap<LookupId, Arc<Self>> {
        &catalog.lookups
    }

    fn id(&self) -> LookupId {
        self.id
    }

    fn project(&self) -> ProjectId {
        self.project
    }

    fn name(&self) -> &str {
        self.name.as_str()
    }
}

impl SpecResource for Lookup {
    type Spec = LookupSpec;

    fn into_resource(self) -> Resource {
        Resource::Lookup(self)
    }

    fn delete(id: LookupId) -> Edit {
        Edit::DeleteLookup(id)
    }

    fn user(&self, catalog: &Catalog) -> Option<String> {
        let is_step = |it: &StepSpec| {
            it.0.iter().any(|(kind, settings)| {
                let is_named = |it: &Value| it.as_str() == Some(self.name.as_str());
                let from = settings.get("from").and_then(Value::as_array);
                kind == pipeline::ENRICH_ENTITY && settings.get("table").is_some_and(is_named)
                    || kind == pipeline::ENRICH_PERSON
                        && from.is_some_and(|it| it.iter().any(is_named))
            })
        };
        let mut pipelines = catalog.pipelines.values().filter(|it| it.project == self.project);
        let user = pipelines.find(|it| {
            let mut steps = it.steps.iter().chain(it.routes.iter().flat_map(|it| &it.steps));
            steps.any(is_step)
        })?;
        Some(format!("the pipeline `{}`", user.name))
    }
}

/// List look-ups
#[utoipa::path(
    get,
    path = "/api/v1/lookups",
    tag = "lookups",
    params(ResourcesQuery),
    responses(
        (status = 200, description = "A page of them", body = Listing<LookupView>),
        (status = "4XX", response = Problem),
    )
)]
pub async fn list_lookups(
    State(api): State<Api>,
    access: Access<Read>,
    query: Query<ResourcesQuery>,
) -> Result<Page<LookupView>, Problem> {
    list(&api.catalog_writer.current(), access.project, &query, LookupView::of)
}

/// Make a look-up
#[utoipa::path(
    post,
    path = "/api/v1/lookups",
    tag = "lookups",
    request_body = LookupSpec,
    responses(
        (status = 201, description = "It is there", body = LookupView),
        (status = "4XX", response = Problem),
    )
)]
pub async fn create_lookup(
    State(api): State<Api>,
    access: Access<Administer>,
    body: Body,
) -> Result<(StatusCode, Json<LookupView>), Problem> {
    let made = create(&api, &access, &body).await?;
    Ok((StatusCode::CREATED, Json(LookupView::of(&made))))
}

/// Get a look-up
#[utoipa::path(
    get,
    path = "/api/v1/lookups/{lookup}",
    tag = "lookups",
    params(("lookup" = String, Path, description = "Its name or id")),
    responses(
        (status = 200, description = "As it is", body = LookupView),
        (status = "4XX", response = Problem),
    )
)]
pub async fn get_lookup(
    State(api): State<Api>,
    access: Access<Read>,
    Path(lookup): Path<String>,
) -> Result<Json<LookupView>, Problem> {
    let found =
        find(&api.catalog_writer.current(), access.project, &lookup).map(LookupView::of_shared)?;
    Ok(Json(found))
}

/// Replace a look-up
///
/// What the body leaves out has its default again.
#[utoipa::path(
    put,
    path = "/api/v1/lookups/{lookup}",
    tag = "lookups",
    params(("lookup" = String, Path, description = "Its name or id")),
    request_body = LookupSpec,
    responses(
        (status = 200, description = "As it is now", body = LookupView),
        (status = "4XX", response = Problem),
    )
)]
pub async fn put_lookup(
    State(api): State<Api>,
    access: Access<Administer>,
    Path(lookup): Path<String>,
    body: Body,
) -> Result<Json<LookupView>, Problem> {
    let changed = replace(&api, &access, &lookup, &body).await?;
    Ok(Json(LookupView::of(&changed)))
}

/// Delete a look-up
///
/// Rows of a table stay until they are removed. A look-up that a pipeline names cannot be deleted.
#[utoipa::path(
    delete,
    path = "/api/v1/lookups/{lookup}",
    tag = "lookups",
    params(("lookup" = String, Path, description = "Its name or id")),
    responses(
        (status = 204, description = "It is gone"),
        (status = "4XX", response = Problem),
    )
)]
pub async fn delete_lookup(
    State(api): State<Api>,
    access: Access<Administer>,
    Path(lookup): Path<String>,
) -> Result<StatusCode, Problem> {
    delete::<Lookup>(&api, access.project, &lookup).await?;
    Ok(StatusCode::NO_CONTENT)
}
