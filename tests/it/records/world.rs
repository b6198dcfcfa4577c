//! A store with a long history, and a plain account of the same history to compare it with.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use async_trait::async_trait;
use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use tempfile::TempDir;
use tidegate::{
    model::{
        Altered, Class, DeliverySeq, DeliveryState, Ended, Entry, EntryKind, Event, EventSeq, Lane,
        NewEvent, Outcome, Owed, PipelineId, Place, Plan, PlannedDelivery, ProjectId, RawJson,
        ReplayId, Skipped, Snippet, SourceId, Standing, TypeName,
    },
    store::{
        Database, Next, ReplayItem, ReplayStep, Settlement,
        postgres::{Address, PostgresStore},
        sqlite::{Options, SqliteStore},
    },
};

use crate::{
    harness::cluster::shared,
    store::home::{destinations, event, new_events, now, postgres, projects, small, sqlite},
};

/// What became of an event.
#[derive(Clone)]
pub struct Told {
    pub event: Arc<Event>,
    pub plan: Option<Vec<Skipped>>,
}

/// What became of a delivery.
#[derive(Clone)]
pub struct Due {
    pub owed: Owed,
    pub entries: Vec<Entry>,
    pub replay: Option<ReplayId>,
    pub copy: Option<Arc<Altered>>,
}

impl Due {
    pub fn state(&self) -> DeliveryState {
        match self.entries.iter().find_map(|it| it.ended) {
            Some(ended) => ended.into(),
            None if self.owed.standing.attempts == 0 => DeliveryState::Pending,
            None => DeliveryState::Retrying,
        }
    }
}

/// A database that can have a long history.
#[async_trait]
pub trait Lived: Database + Sized + 'static {
    /// Where it is found again.
    type Home: Send + Sync;

    /// A world with a new one.
    async fn begin(seed: u64) -> World<Self>;

    /// The process ends without closing anything, and the next one starts.
    async fn lose(world: World<Self>) -> World<Self>;
}

#[async_trait]
impl Lived for SqliteStore {
    type Home = TempDir;

    async fn begin(seed: u64) -> World<Self> {
        World::new(seed)
    }

    async fn lose(world: World<Self>) -> World<Self> {
        world.crash()
    }
}

#[async_trait]
impl Lived for PostgresStore {
    type Home = Address;

    async fn begin(seed: u64) -> World<Self> {
        let address = shared().prepared();
        let (store, _, _) = postgres(&address, 1).await.unwrap();
        World::of(seed, address, store)
    }

    async fn lose(mut world: World<Self>) -> World<Self> {
        world.store = postgres(&world.home, 1).await.unwrap().0;
        world
    }
}

pub struct World<S: Lived = SqliteStore> {
    pub home: S::Home,
    pub store: Arc<S>,
    pub events: BTreeMap<EventSeq, Told>,
    pub deliveries: BTreeMap<DeliverySeq, Due>,
    pub replayed: u64,
    planned: u64,
    offered: u64,
    random: u64,
}

pub const PROJECTS: [u128; 3] = [1, 2, 3];
pub const TYPES: [&str; 4] = ["user.signed_up", "user.left", "order.placed", "user"];
pub const REPLAY: ReplayId = ReplayId::from_bits(0x500);

fn options() -> Options {
    Options { segment_events: 40, ..small() }
}

impl World {
    /// A new one on the embedded store. The same seed makes the same history.
    pub fn new(seed: u64) -> Self {
        let folder = TempDir::new().unwrap();
        let (store, _, _) = sqlite(folder.path(), options()).unwrap();
        Self::of(seed, folder, store)
    }

    /// The process ends without closing anything, and the next one starts.
    pub fn crash(mut self) -> Self {
        // The folder is open once at a time, so the old store must be gone before.
        let empty = TempDir::new().unwrap();
        let (stand_in, _, _) = sqlite(empty.path(), options()).unwrap();
        drop(std::mem::replace(&mut self.store, stand_in));
        self.store = sqlite(self.home.path(), options()).unwrap().0;
        self
    }
}

impl<S: Lived> World<S> {
    fn of(seed: u64, home: S::Home, store: Arc<S>) -> Self {
        Self {
            home,
            store,
            events: BTreeMap::new(),
            deliveries: BTreeMap::new(),
            replayed: 0,
            planned: 0,
            offered: 0,
            random: seed | 1,
        }
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random % bound
    }

    /// Accepts events of any project, of about the same time.
    pub async fn accept(&mut self, count: u64) {
        let of_any = |world: &mut Self| PROJECTS[world.below(3) as usize];
        let projects = (0..count).map(|_| of_any(self)).collect();
        self.accept_of(projects).await;
    }

    /// Accepts one event of each of these projects, in one call.
    pub async fn accept_of(&mut self, of: Vec<u128>) {
        let mut offered = Vec::new();
        for project in of {
            offered.push(self.offer(projects(project)));
        }
        let accepted = new_events(&self.store.append(offered).await.unwrap());
        for event in accepted {
            self.events.insert(event.seq, Told { event, plan: None });
        }
    }

    fn offer(&mut self, project: ProjectId) -> NewEvent {
        let number = self.offered;
        self.offered += 1;
        let event_type = TYPES[self.below(TYPES.len() as u64) as usize];
        // A minute after the last one, more or less: clocks step back.
        let minutes = number as i64 + self.below(5) as i64 - 2;
        NewEvent {
            project,
            source: SourceId::from_bits(0x300 + u128::from(self.below(2))),
            event_type: TypeName::trusted(event_type),
            received_at: now() + SignedDuration::from_mins(minutes),
            key: self.below(2).eq(&0).then(|| format!("key {number}").parse().unwrap()),
            key_counts_for: None,
            metadata: RawJson::trusted(format!("{{\"number\": {number}}}")),
            ..event(&format!("{{\"a\": {number}.50, \"text\": \"{}\"}}", "x".repeat(50)))
        }
    }

    /// Plans the next events, some of them for nobody.
    pub async fn plan(&mut self, count: u64) {
        for _ in 0..count {
            let next = EventSeq(self.planned + 1);
            let Some(told) = self.events.get(&next) else { return };
            let event = told.event.clone();
            let mut plan = Plan::of(&event);
            for place in 0..self.below(4) {
                let copy = self
                    .below(3)
                    .eq(&0)
                    .then(|| Arc::new(Altered::payload(RawJson::trusted(format!("[{place}]")))));
                plan.deliveries.push(PlannedDelivery {
                    destination: destination_of(&event, u128::from(self.below(2))),
                    pipeline: PipelineId::from_bits(0x400),
                    pipeline_version: 3,
                    place: Place { lane: Lane(place), position: 7 },
                    copy,
                    dead: None,
                });
            }
            if self.below(2) == 0 {
                plan.skipped.push(Skipped {
                    pipeline: None,
                    pipeline_version: None,
                    route: None,
                    by: "trigger".to_owned(),
                    reason: format!("not wanted: {}", next.0),
                });
            }
            let owed = self.store.plan(vec![plan.clone()]).await.unwrap();
            self.planned += 1;
            if let Some(told) = self.events.get_mut(&next) {
                told.plan = Some(plan.skipped);
            }
            for (owed, planned) in owed.into_iter().zip(plan.deliveries) {
                let due = Due { owed, entries: vec![], replay: None, copy: planned.copy };
                self.deliveries.insert(owed.seq, due);
            }
        }
    }

    /// Lets something happen to deliveries that are owed.
    pub async fn settle(&mut self, count: u64) {
        for _ in 0..count {
            let open: Vec<DeliverySeq> = self.open().collect();
            if open.is_empty() {
                return;
            }
            let seq = open[self.below(open.len() as u64) as usize];
            let what = self.below(8);
            self.settle_one(seq, what).await;
        }
    }

    /// Ends all that is owed of these events.
    pub async fn end(&mut self, of: impl Fn(&Event) -> bool) {
        let open: Vec<DeliverySeq> =
            self.open().filter(|it| of(&self.events[&it.event()].event)).collect();
        for seq in open {
            self.settle_one(seq, 7).await;
        }
    }

    pub fn open(&self) -> impl Iterator<Item = DeliverySeq> {
        let is_open = |it: &&Due| it.entries.iter().all(|it| it.ended.is_none());
        self.deliveries.values().filter(is_open).map(|it| it.owed.seq)
    }

    async fn settle_one(&mut self, seq: DeliverySeq, what: u64) {
        let owed = self.deliveries[&seq].owed;
        let Standing { attempts, entries, .. } = owed.standing;
        let at = now() + SignedDuration::from_mins(self.events.len() as i64);
        let outcome = |class, status| Outcome {
            class,
            status,
            reason: if class == Class::Accepted { "200 OK" } else { "no" }.to_owned(),
            retry_after: None,
            duration: std::time::Duration::from_millis(42),
            response: Snippet::of(&Bytes::from_static(b"hello")),
        };
        let attempt = |class, status| EntryKind::Attempt {
            number: attempts + 1,
            outcome: outcome(class, status),
        };
        let note = EntryKind::Note { reason: "because".to_owned() };
        let (kind, ended) = match what {
            0 | 1 => (attempt(Class::Status, Some(503)), None),
            2 => (attempt(Class::Timeout, None), None),
            3 => (attempt(Class::Gone, Some(410)), Some(Ended::Dead)),
            4 => (note, Some(Ended::Expired)),
            5 => (note, Some(Ended::Cancelled)),
            _ => (attempt(Class::Accepted, Some(200)), Some(Ended::Delivered)),
        };
        let is_attempt = matches!(kind, EntryKind::Attempt { .. });
        let standing = Standing {
            attempts: attempts + u16::from(is_attempt),
            entries: entries + 1,
            due: Some(at + SignedDuration::from_mins(1)),
        };
        let entry = Entry { delivery: seq, number: entries + 1, at, kind, ended };
        let next = ended.map_or(Next::Owed(standing), Next::Ended);
        let settlement = Settlement { owed, entry: entry.clone(), next };
        self.store.settle(vec![settlement]).await.unwrap();
        if let Some(due) = self.deliveries.get_mut(&seq) {
            due.entries.push(entry);
            due.owed.standing = standing;
        }
    }

    /// Replays events of any age.
    pub async fn replay(&mut self, count: u64) {
        for _ in 0..count {
            if self.planned > 0 {
                let seq = EventSeq(1 + self.below(self.planned));
                self.replay_one(seq).await;
            }
        }
    }

    /// Makes a new delivery of an event, if that is still there.
    pub async fn replay_one(&mut self, seq: EventSeq) {
        let Some(told) = self.events.get(&seq) else { return };
        let step = step_for(&told.event);
        for owed in self.store.replay(step).await.unwrap() {
            let due = Due { owed, entries: vec![], replay: Some(REPLAY), copy: None };
            self.deliveries.insert(owed.seq, due);
            self.replayed += 1;
        }
    }

    /// A history over many segments, in which rows about an event are all over the place.
    pub async fn live(&mut self, rounds: u64) {
        for _ in 0..rounds {
            let (some, more) = (self.below(20), self.below(15));
            self.accept(1 + some).await;
            self.plan(some).await;
            self.settle(more).await;
            self.replay(some / 4).await;
        }
    }

    /// The same history in another store, where events have other places.
    pub fn moved<T: Lived>(
        self,
        home: T::Home,
        store: Arc<T>,
        places: &BTreeMap<EventSeq, EventSeq>,
    ) -> World<T> {
        let place = |it: DeliverySeq| DeliverySeq::new(places[&it.event()], it.ordinal());
        let told = |(seq, mut told): (EventSeq, Told)| {
            let event = Event { seq: places[&seq], ..Event::clone(&told.event) };
            told.event = Arc::new(event);
            (places[&seq], told)
        };
        let due = |(seq, mut due): (DeliverySeq, Due)| {
            due.owed.seq = place(seq);
            due.entries.iter_mut().for_each(|it| it.delivery = place(seq));
            (place(seq), due)
        };
        World {
            events: self.events.into_iter().map(told).collect(),
            deliveries: self.deliveries.into_iter().map(due).collect(),
            replayed: self.replayed,
            ..World::of(self.random, home, store)
        }
    }

    /// What the store still has, by what it says itself.
    pub fn keep_only(&mut self, present: &BTreeSet<EventSeq>) {
        self.events.retain(|seq, _| present.contains(seq));
        self.deliveries.retain(|seq, _| present.contains(&seq.event()));
    }

    pub fn last_time(&self) -> Timestamp {
        self.events.values().map(|it| it.event.received_at).max().unwrap_or(now())
    }
}

/// Each project has destinations of its own.
pub fn destination_of(event: &Event, number: u128) -> tidegate::model::DestinationId {
    let project = PROJECTS.iter().find(|it| projects(**it) == event.project).unwrap();
    destinations(project * 10 + number)
}

/// A step that makes one new delivery of this event.
pub fn step_for(event: &Event) -> ReplayStep {
    let item = ReplayItem {
        event: event.seq,
        destination: destination_of(event, 1),
        place: Place { lane: Lane::NONE, position: 0 },
        like: None,
        replanned: None,
    };
    let cursor = Some(DeliverySeq::first_of(event.seq));
    ReplayStep { replay: REPLAY, items: vec![item], fresh_ids: false, at: now(), cursor }
}
