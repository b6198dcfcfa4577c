//! Threads that run scripts, apart from everything else, on a leash.
//!
//! A script is stopped by its own engine when its work is used up. What no engine can stop, such as one
//! call that compares megabytes with megabytes, is left behind: whoever waits goes on, the script
//! counts as stuck, and its thread ends when that call does.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
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

/// Events for one script, and what came of them so far.
struct Job {
    script: Arc<Shared>,
    tasks: Vec<Task>,
    done: Mutex<Vec<Outcome>>,
}

impl Job {
    fn done(&self) -> MutexGuard<'_, Vec<Outcome>> {
        self.done.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The events with their outcomes; `rest` for those that have none.
    fn outcomes(self: Arc<Self>, rest: &str) -> Vec<(Task, Outcome)> {
        let mut done = std::mem::take(&mut *self.done()).into_iter();
        // A thread that is left behind still has the events.
        let tasks = Arc::try_unwrap(self).map_or_else(|job| job.tasks.clone(), |job| job.tasks);
        let outcome = |task| (task, done.next().unwrap_or_else(|| Outcome::failed(rest)));
        tasks.into_iter().map(outcome).collect()
    }
}

struct Worker {
    jobs: SyncSender<Arc<Job>>,
    /// Says that the job is done.
    ends: Receiver<()>,
    leash: Arc<Leash>,
}

impl Pool {
    /// Runs a script over events, in their order, and waits for each no longer than its patience.
    pub(super) fn run(&self, script: &Arc<Shared>, tasks: Vec<Task>) -> Vec<(Task, Outcome)> {
        const AGAIN: &str =
            "it was stuck in one call before, and is not run again until it is changed";
        let job = Arc::new(Job { script: script.clone(), tasks, done: Mutex::default() });
        if script.is_stuck.load(Ordering::Relaxed) {
            return job.outcomes(AGAIN);
        }
        if self.lost.load(Ordering::Relaxed) >= MOST_LOST {
            return job.outcomes("too many scripts are stuck; none is run until they end");
        }
        let idle = self.lock().pop();
        let Some(worker) = idle.or_else(|| Worker::start(self.lost.clone())) else {
            return job.outcomes("there is no thread for it");
        };
        if worker.jobs.send(job.clone()).is_err() {
            return job.outcomes("its engine ended");
        }
        if worker.has_ended(&job) {
            self.lock().push(worker);
            return job.outcomes("its engine ended");
        }
        script.is_stuck.store(true, Ordering::Relaxed);
        self.lost.fetch_add(1, Ordering::Relaxed);
        worker.leash.0.store(true, Ordering::Relaxed);
        let stuck = "it takes too long, in one call that cannot be stopped";
        job.done().push(Outcome::failed(stuck));
        job.outcomes(AGAIN)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Worker>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What comes within a few microseconds, which is what a script takes over one event, and what most
/// callers let pass before the next: to sleep and to be woken costs more, unless others want the
/// processor.
fn soon<T>(from: &Receiver<T>) -> Option<T> {
    const LOOKS: usize = 60;
    (0..LOOKS).find_map(|_| {
        (0..8).for_each(|_| std::hint::spin_loop());
        from.try_recv().ok()
    })
}

impl Worker {
    fn start(lost: Arc<AtomicUsize>) -> Option<Self> {
        let (jobs, queue) = sync_channel::<Arc<Job>>(1);
        let (ended, ends) = sync_channel(1);
        let leash = Arc::new(Leash::default());
        let own = leash.clone();
        let thread = std::thread::Builder::new().name("scripts".to_owned()).stack_size(STACK);
        let work = move || {
            let mut engines = Engines::default();
            while let Some(job) = soon(&queue).or_else(|| queue.recv().ok()) {
                for task in &job.tasks {
                    let outcome = engines.run(&job.script, task, &own);
                    let mut done = job.done();
                    if own.is_cut() {
                        break;
                    }
                    done.push(outcome);
                }
                drop(job);
                if ended.send(()).is_err() || own.is_cut() {
                    break;
                }
            }
            if own.is_cut() {
                lost.fetch_sub(1, Ordering::Relaxed);
            }
        };
        thread.spawn(work).ok()?;
        Some(Self { jobs, ends, leash })
    }

    /// Waits for the end of the job; `false`: it does not get on.
    fn has_ended(&self, job: &Job) -> bool {
        let patience = job.script.limits.patience();
        if job.tasks.len() == 1 && soon(&self.ends).is_some() {
            return true;
        }
        let mut before = 0;
        loop {
            match self.ends.recv_timeout(patience) {
                Ok(()) => return true,
                Err(RecvTimeoutError::Disconnected) => return false,
                Err(RecvTimeoutError::Timeout) => {
                    let done = job.done().len();
                    if std::mem::replace(&mut before, done) == done {
                        return false;
                    }
                }
            }
        }
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
        let outcome = engine.run(task, script.ticks());
        if !task.is_trial {
            script.note(&outcome);
        }
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
