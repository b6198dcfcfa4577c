//! What happens in a project at the moment, as a stream of server-sent events.

use std::{convert::Infallible, sync::Arc};

use axum::{
    extract::State,
    response::sse::{self, KeepAlive, Sse},
};
use futures_util::{Stream, stream};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::sync::watch;

use super::{
    Api,
    deliveries::destination,
    request::{Access, Query, Read, parse_pattern},
    stay::Stay,
    views::{AttemptView, EventView},
};
use crate::{
    catalog::Catalog,
    model::{Class, DestinationId, EntryKind, Pattern, ProjectId, ShareSlot, TypeName},
    problem::{Kind, Problem},
    tail::{MissedSights, Sight, Watcher},
};

#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct TailQuery {
    /// Only events of this type, or group such as `user.*`, and their attempts.
    #[serde(rename = "type")]
    event_type: Option<String>,
    /// Only attempts to this destination, by name or id.
    destination: Option<String>,
    /// `true`: only attempts that failed.
    #[param(value_type = Option<bool>)]
    failed: Option<String>,
}

/// Follow events and attempts
///
/// A stream of server-sent events: `event` (an event was accepted, with its payload), `attempt` (a line was
/// added to the activity log), and `missed` (so many were left out, because the reader was slow). It begins
/// now; what was before is in the lists. The last one is `end`, with its `reason`: the API key was deleted,
/// has expired or lost its scope, the project was deleted, or the gateway stops.
#[utoipa::path(
    get,
    path = "/api/v1/tail",
    tag = "events",
    params(TailQuery),
    responses(
        (status = 200, description = "The stream", body = String, content_type = "text/event-stream"),
        (status = "4XX", response = Problem),
    )
)]
pub async fn tail(
    State(api): State<Api>,
    access: Access<Read>,
    Query(query): Query<TailQuery>,
) -> Result<Sse<impl Stream<Item = Result<sse::Event, Infallible>>>, Problem> {
    let catalog = access.session.catalog();
    let filter = TailFilter {
        project: access.project,
        event_type: parse_pattern("type", query.event_type.as_deref())?,
        destination: destination(catalog, access.project, query.destination.as_deref())?,
        failed_only: query.failed.as_deref() == Some("true"),
    };
    let permit = api.watchers.take(access.project).ok_or_else(|| {
        Problem::new(Kind::Overloaded)
            .retry_after(std::time::Duration::from_secs(5))
            .detail("too many are watching already, or too many of this project")
    })?;
    let following = Following {
        filter,
        watcher: api.tail.watch(),
        stay: Stay::of(&api, &access),
        draining: api.draining.clone(),
        has_ended: false,
        api,
        _permit: permit,
    };
    let events = stream::unfold(following, |mut following| async move {
        let event = following.next().await?;
        Some((Ok(event), following))
    });
    Ok(Sse::new(events).keep_alive(KeepAlive::default()))
}

struct TailFilter {
    project: ProjectId,
    event_type: Option<Pattern>,
    destination: Option<DestinationId>,
    failed_only: bool,
}

struct Following {
    api: Api,
    filter: TailFilter,
    watcher: Watcher,
    stay: Stay,
    draining: watch::Receiver<bool>,
    has_ended: bool,
    _permit: ShareSlot,
}

impl Following {
    /// What comes next. Nothing is shown behind the moment at which the reader lost its right, and an open
    /// stream does not hold up a stop.
    async fn next(&mut self) -> Option<sse::Event> {
        while !self.has_ended {
            let seen = tokio::select! {
                biased;
                reason = self.stay.over() => Err(reason),
                _ = self.draining.wait_for(|it| *it) => Err("the gateway stops".to_owned()),
                seen = self.watcher.next() => Ok(seen),
            };
            let seen = match seen {
                Ok(seen) => seen,
                Err(reason) => {
                    self.has_ended = true;
                    return Some(event("end", &json!({ "reason": reason })));
                }
            };
            match seen {
                Ok(sight) if self.filter.wants(&sight) => {
                    return Some(shown(&sight, &self.api.catalog_writer.current()));
                }
                Ok(_) => (),
                Err(MissedSights::Some(count)) => {
                    return Some(event("missed", &json!({ "missed": count })));
                }
                Err(MissedSights::Closed) => return None,
            }
        }
        None
    }
}

impl TailFilter {
    fn wants(&self, sight: &Sight) -> bool {
        if sight.project() != self.project {
            return false;
        }
        let is_type = |it: &TypeName| self.event_type.as_ref().is_none_or(|own| own.matches(it));
        match sight {
            Sight::Accepted(event) => {
                is_type(&event.event_type) && self.destination.is_none() && !self.failed_only
            }
            Sight::Activity(activity) => {
                is_type(&activity.event_type)
                    && self.destination.is_none_or(|it| it == activity.destination)
                    && (!self.failed_only || has_failed(&activity.entry.kind))
            }
        }
    }
}

fn has_failed(kind: &EntryKind) -> bool {
    match kind {
        EntryKind::Attempt { outcome, .. } => outcome.class != Class::Accepted,
        EntryKind::Note { .. } | EntryKind::Replayed { .. } => false,
    }
}

fn shown(sight: &Sight, catalog: &Arc<Catalog>) -> sse::Event {
    match sight {
        Sight::Accepted(accepted) => event("event", &EventView::of(accepted, catalog)),
        Sight::Activity(activity) => event("attempt", &AttemptView::seen(activity, catalog)),
    }
}

fn event<T: Serialize>(name: &str, data: &T) -> sse::Event {
    // A payload comes as it was sent, and may hold line breaks between its tokens, which `data` takes;
    // a carriage return it would not take, and JSON has none inside of strings.
    let json = serde_json::to_string(data).unwrap_or_default().replace('\r', " ");
    sse::Event::default().event(name).data(json)
}
