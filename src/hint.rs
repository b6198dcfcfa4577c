//! What one stage hands the next in memory, so that the hot path reads nothing back.
//!
//! Sending never waits and never fails. When the queue is full the hint is dropped, and the
//! receiver learns what was: it then reads from the store, which holds everything. A lost hint
//! costs a read, never an event.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicUsize, Ordering},
};

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
    shared: Arc<Shared<T, L>>,
}

pub struct Receiver<T, L> {
    queue: mpsc::Receiver<T>,
    shared: Arc<Shared<T, L>>,
}

struct Shared<T, L> {
    loss: Mutex<Option<L>>,
    dropped: Notify,
    weigh: fn(&T) -> usize,
    /// What waits in the queue, by `weigh`.
    waiting: AtomicUsize,
    heaviest: usize,
}

/// A queue of at most `bound` hints.
pub fn channel<T: Send, L: Loss<T>>(bound: usize) -> (Sender<T, L>, Receiver<T, L>) {
    weighed_channel(bound, usize::MAX, |_| 0)
}

/// A queue of at most `bound` hints that together weigh at most `heaviest`.
pub fn weighed_channel<T: Send, L: Loss<T>>(
    bound: usize,
    heaviest: usize,
    weigh: fn(&T) -> usize,
) -> (Sender<T, L>, Receiver<T, L>) {
    let (sender, receiver) = mpsc::channel(bound);
    let shared = Arc::new(Shared {
        loss: Mutex::new(None),
        dropped: Notify::new(),
        weigh,
        waiting: AtomicUsize::new(0),
        heaviest,
    });
    (Sender { queue: sender, shared: shared.clone() }, Receiver { queue: receiver, shared })
}

impl<T: Send, L: Loss<T>> Sender<T, L> {
    pub fn send(&self, hint: T) {
        let weight = (self.shared.weigh)(&hint);
        // Senders that race may pass the limit by what they hold, which is bounded as well.
        if self.shared.waiting.load(Ordering::Relaxed).saturating_add(weight) > self.shared.heaviest
        {
            return self.drop_hint(&hint);
        }
        self.shared.waiting.fetch_add(weight, Ordering::Relaxed);
        match self.queue.try_send(hint) {
            Ok(()) => (),
            Err(
                mpsc::error::TrySendError::Full(hint) | mpsc::error::TrySendError::Closed(hint),
            ) => {
                self.shared.waiting.fetch_sub(weight, Ordering::Relaxed);
                self.drop_hint(&hint);
            }
        }
    }

    /// Says that there is something which was not sent here.
    pub fn lose(&self, note: impl FnOnce(&mut L)) {
        note(lock(&self.shared.loss).get_or_insert_default());
        self.shared.dropped.notify_one();
    }

    fn drop_hint(&self, hint: &T) {
        lock(&self.shared.loss).get_or_insert_default().add(hint);
        self.shared.dropped.notify_one();
    }
}

impl<T, L> Clone for Sender<T, L> {
    fn clone(&self) -> Self {
        Self { queue: self.queue.clone(), shared: self.shared.clone() }
    }
}

impl<T: Send, L: Loss<T>> Receiver<T, L> {
    /// The next hint, or `None` when every sender is gone. Cancel-safe.
    pub async fn receive(&mut self) -> Option<Hint<T, L>> {
        loop {
            if let Some(loss) = lock(&self.shared.loss).take() {
                return Some(Hint::Lost(loss));
            }
            tokio::select! {
                biased;
                hint = self.queue.recv() => return hint.map(|it| self.taken(it)),
                () = self.shared.dropped.notified() => (),
            }
        }
    }

    /// A hint that is already there.
    pub fn try_receive(&mut self) -> Option<Hint<T, L>> {
        if let Some(loss) = lock(&self.shared.loss).take() {
            return Some(Hint::Lost(loss));
        }
        self.queue.try_recv().ok().map(|it| self.taken(it))
    }

    fn taken(&self, hint: T) -> Hint<T, L> {
        self.shared.waiting.fetch_sub((self.shared.weigh)(&hint), Ordering::Relaxed);
        Hint::Some(hint)
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

    #[tokio::test]
    async fn a_queue_is_full_by_weight_and_has_room_again_when_a_hint_is_taken() {
        let (sender, mut receiver) = weighed_channel::<usize, bool>(9, 10, |it| *it);
        sender.send(8);
        sender.send(3);
        assert_eq!(receiver.receive().await, Some(Hint::Lost(true)));
        assert_eq!(receiver.receive().await, Some(Hint::Some(8)));
        sender.send(10);
        assert_eq!(receiver.receive().await, Some(Hint::Some(10)));
    }
}
