//! Profiles from end to end: configured as people write them, through pipeline and dispatcher.

use std::time::Duration;

use serde_json::{Value, json};

use super::sha1;
use crate::harness::{
    gateway::Gateway,
    sink::{Answer, Received, Sink},
};

/// The bodies of a request that is a list.
fn list(request: &Received) -> Vec<Value> {
    request.json().as_array().cloned().unwrap_or_default()
}

#[tokio::test]
async fn customerios_batches_hold_what_goes_to_one_url_and_are_signed_over_the_first() {
    // Given a destination whose URL depends on the event,
    let sink = Sink::new().await;
    let url = format!("{}{{{{ payload.userId }}}}", sink.url("/u/"));
    let settings = format!(
        ", profile: customerio, method: PUT, batch: {{ events: 1000, linger: 2s }}, urls: ['{url}']"
    );
    let resources = format!(
        "version: 1\nproject: acme\nsources: [{{ name: app, kind: api }}]\ndestinations:\n  \
         - {{ name: sink, kind: webhook, secret: shared{settings} }}\npipelines:\n  \
         - {{ name: all, on: [\"*\"], routes: [{{ to: sink }}] }}\n"
    );
    let gateway = Gateway::start(&resources, "").await;

    // when events for two of them wait for each other,
    for (user, number) in [("a", 1), ("b", 2), ("a", 3), ("a", 4)] {
        gateway.publish("track", json!({ "userId": user, "n": number })).await;
    }
    gateway.run_for(Duration::from_secs(5)).await;

    // then each URL got one list, in the order of the events, and the first element is signed.
    let mut requests = sink.received();
    requests.sort_by_key(|it| it.path.clone());
    assert_eq!(requests.iter().map(|it| it.path.as_str()).collect::<Vec<_>>(), ["/u/a", "/u/b"]);
    let numbers = |request: &Received| -> Vec<Value> {
        list(request).iter().map(|it| it["n"].clone()).collect()
    };
    assert_eq!(numbers(&requests[0]), [json!(1), json!(3), json!(4)]);
    assert_eq!(numbers(&requests[1]), [json!(2)]);
    for request in &requests {
        let first = serde_json::to_string(&list(request)[0]).unwrap();
        assert_eq!(request.header("x-signature"), sha1("shared", first.as_bytes()));
        assert_eq!(request.method, "PUT");
    }
    let states = gateway.deliveries().await;
    assert!(states.iter().all(|it| it["state"] == "delivered"), "{states:?}");
}

#[tokio::test]
async fn segment_retries_server_errors_and_nothing_else() {
    let sink = Sink::with(|request| match request.json()["event"].as_str() {
        Some("broken") => Answer::status(503),
        Some("busy") => Answer::status(429),
        Some("wrong") => Answer::status(400),
        Some(_) | None => Answer::status(200),
    })
    .await;
    let gateway = Gateway::delivering_to(&sink.url("/"), ", profile: segment").await;
    let mut ids = Vec::new();
    for event in ["wrong", "busy", "broken"] {
        let message = json!({ "type": "track", "userId": "u", "event": event });
        ids.push(gateway.publish("track", message).await);
    }
    gateway.run_for(Duration::from_secs(5 * 3600)).await;

    for (id, event, is_retried) in
        [(ids[0], "wrong", false), (ids[1], "busy", false), (ids[2], "broken", true)]
    {
        assert_eq!(gateway.states(id).await, ["dead"], "{event}");
        let attempts = sink.received().iter().filter(|it| it.json()["event"] == event).count();
        assert_eq!(attempts > 1, is_retried, "{event}: {attempts}");
    }
}

#[tokio::test]
async fn the_integrations_object_decides_whether_segments_webhooks_get_a_message() {
    let sink = Sink::new().await;
    let gateway = Gateway::delivering_to(&sink.url("/"), ", profile: segment").await;
    for (name, integrations) in [
        ("1", json!({})),
        ("2", json!({ "Webhooks": false })),
        ("3", json!({ "All": false })),
        ("4", json!({ "All": false, "Webhooks": true })),
        ("5", json!({ "All": false, "webhooks": true })),
        ("6", json!({ "All": true, "Other": false })),
    ] {
        let message =
            json!({ "type": "track", "userId": "u", "event": name, "integrations": integrations });
        gateway.publish("track", message).await;
    }
    gateway.idle().await;
    let mut got: Vec<_> =
        sink.received().iter().map(|it| it.json()["event"].as_str().unwrap().to_owned()).collect();
    got.sort();
    assert_eq!(got, ["1", "4", "6"]);
}
