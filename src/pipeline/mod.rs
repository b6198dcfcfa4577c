//! Stage 4 of 6: decides what becomes of each event: which destinations get it, and in what form.
//!
//! `compile` makes pipelines ready, `plan` decides about one event and is pure, `run` is the loop
//! that takes events from the store and gives their plans back to it. Steps are one file each.
//!
//! A step may ask the world outside ([`Lookups`]). Its pipeline then waits aside for the
//! answer, and nothing else does: not the loop, no other event, and no other pipeline.

mod ask;
mod steps;
mod compile;
mod plan;
mod run;
pub mod dry;

use std::{sync::Arc, time::Instant};

use serde::{Deserialize, Serialize};

use crate::{
    crypto::{Pseudonyms, Vault},
    model::ProjectId,
    script::ScriptThreads,
};

pub use crate::script::Failing as FailingScript;

pub use ask::{
    Entity, LookupAnswer, LookupFuture, LookupStatus, Lookups, NoLookups, Person, Question,
};
pub use compile::{Compiled, CompiledPipeline, Placing, compile};
pub use plan::{Direction, MOST_DELIVERIES, plan, plan_all};
pub use run::{Parts, Runner, runner};
pub use steps::{ENRICH_ENTITY, ENRICH_PERSON, Invalid, Next, Step};

/// What steps are made with, besides their settings.
#[derive(Clone)]
pub struct Tools {
    pub pseudonyms: Pseudonyms,
    /// The threads that run scripts. None is started before the first script.
    pub scripts: Arc<ScriptThreads>,
}

impl Tools {
    pub fn new(vault: &Vault) -> Self {
        Self { pseudonyms: Pseudonyms::of(vault), scripts: Arc::default() }
    }

    /// The same, with threads of its own.
    pub fn apart(&self) -> Self {
        let scripts = Arc::new(self.scripts.beside());
        Self { pseudonyms: self.pseudonyms.clone(), scripts }
    }

    /// Scripts of a project that were stuck lately, or could not be run: here, and where tools were made
    /// [apart](Self::apart).
    pub fn failing_scripts(&self, project: ProjectId) -> Vec<FailingScript> {
        self.scripts.failing(project.bits(), Instant::now())
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// Events that are planned and kept together, at most.
    pub batch: usize,
    /// Batches that wait for the disk while the next ones are planned, at most.
    pub in_flight: usize,
    /// Parts of events that wait for an answer from outside, at most. Beyond it, events go on without.
    pub waiting: usize,
    /// Bytes of those events.
    pub waiting_bytes: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { batch: 256, in_flight: 8, waiting: 10_000, waiting_bytes: 64 << 20 }
    }
}
