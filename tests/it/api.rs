//! What the API promises: resources, records, replays, and what people do about deliveries.

use std::time::Duration;

use http::Method;
use http_body_util::BodyExt as _;
use jiff::SignedDuration;
use serde_json::{Value, json};
use tidegate::model::EventId;

use crate::harness::{
    PATIENCE,
    caller::{Answer, Caller},
    gateway::{Gateway, SECRET},
    sink::{Answer as SinkAnswer, Sink},
};

const EMPTY: &str = "version: 1\nproject: acme\n";
const NOWHERE: &str = "http://127.0.0.1:9/";

async fn empty() -> (Gateway, Caller) {
    let gateway = Gateway::start(EMPTY, NOWHERE).await;
    let admin = Caller::with_scopes(&gateway, "acme", &["admin"]).await;
    (gateway, admin)
}

fn rows(answer: &Answer) -> Vec<Value> {
    answer.json()["data"].as_array().unwrap().clone()
}

/// What a list says in one field, row by row.
fn column(answer: &Answer, field: &str) -> Vec<String> {
    rows(answer).iter().map(|it| it[field].as_str().unwrap().to_owned()).collect()
}

async fn delivered(gateway: &Gateway, event: EventId) -> String {
    gateway.idle().await;
    let event = Caller::admin(gateway).get(&format!("/api/v1/events/{event}?project=acme")).await;
    event.expect(200).json()["deliveries"][0]["id"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn resources_are_made_changed_and_deleted() {
    let (_gateway, admin) = empty().await;
    for (path, spec, field, changed) in [
        ("sources", json!({"name": "app", "kind": "api"}), "enabled", json!(false)),
        (
            "event-types",
            json!({"name": "user.signed_up"}),
            "description",
            json!("Someone signed up."),
        ),
        (
            "destinations",
            json!({"name": "crm", "kind": "webhook", "url": "https://a.example/x"}),
            "url",
            json!("https://b.example/"),
        ),
        (
            "pipelines",
            json!({"name": "all", "routes": [{"to": "crm"}]}),
            "when",
            json!("payload.a == 1"),
        ),
    ] {
        let path = format!("/api/v1/{path}");
        let made = admin.post(&path, &spec).await.expect(201).json();
        let one = format!("{path}/{}", made["name"].as_str().unwrap());
        let by_id = format!("{path}/{}", made["id"].as_str().unwrap());
        assert_eq!(admin.get(&one).await.expect(200).json()["id"], made["id"]);
        assert_eq!(admin.get(&by_id).await.expect(200).json()["id"], made["id"]);
        assert_eq!(column(&admin.get(&path).await, "id"), [made["id"].as_str().unwrap()]);

        // Its name is taken now.
        let again = admin.post(&path, &spec).await.expect(400);
        assert_eq!(again.json()["errors"][0]["field"], "name");

        let mut other = spec.clone();
        other[field] = changed.clone();
        let put = admin.put(&one, &other).await.expect(200).json();
        assert_eq!((&put["id"], &put[field]), (&made["id"], &changed), "{path}");
        if let Some(version) = made["version"].as_u64() {
            assert_eq!(put["version"], version + 1);
        }
        assert_eq!(admin.get(&one).await.json(), put);
    }

    // What a pipeline names cannot go away under it.
    let refused = admin.delete("/api/v1/destinations/crm").await.expect(409);
    assert!(
        refused.json()["detail"].as_str().unwrap().contains("pipeline `all`"),
        "{}",
        refused.text
    );
    let renamed = json!({"name": "other", "kind": "webhook", "url": "https://b.example/"});
    assert_eq!(
        admin.put("/api/v1/destinations/crm", &renamed).await.expect(409).problem(),
        "conflict"
    );
    for path in ["pipelines/all", "destinations/crm", "event-types/user.signed_up", "sources/app"] {
        let path = format!("/api/v1/{path}");
        admin.delete(&path).await.expect(204);
        assert_eq!(admin.get(&path).await.expect(404).problem(), "not-found");
        admin.delete(&path).await.expect(404);
    }
}

#[tokio::test]
async fn a_resource_that_makes_no_sense_is_refused_field_by_field() {
    let (_gateway, admin) = empty().await;
    for (path, spec, field) in [
        ("sources", json!({"name": "Not A Name", "kind": "api"}), "name"),
        ("sources", json!({"name": "a", "kind": "api", "colour": "red"}), "colour"),
        ("destinations", json!({"name": "a", "kind": "webhook", "url": "ftp://a/"}), "url"),
        (
            "destinations",
            json!({"name": "a", "kind": "webhook", "url": "https://a/", "secret": "hunter2"}),
            "secret",
        ),
        ("pipelines", json!({"name": "a", "routes": [{"to": "nobody"}]}), "routes[0].to"),
        ("pipelines", json!({"name": "a", "routes": [], "when": "payload.a =="}), "routes"),
    ] {
        let answer = admin.post(&format!("/api/v1/{path}"), &spec).await.expect(400);
        assert_eq!(answer.problem(), "invalid-request");
        let problem = answer.json();
        let errors = problem["errors"].as_array().unwrap();
        assert!(errors.iter().any(|it| it["field"] == field), "{field}: {}", answer.text);
        assert!(!answer.text.contains("hunter2"));
    }
    let broken = admin.send(Method::POST, "/api/v1/sources", &[], "{").await.expect(400);
    assert_eq!(broken.problem(), "invalid-request");
}

#[tokio::test]
async fn keys_are_shown_once_and_open_only_what_they_may() {
    let (gateway, admin) = empty().await;
    let spec = json!({"name": "backend", "scopes": ["ingest", "read", "ingest"]});
    let made = admin.post("/api/v1/keys", &spec).await.expect(201).json();
    let key = made["key"].as_str().unwrap();
    assert_eq!(made["scopes"], json!(["ingest", "read"]));
    assert!(key.starts_with(made["hint"].as_str().unwrap()));
    let list = admin.get("/api/v1/keys").await.expect(200);
    assert!(!list.text.contains(key) && list.text.contains("backend"));

    let caller = Caller::new(&gateway, Some(key));
    caller.get("/api/v1/sources").await.expect(200);
    assert_eq!(caller.post("/api/v1/keys", &spec).await.expect(403).problem(), "forbidden");
    for spec in [
        json!({"name": "backend", "scopes": ["read"]}),
        json!({"name": "b", "scopes": []}),
        json!({"name": "b", "scopes": ["read"], "expires_at": "2020-01-01T00:00:00Z"}),
    ] {
        admin.post("/api/v1/keys", &spec).await.expect(400);
    }
    let for_all = json!({"name": "root", "scopes": ["admin"], "all_projects": true});
    assert_eq!(admin.post("/api/v1/keys", &for_all).await.expect(403).problem(), "forbidden");
    let root = Caller::admin(&gateway).post("/api/v1/keys", &for_all).await.expect(201).json();
    assert_eq!(root["project"], Value::Null);
    Caller::new(&gateway, root["key"].as_str()).get("/api/v1/projects").await.expect(200);
    assert!(!admin.get("/api/v1/keys").await.text.contains("root"));
}

#[tokio::test]
async fn projects_are_made_and_deleted_by_keys_for_all_projects_only() {
    let (gateway, own) = empty().await;
    let root = Caller::admin(&gateway);
    assert_eq!(
        own.post("/api/v1/projects", &json!({"name": "b"})).await.expect(403).problem(),
        "forbidden"
    );
    root.post("/api/v1/projects", &json!({"name": "b", "retention": "30days"})).await.expect(201);
    assert_eq!(column(&root.get("/api/v1/projects").await, "name").len(), 2);
    assert_eq!(column(&own.get("/api/v1/projects").await, "name"), ["acme"]);

    // With two projects, a key for all says which.
    let unnamed = root.get("/api/v1/sources").await.expect(400);
    assert_eq!(unnamed.json()["errors"][0]["field"], "header:tidegate-project");
    let header = [("tidegate-project", "b")];
    root.send(Method::GET, "/api/v1/sources", &header, "").await.expect(200);
    root.get("/api/v1/sources?project=nobody").await.expect(404);

    let in_b = Caller::with_scopes(&gateway, "b", &["admin"]).await;
    in_b.post("/api/v1/sources", &json!({"name": "app", "kind": "api"})).await.expect(201);
    root.delete("/api/v1/projects/b").await.expect(204);
    assert_eq!(in_b.get("/api/v1/sources").await.expect(401).problem(), "unauthorized");
    root.get("/api/v1/projects/b").await.expect(404);
    assert_eq!(gateway.app.registrar.current().sources.len(), 0);
}

#[tokio::test]
async fn lists_come_in_pages() {
    let (gateway, admin) = empty().await;
    for number in 0..5 {
        gateway.clock.advance(SignedDuration::from_millis(1));
        let spec = json!({"name": format!("s{number}"), "kind": "api"});
        admin.post("/api/v1/sources", &spec).await.expect(201);
        let event = json!({"type": format!("t.{number}"), "payload": number});
        admin.post("/api/v1/events", &event).await.expect(202);
    }
    for (path, field, expected) in [
        ("/api/v1/sources", "name", ["s0", "s1", "s2", "s3", "s4"]),
        ("/api/v1/events", "type", ["t.4", "t.3", "t.2", "t.1", "t.0"]),
    ] {
        let (mut seen, mut cursor, mut pages) = (Vec::new(), String::new(), 0);
        loop {
            let page = admin.get(&format!("{path}?limit=2&cursor={cursor}")).await.expect(200);
            seen.extend(column(&page, field));
            pages += 1;
            match page.json()["next"].as_str() {
                Some(next) => next.clone_into(&mut cursor),
                None => break,
            }
        }
        assert_eq!((seen.as_slice(), pages), (expected.map(str::to_owned).as_slice(), 3));
        for query in ["limit=0", "limit=x", "cursor=x", "sort=name", "limit=1&limit=2"] {
            let answer = admin.get(&format!("{path}?{query}")).await.expect(400);
            assert_eq!(answer.problem(), "invalid-request", "{query}");
        }
    }
}

#[tokio::test]
async fn events_are_filtered_and_exported() {
    let resources = "version: 1\nproject: acme\nsources: [{ name: app, kind: api }, { name: web, kind: api }]\n";
    let gateway = Gateway::start(resources, NOWHERE).await;
    let reader = Caller::with_scopes(&gateway, "acme", &["admin"]).await;
    let mut times = Vec::new();
    for (event_type, source) in [("user.a", "app"), ("user.b", "web"), ("order", "app")] {
        times.push(gateway.now());
        let event = format!(
            "{{\"type\":\"{event_type}\",\"source\":\"{source}\",\"payload\":{{\r\n \"a\":1.50}}}}"
        );
        reader.send(Method::POST, "/api/v1/events", &[], event).await.expect(202);
        gateway.clock.advance(SignedDuration::from_secs(60));
    }
    for (query, expected) in [
        (String::new(), vec!["order", "user.b", "user.a"]),
        ("type=user.*".to_owned(), vec!["user.b", "user.a"]),
        ("type=order".to_owned(), vec!["order"]),
        ("source=app".to_owned(), vec!["order", "user.a"]),
        (format!("from={}", times[1]), vec!["order", "user.b"]),
        (format!("until={}&type=user.*", times[1]), vec!["user.a"]),
    ] {
        let list = reader.get(&format!("/api/v1/events?{query}")).await.expect(200);
        assert_eq!(column(&list, "type"), expected, "{query}");
        let export = reader.get(&format!("/api/v1/events/export?{query}")).await.expect(200);
        let lines: Vec<Value> =
            export.text.lines().map(|it| serde_json::from_str(it).unwrap()).collect();
        let mut types: Vec<_> = lines.iter().map(|it| it["type"].as_str().unwrap()).collect();
        types.reverse();
        assert_eq!(types, expected, "export {query}");
        assert!(
            export.text.lines().all(|it| it.contains(r#""payload":{   "a":1.50}"#)),
            "{}",
            export.text
        );
    }
    assert!(!reader.get("/api/v1/events").await.text.contains("payload"));
    assert!(reader.get("/api/v1/events?payload=true").await.text.contains("1.50"));
    assert_eq!(reader.get("/api/v1/events?source=nobody").await.expect(404).problem(), "not-found");
    assert_eq!(
        reader.get("/api/v1/events?type=a%20b").await.expect(400).problem(),
        "invalid-request"
    );
}

#[tokio::test]
async fn deliveries_and_attempts_tell_what_happened() {
    let sink = Sink::answering(&[503, 200, 200]).await;
    let gateway = Gateway::delivering_to(&sink.url("/"), "").await;
    let reader = Caller::with_scopes(&gateway, "acme", &["read"]).await;
    let first = gateway.publish("order.paid", json!(1)).await;
    let id = delivered(&gateway, first).await;

    let retrying = reader.get(&format!("/api/v1/deliveries/{id}")).await.expect(200).json();
    assert_eq!((&retrying["state"], &retrying["attempts"]), (&json!("retrying"), &json!(1)));
    assert!(retrying["due"].is_string());
    assert_eq!((&retrying["destination"], &retrying["pipeline"]), (&json!("sink"), &json!("all")));
    let entry = &retrying["log"][0];
    assert_eq!(
        (&entry["class"], &entry["status"], &entry["attempt"]),
        (&json!("status"), &json!(503), &json!(1))
    );

    gateway.run_for(Duration::from_secs(3600)).await;
    let second = gateway.publish("user.signed_up", json!(2)).await;
    gateway.idle().await;
    for (query, expected) in [
        ("", vec![second, first]),
        ("?state=delivered", vec![second, first]),
        ("?state=dead", vec![]),
        ("?type=order.*", vec![first]),
        ("?destination=sink&limit=1", vec![second]),
        ("?from=2026-01-01T00:30:00Z", vec![second]),
    ] {
        let list = reader.get(&format!("/api/v1/deliveries{query}")).await.expect(200);
        let expected: Vec<_> = expected.iter().map(ToString::to_string).collect();
        assert_eq!(column(&list, "event_id"), expected, "{query}");
    }
    for (query, expected) in [
        ("", vec![Some(200), Some(200), Some(503)]),
        ("?failed=true", vec![Some(503)]),
        ("?class=accepted&type=order.*", vec![Some(200)]),
    ] {
        let list = reader.get(&format!("/api/v1/attempts{query}")).await.expect(200);
        let statuses: Vec<_> = rows(&list).iter().map(|it| it["status"].as_u64()).collect();
        assert_eq!(statuses, expected, "{query}");
    }
    reader.get("/api/v1/deliveries?state=lost").await.expect(400);
    reader.get("/api/v1/deliveries/dlv_06cm5yfgg1e2jrp3k5mk9v0y2r").await.expect(404);

    let stats =
        reader.get("/api/v1/destinations/sink/stats?from=2026-01-01T00:00:00Z&step=120").await;
    let point = &stats.expect(200).json()["points"][0];
    assert_eq!(
        (&point["planned"], &point["delivered"], &point["failed_attempts"]),
        (&json!(2), &json!(2), &json!(1))
    );
    let status = reader.get("/api/v1/status").await.expect(200).json();
    assert_eq!((&status["refuses"], &status["destinations"][0]["owed"]), (&Value::Null, &json!(0)));
    assert_eq!(status["destinations"][0]["dispatch"]["breaker"], "closed");
}

#[tokio::test]
async fn old_events_are_delivered_anew() {
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
async fn a_test_event_is_signed_sent_at_once_and_kept_nowhere() {
    let sink = Sink::with(|_| SinkAnswer::status(418).body("short and stout")).await;
    let gateway = Gateway::delivering_to(&sink.url("/"), "").await;
    let operator = Caller::with_scopes(&gateway, "acme", &["operate", "read"]).await;
    operator.post("/api/v1/destinations/sink/pause", &json!({})).await.expect(200);
    let outcome = operator.send(Method::POST, "/api/v1/destinations/sink/test", &[], "").await;
    let outcome = outcome.expect(200).json();
    assert_eq!((&outcome["accepted"], &outcome["status"]), (&json!(false), &json!(418)));
    assert_eq!(outcome["response"], "short and stout");

    let body = json!({"type": "order.paid", "payload": [1]});
    operator.post("/api/v1/destinations/sink/test", &body).await.expect(200);
    let received = sink.received();
    assert_eq!(received[0].header("webhook-id"), outcome["message_id"].as_str().unwrap());
    assert_eq!(
        (&received[1].json()["type"], &received[1].json()["data"]),
        (&json!("order.paid"), &json!([1]))
    );
    assert!(received[1].header("webhook-signature").starts_with("v1,"));
    assert!(rows(&operator.get("/api/v1/events").await).is_empty());
    operator.post("/api/v1/destinations/nobody/test", &json!({})).await.expect(404);
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
async fn secrets_never_come_back() {
    let gateway = Gateway::delivering_to(NOWHERE, ", auth: { bearer: canary-token }").await;
    let admin = Caller::with_scopes(&gateway, "acme", &["admin"]).await;
    let plain = json!({"name": "other", "kind": "webhook", "url": "https://a.example/"});
    let made = admin.post("/api/v1/destinations", &plain).await.expect(201).json();
    let secret = made["signing_secret"].as_str().unwrap().to_owned();
    assert!(secret.starts_with("whsec_"));
    let given =
        json!({"name": "given", "kind": "webhook", "url": "https://a.example/", "secret": SECRET});
    let given = admin.post("/api/v1/destinations", &given).await.expect(201);
    assert!(!given.text.contains(SECRET));

    let mut seen = String::new();
    for (method, path) in tidegate::api::route_list() {
        if method == Method::GET && path != "/api/v1/tail" {
            let path = path.replace("{destination}", "sink").replace("{project}", "acme");
            seen.push_str(&admin.get(&path).await.text);
        }
    }
    assert!(seen.contains("${SINK_SECRET}"));
    for canary in [&secret, SECRET, "canary-token"] {
        assert!(!seen.contains(canary), "{canary}");
    }
}

#[tokio::test]
async fn a_file_of_resources_is_compared_applied_and_written_out() {
    let (gateway, admin) = empty().await;
    let file = "version: 1\nproject: acme\nsources: [{ name: app, kind: api }]\n\
                destinations: [{ name: crm, kind: webhook, url: \"https://a.example/\" }]\n\
                pipelines: [{ name: all, routes: [{ to: crm }] }]\n";
    let yaml = [("content-type", "application/yaml")];
    let plan = admin.send(Method::POST, "/api/v1/plan", &yaml, file).await.expect(200).json();
    assert_eq!(plan["changes"].as_array().unwrap().len(), 3);
    assert!(rows(&admin.get("/api/v1/sources").await).is_empty());

    let done = admin.send(Method::POST, "/api/v1/apply", &yaml, file).await.expect(200).json();
    assert_eq!(done, plan);
    let exported = admin.get("/api/v1/export").await.expect(200).text;
    assert!(exported.contains("name: crm"), "{exported}");
    let resources =
        json!({"version": 1, "project": "acme", "sources": [{"name": "web", "kind": "api"}]});
    let request = json!({"resources": resources, "prune": true});
    let done = admin.post("/api/v1/apply", &request).await.expect(200).json();
    assert_eq!(done["changes"].as_array().unwrap().len(), 4);
    assert_eq!(column(&admin.get("/api/v1/sources").await, "name"), ["web"]);

    // A bad file changes nothing, and says where it is bad; and a server reads no environment for others.
    let bad = "version: 1\nproject: acme\nsources:\n  - { name: ok, kind: api }\n  - { name: ok, kind: api }\n";
    let answer = admin.send(Method::POST, "/api/v1/apply", &yaml, bad).await.expect(400);
    assert!(answer.json()["detail"].as_str().unwrap().contains(":5:"), "{}", answer.text);
    assert_eq!(column(&admin.get("/api/v1/sources").await, "name"), ["web"]);
    let sneaky =
        "version: 1\nproject: acme\nevent_types: [{ name: a, description: \"${PATH}\" }]\n";
    let answer = admin.send(Method::POST, "/api/v1/apply", &yaml, sneaky).await.expect(400);
    assert_eq!(answer.json()["errors"][0]["field"], "event_types[0].description");

    // A key of a project has no business in another's file.
    Caller::admin(&gateway).post("/api/v1/projects", &json!({"name": "b"})).await.expect(201);
    for project in ["b", "nobody"] {
        let other = format!("version: 1\nproject: {project}\n");
        for path in ["/api/v1/plan", "/api/v1/apply"] {
            let answer = admin.send(Method::POST, path, &yaml, other.clone()).await.expect(403);
            assert_eq!(answer.problem(), "forbidden");
        }
    }
}

#[tokio::test]
async fn the_tail_shows_what_happens_in_ones_own_project() {
    let sink = Sink::new().await;
    let gateway = Gateway::delivering_to(&sink.url("/"), "").await;
    let root = Caller::admin(&gateway);
    root.post("/api/v1/projects", &json!({"name": "b"})).await.expect(201);
    root.post("/api/v1/sources?project=b", &json!({"name": "app", "kind": "api"}))
        .await
        .expect(201);
    let reader = Caller::with_scopes(&gateway, "acme", &["read"]).await;
    let (status, headers, mut body) =
        reader.open(Method::GET, "/api/v1/tail?type=order.*", &[], "").await;
    assert_eq!(
        (status.as_u16(), &headers["content-type"]),
        (200, &"text/event-stream".parse().unwrap())
    );

    let other = json!({"type": "order.paid", "payload": "of b"});
    root.post("/api/v1/events?project=b", &other).await.expect(202);
    root.post("/api/v1/events?project=acme", &json!({"type": "user.a", "payload": 0}))
        .await
        .expect(202);
    root.post("/api/v1/events?project=acme", &json!({"type": "order.paid", "payload": 1}))
        .await
        .expect(202);
    let mut text = String::new();
    while text.matches("\n\n").count() < 2 {
        let frame = tokio::time::timeout(PATIENCE, body.frame()).await.expect("nothing comes");
        text.push_str(std::str::from_utf8(frame.unwrap().unwrap().data_ref().unwrap()).unwrap());
    }
    let events: Vec<(&str, Value)> = text
        .split_terminator("\n\n")
        .map(|it| {
            let (name, data) = it.split_once('\n').unwrap();
            let data = serde_json::from_str(data.strip_prefix("data: ").unwrap()).unwrap();
            (name.strip_prefix("event: ").unwrap(), data)
        })
        .collect();
    assert_eq!((events[0].0, &events[0].1["payload"]), ("event", &json!(1)));
    assert_eq!((events[1].0, &events[1].1["ended"]), ("attempt", &json!("delivered")));
    assert_eq!(events[1].1["event_id"], events[0].1["id"]);
}

#[tokio::test]
async fn operators_see_health_metrics_and_the_description_without_a_key() {
    let (gateway, _) = empty().await;
    let nobody = Caller::new(&gateway, None);
    assert_eq!(nobody.get("/healthz").await.expect(200).json()["status"], "alive");
    assert_eq!(nobody.get("/readyz").await.expect(200).json()["status"], "ready");
    assert!(nobody.get("/metrics").await.expect(200).text.contains("tidegate_connections_total"));
    let described = nobody.get("/api/v1/openapi.json").await.expect(200).json();
    assert!(described["openapi"].as_str().unwrap().starts_with("3.1"));
    assert_eq!(nobody.get("/api/v1/nothing").await.expect(404).problem(), "not-found");
    assert_eq!(nobody.delete("/healthz").await.expect(405).problem(), "method-not-allowed");
}

#[tokio::test]
async fn metrics_can_be_kept_private() {
    let gateway = Gateway::configured(EMPTY, |config| config.api.private_metrics = true).await;
    Caller::new(&gateway, None).get("/metrics").await.expect(401);
    let own = Caller::with_scopes(&gateway, "acme", &["admin"]).await;
    own.get("/metrics").await.expect(403);
    Caller::admin(&gateway).get("/metrics").await.expect(200);
}
