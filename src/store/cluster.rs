//! What many nodes on one database ask of it: who lives, and who holds which share of the work.

use std::{fmt, str::FromStr, sync::Arc, time::Duration};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::{Result, Store};

/// A process, from its start to its end. One that is started again is another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MemberId(pub u128);

/// What a node does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Takes events.
    Ingest,
    /// Plans deliveries.
    Pipeline,
    /// Makes attempts.
    Dispatch,
    /// Answers people.
    Api,
}

/// A part of the events, or of the destinations, that one node at a time works on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Share {
    /// [`Role::Pipeline`]: the events of some projects. [`Role::Dispatch`]: some destinations.
    pub role: Role,
    pub shard: u16,
}

/// How often a share has changed hands. A write that carries an old one is refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Epoch(pub i64);

#[derive(Clone, Debug, PartialEq)]
pub struct Member {
    pub id: MemberId,
    pub name: String,
    pub roles: Vec<Role>,
    /// Where its API answers.
    pub address: String,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Lease {
    pub share: Share,
    /// `None` also when its time is over.
    pub holder: Option<MemberId>,
    pub epoch: Epoch,
}

/// What the database knows at one moment, by its own clock.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct View {
    /// Those that have lately said that they live, in the order of their ids.
    pub members: Vec<Member>,
    /// Of every share, in their order.
    pub leases: Vec<Lease>,
}

/// A database that many nodes share.
#[async_trait]
pub trait Membership: Send + Sync {
    /// Says that a node lives, renews for so long what it holds, and tells who else lives.
    async fn beat(&self, me: &Member, lease: Duration) -> Result<View>;

    /// Takes shares that nobody holds, each with a new epoch; those that others were quicker to take
    /// are missing from the answer.
    async fn claim(
        &self,
        me: MemberId,
        shares: &[Share],
        lease: Duration,
    ) -> Result<Vec<(Share, Epoch)>>;

    /// Gives shares back. Those that it does not hold any more are passed over.
    async fn give_back(&self, me: MemberId, shares: &[(Share, Epoch)]) -> Result<()>;

    /// Says that a node has ended, with whatever it held.
    async fn leave(&self, me: MemberId) -> Result<()>;

    /// The database as a holder of one share sees it: it sees the events, or what is owed to the
    /// destinations, of this share only, and every write fails with
    /// [`super::StoreError::Fenced`] once the share has changed hands.
    fn share(&self, share: Share, epoch: Epoch) -> Arc<dyn Store>;
}

impl Role {
    pub const ALL: [Self; 4] = [Self::Ingest, Self::Pipeline, Self::Dispatch, Self::Api];
    /// Those whose work comes in shares.
    pub const WORKING: [Self; 2] = [Self::Pipeline, Self::Dispatch];

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
