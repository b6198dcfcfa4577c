//! Many nodes on one database: who does which share of the work.
//!
//! Work comes in [`Share`]s. A node holds a share under a lease, which it renews while it lives; each
//! time a share changes hands, its [`Epoch`] grows, and the database takes nothing from a node whose
//! epoch is old. So two nodes may believe for a moment that they hold the same share, but only one
//! can write.
//!
//! [`decide`] says what a node should claim and give back; it sees only what the database said. The
//! loop in [`run`] does it. Nodes do not speak to each other.

mod decide;
mod run;

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};

pub use decide::{Decision, decide};
pub use run::{Handles, Node, Parts};

pub use crate::store::{Epoch, Lease, Member, MemberId, Membership, Role, Share, View};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// How long a node keeps its shares without a word. What a dead node held is taken over after that.
    #[serde(with = "humantime_serde")]
    pub lease: Duration,
    /// How often a node says that it lives, and looks who else does.
    #[serde(with = "humantime_serde")]
    pub beat: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self { lease: Duration::from_secs(6), beat: Duration::from_secs(1) }
    }
}

/// The shares that a node holds.
pub type Held = BTreeMap<Share, Epoch>;
