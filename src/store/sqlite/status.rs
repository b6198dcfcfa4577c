//! How the store is, as everybody may see it: whether it accepts events, and how far things have come.

use std::sync::{
    Mutex,
    atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering},
};

use super::{error::is_broken, lock};
use crate::{
    model::EventSeq,
    store::{Health, Refusal, Result, StoreError},
};

#[derive(Default)]
pub(super) struct StoreStatus {
    refuses: AtomicU8,
    is_closed: AtomicBool,
    /// Something was kept that readers of the active segment do not see yet.
    is_unpublished: AtomicBool,
    planned_through: AtomicU64,
    /// In accept order.
    waiting: Mutex<Vec<EventSeq>>,
}

const FINE: u8 = 0;
const DISK_FULL: u8 = 1;
/// For ever: only a restart finds out what the disk still has.
const BROKEN: u8 = 2;

impl StoreStatus {
    pub fn health(&self) -> Health {
        let refuses = match self.refuses.load(Ordering::Acquire) {
            FINE => None,
            DISK_FULL => Some(Refusal::DiskFull),
            _ => Some(Refusal::Broken),
        };
        Health { refuses }
    }

    pub fn is_full(&self) -> bool {
        self.refuses.load(Ordering::Acquire) == DISK_FULL
    }

    pub fn is_broken(&self) -> bool {
        self.refuses.load(Ordering::Acquire) == BROKEN
    }

    /// Whether there is room on the disk.
    pub fn set_full(&self, is_full: bool) {
        let (from, to) = if is_full { (FINE, DISK_FULL) } else { (DISK_FULL, FINE) };
        let moved =
            self.refuses.compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire).is_ok();
        if moved && is_full {
            tracing::error!("the disk is full: no events are accepted until there is room");
        } else if moved {
            tracing::info!("there is room on the disk again: events are accepted");
        }
    }

    /// Stops accepting, for ever, if this failure means that the files cannot be trusted any more.
    pub fn record_failure(&self, error: &StoreError) {
        if is_broken(error) {
            self.break_down();
        }
    }

    pub fn break_down(&self) {
        self.refuses.store(BROKEN, Ordering::Release);
    }

    pub fn is_closed(&self) -> bool {
        self.is_closed.load(Ordering::Acquire)
    }

    pub fn set_unpublished(&self, is_unpublished: bool) {
        self.is_unpublished.store(is_unpublished, Ordering::Release);
    }

    pub fn is_unpublished(&self) -> bool {
        self.is_unpublished.load(Ordering::Acquire)
    }

    pub fn close(&self) {
        self.is_closed.store(true, Ordering::Release);
    }

    /// Whether reading makes sense.
    pub fn check_open(&self) -> Result<()> {
        if self.is_closed() { Err(StoreError::Closed) } else { Ok(()) }
    }

    /// Every event up to here has a plan.
    pub fn planned_through(&self) -> EventSeq {
        EventSeq(self.planned_through.load(Ordering::Acquire))
    }

    pub fn set_planned_through(&self, seq: EventSeq) {
        self.planned_through.store(seq.0, Ordering::Release);
    }

    /// Events whose plan is not whole yet, in accept order.
    pub fn waiting(&self) -> Vec<EventSeq> {
        lock(&self.waiting).clone()
    }

    pub fn set_waiting(&self, events: Vec<EventSeq>) {
        *lock(&self.waiting) = events;
    }

    /// Every event up to here has its whole plan.
    pub fn decided_through(&self) -> EventSeq {
        let planned = self.planned_through();
        match lock(&self.waiting).first() {
            Some(first) => planned.min(EventSeq(first.0 - 1)),
            None => planned,
        }
    }
}
