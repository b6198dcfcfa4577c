//! Where databases live in tests, and what they are fed.

use std::{path::Path, sync::Arc, time::Duration};

use async_trait::async_trait;
use jiff::{SignedDuration, Timestamp};
use tempfile::TempDir;
use tidegate::{
    clock::ManualClock,
    hint,
    model::{
        Class, DeliverySeq, DestinationId, Ended, Entry, EntryKind, Event, EventId, Lane, NewEvent,
        Outcome, Owed, PipelineId, Place, Plan, PlannedDelivery, ProjectId, RawJson, SourceId,
        Standing, TypeName,
    },
    store::{
        Appended, Database, Next, Recording, Settlement,
        postgres::{self, Address, NodeIdentity, PostgresStore},
        sqlite::{Options, SqliteStore},
    },
};

use crate::harness::cluster::shared;

/// Where a database is opened, and found again after its process was lost.
#[async_trait]
pub trait Home: Send + Sync {
    /// There is one at a time.
    async fn open(&self) -> Open;

    /// The process of `before` ends without closing anything, and the next one starts.
    async fn open_again_after_crash(&self, before: Open) -> Open {
        drop(before);
        self.open().await
    }
}

pub struct Open {
    pub store: Arc<dyn Database>,
    pub accepted: hint::Receiver<Vec<Arc<Event>>, bool>,
    pub clock: Arc<ManualClock>,
}

pub fn on_sqlite() -> SqliteHome {
    SqliteHome { folder: TempDir::new().unwrap(), options: small() }
}

/// A folder of its own.
pub struct SqliteHome {
    pub folder: TempDir,
    pub options: Options,
}

/// Without a large reserve, which would only take time. The disk passes for a slow one, which takes more
/// care; most other tests have a quick one.
pub fn small() -> Options {
    Options { reserve_bytes: 64 * 1024, quick_sync: Duration::ZERO, ..Options::default() }
}

#[async_trait]
impl Home for SqliteHome {
    async fn open(&self) -> Open {
        open_sqlite(self.folder.path(), self.options.clone()).unwrap()
    }
}

pub fn open_sqlite(path: &Path, options: Options) -> tidegate::store::Result<Open> {
    let (store, accepted, clock) = sqlite(path, options)?;
    Ok(Open { store, accepted, clock })
}

pub type Accepted = hint::Receiver<Vec<Arc<Event>>, bool>;

/// With all that it can do beyond the contract.
pub fn sqlite(
    path: &Path,
    options: Options,
) -> tidegate::store::Result<(Arc<SqliteStore>, Accepted, Arc<ManualClock>)> {
    let (sender, accepted) = hint::channel(10_000);
    let clock = Arc::new(ManualClock::at(now()));
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    let random = Box::new(move || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        seed
    });
    let store = Arc::new(SqliteStore::open(path, options, clock.clone(), random, sender)?);
    Ok((store, accepted, clock))
}

pub fn on_postgres() -> PostgresHome {
    PostgresHome { address: shared().prepared() }
}

/// A database of its own.
pub struct PostgresHome {
    pub address: Address,
}

#[async_trait]
impl Home for PostgresHome {
    async fn open(&self) -> Open {
        let (store, mut accepts, clock) = postgres(&self.address, 1).await.unwrap();
        Open { store, accepted: accepts.remove(0), clock }
    }
}

/// A node that is alone, with the hints of each shard, of which a new database gets so many.
pub async fn postgres(
    address: &Address,
    shards: u16,
) -> tidegate::store::Result<(Arc<PostgresStore>, Vec<Accepted>, Arc<ManualClock>)> {
    // Small partitions, so that histories are about several.
    let options = postgres::Options { shards, partition_events: 64, ..Default::default() };
    postgres_with(address, options).await
}

pub async fn postgres_with(
    address: &Address,
    options: postgres::Options,
) -> tidegate::store::Result<(Arc<PostgresStore>, Vec<Accepted>, Arc<ManualClock>)> {
    let node = NodeIdentity {
        id: u128::from(number()) << 64 | u128::from(number()),
        name: "test".to_owned(),
        roles: vec![],
        address: None,
        is_alone: true,
    };
    let clock = Arc::new(ManualClock::at(now()));
    let mut accepts = Vec::new();
    let accept = |_| {
        let (sender, accepted) = hint::channel(10_000);
        accepts.push(accepted);
        sender
    };
    let random = Box::new(number);
    let store = PostgresStore::open(address, options, node, clock.clone(), random, accept).await?;
    Ok((Arc::new(store), accepts, clock))
}

fn number() -> u64 {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).unwrap();
    u64::from_le_bytes(bytes)
}

pub fn now() -> Timestamp {
    "2025-06-01T12:00:00Z".parse().unwrap()
}

pub fn projects(number: u128) -> ProjectId {
    ProjectId::from_bits(0x100 + number)
}

pub fn destinations(number: u128) -> DestinationId {
    DestinationId::from_bits(0x200 + number)
}

pub fn event(payload: &str) -> NewEvent {
    NewEvent {
        id: None,
        project: projects(1),
        source: SourceId::from_bits(0x300),
        event_type: TypeName::trusted("user.signed_up"),
        timestamp: Some(now() - SignedDuration::from_mins(5)),
        received_at: now() + SignedDuration::from_nanos(123_456_789),
        key: None,
        key_counts_for: None,
        metadata: RawJson::trusted(r#"{"ip": "127.0.0.1"}"#),
        payload: RawJson::trusted(payload.to_owned()),
    }
}

pub fn keyed(project: ProjectId, key: &str, payload: &str) -> NewEvent {
    NewEvent { project, key: Some(key.parse().unwrap()), ..event(payload) }
}

/// A plan that brings the event to these destinations, where nothing waits for anything.
pub fn plan_for(event: &Arc<Event>, to: &[u128]) -> Plan {
    let place = Place { lane: Lane::NONE, position: 0 };
    plan_at(event, &to.iter().map(|&it| (it, place)).collect::<Vec<_>>())
}

pub fn plan_at(event: &Arc<Event>, to: &[(u128, Place)]) -> Plan {
    let delivery = |&(number, place): &(u128, Place)| PlannedDelivery {
        destination: destinations(number),
        pipeline: PipelineId::from_bits(0x400),
        pipeline_version: 3,
        place,
        copy: None,
        dead: None,
    };
    Plan { deliveries: to.iter().map(delivery).collect(), ..Plan::of(event) }
}

/// Accepts events and brings each to these destinations.
pub async fn owe(open: &Open, count: usize, to: &[u128]) -> Vec<Owed> {
    let events = (0..count).map(|n| event(&format!("[{n}]"))).collect();
    let events = new_events(&open.store.append(events).await.unwrap());
    open.store.plan(events.iter().map(|it| plan_for(it, to)).collect()).await.unwrap()
}

/// An attempt that went so, and after which the delivery stands so.
pub fn attempt(owed: &Owed, class: Class, next: Next) -> Settlement {
    let number = owed.standing.attempts + 1;
    let outcome = Outcome {
        class,
        status: Some(if class == Class::Accepted { 200 } else { 503 }),
        reason: if class == Class::Accepted { "200 OK" } else { "503 Service Unavailable" }
            .to_owned(),
        retry_after: None,
        duration: std::time::Duration::from_millis(42),
        response: None,
    };
    settlement(owed, EntryKind::Attempt { number, outcome }, next)
}

/// A test of a destination that was sent and accepted.
pub fn recording(number: u64, to: u128) -> Recording {
    let attempt = EntryKind::Attempt {
        number: 1,
        outcome: Outcome {
            class: Class::Accepted,
            status: Some(204),
            reason: "204 No Content".to_owned(),
            retry_after: None,
            duration: std::time::Duration::from_millis(7),
            response: None,
        },
    };
    Recording {
        event: NewEvent {
            id: Some(EventId::new(now(), 0, u64::MAX - (number << 2))),
            source: SourceId::SYSTEM,
            event_type: TypeName::trusted("tidegate.test"),
            ..event("{}")
        },
        destination: destinations(to),
        entries: vec![Entry {
            delivery: DeliverySeq::from_bits(0),
            number: 1,
            at: now(),
            kind: attempt,
            ended: Some(Ended::Delivered),
        }],
    }
}

/// An end or a move without an attempt.
pub fn note(owed: &Owed, next: Next) -> Settlement {
    settlement(owed, EntryKind::Note { reason: "because".to_owned() }, next)
}

fn settlement(owed: &Owed, kind: EntryKind, next: Next) -> Settlement {
    let ended = match next {
        Next::Owed(_) => None,
        Next::Ended(ended) => Some(ended),
    };
    let number = owed.standing.entries + 1;
    let entry = Entry { delivery: owed.seq, number, at: now(), kind, ended };
    Settlement { owed: *owed, entry, next }
}

pub fn ended() -> Next {
    Next::Ended(Ended::Delivered)
}

/// After one more failed attempt, due at this time.
pub fn retry(owed: &Owed, due: Timestamp) -> (Settlement, Owed) {
    let standing = Standing {
        attempts: owed.standing.attempts + 1,
        entries: owed.standing.entries + 1,
        due: Some(due),
    };
    (attempt(owed, Class::Status, Next::Owed(standing)), Owed { standing, ..*owed })
}

pub fn new_events(appended: &[Appended]) -> Vec<Arc<Event>> {
    let new = |it: &Appended| match it {
        Appended::New(event) => Some(event.clone()),
        Appended::Duplicate { .. } => None,
    };
    appended.iter().filter_map(new).collect()
}

/// Of the new events, or of those that were first.
pub fn ids(appended: &[Appended]) -> Vec<EventId> {
    let id = |it: &Appended| match it {
        Appended::New(event) => event.id,
        Appended::Duplicate { id, .. } => *id,
    };
    appended.iter().map(id).collect()
}

pub fn seqs(appended: &[Appended]) -> Vec<u64> {
    new_events(appended).iter().map(|it| it.seq.0).collect()
}
