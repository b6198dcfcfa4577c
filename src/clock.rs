//! The only place that knows the time.
//!
//! Every stage is given a [`Clock`]. In production it is the system's; in a test it stands still
//! until the test moves it, and a day passes in a millisecond.
//!
//! It has two sides. [`Clock::now`] is the wall clock, which people and NTP may set back. What waits, waits for
//! a *length*: by [`Clock::steady`], which only goes on.

use std::sync::{Mutex, OnceLock};

use async_trait::async_trait;
use jiff::{SignedDuration, Timestamp};
use tokio::sync::{Notify, watch};

#[async_trait]
pub trait Clock: Send + Sync {
    fn now(&self) -> Timestamp;

    /// A time that is never set, for the lengths of waits. It says nothing about the hour: only its
    /// differences mean something, within one process.
    fn steady(&self) -> Timestamp;

    /// Ends when the time has come; at once when it is past. It waits no longer than it was to wait when it
    /// began: when the clock is set back meanwhile, it ends before the clock says so.
    async fn sleep_until(&self, time: Timestamp);
}

/// Sees when the wall clock is set back, by looking at it now and then.
pub struct Watch {
    seen: (Timestamp, Timestamp),
}

impl Watch {
    /// Less is nothing to those who wait, and may come of reading two clocks one after the other.
    const LEAST: SignedDuration = SignedDuration::from_millis(500);

    pub fn new(clock: &dyn Clock) -> Self {
        Self { seen: (clock.now(), clock.steady()) }
    }

    /// By how much the clock was set back since the last look.
    pub fn set_back(&mut self, clock: &dyn Clock) -> Option<SignedDuration> {
        let (now, steady) = (clock.now(), clock.steady());
        let (before, steady_before) = std::mem::replace(&mut self.seen, (now, steady));
        let by = steady.duration_since(steady_before).saturating_sub(now.duration_since(before));
        (by >= Self::LEAST).then_some(by)
    }
}

/// What a loop waits before it tries again what has failed, unless it is stopped meanwhile.
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

    #[allow(clippy::disallowed_methods, reason = "this is the one place that may ask the machine")]
    fn steady(&self) -> Timestamp {
        static BEGUN: OnceLock<(Timestamp, std::time::Instant)> = OnceLock::new();
        let (wall, begun) = BEGUN.get_or_init(|| (Timestamp::now(), std::time::Instant::now()));
        let passed = SignedDuration::try_from(begun.elapsed()).unwrap_or(SignedDuration::MAX);
        wall.saturating_add(passed).unwrap_or(Timestamp::MAX)
    }

    async fn sleep_until(&self, time: Timestamp) {
        /// The machine's clock may be set forward while we sleep: look again at least this often.
        const LONGEST_NAP: SignedDuration = SignedDuration::from_secs(10);
        let whole = time.duration_since(self.now());
        let begun = self.steady();
        loop {
            let waited = self.steady().duration_since(begun);
            let left = time.duration_since(self.now()).min(whole.saturating_sub(waited));
            if !left.is_positive() {
                return;
            }
            tokio::time::sleep(left.min(LONGEST_NAP).unsigned_abs()).await;
        }
    }
}

/// A clock that moves only when it is moved.
pub struct ManualClock {
    /// The wall clock, and the steady side.
    times: Mutex<(Timestamp, Timestamp)>,
    moved: Notify,
}

impl ManualClock {
    pub fn at(time: Timestamp) -> Self {
        Self { times: Mutex::new((time, time)), moved: Notify::new() }
    }

    /// Sets the time, and wakes whoever waits for it. Forward, so much time passes; back, the wall clock is
    /// set back, and no time passes.
    pub fn set(&self, time: Timestamp) {
        let by = time.duration_since(self.now());
        if by.is_negative() { self.step(by) } else { self.advance(by) }
    }

    /// Lets time pass.
    pub fn advance(&self, by: SignedDuration) {
        let mut times = self.lock();
        *times = (times.0 + by, times.1 + by);
        drop(times);
        self.moved.notify_waiters();
    }

    /// Sets the wall clock forward or back, without time passing.
    pub fn step(&self, by: SignedDuration) {
        let mut times = self.lock();
        times.0 += by;
        drop(times);
        self.moved.notify_waiters();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, (Timestamp, Timestamp)> {
        self.times.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

#[async_trait]
impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        self.lock().0
    }

    fn steady(&self) -> Timestamp {
        self.lock().1
    }

    async fn sleep_until(&self, time: Timestamp) {
        let (now, begun) = *self.lock();
        let whole = time.duration_since(now);
        loop {
            // Registered before the look at the time, so that no move falls between the two.
            let mut moved = std::pin::pin!(self.moved.notified());
            moved.as_mut().enable();
            let (now, steady) = *self.lock();
            if now >= time || steady.duration_since(begun) >= whole {
                return;
            }
            moved.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clock() -> ManualClock {
        ManualClock::at(Timestamp::from_second(1_800_000_000).unwrap_or_default())
    }

    async fn is_over(mut sleep: std::pin::Pin<&mut (impl Future<Output = ()> + ?Sized)>) -> bool {
        std::future::poll_fn(|cx| std::task::Poll::Ready(sleep.as_mut().poll(cx).is_ready())).await
    }

    #[tokio::test]
    async fn a_wait_is_a_length_whatever_the_wall_clock_does() {
        let clock = clock();
        let sleep = clock.sleep_until(clock.now() + SignedDuration::from_secs(5));
        let mut sleep = std::pin::pin!(sleep);
        assert!(!is_over(sleep.as_mut()).await);
        clock.step(SignedDuration::from_hours(-1));
        clock.advance(SignedDuration::from_secs(4));
        assert!(!is_over(sleep.as_mut()).await);
        clock.advance(SignedDuration::from_secs(1));
        assert!(is_over(sleep.as_mut()).await);
    }

    #[test]
    fn a_clock_that_is_set_back_is_seen_and_time_that_passes_is_not() {
        let clock = clock();
        let mut watch = Watch::new(&clock);
        clock.advance(SignedDuration::from_hours(3));
        assert_eq!(watch.set_back(&clock), None);
        clock.step(SignedDuration::from_hours(2));
        assert_eq!(watch.set_back(&clock), None);
        clock.step(SignedDuration::from_hours(-2));
        clock.advance(SignedDuration::from_secs(1));
        assert_eq!(watch.set_back(&clock), Some(SignedDuration::from_hours(2)));
        assert_eq!(watch.set_back(&clock), None);
    }
}
