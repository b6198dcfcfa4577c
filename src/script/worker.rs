//! Threads that run scripts, apart from everything else, on a leash.
//!
//! A script is stopped by its own engine when its work is used up. What no engine can stop, such as one
//! call that compares megabytes with megabytes, is left behind: whoever waits goes on, the script
//! counts as stuck, and its thread ends when that call does.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    time::Duration,
};

use super::{Outcome, ScriptError, Shared, Task, engine::Engine};

/// Threads that may be left behind before no script runs any more.
const MOST_LOST: usize = 8;
/// Engines that a thread keeps warm.
const MOST_ENGINES: usize = 64;
/// The engine has its own limit, below it.
const STACK: usize = 4 * 1024 * 1024;

/// Threads for scripts, made when they are needed.
#[derive(Default)]
pub struct Pool {
    idle: Mutex<Vec<Worker>>,
    lost: Arc<AtomicUsize>,
}

/// Tells a thread that nobody waits for it any more.
#[derive(Default)]
pub struct Leash(AtomicBool);

impl Leash {
    pub fn is_cut(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

struct Job {
    script: Arc<Shared>,
    task: Task,
}

struct Worker {
    jobs: SyncSender<Job>,
    outcomes: Receiver<Outcome>,
    leash: Arc<Leash>,
}

impl Pool {
    /// Runs a script, and waits for it no longer than its patience.
    pub(super) fn run(&self, script: &Arc<Shared>, task: Task) -> Outcome {
        let failed = |text: &str| Outcome { returned: Err(ScriptError::new(text)), logs: vec![] };
        if script.is_stuck.load(Ordering::Relaxed) {
            return failed(
                "it was stuck in one call before, and is not run again until it is changed",
            );
        }
        if self.lost.load(Ordering::Relaxed) >= MOST_LOST {
            return failed("too many scripts are stuck; none is run until they end");
        }
        let patience = script.limits.patience();
        let idle = self.lock().pop();
        let Some(worker) = idle.or_else(|| Worker::start(self.lost.clone())) else {
            return failed("there is no thread for it");
        };
        if worker.jobs.send(Job { script: script.clone(), task }).is_err() {
            return failed("its engine ended");
        }
        let soon = soon(&worker.outcomes).map(Ok);
        match soon.unwrap_or_else(|| worker.outcomes.recv_timeout(patience)) {
            Ok(outcome) => {
                self.lock().push(worker);
                outcome
            }
            Err(_) => {
                script.is_stuck.store(true, Ordering::Relaxed);
                self.lost.fetch_add(1, Ordering::Relaxed);
                worker.leash.0.store(true, Ordering::Relaxed);
                failed("it takes too long, in one call that cannot be stopped")
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Worker>> {
        self.idle.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// What comes within some microseconds, which is what most scripts take, and what most callers let
/// pass before the next event: to sleep and to be woken costs more.
fn soon<T>(from: &Receiver<T>) -> Option<T> {
    const LOOKS: usize = 400;
    (0..LOOKS).find_map(|_| {
        (0..8).for_each(|_| std::hint::spin_loop());
        from.try_recv().ok()
    })
}

impl Worker {
    fn start(lost: Arc<AtomicUsize>) -> Option<Self> {
        let (jobs, queue) = sync_channel::<Job>(1);
        let (results, outcomes) = sync_channel(1);
        let leash = Arc::new(Leash::default());
        let own = leash.clone();
        let thread = std::thread::Builder::new().name("scripts".to_owned()).stack_size(STACK);
        let work = move || {
            let mut engines = Engines::default();
            while let Some(Job { script, task }) = soon(&queue).or_else(|| queue.recv().ok()) {
                let outcome = engines.run(&script, &task, &own);
                if results.send(outcome).is_err() || own.is_cut() {
                    break;
                }
            }
            if own.is_cut() {
                lost.fetch_sub(1, Ordering::Relaxed);
            }
        };
        thread.spawn(work).ok()?;
        Some(Self { jobs, outcomes, leash })
    }
}

/// The warm engines of one thread.
#[derive(Default)]
struct Engines {
    by_script: HashMap<u64, (Engine, u64)>,
    uses: u64,
}

impl Engines {
    fn run(&mut self, script: &Shared, task: &Task, leash: &Arc<Leash>) -> Outcome {
        self.uses += 1;
        if !self.by_script.contains_key(&script.id) {
            self.make_room();
            match Engine::new(&script.source, script.limits, leash.clone()) {
                Ok(engine) => drop(self.by_script.insert(script.id, (engine, 0))),
                Err(error) => return Outcome { returned: Err(error), logs: Vec::new() },
            }
        }
        let Some((engine, used)) = self.by_script.get_mut(&script.id) else {
            return Outcome { returned: Err(ScriptError::new("it has no engine")), logs: vec![] };
        };
        *used = self.uses;
        let outcome = engine.run(task);
        // What ran out of memory may be left in any state.
        if outcome.returned.as_ref().is_err_and(|it| it.fatal) {
            self.by_script.remove(&script.id);
        }
        outcome
    }

    fn make_room(&mut self) {
        if self.by_script.len() >= MOST_ENGINES
            && let Some(&oldest) = self.by_script.iter().min_by_key(|it| it.1.1).map(|it| it.0)
        {
            self.by_script.remove(&oldest);
        }
    }
}

/// How long a caller waits: far longer than a script's work takes, and no longer.
pub(super) fn patience(time: Duration) -> Duration {
    const SHORTEST: Duration = Duration::from_secs(1);
    SHORTEST.max(time * 10)
}
