//! Pipelines.

use axum::{
    Json,
    extract::{Path, State},
    http::StatusCode,
};
use jiff::Timestamp;
use serde::Serialize;

use super::{ResourcesQuery, Written, create, delete, find, list, replace};
use crate::{
    api::{
        Api,
        page::{Listing, Page},
        request::{Access, Administer, Body, Query, Read},
    },
    catalog::{Catalog, Edit, Resource},
    model::{Pipeline, PipelineId},
    problem::Problem,
    resources::{PipelineSpec, Spec as _},
};

/// A pipeline.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = Pipeline)]
pub struct PipelineView {
    #[schema(value_type = String)]
    pub id: PipelineId,
    /// Grows by one with every change.
    pub version: u32,
    #[serde(flatten)]
    pub spec: PipelineSpec,
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
}

impl PipelineView {
    fn of(it: &Pipeline) -> Self {
        Self {
            id: it.id,
            version: it.version,
            spec: PipelineSpec::of(it),
            created_at: it.created_at,
        }
    }
}

kept!(Pipeline, "pipeline", pipelines);

impl Written for Pipeline {
    type Spec = PipelineSpec;

    fn into_resource(self) -> Resource {
        Resource::Pipeline(self)
    }

    fn delete(id: PipelineId) -> Edit {
        Edit::DeletePipeline(id)
    }

    fn user(&self, _: &Catalog) -> Option<String> {
        None
    }
}

/// List pipelines
#[utoipa::path(
    get,
    path = "/api/v1/pipelines",
    tag = "pipelines",
    params(ResourcesQuery),
    responses(
        (status = 200, description = "A page of them", body = Listing<PipelineView>),
        (status = "4XX", response = Problem),
    )
)]
pub async fn list_pipelines(
    State(api): State<Api>,
    access: Access<Read>,
    query: Query<ResourcesQuery>,
) -> Result<Page<PipelineView>, Problem> {
    list(&api.registrar.current(), access.project, &query, PipelineView::of)
}

/// Make a pipeline
#[utoipa::path(
    post,
    path = "/api/v1/pipelines",
    tag = "pipelines",
    request_body = PipelineSpec,
    responses(
        (status = 201, description = "It is there", body = PipelineView),
        (status = "4XX", response = Problem),
    )
)]
pub async fn create_pipeline(
    State(api): State<Api>,
    access: Access<Administer>,
    body: Body,
) -> Result<(StatusCode, Json<PipelineView>), Problem> {
    let made = create(&api, &access, &body).await?;
    Ok((StatusCode::CREATED, Json(PipelineView::of(&made))))
}

/// Get a pipeline
#[utoipa::path(
    get,
    path = "/api/v1/pipelines/{pipeline}",
    tag = "pipelines",
    params(("pipeline" = String, Path, description = "Its name or id")),
    responses(
        (status = 200, description = "As it is", body = PipelineView),
        (status = "4XX", response = Problem),
    )
)]
pub async fn get_pipeline(
    State(api): State<Api>,
    access: Access<Read>,
    Path(pipeline): Path<String>,
) -> Result<Json<PipelineView>, Problem> {
    let catalog = api.registrar.current();
    Ok(Json(PipelineView::of(find(&catalog, access.project, &pipeline)?)))
}

/// Replace a pipeline
///
/// What the body leaves out has its default again.
#[utoipa::path(
    put,
    path = "/api/v1/pipelines/{pipeline}",
    tag = "pipelines",
    params(("pipeline" = String, Path, description = "Its name or id")),
    request_body = PipelineSpec,
    responses(
        (status = 200, description = "As it is now", body = PipelineView),
        (status = "4XX", response = Problem),
    )
)]
pub async fn put_pipeline(
    State(api): State<Api>,
    access: Access<Administer>,
    Path(pipeline): Path<String>,
    body: Body,
) -> Result<Json<PipelineView>, Problem> {
    let changed = replace(&api, &access, &pipeline, &body).await?;
    Ok(Json(PipelineView::of(&changed)))
}

/// Delete a pipeline
///
/// Deliveries that it has planned stay.
#[utoipa::path(
    delete,
    path = "/api/v1/pipelines/{pipeline}",
    tag = "pipelines",
    params(("pipeline" = String, Path, description = "Its name or id")),
    responses(
        (status = 204, description = "It is gone"),
        (status = "4XX", response = Problem),
    )
)]
pub async fn delete_pipeline(
    State(api): State<Api>,
    access: Access<Administer>,
    Path(pipeline): Path<String>,
) -> Result<StatusCode, Problem> {
    delete::<Pipeline>(&api, access.project, &pipeline).await?;
    Ok(StatusCode::NO_CONTENT)
}
