//! What one request may cost: time, memory and disk, by what it says and not by what it was meant to be.

use std::time::{Duration, Instant};

use http::Method;
use serde_json::{Value, json};

use crate::harness::{
    caller::{Answer, Caller},
    gateway::Gateway,
};

const RESOURCES: &str =
    "version: 1\nproject: acme\nsources: [{ name: web, kind: segment, write_key: wk_demo }]\n";
const BASIC: (&str, &str) = ("authorization", "Basic d2tfZGVtbzo=");
const WRONG: (&str, &str) = ("authorization", "Basic d2tfb3RoZXI6");

struct Lab {
    _gateway: Gateway,
    client: Caller,
    reader: Caller,
}

impl Lab {
    async fn new() -> Self {
        let gateway = Gateway::start(RESOURCES, "http://127.0.0.1:9/").await;
        let client = Caller::new(&gateway, None);
        let reader = Caller::with_scopes(&gateway, "acme", &["read"]).await;
        Self { _gateway: gateway, client, reader }
    }

    async fn post(&self, path: &str, headers: &[(&str, &str)], body: String) -> Answer {
        self.client.send(Method::POST, path, headers, body).await
    }

    async fn kept(&self) -> usize {
        let list = self.reader.get("/api/v1/events?limit=200").await.expect(200).json();
        list["data"].as_array().unwrap().len()
    }
}

fn codes(answer: &Answer) -> Vec<(u64, String)> {
    let rejected = answer.json()["rejected"].as_array().cloned().unwrap_or_default();
    let code =
        |it: &Value| (it["index"].as_u64().unwrap(), it["code"].as_str().unwrap().to_owned());
    rejected.iter().map(code).collect()
}

#[tokio::test]
async fn a_body_of_many_names_is_refused_at_once() {
    let lab = Lab::new().await;
    let names: Vec<_> = (0..40_000).map(|it| format!("\"{it}\":1")).collect();
    let wide = format!("{{{}}}", names.join(","));
    for (path, headers, status, code) in [
        ("/v1/track", &[][..], 400, "invalid_request"),
        ("/v1/batch", &[], 400, "invalid_request"),
        ("/v1/batch", &[WRONG], 401, "unknown_write_key"),
        ("/v1/track", &[BASIC], 400, "invalid_request"),
    ] {
        let began = Instant::now();
        let answer = lab.post(path, headers, wide.clone()).await;
        // It took 20 s in a build for tests, when each name was compared with each.
        assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
        let found = (answer.status.as_u16(), answer.json()["code"].clone());
        assert_eq!(found, (status, json!(code)), "{path} {}", answer.text);
    }
    assert_eq!(lab.kept().await, 0);
}

#[tokio::test]
async fn shared_fields_count_in_each_message() {
    let lab = Lab::new().await;
    let batch = |context: Value, count: usize| {
        let message = |it| json!({ "type": "page", "userId": "u", "messageId": format!("m{it}") });
        let messages: Vec<_> = (0..count).map(message).collect();
        json!({ "context": context, "batch": messages }).to_string()
    };
    // 180 KB in each of 2,500 messages were 450 MB on the disk.
    let large = batch(json!({ "k": "x".repeat(180_000) }), 2500);
    let answer = lab.post("/v1/batch", &[BASIC], large).await.expect(200);
    assert_eq!(codes(&answer)[0], (0, "message_too_large".to_owned()));
    assert!(answer.text.contains("`context`"), "{}", &answer.text[..300]);
    assert_eq!(lab.kept().await, 0);

    // 30 KB fit into each, and not into all.
    let many = batch(json!({ "k": "x".repeat(30_000) }), 20);
    let answer = lab.post("/v1/batch", &[BASIC], many).await.expect(200);
    assert_eq!(codes(&answer)[0], (8, "batch_too_large".to_owned()), "{}", answer.text);
    assert_eq!((codes(&answer).len(), lab.kept().await), (12, 8));

    // 6,000 names took 16.8 s, when they were laid under each message one by one.
    let context = (0..6000).map(|it| (format!("k{it}"), json!(1))).collect();
    let began = Instant::now();
    let answer = lab.post("/v1/batch", &[BASIC], batch(Value::Object(context), 200)).await;
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    assert_eq!(codes(&answer).len(), 100, "{}", answer.text);
}

#[tokio::test]
async fn a_single_call_answers_the_name_of_its_fault() {
    let lab = Lab::new().await;
    for (path, body, code) in [
        ("/v1/track", r#"{"userId":"u"}"#, "no_event"),
        ("/v1/page", "{}", "no_user_anon_id"),
        ("/v1/group", r#"{"userId":"u"}"#, "no_group_id"),
        ("/v1/alias", r#"{"userId":"u"}"#, "no_previous_id"),
        ("/v1/page", r#"{"userId":"u","type":"delete"}"#, "unknown_type"),
        ("/v1/page", r#"{"userId":"u","messageId":true}"#, "invalid_message_id"),
        ("/v1/page", r#"{"userId":"u","messageId":"\ud800"}"#, "invalid_message_id"),
    ] {
        let answer = lab.post(path, &[BASIC], body.to_owned()).await.expect(400);
        assert_eq!(answer.json()["code"], code, "{body}");
        assert_eq!(answer.json()["success"], false);
    }
    let large = json!({ "userId": "u", "x": "y".repeat(33 * 1024) }).to_string();
    let answer = lab.post("/v1/page", &[BASIC], large).await.expect(400);
    assert_eq!(answer.json()["code"], "message_too_large");
    assert_eq!(lab.kept().await, 0);
}

#[tokio::test]
async fn a_message_id_that_is_a_number_counts_once() {
    let lab = Lab::new().await;
    for _ in 0..2 {
        let body = r#"{"userId":"u","messageId":12345,"\ud800":{"x":1e400}}"#;
        lab.post("/v1/page", &[BASIC], body.to_owned()).await.expect(200);
    }
    assert_eq!(lab.kept().await, 1);
}
