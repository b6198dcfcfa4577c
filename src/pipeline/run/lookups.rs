//! Questions that are under way. What is known already is answered at once; for the rest a task
//! waits, so that the loop does not.

use std::{
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use tokio::task::JoinSet;

use super::{memories::Memories, parked::Ticket};
use crate::{
    clock::Clock,
    model::{Event, Memory, ProjectId, StepId},
    pipeline::{
        ask::{LookupAnswer, LookupFuture, LookupStatus, Lookups, Question},
        plan::{Answers, QuestionSlot},
        steps::Asks,
    },
};

/// The first wait before a question is asked again; it doubles.
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(60);

pub(super) struct LookupTasks {
    lookups: Arc<dyn Lookups>,
    clock: Arc<dyn Clock>,
    tasks: JoinSet<Returned>,
}

pub(super) struct Returned {
    pub ticket: Ticket,
    pub slot: QuestionSlot,
    pub answer: LookupAnswer,
}

/// The questions of one pipeline about one event.
pub(super) struct Asking<'a> {
    outside: &'a LookupTasks,
    memories: &'a Memories,
    event: &'a Event,
    /// What is known, with what is found out at once.
    pub known: Vec<(QuestionSlot, LookupAnswer)>,
    /// What takes longer.
    pub open: Vec<PendingLookup>,
    /// Whether the pipeline may wait. If not, nothing stays open.
    may_wait: bool,
}

/// A question that waits for its answer.
pub(super) struct PendingLookup {
    slot: QuestionSlot,
    project: ProjectId,
    question: Arc<Question>,
    asked: LookupFuture,
    timeout: Duration,
    /// A failure is asked again until then.
    retry_until: Option<Timestamp>,
}

impl LookupTasks {
    pub fn new(lookups: Arc<dyn Lookups>, clock: Arc<dyn Clock>) -> Self {
        Self { lookups, clock, tasks: JoinSet::new() }
    }

    /// Nothing that steps remember changes before the answers are there.
    pub fn asking<'a>(
        &'a self,
        memories: &'a Memories,
        event: &'a Event,
        known: Vec<(QuestionSlot, LookupAnswer)>,
        may_wait: bool,
    ) -> Asking<'a> {
        Asking { outside: self, memories, event, known, open: Vec::new(), may_wait }
    }

    /// Waits for the answers beside everything else.
    pub fn wait_for(&mut self, ticket: &Ticket, open: Vec<PendingLookup>) {
        for it in open {
            let (lookups, clock) = (self.lookups.clone(), self.clock.clone());
            let (ticket, slot) = (ticket.clone(), it.slot);
            self.tasks.spawn(async move {
                let answer = it.answer(lookups.as_ref(), clock.as_ref()).await;
                Returned { ticket, slot, answer }
            });
        }
    }

    /// The next answer; `None` where none is awaited. Cancel-safe.
    pub async fn next(&mut self) -> Option<Returned> {
        loop {
            match self.tasks.join_next().await? {
                Ok(returned) => return Some(returned),
                // A panic would have to be ours: its event waits until the next start.
                Err(error) => tracing::error!(%error, "a question ended badly"),
            }
        }
    }

    /// An answer that is there.
    pub fn try_next(&mut self) -> Option<Returned> {
        self.tasks.try_join_next()?.ok()
    }

    pub fn clear(&mut self) {
        self.tasks = JoinSet::new();
    }
}

impl Answers for Asking<'_> {
    fn answer(
        &mut self,
        slot: QuestionSlot,
        step: &dyn Asks,
        question: Question,
    ) -> Option<LookupAnswer> {
        if let Some((_, answer)) = self.known.iter().find(|it| it.0 == slot) {
            return Some(answer.clone());
        }
        let question = Arc::new(question);
        let mut asked = self.outside.lookups.ask(self.event.project, question.clone());
        let retry_until = step.retry_for().and_then(|so_long| {
            let so_long = SignedDuration::try_from(so_long).unwrap_or(SignedDuration::MAX);
            self.event.received_at.checked_add(so_long).ok()
        });
        let answer = match asked.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(answer) if answer.status.is_failure() && retry_until.is_some() => {
                asked = Box::pin(std::future::ready(answer.clone()));
                (!self.may_wait).then_some(answer)
            }
            Poll::Ready(answer) => Some(answer),
            Poll::Pending if self.may_wait => None,
            Poll::Pending => {
                metrics::counter!("tidegate_enrichment_overloaded_total").increment(1);
                Some(LookupAnswer::of(LookupStatus::Overloaded))
            }
        };
        match answer {
            Some(answer) => {
                self.known.push((slot, answer.clone()));
                Some(answer)
            }
            None => {
                let (project, timeout) = (self.event.project, step.timeout());
                self.open.push(PendingLookup {
                    slot,
                    project,
                    question,
                    asked,
                    timeout,
                    retry_until,
                });
                None
            }
        }
    }

    fn recall(&self, step: StepId, key: &[u8]) -> Option<Memory> {
        self.memories.recall(step, key)
    }
}

impl PendingLookup {
    /// Ends in any case: when the answer is there, or when there is no time left.
    async fn answer(self, lookups: &dyn Lookups, clock: &dyn Clock) -> LookupAnswer {
        let Self { project, question, asked, timeout, retry_until, .. } = self;
        let mut answer = within(timeout, asked).await;
        let mut wait = FIRST_WAIT;
        while answer.status.is_failure()
            && let Some(until) = retry_until
        {
            let next = clock.now() + wait;
            if next > until {
                break;
            }
            clock.sleep_until(next).await;
            wait = (wait * 2).min(LONGEST_WAIT);
            answer = within(timeout, lookups.ask(project, question.clone())).await;
        }
        answer
    }
}

async fn within(timeout: Duration, asked: LookupFuture) -> LookupAnswer {
    tokio::time::timeout(timeout, asked)
        .await
        .unwrap_or_else(|_| LookupAnswer::of(LookupStatus::Timeout))
}
