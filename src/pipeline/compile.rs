//! Pipelines, ready to run: expressions compiled, names of sources and destinations looked up.
//!
//! A pipeline is compiled once for each of its versions. What it refers to is looked up again with
//! every change of the catalogue, which costs no compilation.

use std::{collections::HashMap, sync::Arc};

use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::{
    Tools,
    detect::Detect,
    reasons::does_not_hold,
    steps::{self, Step},
};
use crate::{
    catalog::Catalog,
    expr::{Condition, ExprError, Key, Names},
    model::{
        Destination, DestinationId, Edge, Era, IdMap, Name, Ordering, Pattern, Pipeline,
        PipelineId, ProjectId, Route, SourceId, StepId, StepSpec,
    },
    script::Place,
};

/// What is wrong with a pipeline, and where: `routes[0].steps[1].filter.match`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {rule}, found {found}")]
pub struct Invalid {
    pub path: String,
    pub rule: String,
    /// The kind of what stands there, never its value.
    pub found: String,
}

impl Invalid {
    pub fn new(path: &str, rule: impl Into<String>, found: impl Into<String>) -> Self {
        Self { path: path.to_owned(), rule: rule.into(), found: found.into() }
    }

    pub fn expression(path: &str, error: &ExprError) -> Self {
        let ExprError { line, column, expected, found } = error;
        let rule = format!("must have {expected} at line {line}, column {column}");
        Self::new(path, rule, found.clone())
    }
}

/// A pipeline whose expressions and steps are compiled.
pub struct CompiledPipeline {
    pub(super) id: PipelineId,
    pub(super) version: u32,
    pub(super) name: Name,
    pub(super) when: Option<When>,
    pub(super) steps: Vec<Box<dyn Step>>,
    pub(super) routes: Vec<CompiledRoute>,
    /// The places at which events are counted, in their order.
    pub(super) edges: Arc<[Edge]>,
}

pub(super) struct CompiledRoute {
    pub to: Name,
    /// Tells it apart from the other routes of the pipeline, whatever their order.
    pub mark: u64,
    /// Where it stands among the `edges`; its steps follow it.
    pub edge: usize,
    pub when: Option<When>,
    pub steps: Vec<Box<dyn Step>>,
}

/// A condition, with what people read when it does not hold.
pub(super) struct When {
    pub condition: Condition,
    pub reason: String,
}

/// Steps of a pipeline, or of a route.
const MOST_STEPS: usize = 50;

/// Compiles a pipeline, or says everything that is wrong with it.
pub fn compile(pipeline: &Pipeline, tools: &Tools) -> Result<CompiledPipeline, Vec<Invalid>> {
    compile_for(&pipeline.project.to_string(), pipeline, tools)
}

/// The same, for a project that people know by this name.
fn compile_for(
    project_name: &str,
    pipeline: &Pipeline,
    tools: &Tools,
) -> Result<CompiledPipeline, Vec<Invalid>> {
    let mut wrong = Vec::new();
    let when = compile_when(pipeline.when.as_deref(), "when", &[], &mut wrong);
    let mut results = Vec::new();
    let at = Making { project_name, pipeline, tools };
    let steps = compile_steps(at, &pipeline.steps, "steps", &mut results, &mut wrong);
    let mut routes = Vec::with_capacity(pipeline.routes.len());
    let mut edges = Vec::from_iter(edges_of(None, steps.len()));
    for (place, route) in pipeline.routes.iter().enumerate() {
        let Route { to, when, steps } = route;
        let path = |field: &str| format!("routes[{place}].{field}");
        // What a route's steps find out is known in that route only.
        let mut results = results.clone();
        let when = compile_when(when.as_deref(), &path("when"), &results, &mut wrong);
        let steps = compile_steps(at, steps, &path("steps"), &mut results, &mut wrong);
        let same = routes.iter().filter(|it: &&CompiledRoute| it.to == *to).count() as u64;
        let mark = xxh3_64_with_seed(to.as_str().as_bytes(), 1 + same);
        let edge = edges.len();
        edges.extend(edges_of(u16::try_from(place).ok(), steps.len()));
        routes.push(CompiledRoute { to: to.clone(), mark, edge, when, steps });
    }
    if !wrong.is_empty() {
        return Err(wrong);
    }
    let Pipeline { id, version, name, .. } = pipeline;
    let (id, version, name, edges) = (*id, *version, name.clone(), edges.into());
    Ok(CompiledPipeline { id, version, name, when, steps, routes, edges })
}

/// The places of a pipeline or a route with so many steps, itself before them.
fn edges_of(route: Option<u16>, steps: usize) -> impl Iterator<Item = Edge> {
    let steps = (0..steps).map(|it| u16::try_from(it).ok());
    std::iter::once(None).chain(steps).map(move |step| Edge { route, step })
}

fn compile_when(
    source: Option<&str>,
    path: &str,
    results: &[String],
    wrong: &mut Vec<Invalid>,
) -> Option<When> {
    let source = source?;
    match Condition::compile_with(source, &Names { results, bare: false }) {
        Ok(condition) => Some(When { condition, reason: does_not_hold(source) }),
        Err(error) => {
            wrong.push(Invalid::expression(path, &error));
            None
        }
    }
}

/// For what steps are made, and with what.
#[derive(Clone, Copy)]
struct Making<'a> {
    project_name: &'a str,
    pipeline: &'a Pipeline,
    tools: &'a Tools,
}

fn compile_steps(
    at: Making<'_>,
    specs: &[StepSpec],
    path: &str,
    results: &mut Vec<String>,
    wrong: &mut Vec<Invalid>,
) -> Vec<Box<dyn Step>> {
    if specs.len() > MOST_STEPS {
        wrong.push(Invalid::new(path, "must hold at most 50 steps", "more"));
        return Vec::new();
    }
    let mut compiled = Vec::with_capacity(specs.len());
    for (place, spec) in specs.iter().enumerate() {
        match steps::build(spec, results, at.pipeline.project, at.tools) {
            Ok(step) => {
                for name in step.adds() {
                    if !results.iter().any(|it| it == name) {
                        results.push(name.to_owned());
                    }
                }
                if let Some(script) = step.transform() {
                    script.stands_at(Place {
                        project: at.project_name.to_owned(),
                        pipeline: at.pipeline.name.to_string(),
                        step: format!("{path}[{place}]"),
                    });
                }
                compiled.push(step);
            }
            Err(error) => {
                let dot = if error.path.is_empty() { "" } else { "." };
                let path = format!("{path}[{place}]{dot}{}", error.path);
                wrong.push(Invalid { path, ..error });
            }
        }
    }
    compiled
}

/// All pipelines of a catalogue.
#[derive(Default)]
pub struct Compiled {
    projects: IdMap<ProjectId, ProjectPipelines>,
    /// What each pipeline document compiled to, to be taken over when it has not changed.
    cache: HashMap<PipelineId, (Arc<Pipeline>, Attempted)>,
}

/// A pipeline that is ready, or why it cannot be.
type Attempted = Result<Arc<CompiledPipeline>, String>;

fn attempt(document: &Pipeline, catalog: &Catalog, tools: &Tools) -> Attempted {
    let project = catalog.projects.get(&document.project).map(|it| it.name.to_string());
    let project = project.unwrap_or_else(|| document.project.to_string());
    compile_for(&project, document, tools).map(Arc::new).map_err(|wrong| {
        let reason = wrong.first().map(Invalid::to_string).unwrap_or_default();
        tracing::error!(project, pipeline = %document.name, %reason, "a stored pipeline does not compile; it plans nothing");
        reason
    })
}

#[derive(Default)]
pub(super) struct ProjectPipelines {
    /// In the order in which they were made.
    pub pipelines: Vec<Active>,
    pub sources: HashMap<SourceId, Name>,
    /// Every destination, also those to which no pipeline routes.
    pub destinations: HashMap<DestinationId, Arc<RouteTarget>>,
}

/// A pipeline that is enabled, with what its names mean now.
pub(super) struct Active {
    pub id: PipelineId,
    pub name: Name,
    pub version: u32,
    pub on: Vec<Pattern>,
    /// `None`: any source.
    pub sources: Option<Vec<SourceId>>,
    /// Or why it does not compile. It then plans nothing, and says so with each event it wants.
    pub compiled: Attempted,
    /// For each route its destination, if there is one of that name.
    pub targets: Vec<Option<Arc<RouteTarget>>>,
}

/// A destination, as far as planning needs it.
pub(super) struct RouteTarget {
    pub id: DestinationId,
    /// The name by which an event can exclude it.
    pub integration: Option<String>,
    pub line: LaneRule,
}

/// Which deliveries of a destination wait for each other.
pub(super) struct LaneRule {
    pub era: Era,
    pub by: By,
}

pub(super) enum By {
    None,
    Fifo,
    Key(Key),
    /// The key does not compile, which was refused when it was saved: keep the order of all.
    Broken,
}

impl Compiled {
    /// Whether more than one project has something to be planned by.
    pub(super) fn has_several_projects(&self) -> bool {
        self.projects.len() > 1
    }
}

impl Active {
    /// Whether one of its steps remembers events: those are planned in the order in which they came.
    pub(super) fn remembers(&self) -> bool {
        self.compiled.as_ref().is_ok_and(|pipeline| {
            let routes = pipeline.routes.iter().flat_map(|it| &it.steps);
            pipeline.steps.iter().chain(routes).any(|it| it.detect().is_some())
        })
    }
}

impl Compiled {
    /// Compiles what has changed since `before`, and takes over the rest.
    pub fn of(catalog: &Catalog, before: &Self, tools: &Tools) -> Self {
        let mut next = Self::default();
        for source in catalog.sources.values() {
            let project = next.projects.entry(source.project).or_default();
            project.sources.insert(source.id, source.name.clone());
        }
        let targets = targets(catalog);
        for ((project, _), target) in &targets {
            let project = next.projects.entry(*project).or_default();
            project.destinations.insert(target.id, target.clone());
        }
        for (id, document) in &catalog.pipelines {
            if !document.enabled {
                continue;
            }
            let compiled = match before.cache.get(id) {
                Some((old, compiled)) if Arc::ptr_eq(old, document) => compiled.clone(),
                Some(_) | None => attempt(document, catalog, tools),
            };
            next.cache.insert(*id, (document.clone(), compiled.clone()));
            let project = next.projects.entry(document.project).or_default();
            let sources = (!document.sources.is_empty()).then(|| {
                let named = |name: &Name| catalog.source_named(document.project, name.as_str());
                document.sources.iter().filter_map(named).map(|it| it.id).collect()
            });
            let target = |route: &Route| targets.get(&(document.project, &route.to)).cloned();
            project.pipelines.push(Active {
                id: *id,
                name: document.name.clone(),
                version: document.version,
                on: document.on.clone(),
                sources,
                compiled,
                targets: document.routes.iter().map(target).collect(),
            });
        }
        next
    }

    pub(super) fn project(&self, id: ProjectId) -> Option<&ProjectPipelines> {
        self.projects.get(&id)
    }

    /// Whether a destination has got another ordering since `before`.
    pub(super) fn has_new_era(&self, before: &Self) -> bool {
        self.projects.iter().any(|(id, project)| {
            let Some(before) = before.project(*id) else { return false };
            project.destinations.values().any(|it| {
                before.destinations.get(&it.id).is_some_and(|old| old.line.era != it.line.era)
            })
        })
    }

    /// All steps that remember something, with their project and the name of their pipeline.
    pub(super) fn detects(&self) -> impl Iterator<Item = (ProjectId, &Name, StepId, &Detect)> {
        let actives =
            self.projects.iter().flat_map(|(id, it)| it.pipelines.iter().map(|it| (*id, it)));
        let ready = actives.filter_map(|(id, it)| Some((id, it.compiled.as_ref().ok()?)));
        ready.flat_map(|(project, it)| {
            it.detects().map(move |(step, detect)| (project, &it.name, step, detect))
        })
    }

    /// Whether it is enabled, but does not compile: a newer program may know it again.
    pub(super) fn is_broken(&self, pipeline: PipelineId) -> bool {
        self.cache.get(&pipeline).is_some_and(|it| it.1.is_err())
    }
}

impl CompiledPipeline {
    fn detects(&self) -> impl Iterator<Item = (StepId, &Detect)> {
        let own = self.steps.iter().map(|it| (0, it));
        let routes = self.routes.iter().flat_map(|it| it.steps.iter().map(|step| (it.mark, step)));
        own.chain(routes).filter_map(|(mark, it)| {
            let detect = it.detect()?;
            Some((detect.id(self.id, mark), detect))
        })
    }
}

fn targets(catalog: &Catalog) -> HashMap<(ProjectId, &Name), Arc<RouteTarget>> {
    let mut targets = HashMap::new();
    for destination in catalog.destinations.values() {
        let target = RouteTarget {
            id: destination.id,
            integration: destination.connection.integration().map(str::to_owned),
            line: LaneRule::of(destination),
        };
        targets.insert((destination.project, &destination.name), Arc::new(target));
    }
    targets
}

impl LaneRule {
    pub fn of(destination: &Destination) -> Self {
        let by = match &destination.policy.ordering {
            Ordering::None => By::None,
            Ordering::Fifo => By::Fifo,
            Ordering::Key(source) => Key::compile(source).map_or_else(
                |error| {
                    tracing::error!(destination = %destination.name, %error, "a stored ordering key does not compile; all deliveries keep their order");
                    By::Broken
                },
                By::Key,
            ),
        };
        Self { era: destination.era, by }
    }
}
