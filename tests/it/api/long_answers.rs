//! Long answers end with the right to read them, and hold up no stop. Beside them: ids that two projects
//! have.

use std::time::{Duration, Instant};

use http::Method;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use jiff::SignedDuration;
use serde_json::{Value, json};

use super::{EMPTY, NOWHERE, rows};
use crate::harness::{PATIENCE, caller::Caller, gateway::Gateway};

const WITH_SOURCE: &str = "version: 1\nproject: acme\nsources: [{ name: app, kind: api }]\n";

async fn follow(reader: &Caller) -> Incoming {
    let (status, _, body) = reader.open(Method::GET, "/api/v1/tail", &[], "").await;
    assert_eq!(status.as_u16(), 200);
    body
}

/// All that a stream says until it ends.
async fn rest(mut body: Incoming) -> String {
    let mut text = String::new();
    let reading = async {
        while let Some(Ok(frame)) = body.frame().await {
            if let Some(data) = frame.data_ref() {
                text.push_str(std::str::from_utf8(data).unwrap());
            }
        }
    };
    tokio::time::timeout(PATIENCE, reading).await.expect("the stream never ends");
    text
}

async fn publish(root: &Caller, payload: Value) {
    let event = json!({"type": "a", "payload": payload});
    root.post("/api/v1/events?project=acme", &event).await.expect(202);
}

#[tokio::test]
async fn a_tail_ends_when_its_key_is_deleted() {
    let gateway = Gateway::start(WITH_SOURCE, NOWHERE).await;
    let root = Caller::admin(&gateway);
    let reader = Caller::with_scopes(&gateway, "acme", &["read"]).await;
    let body = follow(&reader).await;
    publish(&root, json!("before")).await;

    let keys = rows(&root.get("/api/v1/keys?project=acme").await);
    let id = keys[0]["id"].as_str().unwrap();
    root.delete(&format!("/api/v1/keys/{id}?project=acme")).await.expect(204);
    publish(&root, json!("afterwards")).await;

    let text = rest(body).await;
    assert!(text.contains("before") && !text.contains("afterwards"), "{text}");
    assert!(
        text.ends_with("event: end\ndata: {\"reason\":\"the API key was deleted\"}\n\n"),
        "{text}"
    );
}

#[tokio::test]
async fn a_tail_ends_when_its_key_expires() {
    let gateway = Gateway::start(WITH_SOURCE, NOWHERE).await;
    let root = Caller::admin(&gateway);
    let end = gateway.now() + SignedDuration::from_mins(5);
    let spec = json!({"name": "k", "scopes": ["read"], "expires_at": end});
    let made = root.post("/api/v1/keys?project=acme", &spec).await.expect(201).json();
    let reader = Caller::new(&gateway, made["key"].as_str());
    let body = follow(&reader).await;

    gateway.clock.advance(SignedDuration::from_mins(5));
    publish(&root, json!("afterwards")).await;

    let text = rest(body).await;
    assert!(!text.contains("afterwards") && text.contains("the API key has expired"), "{text}");
}

#[tokio::test]
async fn a_tail_ends_when_its_project_is_deleted() {
    let gateway = Gateway::start(EMPTY, NOWHERE).await;
    let root = Caller::admin(&gateway);
    root.post("/api/v1/projects", &json!({"name": "b"})).await.expect(201);
    let (_, _, body) = root.open(Method::GET, "/api/v1/tail?project=b", &[], "").await;
    root.delete("/api/v1/projects/b").await.expect(204);
    let text = rest(body).await;
    assert!(text.contains("the project was deleted"), "{text}");
}

#[tokio::test]
async fn an_open_tail_holds_up_no_stop() {
    let gateway = Gateway::start(WITH_SOURCE, NOWHERE).await;
    let reader = Caller::with_scopes(&gateway, "acme", &["read"]).await;
    let body = follow(&reader).await;
    let reading = tokio::spawn(rest(body));

    let began = Instant::now();
    gateway.app.stop().await;

    // The drain is fifteen seconds.
    assert!(began.elapsed() < Duration::from_secs(7), "{:?}", began.elapsed());
    let text = reading.await.unwrap();
    assert!(text.contains("event: end\ndata: {\"reason\":\"the gateway stops\"}"), "{text}");
}

#[tokio::test]
async fn an_export_ends_when_its_key_is_deleted() {
    // Given more than the sockets' buffers hold,
    let gateway = Gateway::start(WITH_SOURCE, NOWHERE).await;
    let root = Caller::admin(&gateway);
    for _ in 0..30 {
        publish(&root, json!("x".repeat(1_000_000))).await;
    }
    let reader = Caller::with_scopes(&gateway, "acme", &["read"]).await;
    let (_, _, mut body) = reader.open(Method::GET, "/api/v1/events/export", &[], "").await;
    body.frame().await.unwrap().unwrap();

    let keys = rows(&root.get("/api/v1/keys?project=acme").await);
    let id = keys[0]["id"].as_str().unwrap();
    root.delete(&format!("/api/v1/keys/{id}?project=acme")).await.expect(204);

    let text = rest(body).await;
    assert!(text.len() < 30_000_000, "{}", text.len());
    let last = text.trim_end().rsplit('\n').next().unwrap();
    let last: Value = serde_json::from_str(last).unwrap();
    assert_eq!(last["error"], "the export ends here: the API key was deleted");
}

#[tokio::test]
async fn an_id_of_two_projects_is_found_in_each() {
    let gateway = Gateway::start(WITH_SOURCE, NOWHERE).await;
    let root = Caller::admin(&gateway);
    root.post("/api/v1/projects", &json!({"name": "b"})).await.expect(201);
    root.post("/api/v1/sources?project=b", &json!({"name": "app", "kind": "api"}))
        .await
        .expect(201);
    let first = json!({"type": "a", "payload": 1});
    let id =
        root.post("/api/v1/events?project=acme", &first).await.expect(202).json()["id"].clone();
    let second = json!({"type": "a", "payload": 2, "id": id});
    root.post("/api/v1/events?project=b", &second).await.expect(202);
    for (project, payload) in [("acme", 1), ("b", 2)] {
        let path = format!("/api/v1/events/{}?project={project}", id.as_str().unwrap());
        assert_eq!(root.get(&path).await.expect(200).json()["payload"], payload);
    }
}

#[tokio::test]
async fn a_destination_of_another_project_is_not_named() {
    let gateway = Gateway::start(EMPTY, NOWHERE).await;
    let root = Caller::admin(&gateway);
    root.post("/api/v1/projects", &json!({"name": "b"})).await.expect(201);
    let spec = json!({"name": "secret-name", "kind": "webhook", "url": NOWHERE});
    let made = root.post("/api/v1/destinations?project=b", &spec).await.expect(201).json();
    let id = made["id"].as_str().unwrap();
    let own = Caller::with_scopes(&gateway, "acme", &["read", "operate"]).await;
    let replay = json!({"selection": {"destination": id}});
    let answer = own.post("/api/v1/replays", &replay).await.expect(202);
    assert!(!answer.text.contains("secret-name"), "{}", answer.text);
    assert!(!own.get("/api/v1/replays").await.text.contains("secret-name"));
    for path in ["deliveries", "dead-letters", "attempts"] {
        let answer = own.get(&format!("/api/v1/{path}?destination={id}")).await;
        assert!(!answer.text.contains("secret-name"), "{}", answer.text);
    }
}
