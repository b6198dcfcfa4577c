//! Pipelines: what they plan for an event, and that the loop plans each event once, in order.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
};

use async_trait::async_trait;
use jiff::{SignedDuration, Timestamp};
use proptest::prelude::*;
use serde_json::json;
use tidegate::{
    catalog::{Catalog, Edit, Resource},
    clock::ManualClock,
    crypto::{SeededRandom, Vault},
    hint::{self, Hint},
    model::{
        DeliverySeq, Event, EventId, EventSeq, Lane, Message, NewEvent, Owed, Plan, ProjectId,
        RawJson, SourceId,
    },
    pipeline::{self, Compiled, Options, Parts},
    resources::{self, File, Means},
    store::{
        Appended, Backlog, Database, Health, OwedQuery, ReplayStep, Result, Settlement, Store,
        StoreError,
    },
};
use tokio::sync::watch;

use crate::{
    harness::PATIENCE,
    store::home::{Home, SqliteHome, on_sqlite},
};

const FILE: &str = r#"
version: 1
project: acme
sources:
  - { name: app, kind: api }
  - { name: web, kind: api }
destinations:
  - { name: crm, kind: webhook, url: "https://crm.acme.com/", ordering: { key: payload.user_id } }
  - { name: slack, kind: webhook, url: "https://slack.acme.com/", ordering: fifo }
  - { name: warehouse, kind: webhook, url: "https://warehouse.acme.com/" }
pipelines:
  - name: signups
    on: ["user.signed_up"]
    when: payload.plan != "internal"
    steps:
      - filter.match: payload.feature in ["export", "api", "webhook"]
    routes:
      - to: crm
        steps: [ { map: { email: "{{ payload.email }}", plan: "{{ payload.plan }}", no: "{{ payload.no }}" } } ]
      - to: slack
        when: payload.plan == "scale"
      - to: warehouse
  - name: everything
    on: ["user.*", "order.*"]
    sources: [web]
    routes:
      - to: warehouse
        when: payload.total + 1 > 10
"#;

/// The catalogue of a file.
fn catalog(text: &str) -> Catalog {
    let vault = Vault::ephemeral(Arc::new(SeededRandom::new(1)));
    let means = Means { vault: &vault, random: &SeededRandom::new(2), now: Timestamp::UNIX_EPOCH };
    let file = File::read("test.yaml", text, &|_| None).unwrap_or_else(|error| panic!("{error}"));
    let mut catalog = Catalog::default();
    let planned = resources::plan(&file, &catalog, means, false);
    for edit in planned.unwrap_or_else(|error| panic!("{error}")).edits {
        let Edit::Put(resource) = edit else { panic!("a first file deletes nothing") };
        match resource {
            Resource::Project(it) => drop(catalog.projects.insert(it.id, Arc::new(it))),
            Resource::Source(it) => drop(catalog.sources.insert(it.id, Arc::new(it))),
            Resource::Destination(it) => drop(catalog.destinations.insert(it.id, Arc::new(it))),
            Resource::Pipeline(it) => drop(catalog.pipelines.insert(it.id, Arc::new(it))),
            Resource::EventType(it) => drop(catalog.event_types.insert(it.id, Arc::new(it))),
            Resource::Key(_) | Resource::Replay(_) => panic!("a file holds no such thing"),
        }
    }
    catalog
}

fn project_of(catalog: &Catalog) -> ProjectId {
    catalog.project_named("acme").unwrap().id
}

fn source_of(catalog: &Catalog, name: &str) -> SourceId {
    catalog.source_named(project_of(catalog), name).unwrap().id
}

fn event(
    catalog: &Catalog,
    source: &str,
    event_type: &str,
    payload: serde_json::Value,
) -> Arc<Event> {
    Arc::new(Event {
        seq: EventSeq(1),
        id: EventId::new(Timestamp::UNIX_EPOCH, 1, 99),
        project: project_of(catalog),
        source: source_of(catalog, source),
        event_type: event_type.parse().unwrap(),
        timestamp: Timestamp::from_second(1_700_000_000).unwrap(),
        received_at: Timestamp::UNIX_EPOCH,
        key: None,
        metadata: RawJson::of(&json!({})),
        payload: RawJson::of(&payload),
    })
}

/// A plan as people would tell it: `signups → crm`, and `everything → warehouse by when: …`.
fn told(plan: &Plan, catalog: &Catalog) -> (Vec<String>, Vec<String>) {
    let deliveries = plan.deliveries.iter().map(|it| {
        let pipeline = &catalog.pipelines[&it.pipeline].name;
        format!("{pipeline} → {}", catalog.destinations[&it.destination].name)
    });
    let skipped = plan.skipped.iter().map(|it| {
        let mut text = it.pipeline.as_ref().map_or("event".to_owned(), ToString::to_string);
        if let Some(route) = &it.route {
            text += &format!(" → {route}");
        }
        format!("{text} by {}: {}", it.by, it.reason)
    });
    (deliveries.collect(), skipped.collect())
}

#[test]
fn every_route_whose_condition_holds_gets_a_delivery_and_the_rest_a_reason() {
    let catalog = catalog(FILE);
    let compiled = Compiled::of(&catalog, &Compiled::default());
    let check =
        |source: &str, event_type: &str, payload: serde_json::Value, to: &[&str], not: &[&str]| {
            let plan = pipeline::plan(&event(&catalog, source, event_type, payload), &compiled);
            let (deliveries, skipped) = told(&plan, &catalog);
            assert_eq!(
                (deliveries, skipped),
                (
                    to.iter().map(|it| (*it).to_owned()).collect(),
                    not.iter().map(|it| (*it).to_owned()).collect()
                )
            );
        };
    check(
        "app",
        "user.signed_up",
        json!({"plan": "scale", "feature": "api"}),
        &["signups → crm", "signups → slack", "signups → warehouse"],
        &[],
    );
    check(
        "app",
        "user.signed_up",
        json!({"plan": "pro", "feature": "api"}),
        &["signups → crm", "signups → warehouse"],
        &["signups → slack by when: `payload.plan == \"scale\"` does not hold"],
    );
    check(
        "app",
        "user.signed_up",
        json!({"plan": "internal", "feature": "api"}),
        &[],
        &["signups by when: `payload.plan != \"internal\"` does not hold"],
    );
    // A missing plan is another than `internal`; a missing feature is in no list.
    check(
        "app",
        "user.signed_up",
        json!({}),
        &[],
        &[
            "signups by filter.match: `payload.feature in [\"export\", \"api\", \"webhook\"]` does not hold",
        ],
    );
    check(
        "app",
        "order.made",
        json!({}),
        &[],
        &["event by trigger: no pipeline is triggered by this event"],
    );
    // One destination, wanted by two pipelines, gets two deliveries.
    check(
        "web",
        "user.signed_up",
        json!({"plan": "pro", "feature": "api", "total": 20}),
        &["signups → crm", "signups → warehouse", "everything → warehouse"],
        &["signups → slack by when: `payload.plan == \"scale\"` does not hold"],
    );
    check(
        "web",
        "order.made",
        json!({"total": "many"}),
        &[],
        &[
            "everything → warehouse by when: could not be evaluated: `+` takes numbers, not string and number",
        ],
    );
    check(
        "web",
        "orders",
        json!({}),
        &[],
        &["event by trigger: no pipeline is triggered by this event"],
    );
}

#[test]
fn a_step_of_a_route_changes_the_copy_of_that_route_only() {
    let catalog = catalog(FILE);
    let compiled = Compiled::of(&catalog, &Compiled::default());
    let payload = json!({"plan": "scale", "feature": "api", "email": "a@b.co"});
    let event = event(&catalog, "app", "user.signed_up", payload);
    let before = event.payload.clone();
    let plan = pipeline::plan(&event, &compiled);
    let copies: Vec<_> =
        plan.deliveries.iter().map(|it| it.copy.as_ref().map(RawJson::as_str)).collect();
    assert_eq!(copies, [Some(r#"{"email":"a@b.co","plan":"scale"}"#), None, None]);
    assert_eq!(event.payload, before);
}

#[test]
fn a_delivery_stands_where_its_destinations_ordering_says() {
    let catalog = catalog(FILE);
    let compiled = Compiled::of(&catalog, &Compiled::default());
    let places = |user: serde_json::Value| {
        let payload = json!({"plan": "scale", "feature": "api", "user_id": user});
        let event = event(&catalog, "app", "user.signed_up", payload);
        let plan = pipeline::plan(&event, &compiled);
        // A replay finds the same place again.
        for delivery in &plan.deliveries {
            let placing =
                pipeline::Placing::of(&catalog.destinations[&delivery.destination], &catalog);
            assert_eq!(placing.place(&event), delivery.place);
        }
        [0, 1, 2].map(|it| plan.deliveries[it].place)
    };
    let [crm, slack, warehouse] = places(json!("u1"));
    assert_eq!(
        (crm.position, slack.position, warehouse.position),
        (1_700_000_000_000, 1_700_000_000_000, 0)
    );
    assert_eq!(warehouse.lane, Lane::NONE);
    let [other_crm, other_slack, _] = places(json!("u2"));
    assert_eq!(slack.lane, other_slack.lane);
    assert_ne!(crm.lane, other_crm.lane);
    assert_eq!(crm.lane, places(json!("u1"))[0].lane);
    assert_ne!(crm.lane, Lane::NONE);
}

#[test]
fn a_destination_that_is_gone_is_a_reason_and_stops_nothing_else() {
    let mut catalog = catalog(FILE);
    let slack = catalog.destination_named(project_of(&catalog), "slack").unwrap().id;
    catalog.destinations.remove(&slack);
    let compiled = Compiled::of(&catalog, &Compiled::default());
    let event =
        event(&catalog, "app", "user.signed_up", json!({"plan": "scale", "feature": "api"}));
    let (deliveries, skipped) = told(&pipeline::plan(&event, &compiled), &catalog);
    assert_eq!(deliveries, ["signups → crm", "signups → warehouse"]);
    assert_eq!(skipped, ["signups → slack by route: there is no destination `slack`"]);
}

#[test]
fn a_damaged_pipeline_says_so_and_stops_no_other() {
    let mut catalog = catalog(FILE);
    let id = *catalog.pipelines.keys().next().unwrap();
    let mut damaged = (*catalog.pipelines[&id]).clone();
    damaged.when = Some("payload.plan ==".to_owned());
    catalog.pipelines.insert(id, Arc::new(damaged));
    let compiled = Compiled::of(&catalog, &Compiled::default());
    let event = event(&catalog, "web", "user.signed_up", json!({"total": 20}));
    let (deliveries, skipped) = told(&pipeline::plan(&event, &compiled), &catalog);
    assert_eq!(deliveries, ["everything → warehouse"]);
    assert!(
        skipped[0]
            .starts_with("signups by pipeline: the pipeline does not compile: when: must have"),
        "{skipped:?}"
    );
}

#[test]
fn a_disabled_pipeline_wants_nothing() {
    let catalog =
        catalog(&FILE.replace("  - name: signups\n", "  - name: signups\n    enabled: false\n"));
    let compiled = Compiled::of(&catalog, &Compiled::default());
    let event =
        event(&catalog, "app", "user.signed_up", json!({"plan": "scale", "feature": "api"}));
    let plan = pipeline::plan(&event, &compiled);
    assert_eq!((plan.deliveries.len(), &*plan.skipped[0].by), (0, "trigger"));
}

proptest! {
    #[test]
    fn planning_twice_gives_the_same_plan(
        plan in prop::sample::select(vec![json!("scale"), json!("pro"), json!("internal"), json!(null), json!(5)]),
        feature in prop::sample::select(vec![json!("api"), json!("other"), json!(["api"])]),
        user in "[a-z]{0,3}",
        total in any::<f64>(),
        source in prop::sample::select(vec!["app", "web"]),
    ) {
        let catalog = catalog(FILE);
        let payload = json!({"plan": plan, "feature": feature, "user_id": user, "total": total});
        let event = event(&catalog, source, "user.signed_up", payload);
        let first = pipeline::plan(&event, &Compiled::of(&catalog, &Compiled::default()));
        // Also after a restart, and with what was compiled before.
        let once = Compiled::of(&catalog, &Compiled::default());
        let second = pipeline::plan(&event, &Compiled::of(&catalog, &once));
        prop_assert_eq!(format!("{:?}", first.deliveries), format!("{:?}", second.deliveries));
        prop_assert_eq!(first.skipped, second.skipped);
    }
}

/// What happens to a call of `Store::plan`.
#[derive(Clone, Copy, PartialEq)]
enum Fate {
    Works,
    /// Nothing is kept.
    Fails,
    /// It is kept, but nobody hears of it.
    Vanishes,
}

/// A real store whose calls fail where the test says so.
struct Stumbling {
    inner: Arc<dyn Database>,
    fates: Mutex<VecDeque<Fate>>,
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
        let fates = Mutex::new(fates.iter().copied().collect());
        let (runner, planned) = pipeline::runner(Parts {
            store: Arc::new(Stumbling { inner: opened.store.clone(), fates }),
            clock: opened.clock.clone(),
            catalog: watched,
            events: opened.accepted,
            deliveries,
            stop: stopped,
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

fn new_event(catalog: &Catalog, payload: &str) -> NewEvent {
    NewEvent {
        id: None,
        project: project_of(catalog),
        source: source_of(catalog, "app"),
        event_type: "a.b".parse().unwrap(),
        timestamp: None,
        received_at: Timestamp::UNIX_EPOCH,
        key: None,
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
    let mut line = Line::start(&home, &[], Options { batch: 7, in_flight: 3 }).await;
    for start in (0..300).step_by(10) {
        line.append(start..start + 10).await;
    }
    line.until_planned(300).await;
    assert_eq!(line.store.backlog().await.unwrap()[0].owed, 299);
    assert_eq!(line.stop().await, all_but_13(0..300));
}

#[tokio::test]
async fn what_was_accepted_before_the_start_is_planned_first() {
    // Given events that no loop has seen
    let home = on_sqlite();
    let opened = home.open().await;
    let catalog = catalog(SIMPLE);
    let large = "x".repeat(3_000_000);
    for number in 0..40 {
        let payload = if number == 5 {
            json!({"number": 5, "large": large})
        } else {
            json!({"number": number})
        };
        opened.store.append(vec![new_event(&catalog, &payload.to_string())]).await.unwrap();
    }
    opened.store.close().await;
    drop(opened);
    // When a loop starts, and more come
    let mut line = Line::start(&home, &[], Options { batch: 4, in_flight: 2 }).await;
    line.append(40..60).await;
    // Then all are planned in order
    line.until_planned(60).await;
    assert_eq!(line.stop().await, all_but_13(0..60));
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
        let mut line = Line::start(&home, fates, Options { batch: 5, in_flight: 4 }).await;
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
    let mut line = Line::start(&home, &[], Options { batch: 3, in_flight: 2 }).await;
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
