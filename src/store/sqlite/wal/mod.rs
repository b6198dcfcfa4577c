//! The write-ahead journal: statements are fsynced here before anybody is answered.

pub mod synced;
pub mod statements;
pub mod statement_buffer;
pub mod journal_tail;
pub mod journal;
