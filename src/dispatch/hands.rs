//! Carries out what the scheduler decides, in tasks that report back to the loop.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use tokio::sync::mpsc;

use super::{Input, later, messages::Messages, meters::Meters};
use crate::{
    catalog::{Edit, Registrar, Resource},
    clock::Clock,
    destinations::{Destination, Outlets},
    model::{
        Class, DeliverySeq, DestinationId, DestinationState, EntryKind, Message, Outcome, Owed,
    },
    store::{OwedQuery, Settlement, Store, StoreError},
    tail::{Activity, Tail},
};

/// What a task has to tell.
pub enum Report {
    Attempted {
        destination: DestinationId,
        delivery: DeliverySeq,
        outcome: Outcome,
        /// Back for the next attempt, and for those who watch.
        message: Option<Message>,
    },
    Settled(Vec<(DestinationId, DeliverySeq)>),
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

pub struct Hands {
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    registrar: Arc<Registrar>,
    outlets: Arc<dyn Outlets>,
    tail: Tail,
    reports: mpsc::UnboundedSender<Report>,
    messages: Messages,
    meters: Meters,
    patience: Duration,
    settlements: Vec<Settlement>,
    settling: usize,
    /// Deliveries to attempt whose messages must be read first.
    wanted: VecDeque<Owed>,
    loading: usize,
    disabling: usize,
    given_back: Vec<Input>,
    /// What the attempt that has just ended carried.
    attempted: Option<Message>,
    is_stopping: bool,
}

/// Calls of one kind under way at once. The store commits together what waits together.
const CALLS: usize = 4;
const SETTLEMENTS_IN_CALL: usize = 1_024;
const MESSAGES_IN_CALL: usize = 256;

impl Hands {
    #[allow(clippy::too_many_arguments, reason = "it is made in one place")]
    pub fn new(
        store: Arc<dyn Store>,
        clock: Arc<dyn Clock>,
        registrar: Arc<Registrar>,
        outlets: Arc<dyn Outlets>,
        tail: Tail,
        reports: mpsc::UnboundedSender<Report>,
        messages: Messages,
        meters: Meters,
        patience: Duration,
    ) -> Self {
        Self {
            store,
            clock,
            registrar,
            outlets,
            tail,
            reports,
            messages,
            meters,
            patience,
            settlements: Vec::new(),
            settling: 0,
            wanted: VecDeque::new(),
            loading: 0,
            disabling: 0,
            given_back: Vec::new(),
            attempted: None,
            is_stopping: false,
        }
    }

    pub fn meters(&self) -> &Meters {
        &self.meters
    }

    /// Whether nothing is under way that the scheduler does not know of.
    pub fn are_idle(&self) -> bool {
        self.wanted.is_empty() && self.loading == 0 && self.disabling == 0
    }

    /// Keeps a message for its next attempt, if there is room.
    pub fn keep(&mut self, message: Message) {
        self.messages.keep(message);
    }

    /// What the attempt that has just ended carried; `None` afterwards.
    pub fn attempted(&mut self, message: Option<Message>) {
        self.attempted = message;
    }

    pub fn attempt(&mut self, owed: Owed) {
        match self.messages.take(owed.seq) {
            Some(message) => self.send(owed, message),
            None => self.wanted.push_back(owed),
        }
    }

    fn send(&self, owed: Owed, message: Message) {
        let mut attempt = Attempt {
            reports: self.reports.clone(),
            destination: owed.destination,
            message: Some(message),
            outcome: None,
        };
        let outlet = self.outlets.get(owed.destination);
        let clock = self.clock.clone();
        tokio::spawn(async move { attempt.make(outlet, &*clock).await });
    }

    pub fn settle(&mut self, settlement: Settlement) {
        self.meters.count(&settlement);
        if let Some(message) = self.attempted.take_if(|it| it.seq == settlement.owed.seq) {
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
        let (OwedQuery::Line { destination, .. } | OwedQuery::Due { destination, .. }) = query
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
            let _ = reports.send(Report::Refilled { destination, rows });
        });
    }

    /// Starts the calls that what has gathered needs.
    pub fn flush(&mut self) {
        while self.settling < CALLS && !self.settlements.is_empty() {
            let rest = self.settlements.len().min(SETTLEMENTS_IN_CALL);
            let call = self.settlements.drain(..rest).collect();
            self.settling += 1;
            let (store, clock) = (self.store.clone(), self.clock.clone());
            let (reports, patience) = (self.reports.clone(), self.patience);
            tokio::spawn(async move { settle(&*store, &*clock, call, patience, &reports).await });
        }
        while self.loading < CALLS && !self.wanted.is_empty() {
            let rest = self.wanted.len().min(MESSAGES_IN_CALL);
            let wanted: Vec<Owed> = self.wanted.drain(..rest).collect();
            self.loading += 1;
            let (store, clock) = (self.store.clone(), self.clock.clone());
            let (reports, patience) = (self.reports.clone(), self.patience);
            tokio::spawn(async move { load(&*store, &*clock, wanted, patience, &reports).await });
        }
    }

    /// A call of [`Self::flush`] has ended.
    pub fn settled(&mut self) {
        self.settling -= 1;
    }

    /// Messages have come from the store. A delivery whose event is gone has none.
    pub fn loaded(&mut self, wanted: Vec<Owed>, messages: Vec<Message>) {
        self.loading -= 1;
        let mut messages: HashMap<DeliverySeq, Message> =
            messages.into_iter().map(|it| (it.seq, it)).collect();
        for owed in wanted {
            let (destination, delivery) = (owed.destination, owed.seq);
            match messages.remove(&delivery) {
                _ if self.is_stopping => {
                    self.given_back.push(Input::Returned { destination, delivery });
                }
                Some(message) => self.send(owed, message),
                None => self.given_back.push(Input::Missing { destination, delivery }),
            }
        }
    }

    /// Attempts nothing more. What waits for its message is given back.
    pub fn stop(&mut self) {
        self.is_stopping = true;
        let back =
            |owed: Owed| Input::Returned { destination: owed.destination, delivery: owed.seq };
        self.given_back.extend(self.wanted.drain(..).map(back));
    }

    /// Attempts that were ordered and not made.
    pub fn given_back(&mut self) -> Vec<Input> {
        std::mem::take(&mut self.given_back)
    }

    /// Makes the loop look again.
    pub fn nudge(&self) {
        let _ = self.reports.send(Report::Nudge);
    }

    /// Disables a destination that is as it was when this was decided.
    pub fn disable(&mut self, id: DestinationId, version: u32, reason: String) {
        self.disabling += 1;
        let (registrar, clock) = (self.registrar.clone(), self.clock.clone());
        let (reports, patience) = (self.reports.clone(), self.patience);
        tokio::spawn(async move {
            tracing::warn!(destination = %id, reason, "disables a destination");
            while let Err(error) = disable(&registrar, &*clock, id, version, &reason).await {
                warn(&error, "cannot disable a destination");
                if matches!(error, StoreError::Closed) {
                    break;
                }
                clock.sleep_until(later(clock.now(), patience)).await;
            }
            let _ = reports.send(Report::Disabled);
        });
    }

    pub fn disabled(&mut self) {
        self.disabling -= 1;
    }
}

/// One attempt. It reports whatever happens, a panic included: nothing stays in flight for ever.
struct Attempt {
    reports: mpsc::UnboundedSender<Report>,
    destination: DestinationId,
    message: Option<Message>,
    outcome: Option<Outcome>,
}

impl Attempt {
    async fn make(&mut self, outlet: Option<Arc<dyn Destination>>, clock: &dyn Clock) {
        let Some(message) = &self.message else { return };
        self.outcome = Some(match outlet {
            Some(outlet) => outlet.send(std::slice::from_ref(message), clock.now()).await,
            None => failure(Class::Config, "the destination is not there any more"),
        });
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        let Some(message) = self.message.take() else { return };
        let outcome = self.outcome.take();
        let _ = self.reports.send(Report::Attempted {
            destination: self.destination,
            delivery: message.seq,
            outcome: outcome.unwrap_or_else(|| failure(Class::Unknown, "the attempt broke off")),
            message: Some(message),
        });
    }
}

fn failure(class: Class, reason: &str) -> Outcome {
    Outcome {
        class,
        status: None,
        reason: reason.to_owned(),
        retry_after: None,
        duration: Duration::ZERO,
        response: None,
    }
}

/// Offers settlements to the store until it takes them, or is closed.
async fn settle(
    store: &dyn Store,
    clock: &dyn Clock,
    settlements: Vec<Settlement>,
    patience: Duration,
    reports: &mpsc::UnboundedSender<Report>,
) {
    let settled = settlements.iter().map(|it| (it.owed.destination, it.owed.seq)).collect();
    loop {
        match store.settle(settlements.clone()).await {
            Ok(()) => {
                let _ = reports.send(Report::Settled(settled));
                return;
            }
            Err(StoreError::Closed) => {
                let _ = reports.send(Report::Closed);
                return;
            }
            Err(error) => warn(&error, "what came of attempts is not on disk yet"),
        }
        clock.sleep_until(later(clock.now(), patience)).await;
    }
}

/// Asks the store for messages until it answers, or is closed.
async fn load(
    store: &dyn Store,
    clock: &dyn Clock,
    wanted: Vec<Owed>,
    patience: Duration,
    reports: &mpsc::UnboundedSender<Report>,
) {
    let seqs: Vec<DeliverySeq> = wanted.iter().map(|it| it.seq).collect();
    loop {
        match store.messages(&seqs).await {
            Ok(messages) => {
                let _ = reports.send(Report::Loaded { wanted, messages });
                return;
            }
            Err(StoreError::Closed) => {
                let _ = reports.send(Report::Closed);
                return;
            }
            Err(error) => warn(&error, "cannot read what is to be sent"),
        }
        clock.sleep_until(later(clock.now(), patience)).await;
    }
}

async fn disable(
    registrar: &Registrar,
    clock: &dyn Clock,
    id: DestinationId,
    version: u32,
    reason: &str,
) -> Result<(), StoreError> {
    let since = clock.now();
    registrar
        .edit(|catalog| {
            let found = catalog
                .destinations
                .get(&id)
                .filter(|it| it.version == version && it.state == DestinationState::Active);
            let edits = found.map(|it| {
                let mut destination = crate::model::Destination::clone(it);
                destination.version += 1;
                let reason = reason.to_owned();
                destination.state = DestinationState::Disabled { since, reason };
                Edit::Put(Resource::Destination(destination))
            });
            Ok((edits.into_iter().collect(), ()))
        })
        .await
}

fn warn(error: &StoreError, what: &'static str) {
    tracing::warn!(error = error as &dyn std::error::Error, "{what}");
}
