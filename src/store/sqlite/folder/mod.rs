//! The data folder: which files there are, what the manifest says of them, and room on the disk.

pub mod private;
pub mod beside;
pub mod facts;
pub mod marks;
pub mod changes;
pub mod files;
pub mod manifest;
pub mod sums;
pub mod disk_reserve;
pub mod lost;
