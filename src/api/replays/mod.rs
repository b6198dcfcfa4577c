//! Old events, delivered again: one event, one delivery, or a selection in the background.

mod one;

use axum::{
    Json,
    extract::{Path, State},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use self::one::{How, check_raw, event_of_delivery, one};
use super::{
    Api,
    deliveries::destination,
    events::find_event,
    page::{self, Listing, Page},
    request::{Access, Body, Operate, Query, Read, parse_id, wrong_field},
    resources::{ResourcesQuery, find},
    views::destination_name,
};
use crate::{
    catalog::{Catalog, Edit, Resource},
    model::{
        DeliveryState, Destination, DestinationId, EventId, Pattern, ProjectId, Replay, ReplayId,
        ReplayState, Selection,
    },
    problem::{Kind, Problem},
    replay::{self, What, has_ended},
    store::Records,
};

/// What to replay: exactly one of `event`, `delivery` and `selection`.
#[derive(Debug, Default, Deserialize, utoipa::ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ReplaySpec {
    /// The id of an event: to every destination that it was for. If it has no delivery at all, today's
    /// pipelines say where it goes.
    event: Option<String>,
    /// The id of a delivery.
    delivery: Option<String>,
    selection: Option<SelectionSpec>,
    /// Each new delivery gets a message id of its own, so that a receiver takes it for new. Without it, the
    /// message id is the event's, as before.
    fresh_ids: bool,
    /// With `event` or `delivery`: the stored payload goes out as it came, whatever the routes and their steps
    /// say. It needs the scope `admin`.
    raw: bool,
    /// Only show the count, at most.
    dry_run: bool,
}

/// Which deliveries. Each field narrows; without any, all that have ended are meant.
#[derive(Debug, Default, Deserialize, Serialize, utoipa::ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SelectionSpec {
    /// The name or id of a destination.
    destination: Option<String>,
    /// A state that is an end, e.g. `dead`.
    state: Option<DeliveryState>,
    /// Not deliveries, but events that `destination` never had, or without it those that went nowhere. Today's
    /// pipelines say where they go: a new destination gets old events, and a wrong filter is made up for.
    missed: bool,
    /// An event type, or a group such as `user.*`.
    #[serde(rename = "type")]
    #[schema(value_type = Option<String>)]
    event_type: Option<Pattern>,
    /// Of events received at this moment or later.
    #[schema(value_type = Option<String>, format = DateTime)]
    #[serde(deserialize_with = "crate::model::moment::optional")]
    from: Option<Timestamp>,
    /// Of events received before this moment.
    #[schema(value_type = Option<String>, format = DateTime)]
    #[serde(deserialize_with = "crate::model::moment::optional")]
    until: Option<Timestamp>,
}

impl SelectionSpec {
    fn check(&self, catalog: &Catalog, project: ProjectId) -> Result<Selection, Problem> {
        if self.state.is_some_and(|it| !has_ended(it)) {
            let rule = "must be `delivered`, `dead`, `expired` or `cancelled`: what is still owed is attempted anyway";
            return Err(wrong_field("selection.state", rule, "another state"));
        }
        if self.missed && self.state.is_some() {
            let rule = "must not be given with `missed`: what was missed has no delivery";
            return Err(wrong_field("selection.state", rule, "a state"));
        }
        Ok(Selection {
            destination: destination(catalog, project, self.destination.as_deref())?,
            state: self.state,
            event_type: self.event_type.clone(),
            from: self.from,
            until: self.until,
        })
    }
}

/// A replay, and how far it has come.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = Replay)]
pub struct ReplayView {
    #[schema(value_type = String)]
    pub id: ReplayId,
    pub state: ReplayState,
    /// How many deliveries were selected when it began. Those that are still owed, and earlier ones of an
    /// event that was selected twice, are passed over. With `missed`: how many events it looks at.
    pub total: u64,
    /// How many deliveries it has made.
    pub done: u64,
    /// The event, if it is of one event alone.
    #[schema(value_type = Option<String>)]
    pub event: Option<EventId>,
    pub selection: Option<SelectionView>,
    pub fresh_ids: bool,
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
}

/// A selection, as it is shown with a replay.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
#[schema(as = Selection)]
pub struct SelectionView {
    /// The name of a destination; the id of one that was deleted.
    pub destination: Option<String>,
    pub state: Option<DeliveryState>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub missed: bool,
    #[serde(rename = "type")]
    #[schema(value_type = Option<String>)]
    pub event_type: Option<Pattern>,
    #[schema(value_type = Option<String>, format = DateTime)]
    pub from: Option<Timestamp>,
    #[schema(value_type = Option<String>, format = DateTime)]
    pub until: Option<Timestamp>,
}

/// How much a replay would be.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct ReplayPlan {
    pub dry_run: bool,
    /// Deliveries, at most; with `missed` the events that it would look at.
    pub total: u64,
}

impl ReplayView {
    fn of(it: &Replay, done: u64, catalog: &Catalog) -> Self {
        let selection = &it.selection;
        // The name of another project's destination is nobody else's business.
        let is_others =
            |id| catalog.destinations.get(&id).is_some_and(|own| own.project != it.project);
        let named = |id: DestinationId| match is_others(id) {
            true => id.to_string(),
            false => destination_name(catalog, id),
        };
        Self {
            id: it.id,
            state: it.state,
            total: it.total,
            done,
            event: it.event,
            selection: it.event.is_none().then(|| SelectionView {
                destination: selection.destination.map(named),
                state: selection.state,
                missed: it.missed,
                event_type: selection.event_type.clone(),
                from: selection.from,
                until: selection.until,
            }),
            fresh_ids: it.fresh_ids,
            created_at: it.created_at,
        }
    }

    /// With its progress, which the store keeps while it runs.
    async fn now(api: &Api, it: &Replay) -> Result<Self, Problem> {
        let done = match (it.state, it.event) {
            (ReplayState::Done, _) | (_, Some(_)) => it.done,
            (ReplayState::Running | ReplayState::Cancelled, None) => {
                let records: &dyn Records = api.database.as_ref();
                records.replay_progress(it.id).await?.done
            }
        };
        Ok(Self::of(it, done, &api.catalog_writer.current()))
    }
}

/// Replay an event, a delivery or a selection
///
/// With `dry_run` the answer is 200 and says how many it would be. Otherwise it is 202; a selection is
/// worked on in the background, from old to new.
#[utoipa::path(
    post,
    path = "/api/v1/replays",
    tag = "replays",
    request_body = ReplaySpec,
    responses(
        (status = 202, description = "It has begun", body = ReplayView),
        (status = 200, description = "How many it would be", body = ReplayPlan),
        (status = "4XX", response = Problem),
    )
)]
pub async fn create_replay(
    State(api): State<Api>,
    access: Access<Operate>,
    body: Body,
) -> Result<Response, Problem> {
    let spec: ReplaySpec = body.read()?;
    let project = access.project;
    match (&spec.event, &spec.delivery, &spec.selection) {
        (Some(event), None, None) => {
            check_raw(&access, spec.raw)?;
            let record = find_event(&api, project, event).await?;
            one(&api, &record, What::All, How::of(&spec)).await
        }
        (None, Some(delivery), None) => {
            check_raw(&access, spec.raw)?;
            let (record, seq) = event_of_delivery(&api, project, delivery).await?;
            one(&api, &record, What::Delivery(seq), How::of(&spec)).await
        }
        (None, None, Some(selection)) => {
            if spec.raw {
                let rule =
                    "must go with `event` or `delivery`: a selection goes through its routes";
                return Err(wrong_field("raw", rule, "a selection"));
            }
            let missed = selection.missed;
            let selection = selection.check(access.session.catalog(), project)?;
            many(&api, project, (selection, missed), &spec).await
        }
        _ => Err(wrong_field(
            "selection",
            "must have exactly one of `event`, `delivery` and `selection`",
            "more or none",
        )),
    }
}

async fn many(
    api: &Api,
    project: ProjectId,
    (selection, missed): (Selection, bool),
    spec: &ReplaySpec,
) -> Result<Response, Problem> {
    let now = api.clock.now();
    let mut replay = Replay {
        id: ReplayId::new(now, 0, api.random.u64()),
        project,
        event: None,
        selection,
        missed,
        fresh_ids: spec.fresh_ids,
        state: ReplayState::Running,
        total: 0,
        done: 0,
        created_at: now,
    };
    replay.total = match missed {
        true => api.database.count_events(project, &replay::missed_events(&replay)).await?,
        false => api.database.count(project, &replay.selection).await?,
    };
    if spec.dry_run {
        return Ok(Json(ReplayPlan { dry_run: true, total: replay.total }).into_response());
    }
    api.catalog_writer.edit(|catalog| Ok::<_, Problem>((added(catalog, &replay)?, ()))).await?;
    let view = ReplayView::of(&replay, 0, &api.catalog_writer.current());
    Ok((StatusCode::ACCEPTED, Json(view)).into_response())
}

/// The edits that add a replay, and let go of the oldest ended ones when there are many.
fn added(catalog: &Catalog, replay: &Replay) -> Result<Vec<Edit>, Problem> {
    let own = catalog.replays.values().filter(|it| it.project == replay.project);
    let (running, ended): (Vec<_>, Vec<_>) = own.partition(|it| it.state == ReplayState::Running);
    if replay.state == ReplayState::Running && running.len() >= replay::RUNNING_AT_MOST {
        return Err(Problem::new(Kind::Conflict)
            .detail("other replays are running: wait for one to end, or cancel it"));
    }
    let too_many = (ended.len() + 1).saturating_sub(replay::ENDED_KEPT);
    let mut edits: Vec<_> =
        ended.iter().take(too_many).map(|it| Edit::DeleteReplay(it.id)).collect();
    edits.push(Edit::Put(Resource::Replay(replay.clone())));
    Ok(edits)
}

/// How to replay one event. It may be left out, and so may the body.
#[derive(Debug, Default, Deserialize, utoipa::ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct EventReplaySpec {
    /// Names or ids of destinations, which need not have had the event before: one that had not gets it through
    /// today's route, with its condition and its steps, or not at all. Without it: all that it was for, as soon
    /// as their deliveries have ended; if it has no delivery at all, today's pipelines say where it goes.
    destinations: Option<Vec<String>>,
    /// The new deliveries get a message id of their own.
    fresh_id: bool,
    /// The stored payload goes out as it came, whatever the routes and their steps say. It needs the scope
    /// `admin`.
    raw: bool,
}

/// Replay an event
#[utoipa::path(
    post,
    path = "/api/v1/events/{event}/replay",
    operation_id = "replay_event",
    tag = "replays",
    params(("event" = String, Path, description = "`evt_…`")),
    request_body(content = Option<EventReplaySpec>),
    responses(
        (status = 202, description = "The new deliveries are owed", body = ReplayView),
        (status = "4XX", response = Problem),
    )
)]
pub async fn replay_one_event(
    State(api): State<Api>,
    access: Access<Operate>,
    Path(event): Path<String>,
    body: Body,
) -> Result<Response, Problem> {
    let spec: EventReplaySpec = body.read_or_default()?;
    let catalog = access.session.catalog();
    let named = spec.destinations.as_deref().map(|names| {
        let mut found = Vec::new();
        for name in names {
            let id = find::<Destination>(catalog, access.project, name)?.id;
            if !found.contains(&id) {
                found.push(id);
            }
        }
        Ok::<_, Problem>(found)
    });
    let destinations = named.transpose()?;
    check_raw(&access, spec.raw)?;
    let record = find_event(&api, access.project, &event).await?;
    let what = destinations.as_deref().map_or(What::All, What::To);
    one(&api, &record, what, How { fresh_ids: spec.fresh_id, raw: spec.raw, dry_run: false }).await
}

#[derive(Debug, Default, Deserialize, utoipa::ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct DeliveryReplaySpec {
    /// The new delivery gets a message id of its own.
    fresh_id: bool,
    /// The stored payload goes out as it came, without what steps made of it. It needs the scope `admin`.
    raw: bool,
}

/// Replay a delivery that has ended
#[utoipa::path(
    post,
    path = "/api/v1/deliveries/{delivery}/replay",
    tag = "replays",
    params(("delivery" = String, Path, description = "`dlv_…`")),
    request_body(content = Option<DeliveryReplaySpec>),
    responses(
        (status = 202, description = "The new delivery is owed", body = ReplayView),
        (status = "4XX", response = Problem),
    )
)]
pub async fn replay_delivery(
    State(api): State<Api>,
    access: Access<Operate>,
    Path(delivery): Path<String>,
    body: Body,
) -> Result<Response, Problem> {
    let spec: DeliveryReplaySpec = body.read_or_default()?;
    check_raw(&access, spec.raw)?;
    let (record, seq) = event_of_delivery(&api, access.project, &delivery).await?;
    let how = How { fresh_ids: spec.fresh_id, raw: spec.raw, dry_run: false };
    one(&api, &record, What::Delivery(seq), how).await
}

/// List replays
#[utoipa::path(
    get,
    path = "/api/v1/replays",
    tag = "replays",
    params(ResourcesQuery),
    responses(
        (status = 200, description = "A page of them, oldest first", body = Listing<ReplayView>),
        (status = "4XX", response = Problem),
    )
)]
pub async fn list_replays(
    State(api): State<Api>,
    access: Access<Read>,
    Query(query): Query<ResourcesQuery>,
) -> Result<Page<ReplayView>, Problem> {
    let catalog = api.catalog_writer.current();
    let own = catalog.replays.iter().filter(|(_, it)| it.project == access.project);
    let own = own.map(|(id, it)| (*id, it));
    let Json(page) = page::resources(own, query.limit(), query.cursor(), |it| it.clone())?;
    let mut data = Vec::with_capacity(page.data.len());
    for replay in page.data {
        data.push(ReplayView::now(&api, &replay).await?);
    }
    Ok(Json(Listing { data, next: page.next }))
}

/// Get a replay and its progress
#[utoipa::path(
    get,
    path = "/api/v1/replays/{replay}",
    tag = "replays",
    params(("replay" = String, Path, description = "`rpl_…`")),
    responses(
        (status = 200, description = "As it is", body = ReplayView),
        (status = "4XX", response = Problem),
    )
)]
pub async fn get_replay(
    State(api): State<Api>,
    access: Access<Read>,
    Path(replay): Path<String>,
) -> Result<Json<ReplayView>, Problem> {
    let id: ReplayId = parse_id("replay", &replay)?;
    let catalog = api.catalog_writer.current();
    let found = catalog.replays.get(&id).filter(|it| it.project == access.project);
    let found = found.ok_or_else(|| Problem::not_found("replay"))?;
    Ok(Json(ReplayView::now(&api, found).await?))
}

/// Cancel a replay
///
/// The deliveries that it has made stay.
#[utoipa::path(
    post,
    path = "/api/v1/replays/{replay}/cancel",
    tag = "replays",
    params(("replay" = String, Path, description = "`rpl_…`")),
    responses(
        (status = 200, description = "As it is now", body = ReplayView),
        (status = "4XX", response = Problem),
    )
)]
pub async fn cancel_replay(
    State(api): State<Api>,
    access: Access<Operate>,
    Path(replay): Path<String>,
) -> Result<Json<ReplayView>, Problem> {
    let id: ReplayId = parse_id("replay", &replay)?;
    let decide = |catalog: &Catalog| {
        let found = catalog.replays.get(&id).filter(|it| it.project == access.project);
        let found = found.ok_or_else(|| Problem::not_found("replay"))?;
        let mut replay = Replay::clone(found);
        if replay.state != ReplayState::Running {
            return Ok::<_, Problem>((Vec::new(), replay));
        }
        replay.state = ReplayState::Cancelled;
        Ok((vec![Edit::Put(Resource::Replay(replay.clone()))], replay))
    };
    let replay = api.catalog_writer.edit(decide).await?;
    Ok(Json(ReplayView::now(&api, &replay).await?))
}
