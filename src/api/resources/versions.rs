//! What a pipeline was before: its versions, what differs between them, and the way back.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Path, State},
};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{
    find,
    pipelines::{ConfirmQuery, PipelineView, judge},
};
use crate::{
    api::{
        Api,
        page::Listing,
        request::{Access, Administer, Body, Query, Read, parse},
    },
    catalog::{Catalog, Edit, Resource},
    model::{Author, Pipeline},
    problem::{Kind, Problem},
    resources::{self, FieldChange, PipelineSpec, Scope, Spec as _},
};

/// A version of a pipeline.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = PipelineVersion)]
pub struct VersionView {
    pub version: u32,
    /// Whether it is the one that events go through now.
    pub current: bool,
    /// Null: it was saved by a Tidegate that did not keep this yet.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub saved_at: Option<Timestamp>,
    pub saved_by: Option<AuthorView>,
}

/// Who saved something.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = Author)]
pub struct AuthorView {
    /// `key`; `admin_key` for the one of the environment; `file` for the file of resources that the
    /// gateway was started with.
    pub kind: &'static str,
    /// The id of the API key.
    pub key: Option<String>,
    /// Its name, while it is there.
    pub name: Option<String>,
}

/// A version of a pipeline with its document.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = PipelineVersionDetail)]
pub struct VersionDetailView {
    #[serde(flatten)]
    pub version: VersionView,
    pub pipeline: PipelineSpec,
}

/// Show the difference between two versions.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = PipelineDifference)]
pub struct DifferenceView {
    pub from: u32,
    pub to: u32,
    /// Field by field.
    pub changes: Vec<FieldChange>,
    /// Of both as YAML, as `diff -u` writes it. Empty when nothing differs.
    pub text: String,
}

impl AuthorView {
    pub fn of(author: Author, catalog: &Catalog) -> Self {
        match author {
            Author::Key(id) => Self {
                kind: "key",
                key: Some(id.to_string()),
                name: catalog.keys.get(&id).map(|it| it.name.to_string()),
            },
            Author::AdminKey => Self { kind: "admin_key", key: None, name: None },
            Author::File => Self { kind: "file", key: None, name: None },
        }
    }
}

impl VersionView {
    fn of(it: &Pipeline, current: &Pipeline, catalog: &Catalog) -> Self {
        Self {
            version: it.version,
            current: it.version == current.version,
            saved_at: it.saved_at,
            saved_by: it.saved_by.map(|it| AuthorView::of(it, catalog)),
        }
    }
}

/// List the versions of a pipeline
///
/// Newest first, all that are kept: 200 besides the one that it has, of 4 MiB together.
#[utoipa::path(
    get,
    path = "/api/v1/pipelines/{pipeline}/versions",
    tag = "pipelines",
    params(("pipeline" = String, Path, description = "Its name or id")),
    responses(
        (status = 200, description = "All of them; `next` is null", body = Listing<VersionView>),
        (status = "4XX", response = Problem),
    )
)]
pub async fn list_versions(
    State(api): State<Api>,
    access: Access<Read>,
    Path(pipeline): Path<String>,
) -> Result<Json<Listing<VersionView>>, Problem> {
    let catalog = api.catalog_writer.current();
    let current = find::<Pipeline>(&catalog, access.project, &pipeline)?;
    let before = catalog.histories.get(&current.id);
    let before = before.into_iter().flat_map(|it| it.values().rev());
    let all = std::iter::once(current).chain(before);
    let data = all.map(|it| VersionView::of(it, current, &catalog)).collect();
    Ok(Json(Listing { data, next: None }))
}

/// Get a version of a pipeline
#[utoipa::path(
    get,
    path = "/api/v1/pipelines/{pipeline}/versions/{version}",
    tag = "pipelines",
    params(
        ("pipeline" = String, Path, description = "Its name or id"),
        ("version" = u32, Path, description = "The number of the version"),
    ),
    responses(
        (status = 200, description = "As it was", body = VersionDetailView),
        (status = "4XX", response = Problem),
    )
)]
pub async fn get_version(
    State(api): State<Api>,
    access: Access<Read>,
    Path((pipeline, version)): Path<(String, String)>,
) -> Result<Json<VersionDetailView>, Problem> {
    let catalog = api.catalog_writer.current();
    let current = find::<Pipeline>(&catalog, access.project, &pipeline)?;
    let number = version.parse().map_err(|_| Problem::not_found("version of this pipeline"))?;
    let found = version_of(&catalog, current, number)?;
    Ok(Json(VersionDetailView {
        version: VersionView::of(found, current, &catalog),
        pipeline: PipelineSpec::of(found),
    }))
}

fn version_of<'c>(
    catalog: &'c Catalog,
    pipeline: &Pipeline,
    version: u32,
) -> Result<&'c Arc<Pipeline>, Problem> {
    let found = catalog.pipeline_version(pipeline.id, version);
    found.ok_or_else(|| Problem::not_found("version of this pipeline"))
}

#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct DifferenceQuery {
    /// A version. Left out: the one before `to`.
    #[param(value_type = Option<u32>)]
    from: Option<String>,
    /// A version. Left out: the one that the pipeline has.
    #[param(value_type = Option<u32>)]
    to: Option<String>,
}

/// Compare two versions of a pipeline
#[utoipa::path(
    get,
    path = "/api/v1/pipelines/{pipeline}/diff",
    tag = "pipelines",
    params(("pipeline" = String, Path, description = "Its name or id"), DifferenceQuery),
    responses(
        (status = 200, description = "What differs", body = DifferenceView),
        (status = "4XX", response = Problem),
    )
)]
pub async fn compare_versions(
    State(api): State<Api>,
    access: Access<Read>,
    Path(pipeline): Path<String>,
    Query(query): Query<DifferenceQuery>,
) -> Result<Json<DifferenceView>, Problem> {
    const RULE: &str = "it is the number of a version";
    let catalog = api.catalog_writer.current();
    let current = find::<Pipeline>(&catalog, access.project, &pipeline)?;
    let to = parse("to", query.to.as_deref(), RULE)?.unwrap_or(current.version);
    let after = version_of(&catalog, current, to)?;
    let from = match parse("from", query.from.as_deref(), RULE)? {
        Some(from) => from,
        None => {
            let history = catalog.histories.get(&current.id);
            let before = history.and_then(|it| it.range(..to).next_back());
            before.map_or(to, |it| *it.0)
        }
    };
    let before = version_of(&catalog, current, from)?;
    let difference = resources::compare_versions(before, after);
    let (changes, text) = (difference.changes, difference.text);
    Ok(Json(DifferenceView { from, to, changes, text }))
}

/// What to go back to.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RollbackRequest {
    version: u32,
}

/// Go back to a version of a pipeline
///
/// It makes a new version that is as the old one was, or none when it is so already. It is refused with 409
/// when the old one names sources, destinations or look-ups that are gone, and when a test case of the old
/// one fails, unless that is confirmed.
#[utoipa::path(
    post,
    path = "/api/v1/pipelines/{pipeline}/rollback",
    tag = "pipelines",
    params(("pipeline" = String, Path, description = "Its name or id"), ConfirmQuery),
    request_body = RollbackRequest,
    responses(
        (status = 200, description = "As it is now", body = PipelineView),
        (status = "4XX", response = Problem),
    )
)]
pub async fn rollback_pipeline(
    State(api): State<Api>,
    access: Access<Administer>,
    Path(pipeline): Path<String>,
    Query(query): Query<ConfirmQuery>,
    body: Body,
) -> Result<Json<PipelineView>, Problem> {
    let RollbackRequest { version } = body.read()?;
    let judge = judge(&api, &access, query.is_confirmed()?);
    let means = api.means(&access.session.caller);
    let decide = |catalog: &Catalog| {
        let current = find::<Pipeline>(catalog, access.project, &pipeline)?;
        let old = version_of(catalog, current, version)?;
        let scope = Scope::new(catalog, access.project, means);
        let next = PipelineSpec::of(old).check(&scope, Some(current)).map_err(|wrong| {
            let detail = format!(
                "version {version} does not fit what is there now: {}",
                wrong.iter().map(gone(old)).collect::<Vec<_>>().join("; ")
            );
            let errors = Problem::from(wrong).errors;
            Problem::new(Kind::Conflict).detail(detail).errors(errors)
        })?;
        if next == **current {
            return Ok::<_, Problem>((Vec::new(), next));
        }
        judge(catalog, &next)?;
        Ok((vec![Edit::Put(Resource::Pipeline(next.clone()))], next))
    };
    let now: Pipeline = api.catalog_writer.edit(decide).await?;
    Ok(Json(PipelineView::of(&now, &api.catalog_writer.current())))
}

/// What of an old version is not there any more, by its name.
fn gone(old: &Pipeline) -> impl Fn(&resources::Invalid) -> String {
    move |invalid| {
        let place = |list: &str, end: &str| -> Option<usize> {
            invalid.path.strip_prefix(list)?.strip_suffix(end)?.parse().ok()
        };
        let route = place("routes[", "].to").and_then(|it| old.routes.get(it));
        let source = place("sources[", "]").and_then(|it| old.sources.get(it));
        match (route, source) {
            (Some(route), _) => format!("the destination `{}` is gone", route.to),
            (None, Some(source)) => format!("the source `{source}` is gone"),
            (None, None) => invalid.to_string(),
        }
    }
}
