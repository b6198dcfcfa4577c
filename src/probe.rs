//! Probes: single attempts outside of every order, which nobody planned. A test event is one, and so
//! is the proof that an endpoint is asked for before it gets anything else.
//!
//! A probe is sent at once, whatever state its destination is in, and then kept with what came of it,
//! so that the activity log shows it. What failed is not attempted again.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use serde_json::json;
use tokio::{sync::watch, task::JoinSet};

use crate::{
    catalog::{Catalog, CatalogWriter, Edit, Resource},
    clock::Clock,
    crypto::Random,
    destinations::Outlets,
    model::{
        Class, DeliveryId, DeliverySeq, Destination, DestinationId, DestinationState, Ended, Entry,
        EntryKind, Event, EventId, EventSeq, Message, NewEvent, Outcome, ProjectId, RawJson,
        Shares, SourceId, TypeName,
    },
    store::{Database, Recording, StoreError},
    tail::{Activity, Tail},
};

/// Tests under way at once, over all projects; of one, half of them.
pub const TESTS_AT_ONCE: usize = 8;
/// Verifications under way at once, over all projects.
const VERIFIED_AT_ONCE: usize = 8;
/// How long whoever asked for a verification waits for it at most. It goes on without them.
const TIMEOUT: Duration = Duration::from_secs(30);

/// What probes need.
pub struct Parts {
    pub database: Arc<dyn Database>,
    pub catalog_writer: Arc<CatalogWriter>,
    pub outlets: Arc<dyn Outlets>,
    pub clock: Arc<dyn Clock>,
    pub random: Arc<dyn Random>,
    pub tail: Tail,
}

pub struct Prober {
    parts: Parts,
    tests: Shares,
}

/// What came of a probe.
#[derive(Debug)]
pub struct Probe {
    /// The id under which it was sent.
    pub message_id: String,
    /// Where the activity log has it. `None`: it could not be kept, e.g. because the disk is full.
    pub kept: Option<(EventId, DeliveryId)>,
    pub outcome: Outcome,
}

/// Why no probe was sent.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    #[error("there is no such destination")]
    Gone,
    #[error("other tests are being sent")]
    Busy,
}

/// What a destination is sent to test or verify it, unless somebody gives something else.
pub fn greeting(destination: &Destination) -> (TypeName, RawJson) {
    let verifies = destination.connection.verifies();
    if verifies {
        let payload = json!({ "test": true, "event": CONFIGURED });
        (TypeName::trusted(CONFIGURED), RawJson::of(&payload))
    } else {
        let payload = json!({ "test": true, "message": "This is a test event from Tidegate." });
        (TypeName::trusted("tidegate.test"), RawJson::of(&payload))
    }
}

/// The type of the event with which an endpoint is verified.
const CONFIGURED: &str = "webhook.configured";

impl Prober {
    pub fn new(parts: Parts) -> Self {
        Self { parts, tests: Shares::new(TESTS_AT_ONCE) }
    }

    /// Sends a test, unless too many are under way.
    pub async fn test(
        &self,
        destination: &Destination,
        event_type: TypeName,
        payload: RawJson,
    ) -> Result<Probe, ProbeError> {
        let _turn = self.tests.take(destination.project).ok_or(ProbeError::Busy)?;
        self.send(destination, event_type, payload).await
    }

    async fn send(
        &self,
        destination: &Destination,
        event_type: TypeName,
        payload: RawJson,
    ) -> Result<Probe, ProbeError> {
        let Parts { outlets, clock, random, .. } = &self.parts;
        let outlet = outlets.get(destination.id).ok_or(ProbeError::Gone)?;
        let now = clock.now();
        let event = NewEvent {
            id: Some(EventId::new(now, 0, random.u64())),
            project: destination.project,
            source: SourceId::SYSTEM,
            event_type,
            timestamp: Some(now),
            received_at: now,
            key: None,
            key_counts_for: None,
            metadata: RawJson::of(&json!({ "source": "system" })),
            payload,
        };
        let message = message(&event, now);
        let message_id = message.message_id();
        let outcome = outlet.send(&[message], now).await;
        let kept = self.keep(event, destination.id, outcome.clone()).await;
        Ok(Probe { message_id, kept, outcome })
    }

    /// What was sent was sent: when it cannot be kept, the outcome still counts.
    async fn keep(
        &self,
        event: NewEvent,
        destination: DestinationId,
        outcome: Outcome,
    ) -> Option<(EventId, DeliveryId)> {
        let at = self.parts.clock.now();
        let recording = Recording { event, destination, entries: entries(outcome, at) };
        let entries = recording.entries.clone();
        let event = match self.parts.database.record(recording).await {
            Ok(event) => event,
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(error, "a test event was sent but could not be kept");
                return None;
            }
        };
        self.parts.tail.accepted(&event);
        let delivery = DeliverySeq::new(event.seq, 0);
        for (number, entry) in (1..).zip(entries) {
            self.parts.tail.activity(|| Activity {
                project: event.project,
                event: event.id,
                event_type: event.event_type.clone(),
                delivery,
                destination,
                entry: Entry { delivery, number, ..entry },
            });
        }
        Some((event.id, DeliveryId::of(event.id, 0)))
    }

    /// Waits until the destination is verified, or the try has failed; at most half a minute. Says
    /// how it is then; `None` when it is gone.
    pub async fn settled(&self, id: DestinationId) -> Option<Arc<Destination>> {
        let mut catalog = self.parts.catalog_writer.watch();
        let is_settled = |it: &Arc<Catalog>| it.destinations.get(&id).is_none_or(|it| !is_due(it));
        // It ends badly only when nobody waits for an answer any more.
        let _ = tokio::time::timeout(TIMEOUT, catalog.wait_for(is_settled)).await;
        self.parts.catalog_writer.current().destinations.get(&id).cloned()
    }

    /// Sends the proof, and changes the destination by what came of it, unless it changed meanwhile.
    async fn verify(&self, destination: &Destination) -> Result<(), StoreError> {
        let (event_type, payload) = greeting(destination);
        let Ok(probe) = self.send(destination, event_type, payload).await else { return Ok(()) };
        let outcome = probe.outcome;
        tracing::info!(
            destination = %destination.name,
            accepted = outcome.class == Class::Accepted,
            "a destination was asked whether it is there"
        );
        let decide = |catalog: &Catalog| {
            let found = catalog.destinations.get(&destination.id);
            let found = found.filter(|it| it.version == destination.version && is_due(it));
            let edit = found.map(|it| {
                let mut next = Destination::clone(it);
                next.version += 1;
                next.state = verdict(&it.state, outcome);
                Edit::Put(Resource::Destination(next))
            });
            Ok::<_, StoreError>((edit.into_iter().collect(), ()))
        };
        self.parts.catalog_writer.edit(decide).await
    }
}

/// The state of a destination after a try.
fn verdict(before: &DestinationState, outcome: Outcome) -> DestinationState {
    match before {
        DestinationState::Unverified { since, .. } if outcome.class != Class::Accepted => {
            let reason = match outcome.reason.is_empty() {
                true => "it did not answer with 2xx".to_owned(),
                false => outcome.reason,
            };
            DestinationState::Unverified { since: *since, reason }
        }
        DestinationState::Unverified { .. }
        | DestinationState::Active
        | DestinationState::Paused { .. }
        | DestinationState::Disabled { .. } => DestinationState::Active,
    }
}

/// Whether a destination waits for its first try.
fn is_due(destination: &Destination) -> bool {
    match &destination.state {
        DestinationState::Unverified { reason, .. } => reason.is_empty(),
        DestinationState::Active
        | DestinationState::Paused { .. }
        | DestinationState::Disabled { .. } => false,
    }
}

/// Verifies destinations as they come into the catalogue, until it is stopped. One try each; who
/// wants another sets the destination back. What a crash interrupts is tried again.
pub async fn run(prober: Arc<Prober>, mut stop: watch::Receiver<bool>) {
    let mut catalog = prober.parts.catalog_writer.watch();
    let mut tasks = JoinSet::new();
    let mut under_way: HashMap<tokio::task::Id, DestinationId> = HashMap::new();
    loop {
        let now = catalog.borrow_and_update().clone();
        let busy: HashSet<DestinationId> = under_way.values().copied().collect();
        let mut room = VERIFIED_AT_ONCE.saturating_sub(busy.len());
        let project_of = |id: &DestinationId| now.destinations.get(id).map(|it| it.project);
        let due = now.destinations.values().filter(|it| is_due(it) && !busy.contains(&it.id));
        let mut of_project: HashMap<ProjectId, usize> = HashMap::new();
        busy.iter().filter_map(project_of).for_each(|it| *of_project.entry(it).or_default() += 1);
        for destination in due {
            let own = of_project.entry(destination.project).or_default();
            // One project has half of them at most, so that it holds up no other.
            if room == 0 || *own >= VERIFIED_AT_ONCE / 2 {
                continue;
            }
            room -= 1;
            *own += 1;
            let (prober, destination) = (prober.clone(), destination.clone());
            let id = destination.id;
            let task = tasks.spawn(async move { prober.try_one(&destination).await });
            under_way.insert(task.id(), id);
        }
        tokio::select! {
            // An error means that nobody can stop us any more: then the process ends.
            _ = stop.wait_for(|it| *it) => return,
            changed = catalog.changed() => if changed.is_err() { return },
            Some(ended) = tasks.join_next_with_id() => {
                let id = ended.map_or_else(|error| error.id(), |(id, ())| id);
                under_way.remove(&id);
            }
        }
    }
}

impl Prober {
    async fn try_one(&self, destination: &Destination) {
        const REST: SignedDuration = SignedDuration::from_secs(5);
        if let Err(error) = self.verify(destination).await {
            tracing::warn!(%error, "what came of a verification is not kept; it is made again");
            let until = self.parts.clock.now().saturating_add(REST).unwrap_or(Timestamp::MAX);
            self.parts.clock.sleep_until(until).await;
        }
    }
}

/// The event has no place yet, and needs none to be sent.
fn message(event: &NewEvent, now: Timestamp) -> Message {
    let sent = Event {
        seq: EventSeq(0),
        id: event.id.unwrap_or(EventId::from_bits(0)),
        project: event.project,
        source: event.source,
        event_type: event.event_type.clone(),
        timestamp: now,
        received_at: now,
        key: None,
        metadata: event.metadata.clone(),
        payload: event.payload.clone(),
    };
    let seq = DeliverySeq::first_of(EventSeq(0));
    Message { seq, event: Arc::new(sent), copy: None, fresh_id: false }
}

/// The attempt, and if it failed, that there will be no other. It does not become a dead letter:
/// those are what somebody is owed.
fn entries(outcome: Outcome, at: Timestamp) -> Vec<Entry> {
    let is_accepted = outcome.class == Class::Accepted;
    let entry = |number, kind, ended| Entry {
        delivery: DeliverySeq::first_of(EventSeq(0)),
        number,
        at,
        kind,
        ended,
    };
    let attempt = EntryKind::Attempt { number: 1, outcome };
    let mut entries = vec![entry(1, attempt, is_accepted.then_some(Ended::Delivered))];
    if !is_accepted {
        let reason = "a test is attempted once".to_owned();
        entries.push(entry(2, EntryKind::Note { reason }, Some(Ended::Cancelled)));
    }
    entries
}
