//! Resources: made, changed, deleted, and applied as a file; and their secrets, which never come back.

use http::Method;
use serde_json::{Value, json};
use tidegate::resources::File;

use super::{NOWHERE, column, empty, rows};
use crate::harness::{
    caller::Caller,
    gateway::{Gateway, SECRET},
};

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
        ("pipelines", json!({"name": "a", "on": [], "routes": [{"to": "nobody"}]}), "on"),
        ("pipelines", json!({"name": "a", "sources": [], "routes": [{"to": "nobody"}]}), "sources"),
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

/// An empty list could be meant to say "none", and used to say "all".
#[test]
fn an_empty_trigger_is_refused_in_a_file() {
    for list in ["on", "sources"] {
        let text = format!(
            "version: 1\nproject: acme\npipelines:\n  - {{ name: a, {list}: [], routes: [{{ to: b }}] }}\n"
        );
        let error = File::read("a.yaml", &text, &|_| None).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains(list) && error.contains("leave it out"), "{error}");
    }
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
    assert_eq!(gateway.app.catalog_writer.current().sources.len(), 0);
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

    let mut done = admin.send(Method::POST, "/api/v1/apply", &yaml, file).await.expect(200).json();
    let made = done.as_object_mut().unwrap().remove("new_secrets").unwrap();
    assert_eq!(made[0]["destination"], "crm");
    assert!(made[0]["secret"].as_str().unwrap().starts_with("whsec_"), "shown once");
    assert_eq!(done, plan);
    let again = admin.send(Method::POST, "/api/v1/apply", &yaml, file).await.expect(200).json();
    assert_eq!(again.get("new_secrets"), None);
    let exported = admin.get("/api/v1/export").await.expect(200).text;
    assert!(exported.contains("name: crm"), "{exported}");
    assert!(exported.starts_with("# Secrets are not exported."), "{exported}");
    assert!(exported.contains("#   export CRM_SECRET=…\n"), "{exported}");
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
