//! The loop between the store and the plans.
//!
//! Events come as hints in accept order. Where one is missing, they are read from the store instead,
//! which holds all of them. Plans go back in the same order, several batches at a time on their way
//! to the disk; when one fails, everything behind it is planned again. So each event is planned
//! once, in order, whatever fails in between.
//!
//! A pipeline that asked for something waits [aside](Aside) and gets its part of the plan later; the
//! store keeps which events those are.

mod later;
mod meters;
mod remember;
mod in_flight;
mod lookups;
mod memories;
mod parked;

use std::{future::Future, pin::Pin, sync::Arc, task::Poll, time::Duration};

use futures_util::{StreamExt, stream::FuturesOrdered};
use meters::Meters;
use tokio::sync::watch;

use self::{
    in_flight::{Sent, SentPart, messages},
    lookups::{LookupTasks, Returned},
    memories::Memories,
    parked::Parked,
};
use super::{
    Options, Tools,
    ask::Lookups,
    compile::Compiled,
    plan::{Turns, run_scripts},
};
use crate::{
    catalog::Catalog,
    clock::Clock,
    hint::{self, Hint, Loss},
    model::{DeliverySeq, Event, EventSeq, Message, Owed, Plan},
    store::{OwedQuery, Store, StoreError},
};

/// What the loop is given.
pub struct Parts<L> {
    pub store: Arc<dyn Store>,
    pub clock: Arc<dyn Clock>,
    pub catalog: watch::Receiver<Arc<Catalog>>,
    /// Accepted events, in accept order.
    pub events: hint::Receiver<Vec<Arc<Event>>, bool>,
    /// The world outside, as steps may ask it.
    pub lookups: Arc<dyn Lookups>,
    /// Where deliveries go once they are owed.
    pub deliveries: hint::Sender<Vec<(Owed, Message)>, L>,
    /// Becomes true when the loop is to end.
    pub stop: watch::Receiver<bool>,
    pub tools: Tools,
    pub options: Options,
}

/// Plans events until it is stopped.
pub struct Runner<L> {
    parts: Parts<L>,
    compiled: Compiled,
    planned: watch::Sender<EventSeq>,
    /// The last event that was handed to the store with a plan; `None` before the first.
    last: Option<EventSeq>,
    /// Events up to here have a plan on disk, as far as we know.
    kept: EventSeq,
    /// Whether the store may hold events that no hint will bring.
    behind: bool,
    parked: Parked,
    outside: LookupTasks,
    memories: Memories,
    /// What the steps remember has to be read again, once no plan is on its way.
    is_forgetful: bool,
    /// Where to go on reading what waits; `None` when all of it is in `aside`.
    waiting_behind: Option<EventSeq>,
    in_flight: FuturesOrdered<InFlight>,
    /// What the plans weigh that are on their way.
    waiting_bytes: usize,
    /// What was planned in calls that failed: nobody knows whether it is on disk.
    doubtful: Vec<Sent>,
    timeout: Duration,
    turns: Turns,
    meters: Meters,
}

type InFlight = Pin<Box<dyn Future<Output = (Vec<Sent>, Result<Vec<Owed>, StoreError>)> + Send>>;

/// The first wait after the store failed; it doubles.
const FIRST_WAIT: Duration = Duration::from_millis(50);
const LONGEST_WAIT: Duration = Duration::from_secs(5);
/// Bytes of events, with their copies, that wait for the disk with their plans, roughly at most.
const WAITING_BYTES: usize = 16 * 1024 * 1024;
/// Bytes of events in one batch, where that is more than one event.
const BATCH_BYTES: usize = 4 * 1024 * 1024;
/// Events that are planned before others get the processor.
const BREATH: usize = 32;

/// The loop, and how far it has come: every event up to there has its plan on disk.
pub fn runner<L: Loss<Vec<(Owed, Message)>>>(
    parts: Parts<L>,
) -> (Runner<L>, watch::Receiver<EventSeq>) {
    let (planned, watch) = watch::channel(EventSeq(0));
    let memories = Memories::new(parts.clock.now());
    let outside = LookupTasks::new(parts.lookups.clone(), parts.clock.clone());
    let runner = Runner {
        parts,
        compiled: Compiled::default(),
        planned,
        last: None,
        kept: EventSeq(0),
        // What was accepted before the process started has no hint.
        behind: true,
        parked: Parked::default(),
        outside,
        memories,
        is_forgetful: true,
        waiting_behind: Some(EventSeq(0)),
        in_flight: FuturesOrdered::new(),
        waiting_bytes: 0,
        doubtful: Vec::new(),
        timeout: FIRST_WAIT,
        turns: Turns::default(),
        meters: Meters::new(),
    };
    (runner, watch)
}

/// What happened while the loop waited.
enum Wake {
    Stop,
    PlansStored(Vec<Sent>, Result<Vec<Owed>, StoreError>),
    Hint(Option<Hint<Vec<Arc<Event>>, bool>>),
    Returned(Returned),
    /// Something may be missing.
    Due,
    /// The resources have changed.
    Catalog,
    /// Nothing else is to be done than what was set aside.
    Aside,
}

impl<L: Loss<Vec<(Owed, Message)>>> Runner<L> {
    /// Runs until it is stopped or the store is closed. When it returns, no plan is on its way
    /// to the disk. What has no plan by then is planned after the next start.
    pub async fn run(self) {
        self.run_for_now().await;
    }

    /// The same, for another to go on later: it gives back where hints come from.
    pub async fn run_for_now(mut self) -> hint::Receiver<Vec<Arc<Event>>, bool> {
        let initial = self.parts.catalog.borrow_and_update().clone();
        self.compiled = Compiled::of(&initial, &self.compiled, &self.parts.tools);
        while !*self.parts.stop.borrow() {
            if !self.doubtful.is_empty() && self.in_flight.is_empty() {
                self.resolve().await;
                continue;
            }
            if self.is_forgetful && self.in_flight.is_empty() {
                if self.recollect().await.is_break() {
                    break;
                }
                continue;
            }
            if let Some(after) = self.waiting_behind
                && self.has_room()
            {
                if self.resume(after).await.is_break() {
                    break;
                }
                continue;
            }
            if self.behind && self.has_room() {
                if self.catch_up().await.is_break() {
                    break;
                }
                continue;
            }
            match self.wake().await {
                Wake::Stop => break,
                Wake::Due => self.tell_absences().await,
                Wake::Catalog => self.take_catalog().await,
                Wake::Aside => self.go_on().await,
                Wake::Hint(None) => break,
                Wake::Hint(Some(Hint::Lost(_))) => self.behind = true,
                Wake::Hint(Some(Hint::Some(events))) => self.live(events).await,
                Wake::PlansStored(sent, result) => {
                    self.kept(sent, result);
                    self.go_on().await;
                }
                Wake::Returned(first) => {
                    let rest = std::iter::from_fn(|| self.outside.try_next());
                    for it in std::iter::once(first).chain(rest) {
                        self.parked.answered(it.ticket, it.slot, it.answer);
                    }
                    self.go_on().await;
                }
            }
        }
        while let Some((sent, result)) = self.in_flight.next().await {
            self.kept(sent, result);
        }
        self.parts.events
    }

    fn has_room(&self) -> bool {
        !self.is_full() && self.doubtful.is_empty() && !self.is_forgetful
    }

    fn is_full(&self) -> bool {
        self.in_flight.len() >= self.parts.options.in_flight.max(1)
            || self.waiting_bytes >= WAITING_BYTES
    }

    async fn wake(&mut self) -> Wake {
        let has_room = self.has_room();
        let may_go_on = has_room && self.waiting_behind.is_none() && self.parked.has_candidates();
        let Self { parts, in_flight, outside, memories, .. } = self;
        let Parts { stop, events, clock, catalog, .. } = parts;
        let due = memories.next_due();
        tokio::select! {
            biased;
            // An error means that nobody can stop us any more: then the process ends.
            _ = stop.wait_for(|it| *it) => Wake::Stop,
            Some((sent, result)) = in_flight.next() => Wake::PlansStored(sent, result),
            Some(returned) = outside.next(), if has_room => Wake::Returned(returned),
            Ok(()) = catalog.changed(), if has_room => Wake::Catalog,
            () = remember::until(clock.as_ref(), due), if has_room => Wake::Due,
            hint = events.receive(), if has_room => Wake::Hint(hint),
            () = tokio::task::yield_now(), if may_go_on => Wake::Aside,
        }
    }

    /// Takes a hint, and what else is there already, as far as it fits a batch.
    async fn live(&mut self, mut events: Vec<Arc<Event>>) {
        while events.len() < self.parts.options.batch {
            match self.parts.events.try_receive() {
                Some(Hint::Some(more)) => events.extend(more),
                Some(Hint::Lost(_)) => {
                    // What we hold is still in order; the gap behind it is read next.
                    self.behind = true;
                    break;
                }
                None => break,
            }
        }
        if let Some(last) = self.last {
            events.retain(|it| it.seq > last);
        }
        let mut next = self.last.or(events.first().map(|it| EventSeq(it.seq.0 - 1)));
        let is_next = |it: &Arc<Event>| {
            let follows = next.is_some_and(|next| it.seq.0 == next.0 + 1);
            next = Some(it.seq);
            follows
        };
        let dense = events.iter().map(is_next).take_while(|it| *it).count();
        if dense < events.len() {
            self.behind = true;
            events.truncate(dense);
        }
        self.plan(events).await;
    }

    /// Reads events that have no plan, and plans them.
    async fn catch_up(&mut self) -> std::ops::ControlFlow<()> {
        let after = self.last.unwrap_or_default();
        let limit = self.parts.options.batch.max(1);
        match self.parts.store.unplanned(after, limit).await {
            Ok(events) => {
                // Large events come fewer at a time: only nothing means that there are none.
                self.behind = !events.is_empty();
                self.plan(events).await;
                std::ops::ControlFlow::Continue(())
            }
            Err(StoreError::Closed) => std::ops::ControlFlow::Break(()),
            Err(error) => {
                self.wait_after(&error).await;
                std::ops::ControlFlow::Continue(())
            }
        }
    }

    /// Waits until more may be on its way to the disk. `false`: not before what failed is resolved.
    async fn room_for_more(&mut self) -> bool {
        while self.is_full()
            && let Some((sent, result)) = self.in_flight.next().await
        {
            self.kept(sent, result);
        }
        self.doubtful.is_empty() && !self.is_forgetful
    }

    /// Plans events that follow each other, and starts to keep their plans.
    async fn plan(&mut self, events: Vec<Arc<Event>>) {
        if !self.look_at_catalog().await {
            return;
        }
        self.turns.next_round();
        let mut rest = &events[..];
        while !rest.is_empty() {
            if !self.room_for_more().await {
                // What is left comes again from the store.
                return;
            }
            let (batch, behind) = rest.split_at(self.batch_length(rest));
            rest = behind;
            let mut plans = Vec::with_capacity(batch.len());
            let mut failures = 0;
            for events in batch.chunks(BREATH) {
                run_scripts(events, &self.compiled, &mut self.turns);
                for event in events {
                    self.parts.lookups.tell(event);
                    let plan = self.first_part(event, &mut failures);
                    let sent = Sent::of(&plan, SentPart::First);
                    plans.push((plan, sent));
                }
                tokio::task::yield_now().await;
            }
            self.meters.count(&plans, failures);
            self.last = plans.last().map(|it| it.0.event.seq);
            self.keep(plans).await;
        }
        self.go_on().await;
    }

    /// How many of these events make a batch: at least one, and no more than fit it.
    fn batch_length(&self, events: &[Arc<Event>]) -> usize {
        let mut bytes = 0;
        let fits = |event: &&Arc<Event>| {
            bytes += event.payload.bytes().len() + event.metadata.bytes().len();
            bytes <= BATCH_BYTES
        };
        let most = self.parts.options.batch.max(1).min(events.len());
        events[..most].iter().take_while(fits).count().max(1)
    }

    /// Hands plans to the store. They are in its queue, in order, when this returns.
    async fn keep(&mut self, plans: Vec<(Plan, Sent)>) {
        let store = self.parts.store.clone();
        let (plans, sent): (Vec<Plan>, Vec<Sent>) = plans.into_iter().unzip();
        self.waiting_bytes += sent.iter().map(Sent::weight).sum::<usize>();
        // The set polls its futures in any order, but the store takes calls in the order in which
        // they are first polled: so that happens here. Unconstrained, since a task that has used up its budget
        // with the runtime would have to come again before the store has heard of the call: a later one
        // could then overtake it, and the store passes over what comes behind the last part of a plan.
        let call = async move { (sent, store.plan(plans).await) };
        let mut call: InFlight = Box::pin(tokio::task::unconstrained(call));
        let first = std::future::poll_fn(|context| Poll::Ready(call.as_mut().poll(context))).await;
        match first {
            Poll::Ready(done) => self.in_flight.push_back(Box::pin(std::future::ready(done))),
            Poll::Pending => self.in_flight.push_back(call),
        }
    }

    /// A call has ended: what is owed now goes on to dispatch.
    fn kept(&mut self, sent: Vec<Sent>, result: Result<Vec<Owed>, StoreError>) {
        self.waiting_bytes -= sent.iter().map(Sent::weight).sum::<usize>();
        let owed = match result {
            Ok(owed) => owed,
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "plans were not kept");
                metrics::counter!("tidegate_pipeline_retries_total").increment(1);
                self.doubtful.extend(sent);
                return;
            }
        };
        self.timeout = FIRST_WAIT;
        for sent in &sent {
            match &sent.part {
                SentPart::First => {
                    self.kept = sent.event.seq.max(self.kept);
                    self.parked.first_kept(sent.event.seq);
                }
                SentPart::Later(ticket, _) => self.parked.kept(ticket),
            }
        }
        self.planned.send_if_modified(|it| std::mem::replace(it, self.kept) != self.kept);
        if let Some(first) = sent.iter().find(|it| matches!(it.part, SentPart::First)) {
            let waited = self.parts.clock.now().duration_since(first.event.received_at);
            self.meters.seconds.record(waited.as_secs_f64().max(0.0));
        }
        if !owed.is_empty() {
            self.parts.deliveries.send(messages(&sent, owed));
        }
    }

    /// After a failure, once no call is on its way: what did reach the disk goes on to dispatch, and
    /// the rest is planned again.
    async fn resolve(&mut self) {
        self.wait().await;
        let seqs: Vec<DeliverySeq> = self.doubtful.iter().flat_map(Sent::seqs).collect();
        let owed = match found(self.parts.store.as_ref(), seqs).await {
            Ok(owed) => owed,
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "the store still fails");
                // When it is closed there is nothing left to do, and `catch_up` says so.
                if matches!(error, StoreError::Closed) {
                    self.doubtful.clear();
                    self.behind = true;
                }
                return;
            }
        };
        if !owed.is_empty() {
            self.parts.deliveries.send(owed);
        }
        let mut doubtful = std::mem::take(&mut self.doubtful).into_iter();
        // The store knows which of the events from here on have a plan, and which wait.
        let first = doubtful.find(|it| matches!(it.part, SentPart::First));
        let before = first.map(|it| EventSeq(it.event.seq.0.saturating_sub(1)));
        self.last = before.map(|it| it.min(self.kept)).or(self.last);
        self.behind = true;
        self.parked.clear();
        self.outside.clear();
        self.is_forgetful = true;
        self.waiting_behind = Some(EventSeq(0));
    }

    async fn wait_after(&mut self, error: &StoreError) {
        tracing::warn!(
            error = error as &dyn std::error::Error,
            "cannot read what is to be planned"
        );
        self.wait().await;
    }

    /// Waits longer each time, until a call succeeds; not beyond the order to stop.
    async fn wait(&mut self) {
        let until = self.parts.clock.now() + self.timeout;
        self.timeout = (self.timeout * 2).min(LONGEST_WAIT);
        let Parts { clock, stop, .. } = &mut self.parts;
        tokio::select! {
            () = clock.sleep_until(until) => (),
            _ = stop.wait_for(|it| *it) => (),
        }
    }
}

/// Of these deliveries, those that are owed, with what there is to send.
async fn found(
    store: &dyn Store,
    seqs: Vec<DeliverySeq>,
) -> Result<Vec<(Owed, Message)>, StoreError> {
    if seqs.is_empty() {
        return Ok(Vec::new());
    }
    let mut owed = store.owed(OwedQuery::These(seqs)).await?;
    owed.sort_unstable_by_key(|it| it.seq);
    owed.dedup_by_key(|it| it.seq);
    let seqs: Vec<DeliverySeq> = owed.iter().map(|it| it.seq).collect();
    let mut messages = store.messages(&seqs).await?.into_iter().peekable();
    let pair = |owed: Owed| Some((owed, messages.next_if(|it| it.seq == owed.seq)?));
    Ok(owed.into_iter().filter_map(pair).collect())
}
