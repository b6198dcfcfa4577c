//! What becomes of one event: a pure function of the event, the pipelines as they are, and the
//! answers from outside.
//!
//! Planning twice gives the same plan. Everything that does not go on leaves its reason.

use std::{collections::HashMap, sync::Arc};

use super::{
    aside::Spot,
    ask::{Answer, Question, Status},
    compile::{Active, Compiled, CompiledPipeline, Line, Project, Target, When},
    directed,
    enrich::Enrich,
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
pub(super) struct Planned {
    pub plan: Plan,
    pub failures: u32,
}

/// What one pipeline made of an event.
#[derive(Default)]
pub(super) struct Made {
    pub deliveries: Vec<PlannedDelivery>,
    pub skipped: Vec<Skipped>,
    /// Expressions that had no value.
    pub failures: u32,
}

/// What one pipeline makes of an event.
pub(super) enum Part {
    Made(Made),
    /// Not yet: it asked for something, and waits.
    Waits,
}

/// Which question of a pipeline.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Slot {
    version: u32,
    route: Option<u16>,
    step: u16,
}

/// Where the planner gets answers from.
pub(super) trait Answers {
    /// `None`: it is not known yet.
    fn answer(&mut self, slot: Slot, step: &Enrich, question: Question) -> Option<Answer>;
}

/// Nobody is there to ask.
struct Nobody;

impl Answers for Nobody {
    fn answer(&mut self, _: Slot, _: &Enrich, _: Question) -> Option<Answer> {
        Some(Answer::of(Status::NotFound))
    }
}

/// Plans an event, as if nothing were known of it but what it says.
pub fn plan(event: &Arc<Event>, compiled: &Compiled) -> Plan {
    let mut planner = Planner::new(event, compiled);
    if let Some(planned) = planner.directed() {
        return planned.plan;
    }
    let mut plan = Plan::of(event);
    for active in planner.wanted() {
        if let Part::Made(made) = planner.part(active, plan.deliveries.len(), &mut Nobody) {
            plan.deliveries.extend(made.deliveries);
            plan.skipped.extend(made.skipped);
        }
    }
    plan.skipped.extend(planner.unwanted());
    plan
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

/// Plans the pipelines of one event.
pub(super) struct Planner<'a> {
    event: &'a Arc<Event>,
    project: Option<&'a Project>,
    /// Made when the first expression needs them.
    facts: Option<Facts>,
    /// Read when the first destination asks.
    integrations: Option<Integrations>,
    /// Deliveries of the event that there are besides those in `made`.
    before: usize,
    made: Made,
    waits: bool,
}

/// An event does not go on: by what, and why.
struct Stop {
    by: &'static str,
    reason: String,
}

impl<'a> Planner<'a> {
    pub fn new(event: &'a Arc<Event>, compiled: &'a Compiled) -> Self {
        let project = compiled.project(event.project);
        let made = Made::default();
        Self { event, project, facts: None, integrations: None, before: 0, made, waits: false }
    }

    /// The whole plan of an event that Tidegate sends in its own name; `None`: it is none.
    pub fn directed(&self) -> Option<Planned> {
        (self.event.source == SourceId::SYSTEM).then(|| directed::plan(self.event, self.project))
    }

    /// The pipelines that are triggered by the event.
    pub fn wanted(&self) -> impl Iterator<Item = &'a Active> + use<'a> {
        let event = self.event;
        let all = self.project.map_or(&[][..], |it| &it.pipelines);
        all.iter().filter(move |it| it.wants(event))
    }

    /// Why there is nothing to plan, if no pipeline wants the event.
    pub fn unwanted(&self) -> Option<Skipped> {
        self.wanted().next().is_none().then(|| Skipped {
            pipeline: None,
            route: None,
            by: "trigger".to_owned(),
            reason: "no pipeline is triggered by this event".to_owned(),
        })
    }

    pub fn named(&self, name: &Name) -> Option<&'a Active> {
        self.project?.pipelines.iter().find(|it| it.name == *name)
    }

    /// What one pipeline makes of the event, which has so many deliveries before.
    pub fn part(&mut self, active: &Active, before: usize, answers: &mut dyn Answers) -> Part {
        (self.before, self.waits, self.made) = (before, false, Made::default());
        self.pipeline(active, answers);
        let made = std::mem::take(&mut self.made);
        if self.waits { Part::Waits } else { Part::Made(made) }
    }

    /// The lanes in which a pipeline's deliveries may stand, where they wait for each other.
    pub fn spots(&mut self, active: &Active) -> Vec<Spot> {
        let mut spots = Vec::new();
        for target in active.targets.iter().flatten() {
            let (place, _) = target.line.place(self.event, || self.facts());
            if place.lane != Lane::NONE {
                spots.push((target.id, place.lane));
            }
        }
        spots.sort_unstable();
        spots.dedup();
        spots
    }
}

impl Made {
    /// The lanes in which its deliveries stand, where they wait for each other.
    pub fn spots(&self) -> Vec<Spot> {
        let spot = |it: &PlannedDelivery| (it.destination, it.place.lane);
        let mut spots: Vec<Spot> =
            self.deliveries.iter().map(spot).filter(|it| it.1 != Lane::NONE).collect();
        spots.sort_unstable();
        spots.dedup();
        spots
    }
}

impl Planner<'_> {
    fn skip(&mut self, pipeline: Option<&Name>, route: Option<&Name>, by: &str, reason: String) {
        self.made.skipped.push(Skipped {
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

    fn pipeline(&mut self, active: &Active, answers: &mut dyn Answers) {
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
            .and_then(|()| self.steps(&pipeline.steps, (pipeline, None), &mut facts, answers));
        if let Err(Stop { by, reason }) = passed {
            return self.skip(Some(&pipeline.name), None, by, reason);
        }
        for (place, target) in active.targets.iter().enumerate() {
            let route = &pipeline.routes[place];
            // Each route has its own copy; what is in it is shared until a step changes it.
            let mut facts = facts.clone();
            let routed = self.route(pipeline, place as u16, target, &mut facts, answers);
            if let Err(Stop { by, reason }) = routed {
                self.skip(Some(&pipeline.name), Some(&route.to), by, reason);
            }
        }
    }

    fn route(
        &mut self,
        pipeline: &CompiledPipeline,
        place: u16,
        target: &Option<Arc<Target>>,
        facts: &mut Option<Facts>,
        answers: &mut dyn Answers,
    ) -> Result<(), Stop> {
        let route = &pipeline.routes[usize::from(place)];
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
        self.steps(&route.steps, (pipeline, Some(place)), facts, answers)?;
        if self.before + self.made.deliveries.len() >= MOST_DELIVERIES {
            let reason = format!("an event has at most {MOST_DELIVERIES} deliveries");
            return Err(Stop { by: "route", reason });
        }
        let copy = facts.as_ref().and_then(|it| changed(self.event, it.payload()));
        // The key is that of the event: what a route did to its copy moves it to no other lane.
        let (place, failed) = target.line.place(self.event, || self.facts());
        self.made.failures += u32::from(failed);
        self.made.deliveries.push(PlannedDelivery {
            destination: target.id,
            pipeline: pipeline.id,
            pipeline_version: pipeline.version,
            place,
            copy,
            dead: facts.as_ref().and_then(Facts::doom).map(str::to_owned),
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

    fn steps(
        &mut self,
        steps: &[Box<dyn Step>],
        (pipeline, route): (&CompiledPipeline, Option<u16>),
        facts: &mut Option<Facts>,
        answers: &mut dyn Answers,
    ) -> Result<(), Stop> {
        for (step, place) in steps.iter().zip(0..) {
            let before = facts.get_or_insert_with(|| self.facts());
            let next = match step.enrich() {
                None => step.apply(before),
                Some(enrich) => {
                    let slot = Slot { version: pipeline.version, route, step: place };
                    self.enrich(enrich, slot, before, answers)
                }
            };
            match next {
                Ok(Next::Same) => (),
                Ok(Next::Changed(after)) => *facts = Some(after),
                Ok(Next::Stop(reason)) => return Err(Stop { by: step.kind(), reason }),
                Err(error) => return Err(self.failed(step.kind(), &error)),
            }
        }
        Ok(())
    }

    fn enrich(
        &mut self,
        step: &Enrich,
        slot: Slot,
        facts: &Facts,
        answers: &mut dyn Answers,
    ) -> Result<Next, EvalError> {
        let answer = match step.question(facts)? {
            None => Answer::of(Status::NoKey),
            Some(question) => match answers.answer(slot, step, question) {
                Some(answer) => answer,
                None => {
                    // Other routes may have more to ask, at the same time.
                    self.waits = true;
                    return Ok(Next::Stop(String::new()));
                }
            },
        };
        Ok(step.answered(facts, &answer))
    }

    fn failed(&mut self, by: &'static str, error: &EvalError) -> Stop {
        self.made.failures += 1;
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
