//! Pipelines, tried: what one would do with an event, and what its test cases say. Nothing is stored, and
//! nothing is sent but the questions of steps that ask.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use axum::{
    Json,
    extract::{Path, State},
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    Api,
    events::find_event,
    request::{Access, Body, Operate},
    resources::find,
    views::EventView,
};
use crate::{
    catalog::Catalog,
    destinations::{Outlets as _, Preview},
    model::{
        self, Event, EventId, Expectation, Pattern, Pipeline, ProjectId, Scope as Right, SourceId,
        TestEvent,
    },
    pipeline::dry::{
        self, CaseFailure, CaseResult, Dropped, GivenAnswers, Message, Report, Route, Trial, Tried,
    },
    problem::{Kind, Problem},
    resources::{self, File, PipelineSpec, Scope, Spec as _},
    store::{EventFilter, Page},
};

/// Which event to try, and on what. One of `event_id`, `recent`, `event` and `case`; without any of them
/// it is `recent`.
#[derive(Debug, Default, Deserialize, utoipa::ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct DryRunRequest {
    /// A stored event.
    event_id: Option<String>,
    /// Use the most recent event that matches the trigger, with its condition, among the last 1000.
    recent: bool,
    /// With `recent`: of this type or group of types.
    #[serde(rename = "type")]
    #[schema(value_type = Option<String>)]
    event_type: Option<Pattern>,
    /// An event that is not stored.
    event: Option<TestEvent>,
    /// One of the pipeline's test cases, with its answers and what it expects.
    case: Option<String>,
    /// What steps that ask are answered instead of asking, as in a test case.
    #[schema(value_type = Object)]
    enriched: BTreeMap<String, Value>,
    /// What must become of it. The answer says what is not so.
    expect: Option<Expectation>,
    /// A pipeline that is not saved, in the place of the one that is. It needs the scope `admin`.
    pipeline: Option<PipelineSpec>,
    /// A whole file of resources that is not applied, as JSON; the pipeline is the one in it. It needs the
    /// scope `admin`. Look-ups are asked as they stand in it; rows of tables are those that are saved.
    #[schema(value_type = Option<Object>)]
    resources: Option<Value>,
}

/// What a pipeline would do with an event.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct DryRun {
    #[serde(flatten)]
    pub subject: Subject,
    /// As it came, or would come.
    pub event: EventView,
    /// Where the event went no further, before any route. Null: the routes had their say.
    pub dropped: Option<Dropped>,
    /// The pipeline's own steps, in their order, as far as the event came.
    pub steps: Vec<Tried>,
    /// Every route, in its order. Empty when the event was dropped before.
    pub routes: Vec<RouteView>,
    /// How often steps were applied besides what is shown, when it is more than 1024 times.
    pub omitted: usize,
    /// What is not as it was expected. Null: nothing was.
    pub failures: Option<Vec<CaseFailure>>,
}

/// Bytes of all bodies that one answer shows.
const SHOWN_BYTES: usize = 16 << 20;

/// What was tried.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = DryRunSubject)]
pub struct Subject {
    pub pipeline: String,
    /// The version that it has; of one that is not saved, the version that it would get.
    pub pipeline_version: u32,
    /// Whether it is as it is saved.
    pub saved: bool,
    /// A disabled pipeline is tried all the same.
    pub enabled: bool,
}

/// A route, and what its destination would get.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = DryRunRouteDetail)]
pub struct RouteView {
    #[serde(flatten)]
    pub route: Route,
    pub messages: Vec<MessageView>,
}

/// One message for a destination.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = DryRunMessage)]
pub struct MessageView {
    pub message_id: String,
    #[serde(rename = "type")]
    pub event_type: String,
    /// One for each URL of the destination, as it would be sent at this moment. A batch would hold more
    /// messages than this one.
    pub requests: Vec<RequestView>,
    /// Why there is no request: a step decided so, or the destination cannot send it.
    pub problem: Option<String>,
}

/// A request as it would be sent. Secrets are `…`. Signatures are real for a caller with the scope `admin`, and
/// `…` for others: a receiver would take them for ours.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = DryRunHttpRequest)]
pub struct RequestView {
    pub method: String,
    pub url: String,
    pub headers: BTreeMap<String, String>,
    pub body: String,
}

/// Try a pipeline
///
/// What it would do with one event, step by step, and the exact requests that its destinations would get.
/// Nothing is sent and nothing is stored; steps that ask ask, within their timeouts and half a minute in all.
#[utoipa::path(
    post,
    path = "/api/v1/pipelines/{pipeline}/test",
    tag = "pipelines",
    params(("pipeline" = String, Path, description = "Its name or id")),
    request_body(content = Option<DryRunRequest>),
    responses(
        (status = 200, description = "What would become of it", body = DryRun),
        (status = "4XX", response = Problem),
    )
)]
pub async fn try_pipeline(
    State(api): State<Api>,
    access: Access<Operate>,
    Path(pipeline): Path<String>,
    body: Body,
) -> Result<Json<DryRun>, Problem> {
    let _turn = api.dry_runs.take(access.project).ok_or_else(busy)?;
    let mut request: DryRunRequest = body.read_or_default()?;
    let forms = [
        request.event_id.is_some(),
        request.recent,
        request.event.is_some(),
        request.case.is_some(),
    ];
    if forms.iter().filter(|it| **it).count() > 1 {
        let rule = "must have exactly one of `event_id`, `recent`, `event` and `case`";
        return Err(Problem::invalid_field("", rule, "several of them"));
    }
    let unsaved =
        Unsaved { pipeline: request.pipeline.take(), resources: request.resources.take() };
    let tried = subject(&api, &access, &pipeline, unsaved)?;
    let trial = compile(&api, &tried).await?;
    let (report, event) = run(&api, &access, &tried, &trial, &mut request).await?;
    let failures = request.expect.as_ref().map(|it| dry::judge(it, &report));
    let now = api.clock.now();
    let Report { dropped, steps, routes, omitted } = report;
    let (mut ordinal, mut room) = (0, SHOWN_BYTES);
    let mut shown = Vec::with_capacity(routes.len());
    for mut route in routes {
        let messages = std::mem::take(&mut route.messages);
        let show = |message: Message| {
            ordinal += 1;
            let may_sign = access.session.caller.may(Right::Admin);
            let view = message_view(&api, &tried, message, &event, (ordinal - 1, may_sign), now);
            view.within(&mut room)
        };
        shown.push(RouteView { messages: messages.into_iter().map(show).collect(), route });
    }
    Ok(Json(DryRun {
        subject: tried.view(),
        event: EventView::of(&event, &tried.catalog),
        dropped,
        steps,
        routes: shown,
        omitted,
        failures,
    }))
}

/// What to run the test cases of.
#[derive(Debug, Default, Deserialize, utoipa::ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TestsRequest {
    /// A pipeline that is not saved, in the place of the one that is. It needs the scope `admin`.
    pipeline: Option<PipelineSpec>,
    /// A whole file of resources that is not applied. It needs the scope `admin`.
    #[schema(value_type = Option<Object>)]
    resources: Option<Value>,
}

/// What came of the test cases of a pipeline.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct TestsOutcome {
    #[serde(flatten)]
    pub subject: Subject,
    pub tests: Vec<CaseResult>,
    /// How many did not pass.
    pub failed: usize,
}

/// Run the test cases of a pipeline
///
/// Nothing is asked, sent or stored.
#[utoipa::path(
    post,
    path = "/api/v1/pipelines/{pipeline}/tests",
    tag = "pipelines",
    params(("pipeline" = String, Path, description = "Its name or id")),
    request_body(content = Option<TestsRequest>),
    responses(
        (status = 200, description = "What came of them, good or bad", body = TestsOutcome),
        (status = "4XX", response = Problem),
    )
)]
pub async fn run_tests(
    State(api): State<Api>,
    access: Access<Operate>,
    Path(pipeline): Path<String>,
    body: Body,
) -> Result<Json<TestsOutcome>, Problem> {
    let _turn = api.dry_runs.take(access.project).ok_or_else(busy)?;
    let TestsRequest { pipeline: document, resources } = body.read_or_default()?;
    let unsaved = Unsaved { pipeline: document, resources };
    let tried = subject(&api, &access, &pipeline, unsaved)?;
    let (pipeline, catalog) = (tried.pipeline.clone(), tried.catalog.clone());
    let tools = api.tools.clone();
    let rehearse = move || dry::rehearse(&pipeline, &catalog, &tools);
    let tests = tokio::task::spawn_blocking(rehearse).await.map_err(|_| ended_badly())?;
    let failed = tests.iter().filter(|it| !it.passed).count();
    Ok(Json(TestsOutcome { subject: tried.view(), tests, failed }))
}

pub(super) fn busy() -> Problem {
    let problem = Problem::new(Kind::Overloaded).retry_after(Duration::from_secs(1));
    problem.detail("other pipelines are being tried, or other events planned for a replay")
}

fn ended_badly() -> Problem {
    Problem::new(Kind::Internal).detail("see the server log for details")
}

/// The pipeline to try, among the resources as they are, or as they would be.
struct Subjected {
    pipeline: Arc<Pipeline>,
    catalog: Arc<Catalog>,
    is_saved: bool,
}

impl Subjected {
    fn view(&self) -> Subject {
        Subject {
            pipeline: self.pipeline.name.to_string(),
            pipeline_version: self.pipeline.version,
            saved: self.is_saved,
            enabled: self.pipeline.enabled,
        }
    }
}

struct Unsaved {
    pipeline: Option<PipelineSpec>,
    resources: Option<Value>,
}

fn subject(
    api: &Api,
    access: &Access<Operate>,
    named: &str,
    unsaved: Unsaved,
) -> Result<Subjected, Problem> {
    let catalog = api.catalog_writer.current();
    let project = access.project;
    let means = api.means(&access.session.caller);
    let is_saved = unsaved.pipeline.is_none() && unsaved.resources.is_none();
    // It shows stored events, and what is known of whom they are about.
    if !access.session.caller.may(Right::Read) {
        let detail = "the API key needs the scope `read` besides `operate`";
        return Err(Problem::new(Kind::Forbidden).detail(detail));
    }
    if !is_saved && !access.session.caller.may(Right::Admin) {
        let detail = "a pipeline that is not saved needs the scope `admin`, as saving it does";
        return Err(Problem::new(Kind::Forbidden).detail(detail));
    }
    match unsaved {
        Unsaved { pipeline: None, resources: None } => {
            let pipeline = find::<Pipeline>(&catalog, project, named)?.clone();
            Ok(Subjected { pipeline, catalog, is_saved })
        }
        Unsaved { pipeline: Some(spec), resources: None } => {
            let old = find::<Pipeline>(&catalog, project, named).ok();
            let scope = Scope::new(&catalog, project, means);
            let checked = spec.check(&scope, old.map(AsRef::as_ref));
            let pipeline = checked.map_err(|wrong| {
                let within = wrong.into_iter().map(|it| it.within("pipeline"));
                Problem::from(within.collect::<Vec<_>>())
            })?;
            Ok(Subjected { pipeline: Arc::new(pipeline), catalog, is_saved })
        }
        Unsaved { pipeline: None, resources: Some(file) } => {
            let file = File::from_json(file)?;
            let own = catalog.project_named(file.project().as_str()).map(|it| it.id);
            if own != Some(project) {
                let detail = "the file is about another project than the request";
                return Err(Problem::new(Kind::Forbidden).detail(detail));
            }
            let planned = resources::plan(&file, &catalog, means, false)?;
            let pipeline = find::<Pipeline>(&planned.catalog, project, named)?.clone();
            Ok(Subjected { pipeline, catalog: Arc::new(planned.catalog), is_saved })
        }
        Unsaved { pipeline: Some(_), resources: Some(_) } => {
            let rule = "must not be given together with `pipeline`";
            Err(Problem::invalid_field("resources", rule, "both"))
        }
    }
}

/// Compiles scripts, which holds its thread.
async fn compile(api: &Api, tried: &Subjected) -> Result<Arc<Trial>, Problem> {
    let (pipeline, catalog) = (tried.pipeline.clone(), tried.catalog.clone());
    let tools = api.tools.clone();
    let compile = move || Arc::new(Trial::new(&pipeline, &catalog, &tools));
    tokio::task::spawn_blocking(compile).await.map_err(|_| ended_badly())
}

async fn run(
    api: &Api,
    access: &Access<Operate>,
    tried: &Subjected,
    trial: &Arc<Trial>,
    request: &mut DryRunRequest,
) -> Result<(Report, Arc<Event>), Problem> {
    if let Some(name) = &request.case {
        let found = tried.pipeline.tests.iter().find(|it| it.name == *name);
        let case = found.ok_or_else(|| Problem::not_found("test case"))?;
        request.expect.get_or_insert_with(|| case.expect.clone());
        let event = trial.case_event(case, &tried.catalog).map_err(|_| no_source("case"))?;
        let (trial, given, its) = (trial.clone(), case.enriched.clone(), event.clone());
        let run = tokio::task::spawn_blocking(move || trial.run_alone(&its, given)).await;
        let report = run.ok().flatten().ok_or_else(ended_badly)?;
        return Ok((report, event));
    }
    let event = match (&request.event, &request.event_id) {
        (Some(test), _) => {
            let now = api.clock.now();
            let id = EventId::new(now, 0, api.random.u64());
            let event = dry::event(test, &tried.pipeline, &tried.catalog, id, now);
            Arc::new(event.map_err(|_| no_source("event.source"))?)
        }
        (None, Some(id)) => find_event(api, access.project, id).await?.event,
        (None, None) => recent(api, access.project, trial, request.event_type.as_ref()).await?,
    };
    if event.source == SourceId::SYSTEM {
        let detail = "Tidegate sent this event itself, and no pipeline sees it";
        return Err(Problem::new(Kind::Rejected).detail(detail));
    }
    let given: GivenAnswers = std::mem::take(&mut request.enriched);
    let remembered = match trial.detects() {
        true => api.database.memories().await?,
        false => Vec::new(),
    };
    let unsaved = (!tried.is_saved).then(|| api.lookups.under(&tried.catalog)).flatten();
    let lookups = unsaved.as_ref().unwrap_or(&api.lookups);
    let report = trial.run(&event, given, remembered, lookups.as_ref()).await;
    Ok((report.ok_or_else(ended_badly)?, event))
}

fn no_source(field: &str) -> Problem {
    Problem::invalid_field(field, "must be the name of a source of this project", "another name")
}

/// The newest event that the trigger takes.
async fn recent(
    api: &Api,
    project: ProjectId,
    trial: &Trial,
    wanted: Option<&Pattern>,
) -> Result<Arc<Event>, Problem> {
    /// Events that are looked at.
    const MOST: usize = 1000;
    const PAGE: usize = 100;
    let only = match &trial.pipeline().on[..] {
        [only] => Some(only),
        _ => None,
    };
    let event_type = wanted.or(only).cloned();
    let filter = EventFilter { event_type, ..EventFilter::default() };
    let (mut before, mut seen) = (None, 0);
    while seen < MOST {
        let page = Page { before, limit: PAGE };
        let events = api.database.events(project, &filter, page).await?;
        let Some(last) = events.last() else { break };
        before = Some((last.seq.0, 0));
        seen += events.len();
        for event in events {
            let event = Arc::new(event);
            if event.source != SourceId::SYSTEM && trial.takes(&event) {
                return Ok(event);
            }
        }
    }
    let detail = format!(
        "none of the last {seen} events is one that the pipeline's trigger takes: paste one as `event`"
    );
    Err(Problem::new(Kind::NotFound).detail(detail))
}

fn message_view(
    api: &Api,
    tried: &Subjected,
    message: Message,
    event: &Arc<Event>,
    (ordinal, may_sign): (u16, bool),
    now: jiff::Timestamp,
) -> MessageView {
    let (destination, event_type) = (message.destination, message.event_type.to_string());
    let dead = message.planned.dead.clone();
    let message: model::Message = message.into_message(event, ordinal);
    let message_id = message.message_id();
    let (requests, problem) = match dead {
        Some(reason) => (Vec::new(), Some(format!("it would be a dead letter: {reason}"))),
        None => {
            let outlet = match tried.is_saved {
                true => api.outlets.get(destination),
                false => {
                    tried.catalog.destinations.get(&destination).map(|it| api.outlets.build(it))
                }
            };
            match outlet.map(|it| it.preview(&[message], now)) {
                None => (Vec::new(), Some("the destination is gone".to_owned())),
                Some(Err(outcome)) => (Vec::new(), Some(outcome.reason)),
                Some(Ok(requests)) => {
                    let view = |it| RequestView::of(it, may_sign);
                    (requests.into_iter().map(view).collect(), None)
                }
            }
        }
    };
    MessageView { message_id, event_type, requests, problem }
}

impl MessageView {
    /// Without its requests, where there is no room to show them.
    fn within(mut self, room: &mut usize) -> Self {
        let bytes = self.requests.iter().map(|it| it.body.len()).sum();
        match room.checked_sub(bytes) {
            Some(rest) => *room = rest,
            None => {
                self.requests.clear();
                self.problem = Some("the bodies are too large to show more of them".to_owned());
            }
        }
        self
    }
}

impl RequestView {
    fn of(mut preview: Preview, may_sign: bool) -> Self {
        if let Some(signature) = preview.signature.filter(|_| !may_sign) {
            let signatures = preview.headers.iter_mut().filter(|it| it.0 == signature);
            signatures.for_each(|it| "…".clone_into(&mut it.1));
        }
        Self {
            method: preview.method,
            url: preview.url,
            headers: preview.headers.into_iter().collect(),
            body: String::from_utf8_lossy(&preview.body).into_owned(),
        }
    }
}
