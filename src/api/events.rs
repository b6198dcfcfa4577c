//! Events, as people look for them. Posting them is `ingest`.

use axum::{
    Json,
    extract::{Path, State},
};
use serde::Deserialize;

use super::{
    Api,
    page::{self, Listing, Page},
    request::{Access, Query, Read, parse_id, parse_pattern, parse_time},
    resources::find,
    views::{EventDetailView, EventView, SYSTEM},
};
use crate::{
    catalog::Catalog,
    model::{Event, IdempotencyKey, ProjectId, Source, SourceId},
    problem::Problem,
    store::{EventFilter, EventRecord, PAGE_BYTES},
};

#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct EventsQuery {
    /// A type, or a group such as `user.*`.
    #[serde(rename = "type")]
    event_type: Option<String>,
    /// The name or id of a source, or `system`.
    source: Option<String>,
    /// The event with this idempotency key. It goes with no other filter.
    idempotency_key: Option<String>,
    /// Received at this moment or later.
    #[param(format = DateTime)]
    from: Option<String>,
    /// Received before this moment.
    #[param(format = DateTime)]
    until: Option<String>,
    /// `true`: with payloads.
    #[param(value_type = Option<bool>)]
    payload: Option<String>,
    /// 1 to 200, usually 50.
    #[param(value_type = Option<u32>)]
    limit: Option<String>,
    /// The `next` of the page before.
    cursor: Option<String>,
}

/// List events
///
/// Newest first. Large events come fewer to a page than its limit; `next` says whether there are more.
#[utoipa::path(
    get,
    path = "/api/v1/events",
    tag = "events",
    params(EventsQuery),
    responses(
        (status = 200, description = "A page of them", body = Listing<EventView>),
        (status = "4XX", response = Problem),
    )
)]
pub async fn list_events(
    State(api): State<Api>,
    access: Access<Read>,
    Query(query): Query<EventsQuery>,
) -> Result<Page<EventView>, Problem> {
    let catalog = access.session.catalog();
    let with_payload = query.payload.as_deref() == Some("true");
    let view = |view: EventView| if with_payload { view } else { view.without_payload() };
    if let Some(key) = query.idempotency_key.as_deref() {
        let found = by_key(&api, access.project, key).await?;
        let data = found.iter().map(|it| view(EventView::of(&it.event, catalog))).collect();
        return Ok(Json(Listing { data, next: None }));
    }
    let filter = EventFilter {
        event_type: parse_pattern("type", query.event_type.as_deref())?,
        source: source(catalog, access.project, query.source.as_deref())?,
        from: parse_time("from", query.from.as_deref())?,
        until: parse_time("until", query.until.as_deref())?,
    };
    let page = page::page_of_records(query.limit.as_deref(), query.cursor.as_deref())?;
    let events = api.database.events(access.project, &filter, page::one_more(page)).await?;
    let page = page::within_bytes(&events, page, Event::weight);
    Ok(page::records(events, page, |it| (it.seq.0, 0), |it| view(EventView::of(&it, catalog))))
}

/// The source that a filter names.
pub fn source(
    catalog: &Catalog,
    project: ProjectId,
    named: Option<&str>,
) -> Result<Option<SourceId>, Problem> {
    let Some(named) = named.filter(|it| !it.is_empty()) else { return Ok(None) };
    match find::<Source>(catalog, project, named) {
        Err(_) if named == SYSTEM => Ok(Some(SourceId::SYSTEM)),
        found => Ok(Some(found?.id)),
    }
}

/// Get an event
///
/// With its plan: what was skipped and why, and each delivery with its activity log.
#[utoipa::path(
    get,
    path = "/api/v1/events/{event}",
    tag = "events",
    params(("event" = String, Path, description = "`evt_…`")),
    responses(
        (status = 200, description = "The event", body = EventDetailView),
        (status = "4XX", response = Problem),
    )
)]
pub async fn get_event(
    State(api): State<Api>,
    access: Access<Read>,
    Path(event): Path<String>,
) -> Result<Json<EventDetailView>, Problem> {
    /// An event that was replayed often has many; the logs of the others are their own pages.
    const LOGS: usize = 100;
    let mut bytes = 0;
    let mut record = find_event(&api, access.project, &event).await?;
    for delivery in record.deliveries.iter_mut().rev().take(LOGS) {
        if let Some(whole) = api.database.delivery(access.project, delivery.seq).await? {
            bytes += whole.copy.as_ref().map_or(0, |it| it.weight());
            *delivery = whole;
        }
        if bytes > PAGE_BYTES {
            break;
        }
    }
    Ok(Json(EventDetailView::of(&record, access.session.catalog())))
}

/// The event with this id, if it is the project's.
pub async fn find_event(api: &Api, project: ProjectId, id: &str) -> Result<EventRecord, Problem> {
    let id = parse_id("event", id)?;
    let record = api.database.event(project, id).await?;
    record.filter(|it| it.event.id == id).ok_or_else(|| Problem::not_found("event"))
}

async fn by_key(api: &Api, project: ProjectId, key: &str) -> Result<Option<EventRecord>, Problem> {
    let key: IdempotencyKey = key.parse().map_err(|error: crate::model::TextError| {
        Problem::invalid_field("query:idempotency_key", error.rule, "another text")
    })?;
    Ok(api.database.event_by_key(project, &key).await?)
}
