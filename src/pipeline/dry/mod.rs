//! Pipelines without consequences: what one would do with an event, step by step, and the test cases
//! that stand beside it. Nothing is stored and nothing is sent; only steps that ask may ask.

mod changes;
mod report;
mod known;
mod cases;
mod replanned;

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

pub use self::{
    cases::{CaseFailure, CaseResult, event, judge, rehearse},
    changes::Change,
    replanned::{Replanned, Routes},
    report::{Application, Asked, Dropped, Made, Message, Outcome, Report, Route, Stopped, Tried},
};
use self::{known::Known, report::report};
use super::{
    Tools,
    ask::Lookups,
    compile::{Active, Compiled},
    plan::{Ids, PlanPart, Planner, Trace},
};
use crate::{
    catalog::Catalog,
    expr::Facts,
    model::{Event, Pipeline, PipelineId, Remembered},
};
pub use known::GivenAnswers;

/// How long all steps that ask may take together.
const TIMEOUT: Duration = Duration::from_secs(30);

/// One pipeline, compiled by itself.
pub struct Trial {
    pipeline: Arc<Pipeline>,
    compiled: Compiled,
}

impl Trial {
    /// The pipeline among the sources and destinations of a catalogue, in which it need not be. It is
    /// tried also when it is disabled. Compiles scripts, which may take a while.
    pub fn new(pipeline: &Arc<Pipeline>, catalog: &Catalog, tools: &Tools) -> Self {
        let enabled = Arc::new(Pipeline { enabled: true, ..Pipeline::clone(pipeline) });
        let project = pipeline.project;
        let sources = catalog.sources.iter().filter(|it| it.1.project == project);
        let destinations = catalog.destinations.iter().filter(|it| it.1.project == project);
        let alone = Catalog {
            pipelines: [(pipeline.id, enabled)].into(),
            sources: sources.map(|(id, it)| (*id, it.clone())).collect(),
            destinations: destinations.map(|(id, it)| (*id, it.clone())).collect(),
            ..Catalog::default()
        };
        let compiled = Compiled::of(&alone, &Compiled::default(), tools);
        Self { pipeline: pipeline.clone(), compiled }
    }

    pub fn pipeline(&self) -> &Arc<Pipeline> {
        &self.pipeline
    }

    pub fn id(&self) -> PipelineId {
        self.pipeline.id
    }

    /// Whether one of its steps remembers events.
    pub fn detects(&self) -> bool {
        let steps = self.pipeline.routes.iter().flat_map(|it| &it.steps);
        let mut kinds = self.pipeline.steps.iter().chain(steps).flat_map(|it| it.0.keys());
        kinds.any(|it| it.starts_with("detect."))
    }

    /// Whether the trigger takes the event, with its condition.
    pub fn takes(&self, event: &Arc<Event>) -> bool {
        let Some(active) = Planner::new(event, &self.compiled).wanted().next() else {
            return false;
        };
        let Some(when) = active.compiled.as_ref().ok().and_then(|it| it.when.as_ref()) else {
            return true;
        };
        let project = self.compiled.project(event.project);
        let source = project.and_then(|it| it.sources.get(&event.source)).cloned();
        when.condition.holds(&Facts::new(event.clone(), source)).unwrap_or(false)
    }

    /// What becomes of the event. Steps ask outside, each within its timeout and all within half a
    /// minute; what stands in `given` is not asked. A failure is not asked again. Steps that detect go on from
    /// what is remembered, and leave it as it is.
    pub async fn run(
        self: &Arc<Self>,
        event: &Arc<Event>,
        given: GivenAnswers,
        remembered: Vec<Remembered>,
        lookups: &dyn Lookups,
    ) -> Option<Report> {
        let mut known = Known::asking(given, remembered, Instant::now() + TIMEOUT);
        loop {
            let (trial, event) = (self.clone(), event.clone());
            let project = event.project;
            // Scripts hold their thread.
            let pass = tokio::task::spawn_blocking(move || {
                let report = trial.pass(&event, &mut known);
                (report, known)
            });
            let (report, asking) = match pass.await {
                Ok(done) => done,
                Err(error) => {
                    tracing::error!(%error, "a dry run ended badly");
                    return None;
                }
            };
            if report.is_some() {
                return report;
            }
            known = asking;
            known.ask(lookups, project).await;
        }
    }

    /// What becomes of the event when nobody is there to ask.
    pub fn run_alone(&self, event: &Arc<Event>, given: GivenAnswers) -> Option<Report> {
        self.pass(event, &mut Known::silent(given))
    }

    /// One way through the pipeline; `None` when an answer is missing.
    fn pass(&self, event: &Arc<Event>, known: &mut Known) -> Option<Report> {
        let mut planner = Planner::new(event, &self.compiled);
        let active = self.active()?;
        if !planner.wanted().any(|it| it.name == active.name) {
            return Some(Report::unwanted(active.refusal(event)));
        }
        planner.trace = Some(Box::<Trace>::default());
        match planner.part(active, 0, known) {
            PlanPart::Waits => None,
            PlanPart::Made(mut made) => {
                Ids::default().tell_apart(event, &mut made.deliveries);
                let trace = planner.trace.take().unwrap_or_default();
                Some(report(&self.pipeline, event, *trace, made, known))
            }
        }
    }

    fn active(&self) -> Option<&Active> {
        self.compiled.project(self.pipeline.project)?.pipelines.first()
    }
}

impl Active {
    /// Why the trigger does not take the event.
    fn refusal(&self, event: &Event) -> String {
        if self.on.is_empty() || self.on.iter().any(|it| it.matches(&event.event_type)) {
            "it takes no events of this source".to_owned()
        } else {
            format!("it takes no events of the type `{}`", event.event_type)
        }
    }
}
