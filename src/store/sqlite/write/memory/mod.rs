//! What the writer keeps in memory, and writes with each batch: counts and what waits.

pub mod minutes;
pub mod tallies;
pub mod memories;
pub mod waiting;
