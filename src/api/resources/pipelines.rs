//! Pipelines.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Path, State},
    http::StatusCode,
};
use jiff::Timestamp;
use serde::Serialize;

use super::{
    ResourcesQuery, SpecResource, create_judged, delete, find, list, replace_judged,
    versions::AuthorView,
};
use crate::{
    api::{
        Api,
        page::{Listing, Page},
        request::{Access, Administer, Body, Query, Read},
    },
    catalog::{Catalog, Edit, Resource},
    model::{Pipeline, PipelineId},
    problem::Problem,
    resources::{FailingTests, PipelineSpec, Spec as _, failing_tests},
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
    /// When this version was saved. Null: by a Tidegate that did not keep this yet.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub saved_at: Option<Timestamp>,
    pub saved_by: Option<AuthorView>,
}

impl PipelineView {
    pub fn of(it: &Pipeline, catalog: &Catalog) -> Self {
        Self {
            id: it.id,
            version: it.version,
            spec: PipelineSpec::of(it),
            created_at: it.created_at,
            saved_at: it.saved_at,
            saved_by: it.saved_by.map(|it| AuthorView::of(it, catalog)),
        }
    }
}

kept!(Pipeline, "pipeline", pipelines);

impl SpecResource for Pipeline {
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

#[derive(Debug, Default, serde::Deserialize, utoipa::IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ConfirmQuery {
    /// `failing-tests`: the pipeline is changed also when its test cases fail then.
    #[param(value_type = Option<String>)]
    confirm: Option<String>,
}

impl ConfirmQuery {
    pub fn is_confirmed(&self) -> Result<bool, Problem> {
        is_confirmed(self.confirm.as_deref())
    }
}

/// Whether a caller takes it that test cases fail.
pub fn is_confirmed(confirm: Option<&str>) -> Result<bool, Problem> {
    match confirm {
        None | Some("") => Ok(false),
        Some("failing-tests") => Ok(true),
        Some(_) => {
            Err(Problem::invalid_field("query:confirm", "must be `failing-tests`", "another text"))
        }
    }
}

/// Refuses a pipeline whose test cases fail, unless that is confirmed.
pub fn judge(
    api: &Api,
    access: &Access<Administer>,
    is_confirmed: bool,
) -> impl FnOnce(&Catalog, &Pipeline) -> Result<(), Problem> {
    let means = api.means(&access.session.caller);
    move |catalog, pipeline| {
        if is_confirmed {
            return Ok(());
        }
        let failing = failing_tests(&Arc::new(pipeline.clone()), catalog, means);
        if failing.is_empty() { Ok(()) } else { Err(FailingTests(failing).into()) }
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
    let catalog = api.catalog_writer.current();
    list(&catalog, access.project, &query, |it| PipelineView::of(it, &catalog))
}

/// Make a pipeline
///
/// Where one of its test cases fails, it is refused with 409, unless that is confirmed.
#[utoipa::path(
    post,
    path = "/api/v1/pipelines",
    tag = "pipelines",
    params(ConfirmQuery),
    request_body = PipelineSpec,
    responses(
        (status = 201, description = "It is there", body = PipelineView),
        (status = "4XX", response = Problem),
    )
)]
pub async fn create_pipeline(
    State(api): State<Api>,
    access: Access<Administer>,
    Query(query): Query<ConfirmQuery>,
    body: Body,
) -> Result<(StatusCode, Json<PipelineView>), Problem> {
    let judge = judge(&api, &access, query.is_confirmed()?);
    let made = create_judged(&api, &access, &body, judge).await?;
    Ok((StatusCode::CREATED, Json(PipelineView::of(&made, &api.catalog_writer.current()))))
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
    let catalog = api.catalog_writer.current();
    Ok(Json(PipelineView::of(find(&catalog, access.project, &pipeline)?, &catalog)))
}

/// Replace a pipeline
///
/// What the body leaves out has its default again. Where a test case fails then, it is refused with 409,
/// unless that is confirmed. Every change is a new version.
#[utoipa::path(
    put,
    path = "/api/v1/pipelines/{pipeline}",
    tag = "pipelines",
    params(("pipeline" = String, Path, description = "Its name or id"), ConfirmQuery),
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
    Query(query): Query<ConfirmQuery>,
    body: Body,
) -> Result<Json<PipelineView>, Problem> {
    let judge = judge(&api, &access, query.is_confirmed()?);
    let changed = replace_judged(&api, &access, &pipeline, &body, judge).await?;
    Ok(Json(PipelineView::of(&changed, &api.catalog_writer.current())))
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
