//! Scripts of users: JavaScript in QuickJS, with bounds on memory, stack, work and output.
//!
//! A script sees one event and nothing else: no network, no files, no modules, no clock but the
//! event's own time. What it does to its world is gone before the next event comes.

mod source;
mod same;
mod leash;
mod engine;
mod stuck;
mod losses;
mod worker;

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use losses::Losses;
pub use losses::{Failing, Place};
use stuck::Stuck;
pub use worker::ScriptThreads;

/// What one run of a script may use.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ScriptLimits {
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

impl Default for ScriptLimits {
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

impl ScriptLimits {
    /// Ten thousand jumps and calls each: see the measurement in bench/RESULTS.md.
    const TICKS_PER_MILLI: u128 = 4;

    fn ticks(&self) -> u32 {
        let ticks = self.time.as_millis() * Self::TICKS_PER_MILLI;
        u32::try_from(ticks).unwrap_or(u32::MAX).max(2)
    }

    fn timeout(&self) -> Duration {
        worker::timeout(self.time)
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
    /// It was not run, or could not be stopped: the event is not to blame, and another time it may go.
    is_unavailable: bool,
}

impl ScriptError {
    fn new(message: &str) -> Self {
        let (is_out_of_time, fatal, is_unavailable) = (false, false, false);
        Self { message: message.to_owned(), place: None, is_out_of_time, fatal, is_unavailable }
    }

    /// Whether the machine failed, and not the script.
    pub fn is_unavailable(&self) -> bool {
        self.is_unavailable
    }

    fn fatal(self) -> Self {
        Self { fatal: true, ..self }
    }

    fn out_of_time(self) -> Self {
        Self { is_out_of_time: true, ..self }
    }
}

/// One event for a script, as JSON.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScriptInput {
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

#[derive(Clone)]
struct Task {
    input: ScriptInput,
    /// Only what stands around its function is run.
    is_trial: bool,
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
pub struct ScriptOutcome {
    /// `None`: the script returned null.
    pub returned: Result<Option<Vec<Returned>>, ScriptError>,
    /// What it logged, at most 100 lines.
    pub logs: Vec<String>,
}

/// A script that compiles.
pub struct Script {
    pool: Arc<ScriptThreads>,
    shared: Arc<Shared>,
    /// What came of events over which it was run before they were planned, in their order.
    ahead: Mutex<VecDeque<(ScriptInput, ScriptOutcome)>>,
}

/// What the threads know of a script.
struct Shared {
    /// Of this compilation: no other has it in this process.
    id: u64,
    source: String,
    limits: ScriptLimits,
    /// Who it belongs to. Threads that scripts hold on to are shared out by owner.
    owner: u128,
    /// Where it stands, once that is known.
    place: OnceLock<Place>,
    stuck: Mutex<Stuck>,
    losses: Mutex<Losses>,
    /// Threads that it holds on to.
    threads: AtomicUsize,
    /// How often in a row its work was used up.
    strikes: AtomicU32,
}

impl Shared {
    /// The work that it may do now.
    fn ticks(&self) -> u32 {
        /// So often in a row it may use up its work.
        const TIMEOUT: u32 = 3;
        /// Then it has this part of it, until it ends again: it is most likely to fail anyway, and the
        /// events of others wait behind it.
        const PART: u32 = 50;
        let ticks = self.limits.ticks();
        let is_slow = self.strikes.load(Ordering::Relaxed) >= TIMEOUT;
        if is_slow { (ticks / PART).max(2) } else { ticks }
    }

    fn was_stuck(&self) -> bool {
        self.stuck.lock().unwrap_or_else(PoisonError::into_inner).was_ever()
    }

    fn note(&self, outcome: &ScriptOutcome) {
        match &outcome.returned {
            Err(error) if error.is_out_of_time => self.strikes.fetch_add(1, Ordering::Relaxed),
            Ok(_) | Err(_) => self.strikes.swap(0, Ordering::Relaxed),
        };
    }
}

impl Script {
    /// The longest source, in bytes.
    pub const LONGEST: usize = 256 * 1024;

    /// Compiles a module and runs what stands around its function. The threads that scripts hold on to are
    /// shared out by owner.
    pub fn compile(
        source: &str,
        limits: ScriptLimits,
        pool: Arc<ScriptThreads>,
        owner: u128,
    ) -> Result<Self, ScriptError> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        if source.len() > Self::LONGEST {
            return Err(ScriptError::new("must be at most 256 KiB"));
        }
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        let shared = Arc::new(Shared {
            id,
            source: source.to_owned(),
            limits,
            owner,
            place: OnceLock::new(),
            stuck: Mutex::default(),
            losses: Mutex::default(),
            threads: AtomicUsize::new(0),
            strikes: AtomicU32::new(0),
        });
        let script = Self { pool, shared, ahead: Mutex::default() };
        let input = ScriptInput { context: "{}".to_owned(), ..ScriptInput::default() };
        match script.only(Task { input, is_trial: true }).returned {
            // Where none may run now, it is tried with the first event: it compiled when it was saved, and a
            // pipeline must not go because of the scripts of others.
            Err(error) if error.is_unavailable() && !script.shared.was_stuck() => Ok(script),
            Err(error) => Err(error),
            Ok(_) => Ok(script),
        }
    }

    /// Says where it stands, for people who hear that it is stuck.
    pub fn stands_at(&self, place: Place) {
        // It stands where it stood first.
        let _ = self.shared.place.set(place);
    }

    /// Runs it over one event. Blocks for as long as that takes, which is bounded.
    pub fn run(&self, input: ScriptInput) -> ScriptOutcome {
        // Whoever listens tries it, and loses nothing.
        let is_tried = input.listens;
        let outcome = self.outcome(input);
        if let Err(error) = &outcome.returned
            && error.is_unavailable()
            && !is_tried
        {
            self.pool.lose(&self.shared, error, Instant::now());
        }
        outcome
    }

    fn outcome(&self, input: ScriptInput) -> ScriptOutcome {
        let foreseen = {
            let mut ahead = self.ahead();
            let place = ahead.iter().position(|it| it.0 == input);
            place.and_then(|it| ahead.drain(..=it).next_back())
        };
        if let Some((_, outcome)) = foreseen {
            return outcome;
        }
        self.only(Task { input, is_trial: false })
    }

    /// Runs it over events which it will be [run](Self::run) over next, in this order. Its thread is
    /// handed all of them at once, which costs far less than one after the other. Once it has taken so
    /// long, the rest is left to be run when it is met.
    pub fn run_ahead(&self, inputs: Vec<ScriptInput>, longest: Option<Duration>) {
        self.ahead().clear();
        let until = longest.map(|it| Instant::now() + it);
        let tasks = inputs.into_iter().map(|input| Task { input, is_trial: false }).collect();
        let done = self.pool.run(&self.shared, tasks, until);
        self.ahead().extend(done.into_iter().map(|(task, outcome)| (task.input, outcome)));
    }

    fn ahead(&self) -> MutexGuard<'_, VecDeque<(ScriptInput, ScriptOutcome)>> {
        self.ahead.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn only(&self, task: Task) -> ScriptOutcome {
        let done = self.pool.run(&self.shared, vec![task], None).pop();
        done.map_or_else(|| ScriptOutcome::unavailable("it was not run"), |(_, outcome)| outcome)
    }
}

impl ScriptOutcome {
    fn unavailable(text: &str) -> Self {
        let error = ScriptError { is_unavailable: true, ..ScriptError::new(text) };
        Self { returned: Err(error), logs: Vec::new() }
    }
}

#[cfg(test)]
mod tests;
