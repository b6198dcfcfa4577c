//! What is read: beside the writer, on connections of its own.

pub mod readers;
pub mod duplicates;
pub mod records;
pub mod snapshot;
