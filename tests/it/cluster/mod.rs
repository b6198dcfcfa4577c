//! Many nodes on one PostgreSQL: they share the work, take over from each other, and agree on everything.

pub mod node;
mod leases;
mod detect;
mod names;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tidegate::store::{Role, postgres::Address};

use self::node::{Node, eventually};
use crate::harness::{
    caller::Caller,
    cluster::shared,
    sink::{Answer, Received, Sink},
};

/// A database that no node has seen.
fn database() -> Address {
    shared().database()
}

/// Destinations of these names, some of which some node has, which get everything.
fn resources(names: &[&str], settings: &str) -> String {
    let destinations = names.iter().map(|it| {
        format!(
            "  - {{ name: {it}, kind: webhook, url: \"${{URL}}{it}\", secret: \"${{SECRET}}\"{settings} }}\n"
        )
    });
    let destinations: String = destinations.collect();
    let routes: Vec<String> = names.iter().map(|it| format!("{{ to: {it} }}")).collect();
    let routes = routes.join(", ");
    format!(
        "version: 1\nproject: acme\nsources: [{{ name: app, kind: api }}]\ndestinations:\n{destinations}\
         pipelines:\n  - {{ name: all, on: [\"*\"], routes: [{routes}] }}\n"
    )
}

const NAMES: [&str; 6] = ["a", "b", "c", "d", "e", "f"];

/// The numbers that each path got, in the order of arrival.
fn numbers(received: &[Received]) -> BTreeMap<String, Vec<u64>> {
    let mut numbers: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for it in received {
        let number = it.json()["data"]["n"].as_u64().unwrap();
        numbers.entry(it.path.clone()).or_default().push(number);
    }
    numbers
}

fn have_all(sink: &Sink, count: u64) -> bool {
    let numbers = numbers(&sink.received());
    let whole = |it: &Vec<u64>| it.iter().collect::<BTreeSet<_>>().len() as u64 == count;
    numbers.len() == NAMES.len() && numbers.values().all(whole)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_share_the_work_and_one_takes_over_when_the_other_is_killed() {
    // Given two nodes, and destinations in whose lines order counts
    let (database, sink) = (database(), Sink::new().await);
    let one = Node::start("one", &database).await;
    one.holds(16).await;
    one.apply(&resources(&NAMES, ", ordering: fifo"), &sink.url("/")).await;
    let two = Node::start("two", &database).await;
    one.holds(8).await;
    two.holds(8).await;
    // When events come to both, and one is killed in between
    for number in 0..100 {
        if number % 2 == 0 {
            one.post(number).await
        } else {
            two.post(number).await
        };
    }
    two.kill();
    let killed = Instant::now();
    for number in 100..150 {
        one.post(number).await;
    }
    // Then everything arrives soon, in order, from the other
    eventually("all have come", async || have_all(&sink, 150)).await;
    assert!(killed.elapsed() < Duration::from_secs(10), "{:?}", killed.elapsed());
    one.holds(16).await;
    for (path, numbers) in numbers(&sink.received()) {
        let mut seen = BTreeSet::new();
        let firsts: Vec<u64> = numbers.into_iter().filter(|it| seen.insert(*it)).collect();
        assert!(firsts.is_sorted(), "{path}: {firsts:?}");
    }
    let view = one.cluster().await;
    assert_eq!((&view["unheld"], &view["unplanned"]), (&json!(0), &json!(0)), "{view}");
    eventually("nothing is owed", async || one.cluster().await["owed"] == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_stops_gives_its_work_back_at_once_and_sends_nothing_twice() {
    let (database, sink) = (database(), Sink::new().await);
    let one = Node::start("one", &database).await;
    one.apply(&resources(&NAMES, ""), &sink.url("/")).await;
    let two = Node::start("two", &database).await;
    two.holds(8).await;
    for number in 0..60 {
        if number % 2 == 0 {
            one.post(number).await
        } else {
            two.post(number).await
        };
    }
    two.stop().await;
    one.holds(16).await;
    eventually("all have come", async || have_all(&sink, 60)).await;
    assert_eq!(sink.received().len(), 60 * NAMES.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_limit_of_a_destination_holds_over_all_nodes() {
    // Given destinations that take one request at a time, and say how many they see
    let busiest = Arc::new(AtomicUsize::new(0));
    let database = database();
    let sink = Sink::holding(|_| Answer::status(200)).await;
    let one = Node::start("one", &database).await;
    one.apply(&resources(&NAMES[..3], ", concurrency: 2"), &sink.url("/")).await;
    let two = Node::start("two", &database).await;
    one.holds(8).await;
    two.holds(8).await;
    // When much comes to both nodes
    for number in 0..20 {
        if number % 2 == 0 {
            one.post(number).await
        } else {
            two.post(number).await
        };
    }
    // Then each has two in flight, and never more
    let mut answered = 0;
    while answered < 60 {
        let wanted = (answered + 6).min(60);
        let received = sink.received_at_least(wanted).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
        let received = received.len().max(sink.received().len());
        busiest.fetch_max(received - answered, Ordering::Relaxed);
        sink.release(received - answered);
        answered = received;
    }
    assert_eq!(busiest.load(Ordering::Relaxed), 6);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_on_one_node_apply_on_all() {
    let (database, sink) = (database(), Sink::new().await);
    let one = Node::start("one", &database).await;
    let two = Node::start("two", &database).await;
    one.apply(&resources(&["a"], ""), &sink.url("/")).await;
    // A key that is made on one works on the other, and stops there when it is revoked
    let spec = json!({ "name": "reader", "scopes": ["read"] });
    let made = one.caller.post("/api/v1/keys?project=acme", &spec).await.expect(201).json();
    let caller = Caller::at(two.app().address, made["key"].as_str());
    eventually("the key works", async || {
        caller.get("/api/v1/events?project=acme").await.status.as_u16() == 200
    })
    .await;
    let id = made["id"].as_str().unwrap();
    one.caller.delete(&format!("/api/v1/keys/{id}?project=acme")).await;
    let revoked = Instant::now();
    eventually("the key is refused", async || {
        caller.get("/api/v1/events?project=acme").await.status.as_u16() == 401
    })
    .await;
    assert!(revoked.elapsed() < Duration::from_secs(2));
    // Neither overwrites what the other has changed a moment before
    let create = async |node: &Node, number: usize| {
        let spec = json!({ "name": format!("source-{number}"), "kind": "api" });
        node.caller.post("/api/v1/sources?project=acme", &spec).await.expect(201);
    };
    for number in 0..10 {
        tokio::join!(create(&one, 2 * number), create(&two, 2 * number + 1));
    }
    let names = async |node: &Node| {
        let list = node.caller.get("/api/v1/sources?project=acme&limit=100").await.json();
        list["data"].as_array().unwrap().len()
    };
    eventually("both know all", async || names(&one).await == 21 && names(&two).await == 21).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_node_does_what_its_roles_say_and_refuses_the_rest() {
    let (database, sink) = (database(), Sink::new().await);
    let front = Node::with_roles("front", &database, &[Role::Ingest]).await;
    let back = Node::with_roles("back", &database, &[Role::Pipeline, Role::Dispatch]).await;
    let desk = Node::with_roles("desk", &database, &[Role::Api]).await;
    desk.apply(&resources(&NAMES, ""), &sink.url("/")).await;
    eventually("it works", async || desk.shards_of("back", "dispatch").await.len() == 16).await;
    let known = async || {
        let event = json!({ "type": "t", "payload": { "n": 0 }, "idempotency_key": "o-0" });
        front.caller.post("/api/v1/events?project=acme", &event).await.status.as_u16() == 202
    };
    eventually("the project is known", known).await;
    for number in 1..20 {
        front.post(number).await;
    }
    eventually("all have come", async || have_all(&sink, 20)).await;
    // What a node does not do, it says
    let refused = front.caller.get("/api/v1/events?project=acme").await.expect(503);
    assert_eq!(refused.problem(), "unavailable");
    let event = json!({ "type": "t", "payload": {} });
    let refused = desk.caller.post("/api/v1/events?project=acme", &event).await.expect(503);
    assert!(refused.text.contains("`ingest`"), "{}", refused.text);
    back.caller.get("/readyz").await.expect(200);
    assert!(desk.shards_of("desk", "pipeline").await.is_empty());
    assert!(desk.shards_of("front", "dispatch").await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_delivery_is_cancelled_by_whoever_delivers_it_wherever_that_is_asked_for() {
    let database = database();
    let sink = Sink::answering(&[500]).await;
    let one = Node::start("one", &database).await;
    one.apply(&resources(&NAMES, ""), &sink.url("/")).await;
    let two = Node::start("two", &database).await;
    one.holds(8).await;
    two.holds(8).await;
    let event = one.post(0).await;
    sink.received_at_least(NAMES.len()).await;
    // When every delivery of an event is cancelled on one node, of which it has some
    let list = format!("/api/v1/events/{event}?project=acme");
    let deliveries = async || {
        let record = one.caller.get(&list).await.expect(200).json();
        record["deliveries"].as_array().unwrap().clone()
    };
    for it in deliveries().await {
        let id = it["id"].as_str().unwrap();
        let path = format!("/api/v1/deliveries/{id}/cancel?project=acme");
        two.caller.post(&path, &Value::Null).await.expect(202);
    }
    // Then all of them are
    eventually("all are cancelled", async || {
        deliveries().await.iter().all(|it| it["state"] == "cancelled")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replay_goes_on_wherever_it_was_asked_for_and_survives_the_node_that_ran_it() {
    let (database, sink) = (database(), Sink::new().await);
    let one = Node::start("one", &database).await;
    one.apply(&resources(&NAMES, ""), &sink.url("/")).await;
    let two = Node::start("two", &database).await;
    one.holds(8).await;
    two.holds(8).await;
    for number in 0..30 {
        one.post(number).await;
    }
    eventually("all have come", async || have_all(&sink, 30)).await;
    eventually("nothing is owed", async || one.cluster().await["owed"] == 0).await;
    let asked = json!({ "selection": { "destination": "a" } });
    let replay = two.caller.post("/api/v1/replays?project=acme", &asked).await.expect(202).json();
    one.kill();
    let path = format!("/api/v1/replays/{}?project=acme", replay["id"].as_str().unwrap());
    eventually("the replay is done", async || {
        two.caller.get(&path).await.expect(200).json()["state"] == "done"
    })
    .await;
    eventually("all have come again", async || {
        let numbers = numbers(&sink.received());
        (0..30).all(|n| numbers["/a"].iter().filter(|it| **it == n).count() >= 2)
    })
    .await;
}
