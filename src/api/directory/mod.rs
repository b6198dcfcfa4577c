//! The directory: what a project knows of people, companies and things of its own.

mod import;
mod rows;

use axum::{
    Json,
    extract::{Path, State},
    http::StatusCode,
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

pub use self::import::{__path_import_entities, import_entities};
use super::{
    Api,
    page::{Listing, Page, limit_of},
    request::{Access, Body, Operate, Query, Read, parse_word},
};
use crate::{
    enrich,
    model::{LookupSettings, Name, ProjectId, RawJson},
    problem::{Kind, Problem},
    store::{Entity, Upsert},
};

/// A row of the directory.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = DirectoryEntry)]
pub struct EntityView {
    pub key: String,
    #[schema(value_type = Object)]
    pub fields: RawJson,
    #[schema(value_type = String, format = DateTime)]
    pub updated_at: Timestamp,
}

impl EntityView {
    fn of(it: Entity) -> Self {
        Self { key: it.key, fields: it.fields, updated_at: it.updated_at }
    }
}

/// What was done with the rows of a request.
#[derive(Debug, Default, Serialize, utoipa::ToSchema)]
pub struct Imported {
    /// Rows that were kept.
    pub kept: u64,
    /// Rows that were not.
    pub refused: u64,
    /// Why, of the first hundred.
    pub errors: Vec<RowError>,
}

#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct RowError {
    /// From 1; of a list, the place in it.
    pub line: u64,
    pub rule: String,
}

impl Imported {
    const MOST_ERRORS: usize = 100;

    fn refuse(&mut self, line: u64, rule: impl Into<String>) {
        self.refused += 1;
        if self.errors.len() < Self::MOST_ERRORS {
            self.errors.push(RowError { line, rule: rule.into() });
        }
    }
}

#[derive(Clone, Copy, Debug, Default, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
enum Mode {
    /// A row's old fields go.
    #[default]
    Replace,
    /// A row's old fields stay, unless the new ones have the same names. Null takes a field away.
    Merge,
}

impl Mode {
    fn upsert(self) -> Upsert {
        match self {
            Self::Replace => Upsert::Replace,
            Self::Merge => Upsert::Merge,
        }
    }
}

#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct PutQuery {
    /// The field of a row that is its key: usually `email` of people, `domain` of companies, and `id`.
    key: Option<String>,
    /// `replace` (usual) or `merge`.
    mode: Option<String>,
}

#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ListQuery {
    /// 1 to 200, usually 50.
    #[param(value_type = Option<u32>)]
    limit: Option<String>,
    /// The `next` of the page before.
    cursor: Option<String>,
}

/// The table of this name, if rows can be put there.
fn table_named(api: &Api, project: ProjectId, name: &str) -> Result<Name, Problem> {
    let name: Name = name.parse().map_err(|_| Problem::not_found("table"))?;
    if enrich::BUILT_IN.contains(&name.as_str()) {
        return Ok(name);
    }
    match api.catalog_writer.current().lookup_named(project, name.as_str()).map(|it| &it.settings) {
        Some(LookupSettings::Table(_)) => Ok(name),
        Some(LookupSettings::Http(_) | LookupSettings::Postgres(_)) => {
            Err(Problem::new(Kind::Conflict).detail("this look-up has no rows of its own"))
        }
        None => Err(Problem::not_found("table")),
    }
}

/// List rows of the directory
///
/// In the order of their keys.
#[utoipa::path(
    get,
    path = "/api/v1/directory/{table}",
    tag = "directory",
    params(("table" = String, Path, description = "`people`, `companies`, or a look-up of kind `table`"), ListQuery),
    responses(
        (status = 200, description = "A page of them", body = Listing<EntityView>),
        (status = "4XX", response = Problem),
    )
)]
pub async fn list_entities(
    State(api): State<Api>,
    access: Access<Read>,
    Path(table): Path<String>,
    Query(query): Query<ListQuery>,
) -> Result<Page<EntityView>, Problem> {
    let table = table_named(&api, access.project, &table)?;
    let limit = limit_of(query.limit.as_deref())?;
    let after = match query.cursor.as_deref().filter(|it| !it.is_empty()) {
        None => String::new(),
        Some(cursor) => {
            let bytes = URL_SAFE_NO_PAD.decode(cursor).ok();
            bytes.and_then(|it| String::from_utf8(it).ok()).ok_or_else(|| {
                let rule = "must be the `next` of the previous page";
                Problem::invalid_field("query:cursor", rule, "another text")
            })?
        }
    };
    let mut rows = api.database.list_entities(access.project, &table, &after, limit + 1).await?;
    let has_more = rows.len() > limit;
    rows.truncate(limit);
    let next = rows.last().filter(|_| has_more).map(|it| URL_SAFE_NO_PAD.encode(&it.key));
    Ok(Json(Listing { data: rows.into_iter().map(EntityView::of).collect(), next }))
}

/// Put rows into the directory
///
/// The body is one row or a list of them, each an object with its key among its fields. Rows that are
/// wrong are left out, and the answer says why.
#[utoipa::path(
    post,
    path = "/api/v1/directory/{table}",
    tag = "directory",
    params(("table" = String, Path, description = "`people`, `companies`, or a look-up of kind `table`"), PutQuery),
    request_body(content = Object, description = "A row, or a list of rows"),
    responses(
        (status = 200, description = "What was kept", body = Imported),
        (status = "4XX", response = Problem),
    )
)]
pub async fn put_entities(
    State(api): State<Api>,
    access: Access<Operate>,
    Path(table): Path<String>,
    Query(query): Query<PutQuery>,
    body: Body,
) -> Result<Json<Imported>, Problem> {
    let table = table_named(&api, access.project, &table)?;
    let mode: Mode = parse_word("mode", query.mode.as_deref())?.unwrap_or_default();
    let key = rows::KeyField::of(&table, query.key.as_deref());
    let given = match body.read::<Value>()? {
        Value::Array(rows) => rows,
        row => vec![row],
    };
    let (mut imported, mut entities) = (Imported::default(), Vec::with_capacity(given.len()));
    for (row, line) in given.into_iter().zip(1..) {
        match key.entity(&table, row, api.clock.now()) {
            Ok(entity) => entities.push(entity),
            Err(rule) => imported.refuse(line, rule),
        }
    }
    imported.kept = entities.len() as u64;
    api.database.put_entities(access.project, &table, entities, mode.upsert()).await?;
    Ok(Json(imported))
}

/// Get a row of the directory
#[utoipa::path(
    get,
    path = "/api/v1/directory/{table}/entries/{key}",
    tag = "directory",
    params(
        ("table" = String, Path, description = "`people`, `companies`, or a look-up of kind `table`"),
        ("key" = String, Path, description = "Its key"),
    ),
    responses(
        (status = 200, description = "Its fields", body = Object),
        (status = "4XX", response = Problem),
    )
)]
pub async fn get_entity(
    State(api): State<Api>,
    access: Access<Read>,
    Path((table, key)): Path<(String, String)>,
) -> Result<Json<Value>, Problem> {
    let table = table_named(&api, access.project, &table)?;
    let key = enrich::normal_key(&table, &key);
    let found = api.database.find_entities(access.project, vec![(table, key)]).await?;
    let found = found.into_iter().next().flatten();
    found.map(|it| Json(it.to_value())).ok_or_else(|| Problem::not_found("row"))
}

/// Put a row into the directory
///
/// The body is its fields. With `mode=merge`, fields that it does not name stay.
#[utoipa::path(
    put,
    path = "/api/v1/directory/{table}/entries/{key}",
    tag = "directory",
    params(
        ("table" = String, Path, description = "`people`, `companies`, or a look-up of kind `table`"),
        ("key" = String, Path, description = "Its key"),
        PutQuery,
    ),
    request_body(content = Object, description = "Its fields"),
    responses(
        (status = 204, description = "It is kept"),
        (status = "4XX", response = Problem),
    )
)]
pub async fn put_entity(
    State(api): State<Api>,
    access: Access<Operate>,
    Path((table, key)): Path<(String, String)>,
    Query(query): Query<PutQuery>,
    body: Body,
) -> Result<StatusCode, Problem> {
    let table = table_named(&api, access.project, &table)?;
    let mode: Mode = parse_word("mode", query.mode.as_deref())?.unwrap_or_default();
    let fields: Map<String, Value> = body.read()?;
    let refused = |rule: String| Problem::invalid_field("path:key", rule, "another text");
    let key = rows::checked_key(&table, &key).map_err(refused)?;
    let fields = RawJson::of(&fields);
    let entity = Entity { key, fields, updated_at: api.clock.now() };
    api.database.put_entities(access.project, &table, vec![entity], mode.upsert()).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Remove a row from the directory
#[utoipa::path(
    delete,
    path = "/api/v1/directory/{table}/entries/{key}",
    tag = "directory",
    params(
        ("table" = String, Path, description = "`people`, `companies`, or a look-up of kind `table`"),
        ("key" = String, Path, description = "Its key"),
    ),
    responses(
        (status = 204, description = "It is gone"),
        (status = "4XX", response = Problem),
    )
)]
pub async fn delete_entity(
    State(api): State<Api>,
    access: Access<Operate>,
    Path((table, key)): Path<(String, String)>,
) -> Result<StatusCode, Problem> {
    let table = table_named(&api, access.project, &table)?;
    let key = enrich::normal_key(&table, &key);
    match api.database.remove_entities(access.project, &table, vec![key]).await? {
        0 => Err(Problem::not_found("row")),
        _ => Ok(StatusCode::NO_CONTENT),
    }
}
