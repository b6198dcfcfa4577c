//! API keys. A key is shown once, when it is made; we keep a hash.

use axum::{
    Json,
    extract::{Path, State},
    http::StatusCode,
};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::ResourcesQuery;
use crate::{
    api::{
        Api,
        page::{self, Listing, Page},
        request::{Access, Administer, Body, Query, Read, Right, parse_id, wrong_field},
    },
    catalog::{Catalog, Edit, Resource},
    crypto::PlainKey,
    model::{ApiKey, KeyId, Name, ProjectId, Scope},
    problem::{self, Problem},
};

#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct KeySpec {
    #[schema(value_type = String, example = "backend")]
    pub name: Name,
    /// What it may do; `admin` includes the others.
    pub scopes: Vec<Scope>,
    /// From this moment on it opens nothing.
    #[serde(default, deserialize_with = "crate::model::moment::optional")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub expires_at: Option<Timestamp>,
    /// It opens every project. Only such a key can make another.
    #[serde(default)]
    pub all_projects: bool,
}

/// An API key, without the key itself.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = Key)]
pub struct KeyView {
    #[schema(value_type = String)]
    pub id: KeyId,
    pub name: String,
    /// Null: every project.
    #[schema(value_type = Option<String>)]
    pub project: Option<ProjectId>,
    pub scopes: Vec<Scope>,
    /// The first characters of the key.
    pub hint: String,
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    #[schema(value_type = Option<String>, format = DateTime)]
    pub expires_at: Option<Timestamp>,
}

/// An API key that was made just now.
#[derive(Serialize, utoipa::ToSchema)]
#[schema(as = NewKey)]
pub struct NewKeyView {
    #[serde(flatten)]
    pub view: KeyView,
    /// The key itself. It is shown this once.
    pub key: String,
}

impl KeyView {
    fn of(it: &ApiKey) -> Self {
        Self {
            id: it.id,
            name: it.name.to_string(),
            project: it.project,
            scopes: it.scopes.clone(),
            hint: it.hint.clone(),
            created_at: it.created_at,
            expires_at: it.expires_at,
        }
    }
}

/// Whether a caller may see a key: those of the project, and those for all from one of them.
fn sees<R: Right>(access: &Access<R>, key: &ApiKey) -> bool {
    match key.project {
        Some(project) => project == access.project,
        None => access.session.caller.is_for_all_projects(),
    }
}

/// List API keys
#[utoipa::path(
    get,
    path = "/api/v1/keys",
    tag = "keys",
    params(ResourcesQuery),
    responses(
        (status = 200, description = "A page of them", body = Listing<KeyView>),
        (status = "4XX", response = Problem),
    )
)]
pub async fn list_keys(
    State(api): State<Api>,
    access: Access<Read>,
    Query(query): Query<ResourcesQuery>,
) -> Result<Page<KeyView>, Problem> {
    let catalog = api.catalog_writer.current();
    let seen = catalog.keys.iter().filter(|(_, it)| sees(&access, it));
    let seen = seen.map(|(id, it)| (*id, it.as_ref()));
    page::resources(seen, query.limit.as_deref(), query.cursor.as_deref(), KeyView::of)
}

/// Make an API key
///
/// The answer is the only one that shows it.
#[utoipa::path(
    post,
    path = "/api/v1/keys",
    tag = "keys",
    request_body = KeySpec,
    responses(
        (status = 201, description = "It opens from now on", body = NewKeyView),
        (status = "4XX", response = Problem),
    )
)]
pub async fn create_key(
    State(api): State<Api>,
    access: Access<Administer>,
    body: Body,
) -> Result<(StatusCode, Json<NewKeyView>), Problem> {
    let spec: KeySpec = body.read()?;
    if spec.all_projects && !access.session.caller.is_for_all_projects() {
        return Err(Problem::new(problem::Kind::Forbidden)
            .detail("only a key for all projects makes another one"));
    }
    if spec.scopes.is_empty() {
        let rule = "must have at least one scope: `ingest`, `read`, `operate` or `admin`";
        return Err(wrong_field("scopes", rule, "none"));
    }
    let now = api.clock.now();
    if spec.expires_at.is_some_and(|it| it <= now) {
        return Err(wrong_field("expires_at", "must be in the future", "another moment"));
    }
    let plain = PlainKey::generate(api.random.as_ref());
    let mut scopes = spec.scopes;
    let mut seen = Vec::new();
    scopes.retain(|it| {
        !seen.contains(it) && {
            seen.push(*it);
            true
        }
    });
    let key = ApiKey {
        id: KeyId::new(now, 0, api.random.u64()),
        project: (!spec.all_projects).then_some(access.project),
        name: spec.name,
        scopes,
        hash: api.hasher.hash(&plain),
        hint: plain.hint().to_owned(),
        created_at: now,
        expires_at: spec.expires_at,
    };
    let decide = |catalog: &Catalog| {
        let mut siblings = catalog.keys.values().filter(|it| it.project == key.project);
        if siblings.clone().count() >= super::MOST {
            return Err(Problem::new(problem::Kind::Conflict).detail("there are too many keys"));
        }
        if siblings.any(|it| it.name == key.name) {
            return Err(wrong_field(
                "name",
                "must not be the name of another key",
                "the name of another key",
            ));
        }
        Ok((vec![Edit::Put(Resource::Key(key.clone()))], ()))
    };
    api.catalog_writer.edit(decide).await?;
    let view = NewKeyView { view: KeyView::of(&key), key: plain.expose().to_owned() };
    Ok((StatusCode::CREATED, Json(view)))
}

/// Delete an API key
///
/// It opens nothing from this moment on.
#[utoipa::path(
    delete,
    path = "/api/v1/keys/{key}",
    tag = "keys",
    params(("key" = String, Path, description = "Its id")),
    responses(
        (status = 204, description = "It is gone"),
        (status = "4XX", response = Problem),
    )
)]
pub async fn delete_key(
    State(api): State<Api>,
    access: Access<Administer>,
    Path(key): Path<String>,
) -> Result<StatusCode, Problem> {
    let id: KeyId = parse_id("key", &key)?;
    let decide = |catalog: &Catalog| {
        let key = catalog.keys.get(&id).filter(|it| sees(&access, it));
        key.map(|_| (vec![Edit::DeleteKey(id)], ())).ok_or_else(|| Problem::not_found("key"))
    };
    api.catalog_writer.edit(decide).await?;
    Ok(StatusCode::NO_CONTENT)
}
