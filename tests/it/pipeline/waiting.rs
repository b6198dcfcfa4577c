//! Pipelines that wait for answers: what goes on without them, and in which order they follow.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex},
};

use jiff::SignedDuration;
use serde_json::{Value, json};
use tidegate::{
    catalog::Catalog,
    clock::ManualClock,
    hint::{self, Hint},
    model::{DeliveryState, EventId, Message, Owed, ProjectId, RawJson},
    pipeline::{self, LookupAnswer, LookupFuture, LookupStatus, Lookups, Options, Parts, Question},
    store::{Database, EventRecord},
};
use tokio::sync::watch;

use super::{
    catalog, project_of,
    run::{Fate, Stumbling, new_event},
};
use crate::{
    harness::PATIENCE,
    store::home::{Home, SqliteHome, on_sqlite},
};

/// Knows people whose address begins with `known`, and keeps back who is held. Fails for the rest.
#[derive(Default)]
struct Oracle {
    held: watch::Sender<HashSet<String>>,
    asked: Mutex<HashMap<String, usize>>,
    changed: watch::Sender<u64>,
}

impl Oracle {
    fn hold(&self, names: &[&str]) {
        self.held.send_modify(|it| it.extend(names.iter().map(|it| format!("{it}@a.co"))));
    }

    fn release(&self, name: &str) {
        self.held.send_modify(|it| it.retain(|it| *it != format!("{name}@a.co")));
    }

    async fn asked(&self, name: &str, times: usize) {
        let email = format!("{name}@a.co");
        let asked = || self.asked.lock().unwrap().get(&email).copied().unwrap_or(0) >= times;
        crate::harness::until(self.changed.subscribe(), name, asked).await;
    }
}

/// The same, as the pipelines ask it.
struct Shared(Arc<Oracle>);

impl Lookups for Shared {
    fn ask(&self, _: ProjectId, question: Arc<Question>) -> LookupFuture {
        let Question::Person(person) = &*question else { panic!("only people are asked for") };
        let (oracle, email) = (self.0.clone(), person.email.clone());
        *oracle.asked.lock().unwrap().entry(email.clone()).or_default() += 1;
        oracle.changed.send_modify(|it| *it += 1);
        Box::pin(async move {
            let mut held = oracle.held.subscribe();
            held.wait_for(|it| !it.contains(&email)).await.unwrap();
            if email.starts_with("known") {
                return LookupAnswer::found(RawJson::of(&json!({"company": "Acme"})), "oracle");
            }
            LookupAnswer::failed(LookupStatus::Failed, "oracle", "it does not want to")
        })
    }
}

/// Two pipelines want every event; one of them asks first. `{S}` is what is set on its step.
const FILE: &str = r#"
version: 1
project: acme
sources: [ { name: app, kind: api } ]
destinations:
  - { name: plain, kind: webhook, url: "https://a.co/" }
  - { name: asking, kind: webhook, url: "https://a.co/", ordering: {O} }
pipelines:
  - name: asking
    steps: [ { enrich.person: { email: payload.email {S} } } ]
    routes: [ { to: asking, when: person.status != "gone" } ]
  - name: plain
    routes: [ { to: plain } ]
"#;

struct Line {
    store: Arc<dyn Database>,
    catalog: Arc<Catalog>,
    clock: Arc<ManualClock>,
    oracle: Arc<Oracle>,
    stop: watch::Sender<bool>,
    handed: hint::Receiver<Vec<(Owed, Message)>, bool>,
    running: tokio::task::JoinHandle<()>,
    /// What was handed on, by destination: the names of the events, in order.
    seen: HashMap<String, Vec<String>>,
    bodies: HashMap<String, Value>,
}

impl Line {
    async fn start(home: &SqliteHome, file: &str, fates: &[Fate], options: Options) -> Self {
        let opened = home.open().await;
        let catalog = Arc::new(catalog(file));
        let (_, watched) = watch::channel(catalog.clone());
        let (deliveries, handed) = hint::channel(10_000);
        let (stop, stopped) = watch::channel(false);
        let oracle = Arc::new(Oracle::default());
        let (runner, _) = pipeline::runner(Parts {
            store: Arc::new(Stumbling::new(opened.store.clone(), fates)),
            clock: opened.clock.clone(),
            catalog: watched,
            events: opened.accepted,
            lookups: Arc::new(Shared(oracle.clone())),
            tools: super::tools(),
            deliveries,
            stop: stopped,
            options,
        });
        let running = tokio::spawn(runner.run());
        let (store, clock) = (opened.store, opened.clock);
        let (seen, bodies) = Default::default();
        Self { store, catalog, clock, oracle, stop, handed, running, seen, bodies }
    }

    async fn append(&self, names: &[&str]) -> Vec<EventId> {
        let event = |name: &&str| {
            let payload = json!({"email": format!("{name}@a.co")}).to_string();
            new_event(&self.catalog, &payload)
        };
        let appended = self.store.append(names.iter().map(event).collect()).await.unwrap();
        crate::store::home::ids(&appended)
    }

    /// Waits until a destination was given this many, letting time pass for a store that fails.
    async fn given(&mut self, to: &str, count: usize) -> Vec<String> {
        let clock = self.clock.clone();
        let waited = tokio::time::timeout(PATIENCE, async {
            while self.seen.get(to).map_or(0, Vec::len) < count {
                tokio::select! {
                    hint = self.handed.receive() => self.note(hint.expect("the loop ended")),
                    () = tokio::time::sleep(std::time::Duration::from_millis(1)) => {
                        clock.advance(SignedDuration::from_millis(20));
                    }
                }
            }
        });
        waited.await.unwrap_or_else(|_| panic!("{to} has {:?}", self.seen.get(to)));
        self.seen[to].clone()
    }

    fn note(&mut self, hint: Hint<Vec<(Owed, Message)>, bool>) {
        let Hint::Some(deliveries) = hint else { panic!("there was room for all") };
        for (owed, message) in deliveries {
            assert_eq!(owed.seq, message.seq);
            let body = message.payload().to_value();
            let name = body["email"].as_str().unwrap().trim_end_matches("@a.co").to_owned();
            let to = self.catalog.destinations[&owed.destination].name.to_string();
            if to == "asking" {
                self.bodies.insert(name.clone(), body);
            }
            self.seen.entry(to).or_default().push(name);
        }
    }

    async fn record(&self, event: EventId) -> EventRecord {
        self.store.event(project_of(&self.catalog), event).await.unwrap().unwrap()
    }

    async fn stop(self) {
        self.stop.send_replace(true);
        self.running.await.unwrap();
        self.store.close().await;
    }
}

fn file(settings: &str, ordering: &str) -> String {
    FILE.replace("{S}", settings).replace("{O}", ordering)
}

#[tokio::test]
async fn a_pending_lookup_blocks_only_its_own_plan() {
    // Given an event whose answer does not come, and one behind it
    let home = on_sqlite();
    let mut line = Line::start(&home, &file("", "none"), &[], Options::default()).await;
    line.oracle.hold(&["known-1"]);
    let ids = line.append(&["known-1", "known-2"]).await;
    // Then everything else goes on, and the event says that something waits
    assert_eq!(line.given("plain", 2).await, ["known-1", "known-2"]);
    assert_eq!(line.given("asking", 1).await, ["known-2"]);
    let record = line.record(ids[0]).await;
    assert_eq!((record.deliveries.len(), &*record.skipped[0].by), (1, "waits"));
    // When the answer comes, then its delivery follows, with the answer in its copy
    line.oracle.release("known-1");
    assert_eq!(line.given("asking", 2).await, ["known-2", "known-1"]);
    let expected =
        json!({"email": "known-1@a.co", "person": {"company": "Acme", "status": "found"}});
    assert_eq!(line.bodies["known-1"], expected);
    let record = line.record(ids[0]).await;
    assert_eq!((record.deliveries.len(), record.skipped.len()), (2, 0));
    line.stop().await;
}

#[tokio::test]
async fn in_an_ordered_lane_later_events_wait_behind_who_waits() {
    let home = on_sqlite();
    let mut line = Line::start(&home, &file("", "fifo"), &[], Options::default()).await;
    line.oracle.hold(&["known-1", "known-3"]);
    line.append(&["known-1", "known-2"]).await;
    assert_eq!(line.given("plain", 2).await.len(), 2);
    line.append(&["known-3", "known-4"]).await;
    assert_eq!(line.given("plain", 4).await.len(), 4);
    line.oracle.release("known-1");
    line.given("asking", 2).await;
    line.oracle.release("known-3");
    let expected = ["known-1", "known-2", "known-3", "known-4"];
    assert_eq!(line.given("asking", 4).await, expected);
    line.stop().await;
}

#[tokio::test]
async fn pending_lookups_survive_a_restart_in_order() {
    let home = on_sqlite();
    let mut line = Line::start(&home, &file("", "fifo"), &[], Options::default()).await;
    line.oracle.hold(&["known-1"]);
    line.append(&["known-1", "known-2"]).await;
    assert_eq!(line.given("plain", 2).await.len(), 2);
    line.stop().await;

    let mut line = Line::start(&home, &file("", "fifo"), &[], Options::default()).await;
    line.append(&["known-3"]).await;
    assert_eq!(line.given("plain", 1).await, ["known-3"]);
    assert_eq!(line.given("asking", 3).await, ["known-1", "known-2", "known-3"]);
    line.stop().await;
}

#[tokio::test]
async fn lookups_beyond_the_limit_go_unanswered() {
    let home = on_sqlite();
    let options = Options { waiting: 2, ..Options::default() };
    let mut line = Line::start(&home, &file("", "none"), &[], options).await;
    line.oracle.hold(&["known-1", "known-2", "known-3"]);
    line.append(&["known-1", "known-2", "known-3", "known-4"]).await;
    // What is known at once needs no room.
    assert_eq!(line.given("asking", 2).await, ["known-3", "known-4"]);
    assert_eq!(line.bodies["known-3"]["person"], json!({"status": "overloaded"}));
    assert_eq!(line.bodies["known-4"]["person"]["status"], "found");
    line.oracle.release("known-1");
    assert_eq!(line.given("asking", 3).await[2], "known-1");
    line.stop().await;
}

#[tokio::test]
async fn a_store_that_stumbles_loses_and_doubles_nothing_that_waits() {
    use Fate::{Fails, Vanishes, Works};
    for ordering in ["none", "fifo"] {
        for fates in [
            &[Fails][..],
            &[Works, Vanishes],
            &[Works, Works, Fails, Works, Vanishes],
            &[Vanishes, Fails, Vanishes, Works, Fails, Vanishes],
        ] {
            let home = on_sqlite();
            let options = Options { batch: 3, ..Options::default() };
            let mut line = Line::start(&home, &file("", ordering), fates, options).await;
            let names: Vec<String> = (10..30).map(|it| format!("known-{it}")).collect();
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            let held: Vec<&str> = names.iter().step_by(3).copied().collect();
            line.oracle.hold(&held);
            for names in names.chunks(5) {
                line.append(names).await;
            }
            line.given("plain", 20).await;
            for name in held {
                line.oracle.release(name);
            }
            let mut given = line.given("asking", 20).await;
            if ordering == "none" {
                given.sort_unstable();
            }
            assert_eq!(given, names, "{ordering}");
            let owed = line.store.backlog().await.unwrap();
            let owed: Vec<u64> = owed.iter().map(|it| it.owed).collect();
            assert_eq!(owed, [20, 20], "{ordering} {}", line.seen["plain"].join(" "));
            line.stop().await;
        }
    }
}

#[tokio::test]
async fn a_failure_is_asked_again_and_the_event_goes_on_when_its_time_is_over() {
    let home = on_sqlite();
    let settings = ", on_error: retry, retry_for: 10s";
    let mut line = Line::start(&home, &file(settings, "none"), &[], Options::default()).await;
    line.clock.set(jiff::Timestamp::UNIX_EPOCH);
    line.append(&["stranger"]).await;
    line.given("plain", 1).await;
    line.oracle.asked("stranger", 1).await;
    assert_eq!(line.seen.get("asking"), None);
    line.given("asking", 1).await;
    assert!(line.oracle.asked.lock().unwrap()["stranger@a.co"] > 2);
    let passed = tidegate::clock::Clock::now(&*line.clock).as_second();
    assert!((5..=11).contains(&passed), "{passed}");
    assert_eq!(line.bodies["stranger"]["person"], json!({"status": "failed"}));
    line.stop().await;
}

#[tokio::test]
async fn a_failure_drops_the_event_or_makes_a_dead_letter_where_the_step_says_so() {
    let home = on_sqlite();
    let settings = ", on_error: drop";
    let mut line = Line::start(&home, &file(settings, "none"), &[], Options::default()).await;
    let ids = line.append(&["stranger", "known"]).await;
    assert_eq!(line.given("asking", 1).await, ["known"]);
    let skipped = &line.record(ids[0]).await.skipped[0];
    assert_eq!(skipped.by, "enrich.person");
    let expected = "enrich.person failed from `oracle`: it does not want to";
    assert_eq!(skipped.reason, expected);
    line.stop().await;

    let home = on_sqlite();
    let settings = ", on_error: dead_letter";
    let mut line = Line::start(&home, &file(settings, "none"), &[], Options::default()).await;
    line.oracle.hold(&["stranger-2"]);
    let ids = line.append(&["stranger", "stranger-2", "known"]).await;
    assert_eq!(line.given("asking", 1).await, ["known"]);
    line.oracle.release("stranger-2");
    line.append(&["known-2"]).await;
    line.given("asking", 2).await;
    for id in &ids[..2] {
        let record = line.record(*id).await;
        let dead = record.deliveries.iter().find(|it| it.state == DeliveryState::Dead).unwrap();
        let dead = line.store.delivery(project_of(&line.catalog), dead.seq).await.unwrap().unwrap();
        assert!(format!("{:?}", dead.entries[0].kind).contains("it does not want to"));
    }
    line.stop().await;
}
