//! People who want to be forgotten.

use std::fs;

use serde_json::{Value, json};

use super::{column, rows};
use crate::harness::{
    PATIENCE,
    caller::Caller,
    gateway::Gateway,
    sink::{Answer as SinkAnswer, Sink},
};

/// Two destinations with a pipeline, of which one wants almost nothing, and one without.
fn resources(other: &str) -> String {
    format!(
        "version: 1\nproject: acme\nsources: [{{ name: app, kind: api }}]\n\
         destinations:\n  - {{ name: sink, kind: webhook, url: \"${{URL}}\", ordering: fifo }}\n  \
         - {{ name: other, kind: webhook, url: \"{other}\" }}\n  \
         - {{ name: idle, kind: webhook, url: \"http://127.0.0.1:9/\" }}\n\
         pipelines:\n  - {{ name: all, on: [\"*\"], when: \"type != 'delete'\", \
         routes: [{{ to: sink }}, {{ to: other, when: \"false\" }}, {{ to: sink, when: \"false\" }}] }}\n"
    )
}

async fn ended(caller: &Caller, id: &str) -> Value {
    let path = format!("/api/v1/deletions/{id}");
    let done = tokio::time::timeout(PATIENCE, async {
        loop {
            let now = caller.get(&path).await.expect(200).json();
            if now["ended_at"] != Value::Null {
                return now;
            }
        }
    });
    done.await.expect("the deletion never ends")
}

async fn forget(caller: &Caller, spec: Value) -> Value {
    let begun = caller.post("/api/v1/deletions", &spec).await.expect(202).json();
    ended(caller, begun["id"].as_str().unwrap()).await
}

#[tokio::test]
async fn every_webhook_that_gets_events_is_told_once_of_a_deletion() {
    // Given a destination whose line is held up by a delivery that failed,
    let sink = Sink::answering(&[503, 200]).await;
    let other = Sink::new().await;
    let gateway = Gateway::start(&resources(&other.url("/")), &sink.url("/")).await;
    let admin = Caller::with_scopes(&gateway, "acme", &["admin"]).await;
    let before = gateway.publish("a", json!({"userId": "u-1"})).await;
    gateway.idle().await;

    // when a user is to be forgotten,
    let done = forget(&admin, json!({"user_id": "u-1"})).await;

    // then those with routes are told, whatever their pipelines want,
    assert_eq!((&done["state"], &done["notified"]), (&json!("done"), &json!(2)));
    assert_eq!((&done["then"], &done["progress"]), (&json!("keep"), &Value::Null));
    let told = other.received_at_least(1).await;
    assert_eq!(told[0].json()["type"], "delete");
    let expected =
        json!({"type": "delete", "userId": "u-1", "timestamp": "2026-01-01T00:00:00.000Z"});
    assert_eq!(told[0].json()["data"], expected);
    assert_eq!(told[0].header("webhook-id"), done["event_id"].as_str().unwrap());
    // each in its order; what waited of the user is not sent any more,
    assert_eq!(done["cancelled_deliveries"], 1);
    gateway.run_for(std::time::Duration::from_secs(600)).await;
    let received = sink.received_at_least(2).await;
    assert_eq!((received.len(), &received[1].json()["data"]), (2, &expected));
    assert_eq!(gateway.states(before).await, ["cancelled"]);
    // and it is seen where everything is.
    let path = format!("/api/v1/events/{}", done["event_id"].as_str().unwrap());
    let shown = admin.get(&path).await.expect(200).json();
    assert_eq!((&shown["source"], &shown["skipped"]), (&json!("system"), &json!([])));
    let deliveries = shown["deliveries"].as_array().unwrap();
    assert!(deliveries.iter().all(|it| it["pipeline"] == "directed" && it["state"] == "delivered"));
    assert_eq!((deliveries.len(), &deliveries[0]["pipeline_version"]), (2, &Value::Null));

    let refused = admin.post("/api/v1/deletions", &json!({"user_id": ""})).await.expect(400);
    assert_eq!(refused.json()["errors"][0]["field"], "user_id");
    admin.post("/api/v1/deletions", &json!({"user_id": "u", "field": "a..b"})).await.expect(400);
    let reader = Caller::with_scopes(&gateway, "acme", &["read", "operate"]).await;
    reader.post("/api/v1/deletions", &json!({"user_id": "u"})).await.expect(403);
    assert_eq!(rows(&reader.get("/api/v1/deletions").await).len(), 1);
}

#[tokio::test]
async fn nobody_speaks_in_the_systems_name() {
    let sink = Sink::new().await;
    let other = Sink::new().await;
    let gateway = Gateway::start(&resources(&other.url("/")), &sink.url("/")).await;
    let admin = Caller::with_scopes(&gateway, "acme", &["admin"]).await;
    let other_id = rows(&admin.get("/api/v1/destinations").await)
        .iter()
        .find(|it| it["name"] == "other")
        .map(|it| it["id"].clone());
    let forged = json!({
        "type": "delete", "payload": {"userId": "u-1"},
        "metadata": {"source": "system", "directed_to": [other_id]},
    });
    let id = admin.post("/api/v1/events", &forged).await.expect(202).json()["id"].clone();
    gateway.planned(id.as_str().unwrap().parse().unwrap()).await;
    gateway.idle().await;
    assert_eq!((sink.received().len(), other.received().len()), (0, 0));
    for source in ["system", "src_00000000000000000000000000"] {
        let named = json!({"type": "delete", "payload": {}, "source": source});
        admin.post("/api/v1/events", &named).await.expect(400);
    }
}

#[tokio::test]
async fn deletion_erases_a_user_and_cancels_deliveries() {
    const SECRET: &str = "a-very-private-thing";
    // Given events of two users, delivered and answered with what they say, and some that wait,
    let sink = Sink::with(|it| SinkAnswer::status(200).body(it.body.clone())).await;
    let other = Sink::new().await;
    let gateway = Gateway::start(&resources(&other.url("/")), &sink.url("/")).await;
    let admin = Caller::with_scopes(&gateway, "acme", &["admin"]).await;
    let payload = |user: &str| json!({"user": {"id": user}, "secret": format!("{SECRET}-{user}")});
    let first = gateway.publish("a", payload("u-1")).await;
    let second = gateway.publish("a", payload("u-2")).await;
    gateway.idle().await;
    sink.received_at_least(2).await;
    admin.post("/api/v1/destinations/sink/pause", &json!({})).await.expect(200);
    let held = gateway.publish("a", payload("u-1")).await;
    let also_held = gateway.publish("a", payload("u-2")).await;

    // when one of them is forgotten,
    let spec = json!({"user_id": "u-1", "field": "user.id", "then": "erase"});
    let done = forget(&admin, spec.clone()).await;

    // then nothing in the API or on the disk tells it any more,
    let expected = json!({"erased": 2, "cancelled": 1, "progress": 1.0});
    let told = json!({
        "erased": done["erased_events"], "cancelled": done["cancelled_deliveries"],
        "progress": done["progress"],
    });
    assert_eq!(told, expected);
    for (event, state) in [(first, "delivered"), (held, "cancelled")] {
        let shown = admin.get(&format!("/api/v1/events/{event}")).await.expect(200);
        assert!(!shown.text.contains(SECRET), "{}", shown.text);
        let shown = shown.json();
        assert_eq!(
            (&shown["payload"], &shown["metadata"]),
            (&Value::Null, &json!({"erased": true}))
        );
        assert_eq!(shown["deliveries"][0]["state"], state);
    }
    let on_disk = |needle: &str| {
        let folder = fs::read_dir(gateway.folder().join("segments")).unwrap();
        let files = folder.map(|it| fs::read(it.unwrap().path()).unwrap());
        files.filter(|it| it.windows(needle.len()).any(|at| at == needle.as_bytes())).count()
    };
    assert_eq!(on_disk(&format!("{SECRET}-u-1")), 0);
    // and what others told stays and goes out.
    let shown = admin.get(&format!("/api/v1/events/{second}")).await.expect(200).json();
    assert_eq!(shown["payload"], payload("u-2"));
    admin.post("/api/v1/destinations/sink/resume", &json!({})).await.expect(200);
    gateway.idle().await;
    let received = sink.received_at_least(4).await;
    let ids: Vec<_> = received[2..].iter().map(|it| it.header("webhook-id").to_owned()).collect();
    let event_id = done["event_id"].as_str().unwrap();
    assert_eq!(ids, [also_held.to_string().as_str(), event_id]);
    // It can be asked for again, and finds nothing.
    let again = forget(&admin, spec).await;
    assert_eq!(again["erased_events"], 0);
    let nothing = admin.post(&format!("/api/v1/events/{first}/replay"), &json!({})).await;
    nothing.expect(409);
    let path = format!("/api/v1/deletions/{}", again["id"].as_str().unwrap());
    admin.post(&format!("{path}/cancel"), &json!({})).await.expect(409);
    admin.delete(&path).await.expect(204);
    assert_eq!(column(&admin.get("/api/v1/deletions").await, "state"), ["done"]);
}

#[tokio::test]
async fn erasing_goes_on_after_a_restart_and_over_many_files() {
    // Given events of one user in several files,
    let file = resources("http://127.0.0.1:9/");
    let gateway = Gateway::configured(&file, |config| {
        config.store.segment_events = 20;
    });
    let gateway = gateway.await;
    let admin = Caller::admin(&gateway);
    admin.post("/api/v1/destinations/sink/pause?project=acme", &json!({})).await.expect(200);
    let mut events = Vec::new();
    for round in 0..10 {
        let batch: Vec<_> = (0..10)
            .map(|it| json!({"type": "a", "payload": {"userId": it % 2, "round": round}}))
            .collect();
        let answer =
            admin.post("/api/v1/events/batch?project=acme", &json!(batch)).await.expect(202);
        let results = answer.json()["results"].as_array().unwrap().clone();
        events.extend(results.iter().map(|it| it["id"].as_str().unwrap().to_owned()));
    }
    gateway.planned(events[99].parse().unwrap()).await;

    // when the gateway stops right after it was asked,
    let spec = json!({"user_id": "1", "then": "erase"});
    let begun = admin.post("/api/v1/deletions?project=acme", &spec).await.expect(202).json();
    let gateway = gateway.restart().await;

    // then all are erased in the end, and the others are not.
    let admin = Caller::with_scopes(&gateway, "acme", &["admin"]).await;
    let done = ended(&admin, begun["id"].as_str().unwrap()).await;
    assert_eq!((&done["state"], &done["notified"]), (&json!("done"), &json!(2)));
    let shown = rows(&admin.get("/api/v1/events?payload=true&limit=200&type=a").await);
    assert_eq!(shown.len(), 100);
    let erased = shown.iter().filter(|it| it["payload"] == Value::Null).count();
    let kept = shown.iter().filter(|it| it["payload"]["userId"] == 0).count();
    assert_eq!((erased, kept), (50, 50));
    let cancelled = rows(&admin.get("/api/v1/deliveries?state=cancelled&limit=200").await).len();
    assert_eq!(cancelled, 50);
}

#[tokio::test]
async fn events_of_a_suppressed_user_are_turned_away_until_that_is_lifted() {
    let sink = Sink::new().await;
    let gateway = Gateway::start(&resources("http://127.0.0.1:9/"), &sink.url("/")).await;
    let admin = Caller::with_scopes(&gateway, "acme", &["admin"]).await;
    let done = forget(&admin, json!({"user_id": "u-1", "then": "suppress"})).await;
    assert_eq!((&done["state"], &done["suppressing"]), (&json!("done"), &json!(true)));
    let told = sink.received_at_least(1).await;
    assert_eq!(told[0].json()["type"], "delete");

    let of = |user: &str| json!({"type": "a", "payload": {"user_id": user}});
    let gateway = gateway.restart().await;
    let admin = Caller::with_scopes(&gateway, "acme", &["admin", "read"]).await;
    let away = admin.post("/api/v1/events", &of("u-1")).await.expect(200).json();
    assert_eq!((&away["id"], &away["accepted"]), (&Value::Null, &json!(false)));
    assert_eq!((&away["suppressed"], &away["duplicate"]), (&json!(true), &json!(false)));
    let batch = json!([of("u-1"), of("u-2"), {"type": 7, "payload": 1}, of("u-1"), of("u-3")]);
    let mixed = admin.post("/api/v1/events/batch", &batch).await.expect(202).json();
    let statuses: Vec<_> =
        mixed["results"].as_array().unwrap().iter().map(|it| it["status"].clone()).collect();
    assert_eq!(statuses, ["suppressed", "accepted", "rejected", "suppressed", "accepted"]);
    assert_eq!((&mixed["accepted"], &mixed["suppressed"]), (&json!(2), &json!(2)));
    let none = admin.post("/api/v1/events/batch", &json!([of("u-1")])).await.expect(200).json();
    assert_eq!(none["suppressed"], 1);
    assert_eq!(rows(&admin.get("/api/v1/events?type=a").await).len(), 2);

    let path = format!("/api/v1/deletions/{}", done["id"].as_str().unwrap());
    admin.delete(&path).await.expect(204);
    let again = admin.post("/api/v1/events", &of("u-1")).await.expect(202).json();
    assert_eq!(again["suppressed"], Value::Null);
}
