//! Segment's clients and their kin, with only the host changed.

mod contract;
mod clients;
