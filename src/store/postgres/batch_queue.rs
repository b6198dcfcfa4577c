//! Where calls wait for a writer, in their order, so that those that wait at the same time share a
//! commit. Bounded by bytes: past the bound, callers wait.

use std::sync::{Arc, Mutex};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use super::lock;
use crate::store::{Result, StoreError};

/// The callers' end.
pub(super) struct BatchQueue<I, O> {
    sender: Mutex<Option<mpsc::UnboundedSender<QueuedItem<I, O>>>>,
    room: Arc<Semaphore>,
    bytes: usize,
}

/// The writer's end.
pub(super) struct BatchReceiver<I, O> {
    receiver: mpsc::UnboundedReceiver<QueuedItem<I, O>>,
    /// What did not fit the last batch.
    next: Option<QueuedItem<I, O>>,
}

enum QueuedItem<I, O> {
    Call(Call<I, O>),
    Flush(oneshot::Sender<()>),
}

/// What somebody asked. Room for the next is made when it is dropped.
pub(super) struct Call<I, O> {
    pub input: I,
    pub weight: usize,
    reply: oneshot::Sender<Result<O>>,
    _room: OwnedSemaphorePermit,
}

impl<I, O> Call<I, O> {
    pub fn answer(self, answer: Result<O>) {
        // Whoever asked may have gone.
        let _ = self.reply.send(answer);
    }
}

/// What a writer takes at once.
pub(super) struct CallBatch<I, O> {
    pub calls: Vec<Call<I, O>>,
    pub flushes: Flushes,
}

/// Who wants to know when everything before is done.
#[derive(Default)]
pub(super) struct Flushes(Vec<oneshot::Sender<()>>);

impl Flushes {
    pub fn answer(self) {
        for reply in self.0 {
            // Whoever asked may have gone.
            let _ = reply.send(());
        }
    }
}

pub(super) fn lane<I, O>(bytes: usize) -> (BatchQueue<I, O>, BatchReceiver<I, O>) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let bytes = bytes.min(Semaphore::MAX_PERMITS).min(u32::MAX as usize);
    let room = Arc::new(Semaphore::new(bytes));
    (
        BatchQueue { sender: Mutex::new(Some(sender)), room, bytes },
        BatchReceiver { receiver, next: None },
    )
}

impl<I, O> BatchQueue<I, O> {
    /// Where there is room, the call is in the queue once this was polled.
    pub async fn call(&self, input: I, weight: usize) -> Result<O> {
        // What is heavier than all the room there is passes alone.
        let permits = weight.min(self.bytes) as u32;
        let room = self.room.clone().acquire_many_owned(permits).await;
        let room = room.map_err(|_| StoreError::Closed)?;
        let (reply, answer) = oneshot::channel();
        self.push(QueuedItem::Call(Call { input, weight, reply, _room: room }))?;
        answer.await.map_err(|_| StoreError::Closed)?
    }

    /// Returns when everything is done that was asked before.
    pub async fn flush(&self) -> Result<()> {
        let (reply, answer) = oneshot::channel();
        self.push(QueuedItem::Flush(reply))?;
        answer.await.map_err(|_| StoreError::Closed)
    }

    fn push(&self, item: QueuedItem<I, O>) -> Result<()> {
        let sender = lock(&self.sender);
        let sender = sender.as_ref().ok_or(StoreError::Closed)?;
        sender.send(item).map_err(|_| StoreError::Closed)
    }

    /// Calls after this are refused; the writer does what waits and ends.
    pub fn close(&self) {
        self.room.close();
        lock(&self.sender).take();
    }
}

impl<I, O> BatchReceiver<I, O> {
    /// What waits, up to so many bytes and calls; `None` when the lane is closed and empty.
    pub async fn take(&mut self, bytes: usize, calls: usize) -> Option<CallBatch<I, O>> {
        let mut batch = CallBatch { calls: Vec::new(), flushes: Flushes::default() };
        let mut weight = 0;
        let mut next = match self.next.take() {
            Some(it) => it,
            None => self.receiver.recv().await?,
        };
        loop {
            match next {
                QueuedItem::Call(call) => {
                    let is_full = batch.calls.len() >= calls || weight + call.weight > bytes;
                    // A flush comes after everything before it, and before everything behind it.
                    if !batch.calls.is_empty() && is_full || !batch.flushes.0.is_empty() {
                        self.next = Some(QueuedItem::Call(call));
                        return Some(batch);
                    }
                    weight += call.weight;
                    batch.calls.push(call);
                }
                QueuedItem::Flush(reply) => batch.flushes.0.push(reply),
            }
            match self.receiver.try_recv() {
                Ok(it) => next = it,
                Err(_) => return Some(batch),
            }
        }
    }
}
