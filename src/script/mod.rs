//! Scripts of users: JavaScript in QuickJS, with bounds on memory, stack, work and output.
//!
//! A script sees one event and nothing else: no network, no files, no modules, no clock but the
//! event's own time. What it does to its world is gone before the next event comes.

mod source;
mod engine;
mod worker;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

pub use worker::Pool;

/// What one run of a script may use.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// About so long, on the machine that this was measured on. What is counted is work, so that the
    /// same event has the same end everywhere.
    pub time: Duration,
    /// Bytes, of the engine and all that the script makes.
    pub memory: usize,
    /// Bytes.
    pub stack: usize,
    /// Bytes of all events that it returns.
    pub output: usize,
    /// Events that it returns.
    pub events: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            time: Duration::from_millis(50),
            memory: 32 * 1024 * 1024,
            stack: 256 * 1024,
            output: 1024 * 1024,
            events: 1024,
        }
    }
}

impl Limits {
    /// Ten thousand jumps and calls each: see the measurement in bench/RESULTS.md.
    const TICKS_PER_MILLI: u128 = 4;

    fn ticks(&self) -> u32 {
        let ticks = self.time.as_millis() * Self::TICKS_PER_MILLI;
        u32::try_from(ticks).unwrap_or(u32::MAX).max(2)
    }

    fn patience(&self) -> Duration {
        worker::patience(self.time)
    }
}

/// Why a script was refused, or did not end as it should.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}{}", place.map_or_else(String::new, |(line, column)| format!(" at line {line}, column {column}")))]
pub struct ScriptError {
    pub message: String,
    /// Line and column in the user's source, from 1.
    pub place: Option<(usize, usize)>,
    /// Its work was used up.
    is_out_of_time: bool,
    /// Its engine must not be used again.
    fatal: bool,
}

impl ScriptError {
    fn new(message: &str) -> Self {
        Self { message: message.to_owned(), place: None, is_out_of_time: false, fatal: false }
    }

    fn fatal(self) -> Self {
        Self { fatal: true, ..self }
    }

    fn out_of_time(self) -> Self {
        Self { is_out_of_time: true, ..self }
    }
}

/// One event for a script, as JSON.
#[derive(Clone, Debug, Default)]
pub struct Input {
    /// The object that it is called with.
    pub event: String,
    /// The second argument.
    pub context: String,
    /// The two parts of the event that keep their bytes if they come back the same.
    pub payload: String,
    pub metadata: String,
    /// What `Date.now()` says.
    pub now_millis: i64,
    /// What `Math.random()` begins with.
    pub seed: u64,
    /// Whether `console.log` is kept.
    pub listens: bool,
}

struct Task {
    event: Option<String>,
    context: String,
    payload: String,
    metadata: String,
    now_millis: f64,
    seed: i32,
    listens: bool,
    ticks: u32,
}

/// One event that a script returned: what is `None` is as it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Returned {
    pub event_type: Option<String>,
    pub payload: Option<String>,
    pub metadata: Option<String>,
}

/// What came of a run.
#[derive(Debug)]
pub struct Outcome {
    /// `None`: the script returned null.
    pub returned: Result<Option<Vec<Returned>>, ScriptError>,
    /// What it logged, at most 100 lines.
    pub logs: Vec<String>,
}

/// A script that compiles.
pub struct Script {
    pool: Arc<Pool>,
    shared: Arc<Shared>,
    /// How often in a row its work was used up.
    strikes: AtomicU32,
}

/// What the threads know of a script.
struct Shared {
    /// Of this compilation: no other has it in this process.
    id: u64,
    source: String,
    limits: Limits,
    is_stuck: AtomicBool,
}

impl Script {
    /// The longest source, in bytes.
    pub const LONGEST: usize = 256 * 1024;

    /// Compiles a module and runs what stands around its function.
    pub fn compile(source: &str, limits: Limits, pool: Arc<Pool>) -> Result<Self, ScriptError> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        if source.len() > Self::LONGEST {
            return Err(ScriptError::new("must be at most 256 KiB"));
        }
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        let is_stuck = AtomicBool::new(false);
        let shared = Arc::new(Shared { id, source: source.to_owned(), limits, is_stuck });
        let script = Self { pool, shared, strikes: AtomicU32::new(0) };
        script.task(Input { context: "{}".to_owned(), ..Input::default() }, true).returned?;
        Ok(script)
    }

    /// Runs it over one event. Blocks for as long as that takes, which is bounded.
    pub fn run(&self, input: Input) -> Outcome {
        let outcome = self.task(input, false);
        match &outcome.returned {
            Err(error) if error.is_out_of_time => self.strikes.fetch_add(1, Ordering::Relaxed),
            Ok(_) | Err(_) => self.strikes.swap(0, Ordering::Relaxed),
        };
        outcome
    }

    fn task(&self, input: Input, is_trial: bool) -> Outcome {
        /// So often in a row it may use up its work.
        const PATIENCE: u32 = 3;
        /// Then it has this part of it, until it ends again: it is most likely to fail anyway, and the
        /// events of others wait behind it.
        const PART: u32 = 50;
        let ticks = self.shared.limits.ticks();
        let is_slow = self.strikes.load(Ordering::Relaxed) >= PATIENCE;
        let Input { event, context, payload, metadata, now_millis, seed, listens } = input;
        let task = Task {
            event: (!is_trial).then_some(event),
            context,
            payload,
            metadata,
            now_millis: now_millis as f64,
            seed: (seed ^ seed >> 32) as i32,
            listens,
            ticks: if is_slow { (ticks / PART).max(2) } else { ticks },
        };
        self.pool.run(&self.shared, task)
    }
}

#[cfg(test)]
mod tests;
