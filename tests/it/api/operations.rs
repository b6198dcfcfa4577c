//! What people do about deliveries: replay, cancel, pause, test, rotate.

use http::Method;
use jiff::SignedDuration;
use serde_json::json;

use super::{NOWHERE, column, delivered, empty, rows};
use crate::harness::{
    PATIENCE,
    caller::Caller,
    gateway::Gateway,
    sink::{Answer as SinkAnswer, Sink},
};

#[tokio::test]
async fn old_events_are_delivered_again() {
    // Given an event that was delivered, and one that nobody accepted,
    let sink = Sink::with(|it| {
        let is_bad = it.number == 1;
        SinkAnswer::status(if is_bad { 400 } else { 200 })
    });
    let sink = sink.await;
    let gateway = Gateway::delivering_to(&sink.url("/"), ", retry: { preset: never }").await;
    let operator = Caller::with_scopes(&gateway, "acme", &["operate", "read"]).await;
    let good = gateway.publish("a", json!(1)).await;
    gateway.idle().await;
    let bad = gateway.publish("b", json!(2)).await;
    let dead = delivered(&gateway, bad).await;
    gateway.clock.advance(SignedDuration::from_secs(1));
    assert_eq!(column(&operator.get("/api/v1/dead-letters").await, "id"), [dead.as_str()]);

    // when the dead one is replayed by itself, it arrives under the same message id;
    let path = format!("/api/v1/deliveries/{dead}/replay");
    let replay = operator.post(&path, &json!({})).await.expect(202).json();
    assert_eq!((&replay["state"], &replay["done"]), (&json!("done"), &json!(1)));
    let received = sink.received_at_least(3).await;
    assert_eq!(received[2].header("webhook-id"), bad.to_string());
    gateway.idle().await;

    // when the event is replayed with an id of its own, it arrives as a new message;
    let path = format!("/api/v1/events/{good}/replay");
    operator
        .send(Method::POST, &path, &[], r#"{"fresh_id":true,"destinations":["sink"]}"#)
        .await
        .expect(202);
    let received = sink.received_at_least(4).await;
    assert!(received[3].header("webhook-id").starts_with("dlv_"));
    assert_eq!(received[3].body, received[0].body);
    gateway.idle().await;

    // and a selection says first how many it would be, and then is worked on from old to new.
    let request = json!({"selection": {"destination": "sink"}, "dry_run": true});
    let plan = operator.post("/api/v1/replays", &request).await.expect(200).json();
    assert_eq!(plan, json!({"dry_run": true, "total": 4}));
    let request = json!({"selection": {"destination": "sink"}});
    let replay = operator.post("/api/v1/replays", &request).await.expect(202).json();
    let received = sink.received_at_least(6).await;
    let ids: Vec<_> = received[4..].iter().map(|it| it.header("webhook-id").to_owned()).collect();
    assert_eq!(ids, [good.to_string(), bad.to_string()]);
    let path = format!("/api/v1/replays/{}", replay["id"].as_str().unwrap());
    let done = tokio::time::timeout(PATIENCE, async {
        loop {
            let now = operator.get(&path).await.json();
            if now["state"] == "done" {
                return now;
            }
        }
    });
    let done = done.await.expect("the replay never ends");
    assert_eq!(
        (&done["total"], &done["done"], &done["selection"]["destination"]),
        (&json!(4), &json!(2), &json!("sink"))
    );
    assert_eq!(rows(&operator.get("/api/v1/replays").await).len(), 3);
    let cancelled = operator.post(&format!("{path}/cancel"), &json!({})).await.expect(200).json();
    assert_eq!(cancelled["state"], "done");

    for request in [
        json!({}),
        json!({"selection": {"state": "pending"}}),
        json!({"event": good.to_string(), "delivery": dead}),
    ] {
        operator.post("/api/v1/replays", &request).await.expect(400);
    }
}

#[tokio::test]
async fn a_replay_that_is_cancelled_or_interrupted_makes_nothing_twice() {
    // Given many deliveries,
    const MANY: usize = 1200;
    let sink = Sink::new().await;
    let gateway = Gateway::delivering_to(&sink.url("/"), "").await;
    let admin = Caller::admin(&gateway);
    let events: Vec<_> = (0..MANY).map(|it| json!({"type": "a", "payload": it})).collect();
    for half in events.chunks(MANY / 2) {
        admin.post("/api/v1/events/batch", &json!(half)).await.expect(202);
    }
    sink.received_at_least(MANY).await;
    gateway.idle().await;
    gateway.clock.advance(SignedDuration::from_secs(1));

    // when they are replayed and the gateway restarts right away,
    let request = json!({"selection": {"state": "delivered"}});
    let replay = admin.post("/api/v1/replays", &request).await.expect(202).json();
    assert_eq!(replay["total"], MANY);
    let gateway = gateway.restart().await;

    // then each has arrived once more in the end.
    let received = sink.received_at_least(2 * MANY).await;
    gateway.idle().await;
    let admin = Caller::admin(&gateway);
    let path = format!("/api/v1/replays/{}", replay["id"].as_str().unwrap());
    let done = tokio::time::timeout(PATIENCE, async {
        while admin.get(&path).await.json()["state"] != "done" {}
        admin.get(&path).await.json()["done"].clone()
    });
    assert_eq!(done.await.expect("the replay never ends"), MANY);
    let mut times = std::collections::HashMap::<String, usize>::new();
    for request in &received {
        *times.entry(request.header("webhook-id").to_owned()).or_default() += 1;
    }
    assert!(times.values().all(|it| *it == 2) && times.len() == MANY);
}

#[tokio::test]
async fn a_delivery_that_is_held_can_be_cancelled() {
    let sink = Sink::new().await;
    let gateway = Gateway::delivering_to(&sink.url("/"), "").await;
    let operator = Caller::with_scopes(&gateway, "acme", &["operate", "read"]).await;
    let paused =
        operator.post("/api/v1/destinations/sink/pause", &json!({})).await.expect(200).json();
    assert_eq!(paused["state"], "paused");
    gateway.idle().await;
    let event = gateway.publish("a", json!(1)).await;
    let id = delivered(&gateway, event).await;

    let path = format!("/api/v1/deliveries/{id}");
    operator.post(&format!("{path}/cancel"), &json!({})).await.expect(202);
    gateway.idle().await;
    let cancelled = operator.get(&path).await.json();
    assert_eq!(
        (&cancelled["state"], &cancelled["log"][0]["ended"]),
        (&json!("cancelled"), &json!("cancelled"))
    );
    let again = operator.post(&format!("{path}/cancel"), &json!({})).await;
    assert_eq!(again.expect(409).problem(), "conflict");

    operator.post("/api/v1/destinations/sink/resume", &json!({})).await.expect(200);
    gateway.publish("a", json!(2)).await;
    assert_eq!(sink.received_at_least(1).await[0].json()["data"], 2);
}

#[tokio::test]
async fn a_destination_is_disabled_and_enabled() {
    let gateway = Gateway::delivering_to(NOWHERE, "").await;
    let operator = Caller::with_scopes(&gateway, "acme", &["operate"]).await;
    let path = "/api/v1/destinations/sink";
    let mut version = 1;
    for (verb, status, state) in [
        ("pause", 200, "paused"),
        ("disable", 200, "disabled"),
        ("resume", 409, ""),
        ("pause", 409, ""),
        ("enable", 200, "active"),
        ("enable", 200, "active"),
    ] {
        let answer =
            operator.post(&format!("{path}/{verb}"), &json!({})).await.expect(status).json();
        if status == 200 {
            assert_eq!(answer["state"], state);
            assert!(answer["version"].as_u64().unwrap() >= version, "{verb}");
            version = answer["version"].as_u64().unwrap();
        }
    }
    assert_eq!(version, 4);
}

#[tokio::test]
async fn a_rotated_secret_signs_beside_the_old_one_until_the_overlap_ends() {
    let sink = Sink::new().await;
    let gateway = Gateway::delivering_to(&sink.url("/"), "").await;
    let admin = Caller::with_scopes(&gateway, "acme", &["admin"]).await;
    let rotated =
        admin.post("/api/v1/destinations/sink/rotate-secret", &json!({"overlap": "1h"})).await;
    let rotated = rotated.expect(200).json();
    let new = rotated["signing_secret"].as_str().unwrap();
    assert_eq!(rotated["signing_keys"].as_array().unwrap().len(), 2);

    let signatures = async |count: usize| {
        gateway.publish("a", json!(count)).await;
        gateway.idle().await;
        let received = sink.received_at_least(count).await;
        received[count - 1]
            .header("webhook-signature")
            .split(' ')
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    assert_eq!(signatures(1).await.len(), 2);
    gateway.clock.advance(SignedDuration::from_secs(3600));
    assert_eq!(signatures(2).await.len(), 1);
    let received = sink.received();
    let signed = format!(
        "{}.{}.",
        received[1].header("webhook-id"),
        received[1].header("webhook-timestamp")
    );
    let body = [signed.as_bytes(), &received[1].body].concat();
    let expected = standard_signature(new, &body);
    assert_eq!(received[1].header("webhook-signature"), format!("v1,{expected}"));

    let long = json!({"overlap": "91d"});
    admin.post("/api/v1/destinations/sink/rotate-secret", &long).await.expect(400);
}

/// HMAC-SHA256 in base64, computed without any of our code.
fn standard_signature(secret: &str, bytes: &[u8]) -> String {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    use hmac::{Hmac, KeyInit as _, Mac as _};
    let key = STANDARD.decode(secret.strip_prefix("whsec_").unwrap()).unwrap();
    let mut mac = Hmac::<sha2::Sha256>::new_from_slice(&key).unwrap();
    mac.update(bytes);
    STANDARD.encode(mac.finalize().into_bytes())
}

#[tokio::test]
async fn a_browser_finds_a_page_that_says_what_works_and_loads_nothing() {
    let (gateway, _admin) = empty().await;
    let stranger = Caller::new(&gateway, None);

    let page = stranger.get("/").await.expect(200);
    assert_eq!(page.headers["content-type"], "text/html; charset=utf-8");
    assert_eq!(page.headers["x-content-type-options"], "nosniff");
    let policy = page.headers["content-security-policy"].to_str().unwrap();
    assert!(policy.starts_with("default-src 'none'; style-src 'sha256-"), "{policy}");
    assert!(page.text.contains("The dashboard is not in this build."));
    assert!(page.text.contains(&format!("curl http://{}/api/v1/events", gateway.app.address)));
    // Each link leads somewhere.
    let links: Vec<_> = page.text.split("href=\"/").skip(1).collect();
    assert_eq!(links.len(), 4);
    for link in links {
        let (path, _) = link.split_once('"').unwrap();
        stranger.get(&format!("/{path}")).await.expect(200);
    }

    let refused = stranger.send(Method::POST, "/", &[], "").await.expect(405);
    assert_eq!(refused.problem(), "method-not-allowed");
    assert_eq!(stranger.get("/index.html").await.expect(404).problem(), "not-found");
}
