//! The compact form of what a commit changed in `owed.db`: a tag, and numbers of variable length.

use super::OwedRow;
use crate::{
    model::{DeliverySeq, Lane, Place, packed},
    store::{Result, StoreError},
};

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum OwedChange {
    Insert(OwedRow),
    Update(OwedRow),
    /// Only what finds the row is kept of it.
    End(OwedRow),
}

const INSERT: u8 = 1;
const UPDATE: u8 = 2;
const END: u8 = 3;

pub(super) fn write(bytes: &mut Vec<u8>, change: &OwedChange) {
    let (tag, row) = match change {
        OwedChange::Insert(row) => (INSERT, row),
        OwedChange::Update(row) => (UPDATE, row),
        OwedChange::End(row) => (END, row),
    };
    bytes.push(tag);
    packed::put(bytes, row.seq.bits());
    packed::put(bytes, row.destination as u64);
    packed::put(bytes, row.place.lane.0);
    packed::put_signed(bytes, row.place.position);
    if tag == END {
        return;
    }
    packed::put_signed(bytes, row.accepted_at);
    packed::put(bytes, u64::from(row.attempts));
    packed::put(bytes, u64::from(row.entries));
    match row.due {
        Some(due) => {
            bytes.push(1);
            packed::put_signed(bytes, due);
        }
        None => bytes.push(0),
    }
}

/// The changes of one redo row, in their order.
pub(super) fn read(bytes: &[u8]) -> Result<Vec<OwedChange>> {
    let mut reader = RedoReader { bytes };
    let mut changes = Vec::new();
    while !reader.bytes.is_empty() {
        changes.push(reader.change().ok_or(StoreError::Damaged { what: "redo row" })?);
    }
    Ok(changes)
}

struct RedoReader<'a> {
    bytes: &'a [u8],
}

impl RedoReader<'_> {
    fn byte(&mut self) -> Option<u8> {
        let (&first, rest) = self.bytes.split_first()?;
        self.bytes = rest;
        Some(first)
    }

    fn number(&mut self) -> Option<u64> {
        packed::take(&mut self.bytes)
    }

    fn signed(&mut self) -> Option<i64> {
        packed::take_signed(&mut self.bytes)
    }

    fn change(&mut self) -> Option<OwedChange> {
        let tag = self.byte()?;
        let mut row = OwedRow {
            seq: DeliverySeq::from_bits(self.number()?),
            destination: self.number()? as i64,
            place: Place { lane: Lane(self.number()?), position: self.signed()? },
            accepted_at: 0,
            attempts: 0,
            entries: 0,
            due: None,
        };
        if tag == END {
            return Some(OwedChange::End(row));
        }
        row.accepted_at = self.signed()?;
        row.attempts = self.number()?.try_into().ok()?;
        row.entries = self.number()?.try_into().ok()?;
        row.due = match self.byte()? {
            0 => None,
            1 => Some(self.signed()?),
            _ => return None,
        };
        match tag {
            INSERT => Some(OwedChange::Insert(row)),
            UPDATE => Some(OwedChange::Update(row)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    prop_compose! {
        fn row()(
            seq: u64, destination in 0i64.., lane: u64, position: i64,
            accepted_at: i64, attempts: u16, entries: u16, due: Option<i64>,
        ) -> OwedRow {
            OwedRow {
                seq: DeliverySeq::from_bits(seq),
                destination,
                place: Place { lane: Lane(lane), position },
                accepted_at, attempts, entries, due,
            }
        }
    }

    proptest! {
        #[test]
        fn redo_rows_are_read_back(rows in prop::collection::vec(row(), 0..20)) {
            let ends = |row: OwedRow| OwedRow { accepted_at: 0, attempts: 0, entries: 0, due: None, ..row };
            let changes: Vec<OwedChange> = rows
                .into_iter()
                .flat_map(|it| [OwedChange::Insert(it), OwedChange::Update(it), OwedChange::End(ends(it))])
                .collect();
            let mut bytes = Vec::new();
            for change in &changes {
                write(&mut bytes, change);
            }
            prop_assert_eq!(read(&bytes).unwrap(), changes);
        }

        #[test]
        fn damage_is_an_error_and_never_a_panic(bytes: Vec<u8>) {
            let _ = read(&bytes);
        }
    }
}
