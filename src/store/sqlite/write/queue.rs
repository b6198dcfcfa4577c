//! Where requests wait for the writer: events first, then everything else. Bounded by bytes: past
//! the bound, callers wait.

use std::{
    collections::VecDeque,
    sync::{Arc, Condvar, Mutex, MutexGuard},
    time::Duration,
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::requests::{Append, ReplyTo, WriteRequest, WriteTask};
use crate::{
    model::Owed,
    store::{
        Appended, Result, StoreError,
        sqlite::{keys::gate::PendingEvent, lock},
    },
};

/// What the writer takes at once.
#[derive(Default)]
pub struct WriteBatch {
    pub appends: Vec<Append>,
    pub works: Vec<WriteRequest>,
    pub flushes: Vec<oneshot::Sender<Result<()>>>,
    /// Whoever waits to read what was done.
    pub readers: Vec<oneshot::Sender<Result<()>>>,
    /// The active segment should be sealed, though it is not full.
    pub is_roll: bool,
    pub end: Option<End>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Does what waits, and leaves everything tidy.
    Close,
    /// Leaves everything as a crash would.
    Abandon,
}

pub struct WriteQueue {
    queues: Mutex<Queues>,
    woken: Condvar,
    ingest_room: QueueBudget,
    work_room: QueueBudget,
}

struct QueueBudget {
    semaphore: Arc<Semaphore>,
    bytes: usize,
}

#[derive(Default)]
struct Queues {
    ingest: VecDeque<Append>,
    work: VecDeque<WriteRequest>,
    flushes: Vec<oneshot::Sender<Result<()>>>,
    readers: Vec<oneshot::Sender<Result<()>>>,
    is_roll: bool,
    end: Option<End>,
    /// The writer sleeps, and wants to be woken.
    is_asleep: bool,
    /// A sync is on its way, and what is done before it ends waits for the next.
    sync_in_flight: bool,
    is_gone: bool,
}

/// What one transaction takes at most.
const EVENTS: usize = 4096;
const EVENT_BYTES: usize = 4 * 1024 * 1024;
const WORKS: usize = 4096;
/// Few enough that events do not wait long behind deliveries.
const WORK_ITEMS: usize = 2048;
/// While a sync is on its way, a batch waits for so many requests: it would end no sooner with fewer.
const MANY: usize = 8;

impl WriteQueue {
    /// Bytes of events and of other work that may wait.
    pub fn new(ingest_bytes: usize, work_bytes: usize) -> Self {
        let room = |bytes: usize| {
            let bytes = bytes.min(Semaphore::MAX_PERMITS).min(u32::MAX as usize);
            QueueBudget { semaphore: Arc::new(Semaphore::new(bytes)), bytes }
        };
        Self {
            queues: Mutex::default(),
            woken: Condvar::new(),
            ingest_room: room(ingest_bytes),
            work_room: room(work_bytes),
        }
    }

    pub async fn append(&self, events: Vec<PendingEvent>) -> Result<Vec<Appended>> {
        let weight = events.iter().map(|it| it.event.weight()).sum();
        let room = self.ingest_room.take(weight).await?;
        let (reply, answer) = oneshot::channel();
        let request = ReplyTo::new(reply, room);
        self.push(|queues| queues.ingest.push_back(Append { events, weight, request }))?;
        answer.await.map_err(|_| StoreError::Closed)?
    }

    pub async fn work(&self, task: WriteTask) -> Result<Vec<Owed>> {
        let room = self.work_room.take(task.weight()).await?;
        let (reply, answer) = oneshot::channel();
        let request = ReplyTo::new(reply, room);
        self.push(|queues| queues.work.push_back(WriteRequest { task, request }))?;
        answer.await.map_err(|_| StoreError::Closed)?
    }

    /// Returns when `owed.db` holds everything that was committed before.
    pub async fn flush(&self) -> Result<()> {
        let (reply, answer) = oneshot::channel();
        self.push(|queues| queues.flushes.push(reply))?;
        answer.await.map_err(|_| StoreError::Closed)?
    }

    /// The same, for a thread that may block.
    pub fn flush_blocking(&self) -> Result<()> {
        let (reply, answer) = oneshot::channel();
        self.push(|queues| queues.flushes.push(reply))?;
        answer.blocking_recv().map_err(|_| StoreError::Closed)?
    }

    /// Returns when readers of the active segment see everything that was done before.
    pub async fn publish(&self) -> Result<()> {
        let (reply, answer) = oneshot::channel();
        self.push(|queues| queues.readers.push(reply))?;
        answer.await.map_err(|_| StoreError::Closed)?
    }

    /// Asks the writer to go on in a new segment soon.
    pub fn roll(&self) -> Result<()> {
        self.push(|queues| queues.is_roll = true)
    }

    fn push(&self, push: impl FnOnce(&mut Queues)) -> Result<()> {
        let mut queues = lock(&self.queues);
        if queues.end.is_some() || queues.is_gone {
            return Err(StoreError::Closed);
        }
        push(&mut queues);
        self.wake(queues);
        Ok(())
    }

    /// Whether a sync is on its way.
    pub fn set_sync_in_flight(&self, is_patient: bool) {
        let mut queues = lock(&self.queues);
        queues.sync_in_flight = is_patient;
        self.wake(queues);
    }

    fn wake(&self, mut queues: MutexGuard<'_, Queues>) {
        if !queues.is_idle() && std::mem::take(&mut queues.is_asleep) {
            drop(queues);
            self.woken.notify_one();
        }
    }

    /// Asks the writer to end. Requests after this are refused.
    pub fn end(&self, end: End) {
        let mut queues = lock(&self.queues);
        queues.end.get_or_insert(end);
        queues.is_asleep = false;
        drop(queues);
        self.ingest_room.semaphore.close();
        self.work_room.semaphore.close();
        self.woken.notify_one();
    }

    /// The writer is gone: what waits is dropped, and whoever asked hears that the store is closed.
    pub fn writer_gone(&self) {
        let mut queues = lock(&self.queues);
        queues.is_gone = true;
        let left = (
            std::mem::take(&mut queues.ingest),
            std::mem::take(&mut queues.work),
            std::mem::take(&mut queues.flushes),
            std::mem::take(&mut queues.readers),
        );
        drop(queues);
        drop(left);
    }

    /// What waits, or nothing when nothing came for so long. For the writer.
    pub fn take(&self, timeout: Option<Duration>) -> WriteBatch {
        let mut queues = lock(&self.queues);
        if queues.is_idle() {
            queues.is_asleep = true;
            let is_idle = |it: &mut Queues| it.is_idle() && it.is_asleep;
            queues = match timeout {
                Some(timeout) => {
                    let waited = self.woken.wait_timeout_while(queues, timeout, is_idle);
                    waited.unwrap_or_else(|it| it.into_inner()).0
                }
                None => {
                    let waited = self.woken.wait_while(queues, is_idle);
                    waited.unwrap_or_else(|it| it.into_inner())
                }
            };
            queues.is_asleep = false;
        }
        queues.take()
    }
}

impl Queues {
    /// Whether there is nothing that a batch should be made for now.
    fn is_idle(&self) -> bool {
        self.ingest.len() + self.work.len() < if self.sync_in_flight { MANY } else { 1 }
            && self.flushes.is_empty()
            && self.readers.is_empty()
            && !self.is_roll
            && self.end.is_none()
    }

    fn take(&mut self) -> WriteBatch {
        metrics::gauge!("tidegate_store_waiting", "queue" => "events")
            .set(self.ingest.len() as f64);
        metrics::gauge!("tidegate_store_waiting", "queue" => "work").set(self.work.len() as f64);
        let mut batch = WriteBatch::default();
        let (mut events, mut bytes) = (0, 0);
        while let Some(next) = self.ingest.front() {
            let is_first = batch.appends.is_empty();
            if !is_first
                && (events + next.events.len() > EVENTS || bytes + next.weight > EVENT_BYTES)
            {
                break;
            }
            events += next.events.len();
            bytes += next.weight;
            batch.appends.extend(self.ingest.pop_front());
        }
        let mut items = 0;
        while let Some(next) = self.work.front() {
            let size = next.task.items();
            if !batch.works.is_empty() && (batch.works.len() >= WORKS || items + size > WORK_ITEMS)
            {
                break;
            }
            items += size;
            batch.works.extend(self.work.pop_front());
        }
        // A flush comes after everything that was asked before it.
        if self.work.is_empty() {
            batch.flushes = std::mem::take(&mut self.flushes);
        }
        // What was done before is done: what still waits was not answered.
        batch.readers = std::mem::take(&mut self.readers);
        batch.is_roll = std::mem::take(&mut self.is_roll);
        if self.ingest.is_empty() && self.work.is_empty() {
            batch.end = self.end;
        }
        batch
    }
}

impl QueueBudget {
    async fn take(&self, weight: usize) -> Result<OwnedSemaphorePermit> {
        // What is heavier than all the room there is passes alone.
        let permits = weight.min(self.bytes) as u32;
        let taken = self.semaphore.clone().acquire_many_owned(permits).await;
        taken.map_err(|_| StoreError::Closed)
    }
}
