//! How many events came to each place of a pipeline, and what became of them there.

use std::sync::Arc;

use jiff::Timestamp;

use super::PipelineId;

/// A place of a pipeline: itself, one of its steps, one of its routes, or a step of a route.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Edge {
    /// Which route, from 0. `None`: what all routes share.
    pub route: Option<u16>,
    /// Which step, from 0. `None`: the pipeline or the route itself.
    pub step: Option<u16>,
}

/// What happened at one place. Events that a step made of another count as themselves behind it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Passed {
    /// Events that came there.
    pub arrived: u64,
    /// Of those, the ones that ended there because a condition, a step or an event said so.
    pub filtered: u64,
    /// Of those, the ones with which something failed, whether they went on or not.
    pub errored: u64,
    /// What went on: to the next step, from a pipeline to its routes, from a route to its destination.
    pub left: u64,
}

impl std::ops::AddAssign for Passed {
    fn add_assign(&mut self, other: Self) {
        self.arrived += other.arrived;
        self.filtered += other.filtered;
        self.errored += other.errored;
        self.left += other.left;
    }
}

/// What one pipeline did with one event. It is kept with the plan of the event, and counts with it: once.
#[derive(Clone, Debug, PartialEq)]
pub struct Tally {
    pub pipeline: PipelineId,
    pub version: u32,
    /// The places of this version, in their order.
    pub edges: Arc<[Edge]>,
    /// Of the first of those places. At the others nothing happened.
    pub passed: Vec<Passed>,
}

/// What happened at one place of one version of a pipeline in one minute.
#[derive(Clone, Debug, PartialEq)]
pub struct Counted {
    pub start: Timestamp,
    pub version: u32,
    pub edge: Edge,
    pub passed: Passed,
}
