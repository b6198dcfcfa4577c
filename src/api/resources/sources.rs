//! Sources.

use axum::{
    Json,
    extract::{Path, State},
    http::StatusCode,
};
use jiff::Timestamp;
use serde::Serialize;

use super::{ResourcesQuery, SpecResource, create, delete, find, list, replace};
use crate::{
    api::{
        Api,
        page::{Listing, Page},
        request::{Access, Administer, Body, Query, Read},
    },
    catalog::{Catalog, Edit, Resource},
    ingest::traffic::SourceCounts,
    model::{Source, SourceId},
    problem::Problem,
    resources::{SourceSpec, Spec as _},
};

/// A source of events.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = Source)]
pub struct SourceView {
    #[schema(value_type = String)]
    pub id: SourceId,
    #[serde(flatten)]
    pub spec: SourceSpec,
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
}

impl SourceView {
    fn of(it: &Source) -> Self {
        Self { id: it.id, spec: SourceSpec::of(it), created_at: it.created_at }
    }
}

kept!(Source, "source", sources);

impl SpecResource for Source {
    type Spec = SourceSpec;

    fn into_resource(self) -> Resource {
        Resource::Source(self)
    }

    fn delete(id: SourceId) -> Edit {
        Edit::DeleteSource(id)
    }

    fn user(&self, catalog: &Catalog) -> Option<String> {
        let mut pipelines = catalog.pipelines.values().filter(|it| it.project == self.project);
        let user = pipelines.find(|it| it.sources.contains(&self.name))?;
        Some(format!("the pipeline `{}`", user.name))
    }
}

/// List sources
#[utoipa::path(
    get,
    path = "/api/v1/sources",
    tag = "sources",
    params(ResourcesQuery),
    responses(
        (status = 200, description = "A page of them", body = Listing<SourceView>),
        (status = "4XX", response = Problem),
    )
)]
pub async fn list_sources(
    State(api): State<Api>,
    access: Access<Read>,
    query: Query<ResourcesQuery>,
) -> Result<Page<SourceView>, Problem> {
    list(&api.catalog_writer.current(), access.project, &query, SourceView::of)
}

/// Make a source
#[utoipa::path(
    post,
    path = "/api/v1/sources",
    tag = "sources",
    request_body = SourceSpec,
    responses(
        (status = 201, description = "It is there", body = SourceView),
        (status = "4XX", response = Problem),
    )
)]
pub async fn create_source(
    State(api): State<Api>,
    access: Access<Administer>,
    body: Body,
) -> Result<(StatusCode, Json<SourceView>), Problem> {
    let made = create(&api, &access, &body).await?;
    Ok((StatusCode::CREATED, Json(SourceView::of(&made))))
}

/// Get a source
#[utoipa::path(
    get,
    path = "/api/v1/sources/{source}",
    tag = "sources",
    params(("source" = String, Path, description = "Its name or id")),
    responses(
        (status = 200, description = "As it is", body = SourceView),
        (status = "4XX", response = Problem),
    )
)]
pub async fn get_source(
    State(api): State<Api>,
    access: Access<Read>,
    Path(source): Path<String>,
) -> Result<Json<SourceView>, Problem> {
    let catalog = api.catalog_writer.current();
    Ok(Json(SourceView::of(find(&catalog, access.project, &source)?)))
}

/// Replace a source
///
/// What the body leaves out has its default again.
#[utoipa::path(
    put,
    path = "/api/v1/sources/{source}",
    tag = "sources",
    params(("source" = String, Path, description = "Its name or id")),
    request_body = SourceSpec,
    responses(
        (status = 200, description = "As it is now", body = SourceView),
        (status = "4XX", response = Problem),
    )
)]
pub async fn put_source(
    State(api): State<Api>,
    access: Access<Administer>,
    Path(source): Path<String>,
    body: Body,
) -> Result<Json<SourceView>, Problem> {
    let changed = replace(&api, &access, &source, &body).await?;
    Ok(Json(SourceView::of(&changed)))
}

/// Delete a source
///
/// Its events stay. A source that a pipeline names cannot be deleted.
#[utoipa::path(
    delete,
    path = "/api/v1/sources/{source}",
    tag = "sources",
    params(("source" = String, Path, description = "Its name or id")),
    responses(
        (status = 204, description = "It is gone"),
        (status = "4XX", response = Problem),
    )
)]
pub async fn delete_source(
    State(api): State<Api>,
    access: Access<Administer>,
    Path(source): Path<String>,
) -> Result<StatusCode, Problem> {
    delete::<Source>(&api, access.project, &source).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// What a source took and refused
///
/// Events accepted and seen before, and what was refused by why, with the newest hundred one by one; for
/// the source, and for each API key that posted. Counted since `since`, through restarts; a crash loses what
/// was counted in its last five seconds.
#[utoipa::path(
    get,
    path = "/api/v1/sources/{source}/traffic",
    tag = "sources",
    params(("source" = String, Path, description = "Its name or id")),
    responses(
        (status = 200, description = "The counts", body = SourceCounts),
        (status = "4XX", response = Problem),
    )
)]
pub async fn source_traffic(
    State(api): State<Api>,
    access: Access<Read>,
    Path(source): Path<String>,
) -> Result<Json<SourceCounts>, Problem> {
    let catalog = api.catalog_writer.current();
    let id = find::<Source>(&catalog, access.project, &source)?.id;
    let mut counts = api.ingest.traffic(id);
    for it in &mut counts.keys {
        it.name = it.key.and_then(|key| Some(catalog.keys.get(&key)?.name.to_string()));
    }
    Ok(Json(counts))
}

/// Forget what a source took and refused
///
/// The counts begin again, and the list of refusals, in which the addresses of senders stand, is empty. It is
/// gone from the file of counts within seconds. Nothing happens to events.
#[utoipa::path(
    delete,
    path = "/api/v1/sources/{source}/traffic",
    tag = "sources",
    params(("source" = String, Path, description = "Its name or id")),
    responses((status = 204, description = "Forgotten"), (status = "4XX", response = Problem))
)]
pub async fn forget_source_traffic(
    State(api): State<Api>,
    access: Access<Administer>,
    Path(source): Path<String>,
) -> Result<StatusCode, Problem> {
    let catalog = api.catalog_writer.current();
    api.ingest.forget_traffic(find::<Source>(&catalog, access.project, &source)?.id);
    Ok(StatusCode::NO_CONTENT)
}
