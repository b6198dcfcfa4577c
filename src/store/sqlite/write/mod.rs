//! The writer: requests wait in a queue, and one thread makes a commit batch of all that wait.

pub mod requests;
pub mod queue;
pub mod pending_acks;
pub mod syncer;
pub mod memory;
pub mod group_commit;
pub mod plan;
pub mod settle;
pub mod replay;
pub mod record;
pub mod recover;
pub mod publish;
pub mod writer;
