//! What happened at each place of a pipeline over time.

use std::collections::BTreeMap;

use axum::{
    Json,
    extract::{Path, State},
};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{
    Api,
    request::{Access, Query, Read},
    resources::find,
    stats::Span,
};
use crate::{
    model::{Counted, Edge, Passed, Pipeline, PipelineId, StepSpec},
    problem::Problem,
};

#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct CountsQuery {
    /// Usually an hour before `until`.
    #[param(format = DateTime)]
    since: Option<String>,
    /// Usually now. At most 31 days after `since`.
    #[param(format = DateTime)]
    until: Option<String>,
    /// Minutes to add up in each point. Usually so many that there are at most 120 points.
    #[param(value_type = Option<u32>)]
    step: Option<String>,
}

#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct PipelineCounts {
    #[schema(value_type = String)]
    pub pipeline_id: PipelineId,
    /// The one that is in force.
    pub version: u32,
    #[schema(value_type = String, format = DateTime)]
    pub since: Timestamp,
    #[schema(value_type = String, format = DateTime)]
    pub until: Timestamp,
    /// In minutes.
    pub step: u32,
    /// The places at which something happened, newest version first, each in the order of its pipeline.
    pub edges: Vec<EdgeCounts>,
}

/// A place of a pipeline: the pipeline itself (its trigger and condition), one of its steps, one of its routes,
/// or a step of a route.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct EdgeCounts {
    /// The version of the pipeline that was in force.
    pub version: u32,
    /// Which route, from 0. Null: what all routes share.
    pub route: Option<u16>,
    /// The destination of that route, where the version is known.
    pub to: Option<String>,
    /// Which step, from 0. Null: the pipeline or the route itself.
    pub step: Option<u16>,
    /// The kind of that step, where the version is known.
    pub kind: Option<String>,
    pub total: Counts,
    /// Oldest first. Points in which nothing happened are left out.
    pub points: Vec<CountsPoint>,
}

#[derive(Debug, Default, PartialEq, Serialize, utoipa::ToSchema)]
pub struct Counts {
    /// Events that came there. Several that a step made of one count as several behind it.
    pub r#in: u64,
    /// Of those, the ones that ended there.
    pub filtered: u64,
    /// Of those, the ones with which something failed, whether they went on or not.
    pub errored: u64,
    /// What went on; at a route, the deliveries that were planned.
    pub out: u64,
}

#[derive(Debug, PartialEq, Serialize, utoipa::ToSchema)]
pub struct CountsPoint {
    #[schema(value_type = String, format = DateTime)]
    pub start: Timestamp,
    #[serde(flatten)]
    pub counts: Counts,
}

impl From<Passed> for Counts {
    fn from(it: Passed) -> Self {
        let Passed { arrived, filtered, errored, left } = it;
        Self { r#in: arrived, filtered, errored, out: left }
    }
}

/// Get a pipeline's counts over time
///
/// Each event counts once, in the minute in which it was planned.
#[utoipa::path(
    get,
    path = "/api/v1/pipelines/{pipeline}/counts",
    tag = "pipelines",
    params(("pipeline" = String, Path, description = "Its name or id"), CountsQuery),
    responses(
        (status = 200, description = "The counts", body = PipelineCounts),
        (status = "4XX", response = Problem),
    )
)]
pub async fn pipeline_counts(
    State(api): State<Api>,
    access: Access<Read>,
    Path(pipeline): Path<String>,
    Query(query): Query<CountsQuery>,
) -> Result<Json<PipelineCounts>, Problem> {
    let catalog = api.catalog_writer.current();
    let pipeline = find::<Pipeline>(&catalog, access.project, &pipeline)?;
    let CountsQuery { since, until, step } = &query;
    let asked =
        [("since", since.as_deref()), ("until", until.as_deref()), ("step", step.as_deref())];
    let span = Span::of(asked, api.clock.now())?;
    let counted = api.database.counts(pipeline.id, span.from, span.until).await?;
    Ok(Json(PipelineCounts {
        pipeline_id: pipeline.id,
        version: pipeline.version,
        since: span.from,
        until: span.until,
        step: span.step as u32,
        edges: add_up(&counted, &span, pipeline),
    }))
}

fn add_up(counted: &[Counted], span: &Span, pipeline: &Pipeline) -> Vec<EdgeCounts> {
    type Points = BTreeMap<Timestamp, Passed>;
    let mut edges: BTreeMap<(std::cmp::Reverse<u32>, Edge), Points> = BTreeMap::new();
    for it in counted {
        let points = edges.entry((std::cmp::Reverse(it.version), it.edge)).or_default();
        *points.entry(span.point(it.start)).or_default() += it.passed;
    }
    let counts = |((version, edge), points): ((std::cmp::Reverse<u32>, Edge), Points)| {
        let mut total = Passed::default();
        points.values().for_each(|it| total += *it);
        let (to, kind) =
            if version.0 == pipeline.version { names(pipeline, edge) } else { (None, None) };
        let point =
            |(start, passed): (Timestamp, Passed)| CountsPoint { start, counts: passed.into() };
        EdgeCounts {
            version: version.0,
            route: edge.route,
            to,
            step: edge.step,
            kind,
            total: total.into(),
            points: points.into_iter().map(point).collect(),
        }
    };
    edges.into_iter().map(counts).collect()
}

/// How a place is called: the destination of its route, and the kind of its step.
fn names(pipeline: &Pipeline, edge: Edge) -> (Option<String>, Option<String>) {
    let route = edge.route.and_then(|it| pipeline.routes.get(usize::from(it)));
    let steps = match edge.route {
        None => Some(&pipeline.steps),
        Some(_) => route.map(|it| &it.steps),
    };
    let step = steps.zip(edge.step).and_then(|(all, it)| all.get(usize::from(it)));
    let kind = |it: &StepSpec| it.0.keys().next().cloned();
    (route.map(|it| it.to.to_string()), step.and_then(kind))
}
