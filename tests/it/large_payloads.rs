//! Payloads that are as large as they may be and break their schema: each is answered in bounded memory, off the
//! threads that serve others.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Method;
use serde_json::{Value, json};

use crate::harness::{caller::Caller, gateway::Gateway};

const RESOURCES: &str = "version: 1\nproject: acme\nsources: [{ name: app, kind: api }]\n";
/// What all of these may take together. Before there was a bound, each of them took gigabytes.
const MOST_MEMORY: usize = 600 << 20;

/// The event types of the test, each with the payload that was worst for it.
fn attacks() -> Vec<(&'static str, Value, String)> {
    let shape =
        |it: usize| json!({ "type": "object", "required": [format!("a{it}"), format!("b{it}")] });
    let shapes: Vec<Value> = (0..6).map(shape).collect();
    let consts =
        |count: usize| -> Vec<Value> { (0..count).map(|it| json!({ "const": it })).collect() };
    let list = |element: &str, bytes: usize| {
        let count = bytes / (element.len() + 1);
        format!("[{}]", vec![element; count].join(","))
    };
    vec![
        ("a.shapes", json!({ "items": { "oneOf": shapes } }), list("{}", 1_000_000)),
        ("a.consts", json!({ "items": { "anyOf": consts(300) } }), list("-1", 50_000)),
        ("a.more", json!({ "items": { "anyOf": consts(1500) } }), list("-1", 540_000)),
        ("a.texts", json!({ "items": { "type": "string" } }), list("1", 1_000_000)),
        (
            "a.within",
            json!({ "oneOf": [{ "items": { "type": "string" } }, { "items": { "type": "null" } }] }),
            list("1", 1_000_000),
        ),
    ]
}

/// The most memory that this process ever had, in bytes.
fn peak() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|it| it.strip_prefix("VmHWM:")).unwrap_or("0");
    let kib: usize = line.trim().trim_end_matches("kB").trim().parse().unwrap_or(0);
    kib * 1024
}

struct Lab {
    gateway: Gateway,
    caller: Caller,
}

impl Lab {
    async fn new(validate: &str) -> Self {
        let gateway = Gateway::configured(RESOURCES, |it| it.ingest.event_bytes = 1_100_000).await;
        let caller = Caller::with_scopes(&gateway, "acme", &["ingest", "read", "admin"]).await;
        for (name, schema, _) in attacks() {
            let spec = json!({ "name": name, "schema": schema, "validate": validate });
            caller.post("/api/v1/event-types", &spec).await.expect(201);
        }
        Self { gateway, caller }
    }

    /// Posts an event whose payload is written out.
    fn post(
        &self,
        name: &str,
        payload: &str,
    ) -> impl Future<Output = (u16, Value)> + Send + 'static {
        let caller = self.caller.clone();
        let body = Bytes::from(format!(r#"{{"type":"{name}","payload":{payload}}}"#));
        async move {
            let json = [("content-type", "application/json")];
            let answer = caller.send(Method::POST, "/api/v1/events", &json, body).await;
            (answer.status.as_u16(), answer.json())
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_payloads_are_answered_while_others_go_on() {
    let lab = Lab::new("reject").await;
    let root = Caller::admin(&lab.gateway);
    root.post("/api/v1/projects", &json!({ "name": "other" })).await.expect(201);
    let source = json!({ "name": "app", "kind": "api" });
    root.post("/api/v1/sources?project=other", &source).await.expect(201);
    let other = Caller::with_scopes(&lab.gateway, "other", &["ingest"]).await;
    let before = peak();

    let attacks: Vec<_> = attacks()
        .into_iter()
        .map(|(name, _, payload)| (name, tokio::spawn(lab.post(name, &payload))))
        .collect();
    let mut slowest = Duration::ZERO;
    while attacks.iter().any(|it| !it.1.is_finished()) {
        let start = Instant::now();
        other.get("/healthz").await.expect(200);
        let event = json!({ "type": "a.small", "payload": {} });
        other.post("/api/v1/events", &event).await.expect(202);
        slowest = slowest.max(start.elapsed());
    }
    for (name, answer) in attacks {
        let (status, answer) = answer.await.unwrap();
        assert_eq!(status, 422, "{name}: {answer}");
        let errors = answer["errors"].as_array().unwrap();
        assert!((1..=10).contains(&errors.len()), "{name}: {answer}");
        let is_too_large = errors[0]["rule"].as_str().unwrap().contains("must be smaller");
        assert_eq!(is_too_large, name == "a.more", "{name}: {answer}");
    }
    // On a machine that compiles beside, without optimisation; it was the sum of all checks.
    assert!(slowest < Duration::from_secs(5), "{slowest:?}");
    assert!(peak() - before < MOST_MEMORY, "{} of {before}", peak());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_payload_too_large_to_check_is_kept_with_a_flag() {
    let lab = Lab::new("flag").await;
    for (name, _, payload) in attacks().into_iter().skip(1).take(2) {
        let (status, answer) = lab.post(name, &payload).await;
        assert_eq!(status, 202, "{name}: {answer}");
        let id = answer["id"].as_str().unwrap();
        let kept = lab.caller.get(&format!("/api/v1/events/{id}")).await.expect(200).json();
        let errors = kept["metadata"]["schema_errors"].as_array().unwrap();
        let is_too_large = errors[0].as_str().unwrap().contains("smaller to be validated");
        assert_eq!((is_too_large, errors.len() <= 10), (name == "a.more", true), "{errors:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_keeps_its_order_where_some_take_longer() {
    let lab = Lab::new("reject").await;
    let small = |valid: bool| json!({ "type": "a.texts", "payload": [if valid { json!("a") } else { json!(1) }] });
    let large = json!({ "type": "a.texts", "payload": vec!["a"; 40_000] });
    let events = json!([small(true), large, small(false), small(true)]);
    let answer = lab.caller.post("/api/v1/events/batch", &events).await.expect(202).json();
    let statuses: Vec<_> = answer["results"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| it["status"].as_str().unwrap())
        .collect();
    assert_eq!(statuses, ["accepted", "accepted", "rejected", "accepted"], "{answer}");
}
