//! What is owed: the deliveries that have not ended.
//!
//! The truth is in the segments. Each commit that changes what is owed writes one [`redo`] row, in
//! the same transaction, with just these changes. The writer keeps them in memory, in the
//! [`Ledger`], where a delivery that is planned and soon ended leaves no trace; a thread brings
//! what remains into `owed.db` at a distance. When the store is opened, the redo rows that
//! `owed.db` has not seen are applied; when it is missing or damaged, it is [rebuilt](rebuild).

mod redo;
mod file;
mod ask;
mod applier;
mod rebuild;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::oneshot;

use self::{applier::Applier, redo::OwedChange};
pub(super) use self::{file::OwedFile, rebuild::open};
use super::{
    registry::control::Control,
    segment::rows::{self, DeliveryRow},
    status::StoreStatus,
    wal::synced::Synced,
};
use crate::{
    model::{DeliverySeq, IdMap, Lane, Owed, Place, Standing},
    store::{Result, StoreError},
};

/// A row of `owed`, with the number of its destination.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct OwedRow {
    pub destination: i64,
    pub place: Place,
    pub seq: DeliverySeq,
    pub attempts: u16,
    pub entries: u16,
    /// Microseconds since 1970, as the next.
    pub due: Option<i64>,
    pub accepted_at: i64,
}

impl OwedRow {
    /// `destination` is the number of `owed.destination`.
    pub fn new(owed: &Owed, destination: i64) -> Self {
        Self {
            destination,
            place: owed.place,
            seq: owed.seq,
            attempts: owed.standing.attempts,
            entries: owed.standing.entries,
            due: owed.standing.due.map(rows::micros),
            accepted_at: rows::micros(owed.accepted_at),
        }
    }

    /// As much as finds the row of this delivery.
    pub fn place_of(row: &DeliveryRow) -> Self {
        Self {
            destination: row.destination,
            place: row.place,
            seq: row.seq,
            attempts: 0,
            entries: 0,
            due: None,
            accepted_at: 0,
        }
    }

    pub fn to_owed(self, control: &Control) -> Result<Owed> {
        Ok(Owed {
            seq: self.seq,
            destination: control.id(self.destination)?,
            place: self.place,
            accepted_at: rows::time(self.accepted_at)?,
            standing: Standing {
                attempts: self.attempts,
                entries: self.entries,
                due: self.due.map(rows::time).transpose()?,
            },
        })
    }
}

/// Lanes have no sign, and numbers in SQLite have one: this keeps their order.
fn lane_to_sql(lane: Lane) -> i64 {
    (lane.0 ^ 1 << 63) as i64
}

fn lane_from_sql(lane: i64) -> Lane {
    Lane(lane as u64 ^ 1 << 63)
}

/// What stands between a delivery's row in `owed.db` and how it stands now.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Pending {
    /// The file has no row.
    Insert(OwedRow),
    Update(OwedRow),
    /// The file has a row that must go.
    Delete(OwedRow),
}

type Pendings = IdMap<DeliverySeq, Pending>;

/// What is owed, as the writer knows it.
pub(super) struct Ledger {
    file: OwedFile,
    applier: Applier,
    /// Changes since the last ones were handed to the applier.
    active: Pendings,
    /// Those it has.
    handed: Arc<Pendings>,
    handed_through: u64,
    handed_at: Instant,
    /// The last redo row, committed.
    number: u64,
    /// Deliveries that are owed, and how many there were before this batch.
    pending: u64,
    pending_before: u64,
    /// What this batch changes, for its redo row.
    redo: Vec<u8>,
    /// What `active` held before this batch, to go back to when its transaction fails.
    undo: Vec<(DeliverySeq, Option<Pending>)>,
    /// Whoever waits for `owed.db` to hold all that was committed.
    waiting: Vec<oneshot::Sender<Result<()>>>,
}

impl Ledger {
    /// Changes that are handed on without waiting for the time to come.
    const MANY: usize = 16 * 1024;
    /// More than so many are not kept: the applier has fallen behind, and the writer waits for it.
    const MOST: usize = 64 * 1024;
    /// Changes that wait longer than this are handed on, however few.
    const TIMEOUT: Duration = Duration::from_secs(1);

    /// `file` has every change up to the redo row `number`, the last that there is.
    pub fn new(file: OwedFile, number: u64, status: Arc<StoreStatus>) -> Result<Self> {
        let pending = file.total()?;
        Ok(Self {
            pending,
            pending_before: pending,
            applier: Applier::start(&file, number, status)?,
            file,
            active: Pendings::default(),
            handed: Arc::default(),
            handed_through: number,
            handed_at: Instant::now(),
            number,
            redo: Vec::new(),
            undo: Vec::new(),
            waiting: Vec::new(),
        })
    }

    /// How a delivery stands, if it is still owed. Of `owed`, seq, destination and place count.
    pub fn find(&self, owed: &OwedRow) -> Result<Option<OwedRow>> {
        match self.active.get(&owed.seq).or_else(|| self.handed.get(&owed.seq)) {
            Some(Pending::Insert(row) | Pending::Update(row)) => Ok(Some(*row)),
            Some(Pending::Delete(_)) => Ok(None),
            None => self.file.find(owed),
        }
    }

    /// For a delivery that was not owed before.
    pub fn insert(&mut self, row: OwedRow) {
        self.pending += 1;
        redo::write(&mut self.redo, &OwedChange::Insert(row));
        self.set(row.seq, Some(Pending::Insert(row)));
    }

    /// For a delivery that is owed, and now stands so.
    pub fn update(&mut self, row: OwedRow) {
        redo::write(&mut self.redo, &OwedChange::Update(row));
        let is_new = matches!(self.active.get(&row.seq), Some(Pending::Insert(_)));
        self.set(row.seq, Some(if is_new { Pending::Insert(row) } else { Pending::Update(row) }));
    }

    /// For a delivery that is owed, and has ended.
    pub fn end(&mut self, row: OwedRow) {
        self.pending = self.pending.saturating_sub(1);
        redo::write(&mut self.redo, &OwedChange::End(row));
        let is_new = matches!(self.active.get(&row.seq), Some(Pending::Insert(_)));
        self.set(row.seq, (!is_new).then_some(Pending::Delete(row)));
    }

    fn set(&mut self, seq: DeliverySeq, pending: Option<Pending>) {
        let before = match pending {
            Some(pending) => self.active.insert(seq, pending),
            None => self.active.remove(&seq),
        };
        self.undo.push((seq, before));
    }

    /// The redo row of this batch: its number and its changes, if there are any.
    pub fn redo(&self) -> Option<(u64, &[u8])> {
        (!self.redo.is_empty()).then_some((self.number + 1, self.redo.as_slice()))
    }

    /// The last redo row that was committed.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// The redo rows up to here are of no more use: `owed.db` has them on disk. Never the last one,
    /// which tells where the numbers stand.
    pub fn spent(&self) -> u64 {
        self.applier.durable().min(self.number.saturating_sub(1))
    }

    /// The batch was committed.
    pub fn commit(&mut self) {
        self.pending_before = self.pending;
        self.number += u64::from(!self.redo.is_empty());
        self.redo.clear();
        self.redo.shrink_to(1 << 20);
        self.undo.clear();
    }

    /// The batch was not: everything stands as it did before.
    pub fn roll_back(&mut self) {
        for (seq, before) in self.undo.drain(..).rev() {
            match before {
                Some(pending) => drop(self.active.insert(seq, pending)),
                None => drop(self.active.remove(&seq)),
            }
        }
        self.redo.clear();
        self.pending = self.pending_before;
    }

    /// Deliveries that are owed.
    pub fn pending(&self) -> u64 {
        self.pending
    }

    /// Answers when `owed.db` holds all that is committed now.
    pub fn flush(&mut self, done: oneshot::Sender<Result<()>>) {
        self.waiting.push(done);
    }

    /// Whether [`Self::is_due`] says so soon.
    pub fn has_pending(&self) -> bool {
        self.number > self.handed_through || !self.handed.is_empty() || !self.waiting.is_empty()
    }

    /// Whether changes should be handed on by now. Called between batches.
    pub fn is_due(&mut self) -> bool {
        let mut is_idle = self.applier.applied() >= self.handed_through;
        if !is_idle && self.active.len() >= Self::MOST {
            metrics::counter!("tidegate_store_owed_waits_total").increment(1);
            self.applier.wait(self.handed_through);
            is_idle = self.applier.applied() >= self.handed_through;
        }
        if !is_idle {
            return false;
        }
        if !self.handed.is_empty() {
            self.handed = Arc::default();
        }
        !self.waiting.is_empty()
            || self.active.len() >= Self::MANY
            || (self.number > self.handed_through && self.handed_at.elapsed() >= Self::TIMEOUT)
    }

    /// Hands the changes to the applier, which has no others. Their redo rows are on disk: `owed.db`
    /// must not know, after a power cut, what the segments do not.
    pub fn apply_pending(&mut self, _: Synced) {
        if self.number == self.handed_through {
            for done in self.waiting.drain(..) {
                // Whoever asked may have gone.
                let _ = done.send(Ok(()));
            }
            return;
        }
        self.handed = Arc::new(std::mem::take(&mut self.active));
        (self.handed_through, self.handed_at) = (self.number, Instant::now());
        self.applier.apply(self.handed.clone(), self.number, std::mem::take(&mut self.waiting));
    }

    /// The disk failed or is full: whoever waits gets the error.
    pub fn refuse(&mut self, why: impl Fn() -> StoreError) {
        for done in self.waiting.drain(..) {
            // Whoever asked may have gone.
            let _ = done.send(Err(why()));
        }
    }

    /// Changes that are not in `owed.db` yet.
    pub fn len(&self) -> usize {
        self.active.len() + self.handed.len()
    }

    /// Whether `owed.db` cannot take what it should, most likely because the disk is full.
    pub fn is_stuck(&self) -> bool {
        self.applier.is_stuck()
    }

    /// Whether more may become owed: the applier keeps up, or there is still room in memory.
    pub fn has_room(&self) -> bool {
        self.active.len() < Self::MOST
    }

    /// Brings everything into `owed.db`, and that to the disk.
    pub fn close(mut self, synced: Synced) {
        self.applier.wait(self.handed_through);
        self.apply_pending(synced);
        self.applier.wait(self.handed_through);
        self.applier.close();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lanes_keep_their_order_in_sql() {
        let lanes = [0, 1, i64::MAX as u64, 1 << 63, u64::MAX].map(Lane);
        let in_sql = lanes.map(lane_to_sql);
        assert!(in_sql.is_sorted());
        assert_eq!(in_sql.map(lane_from_sql), lanes);
    }
}
