//! Counts of what happened at the places of a pipeline, in the form in which every store keeps them.

use std::collections::BTreeMap;

use super::{Result, StoreError};
use crate::model::{Edge, Passed, packed};

pub(super) type Counts = BTreeMap<Edge, Passed>;

/// For each place: route and step (0: none), and four counts.
pub(super) fn pack(counts: &Counts) -> Vec<u8> {
    let mut out = Vec::with_capacity(12 * counts.len());
    let number = |it: Option<u16>| it.map_or(0, |it| u64::from(it) + 1);
    for (edge, it) in counts {
        for number in [number(edge.route), number(edge.step)] {
            packed::put(&mut out, number);
        }
        for count in [it.arrived, it.filtered, it.errored, it.left] {
            packed::put(&mut out, count);
        }
    }
    out
}

/// Adds what [`pack`] wrote.
pub(super) fn add_packed(mut bytes: &[u8], counts: &mut Counts) -> Result<()> {
    const DAMAGED: StoreError = StoreError::Damaged { what: "count of a pipeline" };
    while !bytes.is_empty() {
        let mut next = || packed::take(&mut bytes).ok_or(DAMAGED);
        let place = |it: u64| it.checked_sub(1).map(|it| it as u16);
        let edge = Edge { route: place(next()?), step: place(next()?) };
        let (arrived, filtered) = (next()?, next()?);
        let passed = Passed { arrived, filtered, errored: next()?, left: next()? };
        *counts.entry(edge).or_default() += passed;
    }
    Ok(())
}
