//! What many nodes on one database know of each other: who lives, and who holds which share of the work.

use std::{collections::BTreeMap, fmt, str::FromStr, sync::Arc, time::Instant};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::Result;
use crate::model::{DeliverySeq, DestinationId, EventSeq};

/// A process, from its start to its end. One that is started again is another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MemberId(pub u128);

/// What a node does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Takes events.
    Ingest,
    /// Plans deliveries, and does what must be done now and then.
    Pipeline,
    /// Makes attempts.
    Dispatch,
    /// Answers people.
    Api,
}

/// Work that comes in shares, each of which one node at a time does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Duty {
    /// Planning events; a shard has those of some projects.
    Pipeline,
    /// Bringing deliveries to their destinations; a shard has some destinations.
    Dispatch,
    /// What is done once for all: replays, deletions, verifications. It has one shard.
    Upkeep,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Share {
    pub duty: Duty,
    pub shard: u16,
}

/// How often a share has changed hands. A write that carries an old one is refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Epoch(pub i64);

/// Shares with the epochs in which they are held.
pub type HeldShares = BTreeMap<Share, Epoch>;

/// What a node holds, and for how long nobody else can.
#[derive(Clone, Debug, PartialEq)]
pub struct LeaseSet {
    pub shares: HeldShares,
    /// Behind this moment another node may hold the same, and nothing may be begun.
    pub sure_until: Instant,
}

/// What the stages of a node work on, as they say. A share is given back when it is not among them.
#[derive(Clone, Debug)]
pub struct WorkedShares(Arc<watch::Sender<HeldShares>>);

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Member {
    pub id: MemberId,
    pub name: String,
    pub roles: Vec<Role>,
    /// Where it answers.
    pub address: String,
    pub started_at: Timestamp,
    /// When it last said that it lives, by the database's clock.
    pub seen_at: Timestamp,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Lease {
    pub share: Share,
    /// `None` also when it does not live any more.
    pub holder: Option<MemberId>,
    pub epoch: Epoch,
}

/// How far the plans of a shard have come.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PlanProgress {
    pub last: EventSeq,
    pub planned: EventSeq,
}

/// What the database knows at one moment, by its own clock.
#[derive(Clone, Debug, PartialEq)]
pub struct ClusterSnapshot {
    pub at: Timestamp,
    /// Those that have lately said that they live, in the order of their ids.
    pub members: Vec<Member>,
    /// Of every share, in their order.
    pub leases: Vec<Lease>,
    /// Of every pipeline shard, from the first on.
    pub logs: Vec<PlanProgress>,
    /// How often the resources have changed.
    pub resources: u64,
}

/// What one node has to tell the others. It may be lost; what is lost is found in the database later.
#[derive(Clone, Debug, PartialEq)]
pub enum NodeMessage {
    /// A shard has events without a plan.
    Events(u16),
    /// Destinations are owed something.
    Owed(Vec<OwedFrom>),
    /// The resources have changed.
    Resources,
    /// There are [orders](Order).
    Orders,
}

/// What a destination is owed since lately, as bounds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct OwedFrom {
    pub destination: DestinationId,
    /// The first of those without a lane.
    pub loose: Option<DeliverySeq>,
    /// The first position of those with one.
    pub laned: Option<i64>,
}

/// What was heard of the others.
#[derive(Clone, Debug, PartialEq)]
pub enum ReceivedMessage {
    Word(NodeMessage),
    /// Nobody knows what was missed.
    Anything,
}

/// What somebody wants of whoever works for a destination.
#[derive(Clone, Debug, PartialEq)]
pub enum ClusterCommand {
    /// These deliveries are not to be attempted any more.
    Cancel(Vec<DeliverySeq>),
    /// An endpoint that is left alone is to be tried now.
    Poke(DestinationId),
}

impl Role {
    pub const ALL: [Self; 4] = [Self::Ingest, Self::Pipeline, Self::Dispatch, Self::Api];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ingest => "ingest",
            Self::Pipeline => "pipeline",
            Self::Dispatch => "dispatch",
            Self::Api => "api",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be `ingest`, `pipeline`, `dispatch` or `api`")]
pub struct UnknownRole;

impl FromStr for Role {
    type Err = UnknownRole;

    fn from_str(text: &str) -> Result<Self, UnknownRole> {
        Self::ALL.into_iter().find(|it| it.as_str() == text).ok_or(UnknownRole)
    }
}

impl Duty {
    pub const ALL: [Self; 3] = [Self::Pipeline, Self::Dispatch, Self::Upkeep];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pipeline => "pipeline",
            Self::Dispatch => "dispatch",
            Self::Upkeep => "upkeep",
        }
    }

    /// The role that a node must have to do it.
    pub fn role(self) -> Role {
        match self {
            Self::Pipeline | Self::Upkeep => Role::Pipeline,
            Self::Dispatch => Role::Dispatch,
        }
    }

    /// How many shards it has in a database with so many.
    pub fn shards(self, shards: u16) -> u16 {
        match self {
            Self::Pipeline | Self::Dispatch => shards,
            Self::Upkeep => 1,
        }
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.duty.as_str(), self.shard)
    }
}

impl WorkedShares {
    pub fn new() -> Self {
        Self(Arc::new(watch::Sender::new(HeldShares::new())))
    }

    /// The work on it begins.
    pub fn begin(&self, share: Share, epoch: Epoch) {
        self.0.send_modify(|it| {
            it.insert(share, epoch);
        });
    }

    /// The work on it has ended, and writes nothing any more.
    pub fn end(&self, share: Share) {
        self.0.send_modify(|it| {
            it.remove(&share);
        });
    }

    pub fn watch(&self) -> watch::Receiver<HeldShares> {
        self.0.subscribe()
    }
}

impl Default for WorkedShares {
    fn default() -> Self {
        Self::new()
    }
}

impl Default for LeaseSet {
    fn default() -> Self {
        Self { shares: HeldShares::new(), sure_until: Instant::now() }
    }
}

impl Default for ClusterSnapshot {
    fn default() -> Self {
        Self {
            at: Timestamp::UNIX_EPOCH,
            members: Vec::new(),
            leases: Vec::new(),
            logs: Vec::new(),
            resources: 0,
        }
    }
}
