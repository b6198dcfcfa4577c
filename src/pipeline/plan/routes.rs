//! How an event goes through one pipeline: its condition, its steps, and each of its routes.

use std::sync::Arc;

use super::{
    answers::Answers,
    integrations::Integrations,
    planner::Planner,
    reasons::{self, StopReasons},
    types::{At, Branches},
};
use crate::{
    expr::Facts,
    model::{Passed, PlannedDelivery, Skipped, Tally},
    pipeline::{
        compile::{Active, CompiledPipeline, RouteTarget},
        steps::When,
    },
};

impl Planner<'_> {
    pub(super) fn pipeline(&mut self, active: &Active, answers: &mut dyn Answers) {
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
}
