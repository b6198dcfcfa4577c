//! What becomes of one event: a pure function of the event, the pipelines as they are, and the
//! answers from outside.
//!
//! Planning twice gives the same plan. Everything that does not go on leaves its reason.

use std::{
    collections::HashMap,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use super::{
    ahead,
    aside::Spot,
    ask::{Answer, Lookups, Question, Status},
    compile::{Active, Compiled, CompiledPipeline, CompiledRoute, Line, Project, Target, When},
    directed,
    enrich::Enrich,
    integrations::Integrations,
    steps::{Heard, Next, Step},
    trace::Trace,
};
use crate::{
    catalog::Catalog,
    expr::{EvalError, Facts, Key},
    model::{
        Destination, Event, Lane, Name, Place, Plan, PlannedDelivery, ProjectId, Skipped, SourceId,
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
    pub(super) route: Option<u16>,
    pub(super) step: u16,
    /// Of those that a step before made of the event.
    branch: u16,
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

/// Knows what the world outside knows at once.
struct AtOnce<'a> {
    lookups: &'a dyn Lookups,
    project: ProjectId,
}

impl Answers for AtOnce<'_> {
    fn answer(&mut self, _: Slot, _: &Enrich, question: Question) -> Option<Answer> {
        let mut asked = self.lookups.ask(self.project, Arc::new(question));
        match asked.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(answer) => Some(answer),
            Poll::Pending => Some(Answer::of(Status::Overloaded)),
        }
    }
}

/// Plans an event, as if nothing were known of it but what it says.
pub fn plan(event: &Arc<Event>, compiled: &Compiled) -> Plan {
    plan_by(event, compiled, &mut Nobody)
}

/// Plans events as the loop does, some at a time, but waits for no answer.
pub fn plan_all(events: &[Arc<Event>], compiled: &Compiled, lookups: &dyn Lookups) -> Vec<Plan> {
    ahead::run_scripts(events, compiled);
    let plan = |event: &Arc<Event>| {
        plan_by(event, compiled, &mut AtOnce { lookups, project: event.project })
    };
    events.iter().map(plan).collect()
}

fn plan_by(event: &Arc<Event>, compiled: &Compiled, answers: &mut dyn Answers) -> Plan {
    let mut planner = Planner::new(event, compiled);
    if let Some(planned) = planner.directed() {
        return planned.plan;
    }
    let mut plan = Plan::of(event);
    for active in planner.wanted() {
        if let Part::Made(made) = planner.part(active, plan.deliveries.len(), answers) {
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
    pub(super) fn wants(&self, event: &Event) -> bool {
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
    /// What happens on the way, for a person who tries a pipeline. `None`: nobody looks.
    pub(super) trace: Option<Box<Trace>>,
}

/// What goes on of an event: itself, or the several that a step made of it. `None` where nothing
/// had to look at it yet.
type Branches = Vec<Option<Facts>>;

/// Where in a pipeline.
#[derive(Clone, Copy)]
struct At<'a> {
    pipeline: &'a CompiledPipeline,
    route: Option<u16>,
}

impl<'a> At<'a> {
    fn route(self) -> Option<&'a CompiledRoute> {
        self.pipeline.routes.get(usize::from(self.route?))
    }
}

/// How many branches did not go on, and why the first of them did not.
struct Stopped {
    count: usize,
    of: usize,
    first: Option<String>,
}

impl<'a> Planner<'a> {
    pub fn new(event: &'a Arc<Event>, compiled: &'a Compiled) -> Self {
        let project = compiled.project(event.project);
        let made = Made::default();
        let (facts, integrations, before, waits, trace) = (None, None, 0, false, None);
        Self { event, project, facts, integrations, before, made, waits, trace }
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
            pipeline_version: None,
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
    fn skip(&mut self, at: At<'_>, by: &str, reason: String) {
        self.made.skipped.push(Skipped {
            pipeline: Some(at.pipeline.name.clone()),
            pipeline_version: Some(at.pipeline.version),
            route: at.route().map(|it| it.to.clone()),
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
                return self.made.skipped.push(Skipped {
                    pipeline: Some(active.name.clone()),
                    pipeline_version: Some(active.version),
                    route: None,
                    by: "pipeline".to_owned(),
                    reason: format!("the pipeline does not compile: {reason}"),
                });
            }
        };
        let at = At { pipeline, route: None };
        // `None` for as long as nothing had to look at the event.
        let branches = self.when(pipeline.when.as_ref(), vec![None], at);
        let branches = self.steps(&pipeline.steps, branches, at, answers);
        if branches.is_empty() {
            return;
        }
        for (place, target) in (0..).zip(&active.targets) {
            // Each route has its own copy; what is in it is shared until a step changes it.
            let at = At { pipeline, route: Some(place) };
            if let Some(trace) = &mut self.trace {
                trace.enter(self.made.deliveries.len(), self.made.skipped.len());
            }
            self.route(at, target, branches.clone(), answers);
        }
    }

    fn route(
        &mut self,
        at: At<'_>,
        target: &Option<Arc<Target>>,
        branches: Branches,
        answers: &mut dyn Answers,
    ) {
        let Some(route) = at.route() else { return };
        let branches = self.when(route.when.as_ref(), branches, at);
        let Some(target) = target else {
            if !branches.is_empty() {
                let reason = format!("there is no destination `{}`", route.to);
                self.skip(at, "route", reason);
            }
            return;
        };
        if let Some(name) = &target.integration
            && !branches.is_empty()
        {
            let payload = &self.event.payload;
            let integrations = self.integrations.get_or_insert_with(|| Integrations::of(payload));
            if let Some(reason) = integrations.exclude(name) {
                return self.skip(at, "integrations", reason);
            }
        }
        for facts in self.steps(&route.steps, branches, at, answers) {
            if self.before + self.made.deliveries.len() >= MOST_DELIVERIES {
                let reason = format!("an event has at most {MOST_DELIVERIES} deliveries");
                return self.skip(at, "route", reason);
            }
            let copy = facts.as_ref().and_then(Facts::altered);
            // The key is that of the event: what a route did to its copy moves it to no other lane.
            let (place, failed) = target.line.place(self.event, || self.facts());
            self.made.failures += u32::from(failed);
            self.made.deliveries.push(PlannedDelivery {
                destination: target.id,
                pipeline: at.pipeline.id,
                pipeline_version: at.pipeline.version,
                place,
                copy,
                dead: facts.as_ref().and_then(Facts::doom).map(str::to_owned),
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
    fn steps(
        &mut self,
        steps: &[Box<dyn Step>],
        mut branches: Branches,
        at: At<'_>,
        answers: &mut dyn Answers,
    ) -> Branches {
        for (step, place) in steps.iter().zip(0..) {
            let mut next = Branches::with_capacity(branches.len());
            let (mut has_parts, mut stopped) = (false, Stopped::of(branches.len()));
            for (branch, number) in branches.into_iter().zip(0..) {
                let before = branch.unwrap_or_else(|| self.facts());
                let version = at.pipeline.version;
                let slot = Slot { version, route: at.route, step: place, branch: number };
                match self.applied(step.as_ref(), slot, &before, answers) {
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

    pub(super) fn apply(
        &mut self,
        step: &dyn Step,
        slot: Slot,
        facts: &Facts,
        answers: &mut dyn Answers,
        heard: Option<&mut Heard>,
    ) -> Result<Next, EvalError> {
        let Some(enrich) = step.enrich() else {
            return heard.map_or_else(|| step.apply(facts), |it| step.apply_heard(facts, it));
        };
        let answer = match enrich.question(facts)? {
            None => Answer::of(Status::NoKey),
            Some(question) => match answers.answer(slot, enrich, question) {
                Some(answer) => answer,
                None => {
                    // Other routes may have more to ask, at the same time.
                    self.waits = true;
                    return Ok(Next::Stop(String::new()));
                }
            },
        };
        Ok(enrich.answered(facts, &answer))
    }

    fn say(&mut self, stopped: Stopped, by: &str, at: At<'_>) {
        let Stopped { count, of, first: Some(first) } = stopped else { return };
        let reason = if of == 1 { first } else { format!("{count} of {of}, the first: {first}") };
        self.skip(at, by, reason);
    }

    fn failed(&mut self, error: &EvalError) -> String {
        self.made.failures += 1;
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
