//! Segment's clients and their kin, with only the host changed.

mod contract;
mod surface;
mod limits;
mod clients;
