//! Deliveries, dead letters, and the activity log of a project.

use axum::{
    Json,
    extract::{Path, State},
    http::StatusCode,
};
use serde::Deserialize;

use super::{
    Api,
    page::{self, Listing, Page},
    request::{Access, Operate, Query, Read, parse_id, parse_pattern, parse_time, parse_word},
    resources::find,
    views::{AttemptView, DeliveryView},
};
use crate::{
    catalog::Catalog,
    model::{DeliveryId, DeliveryState, Destination, DestinationId, ProjectId, Selection},
    problem::{Kind, Problem},
    store::{ActivityFilter, DeliveryRecord, OwedQuery},
};

#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct DeliveriesQuery {
    /// The name or id of a destination.
    destination: Option<String>,
    #[param(value_type = Option<DeliveryState>)]
    state: Option<String>,
    /// An event type, or a group such as `user.*`.
    #[serde(rename = "type")]
    event_type: Option<String>,
    /// Of events received at this moment or later.
    #[param(format = DateTime)]
    from: Option<String>,
    /// Of events received before this moment.
    #[param(format = DateTime)]
    until: Option<String>,
    /// 1 to 200, usually 50.
    #[param(value_type = Option<u32>)]
    limit: Option<String>,
    /// The `next` of the page before.
    cursor: Option<String>,
}

impl DeliveriesQuery {
    fn selection(&self, catalog: &Catalog, project: ProjectId) -> Result<Selection, Problem> {
        Ok(Selection {
            destination: destination(catalog, project, self.destination.as_deref())?,
            state: parse_word("state", self.state.as_deref())?,
            event_type: parse_pattern("type", self.event_type.as_deref())?,
            from: parse_time("from", self.from.as_deref())?,
            until: parse_time("until", self.until.as_deref())?,
        })
    }
}

/// The destination that a filter names. An id may be that of one that was deleted: its deliveries are
/// still there, and other projects' are not shown anyway.
pub fn destination(
    catalog: &Catalog,
    project: ProjectId,
    named: Option<&str>,
) -> Result<Option<DestinationId>, Problem> {
    let Some(named) = named.filter(|it| !it.is_empty()) else { return Ok(None) };
    match named.parse() {
        Ok(id) => Ok(Some(id)),
        Err(_) => Ok(Some(find::<Destination>(catalog, project, named)?.id)),
    }
}

/// List deliveries
///
/// Those of the newest event first.
#[utoipa::path(
    get,
    path = "/api/v1/deliveries",
    tag = "deliveries",
    params(DeliveriesQuery),
    responses(
        (status = 200, description = "A page of them", body = Listing<DeliveryView>),
        (status = "4XX", response = Problem),
    )
)]
pub async fn list_deliveries(
    State(api): State<Api>,
    access: Access<Read>,
    Query(query): Query<DeliveriesQuery>,
) -> Result<Page<DeliveryView>, Problem> {
    let state = parse_word("state", query.state.as_deref())?;
    listed(&api, &access, &query, &[state]).await
}

/// List dead letters
///
/// Deliveries that were given up: dead and expired ones, but for those that were replayed. With `state`, only
/// `dead` or only `expired` ones.
#[utoipa::path(
    get,
    path = "/api/v1/dead-letters",
    tag = "deliveries",
    params(DeliveriesQuery),
    responses(
        (status = 200, description = "A page of them", body = Listing<DeliveryView>),
        (status = "4XX", response = Problem),
    )
)]
pub async fn list_dead_letters(
    State(api): State<Api>,
    access: Access<Read>,
    Query(query): Query<DeliveriesQuery>,
) -> Result<Page<DeliveryView>, Problem> {
    const BOTH: &[DeliveryState] = &[DeliveryState::Dead, DeliveryState::Expired];
    let state: Option<DeliveryState> = parse_word("state", query.state.as_deref())?;
    let states: Vec<_> = BOTH
        .iter()
        .filter(|it| state.is_none_or(|asked| asked == **it))
        .map(|it| Some(*it))
        .collect();
    if states.is_empty() {
        let rule = "must be `dead` or `expired`: other deliveries are no dead letters";
        return Err(Problem::invalid_field("query:state", rule, "another state"));
    }
    listed(&api, &access, &query, &states).await
}

async fn listed(
    api: &Api,
    access: &Access<Read>,
    query: &DeliveriesQuery,
    states: &[Option<DeliveryState>],
) -> Result<Page<DeliveryView>, Problem> {
    let catalog = access.session.catalog();
    let mut selection = query.selection(catalog, access.project)?;
    let page = page::page_of_records(query.limit.as_deref(), query.cursor.as_deref())?;
    let wanted = page::one_more(page);
    let mut found = Vec::new();
    for state in states {
        selection.state = *state;
        found.extend(api.database.deliveries(access.project, &selection, wanted).await?);
    }
    // From new to old, as each of the lists is.
    found.sort_by_key(|it| std::cmp::Reverse(it.seq));
    found.truncate(wanted.limit);
    Ok(page::records(found, page, |it| (it.seq.bits(), 0), |it| DeliveryView::of(&it, catalog)))
}

/// Get a delivery
///
/// With its activity log.
#[utoipa::path(
    get,
    path = "/api/v1/deliveries/{delivery}",
    tag = "deliveries",
    params(("delivery" = String, Path, description = "`dlv_…`")),
    responses(
        (status = 200, description = "The delivery", body = DeliveryView),
        (status = "4XX", response = Problem),
    )
)]
pub async fn get_delivery(
    State(api): State<Api>,
    access: Access<Read>,
    Path(delivery): Path<String>,
) -> Result<Json<DeliveryView>, Problem> {
    let record = find_delivery(&api, access.project, &delivery).await?;
    Ok(Json(DeliveryView::of(&record, access.session.catalog())))
}

/// The delivery with this id, if it is the project's.
pub async fn find_delivery(
    api: &Api,
    project: ProjectId,
    id: &str,
) -> Result<DeliveryRecord, Problem> {
    let id: DeliveryId = parse_id("delivery", id)?;
    let found = api.database.delivery_by_id(project, id).await?;
    found.ok_or_else(|| Problem::not_found("delivery"))
}

/// Cancel a delivery
///
/// It is attempted no more. One that is being attempted at this moment is cancelled if that attempt fails.
#[utoipa::path(
    post,
    path = "/api/v1/deliveries/{delivery}/cancel",
    tag = "deliveries",
    params(("delivery" = String, Path, description = "`dlv_…`")),
    responses(
        (status = 202, description = "It will be; this is how it was", body = DeliveryView),
        (status = "4XX", response = Problem),
    )
)]
pub async fn cancel_delivery(
    State(api): State<Api>,
    access: Access<Operate>,
    Path(delivery): Path<String>,
) -> Result<(StatusCode, Json<DeliveryView>), Problem> {
    let record = find_delivery(&api, access.project, &delivery).await?;
    let owed = api.database.owed(OwedQuery::These(vec![record.seq])).await?;
    if owed.is_empty() {
        return Err(Problem::new(Kind::Conflict).detail("the delivery has ended already"));
    }
    api.dispatch.cancel(owed).await;
    let view = DeliveryView::of(&record, access.session.catalog());
    Ok((StatusCode::ACCEPTED, Json(view)))
}

#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct AttemptsQuery {
    /// The name or id of a destination.
    destination: Option<String>,
    /// An event type, or a group such as `user.*`.
    #[serde(rename = "type")]
    event_type: Option<String>,
    /// What came of it.
    #[param(value_type = Option<crate::model::Class>)]
    class: Option<String>,
    /// `true`: only attempts that failed.
    #[param(value_type = Option<bool>)]
    failed: Option<String>,
    /// At this moment or later.
    #[param(format = DateTime)]
    from: Option<String>,
    /// Before this moment.
    #[param(format = DateTime)]
    until: Option<String>,
    /// 1 to 200, usually 50.
    #[param(value_type = Option<u32>)]
    limit: Option<String>,
    /// The `next` of the page before.
    cursor: Option<String>,
}

/// List attempts
///
/// The activity log of the project: each attempt, and each end without one. Newest first.
#[utoipa::path(
    get,
    path = "/api/v1/attempts",
    tag = "deliveries",
    params(AttemptsQuery),
    responses(
        (status = 200, description = "A page of them", body = Listing<AttemptView>),
        (status = "4XX", response = Problem),
    )
)]
pub async fn list_attempts(
    State(api): State<Api>,
    access: Access<Read>,
    Query(query): Query<AttemptsQuery>,
) -> Result<Page<AttemptView>, Problem> {
    let catalog = access.session.catalog();
    let filter = ActivityFilter {
        event_type: parse_pattern("type", query.event_type.as_deref())?,
        destination: destination(catalog, access.project, query.destination.as_deref())?,
        class: parse_word("class", query.class.as_deref())?,
        failed_only: query.failed.as_deref() == Some("true"),
        from: parse_time("from", query.from.as_deref())?,
        until: parse_time("until", query.until.as_deref())?,
    };
    let page = page::page_of_records(query.limit.as_deref(), query.cursor.as_deref())?;
    let found = api.database.activity(access.project, &filter, page::one_more(page)).await?;
    let place = |it: &crate::store::ActivityRecord| (it.entry.delivery.bits(), it.entry.number);
    Ok(page::records(found, page, place, |it| AttemptView::of(&it, catalog)))
}
