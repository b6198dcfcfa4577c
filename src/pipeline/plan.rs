//! What becomes of one event: a pure function of the event, the pipelines as they are, and the
//! answers from outside.
//!
//! Planning twice gives the same plan. Everything that does not go on leaves its reason.

use std::sync::Arc;

use super::{
    answers::{Answers, AtOnce, Nobody, QuestionSlot},
    ask::{LookupAnswer, LookupStatus, Lookups},
    compile::{
        Active, Compiled, CompiledPipeline, CompiledRoute, ProjectPipelines, RouteTarget, When,
    },
    detect::Origin,
    directed,
    ids::Ids,
    integrations::Integrations,
    parked::Spot,
    prefetch,
    reasons::{self, StopReasons},
    run::turns::Turns,
    steps::{Next, Step, StepLog},
    trace::Trace,
};
use crate::{
    expr::{EvalError, EventBudget, Facts},
    model::{
        Event, Lane, Name, Passed, PipelineId, Plan, PlannedDelivery, Remembered, Skipped,
        SourceId, Tally,
    },
};

/// Deliveries that the pipelines may plan for one event. Replays need room behind them.
pub const MOST_DELIVERIES: usize = 1024;

/// The plan of an event, and how many expressions had no value for it.
pub(super) struct EventPlan {
    pub plan: Plan,
    pub failures: u32,
}

/// What one pipeline made of an event.
#[derive(Default)]
pub(super) struct PipelinePlan {
    pub deliveries: Vec<PlannedDelivery>,
    pub skipped: Vec<Skipped>,
    /// Expressions that had no value.
    pub failures: u32,
    /// What its steps remember from now on.
    pub remembered: Vec<Remembered>,
    /// `None` only where no pipeline had a say.
    pub tally: Option<Tally>,
}

/// What one pipeline makes of an event.
pub(super) enum PlanPart {
    Made(PipelinePlan),
    /// Not yet: it asked for something, and waits.
    Waits,
}

/// Plans an event, as if nothing were known of it but what it says.
pub fn plan(event: &Arc<Event>, compiled: &Compiled) -> Plan {
    plan_by(event, compiled, &mut Nobody)
}

/// Plans events as the loop does, some at a time, but waits for no answer.
pub fn plan_all(events: &[Arc<Event>], compiled: &Compiled, lookups: &dyn Lookups) -> Vec<Plan> {
    prefetch::run_scripts(events, compiled, &mut Turns::default());
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
        if let PlanPart::Made(made) = planner.part(active, plan.deliveries.len(), answers) {
            made.add_to(&mut plan);
        }
    }
    plan.skipped.extend(planner.unwanted());
    Ids::default().tell_apart(event, &mut plan.deliveries);
    plan
}

impl Active {
    pub(super) fn wants(&self, event: &Event) -> bool {
        (self.on.is_empty() || self.on.iter().any(|it| it.matches(&event.event_type)))
            && self.sources.as_ref().is_none_or(|it| it.contains(&event.source))
    }
}

/// Plans the pipelines of one event.
pub(super) struct Planner<'a> {
    pub(super) event: &'a Arc<Event>,
    project: Option<&'a ProjectPipelines>,
    /// Made when the first expression needs them.
    facts: Option<Facts>,
    /// Read when the first destination asks.
    integrations: Option<Integrations>,
    /// Deliveries of the event that there are besides those in `made`.
    before: usize,
    pub(super) made: PipelinePlan,
    waits: bool,
    /// What happens on the way, for a person who tries a pipeline. `None`: nobody looks.
    pub(super) trace: Option<Box<Trace>>,
    /// How often something failed so far.
    errors: u64,
    /// The event tells of an absence: it goes on where that was found.
    pub(super) origin: Option<Origin>,
    /// The pipeline that is at work, and the mark of its route.
    pub(super) scope: (PipelineId, u64),
    /// What its expressions may still do.
    pub(super) budget: EventBudget,
}

/// What goes on of an event: itself, or the several that a step made of it. `None` where nothing
/// had to look at it yet.
pub(super) type Branches = Vec<Option<Facts>>;

/// Where in a pipeline.
#[derive(Clone, Copy)]
pub(super) struct At<'a> {
    pub pipeline: &'a CompiledPipeline,
    pub route: Option<u16>,
}

impl<'a> At<'a> {
    pub fn route(self) -> Option<&'a CompiledRoute> {
        self.pipeline.routes.get(usize::from(self.route?))
    }

    /// Where something is counted: at a step, or before all of them.
    pub fn edge(self, step: Option<usize>) -> usize {
        self.route().map_or(0, |it| it.edge) + step.map_or(0, |it| it + 1)
    }
}

impl<'a> Planner<'a> {
    pub fn new(event: &'a Arc<Event>, compiled: &'a Compiled) -> Self {
        let project = compiled.project(event.project);
        let made = PipelinePlan::default();
        let scope = (PipelineId::DIRECTED, 0);
        let (facts, integrations, origin) = (None, None, Origin::of(event));
        let (before, waits, errors, trace) = (0, false, 0, None);
        Self {
            event,
            project,
            facts,
            integrations,
            before,
            made,
            waits,
            trace,
            errors,
            origin,
            scope,
            budget: EventBudget::default(),
        }
    }

    /// The whole plan of an event that Tidegate sends in its own name; `None`: it is none.
    pub fn directed(&self) -> Option<EventPlan> {
        let is_directed = self.event.source == SourceId::SYSTEM && self.origin.is_none();
        is_directed.then(|| directed::plan(self.event, self.project))
    }

    /// The pipelines that are triggered by the event.
    pub fn wanted(&self) -> impl Iterator<Item = &'a Active> + use<'a> {
        let (event, origin) = (self.event, self.origin.as_ref().map(|it| it.pipeline));
        let all = self.project.map_or(&[][..], |it| &it.pipelines);
        all.iter().filter(move |it| origin.map_or_else(|| it.wants(event), |id| id == it.id))
    }

    /// Why there is nothing to plan, if no pipeline wants the event.
    pub fn unwanted(&self) -> Option<Skipped> {
        self.wanted().next().is_none().then(|| Skipped {
            pipeline: None,
            pipeline_version: None,
            route: None,
            by: "trigger".to_owned(),
            reason: match self.origin {
                None => "no pipeline is triggered by this event".to_owned(),
                Some(_) => "its pipeline was deleted or disabled".to_owned(),
            },
        })
    }

    pub fn named(&self, name: &Name) -> Option<&'a Active> {
        self.project?.pipelines.iter().find(|it| it.name == *name)
    }

    /// What one pipeline makes of the event, which has so many deliveries before.
    pub fn part(&mut self, active: &Active, before: usize, answers: &mut dyn Answers) -> PlanPart {
        (self.before, self.waits, self.made) = (before, false, PipelinePlan::default());
        let mut budget = self.budget;
        budget.pay_for(|| self.pipeline(active, answers));
        let made = std::mem::take(&mut self.made);
        if self.waits {
            // All of it is evaluated again when the answer is there, and paid for then: what an event
            // may do does not depend on how often it had to wait.
            return PlanPart::Waits;
        }
        self.budget = budget;
        PlanPart::Made(made)
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

impl PipelinePlan {
    pub fn add_to(self, plan: &mut Plan) {
        plan.deliveries.extend(self.deliveries);
        plan.skipped.extend(self.skipped);
        plan.remembered.extend(self.remembered);
        plan.tallies.extend(self.tally);
    }

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
    pub(super) fn skip(&mut self, at: At<'_>, by: &str, reason: String) {
        self.made.skipped.push(Skipped {
            pipeline: Some(at.pipeline.name.clone()),
            pipeline_version: Some(at.pipeline.version),
            route: at.route().map(|it| it.to.clone()),
            by: by.to_owned(),
            reason,
        });
    }

    /// The event as it came in.
    pub(super) fn facts(&mut self) -> Facts {
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
        let (id, version, edges) = (pipeline.id, pipeline.version, pipeline.edges.clone());
        self.made.tally = Some(Tally { pipeline: id, version, edges, passed: Vec::new() });
        self.scope = (pipeline.id, 0);
        if let Some(origin) = self.origin.clone() {
            return self.resume(&origin, active, pipeline, answers);
        }
        // `None` for as long as nothing had to look at the event.
        let branches = self.when(pipeline.when.as_ref(), vec![None], at);
        self.passed(at.edge(None)).left += branches.len() as u64;
        let branches = self.steps(&pipeline.steps, 0, branches, at, answers);
        self.routes(active, pipeline, branches, answers);
    }

    /// What the routes make of what the steps left.
    pub(super) fn routes(
        &mut self,
        active: &Active,
        pipeline: &CompiledPipeline,
        branches: Branches,
        answers: &mut dyn Answers,
    ) {
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
        target: &Option<Arc<RouteTarget>>,
        branches: Branches,
        answers: &mut dyn Answers,
    ) {
        let Some(route) = at.route() else { return };
        self.scope = (at.pipeline.id, route.mark);
        let branches = self.when(route.when.as_ref(), branches, at);
        let Some(target) = target else {
            if !branches.is_empty() {
                self.passed(at.edge(None)).filtered += branches.len() as u64;
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
                self.passed(at.edge(None)).filtered += branches.len() as u64;
                return self.skip(at, "integrations", reason);
            }
        }
        self.deliver(at, target, 0, branches, answers);
    }

    /// The deliveries of a route, behind its first few steps.
    pub(super) fn deliver(
        &mut self,
        at: At<'_>,
        target: &RouteTarget,
        from: usize,
        branches: Branches,
        answers: &mut dyn Answers,
    ) {
        let Some(route) = at.route() else { return };
        for facts in self.steps(&route.steps, from, branches, at, answers) {
            let over =
                match reasons::of_limit(self.before + self.made.deliveries.len(), facts.as_ref()) {
                    Ok(over) => over,
                    Err(reason) => return self.skip(at, "route", reason),
                };
            let copy = facts.as_ref().and_then(Facts::altered);
            // The key is that of the event: what a route did to its copy moves it to no other lane.
            let (place, failed) = target.line.place(self.event, || self.facts());
            self.made.failures += u32::from(failed);
            self.passed(at.edge(None)).left += 1;
            self.made.deliveries.push(PlannedDelivery {
                destination: target.id,
                pipeline: at.pipeline.id,
                pipeline_version: at.pipeline.version,
                place,
                copy,
                dead: facts.as_ref().and_then(Facts::doom).map(str::to_owned).or(over),
            });
        }
    }

    /// The branches for which the condition holds.
    fn when(&mut self, when: Option<&When>, branches: Branches, at: At<'_>) -> Branches {
        let arrived = branches.len() as u64;
        self.passed(at.edge(None)).arrived += arrived;
        let Some(when) = when else { return branches };
        let (mut next, mut stopped) = (Branches::new(), StopReasons::of(branches.len()));
        let errors = self.errors;
        for branch in branches {
            let facts = branch.unwrap_or_else(|| self.facts());
            match when.condition.holds(&facts) {
                Ok(true) => next.push(Some(facts)),
                Ok(false) => stopped.add(|| when.reason.clone()),
                Err(error) => stopped.add(|| self.failed(&error)),
            }
        }
        let passed = Passed {
            filtered: arrived - next.len() as u64,
            errored: self.errors - errors,
            ..Passed::default()
        };
        *self.passed(at.edge(None)) += passed;
        self.say(stopped, "when", at);
        next
    }

    /// What the steps leave, behind the first few. Where a step makes several of one event, each goes its
    /// own way from there.
    pub(super) fn steps(
        &mut self,
        steps: &[Box<dyn Step>],
        from: usize,
        mut branches: Branches,
        at: At<'_>,
        answers: &mut dyn Answers,
    ) -> Branches {
        for (step, place) in steps.iter().zip(0..).skip(from) {
            if branches.is_empty() {
                break;
            }
            let mut next = Branches::with_capacity(branches.len());
            let (mut has_parts, mut stopped) = (false, StopReasons::of(branches.len()));
            let mut passed = Passed { arrived: branches.len() as u64, ..Passed::default() };
            for (branch, number) in branches.into_iter().zip(0..) {
                let before = branch.unwrap_or_else(|| self.facts());
                let version = at.pipeline.version;
                let slot = QuestionSlot { version, route: at.route, step: place, branch: number };
                let errors = self.errors;
                match self.applied(step.as_ref(), slot, &before, answers) {
                    Ok(Next::Same) => next.push(Some(before)),
                    Ok(Next::Changed(after)) => next.push(Some(after)),
                    Ok(Next::Several(parts)) => {
                        has_parts = true;
                        next.extend(parts.into_iter().map(Some));
                    }
                    Ok(Next::Stop(reason)) => stopped.add(|| reason),
                    Err(error) => match self.after_failure(step.as_ref(), &before, &error) {
                        Ok(after) => next.push(Some(after)),
                        Err(reason) => stopped.add(|| reason),
                    },
                }
                passed.errored += u64::from(self.errors != errors);
                if reasons::cut(&mut next, stopped.of - 1 - usize::from(number), &mut stopped) {
                    break;
                }
            }
            if has_parts {
                number(&mut next);
            }
            reasons::doom_rest(&mut next);
            (passed.filtered, passed.left) = (stopped.count as u64, next.len() as u64);
            *self.passed(at.edge(Some(usize::from(place)))) += passed;
            self.say(stopped, step.kind(), at);
            branches = next;
        }
        branches
    }

    pub(super) fn apply(
        &mut self,
        step: &dyn Step,
        slot: QuestionSlot,
        facts: &Facts,
        answers: &mut dyn Answers,
        heard: Option<&mut StepLog>,
    ) -> Result<Next, EvalError> {
        if let Some(detect) = step.detect() {
            return self.detect(detect, facts, answers);
        }
        let Some(enrich) = step.enrich() else {
            return heard.map_or_else(|| step.apply(facts), |it| step.apply_heard(facts, it));
        };
        let answer = match enrich.question(facts)? {
            None => LookupAnswer::of(LookupStatus::NoKey),
            Some(question) => match answers.answer(slot, enrich, question) {
                Some(answer) => answer,
                None => {
                    // Other routes may have more to ask, at the same time.
                    self.waits = true;
                    return Ok(Next::Stop(String::new()));
                }
            },
        };
        self.errors += u64::from(answer.status.is_failure());
        Ok(enrich.answered(facts, &answer))
    }

    pub(super) fn say(&mut self, stopped: StopReasons, by: &str, at: At<'_>) {
        let StopReasons { count, of, first: Some(first) } = stopped else { return };
        let reason = if of == 1 { first } else { format!("{count} of {of}, the first: {first}") };
        self.skip(at, by, reason);
    }

    pub(super) fn failed(&mut self, error: &EvalError) -> String {
        self.made.failures += 1;
        self.errors += 1;
        format!("could not be evaluated: {error}")
    }
}

/// Numbers the parts of an event, in their order: it becomes part of the message id of each.
fn number(branches: &mut Branches) {
    for (branch, part) in branches.iter_mut().zip(1..) {
        *branch = branch.as_ref().map(|it| it.as_part(part));
    }
}
