//! What can go wrong between us and a database.

use std::fmt;

use crate::model::DeliverySeq;

pub type Result<T, E = StoreError> = std::result::Result<T, E>;

/// What can go wrong between us and a database.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database cannot be reached or is too busy. The same call may succeed later.
    #[error("the store is unavailable")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// No room on the disk. Nothing of the call was kept; it succeeds when there is room again.
    #[error("the disk is full")]
    Full,
    /// A row does not mean what we wrote there.
    #[error("the store holds a damaged {what}")]
    Damaged { what: &'static str },
    /// A file of the folder is missing or damaged, and something is lost without it. Nothing was changed.
    #[error("{0}")]
    Incomplete(Box<Loss>),
    /// The files were written by a newer version, which this one must not touch.
    #[error(
        "the store has schema version {found}, and this program knows versions up to {known}: run a newer tidegate"
    )]
    Newer { found: u32, known: u32 },
    /// An event has as many deliveries as it can have.
    #[error("the event has {} deliveries, and there is room for no more", DeliverySeq::PER_EVENT)]
    TooManyDeliveries,
    /// Another node has taken over the work that this call was part of. Nothing of the call was kept,
    /// and it must not be tried again here.
    #[error("fenced: another node has taken over this work")]
    Fenced,
    /// A transfer from another store has begun and is not whole.
    #[error(
        "the database is being filled from another store: run `tidegate migrate-store` to its end"
    )]
    Unfinished,
    #[error("the store is closed")]
    Closed,
}

/// What a folder lacks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loss {
    /// Within the folder.
    pub file: String,
    /// `is missing`, `is damaged at byte 4096`.
    pub found: String,
    /// What goes with it.
    pub lost: String,
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` {}; without it, {}", self.file, self.found, self.lost)
    }
}

impl From<Loss> for StoreError {
    fn from(loss: Loss) -> Self {
        Self::Incomplete(Box::new(loss))
    }
}
