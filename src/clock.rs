//! The only place that knows the time.
//!
//! Every stage is given a [`Clock`]. In production it is the system's; in a test it stands still
//! until the test moves it, and a day passes in a millisecond.

use std::sync::Mutex;

use async_trait::async_trait;
use jiff::{SignedDuration, Timestamp};
use tokio::sync::{Notify, watch};

#[async_trait]
pub trait Clock: Send + Sync {
    fn now(&self) -> Timestamp;

    /// Ends when the time has come; at once when it is past.
    async fn sleep_until(&self, time: Timestamp);
}

/// What a loop waits before it tries again what has failed, unless it is told to stop meanwhile.
pub async fn pause(clock: &dyn Clock, stop: &mut watch::Receiver<bool>) {
    const PAUSE: SignedDuration = SignedDuration::from_secs(1);
    let until = clock.now().saturating_add(PAUSE).unwrap_or(Timestamp::MAX);
    tokio::select! {
        () = clock.sleep_until(until) => (),
        _ = stop.changed() => (),
    }
}

/// The clock of the machine.
#[derive(Debug, Default)]
pub struct SystemClock;

#[async_trait]
impl Clock for SystemClock {
    #[allow(clippy::disallowed_methods, reason = "this is the one place that may ask the machine")]
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }

    async fn sleep_until(&self, time: Timestamp) {
        /// The machine's clock may be set while we sleep: look again at least this often.
        const LONGEST_NAP: SignedDuration = SignedDuration::from_secs(10);
        loop {
            let left = time.duration_since(self.now());
            if !left.is_positive() {
                return;
            }
            tokio::time::sleep(left.min(LONGEST_NAP).unsigned_abs()).await;
        }
    }
}

/// A clock that moves only when it is told to.
pub struct ManualClock {
    now: Mutex<Timestamp>,
    moved: Notify,
}

impl ManualClock {
    pub fn at(time: Timestamp) -> Self {
        Self { now: Mutex::new(time), moved: Notify::new() }
    }

    /// Sets the time, which may also step back, and wakes whoever waits for it.
    pub fn set(&self, time: Timestamp) {
        *self.lock() = time;
        self.moved.notify_waiters();
    }

    pub fn advance(&self, by: SignedDuration) {
        let time = self.now() + by;
        self.set(time);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Timestamp> {
        self.now.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

#[async_trait]
impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        *self.lock()
    }

    async fn sleep_until(&self, time: Timestamp) {
        loop {
            // Registered before the look at the time, so that no move falls between the two.
            let mut moved = std::pin::pin!(self.moved.notified());
            moved.as_mut().enable();
            if self.now() >= time {
                return;
            }
            moved.await;
        }
    }
}
