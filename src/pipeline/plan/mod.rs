//! What becomes of one event: a pure function of the event, the pipelines as they are, and the
//! answers from outside.
//!
//! Planning twice gives the same plan. Everything that does not go on leaves its reason.

mod types;
mod turns;
mod ids;
mod integrations;
mod answers;
mod reasons;
mod trace;
mod directed;
mod planner;
mod routes;
mod apply;
mod resume;
mod tally;
mod prefetch;

use std::sync::Arc;

use super::{ask::Lookups, compile::Compiled};
use crate::model::{Event, Plan};

use self::answers::{AtOnce, Nobody};
pub(super) use self::{
    answers::{Answers, QuestionSlot},
    ids::Ids,
    planner::Planner,
    prefetch::run_scripts,
    trace::{Applied, Trace, Went},
    turns::{TURN, Turns},
    types::{PipelinePlan, PlanPart, Spot},
};
pub use self::{directed::Direction, types::MOST_DELIVERIES};

/// Plans an event, as if nothing were known of it but what it says.
pub fn plan(event: &Arc<Event>, compiled: &Compiled) -> Plan {
    plan_by(event, compiled, &mut Nobody)
}

/// Plans events as the loop does, some at a time, but waits for no answer.
pub fn plan_all(events: &[Arc<Event>], compiled: &Compiled, lookups: &dyn Lookups) -> Vec<Plan> {
    run_scripts(events, compiled, &mut Turns::default());
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
