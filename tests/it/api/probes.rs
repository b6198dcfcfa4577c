//! What Tidegate sends by itself: test events, and the proof that it asks of an endpoint.

use http::Method;
use jiff::SignedDuration;
use serde_json::{Value, json};
use tidegate::{
    catalog::{Catalog, Edit, Resource},
    model::{Connection, Destination, DestinationState, EventId},
    store::StoreError,
};

use super::{column, rows};
use crate::harness::{
    PATIENCE,
    caller::Caller,
    gateway::Gateway,
    sink::{Answer as SinkAnswer, Sink},
};

const TEST: &str = "/api/v1/destinations/sink/test";
const VERIFY: &str = "/api/v1/destinations/sink/verify";

#[tokio::test]
async fn a_test_event_is_signed_sent_at_once_and_shown_in_the_log() {
    // Given a destination that is paused, with a delivery that is held,
    let sink = Sink::with(|it| match it.number {
        0 => SinkAnswer::status(418).body("short and stout"),
        _ => SinkAnswer::status(200),
    });
    let sink = sink.await;
    let gateway = Gateway::delivering_to(&sink.url("/"), ", ordering: fifo").await;
    let operator = Caller::with_scopes(&gateway, "acme", &["operate", "read"]).await;
    operator.post("/api/v1/destinations/sink/pause", &json!({})).await.expect(200);
    let held = gateway.publish("a", json!(1)).await;

    // when a test is sent that is refused, and one of one's own that is taken,
    let refused = operator.send(Method::POST, TEST, &[], "").await.expect(200).json();
    let body = json!({"type": "order.paid", "payload": [1]});
    let taken = operator.post(TEST, &body).await.expect(200).json();

    // then both went out signed and passed by what is held,
    assert_eq!((&refused["accepted"], &refused["status"]), (&json!(false), &json!(418)));
    assert_eq!(refused["response"], "short and stout");
    let received = sink.received();
    assert_eq!(received.len(), 2);
    assert_eq!(received[0].header("webhook-id"), refused["message_id"].as_str().unwrap());
    assert_eq!(received[0].json()["type"], "tidegate.test");
    assert_eq!(
        (&received[1].json()["type"], &received[1].json()["data"]),
        (&json!("order.paid"), &json!([1]))
    );
    assert!(received[1].header("webhook-signature").starts_with("v1,"));
    // each is an event of Tidegate's own, with its delivery, attempt, response time and end,
    gateway.idle().await;
    let event: EventId = refused["event_id"].as_str().unwrap().parse().unwrap();
    gateway.planned(taken["event_id"].as_str().unwrap().parse().unwrap()).await;
    let shown = operator.get(&format!("/api/v1/events/{event}")).await.expect(200).json();
    assert_eq!((&shown["source"], &shown["planned"]), (&json!("system"), &json!(true)));
    assert_eq!(shown["skipped"][0]["by"], "system");
    let delivery = &shown["deliveries"][0];
    assert_eq!(
        (&delivery["id"], &delivery["state"]),
        (&refused["delivery_id"], &json!("cancelled"))
    );
    assert_eq!(delivery["pipeline"], Value::Null);
    assert_eq!(
        (&delivery["log"][0]["status"], &delivery["log"][0]["attempt"]),
        (&json!(418), &json!(1))
    );
    assert_eq!(delivery["log"][0]["duration_ms"], refused["duration_ms"]);
    assert!(refused["duration_ms"].as_f64().unwrap() > 0.0);
    assert_eq!(delivery["log"][1]["reason"], "a test is attempted once");
    let log = operator.get("/api/v1/attempts").await;
    assert_eq!(column(&log, "event_type"), ["order.paid", "tidegate.test", "tidegate.test"]);
    assert_eq!(rows(&operator.get("/api/v1/events?source=system").await).len(), 2);
    let states = column(&operator.get("/api/v1/deliveries").await, "state");
    assert_eq!(states, ["delivered", "cancelled", "pending"]);
    // and neither is a dead letter, is sent again, or counts.
    assert!(rows(&operator.get("/api/v1/dead-letters").await).is_empty());
    gateway.clock.advance(SignedDuration::from_secs(60));
    let stats = operator.get("/api/v1/destinations/sink/stats").await.expect(200).json();
    let total = |field: &str| -> u64 {
        let minutes = stats["points"].as_array().unwrap().iter();
        minutes.map(|it| it[field].as_u64().unwrap()).sum()
    };
    assert_eq!((total("planned"), total("delivered"), total("failed_attempts")), (1, 0, 0));
    operator.post("/api/v1/destinations/sink/resume", &json!({})).await.expect(200);
    let received = sink.received_at_least(3).await;
    assert_eq!(received[2].header("webhook-id"), held.to_string());
    operator.post("/api/v1/destinations/nobody/test", &json!({})).await.expect(404);
    let gateway = gateway.restart().await;
    gateway.idle().await;
    assert_eq!(sink.received().len(), 3);
    let again = Caller::admin(&gateway).get(&format!("/api/v1/events/{event}?project=acme")).await;
    assert_eq!(again.expect(200).json()["deliveries"][0]["state"], "cancelled");
}

/// Gives the destination a contract that asks for verification, as if it had just been made.
async fn ask_for_proof(gateway: &Gateway) {
    let since = gateway.now();
    let decide = |catalog: &Catalog| {
        let found = catalog.destinations.values().next().unwrap();
        let mut destination = Destination::clone(found);
        let Connection::Webhook(webhook) = &mut destination.connection else {
            panic!("it is a webhook")
        };
        webhook.contract.verify = true;
        destination.state = DestinationState::Unverified { since, reason: String::new() };
        destination.version += 1;
        Ok::<_, StoreError>((vec![Edit::Put(Resource::Destination(destination))], ()))
    };
    gateway.app.catalog_writer.edit(decide).await.unwrap();
}

#[tokio::test]
async fn an_endpoint_gets_nothing_before_it_is_verified_and_then_all_in_order() {
    // Given an endpoint that refuses at first,
    let sink = Sink::answering(&[503, 204]).await;
    let gateway = Gateway::delivering_to(&sink.url("/"), ", ordering: fifo").await;
    let operator = Caller::with_scopes(&gateway, "acme", &["operate", "read"]).await;
    let state = async || {
        let shown = operator.get("/api/v1/destinations/sink").await.expect(200).json();
        (shown["state"].as_str().unwrap().to_owned(), shown["reason"].as_str().map(str::to_owned))
    };

    // when its contract asks for a proof, it is tried at once, and once,
    ask_for_proof(&gateway).await;
    let received = sink.received_at_least(1).await;
    assert_eq!(received[0].json()["type"], "webhook.configured");
    let expected = json!({"test": true, "event": "webhook.configured"});
    assert_eq!(received[0].json()["data"], expected);
    assert!(received[0].header("webhook-signature").starts_with("v1,"));
    let refused = async { while state().await.1.as_deref() == Some("it is being verified") {} };
    tokio::time::timeout(PATIENCE, refused).await.expect("it is never through");
    assert_eq!(
        state().await,
        ("unverified".to_owned(), Some("503 Service Unavailable".to_owned()))
    );

    // and what it is owed is held, also over a restart;
    let first = gateway.publish("a", json!(1)).await;
    let gateway = gateway.restart().await;
    let operator = Caller::with_scopes(&gateway, "acme", &["operate", "read", "admin"]).await;
    let second = gateway.publish("a", json!(2)).await;
    gateway.idle().await;
    assert_eq!(sink.received().len(), 1);
    operator.post("/api/v1/destinations/sink/pause", &json!({})).await.expect(409);
    operator.post("/api/v1/destinations/sink/resume", &json!({})).await.expect(409);
    let status = operator.get("/api/v1/status").await.expect(200).text;
    assert!(status.contains("unverified"), "{status}");

    // when it is tried again and answers, everything goes out, in order,
    let verified = operator.post(VERIFY, &json!({})).await.expect(200).json();
    assert_eq!((&verified["state"], &verified["reason"]), (&json!("active"), &Value::Null));
    let received = sink.received_at_least(4).await;
    assert_eq!(received[1].json()["type"], "webhook.configured");
    let ids: Vec<_> = received[2..].iter().map(|it| it.header("webhook-id").to_owned()).collect();
    assert_eq!(ids, [first.to_string(), second.to_string()]);
    // and both tries stand in the activity log.
    let log = operator.get("/api/v1/attempts?type=webhook.configured").await;
    let statuses: Vec<_> = rows(&log).iter().map(|it| it["status"].clone()).collect();
    assert_eq!(statuses, [json!(204), Value::Null, json!(503)]);
    let again = operator.post(VERIFY, &json!({})).await.expect(200).json();
    assert_eq!(again["state"], "active");
    assert_eq!(sink.received().len(), 4);

    // One that was disabled is verified when it is enabled.
    operator.post("/api/v1/destinations/sink/disable", &json!({})).await.expect(200);
    operator.post(VERIFY, &json!({})).await.expect(409);
    let enabled =
        operator.post("/api/v1/destinations/sink/enable", &json!({})).await.expect(200).json();
    assert_eq!(enabled["state"], "active");
    assert_eq!(sink.received()[4].json()["type"], "webhook.configured");
    // A test of such a destination is the same message.
    operator.send(Method::POST, TEST, &[], "").await.expect(200);
    assert_eq!(sink.received()[5].json()["data"], expected);
}

#[tokio::test]
async fn the_answer_to_making_or_moving_a_destination_says_whether_it_is_verified() {
    let (sink, other) = (Sink::answering(&[500, 200]).await, Sink::answering(&[404]).await);
    let gateway = Gateway::start("version: 1\nproject: acme\n", "http://127.0.0.1:9/").await;
    let admin = Caller::with_scopes(&gateway, "acme", &["admin"]).await;
    let spec = |url: &str| json!({ "name": "sink", "kind": "webhook", "url": url, "verify": true });

    let made = admin.post("/api/v1/destinations", &spec(&sink.url("/"))).await.expect(201).json();
    assert_eq!(
        (&made["state"], &made["reason"]),
        (&json!("unverified"), &json!("500 Internal Server Error"))
    );
    assert!(sink.received()[0].header("webhook-signature").starts_with("v1,"));
    assert_eq!(admin.post(VERIFY, &json!({})).await.expect(200).json()["state"], "active");
    let path = "/api/v1/destinations/sink";
    let same = admin.put(path, &spec(&sink.url("/"))).await.expect(200).json();
    assert_eq!((&same["state"], sink.received().len()), (&json!("active"), 2));
    let moved = admin.put(path, &spec(&other.url("/"))).await.expect(200).json();
    assert_eq!(
        (&moved["state"], &moved["reason"]),
        (&json!("unverified"), &json!("404 Not Found"))
    );
    assert_eq!(other.received()[0].json()["type"], "webhook.configured");
}
