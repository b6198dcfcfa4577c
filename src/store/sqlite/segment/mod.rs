//! The segments: files of events and of rows about them, one active, the others sealed.

pub mod rows;
pub mod blocks;
pub mod contents;
pub mod segments;
pub mod seal;
pub mod active;
pub mod digests;
pub mod maintenance;
