//! Holds the events of a request to the schemas of their types: quickly where that takes no time, and
//! elsewhere on threads of their own, of which each project has one at a time.

use std::{
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::sync::Semaphore;

use super::{
    auth::OpenSource,
    types::{self, Judge, Judging, SchemaVerdict},
    unfit::Unfit,
};
use crate::{
    model::{IdMap, NewEvent, ProjectId, RawJson},
    problem::{Kind, Problem},
};

/// Requests of one project that wait until their events are checked, beside the one that is.
const WAITING: usize = 8;

/// An event that no schema has seen yet. Nothing but [`Checks::judge`] makes an event of it.
#[derive(Debug)]
pub struct UncheckedEvent {
    pub event: NewEvent,
    /// The payload as it was sent, where the event keeps less of it.
    pub sent: Option<RawJson>,
    /// What the source still does with it, once it is judged.
    pub finish: Option<Finish>,
}

/// The last that a source does with an event: it takes out what must not be kept, and derives a key.
pub struct Finish {
    pub source: Arc<OpenSource>,
    pub is_key_derived: bool,
}

/// What became of an event.
pub type Judged = Result<NewEvent, Unfit>;

/// The threads that check what takes longer.
pub struct Checks {
    all: Arc<Semaphore>,
    projects: Mutex<IdMap<ProjectId, Weak<ProjectQueue>>>,
}

/// The requests of one project.
struct ProjectQueue {
    turn: Arc<Semaphore>,
    count: AtomicUsize,
}

/// A place in a line.
struct QueueSlot(Arc<ProjectQueue>);

impl Drop for QueueSlot {
    fn drop(&mut self) {
        self.0.count.fetch_sub(1, Relaxed);
    }
}

impl std::fmt::Debug for Finish {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("what a source does at the end")
    }
}

impl Checks {
    pub fn new() -> Self {
        /// More at a time would need more memory, and take the processors from everybody else.
        const MOST: usize = 4;
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let all = Arc::new(Semaphore::new(cores.saturating_sub(1).clamp(1, MOST)));
        Self { all, projects: Mutex::default() }
    }

    /// Judges one event.
    pub async fn judge_one(
        &self,
        it: UncheckedEvent,
        judge: &Arc<Judge>,
    ) -> Result<Judged, Problem> {
        match verdict(&it, judge, &mut Judging::quick()) {
            Some(verdict) => Ok(it.judged(verdict)),
            None => {
                let mut judged = self.judge_apart(vec![(it, None)], judge).await?;
                judged.pop().ok_or_else(|| Problem::new(Kind::Internal))
            }
        }
    }

    /// Judges the events of a request, which are of one project, in their order.
    pub async fn judge(
        &self,
        events: Vec<UncheckedEvent>,
        judge: &Arc<Judge>,
    ) -> Result<Vec<Judged>, Problem> {
        let mut judging = Judging::quick();
        let mut is_whole = true;
        let mut seen = Vec::with_capacity(events.len());
        for it in events {
            let verdict = verdict(&it, judge, &mut judging);
            is_whole &= verdict.is_some();
            seen.push((it, verdict));
        }
        match is_whole {
            true => Ok(finished(seen, judge)),
            false => self.judge_apart(seen, judge).await,
        }
    }

    async fn judge_apart(
        &self,
        events: Vec<(UncheckedEvent, Option<SchemaVerdict>)>,
        judge: &Arc<Judge>,
    ) -> Result<Vec<Judged>, Problem> {
        let Some(project) = events.first().map(|it| it.0.event.project) else {
            return Ok(Vec::new());
        };
        let judge = judge.clone();
        self.run(project, move || finished(events, &judge)).await
    }

    /// Runs this on a thread for blocking work, in turn with the other projects.
    async fn run<T: Send + 'static>(
        &self,
        project: ProjectId,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Problem> {
        let place = self.place(project)?;
        let closed = |_| Problem::new(Kind::Internal);
        let turn = place.0.turn.clone().acquire_owned().await.map_err(closed)?;
        let thread = self.all.clone().acquire_owned().await.map_err(closed)?;
        // A sender that goes away frees nothing before the work has ended.
        let work = move || {
            let _held = (place, turn, thread);
            work()
        };
        tokio::task::spawn_blocking(work).await.map_err(|_| Problem::new(Kind::Internal))
    }

    fn place(&self, project: ProjectId) -> Result<QueueSlot, Problem> {
        let mut projects = self.projects.lock().unwrap_or_else(PoisonError::into_inner);
        let line = projects.get(&project).and_then(Weak::upgrade).unwrap_or_else(|| {
            projects.retain(|_, it| it.strong_count() > 0);
            let line =
                Arc::new(ProjectQueue { turn: Arc::new(Semaphore::new(1)), count: 0.into() });
            projects.insert(project, Arc::downgrade(&line));
            line
        });
        // Only here it grows, under the lock.
        if line.count.load(Relaxed) > WAITING {
            let detail =
                "events of this project wait already until they are checked by their schemas";
            return Err(Problem::new(Kind::Overloaded)
                .retry_after(Duration::from_secs(1))
                .detail(detail));
        }
        line.count.fetch_add(1, Relaxed);
        Ok(QueueSlot(line))
    }
}

/// The events, with the verdicts that are still missing.
fn finished(events: Vec<(UncheckedEvent, Option<SchemaVerdict>)>, judge: &Judge) -> Vec<Judged> {
    let mut judging = Judging::whole();
    let finish = |(it, known): (UncheckedEvent, Option<SchemaVerdict>)| {
        // With a whole judging, there always is a verdict.
        let verdict =
            known.or_else(|| verdict(&it, judge, &mut judging)).unwrap_or(SchemaVerdict::Fine);
        it.judged(verdict)
    };
    events.into_iter().map(finish).collect()
}

fn verdict(it: &UncheckedEvent, judge: &Judge, judging: &mut Judging) -> Option<SchemaVerdict> {
    // Of what the sender sent, and so before anything is taken out that must not be kept.
    let sent = it.sent.as_ref().unwrap_or(&it.event.payload);
    judge.verdict(it.event.project, &it.event.event_type, sent, judging)
}

impl UncheckedEvent {
    pub fn of(event: NewEvent, source: &Arc<OpenSource>, is_key_derived: bool) -> Self {
        let finish = Some(Finish { source: source.clone(), is_key_derived });
        Self { event, sent: None, finish }
    }

    /// The event as its source keeps it, if the schema of its type lets it.
    fn judged(self, verdict: SchemaVerdict) -> Judged {
        let Self { mut event, finish, .. } = self;
        match verdict {
            SchemaVerdict::Fine => (),
            SchemaVerdict::Flagged(faults) => {
                event.metadata = types::flagged(&event.metadata, &faults)
            }
            SchemaVerdict::Rejected(faults) => {
                let event_type = event.event_type;
                return Err(Unfit::Schema { source: event.source, event_type, faults });
            }
        }
        Ok(match finish {
            Some(it) => it.source.finish(event, it.is_key_derived),
            None => event,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn project(bits: u128) -> ProjectId {
        ProjectId::from_bits(bits)
    }

    #[tokio::test]
    async fn a_project_has_one_check_at_a_time_and_a_short_line() {
        let checks = Arc::new(Checks::new());
        let (release, held) = std::sync::mpsc::channel::<()>();
        let first = checks.clone();
        let first = tokio::spawn(async move {
            first.run(project(1), move || held.recv().is_ok()).await.is_ok()
        });
        let count = || {
            let projects = checks.projects.lock().unwrap();
            projects.get(&project(1)).and_then(Weak::upgrade).map_or(0, |it| it.count.load(Relaxed))
        };
        while count() < 1 {
            tokio::task::yield_now().await;
        }
        let wait = || {
            let checks = checks.clone();
            tokio::spawn(async move { checks.run(project(1), || ()).await.is_ok() })
        };
        let waiting: Vec<_> = (0..WAITING).map(|_| wait()).collect();
        while count() < WAITING + 1 {
            tokio::task::yield_now().await;
        }
        let refused = checks.run(project(1), || ()).await.unwrap_err();
        assert_eq!(refused.kind(), Kind::Overloaded);
        release.send(()).unwrap();
        assert!(first.await.unwrap());
        for it in waiting {
            assert!(it.await.unwrap());
        }
        assert_eq!(count(), 0);
        checks.run(project(2), || ()).await.unwrap();
        assert_eq!(checks.projects.lock().unwrap().len(), 1);
    }
}
