//! What one stage hands the next in memory, so that the hot path reads nothing back.
//!
//! Sending never waits and never fails. When the queue is full the hint is dropped, and the
//! receiver is told what was: it then reads from the store, which holds everything. A lost hint
//! costs a read, never an event.

use std::sync::{Arc, Mutex};

use tokio::sync::{Notify, mpsc};

/// What stands for hints that were dropped, added up until the receiver looks.
pub trait Loss<T>: Default + Send {
    fn add(&mut self, hint: &T);
}

/// For hints whose loss needs no detail: something was dropped, or nothing.
impl<T> Loss<T> for bool {
    fn add(&mut self, _: &T) {
        *self = true;
    }
}

#[derive(Debug, PartialEq)]
pub enum Hint<T, L> {
    Some(T),
    /// These were dropped, or may never have been sent: read them from the store.
    Lost(L),
}

pub struct Sender<T, L> {
    queue: mpsc::Sender<T>,
    lost: Arc<Lost<L>>,
}

pub struct Receiver<T, L> {
    queue: mpsc::Receiver<T>,
    lost: Arc<Lost<L>>,
}

struct Lost<L> {
    loss: Mutex<Option<L>>,
    added: Notify,
}

/// A queue of at most `bound` hints.
pub fn channel<T: Send, L: Loss<T>>(bound: usize) -> (Sender<T, L>, Receiver<T, L>) {
    let (sender, receiver) = mpsc::channel(bound);
    let lost = Arc::new(Lost { loss: Mutex::new(None), added: Notify::new() });
    (Sender { queue: sender, lost: lost.clone() }, Receiver { queue: receiver, lost })
}

impl<T: Send, L: Loss<T>> Sender<T, L> {
    pub fn send(&self, hint: T) {
        let dropped = match self.queue.try_send(hint) {
            Ok(()) => return,
            Err(
                mpsc::error::TrySendError::Full(hint) | mpsc::error::TrySendError::Closed(hint),
            ) => hint,
        };
        lock(&self.lost.loss).get_or_insert_default().add(&dropped);
        self.lost.added.notify_one();
    }
}

impl<T, L> Clone for Sender<T, L> {
    fn clone(&self) -> Self {
        Self { queue: self.queue.clone(), lost: self.lost.clone() }
    }
}

impl<T: Send, L: Loss<T>> Receiver<T, L> {
    /// The next hint, or `None` when every sender is gone. Cancel-safe.
    pub async fn receive(&mut self) -> Option<Hint<T, L>> {
        loop {
            if let Some(loss) = lock(&self.lost.loss).take() {
                return Some(Hint::Lost(loss));
            }
            tokio::select! {
                biased;
                hint = self.queue.recv() => return hint.map(Hint::Some),
                () = self.lost.added.notified() => (),
            }
        }
    }

    /// A hint that is already there.
    pub fn try_receive(&mut self) -> Option<Hint<T, L>> {
        if let Some(loss) = lock(&self.lost.loss).take() {
            return Some(Hint::Lost(loss));
        }
        self.queue.try_recv().ok().map(Hint::Some)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_full_queue_drops_the_hint_and_says_so_first() {
        let (sender, mut receiver) = channel::<u32, bool>(1);
        sender.send(1);
        sender.send(2);
        assert_eq!(receiver.receive().await, Some(Hint::Lost(true)));
        assert_eq!(receiver.receive().await, Some(Hint::Some(1)));
        drop(sender);
        assert_eq!(receiver.receive().await, None);
    }
}
