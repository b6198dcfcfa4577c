//! What planning makes: the plan of an event, and what one pipeline adds to it.

use crate::{
    expr::Facts,
    model::{DestinationId, Lane, Plan, PlannedDelivery, Remembered, Skipped, Tally},
    pipeline::compile::{CompiledPipeline, CompiledRoute},
};

/// A lane of a destination, where deliveries wait for each other.
pub(in crate::pipeline) type Spot = (DestinationId, Lane);

/// Deliveries that the pipelines may plan for one event. Replays need room behind them.
pub const MOST_DELIVERIES: usize = 1024;

/// The plan of an event, and how many expressions had no value for it.
pub(in crate::pipeline) struct EventPlan {
    pub plan: Plan,
    pub failures: u32,
}

/// What one pipeline made of an event.
#[derive(Default)]
pub(in crate::pipeline) struct PipelinePlan {
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
pub(in crate::pipeline) enum PlanPart {
    Made(PipelinePlan),
    /// Not yet: it asked for something, and waits.
    Waits,
}

/// What goes on of an event: itself, or the several that a step made of it. `None` where nothing
/// had to look at it yet.
pub(in crate::pipeline) type Branches = Vec<Option<Facts>>;

/// Where in a pipeline.
#[derive(Clone, Copy)]
pub(in crate::pipeline) struct At<'a> {
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
