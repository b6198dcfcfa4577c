//! Where resources are kept, and how several nodes take turns at changing them.

use async_trait::async_trait;

use super::Result;
use crate::model::RawJson;

/// Where resources are kept: documents with a version, changed in one transaction.
#[async_trait]
pub trait Registry: Send + Sync {
    async fn load(&self) -> Result<Vec<Document>>;

    /// Applies all changes or none.
    async fn change(&self, changes: Vec<Change>) -> Result<()>;

    // Where several nodes change the same resources. Elsewhere nobody else does.

    /// All documents with their revision, where that is not the one that is known.
    async fn newer(&self, _known: u64) -> Result<Option<Revised>> {
        Ok(None)
    }

    /// Keeps the other nodes from changing anything until it ends. `None`: there are no others.
    async fn turn(&self, _known: u64) -> Result<Option<Box<dyn RegistryLock>>> {
        Ok(None)
    }
}

/// All documents, and how often they had been changed.
#[derive(Clone, Debug, PartialEq)]
pub struct Revised {
    pub revision: u64,
    pub documents: Vec<Document>,
}

/// A time in which no other node changes resources. Dropped, it changes nothing.
#[async_trait]
pub trait RegistryLock: Send {
    /// What others have changed since the revision that was known.
    fn newer(&mut self) -> Option<Revised>;

    /// Applies all changes or none, and gives the new revision.
    async fn commit(self: Box<Self>, changes: Vec<Change>) -> Result<u64>;

    /// Ends without a change.
    async fn give_up(self: Box<Self>);
}

/// A resource as it is kept.
#[derive(Clone, Debug, PartialEq)]
pub struct Document {
    /// `project`, `destination`, …
    pub kind: String,
    pub id: u128,
    pub body: RawJson,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    Put(Document),
    Delete { kind: String, id: u128 },
}
