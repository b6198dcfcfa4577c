//! An upload of rows, taken as it comes: it may be of any size, and is never in memory as a whole.

use axum::{
    Json,
    extract::{Path, Request, State},
    http::header,
};
use futures_util::StreamExt as _;

use super::{
    Imported, Mode, PutQuery,
    rows::{KeyField, UploadFormat, UploadReader},
    table_named,
};
use crate::{
    api::{
        Api,
        request::{Access, Operate, Query, parse_word},
    },
    model::{Name, ProjectId},
    problem::{Kind, Problem},
    store::{Entity, Upsert},
};

/// Rows that are kept in one transaction.
const BATCH: usize = 500;

/// Import rows into the directory
///
/// The body is lines of JSON (`application/x-ndjson`) or CSV with a header (`text/csv`), of any length.
/// It is kept as it comes, some hundred rows at a time: an upload that breaks off keeps what came before.
/// Rows that are wrong are left out, and the answer says which and why.
#[utoipa::path(
    post,
    path = "/api/v1/directory/{table}/import",
    tag = "directory",
    params(("table" = String, Path, description = "`people`, `companies`, or a look-up of kind `table`"), PutQuery),
    request_body(content(
        (String = "application/x-ndjson"),
        (String = "text/csv"),
    )),
    responses(
        (status = 200, description = "What was kept", body = Imported),
        (status = "4XX", response = Problem),
    )
)]
pub async fn import_entities(
    State(api): State<Api>,
    access: Access<Operate>,
    Path(table): Path<String>,
    Query(query): Query<PutQuery>,
    request: Request,
) -> Result<Json<Imported>, Problem> {
    let table = table_named(&api, access.project, &table)?;
    let mode: Mode = parse_word("mode", query.mode.as_deref())?.unwrap_or_default();
    let mut import = Import {
        key: KeyField::of(&table, query.key.as_deref()),
        api,
        project: access.project,
        table,
        how: mode.upsert(),
        reader: UploadReader::new(format(&request)?),
        entities: Vec::with_capacity(BATCH),
        imported: Imported::default(),
    };
    let mut body = request.into_body().into_data_stream();
    while let Some(chunk) = body.next().await {
        let chunk = chunk.map_err(|_| Problem::new(Kind::InvalidBody))?;
        import.take(&chunk, false).await?;
    }
    import.take(&[], true).await?;
    import.keep().await?;
    Ok(Json(import.imported))
}

fn format(request: &Request) -> Result<UploadFormat, Problem> {
    if request.headers().contains_key(header::CONTENT_ENCODING) {
        return Err(Problem::new(Kind::UnsupportedEncoding));
    }
    let content_type = request.headers().get(header::CONTENT_TYPE);
    let content_type = content_type.and_then(|it| it.to_str().ok()).unwrap_or_default();
    match content_type.split(';').next().unwrap_or_default().trim() {
        "text/csv" => Ok(UploadFormat::Csv),
        "application/x-ndjson" | "application/jsonl" => Ok(UploadFormat::Lines),
        _ => {
            let rule = "must be `application/x-ndjson` or `text/csv`";
            Err(Problem::invalid_field("header:content-type", rule, "another type"))
        }
    }
}

struct Import {
    api: Api,
    project: ProjectId,
    table: Name,
    key: KeyField,
    how: Upsert,
    reader: UploadReader,
    entities: Vec<Entity>,
    imported: Imported,
}

impl Import {
    async fn take(&mut self, bytes: &[u8], is_end: bool) -> Result<(), Problem> {
        self.reader.push(bytes);
        loop {
            let (line, row) = match self.reader.next(is_end) {
                Ok(Some(row)) => row,
                Ok(None) => return Ok(()),
                Err(too_long) => {
                    let detail = format!(
                        "line {} is too long; {} rows before it were kept",
                        too_long.line, self.imported.kept
                    );
                    return Err(Problem::new(Kind::InvalidRequest).detail(detail));
                }
            };
            let now = self.api.clock.now();
            match row.and_then(|row| self.key.entity(&self.table, row, now)) {
                Ok(entity) => self.entities.push(entity),
                Err(rule) => self.imported.refuse(line, rule),
            }
            if self.entities.len() >= BATCH {
                self.keep().await?;
            }
        }
    }

    async fn keep(&mut self) -> Result<(), Problem> {
        let entities = std::mem::take(&mut self.entities);
        let count = entities.len() as u64;
        let kept = self.api.database.put_entities(self.project, &self.table, entities, self.how);
        kept.await?;
        self.imported.kept += count;
        Ok(())
    }
}
