//! The replay of one event, at once.

use axum::{
    Json,
    http::StatusCode,
    response::{IntoResponse as _, Response},
};

use super::{ReplayPlan, ReplaySpec, ReplayView, added};
use crate::{
    api::{
        Api,
        deliveries::find_delivery,
        dry_run::busy,
        request::{Access, Operate},
    },
    model::{DeliveryId, DeliverySeq, ProjectId, Replay, ReplayId, ReplayState, Scope, Selection},
    problem::{Kind, Problem},
    replay::{self, Chosen, EventReplay, What, has_ended},
    store::EventRecord,
};

/// How one event is replayed.
#[derive(Clone, Copy)]
pub(super) struct How {
    pub fresh_ids: bool,
    pub raw: bool,
    pub dry_run: bool,
}

impl How {
    pub fn of(spec: &ReplaySpec) -> Self {
        Self { fresh_ids: spec.fresh_ids, raw: spec.raw, dry_run: spec.dry_run }
    }
}

/// What goes round the routes is for those who may change them.
pub(super) fn check_raw(access: &Access<Operate>, raw: bool) -> Result<(), Problem> {
    if raw && !access.session.caller.may(Scope::Admin) {
        let detail =
            "`raw` sends the stored payload round its route, which needs the scope `admin`";
        return Err(Problem::new(Kind::Forbidden).detail(detail));
    }
    Ok(())
}

/// Why a replay makes nothing.
fn nothing(chosen: &Chosen) -> Problem {
    let problem = Problem::new(Kind::Conflict);
    if chosen.refused.is_empty() {
        return problem.detail(
            "there is nothing to replay: no delivery of it has ended, its destinations are gone, or its body is erased",
        );
    }
    problem.detail(format!(
        "nothing is replayed. {}. A pipeline that says no can be changed, or gone round with `raw` (scope `admin`)",
        chosen.refused.join(". ")
    ))
}

/// Replays one event at once, and keeps a note of it among the replays.
pub(super) async fn one(
    api: &Api,
    record: &EventRecord,
    what: What<'_>,
    how: How,
) -> Result<Response, Problem> {
    let How { fresh_ids, raw, dry_run } = how;
    let at = api.clock.now();
    let catalog = api.catalog_writer.current();
    let id = ReplayId::new(at, 0, api.random.u64());
    let event_replay = EventReplay { replay: id, event: record, what, raw, fresh_ids, at };
    let chosen = {
        // Planning may run scripts, as trying a pipeline does.
        let _turn = api.dry_runs.take(event_replay.event.event.project).ok_or_else(busy)?;
        event_replay.choose(&catalog, &api.replanning()).await?
    };
    // Of destinations that were named, all or none.
    let is_named = matches!(what, What::To(_) | What::Delivery(_));
    if chosen.items.is_empty() || (is_named && !chosen.refused.is_empty()) {
        if dry_run && chosen.refused.is_empty() {
            return Ok(Json(ReplayPlan { dry_run: true, total: 0 }).into_response());
        }
        return Err(nothing(&chosen));
    }
    let Chosen { items, refused } = chosen;
    if dry_run {
        let total = items.len() as u64;
        return Ok(Json(ReplayPlan { dry_run: true, total }).into_response());
    }
    let database = api.database.as_ref();
    let made = replay::replay_event(database, &event_replay, items, &api.replayed).await?;
    if made == 0 {
        return Err(nothing(&Chosen { refused, ..Chosen::default() }));
    }
    let replay = Replay {
        id,
        project: record.event.project,
        event: Some(record.event.id),
        selection: Selection::default(),
        missed: false,
        fresh_ids,
        state: ReplayState::Done,
        total: made,
        done: made,
        created_at: at,
    };
    api.catalog_writer.edit(|catalog| Ok::<_, Problem>((added(catalog, &replay)?, ()))).await?;
    let view = ReplayView::of(&replay, made, &catalog);
    Ok((StatusCode::ACCEPTED, Json(view)).into_response())
}

/// The event of a delivery that can be repeated, and its place.
pub(super) async fn event_of_delivery(
    api: &Api,
    project: ProjectId,
    delivery: &str,
) -> Result<(EventRecord, DeliverySeq), Problem> {
    let delivery = find_delivery(api, project, delivery).await?;
    if let Some(by) = delivery.replayed_as {
        let by = DeliveryId::of(delivery.event, by);
        let detail = format!("the delivery was replayed already, as {by}: replay that one");
        return Err(Problem::new(Kind::Conflict).detail(detail));
    }
    if !has_ended(delivery.state) {
        return Err(Problem::new(Kind::Conflict)
            .detail("the delivery has not ended: it is attempted anyway"));
    }
    let event = api.database.event(project, delivery.event).await?;
    Ok((event.ok_or_else(|| Problem::not_found("event"))?, delivery.seq))
}
