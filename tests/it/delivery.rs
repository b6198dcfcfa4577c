//! What the gateway promises about deliveries, from the request to the endpoint and back.

use std::time::Duration;

use http::StatusCode;
use serde_json::json;

use crate::harness::{
    gateway::Gateway,
    sink::{Answer, Sink},
};

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(60 * 60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

#[tokio::test]
async fn a_delivery_is_retried_until_the_endpoint_recovers() {
    // Given an endpoint that is down for two attempts and then recovers,
    let sink = Sink::answering(&[503, 503, 200]).await;
    let gateway = Gateway::delivering_to(&sink.url("/hooks"), "").await;

    // when an event is published and an hour passes,
    let event = gateway.publish("order.created", json!({ "order": 42 })).await;
    gateway.run_for(HOUR).await;

    // then the endpoint got the same message three times, each time signed anew,
    let received = sink.received();
    assert_eq!(received.len(), 3);
    for request in &received {
        assert_eq!(request.header("webhook-id"), event.to_string());
        assert_eq!(request.body, received[0].body);
    }
    let body = r#"{"type":"order.created","timestamp":"2026-01-01T00:00:00Z","data":{"order":42}}"#;
    assert_eq!(received[0].body, body);
    assert_ne!(received[0].header("webhook-timestamp"), received[2].header("webhook-timestamp"));
    assert_ne!(received[0].header("webhook-signature"), received[2].header("webhook-signature"));

    // and the log tells what happened.
    assert_eq!(gateway.states(event).await, ["delivered"]);
    let delivery = gateway.deliveries().await[0]["id"].as_str().unwrap().to_owned();
    let delivery = gateway.get(&format!("/api/v1/deliveries/{delivery}")).await.body;
    let statuses: Vec<_> = delivery["log"].as_array().unwrap().iter().collect();
    assert_eq!(statuses.len(), 3, "{delivery}");
}

#[tokio::test]
async fn an_endpoint_that_is_gone_is_not_asked_again_and_holds_what_comes() {
    // Given an endpoint that answers 410 Gone,
    let sink = Sink::answering(&[410]).await;
    let gateway = Gateway::delivering_to(&sink.url("/"), "").await;

    // when an event is published, and another one a day later,
    let first = gateway.publish("order.created", json!({})).await;
    gateway.run_for(DAY).await;
    let second = gateway.publish("order.created", json!({})).await;
    gateway.run_for(DAY).await;

    // then it was asked once; the destination is disabled, says why, and holds both.
    assert_eq!(sink.received().len(), 1);
    assert_eq!(gateway.states(first).await, ["retrying"]);
    assert_eq!(gateway.states(second).await, ["pending"]);
    let destination = gateway.get("/api/v1/destinations/sink").await.body;
    assert_eq!(destination["state"], "disabled", "{destination}");
}

#[tokio::test]
async fn a_delivery_that_nobody_accepts_becomes_a_dead_letter_that_a_replay_brings_back() {
    // Given an endpoint that is down for as long as the schedule lasts, and then recovers,
    let sink = Sink::answering(&[500, 500, 500, 200]).await;
    let settings = ", retry: { waits: [10s, 60s] }";
    let gateway = Gateway::delivering_to(&sink.url("/"), settings).await;
    let event = gateway.publish("order.created", json!({ "order": 1 })).await;
    gateway.run_for(HOUR).await;
    assert_eq!(gateway.states(event).await, ["dead"]);
    let dead = gateway.get("/api/v1/dead-letters").await.body;
    assert_eq!(dead["data"].as_array().unwrap().len(), 1, "{dead}");

    // when the dead letters are replayed, after a look at how many there are,
    let selection = json!({ "destination": "sink", "state": "dead" });
    let dry = json!({ "selection": selection, "dry_run": true });
    let plan = gateway.post("/api/v1/replays", dry).await;
    assert_eq!(plan.body["total"], 1, "{}", plan.body);
    let replay = gateway.post("/api/v1/replays", json!({ "selection": selection })).await;
    assert!(replay.status.is_success(), "{}", replay.body);
    sink.received_at_least(4).await;
    gateway.run_for(MINUTE).await;

    // then the event has a second delivery, with the same message id, and the first one's record stays.
    let mut states = gateway.states(event).await;
    states.sort();
    assert_eq!(states, ["dead", "delivered"]);
    let received = sink.received();
    assert_eq!(received[3].header("webhook-id"), event.to_string());
    assert_eq!(received[3].body, received[0].body);
    // It is a dead letter no more, and says what took its place.
    let dead = gateway.get("/api/v1/dead-letters").await.body;
    assert_eq!(dead["data"], json!([]));
    let record = gateway.get(&format!("/api/v1/events/{event}")).await.body;
    assert_eq!(record["deliveries"][0]["replayed_as"], record["deliveries"][1]["id"]);
    let dry = json!({ "selection": selection, "dry_run": true });
    assert_eq!(gateway.post("/api/v1/replays", dry).await.body["total"], 0);
}

#[tokio::test]
async fn in_a_fifo_lane_a_delivery_waits_until_the_one_before_it_has_ended() {
    // Given a fifo destination whose endpoint refuses the first message twice,
    let sink = Sink::with(|request| {
        let is_first = request.json()["data"]["n"] == 1;
        Answer::status(if is_first && request.number < 2 { 503 } else { 200 })
    })
    .await;
    let gateway = Gateway::delivering_to(&sink.url("/"), ", ordering: fifo").await;

    // when three events are published,
    for n in 1..=3 {
        gateway.publish("order.created", json!({ "n": n })).await;
    }
    gateway.run_for(HOUR).await;

    // then the others come only after the first was accepted, in their order.
    let order: Vec<_> = sink.received().iter().map(|it| it.json()["data"]["n"].clone()).collect();
    assert_eq!(order, [1, 1, 1, 2, 3]);
}

#[tokio::test]
async fn a_resumed_destination_continues_in_order() {
    // Given a paused destination,
    let sink = Sink::new().await;
    let gateway = Gateway::delivering_to(&sink.url("/"), ", ordering: fifo").await;
    let paused = gateway.post("/api/v1/destinations/sink/pause", json!({})).await;
    assert_eq!(paused.status, StatusCode::OK, "{}", paused.body);

    // when events come and a day passes,
    for n in 0..5 {
        gateway.publish("order.created", json!({ "n": n })).await;
    }
    gateway.run_for(DAY).await;
    assert_eq!(sink.received().len(), 0);

    // then all of them go out when it is resumed, none was lost, and none used an attempt.
    gateway.post("/api/v1/destinations/sink/resume", json!({})).await;
    sink.received_at_least(5).await;
    gateway.idle().await;
    let order: Vec<_> = sink.received().iter().map(|it| it.json()["data"]["n"].clone()).collect();
    assert_eq!(order, [0, 1, 2, 3, 4]);
    assert!(gateway.deliveries().await.iter().all(|it| it["attempts"] == 1));
}

#[tokio::test]
async fn backlog_survives_a_restart_without_duplicates() {
    // Given events for an endpoint that is down,
    let sink = Sink::answering(&[503, 200]).await;
    let gateway = Gateway::delivering_to(&sink.url("/"), "").await;
    let event = gateway.publish("order.created", json!({ "n": 1 })).await;
    gateway.idle().await;
    assert_eq!(sink.received().len(), 1);

    // when the gateway is restarted and an hour passes,
    let gateway = gateway.restart().await;
    gateway.run_for(HOUR).await;

    // then the retry was made, once.
    assert_eq!(sink.received().len(), 2);
    assert_eq!(gateway.states(event).await, ["delivered"]);
    let gateway = gateway.restart().await;
    gateway.run_for(DAY).await;
    assert_eq!(sink.received().len(), 2);
}

#[tokio::test]
async fn one_key_is_one_event_also_after_a_restart() {
    let sink = Sink::new().await;
    let gateway = Gateway::delivering_to(&sink.url("/"), "").await;
    let event =
        json!({ "type": "user.signed_up", "idempotency_key": "u-1", "payload": { "n": 1 } });

    // Given an event with a key,
    let first = gateway.post("/api/v1/events", event.clone()).await;
    assert_eq!(first.status, StatusCode::ACCEPTED);

    // when the same request comes again, and once more after a restart,
    let again = gateway.post("/api/v1/events", event.clone()).await;
    let gateway = gateway.restart().await;
    let later = gateway.post("/api/v1/events", event).await;

    // then each answer names the first event, and it was delivered once.
    for answer in [again, later] {
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.body);
        assert_eq!(answer.body["id"], first.body["id"]);
        assert_eq!(answer.body["duplicate"], true);
    }
    gateway.run_for(DAY).await;
    assert_eq!(sink.received().len(), 1);
}

#[tokio::test]
async fn the_same_key_with_another_body_says_so() {
    let sink = Sink::new().await;
    let gateway = Gateway::delivering_to(&sink.url("/"), "").await;
    let event = |n| json!({ "type": "a", "idempotency_key": "k", "payload": { "n": n } });
    gateway.post("/api/v1/events", event(1)).await;
    assert_eq!(gateway.post("/api/v1/events", event(1)).await.body["same_body"], true);
    assert_eq!(gateway.post("/api/v1/events", event(2)).await.body["same_body"], false);
}
