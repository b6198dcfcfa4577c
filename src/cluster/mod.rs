//! Many nodes on one database: who does which share of the work.
//!
//! Work comes in [`Share`]s. A node holds a share under a lease, which lasts while the node says now and
//! then that it lives; each time a share changes hands, its [`Epoch`] grows, and the database takes
//! nothing from a node whose epoch is old. So two nodes may believe for a moment that they hold the
//! same share, but only one can write.
//!
//! [`decide`] says what a node should claim and give back; it sees only what the database said. The
//! loop in [`run`] does it. Nodes do not speak to each other, but for hints through the database.

mod decide;
mod run;

use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use decide::{Decision, decide};
pub use run::{Handles, NodeLoop, Parts};

pub use crate::store::{
    ClusterSnapshot, Duty, Epoch, HeldShares, Lease, LeaseSet, Member, MemberId, Role, Share,
    WorkedShares,
};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// What people call this node. A node that starts takes over at once from one of the same name that
    /// ended without a word. Without it: the host's name and the port.
    pub name: Option<String>,
    /// What this node does.
    pub roles: Vec<Role>,
    /// Where others reach it, as they see it. Without it: where it listens.
    pub address: Option<String>,
    /// How long a node keeps its shares without a word. What a dead node held is taken over after that.
    #[serde(with = "humantime_serde")]
    pub lease: Duration,
    /// How often a node says that it lives, and looks who else does.
    #[serde(with = "humantime_serde")]
    pub beat: Duration,
}

impl Options {
    pub fn has(&self, role: Role) -> bool {
        self.roles.contains(&role)
    }

    /// Whether it does everything, as a gateway on the embedded store must.
    pub fn has_all(&self) -> bool {
        Role::ALL.into_iter().all(|it| self.has(it))
    }
}

impl Default for Options {
    fn default() -> Self {
        Self {
            name: None,
            roles: Role::ALL.to_vec(),
            address: None,
            lease: Duration::from_secs(6),
            beat: Duration::from_secs(1),
        }
    }
}
