//! What is on disk: the proof of an fsync, and how far a file of the journal has to be brought there.

use std::{fs::File, sync::Arc};

/// Proof that all batches were on disk a moment ago. Whoever makes something that outlives a power cut from
/// what a batch wrote asks for it.
pub struct Synced(());

impl Synced {
    /// Only for the syncer, which has just seen an fsync of the journal succeed.
    pub fn by_fsync() -> Self {
        Self(())
    }
}

/// A file of the journal, and the last batch that stands in it.
pub struct SyncedThrough {
    pub file: Arc<File>,
    pub turn: u64,
}
