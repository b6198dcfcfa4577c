//! The loop, over a real store that fails where a test wants it to.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
};

use async_trait::async_trait;
use jiff::{SignedDuration, Timestamp};
use serde_json::json;
use tidegate::{
    catalog::Catalog,
    clock::ManualClock,
    hint::{self, Hint},
    model::{
        DeliverySeq, Event, EventSeq, Message, NewEvent, Owed, Plan, ProjectId, RawJson, Remembered,
    },
    pipeline::{self, Options, Parts},
    store::{
        Appended, Backlog, Database, Health, OwedQuery, Recording, ReplayStep, Result, Settlement,
        Store, StoreError, WaitingEvent,
    },
};
use tokio::sync::watch;

use super::{catalog, project_of, source_of};
use crate::{
    harness::PATIENCE,
    store::home::{Home, SqliteHome, on_sqlite},
};

/// What happens to a call of `Store::plan`.
#[derive(Clone, Copy, PartialEq)]
pub enum Fate {
    Works,
    /// Nothing is kept.
    Fails,
    /// It is kept, but nobody hears of it.
    Vanishes,
}

/// A real store whose calls fail where the test says so.
pub struct Stumbling {
    inner: Arc<dyn Database>,
    fates: Mutex<VecDeque<Fate>>,
}

impl Stumbling {
    pub fn new(inner: Arc<dyn Database>, fates: &[Fate]) -> Self {
        Self { inner, fates: Mutex::new(fates.iter().copied().collect()) }
    }
}

#[async_trait]
impl Store for Stumbling {
    async fn append(&self, events: Vec<NewEvent>) -> Result<Vec<Appended>> {
        self.inner.append(events).await
    }

    async fn unplanned(&self, after: EventSeq, limit: usize) -> Result<Vec<Arc<Event>>> {
        self.inner.unplanned(after, limit).await
    }

    async fn plan(&self, plans: Vec<Plan>) -> Result<Vec<Owed>> {
        let fate = self.fates.lock().unwrap().pop_front().unwrap_or(Fate::Works);
        let unavailable = || StoreError::Unavailable("as the test wants".into());
        if fate == Fate::Fails {
            return Err(unavailable());
        }
        let owed = self.inner.plan(plans).await?;
        if fate == Fate::Works { Ok(owed) } else { Err(unavailable()) }
    }

    async fn waiting(&self, after: EventSeq, limit: usize) -> Result<Vec<WaitingEvent>> {
        self.inner.waiting(after, limit).await
    }

    async fn memories(&self) -> Result<Vec<Remembered>> {
        self.inner.memories().await
    }

    async fn remember(&self, changes: Vec<Remembered>) -> Result<()> {
        self.inner.remember(changes).await
    }

    async fn record(&self, recording: Recording) -> Result<Arc<Event>> {
        self.inner.record(recording).await
    }

    async fn settle(&self, settlements: Vec<Settlement>) -> Result<()> {
        self.inner.settle(settlements).await
    }

    async fn owed(&self, query: OwedQuery) -> Result<Vec<Owed>> {
        self.inner.owed(query).await
    }

    async fn backlog(&self) -> Result<Vec<Backlog>> {
        self.inner.backlog().await
    }

    async fn messages(&self, deliveries: &[DeliverySeq]) -> Result<Vec<Message>> {
        self.inner.messages(deliveries).await
    }

    async fn replay(&self, step: ReplayStep) -> Result<Vec<Owed>> {
        self.inner.replay(step).await
    }

    async fn prune(&self, horizons: &[(ProjectId, Timestamp)]) -> Result<u64> {
        self.inner.prune(horizons).await
    }

    fn health(&self) -> Health {
        self.inner.health()
    }

    async fn close(&self) {
        self.inner.close().await;
    }
}

const SIMPLE: &str = r#"
version: 1
project: acme
sources: [ { name: app, kind: api } ]
destinations: [ { name: sink, kind: webhook, url: "https://a.co/" } ]
pipelines:
  - name: all
    routes:
      - { to: sink, when: payload.number != 13, steps: [ { map: { n: "{{ payload.number }}" } } ] }
"#;

/// A loop over a store, with the receiving end of what it hands on.
struct Line {
    store: Arc<dyn Database>,
    catalog: Arc<Catalog>,
    clock: Arc<ManualClock>,
    planned: watch::Receiver<EventSeq>,
    stop: watch::Sender<bool>,
    handed: hint::Receiver<Vec<(Owed, Message)>, bool>,
    running: tokio::task::JoinHandle<()>,
}

impl Line {
    async fn start(home: &SqliteHome, fates: &[Fate], options: Options) -> Self {
        let opened = home.open().await;
        let catalog = Arc::new(catalog(SIMPLE));
        let (_, watched) = watch::channel(catalog.clone());
        let (deliveries, handed) = hint::channel(10_000);
        let (stop, stopped) = watch::channel(false);
        let (runner, planned) = pipeline::runner(Parts {
            store: Arc::new(Stumbling::new(opened.store.clone(), fates)),
            clock: opened.clock.clone(),
            catalog: watched,
            events: opened.accepted,
            lookups: Arc::new(pipeline::NoLookups),
            deliveries,
            stop: stopped,
            tools: super::tools(),
            options,
        });
        let running = tokio::spawn(runner.run());
        Self { store: opened.store, catalog, clock: opened.clock, planned, stop, handed, running }
    }

    async fn append(&self, numbers: std::ops::Range<u64>) {
        let events = numbers.map(|it| new_event(&self.catalog, &json!({"number": it}).to_string()));
        self.store.append(events.collect()).await.unwrap();
    }

    /// Waits until everything up to here is planned, and lets time pass as far as the loop waits for it.
    async fn until_planned(&mut self, through: u64) {
        let (clock, planned) = (self.clock.clone(), &mut self.planned);
        let waited = tokio::time::timeout(PATIENCE, async {
            while planned.borrow_and_update().0 < through {
                tokio::select! {
                    changed = planned.changed() => changed.expect("the loop has ended"),
                    () = tokio::task::yield_now() => clock.advance(SignedDuration::from_secs(1)),
                }
            }
        });
        waited.await.expect("the events were not planned in time");
    }

    /// The numbers of the events that were handed on, in order.
    async fn stop(mut self) -> Vec<u64> {
        self.stop.send_replace(true);
        self.running.await.unwrap();
        let mut numbers = Vec::new();
        while let Some(hint) = self.handed.try_receive() {
            let Hint::Some(deliveries) = hint else { panic!("there was room for all") };
            for (owed, message) in deliveries {
                assert_eq!((owed.seq, owed.seq.event()), (message.seq, message.event.seq));
                numbers.push(message.payload().to_value()["n"].as_u64().unwrap());
            }
        }
        self.store.close().await;
        numbers
    }
}

pub fn new_event(catalog: &Catalog, payload: &str) -> NewEvent {
    NewEvent {
        id: None,
        project: project_of(catalog),
        source: source_of(catalog, "app"),
        event_type: "a.b".parse().unwrap(),
        timestamp: None,
        received_at: Timestamp::UNIX_EPOCH,
        key: None,
        key_counts_for: None,
        metadata: RawJson::of(&json!({})),
        payload: RawJson::parse(payload.to_owned()).unwrap(),
    }
}

fn all_but_13(numbers: std::ops::Range<u64>) -> Vec<u64> {
    numbers.filter(|it| *it != 13).collect()
}

#[tokio::test]
async fn each_event_is_planned_once_in_order_and_handed_on() {
    let home = on_sqlite();
    let mut line =
        Line::start(&home, &[], Options { batch: 7, in_flight: 3, ..Options::default() }).await;
    for start in (0..300).step_by(10) {
        line.append(start..start + 10).await;
    }
    line.until_planned(300).await;
    assert_eq!(line.store.backlog().await.unwrap()[0].owed, 299);
    assert_eq!(line.stop().await, all_but_13(0..300));
}

#[tokio::test]
async fn events_accepted_before_a_start_are_planned_first() {
    // Given events that no loop has seen
    let home = on_sqlite();
    let opened = home.open().await;
    let catalog = catalog(SIMPLE);
    let events = (0..40).map(|it| new_event(&catalog, &json!({"number": it}).to_string()));
    opened.store.append(events.collect()).await.unwrap();
    opened.store.close().await;
    drop(opened);
    // When a loop starts, and more come
    let mut line =
        Line::start(&home, &[], Options { batch: 4, in_flight: 2, ..Options::default() }).await;
    line.append(40..60).await;
    // Then all are planned in order
    line.until_planned(60).await;
    assert_eq!(line.stop().await, all_but_13(0..60));
}

#[tokio::test]
async fn large_events_that_come_fewer_at_a_time_are_all_planned() {
    // Given more bytes than the store reads at once, and nothing behind them that would wake the loop
    let home = on_sqlite();
    let opened = home.open().await;
    let catalog = catalog(SIMPLE);
    let large = "x".repeat(900_000);
    for number in 0..30 {
        let payload = json!({"number": number, "large": large}).to_string();
        opened.store.append(vec![new_event(&catalog, &payload)]).await.unwrap();
    }
    opened.store.close().await;
    drop(opened);
    // When a loop starts
    let mut line = Line::start(&home, &[], Options::default()).await;
    // Then it goes on until there are none
    line.until_planned(30).await;
    assert_eq!(line.stop().await, all_but_13(0..30));
}

#[tokio::test]
async fn a_store_that_stumbles_loses_no_event_and_doubles_none() {
    use Fate::{Fails, Vanishes, Works};
    for fates in [
        &[Fails][..],
        &[Vanishes],
        &[Works, Fails, Works, Fails],
        &[Works, Vanishes, Works, Vanishes, Fails, Fails],
        &[Fails, Vanishes, Fails, Vanishes, Vanishes],
        &[Works, Works, Vanishes, Fails, Works, Vanishes],
    ] {
        let home = on_sqlite();
        let mut line =
            Line::start(&home, fates, Options { batch: 5, in_flight: 4, ..Options::default() })
                .await;
        for start in (0..100).step_by(20) {
            line.append(start..start + 20).await;
        }
        line.until_planned(100).await;
        assert_eq!(line.store.backlog().await.unwrap()[0].owed, 99);
        let mut handed = line.stop().await;
        // What was kept without a word is handed on when it is found, which may be a little late.
        handed.sort_unstable();
        assert_eq!(handed, all_but_13(0..100));
    }
}

#[tokio::test]
async fn a_loop_that_stops_leaves_the_rest_to_the_next_one() {
    let home = on_sqlite();
    let mut line =
        Line::start(&home, &[], Options { batch: 3, in_flight: 2, ..Options::default() }).await;
    line.append(0..10).await;
    line.until_planned(3).await;
    let first = line.stop().await;
    let opened = home.open().await;
    let catalog = catalog(SIMPLE);
    let events = (10..30).map(|it| new_event(&catalog, &json!({"number": it}).to_string()));
    opened.store.append(events.collect()).await.unwrap();
    opened.store.close().await;
    drop(opened);
    let mut line = Line::start(&home, &[], Options::default()).await;
    line.until_planned(30).await;
    let second = line.stop().await;
    assert_eq!([first, second].concat(), all_but_13(0..30));
}
