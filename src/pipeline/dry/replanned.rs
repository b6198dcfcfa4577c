//! What today's pipelines make of an old event, for some destinations: for a replay to a destination that
//! never had the event, or whose delivery never got through its steps.

use std::{collections::BTreeSet, sync::Arc};

use tokio::time::Instant;

use super::{
    TIMEOUT,
    known::{GivenAnswers, Known},
};
use crate::{
    catalog::Catalog,
    model::{
        DestinationId, Event, Message, Name, Pipeline, PipelineId, Plan, PlannedDelivery,
        ProjectId, Remembered, Skipped,
    },
    pipeline::{
        Tools,
        ask::Lookups,
        compile::Compiled,
        plan::{Ids, PlanPart, Planner},
    },
};

/// The pipelines of a project, with those routes only that lead to some destinations.
pub struct Routes {
    compiled: Compiled,
    /// `None`: to all.
    to: Option<Vec<(DestinationId, Name)>>,
    detects: bool,
}

/// What became of an event on these routes.
#[derive(Debug, Default)]
pub struct Replanned {
    pub deliveries: Vec<PlannedDelivery>,
    pub skipped: Vec<Skipped>,
}

impl Routes {
    /// `None`: to every destination. Compiles scripts, which may take a while.
    pub fn new(
        project: ProjectId,
        to: Option<&[DestinationId]>,
        catalog: &Catalog,
        tools: &Tools,
    ) -> Self {
        let own =
            |id: &DestinationId| catalog.destinations.get(id).filter(|it| it.project == project);
        let to = to.map(|ids| {
            ids.iter().filter_map(|id| Some((*id, own(id)?.name.clone()))).collect::<Vec<_>>()
        });
        let names: Option<BTreeSet<&Name>> =
            to.as_ref().map(|it| it.iter().map(|it| &it.1).collect());
        let is_wanted = |name: &Name| names.as_ref().is_none_or(|it| it.contains(name));
        let narrowed = |it: &Arc<Pipeline>| {
            let mut narrowed = Pipeline::clone(it);
            narrowed.routes.retain(|route| is_wanted(&route.to));
            (!narrowed.routes.is_empty()).then(|| Arc::new(narrowed))
        };
        let pipelines: std::collections::BTreeMap<PipelineId, Arc<Pipeline>> = catalog
            .pipelines
            .iter()
            .filter(|it| it.1.project == project && it.1.enabled)
            .filter_map(|(id, it)| Some((*id, narrowed(it)?)))
            .collect();
        let kinds = pipelines.values().flat_map(|it| {
            let steps = it.routes.iter().flat_map(|it| &it.steps);
            it.steps.iter().chain(steps).flat_map(|it| it.0.keys())
        });
        let detects = kinds.into_iter().any(|it| it.starts_with("detect."));
        let sources = catalog.sources.iter().filter(|it| it.1.project == project);
        let destinations = catalog.destinations.iter().filter(|it| it.1.project == project);
        let alone = Catalog {
            pipelines,
            sources: sources.map(|(id, it)| (*id, it.clone())).collect(),
            destinations: destinations.map(|(id, it)| (*id, it.clone())).collect(),
            ..Catalog::default()
        };
        let compiled = Compiled::of(&alone, &Compiled::default(), tools);
        Self { compiled, to, detects }
    }

    /// Whether one of the steps remembers events.
    pub fn detects(&self) -> bool {
        self.detects
    }

    /// What becomes of the event. Steps ask outside, each within its timeout and all within half a minute.
    /// Steps that detect go on from what is remembered, and leave it as it is. What differs from a message that
    /// the same destination was sent has another message id. `None`: it ended badly.
    pub async fn plan(
        self: &Arc<Self>,
        event: &Arc<Event>,
        sent: &[(DestinationId, Message)],
        remembered: &[Remembered],
        lookups: &dyn Lookups,
    ) -> Option<Replanned> {
        let until = Instant::now() + TIMEOUT;
        let mut replanned = Replanned::default();
        let count = self.start(event, &mut replanned);
        for number in 0..count {
            let mut known = Known::asking(GivenAnswers::new(), remembered.to_vec(), until);
            loop {
                let (routes, its, before) =
                    (self.clone(), event.clone(), replanned.deliveries.len());
                // Scripts hold their thread.
                let pass = tokio::task::spawn_blocking(move || {
                    let made = routes.pass(&its, number, before, &mut known);
                    (made, known)
                });
                let (made, asking) = match pass.await {
                    Ok(done) => done,
                    Err(error) => {
                        tracing::error!(%error, "planning an old event again failed");
                        return None;
                    }
                };
                known = asking;
                if let Some(made) = made {
                    replanned.deliveries.extend(made.deliveries);
                    replanned.skipped.extend(made.skipped);
                    break;
                }
                known.ask(lookups, event.project).await;
            }
        }
        if let Some(to) = &self.to {
            replanned.deliveries.retain(|it| to.iter().any(|to| to.0 == it.destination));
        }
        Ids::sent(sent).tell_apart(event, &mut replanned.deliveries);
        Some(replanned)
    }

    /// How many pipelines have a say; what is known without them stands in `again`.
    fn start(&self, event: &Arc<Event>, replanned: &mut Replanned) -> usize {
        let planner = Planner::new(event, &self.compiled);
        if let Some(planned) = planner.directed() {
            let Plan { deliveries, skipped, .. } = planned.plan;
            *replanned = Replanned { deliveries, skipped };
            return 0;
        }
        replanned.skipped.extend(planner.unwanted());
        planner.wanted().count()
    }

    /// One way through one pipeline; `None` when an answer is missing.
    fn pass(
        &self,
        event: &Arc<Event>,
        number: usize,
        before: usize,
        known: &mut Known,
    ) -> Option<Replanned> {
        let mut planner = Planner::new(event, &self.compiled);
        let Some(active) = planner.wanted().nth(number) else { return Some(Replanned::default()) };
        match planner.part(active, before, known) {
            PlanPart::Waits => None,
            PlanPart::Made(made) => {
                Some(Replanned { deliveries: made.deliveries, skipped: made.skipped })
            }
        }
    }
}
