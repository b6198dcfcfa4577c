//! Stage 4 of 6: decides what becomes of each event: which destinations get it, and in what form.
//!
//! `compile` makes pipelines ready, `plan` decides about one event and is pure, `run` is the loop
//! that takes events from the store and gives their plans back to it. Steps are one file each.

mod steps;
mod filter;
mod map;
mod redact;
mod transform;
mod compile;
mod integrations;
mod directed;
mod plan;
mod run;

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{
    crypto::{Pseudonyms, Vault},
    script::Pool,
};

pub use compile::{Compiled, CompiledPipeline, Invalid, compile};
pub use directed::Direction;
pub use plan::{Placing, plan};
pub use run::{Parts, Runner, runner};
pub use steps::{Next, Step};

/// What steps are made with, besides their settings.
#[derive(Clone)]
pub struct Tools {
    pub pseudonyms: Pseudonyms,
    /// The threads that run scripts. None is started before the first script.
    pub scripts: Arc<Pool>,
}

impl Tools {
    pub fn new(vault: &Vault) -> Self {
        Self { pseudonyms: Pseudonyms::of(vault), scripts: Arc::default() }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// Events that are planned and kept together, at most.
    pub batch: usize,
    /// Batches that wait for the disk while the next ones are planned, at most.
    pub in_flight: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { batch: 256, in_flight: 8 }
    }
}
