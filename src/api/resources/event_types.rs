//! Event types, which document what sources send.

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
    model::{EventType, EventTypeId},
    problem::Problem,
    resources::{EventTypeSpec, Spec as _},
};

/// A registered type of event.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = EventType)]
pub struct EventTypeView {
    #[schema(value_type = String)]
    pub id: EventTypeId,
    #[serde(flatten)]
    pub spec: EventTypeSpec,
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
}

impl EventTypeView {
    fn of(it: &EventType) -> Self {
        Self { id: it.id, spec: EventTypeSpec::of(it), created_at: it.created_at }
    }
}

kept!(EventType, "event type", event_types);

impl Written for EventType {
    type Spec = EventTypeSpec;

    fn into_resource(self) -> Resource {
        Resource::EventType(self)
    }

    fn delete(id: EventTypeId) -> Edit {
        Edit::DeleteEventType(id)
    }

    fn user(&self, _: &Catalog) -> Option<String> {
        None
    }
}

/// List event types
#[utoipa::path(
    get,
    path = "/api/v1/event-types",
    tag = "event-types",
    params(ResourcesQuery),
    responses(
        (status = 200, description = "A page of them", body = Listing<EventTypeView>),
        (status = "4XX", response = Problem),
    )
)]
pub async fn list_event_types(
    State(api): State<Api>,
    access: Access<Read>,
    query: Query<ResourcesQuery>,
) -> Result<Page<EventTypeView>, Problem> {
    list(&api.registrar.current(), access.project, &query, EventTypeView::of)
}

/// Make an event type
#[utoipa::path(
    post,
    path = "/api/v1/event-types",
    tag = "event-types",
    request_body = EventTypeSpec,
    responses(
        (status = 201, description = "It is there", body = EventTypeView),
        (status = "4XX", response = Problem),
    )
)]
pub async fn create_event_type(
    State(api): State<Api>,
    access: Access<Administer>,
    body: Body,
) -> Result<(StatusCode, Json<EventTypeView>), Problem> {
    let made = create(&api, &access, &body).await?;
    Ok((StatusCode::CREATED, Json(EventTypeView::of(&made))))
}

/// Get an event type
#[utoipa::path(
    get,
    path = "/api/v1/event-types/{event_type}",
    tag = "event-types",
    params(("event_type" = String, Path, description = "Its name or id")),
    responses(
        (status = 200, description = "As it is", body = EventTypeView),
        (status = "4XX", response = Problem),
    )
)]
pub async fn get_event_type(
    State(api): State<Api>,
    access: Access<Read>,
    Path(event_type): Path<String>,
) -> Result<Json<EventTypeView>, Problem> {
    let catalog = api.registrar.current();
    Ok(Json(EventTypeView::of(find(&catalog, access.project, &event_type)?)))
}

/// Replace an event type
///
/// What the body leaves out has its default again.
#[utoipa::path(
    put,
    path = "/api/v1/event-types/{event_type}",
    tag = "event-types",
    params(("event_type" = String, Path, description = "Its name or id")),
    request_body = EventTypeSpec,
    responses(
        (status = 200, description = "As it is now", body = EventTypeView),
        (status = "4XX", response = Problem),
    )
)]
pub async fn put_event_type(
    State(api): State<Api>,
    access: Access<Administer>,
    Path(event_type): Path<String>,
    body: Body,
) -> Result<Json<EventTypeView>, Problem> {
    let changed = replace(&api, &access, &event_type, &body).await?;
    Ok(Json(EventTypeView::of(&changed)))
}

/// Delete an event type
///
/// Events of this type stay, and others may come.
#[utoipa::path(
    delete,
    path = "/api/v1/event-types/{event_type}",
    tag = "event-types",
    params(("event_type" = String, Path, description = "Its name or id")),
    responses(
        (status = 204, description = "It is gone"),
        (status = "4XX", response = Problem),
    )
)]
pub async fn delete_event_type(
    State(api): State<Api>,
    access: Access<Administer>,
    Path(event_type): Path<String>,
) -> Result<StatusCode, Problem> {
    delete::<EventType>(&api, access.project, &event_type).await?;
    Ok(StatusCode::NO_CONTENT)
}
