//! All of a project's resources at once, as a file: compared, applied, and written out again.

use axum::{
    Json,
    extract::State,
    http::{HeaderMap, HeaderValue, header},
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    deleted::{Owed, owed},
    destinations::signing_keys,
    pipelines::is_confirmed,
};

use crate::{
    api::{
        Api,
        request::{Access, Administer, Anywhere, Body, Query, Read},
    },
    catalog::{Catalog, Edit, Resource},
    crypto::{SealContext, SecretField},
    problem::{Kind, Problem},
    resources::{self, Action, Difference, FailingTests, File, ResourceChange},
};

#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct FileQuery {
    /// `true`: resources that the file does not name are deleted. For a file in YAML.
    #[param(value_type = Option<bool>)]
    prune: Option<String>,
    /// `failing-tests`: pipelines are changed also when their test cases fail then.
    #[param(value_type = Option<String>)]
    confirm: Option<String>,
}

/// A file as JSON.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct FileRequest {
    /// The same as the file in YAML.
    #[schema(value_type = Object)]
    resources: Value,
    /// Resources that the file does not name are deleted.
    #[serde(default)]
    prune: bool,
}

/// What was changed, and the secrets that were made on the way.
#[derive(Serialize, utoipa::ToSchema)]
pub struct Applied {
    #[serde(flatten)]
    difference: Difference,
    /// The signing secrets of new destinations for which the file gives none. Only this answer shows them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    new_secrets: Vec<NewSecret>,
}

/// A signing secret that was made for a destination.
#[derive(Serialize, utoipa::ToSchema)]
pub struct NewSecret {
    destination: String,
    secret: String,
}

/// The secrets of destinations that these edits make, and for which the file has none.
fn new_secrets(api: &Api, file: &File, catalog: &Catalog, edits: &[Edit]) -> Vec<NewSecret> {
    let made = edits.iter().filter_map(|edit| match edit {
        Edit::Put(Resource::Destination(it)) if !catalog.destinations.contains_key(&it.id) => {
            Some(it)
        }
        _ => None,
    });
    made.filter(|it| !file.has_secret(it.name.as_str()))
        .filter_map(|it| {
            let context = SealContext::of_destination(it.project, it.id, SecretField::SigningKey);
            let secret = api.vault.open(&signing_keys(it).first()?.secret, &context).ok()?;
            Some(NewSecret { destination: it.name.to_string(), secret: secret.expose().to_owned() })
        })
        .collect()
}

/// Reads the file. A server reads no environment for its callers: `${NAME}` is theirs to fill in.
fn read(query: &FileQuery, headers: &HeaderMap, body: &Body) -> Result<(File, bool), Problem> {
    let content_type = headers.get(header::CONTENT_TYPE).and_then(|it| it.to_str().ok());
    let prune = query.prune.as_deref() == Some("true");
    if content_type.is_some_and(|it| it.to_ascii_lowercase().starts_with("application/json")) {
        let request: FileRequest = body.read()?;
        return Ok((File::from_json(request.resources)?, request.prune || prune));
    }
    let text = std::str::from_utf8(&body.0)
        .map_err(|_| Problem::invalid_field("body", "must be UTF-8", "other bytes"))?;
    Ok((File::read("body", text, &|_| None)?, prune))
}

/// A key of a project changes that one only. Asked before the file is compared with anything, so
/// that it tells nothing about others.
fn check_project(
    access: &Anywhere<Administer>,
    file: &File,
    catalog: &Catalog,
) -> Result<(), Problem> {
    if access.session.caller.is_for_all_projects() {
        return Ok(());
    }
    let own = access.session.project(None)?;
    let named = catalog.project_named(file.project().as_str());
    if named.is_some_and(|it| it.id == own) {
        return Ok(());
    }
    Err(Problem::new(Kind::Forbidden)
        .detail("the API key belongs to another project than the file"))
}

/// Compare a file of resources with what is there
///
/// Changes nothing. Test cases that would fail are named.
#[utoipa::path(
    post,
    path = "/api/v1/plan",
    tag = "files",
    params(FileQuery),
    request_body(content((FileRequest = "application/json"), (String = "application/yaml"))),
    responses(
        (status = 200, description = "What would change", body = Difference),
        (status = "4XX", response = Problem),
    )
)]
pub async fn plan_file(
    State(api): State<Api>,
    access: Anywhere<Administer>,
    Query(query): Query<FileQuery>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Difference>, Problem> {
    let (file, prune) = read(&query, &headers, &body)?;
    let catalog = api.catalog_writer.current();
    check_project(&access, &file, &catalog)?;
    let means = api.means(&access.session.caller);
    let planned = resources::plan(&file, &catalog, means, prune)?;
    let mut difference = planned.difference;
    difference.warnings.extend(warnings(&api, &planned.edits));
    count_cancelled(&owed(&api).await?, &file, &catalog, &mut difference);
    Ok(Json(difference))
}

/// What to tell of the destinations that these edits make or change.
fn warnings(api: &Api, edits: &[Edit]) -> Vec<String> {
    let put = edits.iter().filter_map(|edit| match edit {
        Edit::Put(Resource::Destination(it)) => Some(it),
        _ => None,
    });
    put.filter_map(|it| api.outlets.warning(it)).collect()
}

/// Notes how much is still owed to destinations that are deleted.
fn count_cancelled(owed: &Owed, file: &File, catalog: &Catalog, difference: &mut Difference) {
    let Some(project) = catalog.project_named(file.project().as_str()).map(|it| it.id) else {
        return;
    };
    let is_gone =
        |it: &&mut ResourceChange| it.action == Action::Delete && it.kind == "destination";
    for change in difference.changes.iter_mut().filter(is_gone) {
        if let Some(it) = catalog.destination_named(project, &change.name) {
            change.cancels = Some(owed.get(&it.id).copied().unwrap_or(0));
        }
    }
}

/// Make the resources what a file says
///
/// All of it in one transaction, or nothing. A change that makes test cases of a pipeline fail is refused
/// with 409, unless that is confirmed.
#[utoipa::path(
    post,
    path = "/api/v1/apply",
    tag = "files",
    params(FileQuery),
    request_body(content((FileRequest = "application/json"), (String = "application/yaml"))),
    responses(
        (status = 200, description = "What was changed", body = Applied),
        (status = "4XX", response = Problem),
    )
)]
pub async fn apply_file(
    State(api): State<Api>,
    access: Anywhere<Administer>,
    Query(query): Query<FileQuery>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Applied>, Problem> {
    let is_confirmed = is_confirmed(query.confirm.as_deref())?;
    let (file, prune) = read(&query, &headers, &body)?;
    let means = api.means(&access.session.caller);
    let decide = |catalog: &Catalog| {
        check_project(&access, &file, catalog)?;
        let planned = resources::plan(&file, catalog, means, prune)?;
        let failing = &planned.difference.failing_tests;
        if !failing.is_empty() && !is_confirmed {
            return Err(FailingTests(failing.clone()).into());
        }
        let new_secrets = new_secrets(&api, &file, catalog, &planned.edits);
        let mut difference = planned.difference;
        difference.warnings.extend(warnings(&api, &planned.edits));
        Ok::<_, Problem>((planned.edits, Applied { difference, new_secrets }))
    };
    // How much is owed is reported as it was before.
    let (before, owed) = (api.catalog_writer.current(), owed(&api).await?);
    let mut applied = api.catalog_writer.edit(decide).await?;
    count_cancelled(&owed, &file, &before, &mut applied.difference);
    Ok(Json(applied))
}

/// Get the project's resources as a file
///
/// In YAML, with `${NAME}` in the place of secrets.
#[utoipa::path(
    get,
    path = "/api/v1/export",
    tag = "files",
    responses(
        (status = 200, description = "The file", body = String, content_type = "application/yaml"),
        (status = "4XX", response = Problem),
    )
)]
pub async fn export_file(
    State(api): State<Api>,
    access: Access<Read>,
) -> Result<Response, Problem> {
    let text = resources::export(&api.catalog_writer.current(), access.project);
    let text = text.ok_or_else(|| Problem::not_found("project"))?;
    let content_type = HeaderValue::from_static("application/yaml");
    Ok(([(header::CONTENT_TYPE, content_type)], text).into_response())
}
