//! Plans the pipelines of one event, one after the other.

use std::sync::Arc;

use super::{
    answers::Answers,
    directed,
    integrations::Integrations,
    reasons::StopReasons,
    trace::Trace,
    types::{At, EventPlan, PipelinePlan, PlanPart, Spot},
};
use crate::{
    expr::{EvalError, EventBudget, Facts},
    model::{Event, Lane, Name, PipelineId, Skipped, SourceId},
    pipeline::{
        compile::{Active, Compiled, ProjectPipelines},
        steps::detect::Origin,
    },
};

/// Plans the pipelines of one event.
pub(in crate::pipeline) struct Planner<'a> {
    pub(in crate::pipeline) event: &'a Arc<Event>,
    pub(super) project: Option<&'a ProjectPipelines>,
    /// Made when the first expression needs them.
    pub(super) facts: Option<Facts>,
    /// Read when the first destination asks.
    pub(super) integrations: Option<Integrations>,
    /// Deliveries of the event that there are besides those in `made`.
    pub(super) before: usize,
    pub(in crate::pipeline) made: PipelinePlan,
    pub(super) waits: bool,
    /// What happens on the way, for a person who tries a pipeline. `None`: nobody looks.
    pub(in crate::pipeline) trace: Option<Box<Trace>>,
    /// How often something failed so far.
    pub(super) errors: u64,
    /// The event tells of an absence: it goes on where that was found.
    pub(in crate::pipeline) origin: Option<Origin>,
    /// The pipeline that is at work, and the mark of its route.
    pub(in crate::pipeline) scope: (PipelineId, u64),
    /// What its expressions may still do.
    pub(in crate::pipeline) budget: EventBudget,
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

impl Planner<'_> {
    pub(in crate::pipeline) fn skip(&mut self, at: At<'_>, by: &str, reason: String) {
        self.made.skipped.push(Skipped {
            pipeline: Some(at.pipeline.name.clone()),
            pipeline_version: Some(at.pipeline.version),
            route: at.route().map(|it| it.to.clone()),
            by: by.to_owned(),
            reason,
        });
    }

    /// The event as it came in.
    pub(in crate::pipeline) fn facts(&mut self) -> Facts {
        let source = self.project.and_then(|it| it.sources.get(&self.event.source));
        self.facts.get_or_insert_with(|| Facts::new(self.event.clone(), source.cloned())).clone()
    }

    pub(in crate::pipeline) fn say(&mut self, stopped: StopReasons, by: &str, at: At<'_>) {
        let StopReasons { count, of, first: Some(first) } = stopped else { return };
        let reason = if of == 1 { first } else { format!("{count} of {of}, the first: {first}") };
        self.skip(at, by, reason);
    }

    pub(in crate::pipeline) fn failed(&mut self, error: &EvalError) -> String {
        self.made.failures += 1;
        self.errors += 1;
        format!("could not be evaluated: {error}")
    }
}
