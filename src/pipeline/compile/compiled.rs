//! A pipeline that is compiled: its conditions and steps, and the places at which events are counted.

use std::sync::Arc;

use crate::{
    model::{Edge, Name, PipelineId, StepId},
    pipeline::steps::{Remembers, Step, When},
};

/// A pipeline whose expressions and steps are compiled.
pub struct CompiledPipeline {
    pub(in crate::pipeline) id: PipelineId,
    pub(in crate::pipeline) version: u32,
    pub(in crate::pipeline) name: Name,
    pub(in crate::pipeline) when: Option<When>,
    pub(in crate::pipeline) steps: Vec<Box<dyn Step>>,
    pub(in crate::pipeline) routes: Vec<CompiledRoute>,
    /// The places at which events are counted, in their order.
    pub(in crate::pipeline) edges: Arc<[Edge]>,
}

pub(in crate::pipeline) struct CompiledRoute {
    pub to: Name,
    /// Tells it apart from the other routes of the pipeline, whatever their order.
    pub mark: u64,
    /// Where it stands among the `edges`; its steps follow it.
    pub edge: usize,
    pub when: Option<When>,
    pub steps: Vec<Box<dyn Step>>,
}

impl CompiledPipeline {
    pub(super) fn detects(&self) -> impl Iterator<Item = (StepId, &dyn Remembers)> {
        let own = self.steps.iter().map(|it| (0, it));
        let routes = self.routes.iter().flat_map(|it| it.steps.iter().map(|step| (it.mark, step)));
        own.chain(routes).filter_map(|(mark, it)| {
            let detect = it.remembers()?;
            Some((detect.id(self.id, mark), detect))
        })
    }
}
