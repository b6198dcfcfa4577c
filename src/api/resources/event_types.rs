//! Event types: those that people registered, and those that traffic has shown.

use std::{collections::BTreeMap, sync::Arc};

use axum::{
    Json,
    extract::{Path, State},
    http::StatusCode,
};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{ProjectResource as _, SpecResource, create, delete, find, replace};
use crate::{
    api::{
        Api,
        page::{self, Listing, Page},
        request::{Access, Administer, Body, Query, Read, parse},
    },
    catalog::{Catalog, Edit, Resource},
    model::{EventType, EventTypeId, ProjectId, TypeName},
    problem::Problem,
    resources::{EventTypeSpec, Spec as _},
    schema::{
        Learned,
        learned::{Type, TypeCounts},
    },
};

/// A type of event: registered, or known from traffic alone.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = EventType)]
pub struct EventTypeView {
    /// Null while it is not registered.
    #[schema(value_type = Option<String>)]
    pub id: Option<EventTypeId>,
    #[serde(flatten)]
    pub spec: EventTypeSpec,
    /// `false`: nobody described it, and it is known from traffic alone.
    pub registered: bool,
    #[schema(value_type = Option<String>, format = DateTime)]
    pub created_at: Option<Timestamp>,
    /// How often it came; null when it never did, or not for 90 days. A crash loses the last minute of it.
    pub traffic: Option<TypeCounts>,
}

impl EventTypeView {
    pub(super) fn of(it: &EventType, learned: &Learned) -> Self {
        Self {
            id: Some(it.id),
            spec: EventTypeSpec::of(it),
            registered: true,
            created_at: Some(it.created_at),
            traffic: learned.get(it.project, &it.name).map(|it| it.counts()),
        }
    }

    fn of_learned(name: TypeName, learned: &Type) -> Self {
        Self {
            id: None,
            spec: EventTypeSpec::named(name),
            registered: false,
            created_at: None,
            traffic: Some(learned.counts()),
        }
    }
}

/// The type with this name or id: its name, and the resource if it is registered.
pub(super) fn named(
    catalog: &Catalog,
    api: &Api,
    project: ProjectId,
    name_or_id: &str,
) -> Result<(TypeName, Option<Arc<EventType>>), Problem> {
    let not_found = match find::<EventType>(catalog, project, name_or_id) {
        Ok(found) => return Ok((found.name.clone(), Some(found.clone()))),
        Err(problem) => problem,
    };
    let name = name_or_id.parse().ok();
    let known = name.filter(|it| api.ingest.learned().get(project, it).is_some());
    known.map(|it| (it, None)).ok_or(not_found)
}

#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct EventTypesQuery {
    /// 1 to 200, usually 50.
    #[param(value_type = Option<u32>)]
    limit: Option<String>,
    /// The `next` of the page before.
    cursor: Option<String>,
    /// `true`: only those that are registered. `false`: only the others.
    #[param(value_type = Option<bool>)]
    registered: Option<String>,
}

kept!(EventType, "event type", event_types);

impl SpecResource for EventType {
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
///
/// By name: those that are registered, and those that are known from traffic (`registered: false`).
#[utoipa::path(
    get,
    path = "/api/v1/event-types",
    tag = "event-types",
    params(EventTypesQuery),
    responses(
        (status = 200, description = "A page of them", body = Listing<EventTypeView>),
        (status = "4XX", response = Problem),
    )
)]
pub async fn list_event_types(
    State(api): State<Api>,
    access: Access<Read>,
    Query(query): Query<EventTypesQuery>,
) -> Result<Page<EventTypeView>, Problem> {
    let wanted = parse::<bool>("registered", query.registered.as_deref(), "it is true or false")?;
    let (catalog, learned) = (api.catalog_writer.current(), api.ingest.learned());
    let registered = catalog.event_types.values().filter(|it| it.project == access.project);
    let mut all: BTreeMap<TypeName, Entry> = BTreeMap::new();
    if wanted != Some(true) {
        let types = learned.all(access.project).into_iter();
        all.extend(types.map(|(name, it)| (name, Entry::Learned(it))));
    }
    for it in registered {
        match wanted {
            Some(false) => drop(all.remove(&it.name)),
            Some(true) | None => drop(all.insert(it.name.clone(), Entry::Registered(it.clone()))),
        }
    }
    let (limit, cursor) = (query.limit.as_deref(), query.cursor.as_deref());
    page::named(all, limit, cursor, |name, entry| match entry {
        Entry::Registered(it) => EventTypeView::of(&it, learned),
        Entry::Learned(it) => EventTypeView::of_learned(name, &it),
    })
}

enum Entry {
    Registered(Arc<EventType>),
    Learned(Arc<Type>),
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
    Ok((StatusCode::CREATED, Json(EventTypeView::of(&made, api.ingest.learned()))))
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
    let catalog = api.catalog_writer.current();
    let (name, registered) = named(&catalog, &api, access.project, &event_type)?;
    let learned = api.ingest.learned();
    match (registered, learned.get(access.project, &name)) {
        (Some(it), _) => Ok(Json(EventTypeView::of(&it, learned))),
        (None, Some(it)) => Ok(Json(EventTypeView::of_learned(name, &it))),
        (None, None) => Err(Problem::not_found(EventType::WORD)),
    }
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
    Ok(Json(EventTypeView::of(&changed, api.ingest.learned())))
}

/// Delete an event type
///
/// Events of this type stay, and others may come. What is known of it from traffic stays, too.
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
