//! Stage 5 of 6: makes the deliveries that are due, and decides what follows from each attempt.
//!
//! [`Scheduler`] decides, and does nothing; the loop in [`run`] does, and decides nothing.

mod status;
mod rate;
mod breaker;
mod pace;
mod schedules;
mod retry;
mod fairness;
mod spilled;
mod queue;
mod input;
mod scheduler;
mod messages;
mod budget;
mod store_calls;
mod batches;
mod meters;
mod outgoing;
mod attempt;
mod handle;
mod executor;
mod owned;
mod run;

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

pub use batches::split;
pub use handle::Handle;
pub use input::{Action, Input};
pub use owned::Shares;
pub use run::{Parts, Runner, runner};
pub use scheduler::Scheduler;
pub use spilled::{Spilled, SpilledRange};
pub use status::{BreakerState, DispatcherStatus, LineStatus};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// Attempts in flight at once, over all destinations.
    pub in_flight: usize,
    /// Deliveries of one destination held in memory. The rest waits in the store.
    pub window: usize,
    /// Deliveries held in memory over all destinations, at some 200 bytes each.
    pub held_at_most: usize,
    /// How much of one lane is read at once, where lanes have keys.
    pub per_lane: usize,
    /// Deliveries in one read of the store.
    pub page: usize,
    /// Lanes of one destination whose heads, having failed before, are found again after a restart.
    pub heads_at_most: usize,
    /// Reads of the store under way at once.
    pub reads_at_once: usize,
    /// Settlements that may wait for the disk; past that nothing new is attempted.
    pub unsettled_at_most: usize,
    /// A retry that is due later than this waits in the store, not in memory.
    #[serde(with = "humantime_serde")]
    pub park_after: Duration,
    /// The pause after the store has failed.
    #[serde(with = "humantime_serde")]
    pub retry_store_after: Duration,
    /// Bytes of messages kept in memory between their planning and their first attempt.
    pub message_bytes: usize,
    /// Bytes of messages under way to one destination. One message always goes.
    pub line_bytes: usize,
    /// Bytes of messages under way over all destinations.
    pub in_flight_bytes: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            in_flight: 1_024,
            window: 10_000,
            held_at_most: 200_000,
            per_lane: 64,
            page: 2_000,
            heads_at_most: 10_000,
            reads_at_once: 4,
            unsettled_at_most: 1_024,
            park_after: Duration::from_secs(60),
            retry_store_after: Duration::from_secs(1),
            message_bytes: 32 * 1024 * 1024,
            line_bytes: 16 * 1024 * 1024,
            in_flight_bytes: 64 * 1024 * 1024,
        }
    }
}

/// `wait` after `time`, or the end of time.
fn later(time: Timestamp, wait: Duration) -> Timestamp {
    let wait = SignedDuration::try_from(wait).unwrap_or(SignedDuration::MAX);
    time.checked_add(wait).unwrap_or(Timestamp::MAX)
}

/// `time`, as a clock says it that was set back by so much.
fn earlier(time: Timestamp, by: SignedDuration) -> Timestamp {
    time.checked_sub(by).unwrap_or(Timestamp::MIN)
}

/// A number from 0 to below 1 that is the same for the same arguments, and looks like chance.
fn chance(who: u64, when: u64, what: u64) -> f64 {
    // The finishing steps of splitmix64, over the three.
    let mut bits = who ^ when.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ what.rotate_left(32);
    bits = (bits ^ bits >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ bits >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^= bits >> 31;
    (bits >> 11) as f64 / (1_u64 << 53) as f64
}
