//! Records: lists in pages, filters, exports, what happens at the moment, and what operators ask.

use std::time::Duration;

use http::Method;
use http_body_util::BodyExt as _;
use jiff::SignedDuration;
use serde_json::{Value, json};

use super::{EMPTY, NOWHERE, column, delivered, empty, rows};
use crate::harness::{PATIENCE, caller::Caller, gateway::Gateway, sink::Sink};

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
async fn a_page_of_large_events_is_bounded_by_its_bytes_and_the_next_goes_on() {
    /// What a page weighs at most, and what is written around it.
    const MOST: usize = (4 << 20) + 10_000;
    let (_gateway, admin) = empty().await;
    admin.post("/api/v1/sources", &json!({"name": "app", "kind": "api"})).await.expect(201);
    for number in 0..9 {
        let large = json!({"number": number, "text": "x".repeat(1_000_000)});
        let event = json!({"type": format!("t.{number}"), "payload": large});
        admin.post("/api/v1/events", &event).await.expect(202);
    }
    let (mut seen, mut sizes, mut cursor) = (Vec::new(), Vec::new(), String::new());
    loop {
        let path = format!("/api/v1/events?limit=100&payload=true&cursor={cursor}");
        let page = admin.get(&path).await.expect(200);
        assert!(page.text.len() <= MOST, "{} bytes", page.text.len());
        sizes.push(rows(&page).len());
        seen.extend(rows(&page).iter().map(|it| it["payload"]["number"].as_u64().unwrap()));
        match page.json()["next"].as_str() {
            Some(next) => next.clone_into(&mut cursor),
            None => break,
        }
    }
    assert_eq!(seen, (0..9).rev().collect::<Vec<_>>());
    assert_eq!(sizes, [4, 4, 1]);
    // Nine and no more: the last page says so by itself.
    let page = admin.get("/api/v1/events?limit=4&payload=true").await.expect(200);
    assert_eq!(rows(&page).len(), 4);
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
        reader.get("/api/v1/destinations/sink/stats?from=2026-01-01T00:00:00Z&until=2026-01-01T02:00:00Z&step=120").await;
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
    let gateway =
        Gateway::configured(EMPTY, |config| config.api.private_metrics = Some(true)).await;
    Caller::new(&gateway, None).get("/metrics").await.expect(401);
    let own = Caller::with_scopes(&gateway, "acme", &["admin"]).await;
    own.get("/metrics").await.expect(403);
    Caller::admin(&gateway).get("/metrics").await.expect(200);
}

#[tokio::test]
async fn public_listener_keeps_its_metrics_private() {
    let gateway =
        Gateway::configured(EMPTY, |config| config.listen = ([0, 0, 0, 0], 0).into()).await;
    Caller::new(&gateway, None).get("/metrics").await.expect(401);
    Caller::admin(&gateway).get("/metrics").await.expect(200);
    let open = Gateway::configured(EMPTY, |config| {
        config.listen = ([0, 0, 0, 0], 0).into();
        config.api.private_metrics = Some(false);
    });
    Caller::new(&open.await, None).get("/metrics").await.expect(200);
}
