//! Versions of pipelines: told, compared, brought back, kept over a restart, and bounded.

use http::Method;
use serde_json::{Value, json};

use super::World;
use crate::harness::caller::Caller;

#[tokio::test]
async fn each_change_is_a_version_that_can_be_compared_and_brought_back() {
    // Given two changes by two people, and one that changes nothing
    let world = World::new().await;
    let mut spec = world.spec().await;
    let first = spec.clone();
    spec["when"] = json!("payload.plan != \"free\"");
    assert_eq!(world.put(&spec, "").await.status, 200);
    assert_eq!(world.put(&spec, "").await.body["version"], 2);
    let keeper = Caller::with_scopes(&world.gateway, "acme", &["admin"]).await;
    spec["steps"][1]["transform.js"] =
        json!("export default function (event) {\n  return event;\n}\n");
    let path = "/api/v1/pipelines/signups?confirm=failing-tests";
    let json = [("content-type", "application/json")];
    keeper.send(Method::PUT, path, &json, spec.to_string()).await.expect(200);
    // Then each is told with its author, also after a restart
    let gateway = world.gateway.restart().await;
    let world = World { gateway, ..world };
    let versions = world.gateway.get("/api/v1/pipelines/signups/versions").await.body;
    let told: Vec<Value> = (versions["data"].as_array().unwrap().iter())
        .map(|it| {
            json!([it["version"], it["current"], it["saved_by"]["kind"], it["saved_by"]["name"]])
        })
        .collect();
    let expected = json!([
        [3, true, "key", "k-admin"],
        [2, false, "admin_key", null],
        [1, false, "file", null]
    ]);
    assert_eq!(Value::from(told), expected);
    let second = world.gateway.get("/api/v1/pipelines/signups/versions/2").await.body;
    assert_eq!(second["pipeline"]["when"], "payload.plan != \"free\"");
    // And they can be compared
    let diff = world.gateway.get("/api/v1/pipelines/signups/diff?from=1&to=2").await.body;
    let change = json!({"path": "when", "before": "payload.plan != \"internal\"", "after": "payload.plan != \"free\""});
    assert_eq!(diff["changes"], json!([change]));
    let text = diff["text"].as_str().unwrap();
    assert!(text.contains("\n-when: ") && text.contains("\n+when: "), "{text}");
    let diff = world.gateway.get("/api/v1/pipelines/signups/diff").await.body;
    assert_eq!((&diff["from"], &diff["to"]), (&json!(2), &json!(3)));
    assert!(diff["text"].as_str().unwrap().contains("console.log"), "{diff}");
    assert!(
        diff["text"]
            .as_str()
            .unwrap()
            .lines()
            .any(|it| it.trim_start_matches('+').trim() == "return event;"),
        "{}",
        diff["text"].as_str().unwrap()
    );
    // And brought back, as a version of its own
    let back =
        world.gateway.post("/api/v1/pipelines/signups/rollback", json!({"version": 1})).await;
    assert_eq!((back.status.as_u16(), &back.body["version"]), (200, &json!(4)), "{}", back.body);
    assert_eq!(world.spec().await, first);
    let again =
        world.gateway.post("/api/v1/pipelines/signups/rollback", json!({"version": 1})).await;
    assert_eq!(again.body["version"], 4);
    let missing =
        world.gateway.post("/api/v1/pipelines/signups/rollback", json!({"version": 9})).await;
    assert_eq!(missing.status, 404);
}

#[tokio::test]
async fn a_version_that_names_what_is_gone_or_fails_its_tests_does_not_come_back_unasked() {
    let world = World::new().await;
    let mut spec = world.spec().await;
    spec["tests"] = json!([]);
    spec["routes"] = json!([{"to": "crm"}]);
    assert_eq!(world.put(&spec, "").await.status, 200);
    let gone = world.gateway.send("DELETE", "/api/v1/destinations/audit", &[], None).await;
    assert_eq!(gone.status, 204, "{}", gone.body);
    let before = world.pipeline().await;
    let refused =
        world.gateway.post("/api/v1/pipelines/signups/rollback", json!({"version": 1})).await;
    assert_eq!(
        (refused.status.as_u16(), &refused.body["type"]),
        (409, &json!("/problems/conflict"))
    );
    let detail = "version 1 does not fit what is there now: the destination `audit` is gone";
    assert_eq!(refused.body["detail"], detail);
    assert_eq!(world.pipeline().await, before);
    // A version that never passed its tests asks again.
    spec["tests"] =
        json!([{"name": "no", "event": {"type": "user.x"}, "expect": {"routes": ["crm"]}}]);
    assert_eq!(world.put(&spec, "?confirm=failing-tests").await.body["version"], 3);
    spec["tests"] = json!([]);
    assert_eq!(world.put(&spec, "").await.body["version"], 4);
    let path = "/api/v1/pipelines/signups/rollback";
    let refused = world.gateway.post(path, json!({"version": 3})).await;
    assert_eq!(refused.body["type"], "/problems/failing-tests", "{}", refused.body);
    let path = "/api/v1/pipelines/signups/rollback?confirm=failing-tests";
    assert_eq!(world.gateway.post(path, json!({"version": 3})).await.body["version"], 5);
}

#[tokio::test]
async fn events_say_which_version_they_went_through() {
    let world = World::new().await;
    let first =
        world.gateway.publish("user.signed_up", json!({"plan": "pro", "email": "a@b.co"})).await;
    let mut spec = world.spec().await;
    spec["when"] = json!("payload.plan != \"free\"");
    assert_eq!(world.put(&spec, "").await.status, 200);
    let second =
        world.gateway.publish("user.signed_up", json!({"plan": "pro", "email": "a@b.co"})).await;
    for (id, version) in [(first, 1), (second, 2)] {
        let event = world.gateway.get(&format!("/api/v1/events/{id}")).await.body;
        assert_eq!(event["deliveries"][0]["pipeline_version"], version, "{event:#}");
        assert_eq!(event["skipped"][0]["pipeline_version"], version, "{event:#}");
    }
}

#[tokio::test]
async fn the_oldest_versions_go_and_those_of_a_deleted_pipeline_too() {
    let pipeline = "\n  - name: signups\n    routes: [{ to: crm }]\n";
    let world = World::with(pipeline).await;
    let mut spec = world.spec().await;
    for n in 0..202 {
        spec["when"] = json!(format!("payload.n == {n}"));
        assert_eq!(world.put(&spec, "").await.status, 200);
    }
    let versions = world.gateway.get("/api/v1/pipelines/signups/versions").await.body;
    let numbers: Vec<u64> = (versions["data"].as_array().unwrap().iter())
        .map(|it| it["version"].as_u64().unwrap())
        .collect();
    assert_eq!((numbers.len(), numbers[0], numbers[200]), (201, 203, 3));
    assert_eq!(world.gateway.get("/api/v1/pipelines/signups/versions/2").await.status, 404);
    let gone = world.gateway.send("DELETE", "/api/v1/pipelines/signups", &[], None).await;
    assert_eq!(gone.status, 204);
    let gateway = world.gateway.restart().await;
    assert!(gateway.app.catalog_writer.current().histories.is_empty());
}
