//! From what people wrote to the model: everything that can be known to be wrong is said here,
//! before anything is kept.

use std::time::Duration;

use super::{
    DestinationKind, DestinationSpec, EventTypeSpec, Invalid, PipelineSpec, ProjectSpec, Scope,
    SourceSpec, diff::Shown as _, policy, secrets::Safe,
};
use crate::{
    destinations::{profiles, webhook},
    expr::Key,
    model::{
        Connection, Contract, Destination, DestinationId, DestinationState, EventType, Ordering,
        Pipeline, Policy, Profile, Project, RawJson, Route, Target, Webhook,
    },
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
            created_at: old.map_or(scope.means.now, |it| it.created_at),
        };
        if let Err(more) = pipeline::compile(&pipeline) {
            wrong.extend(more.into_iter().map(Invalid::from));
        }
        all_right(wrong)?;
        Ok(match old {
            Some(old) if *old != pipeline => Pipeline { version: old.version + 1, ..pipeline },
            Some(_) | None => pipeline,
        })
    }

    fn of(model: &Pipeline) -> Self {
        super::show::pipeline(model)
    }
}

impl Spec for DestinationSpec {
    type Model = Destination;

    fn check(
        &self,
        scope: &Scope<'_>,
        old: Option<&Destination>,
    ) -> Result<Destination, Vec<Invalid>> {
        let mut wrong = Vec::new();
        let namesake = scope.catalog.destination_named(scope.project, self.name.as_str());
        if namesake.is_some_and(|it| Some(it.id) != old.map(|old| old.id)) {
            wrong.push(Invalid::new("name", TAKEN, "the name of another destination"));
        }
        let id = old.map_or_else(|| scope.id(), |it| it.id);
        let policy = self.policy();
        wrong.extend(policy::check(&policy));
        if let Ordering::Key(expression) = &policy.ordering
            && let Err(error) = Key::compile(expression)
        {
            wrong.push(pipeline::Invalid::expression("ordering.key", &error).into());
        }
        let DestinationKind::Webhook = self.kind;
        let connection = self.webhook(scope, id, old, &mut wrong);
        all_right(wrong)?;
        // Without a connection something was wrong, and we are not here.
        let Some(connection) = connection else { return Err(Vec::new()) };
        let destination = Destination {
            id,
            project: scope.project,
            name: self.name.clone(),
            version: old.map_or(1, |it| it.version),
            state: old.map_or(DestinationState::Active, |it| it.state.clone()),
            policy,
            connection: Connection::Webhook(connection),
            created_at: old.map_or(scope.means.now, |it| it.created_at),
        };
        Ok(match old {
            Some(old) if *old != destination => {
                Destination { version: old.version + 1, ..destination }
            }
            Some(_) | None => destination,
        })
    }

    fn of(model: &Destination) -> Self {
        super::show::destination(model)
    }
}

impl DestinationSpec {
    fn policy(&self) -> Policy {
        let default = Policy::default();
        Policy {
            ordering: self.ordering.clone().unwrap_or(default.ordering),
            retry: self.retry.clone().unwrap_or(default.retry),
            expires_after: self.expires_after.or(default.expires_after),
            concurrency: self.concurrency.unwrap_or(default.concurrency),
            rate_limit: self.rate_limit.or(default.rate_limit),
            timeout: self.timeout.unwrap_or(default.timeout),
            breaker: self.breaker.clone().unwrap_or(default.breaker),
            ..default
        }
    }

    /// The connection, or `None` after `wrong` was told why not.
    fn webhook(
        &self,
        scope: &Scope<'_>,
        id: DestinationId,
        old: Option<&Destination>,
        wrong: &mut Vec<Invalid>,
    ) -> Option<Webhook> {
        let old = old.map(|it| {
            let Connection::Webhook(webhook) = &it.connection;
            webhook
        });
        let url = Target::try_from(self.url.clone())
            .map_err(|rule| wrong.push(Invalid::new("url", rule, "another text")))
            .ok();
        if self.headers.len() > webhook::MOST_HEADERS {
            let rule = format!("must hold at most {} headers", webhook::MOST_HEADERS);
            wrong.push(Invalid::new("headers", rule, "more"));
        }
        let safe = Safe { scope, destination: id };
        let headers = safe.headers(&self.headers, old.map(|it| &it.headers), wrong);
        let auth = safe.auth(&self.auth, old.map(|it| &it.auth), wrong);
        let old_keys = old.map_or(&[][..], |it| &it.signing_keys);
        let signing_keys = match (self.signed, &self.secret) {
            (true, secret) => safe.signing_keys(secret.as_ref(), old_keys, wrong),
            (false, None) => Some(Vec::new()),
            (false, Some(_)) => {
                let rule = "must be left out where `signed` is false";
                wrong.push(Invalid::new("secret", rule, "a secret"));
                None
            }
        };
        Some(Webhook {
            profile: Profile::Standard,
            urls: vec![url?],
            headers,
            auth: auth?,
            signing_keys: signing_keys?,
            contract: Contract {
                method: self.method,
                ..profiles::values(Profile::Standard).contract
            },
        })
    }
}

pub(super) fn all_right(wrong: Vec<Invalid>) -> Result<(), Vec<Invalid>> {
    if wrong.is_empty() { Ok(()) } else { Err(wrong) }
}
