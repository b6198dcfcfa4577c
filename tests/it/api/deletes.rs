//! What is lost with a destination is told, and what a dry run shows of signatures.

use http::Method;
use serde_json::{Value, json};

use crate::harness::{caller::Caller, gateway::Gateway, sink::Sink};

/// A gateway with two events that wait for `sink`.
async fn waiting() -> (Sink, Gateway, Caller) {
    let sink = Sink::new().await;
    let gateway = Gateway::delivering_to(&sink.url("/"), "").await;
    let admin = Caller::with_scopes(&gateway, "acme", &["admin"]).await;
    admin.post("/api/v1/destinations/sink/pause", &json!({})).await.expect(200);
    for number in 0..2 {
        gateway.publish("a", json!(number)).await;
    }
    gateway.idle().await;
    (sink, gateway, admin)
}

/// How many deliveries a change of the sink cancels.
fn cancels(difference: &Value) -> Value {
    let changes = difference["changes"].as_array().unwrap();
    let deleted = changes.iter().find(|it| it["kind"] == "destination").unwrap();
    assert_eq!(deleted["action"], "delete");
    deleted["cancels"].clone()
}

#[tokio::test]
async fn a_file_that_deletes_a_destination_says_what_it_cancels() {
    let (_sink, _gateway, admin) = waiting().await;
    let resources =
        json!({"version": 1, "project": "acme", "sources": [{"name": "app", "kind": "api"}]});
    let request = json!({"resources": resources, "prune": true});
    let planned = admin.post("/api/v1/plan", &request).await.expect(200).json();
    assert_eq!(cancels(&planned), 2);
    let applied = admin.post("/api/v1/apply", &request).await.expect(200).json();
    assert_eq!(cancels(&applied), 2);
}

#[tokio::test]
async fn a_deleted_destination_says_what_it_cancels() {
    let (_sink, _gateway, admin) = waiting().await;
    admin.delete("/api/v1/pipelines/all").await.expect(204);
    let gone = admin.delete("/api/v1/destinations/sink").await.expect(204);
    assert_eq!(gone.headers["tidegate-cancelled-deliveries"], "2");
}

#[tokio::test]
async fn a_deleted_project_says_what_it_cancels() {
    let (_sink, gateway, _admin) = waiting().await;
    let gone = Caller::admin(&gateway).delete("/api/v1/projects/acme").await.expect(204);
    assert_eq!(gone.headers["tidegate-cancelled-deliveries"], "2");
}

#[tokio::test]
async fn a_dry_run_shows_signatures_to_admins_only() {
    let (_sink, gateway, admin) = waiting().await;
    let operator = Caller::with_scopes(&gateway, "acme", &["operate", "read"]).await;
    let body = json!({"event": {"type": "a", "payload": {"anything": true}}}).to_string();
    for (caller, is_shown) in [(&operator, false), (&admin, true)] {
        let path = "/api/v1/pipelines/all/test";
        let tried = caller.send(Method::POST, path, &[], body.clone()).await.expect(200).json();
        let headers = &tried["routes"][0]["messages"][0]["requests"][0]["headers"];
        let signature = headers["webhook-signature"].as_str().unwrap();
        assert_eq!(signature.starts_with("v1,"), is_shown, "{signature}");
        assert_eq!(signature == "…", !is_shown, "{signature}");
    }
}
