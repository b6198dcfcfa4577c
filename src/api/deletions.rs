//! People who want to be forgotten.

use axum::{
    Json,
    extract::{Path, State},
    http::StatusCode,
};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{
    Api,
    page::{self, Listing, Page},
    request::{Access, Administer, Body, Query, Read, parse_id, wrong_field},
    resources::ResourcesQuery,
};
use crate::{
    catalog::{Catalog, Edit, Resource},
    deletions::{ENDED_KEPT, OPEN_AT_MOST, SUPPRESSED_AT_MOST, event_id},
    model::{Deletion, DeletionId, DeletionState, EventId, Person, ProjectId, Then},
    problem::{Kind, Problem},
};

/// Who is to be forgotten, and how far.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DeletionSpec {
    /// The user's id, as it stands in events. 1 to 1024 bytes.
    user_id: String,
    /// Where it stands: a path into the payload, such as `user.id`, of at most 8 names. Without it,
    /// `userId` or `user_id` at the payload's top.
    #[serde(default)]
    field: Option<String>,
    /// What is done beside telling the destinations.
    #[serde(default)]
    then: Then,
}

/// A request to forget a user, and how far it has come.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = Deletion)]
pub struct DeletionView {
    #[schema(value_type = String)]
    pub id: DeletionId,
    pub user_id: String,
    pub field: Option<String>,
    pub then: Then,
    pub state: DeletionState,
    /// Whether events of this user are turned away, until the request is deleted.
    pub suppressing: bool,
    /// How many destinations were notified.
    pub notified: u64,
    /// The event that notified them. Null before, and when there was nobody to tell.
    #[schema(value_type = Option<String>)]
    pub event_id: Option<EventId>,
    /// How many events have lost their bodies.
    pub erased_events: u64,
    /// How many deliveries of the user's events were cancelled, since they were still owed.
    pub cancelled_deliveries: u64,
    /// How many attempts with events of the user were under way when the request was accepted, and may have
    /// arrived after it. Where several nodes deliver, those of the node that was asked.
    pub in_flight_deliveries: u64,
    /// The part of all events that was looked at, from 0 to 1. Null when nothing is to be erased.
    pub progress: Option<f64>,
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    #[schema(value_type = Option<String>, format = DateTime)]
    pub ended_at: Option<Timestamp>,
}

impl DeletionView {
    fn of(it: &Deletion) -> Self {
        let progress = match it.state {
            DeletionState::Done => 1.0,
            DeletionState::Notifying | DeletionState::Waiting | DeletionState::Cancelled => 0.0,
            DeletionState::Erasing => (it.cursor as f64 / it.until.max(1) as f64).min(1.0),
        };
        Self {
            id: it.id,
            user_id: it.person.user_id.clone(),
            field: it.person.field.clone(),
            then: it.then,
            state: it.state,
            suppressing: it.suppresses(),
            notified: it.notified,
            event_id: (it.notified > 0).then(|| event_id(it.id, 0)),
            erased_events: it.erased,
            cancelled_deliveries: it.cancelled,
            in_flight_deliveries: it.in_flight,
            progress: it.erases().then_some(progress),
            created_at: it.created_at,
            ended_at: it.ended_at,
        }
    }
}

/// Forget a user
///
/// Every webhook destination that a pipeline routes to gets one event `delete`, in its usual order; no
/// trigger, condition or step has a say in it. `then` says what is done beside that. It happens in the
/// background. From the moment of the answer on, no event of the user goes out that was accepted before: what
/// waits is cancelled, retries and replays included, and what is under way is counted in
/// `in_flight_deliveries`.
#[utoipa::path(
    post,
    path = "/api/v1/deletions",
    tag = "deletions",
    request_body = DeletionSpec,
    responses(
        (status = 202, description = "It has begun", body = DeletionView),
        (status = "4XX", response = Problem),
    )
)]
pub async fn create_deletion(
    State(api): State<Api>,
    access: Access<Administer>,
    body: Body,
) -> Result<(StatusCode, Json<DeletionView>), Problem> {
    let spec: DeletionSpec = body.read()?;
    let person = person(spec.user_id, spec.field)?;
    let now = api.clock.now();
    let mut deletion = Deletion {
        id: DeletionId::new(now, 0, api.random.u64()),
        project: access.project,
        person,
        then: spec.then,
        state: DeletionState::Notifying,
        notified: 0,
        erased: 0,
        cancelled: 0,
        in_flight: 0,
        cursor: 0,
        until: 0,
        created_at: now,
        ended_at: None,
    };
    api.catalog_writer.edit(|catalog| Ok::<_, Problem>((added(catalog, &deletion)?, ()))).await?;
    // From here on nothing more of the user goes out. What is on its way is counted, and reported.
    deletion.in_flight = api.dispatch.under_way_about(deletion.project, &deletion.person);
    if deletion.in_flight > 0 {
        let (id, in_flight) = (deletion.id, deletion.in_flight);
        let decide = |catalog: &Catalog| {
            let found = catalog.deletions.get(&id).map(|it| Deletion::clone(it));
            let edit = found.map(|it| Edit::Put(Resource::Deletion(Deletion { in_flight, ..it })));
            Ok::<_, Problem>((edit.into_iter().collect(), ()))
        };
        api.catalog_writer.edit(decide).await?;
    }
    Ok((StatusCode::ACCEPTED, Json(DeletionView::of(&deletion))))
}

fn person(user_id: String, field: Option<String>) -> Result<Person, Problem> {
    if user_id.is_empty() || user_id.len() > Person::LONGEST {
        return Err(wrong_field("user_id", "must have 1 to 1024 bytes", "another length"));
    }
    if let Some(path) = &field {
        let names: Vec<&str> = path.split('.').collect();
        let is_path = names.len() <= Person::DEEPEST
            && names.iter().all(|it| !it.is_empty() && it.len() <= 128);
        if !is_path {
            let rule = "must be a path of 1 to 8 names, such as `user.id`";
            return Err(wrong_field("field", rule, "another text"));
        }
    }
    Ok(Person { user_id, field })
}

/// The edits that add a request, and let go of the oldest ended ones when there are many.
fn added(catalog: &Catalog, deletion: &Deletion) -> Result<Vec<Edit>, Problem> {
    let own = || catalog.deletions.values().filter(|it| it.project == deletion.project);
    let conflict = |detail| Err(Problem::new(Kind::Conflict).detail(detail));
    if own().filter(|it| !it.has_ended()).count() >= OPEN_AT_MOST {
        return conflict("1000 other requests wait or are under way: wait for some to end");
    }
    let suppressing = own().filter(|it| it.suppresses()).count();
    if deletion.suppresses() && suppressing >= SUPPRESSED_AT_MOST {
        return conflict("10,000 users are suppressed: lift some first");
    }
    let ended: Vec<_> = own().filter(|it| it.has_ended() && !it.suppresses()).collect();
    let too_many = (ended.len() + 1).saturating_sub(ENDED_KEPT);
    let mut edits: Vec<_> =
        ended.iter().take(too_many).map(|it| Edit::DeleteDeletion(it.id)).collect();
    edits.push(Edit::Put(Resource::Deletion(deletion.clone())));
    Ok(edits)
}

/// List deletions
#[utoipa::path(
    get,
    path = "/api/v1/deletions",
    tag = "deletions",
    params(ResourcesQuery),
    responses(
        (status = 200, description = "A page of them, oldest first", body = Listing<DeletionView>),
        (status = "4XX", response = Problem),
    )
)]
pub async fn list_deletions(
    State(api): State<Api>,
    access: Access<Read>,
    Query(query): Query<ResourcesQuery>,
) -> Result<Page<DeletionView>, Problem> {
    let catalog = api.catalog_writer.current();
    let own = catalog.deletions.iter().filter(|(_, it)| it.project == access.project);
    let own = own.map(|(id, it)| (*id, it.as_ref()));
    page::resources(own, query.limit(), query.cursor(), DeletionView::of)
}

/// Get a deletion and its progress
#[utoipa::path(
    get,
    path = "/api/v1/deletions/{deletion}",
    tag = "deletions",
    params(("deletion" = String, Path, description = "`del_…`")),
    responses(
        (status = 200, description = "As it is", body = DeletionView),
        (status = "4XX", response = Problem),
    )
)]
pub async fn get_deletion(
    State(api): State<Api>,
    access: Access<Read>,
    Path(deletion): Path<String>,
) -> Result<Json<DeletionView>, Problem> {
    let catalog = api.catalog_writer.current();
    Ok(Json(DeletionView::of(find(&catalog, access.project, &deletion)?)))
}

fn find<'c>(catalog: &'c Catalog, project: ProjectId, id: &str) -> Result<&'c Deletion, Problem> {
    let id: DeletionId = parse_id("deletion", id)?;
    let found = catalog.deletions.get(&id).filter(|it| it.project == project);
    found.map(AsRef::as_ref).ok_or_else(|| Problem::not_found("deletion"))
}

/// Cancel a deletion
///
/// Nothing is erased. It can be cancelled until erasing begins; the destinations are notified in any case, and
/// a user who is suppressed stays so.
#[utoipa::path(
    post,
    path = "/api/v1/deletions/{deletion}/cancel",
    tag = "deletions",
    params(("deletion" = String, Path, description = "`del_…`")),
    responses(
        (status = 200, description = "As it is now", body = DeletionView),
        (status = "4XX", response = Problem),
    )
)]
pub async fn cancel_deletion(
    State(api): State<Api>,
    access: Access<Administer>,
    Path(deletion): Path<String>,
) -> Result<Json<DeletionView>, Problem> {
    let now = api.clock.now();
    let decide = |catalog: &Catalog| {
        let mut found = find(catalog, access.project, &deletion)?.clone();
        match found.state {
            DeletionState::Waiting => (),
            DeletionState::Cancelled => return Ok((Vec::new(), found)),
            DeletionState::Notifying | DeletionState::Erasing | DeletionState::Done => {
                return Err(Problem::new(Kind::Conflict)
                    .detail("it can be cancelled only while it waits for erasing to begin"));
            }
        }
        (found.state, found.ended_at) = (DeletionState::Cancelled, Some(now));
        Ok((vec![Edit::Put(Resource::Deletion(found.clone()))], found))
    };
    let now = api.catalog_writer.edit(decide).await?;
    Ok(Json(DeletionView::of(&now)))
}

/// Delete a deletion that has ended
///
/// A user who was suppressed is so no more. What was erased stays erased.
#[utoipa::path(
    delete,
    path = "/api/v1/deletions/{deletion}",
    tag = "deletions",
    params(("deletion" = String, Path, description = "`del_…`")),
    responses(
        (status = 204, description = "It is gone"),
        (status = "4XX", response = Problem),
    )
)]
pub async fn delete_deletion(
    State(api): State<Api>,
    access: Access<Administer>,
    Path(deletion): Path<String>,
) -> Result<StatusCode, Problem> {
    let decide = |catalog: &Catalog| {
        let found = find(catalog, access.project, &deletion)?;
        if !found.has_ended() {
            return Err(Problem::new(Kind::Conflict).detail("it has not ended yet"));
        }
        Ok((vec![Edit::DeleteDeletion(found.id)], ()))
    };
    api.catalog_writer.edit(decide).await?;
    Ok(StatusCode::NO_CONTENT)
}
