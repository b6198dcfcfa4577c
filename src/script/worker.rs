//! Threads that run scripts, apart from everything else, on a leash.
//!
//! A script is stopped by its own engine when its work is used up. What no engine can stop, such as one
//! call that compares megabytes with megabytes, is left behind: whoever waits goes on, the script
//! counts as stuck, and its thread ends when that call does. `stuck` says when it is run again.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::Ordering,
        mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    },
    time::{Duration, Instant},
};

use super::{
    ScriptError, ScriptOutcome, Shared, Task,
    engine::Engine,
    leash::{Leash, lock},
    losses::{Failing, Register},
    stuck::LostThreads,
};

/// So long after it was asked to, a script may take to stop: it looks after each ten thousand calls.
const GRACE: Duration = Duration::from_millis(250);
/// Engines that a thread keeps warm.
const MOST_ENGINES: usize = 64;
/// The engine has its own limit, below it.
const STACK: usize = 4 * 1024 * 1024;

/// Threads for scripts, made when they are needed.
#[derive(Default)]
pub struct ScriptThreads {
    idle: Mutex<Vec<Worker>>,
    pub(super) lost: Arc<Mutex<LostThreads>>,
    /// Scripts that lost events, of this pool and of those beside it.
    pub(super) register: Arc<Register>,
}

/// Events for one script, and what came of them so far.
struct ScriptJob {
    script: Arc<Shared>,
    tasks: Vec<Task>,
    /// Then no more of them is begun.
    until: Option<Instant>,
    done: Mutex<Vec<ScriptOutcome>>,
}

impl ScriptJob {
    fn done(&self) -> MutexGuard<'_, Vec<ScriptOutcome>> {
        lock(&self.done)
    }

    /// The events that have outcomes, with these, and the others.
    fn split(self: Arc<Self>) -> (Vec<(Task, ScriptOutcome)>, Vec<Task>) {
        let done = std::mem::take(&mut *self.done());
        // A thread that is left behind still has the events.
        let mut tasks = Arc::try_unwrap(self).map_or_else(|job| job.tasks.clone(), |job| job.tasks);
        let rest = tasks.split_off(done.len().min(tasks.len()));
        (tasks.into_iter().zip(done).collect(), rest)
    }
}

struct Worker {
    jobs: SyncSender<Arc<ScriptJob>>,
    /// Says that the job is done.
    ends: Receiver<()>,
    leash: Arc<Leash>,
}

impl ScriptThreads {
    pub(super) fn counted_in(register: Arc<Register>) -> Self {
        Self { register, ..Self::default() }
    }

    /// Another with threads of its own. What its scripts lose is reported with what those of this
    /// one lose.
    pub fn beside(&self) -> Self {
        Self::counted_in(self.register.clone())
    }

    /// A script lost an event.
    pub(super) fn lose(&self, script: &Arc<Shared>, error: &ScriptError, now: Instant) {
        self.register.lose(script, &self.lost, error, now);
    }

    /// The owner's scripts that lost events in the last ten minutes.
    pub fn failing(&self, owner: u128, now: Instant) -> Vec<Failing> {
        self.register.failing(owner, now)
    }

    /// Threads that scripts hold on to in calls that cannot be stopped.
    pub fn stuck(&self) -> usize {
        lock(&self.lost).all()
    }

    /// Runs a script over events, in their order, and waits for each no longer than its timeout. Where
    /// one is stuck, the others go on. After `until` none of them is begun any more.
    pub(super) fn run(
        &self,
        script: &Arc<Shared>,
        tasks: Vec<Task>,
        until: Option<Instant>,
    ) -> Vec<(Task, ScriptOutcome)> {
        let (mut outcomes, mut rest) = (Vec::with_capacity(tasks.len()), tasks);
        while !rest.is_empty() && !is_over(until) {
            let ran = match self.refuses(script) {
                None => self.run_until_stuck(script, std::mem::take(&mut rest), until),
                Some(reason) => Err((reason, std::mem::take(&mut rest))),
            };
            match ran {
                Ok((done, open)) => {
                    outcomes.extend(done);
                    rest = open;
                }
                Err((reason, open)) => {
                    outcomes.extend(
                        open.into_iter().map(|it| (it, ScriptOutcome::unavailable(&reason))),
                    );
                }
            }
        }
        outcomes
    }

    /// Why it is not run now.
    fn refuses(&self, script: &Shared) -> Option<String> {
        let now = Instant::now();
        let (waits, is_suspect) = {
            let stuck = lock(&script.stuck);
            (stuck.waits(now), stuck.is_suspect(now))
        };
        if let Some(wait) = waits {
            let seconds = wait.as_secs() + 1;
            return Some(format!("it was stuck before, and is tried again in {seconds} s"));
        }
        lock(&self.lost).refuses(script.owner, is_suspect).map(str::to_owned)
    }

    /// The outcomes of the first events, of all unless one is stuck, and the events behind it. An error
    /// says why none was run.
    #[allow(clippy::type_complexity, reason = "outcomes, and what is left")]
    fn run_until_stuck(
        &self,
        script: &Arc<Shared>,
        tasks: Vec<Task>,
        until: Option<Instant>,
    ) -> Result<(Vec<(Task, ScriptOutcome)>, Vec<Task>), (String, Vec<Task>)> {
        let idle = lock(&self.idle).pop();
        let Some(worker) = idle.or_else(|| Worker::start(self.lost.clone())) else {
            return Err(("there is no thread for it".to_owned(), tasks));
        };
        let job =
            Arc::new(ScriptJob { script: script.clone(), tasks, until, done: Mutex::default() });
        let is_sent = worker.jobs.send(job.clone()).is_ok();
        match is_sent.then(|| worker.wait(&job, self.timeout(script))) {
            Some(End::Done) => {
                lock(&self.idle).push(worker);
                return Ok(job.split());
            }
            Some(End::Late) => (),
            // A thread that is gone is not left behind, and nobody would take it off the list.
            Some(End::Gone) | None => {
                let (done, tasks) = job.split();
                let reason = "its engine ended".to_owned();
                return if done.is_empty() { Err((reason, tasks)) } else { Ok((done, tasks)) };
            }
        }
        // From here on the thread ends by itself as soon as it can, and takes itself off this list.
        lock(&self.lost).add(script.owner);
        script.threads.fetch_add(1, Ordering::Relaxed);
        metrics::gauge!("tidegate_scripts_stuck").increment(1);
        worker.leash.cut(script);
        if worker.ends.recv_timeout(GRACE).is_ok() {
            job.done().push(ScriptOutcome::unavailable("it did not end in time"));
            return Ok(job.split());
        }
        lock(&script.stuck).note(Instant::now());
        metrics::counter!("tidegate_scripts_stuck_total").increment(1);
        let reason = "it did not end in time, and could not be stopped";
        job.done().push(ScriptOutcome::unavailable(reason));
        Ok(job.split())
    }

    /// How long one event may take. A script that has been waited for in vain lately is waited for less:
    /// the events of others are behind it.
    fn timeout(&self, script: &Shared) -> Duration {
        const SHORTER: Duration = Duration::from_millis(300);
        let longest = script.limits.timeout();
        match lock(&script.stuck).is_suspect(Instant::now()) {
            false => longest,
            true => longest.min(SHORTER.max(script.limits.time * 4)),
        }
    }
}

fn is_over(until: Option<Instant>) -> bool {
    until.is_some_and(|it| Instant::now() >= it)
}

/// How waiting for a job ended.
enum End {
    Done,
    /// It does not get on.
    Late,
    /// Its thread is not there any more.
    Gone,
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
    fn start(lost: Arc<Mutex<LostThreads>>) -> Option<Self> {
        let (jobs, queue) = sync_channel::<Arc<ScriptJob>>(1);
        let (ended, ends) = sync_channel(1);
        let leash = Arc::new(Leash::default());
        let own = leash.clone();
        let thread = std::thread::Builder::new().name("scripts".to_owned()).stack_size(STACK);
        let work = move || {
            let mut engines = Engines::default();
            while let Some(job) = soon(&queue).or_else(|| queue.recv().ok()) {
                for task in &job.tasks {
                    if is_over(job.until) {
                        break;
                    }
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
            if let Some(script) = lock(&own.script).take() {
                lock(&lost).remove(script.owner);
                script.threads.fetch_sub(1, Ordering::Relaxed);
                metrics::gauge!("tidegate_scripts_stuck").decrement(1);
            }
        };
        thread.spawn(work).ok()?;
        Some(Self { jobs, ends, leash })
    }

    /// Waits for the end of the job, for as long as it gets on.
    fn wait(&self, job: &ScriptJob, timeout: Duration) -> End {
        if job.tasks.len() == 1 && soon(&self.ends).is_some() {
            return End::Done;
        }
        let mut before = 0;
        loop {
            match self.ends.recv_timeout(timeout) {
                Ok(()) => return End::Done,
                Err(RecvTimeoutError::Disconnected) => return End::Gone,
                Err(RecvTimeoutError::Timeout) => {
                    let done = job.done().len();
                    if std::mem::replace(&mut before, done) == done {
                        return End::Late;
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
    fn run(&mut self, script: &Shared, task: &Task, leash: &Arc<Leash>) -> ScriptOutcome {
        self.uses += 1;
        if !self.by_script.contains_key(&script.id) {
            self.make_room();
            match Engine::new(&script.source, script.limits, leash.clone()) {
                Ok(engine) => drop(self.by_script.insert(script.id, (engine, 0))),
                Err(error) => return ScriptOutcome { returned: Err(error), logs: Vec::new() },
            }
        }
        let Some((engine, used)) = self.by_script.get_mut(&script.id) else {
            return ScriptOutcome {
                returned: Err(ScriptError::new("it has no engine")),
                logs: vec![],
            };
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
pub(super) fn timeout(time: Duration) -> Duration {
    const SHORTEST: Duration = Duration::from_millis(1500);
    SHORTEST.max(time * 10)
}
