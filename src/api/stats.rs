//! What destinations did over time, and how everything is now.

use std::time::Duration;

use axum::{
    Json,
    extract::{Path, State},
};
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::{
    Api,
    request::{Access, Query, Read, parse, parse_time},
    resources::find,
};
use crate::{
    catalog::Catalog,
    dispatch::LineStatus,
    model::{Destination, DestinationId, DestinationState, ProjectId},
    pipeline::FailingScript,
    problem::Problem,
    store::{Minute, Refusal},
};

#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct StatsQuery {
    /// Usually an hour before `until`.
    #[param(format = DateTime)]
    from: Option<String>,
    /// Usually now. At most 31 days after `from`.
    #[param(format = DateTime)]
    until: Option<String>,
    /// Minutes to add up in each point. Usually so many that there are at most 120 points.
    #[param(value_type = Option<u32>)]
    step: Option<String>,
}

#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct Stats {
    #[schema(value_type = String)]
    pub destination_id: DestinationId,
    #[schema(value_type = String, format = DateTime)]
    pub from: Timestamp,
    #[schema(value_type = String, format = DateTime)]
    pub until: Timestamp,
    /// In minutes.
    pub step: u32,
    /// The upper bounds, in milliseconds, of all but the last of `durations`.
    pub duration_bounds_ms: [u32; 6],
    /// Oldest first. Points in which nothing happened are left out.
    pub points: Vec<Point>,
}

#[derive(Debug, PartialEq, Serialize, utoipa::ToSchema)]
pub struct Point {
    #[schema(value_type = String, format = DateTime)]
    pub start: Timestamp,
    /// Deliveries that were planned.
    pub planned: u64,
    pub delivered: u64,
    pub failed_attempts: u64,
    pub dead: u64,
    /// Expired or cancelled.
    pub dropped: u64,
    /// Attempts by how long they took, shortest first.
    pub durations: [u64; 7],
}

const MINUTE: i64 = 60;

/// Get a destination's counts over time
#[utoipa::path(
    get,
    path = "/api/v1/destinations/{destination}/stats",
    tag = "destinations",
    params(("destination" = String, Path, description = "Its name or id"), StatsQuery),
    responses(
        (status = 200, description = "The counts", body = Stats),
        (status = "4XX", response = Problem),
    )
)]
pub async fn destination_stats(
    State(api): State<Api>,
    access: Access<Read>,
    Path(destination): Path<String>,
    Query(query): Query<StatsQuery>,
) -> Result<Json<Stats>, Problem> {
    let id = find::<Destination>(access.session.catalog(), access.project, &destination)?.id;
    let StatsQuery { from, until, step } = &query;
    let asked = [("from", from.as_deref()), ("until", until.as_deref()), ("step", step.as_deref())];
    let Span { from, until, step } = Span::of(asked, api.clock.now())?;
    let minutes = api.database.stats(id, from, until).await?;
    Ok(Json(Stats {
        destination_id: id,
        from,
        until,
        step: step as u32,
        duration_bounds_ms: [10, 50, 100, 500, 1000, 5000],
        points: add_up(&minutes, step),
    }))
}

/// A stretch of time in points.
pub(super) struct Span {
    pub from: Timestamp,
    pub until: Timestamp,
    /// In minutes.
    pub step: i64,
}

impl Span {
    /// Of three parameters by their names: the beginning, the end, and the minutes of a point.
    pub fn of(
        [from, until, step]: [(&str, Option<&str>); 3],
        now: Timestamp,
    ) -> Result<Self, Problem> {
        const LONGEST: SignedDuration = SignedDuration::from_hours(24 * 31);
        const MOST_POINTS: i64 = 1500;
        const USUAL_POINTS: i64 = 120;
        let end = parse_time(until.0, until.1)?.unwrap_or(now);
        let begin = parse_time(from.0, from.1)?;
        let begin =
            begin.unwrap_or(end.saturating_sub(SignedDuration::from_hours(1)).unwrap_or(end));
        let span = end.duration_since(begin);
        if !span.is_positive() || span > LONGEST {
            let rule = "must be later than `since` and at most 31 days after it";
            let field = format!("query:{}", until.0);
            return Err(Problem::invalid_field(field, rule, "another moment"));
        }
        let minutes = (span.as_secs() + MINUTE - 1) / MINUTE;
        let rule = "must be a number of minutes that gives at most 1500 points";
        let wanted: Option<i64> = parse(step.0, step.1, rule)?;
        let wanted = wanted.unwrap_or((minutes + USUAL_POINTS - 1) / USUAL_POINTS).max(1);
        if minutes / wanted > MOST_POINTS || wanted > 7 * 24 * 60 {
            let field = format!("query:{}", step.0);
            return Err(Problem::invalid_field(field, rule, "another number"));
        }
        Ok(Self { from: begin, until: end, step: wanted })
    }

    /// When the point begins that a moment belongs to: at a whole multiple of the step.
    pub fn point(&self, at: Timestamp) -> Timestamp {
        let seconds = MINUTE * self.step;
        let number = at.as_second().div_euclid(seconds);
        Timestamp::from_second(number * seconds).unwrap_or(at)
    }
}

/// Adds up minutes into points that begin at whole multiples of the step.
fn add_up(minutes: &[Minute], step: i64) -> Vec<Point> {
    let mut points: Vec<Point> = Vec::new();
    for minute in minutes {
        let number = minute.start.as_second().div_euclid(MINUTE * step);
        let start = Timestamp::from_second(number * MINUTE * step).unwrap_or(minute.start);
        if points.last().is_none_or(|it| it.start != start) {
            points.push(Point {
                start,
                planned: 0,
                delivered: 0,
                failed_attempts: 0,
                dead: 0,
                dropped: 0,
                durations: [0; 7],
            });
        }
        let Some(point) = points.last_mut() else { continue };
        point.planned += minute.planned;
        point.delivered += minute.delivered;
        point.failed_attempts += minute.failed_attempts;
        point.dead += minute.dead;
        point.dropped += minute.dropped;
        for (sum, count) in point.durations.iter_mut().zip(minute.durations) {
            *sum += count;
        }
    }
    points
}

/// How a project is at the moment.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct Status {
    pub version: &'static str,
    /// By the server's clock.
    #[schema(value_type = String, format = DateTime)]
    pub now: Timestamp,
    /// Why no event is accepted at the moment: `disk_full` or `broken`. Null: they are.
    pub refuses: Option<&'static str>,
    pub destinations: Vec<DestinationStatus>,
    /// Sources with duplicates of another type or payload than the event that had their key first.
    pub conflicts: Vec<SourceConflicts>,
    /// Scripts that were stuck in the last ten minutes, or could not be run, on the node that answers.
    pub stuck_scripts: Vec<StuckScript>,
}

/// A script that does not keep up: each event that it was not run over, or not to its end, became a dead letter.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct StuckScript {
    /// The pipeline's name.
    pub pipeline: String,
    /// Where the script stands in it: `steps[0]`, or `routes[1].steps[0]`.
    pub step: String,
    /// When it lost the first of its events.
    #[schema(value_type = String, format = DateTime)]
    pub since: Timestamp,
    /// When it lost the last of them.
    #[schema(value_type = String, format = DateTime)]
    pub last: Timestamp,
    /// Events that became dead letters since then.
    pub events: u64,
    /// Threads that it holds on to right now, in calls that cannot be stopped.
    pub threads: usize,
    /// It is not run before then. Null: it is run with the next event, unless it is `blocked`.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub retry_at: Option<Timestamp>,
    /// Why it is not run, whatever the time, e.g. because other scripts of the project hold on to all threads.
    pub blocked: Option<&'static str>,
}

impl StuckScript {
    fn of(it: FailingScript, now: Timestamp) -> Self {
        let before = |it: Duration| now.checked_sub(it).unwrap_or(now);
        Self {
            since: before(it.since),
            last: before(it.last),
            events: it.events,
            threads: it.threads,
            retry_at: it.retry_in.map(|it| now.checked_add(it).unwrap_or(now)),
            blocked: it.blocked,
            pipeline: it.pipeline,
            step: it.step,
        }
    }
}

/// Duplicates of one source that were not the same event once more.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct SourceConflicts {
    /// The source's name.
    pub source: String,
    /// How many were not kept, since `since`.
    pub events: u64,
    #[schema(value_type = Option<String>, format = DateTime)]
    pub since: Option<Timestamp>,
}

#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct DestinationStatus {
    #[schema(value_type = String)]
    pub id: DestinationId,
    pub name: String,
    /// `active`, `paused` or `disabled`.
    pub state: &'static str,
    /// Deliveries that have not ended.
    pub owed: u64,
    /// When the event of the oldest of them was accepted, in seconds before now.
    pub oldest_seconds: Option<f64>,
    /// How it stands with the dispatcher, e.g. its breaker. Null: it has had nothing to do with it.
    pub dispatch: Option<LineStatus>,
}

/// Get how everything is
#[utoipa::path(
    get,
    path = "/api/v1/status",
    tag = "operations",
    responses(
        (status = 200, description = "How it is", body = Status),
        (status = "4XX", response = Problem),
    )
)]
pub async fn status(State(api): State<Api>, access: Access<Read>) -> Result<Json<Status>, Problem> {
    let backlog = api.database.backlog().await?;
    let now = api.clock.now();
    let catalog = access.session.catalog();
    let own = catalog.destinations.values().filter(|it| it.project == access.project);
    let mut destinations = Vec::new();
    for it in own {
        let owed = backlog.iter().find(|backlog| backlog.destination == it.id);
        let age =
            owed.map(|it| Duration::try_from(now.duration_since(it.oldest)).unwrap_or_default());
        destinations.push(DestinationStatus {
            id: it.id,
            name: it.name.to_string(),
            state: match it.state {
                DestinationState::Active => "active",
                DestinationState::Unverified { .. } => "unverified",
                DestinationState::Paused { .. } => "paused",
                DestinationState::Disabled { .. } => "disabled",
            },
            owed: owed.map_or(0, |it| it.owed),
            oldest_seconds: age.map(|it| it.as_secs_f64()),
            dispatch: api.dispatch.line(it.id).await,
        });
    }
    Ok(Json(Status {
        version: env!("CARGO_PKG_VERSION"),
        now,
        refuses: api.database.health().refuses.map(|it| match it {
            Refusal::DiskFull => "disk_full",
            Refusal::Broken => "broken",
            Refusal::Unreachable => "unreachable",
        }),
        destinations,
        conflicts: conflicts(&api, catalog, access.project),
        stuck_scripts: {
            let failing = api.tools.failing_scripts(access.project);
            failing.into_iter().map(|it| StuckScript::of(it, now)).collect()
        },
    }))
}

fn conflicts(api: &Api, catalog: &Catalog, project: ProjectId) -> Vec<SourceConflicts> {
    let own = catalog.sources.values().filter(|it| it.project == project);
    let counted = own.map(|it| (it.name.to_string(), api.ingest.traffic(it.id)));
    let some = counted.filter(|(_, counts)| counts.all.conflicts > 0);
    some.map(|(source, it)| SourceConflicts { source, events: it.all.conflicts, since: it.since })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn minutes_are_added_up_to_points_at_whole_steps() {
        let minute = |number: i64, delivered| Minute {
            start: Timestamp::from_second(number * 60).unwrap(),
            delivered,
            durations: [1, 0, 0, 0, 0, 0, 2],
            ..Minute::default()
        };
        let points = add_up(&[minute(9, 1), minute(10, 2), minute(14, 3), minute(21, 4)], 5);
        let found: Vec<_> = points
            .iter()
            .map(|it| (it.start.as_second() / 60, it.delivered, it.durations[6]))
            .collect();
        assert_eq!(found, [(5, 1, 2), (10, 5, 4), (20, 4, 2)]);
    }
}
