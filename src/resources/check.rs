//! From what people wrote to the model: everything that can be known to be wrong is said here,
//! before anything is kept.

use std::time::Duration;

use super::{
    DestinationSpec, EventTypeSpec, Invalid, PipelineSpec, ProjectSpec, Scope, SourceSpec, cases,
    diff::Shown as _, lookup,
};
use crate::{
    model::{EventType, Pipeline, Project, RawJson, Route, TypeName, Validate},
    pipeline,
    schema::{InvalidSchema, Schema},
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
        let is_heading = |it: &String| {
            (1..=64).contains(&it.chars().count()) && !it.chars().any(char::is_control)
        };
        if self.group.as_ref().is_some_and(|it| !is_heading(it)) {
            let rule = "must be 1 to 64 characters, in one line";
            wrong.push(Invalid::new("group", rule, "another text"));
        }
        self.check_schema(&mut wrong);
        all_right(wrong)?;
        Ok(EventType {
            id: old.map_or_else(|| scope.id(), |it| it.id),
            project: scope.project,
            name: self.name.clone(),
            description: self.description.clone(),
            group: self.group.clone(),
            example: self.example.as_ref().map(RawJson::of),
            schema: self.schema.as_ref().map(RawJson::of),
            validate: self.validate,
            created_at: old.map_or(scope.means.now, |it| it.created_at),
        })
    }

    fn of(model: &EventType) -> Self {
        Self {
            name: model.name.clone(),
            description: model.description.clone(),
            group: model.group.clone(),
            example: model.example.as_ref().map(RawJson::to_value),
            schema: model.schema.as_ref().map(RawJson::to_value),
            validate: model.validate,
        }
    }
}

impl EventTypeSpec {
    /// A type of which nothing is said.
    pub fn named(name: TypeName) -> Self {
        Self {
            name,
            description: String::new(),
            group: None,
            example: None,
            schema: None,
            validate: Validate::Off,
        }
    }

    /// Notes what is wrong with the schema, and with the example by the schema.
    fn check_schema(&self, wrong: &mut Vec<Invalid>) {
        const LARGEST_EXAMPLE: usize = 64 * 1024;
        let is_large = |it: &serde_json::Value| it.to_string().len() > LARGEST_EXAMPLE;
        if self.example.as_ref().is_some_and(is_large) {
            let rule = format!("must be at most {LARGEST_EXAMPLE} bytes");
            wrong.push(Invalid::new("example", rule, "more"));
            return;
        }
        let schema = match (&self.schema, self.validate) {
            (None, Validate::Off) => return,
            (None, Validate::Flag | Validate::Reject) => {
                let rule = "must be there, since events are held to it by `validate`";
                wrong.push(Invalid::new("schema", rule, "nothing"));
                return;
            }
            (Some(schema), _) => schema,
        };
        match Schema::compile(schema) {
            Ok(compiled) => {
                let faults = self.example.as_ref().map(|it| compiled.faults(it));
                wrong.extend(faults.into_iter().flatten().map(|it| {
                    let rule = format!("must agree with the schema: {}", it.rule);
                    Invalid::new(format!("example{}", it.path), rule, "something else")
                }));
            }
            Err(InvalidSchema { pointer, rule }) => {
                let path = format!("schema{}", pointer.replace('/', "."));
                let rule = format!("{rule} (at `{pointer}`)");
                wrong.push(Invalid::new(path, rule, "something else"));
            }
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
