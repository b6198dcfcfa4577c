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
    model::{
        Destination, Event, Lane, Name, Place, Plan, PlannedDelivery, RawJson, Skipped, SourceId,
    },
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

/// An event does not go on: by what, and why.
struct Stop {
    by: &'static str,
    reason: String,
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
        // `None` for as long as nothing had to look at the event.
        let mut facts = None;
        let passed = self
            .when(pipeline.when.as_ref(), &mut facts)
            .and_then(|()| self.steps(&pipeline.steps, &mut facts));
        if let Err(Stop { by, reason }) = passed {
            return self.skip(Some(&pipeline.name), None, by, reason);
        }
        for (route, target) in pipeline.routes.iter().zip(&active.targets) {
            // Each route has its own copy; what is in it is shared until a step changes it.
            let mut facts = facts.clone();
            if let Err(Stop { by, reason }) = self.route(pipeline, route, target, &mut facts) {
                self.skip(Some(&pipeline.name), Some(&route.to), by, reason);
            }
        }
    }

    fn route(
        &mut self,
        pipeline: &CompiledPipeline,
        route: &CompiledRoute,
        target: &Option<Arc<Target>>,
        facts: &mut Option<Facts>,
    ) -> Result<(), Stop> {
        self.when(route.when.as_ref(), facts)?;
        let Some(target) = target else {
            let reason = format!("there is no destination `{}`", route.to);
            return Err(Stop { by: "route", reason });
        };
        if let Some(name) = &target.integration {
            let payload = &self.event.payload;
            let integrations = self.integrations.get_or_insert_with(|| Integrations::of(payload));
            if let Some(reason) = integrations.exclude(name) {
                return Err(Stop { by: "integrations", reason });
            }
        }
        self.steps(&route.steps, facts)?;
        if self.deliveries.len() >= MOST_DELIVERIES {
            let reason = format!("an event has at most {MOST_DELIVERIES} deliveries");
            return Err(Stop { by: "route", reason });
        }
        let copy = facts.as_ref().and_then(|it| changed(self.event, it.payload()));
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
        Ok(())
    }

    fn when(&mut self, when: Option<&When>, facts: &mut Option<Facts>) -> Result<(), Stop> {
        let Some(when) = when else { return Ok(()) };
        let facts = facts.get_or_insert_with(|| self.facts());
        match when.condition.holds(facts) {
            Ok(true) => Ok(()),
            Ok(false) => Err(Stop { by: "when", reason: when.reason.clone() }),
            Err(error) => Err(self.failed("when", &error)),
        }
    }

    fn steps(&mut self, steps: &[Box<dyn Step>], facts: &mut Option<Facts>) -> Result<(), Stop> {
        for step in steps {
            let before = facts.get_or_insert_with(|| self.facts());
            match step.apply(before) {
                Ok(Next::Same) => (),
                Ok(Next::Payload(payload)) => *facts = Some(before.with_payload(payload)),
                Ok(Next::Stop(reason)) => return Err(Stop { by: step.kind(), reason }),
                Err(error) => return Err(self.failed(step.kind(), &error)),
            }
        }
        Ok(())
    }

    fn failed(&mut self, by: &'static str, error: &EvalError) -> Stop {
        self.failures += 1;
        Stop { by, reason: format!("could not be evaluated: {error}") }
    }
}

/// The payload, if it is another than the event's.
fn changed(event: &Event, payload: &RawJson) -> Option<RawJson> {
    (*payload != event.payload).then(|| payload.clone())
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
