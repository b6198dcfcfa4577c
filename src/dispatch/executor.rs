//! Carries out what the scheduler decides, in tasks that report back to the loop.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::mpsc;

use super::{
    Input,
    attempt::Attempt,
    batches::{BatchCommand, BatchJob},
    budget::Budget,
    later,
    messages::Messages,
    meters::Meters,
    outgoing::Outgoing,
    owned::OwedShares,
    spilled::Spilled,
    store_calls::{disable, load, settle, warn},
};
use crate::{
    catalog::CatalogWriter,
    clock::Clock,
    destinations::Outlets,
    model::{Class, DeliverySeq, DestinationId, EntryKind, IdMap, IdSet, Message, Outcome, Owed},
    store::{OwedQuery, Settlement, Store, StoreError},
    tail::{Activity, Tail},
};

/// What a task has to tell.
pub enum Completion {
    Attempted {
        destination: DestinationId,
        delivery: DeliverySeq,
        outcome: Outcome,
        /// Back for the next attempt, and for those who watch.
        message: Option<Message>,
    },
    /// One request of a batch has ended.
    PartEnded {
        destination: DestinationId,
        batch: u32,
        outcome: Outcome,
        messages: Vec<Message>,
    },
    /// It was not attempted, since its user is to be forgotten.
    Withheld {
        owed: Owed,
        message: Message,
    },
    /// These of a batch are not sent, since their users are to be forgotten.
    WithheldTogether {
        batch: u32,
        owed: Vec<Owed>,
    },
    /// These of a batch are not sent.
    Cut {
        destination: DestinationId,
        batch: u32,
        left: Vec<DeliverySeq>,
        missing: Vec<DeliverySeq>,
    },
    /// Nothing more comes of a batch, and these messages were not sent.
    BatchOver {
        destination: DestinationId,
        batch: u32,
        messages: Vec<Message>,
    },
    Settled(Vec<(DestinationId, DeliverySeq)>),
    /// The store did not take some, since another node works for their destinations.
    Refused {
        settled: Vec<(DestinationId, DeliverySeq)>,
        refused: Vec<(DestinationId, DeliverySeq)>,
    },
    /// What there is of shares that this node has taken on.
    Learned(OwedShares),
    /// Destinations that were not known are, or never will be.
    Refreshed(Spilled),
    Refilled {
        destination: DestinationId,
        rows: Option<Vec<Owed>>,
    },
    Loaded {
        wanted: Vec<Owed>,
        messages: Vec<Message>,
    },
    /// An order to disable a destination was carried out, or was out of date.
    Disabled,
    /// The store is closed: nothing more can be done.
    Closed,
    /// Nothing; the loop is to look again.
    Nudge,
}

pub struct Executor {
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    catalog_writer: Arc<CatalogWriter>,
    outlets: Arc<dyn Outlets>,
    tail: Tail,
    reports: mpsc::UnboundedSender<Completion>,
    messages: Messages,
    meters: Meters,
    timeout: Duration,
    settlements: Vec<Settlement>,
    settling: usize,
    /// Deliveries to attempt whose messages must be read first.
    wanted: VecDeque<Owed>,
    loading: usize,
    disabling: usize,
    given_back: Vec<Input>,
    /// What the attempt that has just ended carried.
    attempted: Option<Message>,
    attempted_together: IdMap<DeliverySeq, Message>,
    /// The batches under way.
    batches: IdMap<(DestinationId, u32), mpsc::UnboundedSender<BatchCommand>>,
    budget: Arc<Budget>,
    /// About as much as the heaviest message weighed that was read lately.
    heaviest: usize,
    is_stopping: bool,
    /// Destinations to which another node delivers now.
    away: IdSet<DestinationId>,
    /// Nothing may be begun behind this moment.
    sure_until: Option<Instant>,
    outgoing: Arc<Outgoing>,
}

/// Calls of one kind under way at once. The store commits together what waits together.
const CALLS: usize = 4;
const SETTLEMENTS_IN_CALL: usize = 1_024;
const MESSAGES_IN_CALL: usize = 256;
/// About so many bytes of messages are read in one call.
const BYTES_IN_CALL: usize = 8 * 1024 * 1024;
/// What is thought of a message before any was read.
const LIKELY_WEIGHT: usize = 64 * 1024;

impl Executor {
    #[allow(clippy::too_many_arguments, reason = "it is made in one place")]
    pub fn new(
        store: Arc<dyn Store>,
        clock: Arc<dyn Clock>,
        catalog_writer: Arc<CatalogWriter>,
        outlets: Arc<dyn Outlets>,
        tail: Tail,
        reports: mpsc::UnboundedSender<Completion>,
        messages: Messages,
        meters: Meters,
        timeout: Duration,
        budget: Budget,
    ) -> Self {
        let outgoing = Arc::new(Outgoing::new(catalog_writer.watch()));
        Self {
            outgoing,
            store,
            clock,
            catalog_writer,
            outlets,
            tail,
            reports,
            messages,
            meters,
            timeout,
            settlements: Vec::new(),
            settling: 0,
            wanted: VecDeque::new(),
            loading: 0,
            disabling: 0,
            given_back: Vec::new(),
            attempted: None,
            attempted_together: IdMap::default(),
            batches: IdMap::default(),
            budget: Arc::new(budget),
            heaviest: LIKELY_WEIGHT,
            is_stopping: false,
            away: IdSet::default(),
            sure_until: None,
        }
    }

    pub fn meters(&self) -> &Meters {
        &self.meters
    }

    /// Whether nothing is under way that the scheduler does not know of.
    pub fn are_idle(&self) -> bool {
        self.wanted.is_empty() && self.loading == 0 && self.disabling == 0
    }

    pub fn catalog_writer(&self) -> Arc<CatalogWriter> {
        self.catalog_writer.clone()
    }

    pub fn outgoing(&self) -> Arc<Outgoing> {
        self.outgoing.clone()
    }

    pub fn reports(&self) -> mpsc::UnboundedSender<Completion> {
        self.reports.clone()
    }

    /// It is not attempted here.
    pub fn forget(&mut self, delivery: DeliverySeq) {
        self.messages.take(delivery);
    }

    /// Keeps a message for its next attempt, if there is room.
    pub fn keep(&mut self, message: Message) {
        self.messages.keep(message);
    }

    /// What the attempt that has just ended carried.
    pub fn attempted(&mut self, destination: DestinationId, message: Option<Message>) {
        if let Some(message) = &message
            && message.weight() > Budget::LIGHT
        {
            self.budget.give_back(destination, message.weight());
        }
        self.attempted = message;
    }

    /// What the request that has just ended carried; nothing afterwards.
    pub fn attempted_together(&mut self, messages: Vec<Message>) {
        self.attempted_together = messages.into_iter().map(|it| (it.seq, it)).collect();
    }

    pub fn attempt(&mut self, owed: Owed) {
        match self.messages.take(owed.seq) {
            Some(message) => self.send(owed, message),
            None => self.wanted.push_back(owed),
        }
    }

    fn send(&mut self, owed: Owed, message: Message) {
        let weight = message.weight();
        if weight > Budget::LIGHT && !self.budget.take(owed.destination, weight) {
            self.messages.keep(message);
            let (destination, delivery) = (owed.destination, owed.seq);
            self.given_back.push(Input::TooMuch { destination, delivery });
            return;
        }
        let mut attempt = Attempt {
            reports: self.reports.clone(),
            outgoing: self.outgoing.clone(),
            owed,
            message: Some(message),
            outcome: None,
            is_withheld: false,
        };
        let outlet = self.outlets.get(owed.destination);
        let clock = self.clock.clone();
        tokio::spawn(async move { attempt.make(outlet, &*clock).await });
    }

    pub fn attempt_batch(
        &mut self,
        destination: DestinationId,
        number: u32,
        deliveries: Vec<Owed>,
        bytes: usize,
    ) {
        let (sender, orders) = mpsc::unbounded_channel();
        if self.is_stopping {
            let _ = sender.send(BatchCommand::Leave);
        }
        self.batches.insert((destination, number), sender);
        let with_message = |owed: Owed| (owed, self.messages.take(owed.seq));
        let job = BatchJob {
            store: self.store.clone(),
            clock: self.clock.clone(),
            reports: self.reports.clone(),
            outgoing: self.outgoing.clone(),
            orders,
            outlet: self.outlets.get(destination),
            budget: self.budget.clone(),
            timeout: self.timeout,
            destination,
            number,
            bytes,
            todo: deliveries.into_iter().map(with_message).collect(),
            loaded: Vec::new(),
            sending: Vec::new(),
            parts: VecDeque::new(),
        };
        tokio::spawn(job.run());
    }

    /// Tells a batch how it goes on. One that has ended by itself has said so.
    pub fn order(&mut self, destination: DestinationId, number: u32, order: BatchCommand) {
        if let Some(batch) = self.batches.get(&(destination, number)) {
            let _ = batch.send(order);
        }
    }

    pub fn batch_over(&mut self, destination: DestinationId, number: u32, rest: Vec<Message>) {
        self.batches.remove(&(destination, number));
        for message in rest {
            self.messages.keep(message);
        }
    }

    pub fn settle(&mut self, settlement: Settlement) {
        self.meters.count(&settlement);
        let seq = settlement.owed.seq;
        let attempted = match self.attempted.take_if(|it| it.seq == seq) {
            None if !self.attempted_together.is_empty() => self.attempted_together.remove(&seq),
            attempted => attempted,
        };
        if let Some(message) = attempted {
            self.tail.activity(|| Activity {
                project: message.event.project,
                event: message.event.id,
                event_type: message.event_type().clone(),
                delivery: settlement.owed.seq,
                destination: settlement.owed.destination,
                entry: settlement.entry.clone(),
            });
            if settlement.entry.ended.is_none() {
                self.messages.keep(message);
            }
        } else if let EntryKind::Note { .. } = settlement.entry.kind {
            // It will not be attempted any more.
            self.messages.take(settlement.owed.seq);
        }
        self.settlements.push(settlement);
    }

    pub fn read(&mut self, query: OwedQuery) {
        let (OwedQuery::Line { destination, .. }
        | OwedQuery::Due { destination, .. }
        | OwedQuery::First { destination }) = query
        else {
            return;
        };
        let (store, reports) = (self.store.clone(), self.reports.clone());
        tokio::spawn(async move {
            let rows = match store.owed(query).await {
                Ok(rows) => Some(rows),
                Err(error) => {
                    warn(&error, "cannot read what is owed");
                    None
                }
            };
            let _ = reports.send(Completion::Refilled { destination, rows });
        });
    }

    /// Starts the calls that what has gathered needs.
    pub fn flush(&mut self) {
        while self.settling < CALLS && !self.settlements.is_empty() {
            let rest = self.settlements.len().min(SETTLEMENTS_IN_CALL);
            let call = self.settlements.drain(..rest).collect();
            self.settling += 1;
            let (store, clock) = (self.store.clone(), self.clock.clone());
            let (reports, timeout) = (self.reports.clone(), self.timeout);
            tokio::spawn(async move { settle(&*store, &*clock, call, timeout, &reports).await });
        }
        while self.loading < CALLS && !self.wanted.is_empty() {
            let most = (BYTES_IN_CALL / self.heaviest).clamp(1, MESSAGES_IN_CALL);
            let rest = self.wanted.len().min(most);
            let wanted: Vec<Owed> = self.wanted.drain(..rest).collect();
            self.loading += 1;
            let (store, clock) = (self.store.clone(), self.clock.clone());
            let (reports, timeout) = (self.reports.clone(), self.timeout);
            tokio::spawn(async move { load(&*store, &*clock, wanted, timeout, &reports).await });
        }
    }

    /// A call of [`Self::flush`] has ended.
    pub fn settled(&mut self) {
        self.settling -= 1;
    }

    /// Messages have come from the store. A delivery whose event is gone has none.
    pub fn loaded(&mut self, wanted: Vec<Owed>, messages: Vec<Message>) {
        self.loading -= 1;
        let heaviest = messages.iter().map(Message::weight).max().unwrap_or(0);
        self.heaviest = heaviest.max(self.heaviest / 2).max(1);
        let mut messages: IdMap<DeliverySeq, Message> =
            messages.into_iter().map(|it| (it.seq, it)).collect();
        for owed in wanted {
            let (destination, delivery) = (owed.destination, owed.seq);
            match messages.remove(&delivery) {
                _ if !self.may_begin(destination) => {
                    self.given_back.push(Input::Returned { destination, delivery });
                }
                Some(message) => self.send(owed, message),
                None => self.given_back.push(Input::Missing { destination, delivery }),
            }
        }
    }

    fn may_begin(&self, destination: DestinationId) -> bool {
        !self.is_stopping && !self.away.contains(&destination) && !self.is_unsure()
    }

    /// Whether another node may deliver to the same destinations.
    pub fn is_unsure(&self) -> bool {
        self.sure_until.is_some_and(|it| Instant::now() >= it)
    }

    pub fn be_sure_until(&mut self, until: Instant) {
        self.sure_until = Some(until);
    }

    /// Begins nothing more for these. What waits for its message is given back.
    pub fn leave(&mut self, destinations: &[DestinationId]) {
        self.away.extend(destinations);
        let (wanted, left): (VecDeque<Owed>, VecDeque<Owed>) =
            self.wanted.drain(..).partition(|it| !self.away.contains(&it.destination));
        self.wanted = wanted;
        let back =
            |owed: Owed| Input::Returned { destination: owed.destination, delivery: owed.seq };
        self.given_back.extend(left.into_iter().map(back));
        for ((destination, _), batch) in &self.batches {
            if self.away.contains(destination) {
                let _ = batch.send(BatchCommand::Leave);
            }
        }
    }

    pub fn come_back(&mut self, destination: DestinationId) {
        self.away.remove(&destination);
    }

    /// Attempts nothing more. What waits for its message is given back.
    pub fn stop(&mut self) {
        self.is_stopping = true;
        let back =
            |owed: Owed| Input::Returned { destination: owed.destination, delivery: owed.seq };
        self.given_back.extend(self.wanted.drain(..).map(back));
        for batch in self.batches.values() {
            let _ = batch.send(BatchCommand::Leave);
        }
    }

    /// Attempts that were ordered and not made.
    pub fn given_back(&mut self) -> Vec<Input> {
        std::mem::take(&mut self.given_back)
    }

    /// Makes the loop look again.
    pub fn nudge(&self) {
        let _ = self.reports.send(Completion::Nudge);
    }

    /// Disables a destination that is as it was when this was decided.
    pub fn disable(&mut self, id: DestinationId, version: u32, reason: String) {
        self.disabling += 1;
        let (catalog_writer, clock) = (self.catalog_writer.clone(), self.clock.clone());
        let (reports, timeout) = (self.reports.clone(), self.timeout);
        tokio::spawn(async move {
            tracing::warn!(destination = %id, reason, "disables a destination");
            while let Err(error) = disable(&catalog_writer, &*clock, id, version, &reason).await {
                warn(&error, "cannot disable a destination");
                if matches!(error, StoreError::Closed) {
                    break;
                }
                clock.sleep_until(later(clock.now(), timeout)).await;
            }
            let _ = reports.send(Completion::Disabled);
        });
    }

    pub fn disabled(&mut self) {
        self.disabling -= 1;
    }
}

pub(super) fn failure(class: Class, reason: &str) -> Outcome {
    Outcome {
        class,
        status: None,
        reason: reason.to_owned(),
        retry_after: None,
        duration: Duration::ZERO,
        response: None,
    }
}
