//! What becomes of one event: a pure function of the event and the pipelines as they are.
//!
//! Planning twice gives the same plan. Everything that does not go on leaves its reason.

use std::{collections::HashMap, sync::Arc};

use super::{
    compile::{Active, Compiled, CompiledPipeline, CompiledRoute, Line, Project, Target, When},
    directed,
    integrations::Integrations,
    steps::{Next, Step},
};
use crate::{
    catalog::Catalog,
    expr::{EvalError, Facts, Key},
    model::{Destination, Event, Lane, Name, Place, Plan, PlannedDelivery, Skipped, SourceId},
};

/// Deliveries that the pipelines may plan for one event. Replays need room behind them.
pub(super) const MOST_DELIVERIES: usize = 1024;
/// The lane of a destination in which all deliveries wait for each other.
const ONE_LANE: Lane = Lane(1);

/// The plan of an event, and how many expressions had no value for it.
pub struct Planned {
    pub plan: Plan,
    pub failures: u32,
}

/// Plans an event.
pub fn plan(event: &Arc<Event>, compiled: &Compiled) -> Plan {
    plan_counting(event, compiled).plan
}

pub(super) fn plan_counting(event: &Arc<Event>, compiled: &Compiled) -> Planned {
    let project = compiled.project(event.project);
    if event.source == SourceId::SYSTEM {
        return directed::plan(event, project);
    }
    let mut planner = Planner {
        event,
        project,
        facts: None,
        integrations: None,
        failures: 0,
        deliveries: Vec::new(),
        skipped: Vec::new(),
    };
    let mut is_wanted = false;
    for active in project.map_or(&[][..], |it| &it.pipelines) {
        if active.wants(event) {
            is_wanted = true;
            planner.pipeline(active);
        }
    }
    if !is_wanted {
        let reason = "no pipeline is triggered by this event".to_owned();
        planner.skip(None, None, "trigger", reason);
    }
    let Planner { deliveries, skipped, failures, .. } = planner;
    Planned { plan: Plan { event: event.clone(), deliveries, skipped }, failures }
}

/// Says where deliveries stand in the line of one destination. For replays; plans know it already.
pub struct Placing {
    line: Line,
    sources: HashMap<SourceId, Name>,
}

impl Placing {
    pub fn of(destination: &Destination, catalog: &Catalog) -> Self {
        let sources = catalog.sources.values().filter(|it| it.project == destination.project);
        Self {
            line: Line::of(destination),
            sources: sources.map(|it| (it.id, it.name.clone())).collect(),
        }
    }

    pub fn place(&self, event: &Arc<Event>) -> Place {
        let source = self.sources.get(&event.source).cloned();
        self.line.place(event, || Facts::new(event.clone(), source)).0
    }
}

impl Active {
    fn wants(&self, event: &Event) -> bool {
        (self.on.is_empty() || self.on.iter().any(|it| it.matches(&event.event_type)))
            && self.sources.as_ref().is_none_or(|it| it.contains(&event.source))
    }
}

struct Planner<'a> {
    event: &'a Arc<Event>,
    project: Option<&'a Project>,
    /// Made when the first expression needs them.
    facts: Option<Facts>,
    /// Read when the first destination asks.
    integrations: Option<Integrations>,
    failures: u32,
    deliveries: Vec<PlannedDelivery>,
    skipped: Vec<Skipped>,
}

/// What goes on of an event: itself, or the several that a step made of it. `None` where nothing
/// had to look at it yet.
type Branches = Vec<Option<Facts>>;

/// Where in a pipeline.
#[derive(Clone, Copy)]
struct At<'a> {
    pipeline: &'a Name,
    route: Option<&'a Name>,
}

/// How many branches did not go on, and why the first of them did not.
struct Stopped {
    count: usize,
    of: usize,
    first: Option<String>,
}

impl Planner<'_> {
    fn skip(&mut self, pipeline: Option<&Name>, route: Option<&Name>, by: &str, reason: String) {
        self.skipped.push(Skipped {
            pipeline: pipeline.cloned(),
            route: route.cloned(),
            by: by.to_owned(),
            reason,
        });
    }

    /// The event as it came in.
    fn facts(&mut self) -> Facts {
        let source = self.project.and_then(|it| it.sources.get(&self.event.source));
        self.facts.get_or_insert_with(|| Facts::new(self.event.clone(), source.cloned())).clone()
    }

    fn pipeline(&mut self, active: &Active) {
        let pipeline = match &active.compiled {
            Ok(pipeline) => pipeline,
            Err(reason) => {
                let reason = format!("the pipeline does not compile: {reason}");
                return self.skip(Some(&active.name), None, "pipeline", reason);
            }
        };
        let at = At { pipeline: &pipeline.name, route: None };
        // `None` for as long as nothing had to look at the event.
        let branches = self.when(pipeline.when.as_ref(), vec![None], at);
        let branches = self.steps(&pipeline.steps, branches, at);
        if branches.is_empty() {
            return;
        }
        for (route, target) in pipeline.routes.iter().zip(&active.targets) {
            // Each route has its own copy; what is in it is shared until a step changes it.
            self.route(pipeline, route, target, branches.clone());
        }
    }

    fn route(
        &mut self,
        pipeline: &CompiledPipeline,
        route: &CompiledRoute,
        target: &Option<Arc<Target>>,
        branches: Branches,
    ) {
        let at = At { pipeline: &pipeline.name, route: Some(&route.to) };
        let branches = self.when(route.when.as_ref(), branches, at);
        let Some(target) = target else {
            if !branches.is_empty() {
                let reason = format!("there is no destination `{}`", route.to);
                self.skip(Some(at.pipeline), at.route, "route", reason);
            }
            return;
        };
        if let Some(name) = &target.integration
            && !branches.is_empty()
        {
            let payload = &self.event.payload;
            let integrations = self.integrations.get_or_insert_with(|| Integrations::of(payload));
            if let Some(reason) = integrations.exclude(name) {
                return self.skip(Some(at.pipeline), at.route, "integrations", reason);
            }
        }
        for facts in self.steps(&route.steps, branches, at) {
            if self.deliveries.len() >= MOST_DELIVERIES {
                let reason = format!("an event has at most {MOST_DELIVERIES} deliveries");
                return self.skip(Some(at.pipeline), at.route, "route", reason);
            }
            let copy = facts.as_ref().and_then(Facts::altered);
            // The key is that of the event: what a route did to its copy moves it to no other lane.
            let (place, failed) = target.line.place(self.event, || self.facts());
            self.failures += u32::from(failed);
            self.deliveries.push(PlannedDelivery {
                destination: target.id,
                pipeline: pipeline.id,
                pipeline_version: pipeline.version,
                place,
                copy,
            });
        }
    }

    /// The branches for which the condition holds.
    fn when(&mut self, when: Option<&When>, branches: Branches, at: At<'_>) -> Branches {
        let Some(when) = when else { return branches };
        let (mut next, mut stopped) = (Branches::new(), Stopped::of(branches.len()));
        for branch in branches {
            let facts = branch.unwrap_or_else(|| self.facts());
            match when.condition.holds(&facts) {
                Ok(true) => next.push(Some(facts)),
                Ok(false) => stopped.add(|| when.reason.clone()),
                Err(error) => stopped.add(|| self.failed(&error)),
            }
        }
        self.say(stopped, "when", at);
        next
    }

    /// What the steps leave. Where a step makes several of one event, each goes its own way from there.
    fn steps(&mut self, steps: &[Box<dyn Step>], branches: Branches, at: At<'_>) -> Branches {
        let mut branches = branches;
        for step in steps {
            let mut next = Branches::with_capacity(branches.len());
            let (mut has_parts, mut stopped) = (false, Stopped::of(branches.len()));
            for branch in branches {
                let before = branch.unwrap_or_else(|| self.facts());
                match step.apply(&before) {
                    Ok(Next::Same) => next.push(Some(before)),
                    Ok(Next::Changed(after)) => next.push(Some(after)),
                    Ok(Next::Several(parts)) => {
                        has_parts = true;
                        next.extend(parts.into_iter().map(Some));
                    }
                    Ok(Next::Stop(reason)) => stopped.add(|| reason),
                    Err(error) => stopped.add(|| self.failed(&error)),
                }
                if next.len() > MOST_DELIVERIES {
                    next.truncate(MOST_DELIVERIES);
                    stopped.add(|| format!("an event becomes at most {MOST_DELIVERIES}"));
                    break;
                }
            }
            if has_parts {
                number(&mut next);
            }
            self.say(stopped, step.kind(), at);
            branches = next;
        }
        branches
    }

    fn say(&mut self, stopped: Stopped, by: &str, at: At<'_>) {
        let Stopped { count, of, first: Some(first) } = stopped else { return };
        let reason = if of == 1 { first } else { format!("{count} of {of}, the first: {first}") };
        self.skip(Some(at.pipeline), at.route, by, reason);
    }

    fn failed(&mut self, error: &EvalError) -> String {
        self.failures += 1;
        format!("could not be evaluated: {error}")
    }
}

/// Numbers the parts of an event, in their order: it becomes part of the message id of each.
fn number(branches: &mut Branches) {
    for (branch, part) in branches.iter_mut().zip(1..) {
        *branch = branch.as_ref().map(|it| it.as_part(part));
    }
}

impl Stopped {
    fn of(branches: usize) -> Self {
        Self { count: 0, of: branches, first: None }
    }

    fn add(&mut self, reason: impl FnOnce() -> String) {
        self.count += 1;
        let reason = reason();
        self.first.get_or_insert(reason);
    }
}

/// What people read when a condition does not hold.
pub(super) fn does_not_hold(source: &str) -> String {
    /// How much of the condition is repeated.
    const SHOWN: usize = 200;
    let shown: String = source.chars().take(SHOWN).collect();
    let more = if shown.len() < source.len() { "…" } else { "" };
    format!("`{shown}{more}` does not hold")
}

impl Line {
    /// The place, and whether the key had no value because it could not be evaluated.
    pub(super) fn place(&self, event: &Event, facts: impl FnOnce() -> Facts) -> (Place, bool) {
        let (lane, failed) = match self {
            Self::None => return (Place { lane: Lane::NONE, position: 0 }, false),
            Self::Fifo | Self::Broken => (ONE_LANE, false),
            Self::Key(key) => match key.lane(&facts()) {
                Ok(lane) => (lane, false),
                Err(_) => (Key::fallback(), true),
            },
        };
        (Place { lane, position: event.timestamp.as_millisecond() }, failed)
    }
}
