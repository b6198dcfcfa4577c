//! Events as lines of JSON, for whoever wants them outside.

use std::{collections::VecDeque, sync::Arc};

use axum::{
    body::Body,
    extract::State,
    http::{HeaderValue, header},
    response::{IntoResponse, Response},
};
use bytes::{BufMut as _, Bytes, BytesMut};
use futures_util::stream;
use serde::Deserialize;
use serde_json::json;

use super::{
    Api,
    events::source,
    request::{Access, Query, Read, parse_pattern, parse_time},
    stay::Stay,
    views::EventView,
};
use crate::{
    catalog::Catalog,
    model::{Event, EventSeq, ProjectId, RawJson},
    problem::Problem,
    store::{EventFilter, StoreError},
};

#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ExportQuery {
    /// A type, or a group such as `user.*`.
    #[serde(rename = "type")]
    event_type: Option<String>,
    /// The name or id of a source.
    source: Option<String>,
    /// Received at this moment or later.
    #[param(format = DateTime)]
    from: Option<String>,
    /// Received before this moment.
    #[param(format = DateTime)]
    until: Option<String>,
}

/// Export events
///
/// All of them, oldest first, each as a line of JSON. The stream goes on for as long as there are any; an
/// error in the middle of it breaks the connection, so that half is never taken for the whole. Where the API
/// key is deleted, expires or loses its scope meanwhile, the last line before that is an object with `error`.
#[utoipa::path(
    get,
    path = "/api/v1/events/export",
    tag = "events",
    params(ExportQuery),
    responses(
        (status = 200, description = "A line for each, as `Event`", body = String, content_type = "application/x-ndjson"),
        (status = "4XX", response = Problem),
    )
)]
pub async fn export_events(
    State(api): State<Api>,
    access: Access<Read>,
    Query(query): Query<ExportQuery>,
) -> Result<Response, Problem> {
    let catalog = access.session.catalog().clone();
    let filter = EventFilter {
        event_type: parse_pattern("type", query.event_type.as_deref())?,
        source: source(&catalog, access.project, query.source.as_deref())?,
        from: parse_time("from", query.from.as_deref())?,
        until: parse_time("until", query.until.as_deref())?,
    };
    let export = Export {
        stay: Stay::of(&api, &access),
        has_ended: false,
        api,
        project: access.project,
        filter,
        catalog,
        after: EventSeq(0),
        read: VecDeque::new(),
    };
    let chunks = stream::try_unfold(export, |mut export| async move {
        let chunk = export.next().await?;
        Ok::<_, Broken>(chunk.map(|chunk| (chunk, export)))
    });
    let content_type = HeaderValue::from_static("application/x-ndjson");
    Ok(([(header::CONTENT_TYPE, content_type)], Body::from_stream(chunks)).into_response())
}

/// How far an export has come. It holds one page of events at most.
struct Export {
    api: Api,
    project: ProjectId,
    filter: EventFilter,
    catalog: Arc<Catalog>,
    after: EventSeq,
    read: VecDeque<Event>,
    stay: Stay,
    has_ended: bool,
}

/// Between the line that says why an export ends, and its end.
const LAST_WORD: std::time::Duration = std::time::Duration::from_secs(1);

/// Why an export breaks off.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the reader may read no more")]
    Refused,
}

impl Export {
    async fn next(&mut self) -> Result<Option<Bytes>, Broken> {
        const PAGE: usize = 256;
        const CHUNK_BYTES: usize = 64 * 1024;
        if self.has_ended {
            // What is broken off loses what was not written yet: the last line gets a moment to go out.
            tokio::time::sleep(LAST_WORD).await;
            return Err(Broken::Refused);
        }
        if let Some(reason) = self.stay.refusal() {
            // Its last line says why, before the connection is broken.
            self.has_ended = true;
            let line = json!({ "error": format!("the export ends here: {reason}") });
            return Ok(Some(format!("{line}\n").into()));
        }
        if self.read.is_empty() {
            let database = &self.api.database;
            let page = database.events_behind(self.project, &self.filter, self.after, PAGE).await?;
            self.read = page.into();
        }
        if self.read.is_empty() {
            return Ok(None);
        }
        let mut lines = BytesMut::with_capacity(CHUNK_BYTES).writer();
        while lines.get_ref().len() < CHUNK_BYTES
            && let Some(event) = self.read.pop_front()
        {
            self.after = event.seq;
            // It cannot fail: memory takes everything, and our own types serialise.
            let _ = serde_json::to_writer(&mut lines, &line(&event, &self.catalog));
            lines.get_mut().put_u8(b'\n');
        }
        Ok(Some(lines.into_inner().freeze()))
    }
}

/// An event in one line: where JSON has a line break between two values, it gets a space.
fn line(event: &Event, catalog: &Catalog) -> EventView {
    let mut view = EventView::of(event, catalog);
    view.metadata = view.metadata.in_one_line();
    view.payload = view.payload.map(RawJson::in_one_line);
    view
}
