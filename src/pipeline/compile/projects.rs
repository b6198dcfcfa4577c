//! The pipelines of all projects, with what their names mean now.

use std::{collections::HashMap, sync::Arc};

use super::{compiled::CompiledPipeline, lanes::LaneRule};
use crate::{
    catalog::Catalog,
    model::{
        DestinationId, Event, IdMap, Name, Pattern, Pipeline, PipelineId, ProjectId, Route,
        SourceId, StepId,
    },
    pipeline::{
        Tools,
        steps::{Invalid, Remembers},
    },
};

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
    super::compile_for(&project, document, tools).map(Arc::new).map_err(|wrong| {
        let reason = wrong.first().map(Invalid::to_string).unwrap_or_default();
        tracing::error!(project, pipeline = %document.name, %reason, "a stored pipeline does not compile; it plans nothing");
        reason
    })
}

#[derive(Default)]
pub(in crate::pipeline) struct ProjectPipelines {
    /// In the order in which they were made.
    pub pipelines: Vec<Active>,
    pub sources: HashMap<SourceId, Name>,
    /// Every destination, also those to which no pipeline routes.
    pub destinations: HashMap<DestinationId, Arc<RouteTarget>>,
}

/// A pipeline that is enabled, with what its names mean now.
pub(in crate::pipeline) struct Active {
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
pub(in crate::pipeline) struct RouteTarget {
    pub id: DestinationId,
    /// The name by which an event can exclude it.
    pub integration: Option<String>,
    pub line: LaneRule,
}

impl Compiled {
    /// Whether more than one project has something to be planned by.
    pub(in crate::pipeline) fn has_several_projects(&self) -> bool {
        self.projects.len() > 1
    }
}

impl Active {
    pub(in crate::pipeline) fn wants(&self, event: &Event) -> bool {
        (self.on.is_empty() || self.on.iter().any(|it| it.matches(&event.event_type)))
            && self.sources.as_ref().is_none_or(|it| it.contains(&event.source))
    }

    /// Whether one of its steps remembers events: those are planned in the order in which they came.
    pub(in crate::pipeline) fn remembers(&self) -> bool {
        self.compiled.as_ref().is_ok_and(|pipeline| {
            let routes = pipeline.routes.iter().flat_map(|it| &it.steps);
            pipeline.steps.iter().chain(routes).any(|it| it.remembers().is_some())
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

    pub(in crate::pipeline) fn project(&self, id: ProjectId) -> Option<&ProjectPipelines> {
        self.projects.get(&id)
    }

    /// Whether a destination has got another ordering since `before`.
    pub(in crate::pipeline) fn has_new_era(&self, before: &Self) -> bool {
        self.projects.iter().any(|(id, project)| {
            let Some(before) = before.project(*id) else { return false };
            project.destinations.values().any(|it| {
                before.destinations.get(&it.id).is_some_and(|old| old.line.era != it.line.era)
            })
        })
    }

    /// All steps that remember something, with their project and the name of their pipeline.
    pub(in crate::pipeline) fn detects(
        &self,
    ) -> impl Iterator<Item = (ProjectId, &Name, StepId, &dyn Remembers)> {
        let actives =
            self.projects.iter().flat_map(|(id, it)| it.pipelines.iter().map(|it| (*id, it)));
        let ready = actives.filter_map(|(id, it)| Some((id, it.compiled.as_ref().ok()?)));
        ready.flat_map(|(project, it)| {
            it.detects().map(move |(step, detect)| (project, &it.name, step, detect))
        })
    }

    /// Whether it is enabled, but does not compile: a newer program may know it again.
    pub(in crate::pipeline) fn is_broken(&self, pipeline: PipelineId) -> bool {
        self.cache.get(&pipeline).is_some_and(|it| it.1.is_err())
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
