//! From what people wrote to the model: everything that can be known to be wrong is said here,
//! before anything is kept.

use std::time::Duration;

use super::{
    DestinationSpec, EventTypeSpec, Invalid, PipelineSpec, ProjectSpec, Scope, SourceSpec, cases,
    diff::Shown as _, lookup,
};
use crate::{
    model::{EventType, Pipeline, Project, RawJson, Route},
    pipeline,
};

/// A shape in which people write one kind of resource.
pub trait Spec: Sized {
    type Model;

    /// The resource, or everything that is wrong with it. `old` is the resource that it replaces:
    /// its id and its history stay, and when nothing changes, it comes back as it is.
    fn check(
        &self,
        scope: &Scope<'_>,
        old: Option<&Self::Model>,
    ) -> Result<Self::Model, Vec<Invalid>>;

    /// The shape of a resource, every field of it, with placeholders for its secrets.
    fn of(model: &Self::Model) -> Self;
}

pub(super) const TAKEN: &str = "must be a name that no other resource of this kind has";
const MOST_ROUTES: usize = 100;

impl Spec for ProjectSpec {
    type Model = Project;

    fn check(&self, scope: &Scope<'_>, old: Option<&Project>) -> Result<Project, Vec<Invalid>> {
        const SHORTEST: Duration = Duration::from_secs(60);
        let mut wrong = Vec::new();
        let namesake = scope.catalog.project_named(self.name.as_str());
        if namesake.is_some_and(|it| Some(it.id) != old.map(|old| old.id)) {
            wrong.push(Invalid::new("name", TAKEN, "the name of another project"));
        }
        if self.retention.is_some_and(|it| it < SHORTEST) {
            wrong.push(Invalid::new("retention", "must be at least 1m", "a shorter time"));
        }
        all_right(wrong)?;
        Ok(Project {
            id: old.map_or_else(|| scope.id(), |it| it.id),
            name: self.name.clone(),
            retention: self.retention,
            created_at: old.map_or(scope.means.now, |it| it.created_at),
        })
    }

    fn of(model: &Project) -> Self {
        Self { name: model.name.clone(), retention: model.retention }
    }
}

impl Spec for EventTypeSpec {
    type Model = EventType;

    fn check(&self, scope: &Scope<'_>, old: Option<&EventType>) -> Result<EventType, Vec<Invalid>> {
        let mut wrong = Vec::new();
        let namesake = (scope.catalog.event_types.values())
            .find(|it| it.project == scope.project && it.name == self.name);
        if namesake.is_some_and(|it| Some(it.id) != old.map(|old| old.id)) {
            wrong.push(Invalid::new("name", TAKEN, "the name of another event type"));
        }
        if self.description.len() > 4096 {
            wrong.push(Invalid::new("description", "must be at most 4096 bytes", "a longer text"));
        }
        all_right(wrong)?;
        Ok(EventType {
            id: old.map_or_else(|| scope.id(), |it| it.id),
            project: scope.project,
            name: self.name.clone(),
            description: self.description.clone(),
            example: self.example.as_ref().map(RawJson::of),
            created_at: old.map_or(scope.means.now, |it| it.created_at),
        })
    }

    fn of(model: &EventType) -> Self {
        Self {
            name: model.name.clone(),
            description: model.description.clone(),
            example: model.example.as_ref().map(RawJson::to_value),
        }
    }
}

impl Spec for PipelineSpec {
    type Model = Pipeline;

    fn check(&self, scope: &Scope<'_>, old: Option<&Pipeline>) -> Result<Pipeline, Vec<Invalid>> {
        let (catalog, project) = (scope.catalog, scope.project);
        let mut wrong = Vec::new();
        let namesake = catalog.pipeline_named(project, self.name.as_str());
        if namesake.is_some_and(|it| Some(it.id) != old.map(|old| old.id)) {
            wrong.push(Invalid::new("name", TAKEN, "the name of another pipeline"));
        }
        for (place, source) in self.sources.iter().enumerate() {
            let is_there = catalog.source_named(project, source.as_str()).is_some();
            if !is_there && !scope.is_refused(SourceSpec::KIND, source) {
                let rule = "must be the name of a source of this project";
                wrong.push(Invalid::new(format!("sources[{place}]"), rule, "another name"));
            }
        }
        if self.routes.is_empty() || self.routes.len() > MOST_ROUTES {
            let found = if self.routes.is_empty() { "none" } else { "more" };
            wrong.push(Invalid::new("routes", "must hold 1 to 100 routes", found));
        }
        for (place, route) in self.routes.iter().enumerate() {
            let is_there = catalog.destination_named(project, route.to.as_str()).is_some();
            if !is_there && !scope.is_refused(DestinationSpec::KIND, &route.to) {
                let rule = "must be the name of a destination of this project";
                wrong.push(Invalid::new(format!("routes[{place}].to"), rule, "another name"));
            }
        }
        lookup::check_steps(&self.steps, "steps", scope, &mut wrong);
        for (place, route) in self.routes.iter().enumerate() {
            let path = format!("routes[{place}].steps");
            lookup::check_steps(&route.steps, &path, scope, &mut wrong);
        }
        cases::check(&self.tests, &mut wrong);
        let pipeline = Pipeline {
            id: old.map_or_else(|| scope.id(), |it| it.id),
            project,
            name: self.name.clone(),
            version: old.map_or(1, |it| it.version),
            enabled: self.enabled,
            on: self.on.clone(),
            sources: self.sources.clone(),
            when: self.when.clone(),
            steps: self.steps.clone(),
            routes: (self.routes.iter())
                .map(|it| Route {
                    to: it.to.clone(),
                    when: it.when.clone(),
                    steps: it.steps.clone(),
                })
                .collect(),
            tests: self.tests.clone(),
            created_at: old.map_or(scope.means.now, |it| it.created_at),
            saved_at: old.and_then(|it| it.saved_at),
            saved_by: old.and_then(|it| it.saved_by),
        };
        if let Err(more) = pipeline::compile(&pipeline, &pipeline::Tools::new(scope.means.vault)) {
            wrong.extend(more.into_iter().map(Invalid::from));
        }
        all_right(wrong)?;
        if old == Some(&pipeline) {
            return Ok(pipeline);
        }
        let (saved_at, saved_by) = (Some(scope.means.now), Some(scope.means.author));
        let version = old.map_or(1, |it| it.version + 1);
        Ok(Pipeline { version, saved_at, saved_by, ..pipeline })
    }

    fn of(model: &Pipeline) -> Self {
        super::show::pipeline(model)
    }
}

pub(super) fn all_right(wrong: Vec<Invalid>) -> Result<(), Vec<Invalid>> {
    if wrong.is_empty() { Ok(()) } else { Err(wrong) }
}
