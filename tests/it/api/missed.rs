//! Events that a destination never had, or that went nowhere, are replayed together.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::replays::{Two, done, person, resources, two};
use crate::harness::caller::Caller;

/// How many deliveries a replay made, of how many, once it is done.
async fn made(operator: &Caller, replay: &Value) -> (u64, u64) {
    let replay = done(operator, replay).await;
    (replay["done"].as_u64().unwrap(), replay["total"].as_u64().unwrap())
}

#[tokio::test]
async fn a_new_destination_gets_the_events_that_it_missed() {
    // Given events of which `b` had one,
    let Two { a, b, gateway, operator } = two("payload.plan == 'none'").await;
    let had = gateway.publish("had", json!({"plan": "none", "to_a": true})).await;
    for n in 0..250 {
        gateway.publish(&format!("n{n}"), json!({"plan": n % 5, "to_a": true, "n": n})).await;
    }
    gateway.idle().await;
    assert_eq!((a.received().len(), b.received().len()), (251, 1));
    gateway.clock.advance(jiff::SignedDuration::from_secs(1));
    // when its route takes most of them, and those that it missed are replayed,
    gateway.apply(&resources(&b.url("/"), "payload.plan != 3"), &a.url("/")).await;
    let missed = json!({"selection": {"destination": "b", "missed": true}});
    let mut dry = missed.clone();
    dry["dry_run"] = json!(true);
    let planned = operator.post("/api/v1/replays", &dry).await.expect(200).json();
    assert_eq!(planned["total"], 251);
    let replay = operator.post("/api/v1/replays", &missed).await.expect(202).json();
    assert_eq!(made(&operator, &replay).await, (200, 251));
    gateway.idle().await;

    // then it gets them as its route makes them, each once, and `a` nothing.
    let received = b.received();
    assert_eq!((a.received().len(), received.len()), (251, 201));
    assert!(received[1..].iter().all(|it| it.json()["data"].get("n").is_none()));
    let ids: BTreeSet<_> = received.iter().map(|it| it.header("webhook-id").to_owned()).collect();
    assert_eq!(ids.len(), 201);
    assert_eq!(gateway.states(had).await.len(), 2);
    // A second time there is nothing left.
    let replay = operator.post("/api/v1/replays", &missed).await.expect(202).json();
    assert_eq!(made(&operator, &replay).await, (0, 251));
}

#[tokio::test]
async fn events_that_went_nowhere_are_replayed_together() {
    // Given events that a wrong filter kept back, and one that it let through,
    let Two { a, b, gateway, operator } = two("payload.plan == 'none'").await;
    gateway.publish("through", person(true)).await;
    for n in 0..5 {
        gateway.publish(&format!("n{n}"), person(false)).await;
    }
    gateway.idle().await;
    gateway.clock.advance(jiff::SignedDuration::from_secs(1));
    // when it is mended and they are replayed,
    gateway.apply(&resources(&b.url("/"), "payload.plan == 'pro'"), &a.url("/")).await;
    let missed = json!({"selection": {"missed": true}});
    let replay = operator.post("/api/v1/replays", &missed).await.expect(202).json();

    // then each goes where it should have gone, and the other is left alone.
    assert_eq!(made(&operator, &replay).await, (5, 6));
    gateway.idle().await;
    assert_eq!((a.received().len(), b.received().len()), (1, 5));
    // What was missed has no state.
    let both = json!({"selection": {"missed": true, "state": "dead"}});
    operator.post("/api/v1/replays", &both).await.expect(400);
}

#[tokio::test]
async fn a_replay_that_differs_from_what_was_sent_has_its_own_id() {
    // Given an event that `b` got, and another route to `b` that sends something else,
    let Two { a, b, gateway, operator } = two("payload.plan == 'pro'").await;
    let event = gateway.publish("a", person(true)).await;
    gateway.idle().await;
    let broken = resources(&b.url("/"), "payload.plan == 'pro'")
        .replace("      - to: b", "      - to: b\n        steps: [{ transform.js: { on_error: dead_letter, source: \"export default () => { throw 1 }\" } }]\n      - to: b");
    gateway.apply(&broken, &a.url("/")).await;
    let second = gateway.publish("b", person(true)).await;
    gateway.idle().await;
    let states = gateway.states(second).await;
    assert_eq!(states.len(), 3, "{states:?}");
    gateway.clock.advance(jiff::SignedDuration::from_secs(1));
    // when the step that failed is mended and its dead letter replayed,
    let mended = resources(&b.url("/"), "payload.plan == 'pro'").replace(
        "      - to: b",
        "      - to: b\n        steps: [{ map: { mended: true } }]\n      - to: b",
    );
    gateway.apply(&mended, &a.url("/")).await;
    let dead = json!({"selection": {"state": "dead"}});
    let replay = operator.post("/api/v1/replays", &dead).await.expect(202).json();
    done(&operator, &replay).await;
    gateway.idle().await;

    // then what differs has an id of its own.
    let received = b.received();
    let of_second: Vec<_> = received
        .iter()
        .filter(|it| it.header("webhook-id").starts_with(&second.to_string()))
        .map(|it| (it.header("webhook-id").to_owned(), it.json()["data"].clone()))
        .collect();
    let ids: BTreeMap<String, Value> = of_second.iter().cloned().collect();
    assert!(of_second.iter().any(|it| it.1 == json!({"plan": "pro"})), "{of_second:?}");
    for (id, data) in &of_second {
        assert_eq!(&ids[id], data, "one id, two messages: {of_second:?}");
    }
    assert!(of_second.iter().any(|it| it.1 == json!({"mended": true})), "{of_second:?}");
    assert_eq!(received[0].header("webhook-id"), event.to_string());
}
