//! Nothing crosses a project: tried on every route there is, so that a new one is tried, too.

use std::collections::BTreeMap;

use http::Method;
use jiff::SignedDuration;
use serde_json::{Value, json};
use tidegate::api;

use crate::harness::{caller::Caller, gateway::Gateway, sink::Sink};

/// Routes that need no key, or another proof: `/in/…` judges the sender's signature.
const OPEN: [&str; 5] = ["/healthz", "/readyz", "/metrics", "/api/v1/openapi.json", "/in/{source}"];
/// It answers for as long as one listens; `the_tail_shows_what_happens_in_ones_own_project` tries it.
const ENDLESS: &str = "/api/v1/tail";

/// Routes that need a key, with what stands for `{…}`.
fn guarded(ids: &BTreeMap<&str, String>) -> Vec<(Method, String)> {
    let routes = api::route_list().into_iter().filter(|(_, path)| !OPEN.contains(path));
    let filled = routes.map(|(method, path)| {
        // A number tells nothing about whose it is.
        let mut filled = path.replace("{version}", "1");
        for (name, id) in ids {
            filled = filled.replace(&format!("{{{name}}}"), id);
        }
        assert!(!filled.contains('{'), "nothing stands for the parameter of {path}");
        (method, filled)
    });
    filled.collect()
}

/// A gateway with the projects `acme`, which has one of everything, and `b`, which has nothing. With
/// the ids of what `acme` has, by the parameter that names it.
async fn two_projects() -> (Gateway, Sink, BTreeMap<&'static str, String>) {
    let sink = Sink::new().await;
    let gateway = Gateway::delivering_to(&sink.url("/"), "").await;
    let root = Caller::admin(&gateway);
    let id = |value: &Value| value["id"].as_str().unwrap().to_owned();
    let event_type =
        root.post("/api/v1/event-types", &json!({"name": "a.secret"})).await.expect(201);
    let key =
        root.post("/api/v1/keys", &json!({"name": "secret", "scopes": ["read"]})).await.expect(201);
    let table = json!({"name": "secret-users", "kind": "table"});
    let lookup = root.post("/api/v1/lookups", &table).await.expect(201);
    let rows = "/api/v1/directory/secret-users";
    root.post(rows, &json!({"id": key.json()["id"], "is": "secret"})).await.expect(200);
    let event = gateway.publish("a.secret", json!("secret")).await;
    gateway.idle().await;
    gateway.clock.advance(SignedDuration::from_secs(1));
    let record = root.get(&format!("/api/v1/events/{event}")).await.expect(200).json();
    let replay = root.post(&format!("/api/v1/events/{event}/replay"), &json!({})).await.expect(202);
    let forget = json!({"user_id": "nobody", "then": "keep"});
    let deletion = root.post("/api/v1/deletions", &forget).await.expect(202);
    // Its notification is the third request, after the event and its replay.
    sink.received_at_least(3).await;
    gateway.idle().await;
    let first = async |path: &str| id(&root.get(path).await.expect(200).json()["data"][0]);
    let ids = BTreeMap::from([
        ("project", first("/api/v1/projects").await),
        ("source", first("/api/v1/sources").await),
        ("destination", first("/api/v1/destinations").await),
        ("pipeline", first("/api/v1/pipelines").await),
        ("event_type", id(&event_type.json())),
        ("key", id(&key.json())),
        ("event", event.to_string()),
        ("delivery", id(&record["deliveries"][0])),
        ("replay", id(&replay.json())),
        ("lookup", id(&lookup.json())),
        ("table", "secret-users".to_owned()),
        ("deletion", id(&deletion.json())),
    ]);
    root.post("/api/v1/projects", &json!({"name": "b"})).await.expect(201);
    (gateway, sink, ids)
}

#[tokio::test]
async fn the_key_of_one_project_reaches_nothing_of_another() {
    let (gateway, sink, ids) = two_projects().await;
    let before = gateway.app.catalog_writer.current();
    let received = sink.received().len();
    let stranger =
        Caller::with_scopes(&gateway, "b", &["ingest", "read", "operate", "admin"]).await;
    let own_keys = gateway.app.catalog_writer.current().keys.len();

    let mut tried = 0;
    for (method, path) in guarded(&ids) {
        if path == ENDLESS {
            continue;
        }
        let names_one = ids.values().any(|id| path.contains(id.as_str()));
        for body in ["", "{}", r#"{"name":"app","kind":"api"}"#] {
            let answer = stranger.send(method.clone(), &path, &[], body).await;
            let it = format!("{method} {path} {body}: {} {}", answer.status, answer.text);
            if names_one {
                // Wrong bodies may be found before the resource is looked for.
                assert!([400, 403, 404].contains(&answer.status.as_u16()), "{it}");
            }
            let mut about = answer.text.clone();
            if answer.status.is_client_error() {
                // A problem says nothing of anyone, but for the key's own words.
                assert!(!answer.problem().is_empty());
                about = about.replace("/problems/", "");
            }
            for (name, id) in &ids {
                assert!(!about.contains(id.as_str()), "{name} shows in {it}");
            }
            // The kinds are the same for everybody, and name the fields that hold secrets.
            if path != "/api/v1/destination-kinds" {
                // What a profile does without a secret is no secret.
                let about = about.replace("\"without_secret\"", "");
                assert!(!about.contains("secret\""), "{it}");
            }
            tried += 1;
        }
    }
    assert!(tried > 150, "{tried}");

    // To name the other project does not help, nor does any other way to say it.
    for (header, query) in [(ids["project"].as_str(), ""), ("acme", ""), ("", "?project=acme")] {
        let headers: &[(&str, &str)] =
            if header.is_empty() { &[] } else { &[("tidegate-project", header)] };
        let answer =
            stranger.send(Method::GET, &format!("/api/v1/events{query}"), headers, "").await;
        assert_eq!(answer.expect(403).problem(), "forbidden");
    }
    for body in [
        json!({"event": ids["event"]}),
        json!({"delivery": ids["delivery"]}),
        json!({"selection": {"destination": "sink"}}),
    ] {
        stranger.post("/api/v1/replays", &body).await.expect(404);
    }
    let everything = json!({"selection": {"destination": ids["destination"]}, "dry_run": true});
    assert_eq!(stranger.post("/api/v1/replays", &everything).await.expect(200).json()["total"], 0);
    for path in ["deliveries", "attempts", "dead-letters"] {
        let path = format!("/api/v1/{path}?destination={}", ids["destination"]);
        assert_eq!(stranger.get(&path).await.expect(200).json()["data"], json!([]));
    }

    // And nothing of it has changed.
    gateway.idle().await;
    let after = gateway.app.catalog_writer.current();
    assert_eq!(before.destinations, after.destinations);
    assert_eq!(before.pipelines, after.pipelines);
    assert_eq!(before.event_types, after.event_types);
    assert_eq!(before.lookups, after.lookups);
    assert_eq!(before.projects, after.projects);
    assert_eq!(after.keys.len(), own_keys);
    assert_eq!(sink.received().len(), received);
}

#[tokio::test]
async fn without_a_key_nothing_opens() {
    let (gateway, _sink, ids) = two_projects().await;
    let nobody = Caller::new(&gateway, None);
    for (method, path) in guarded(&ids) {
        let answer = nobody.send(method.clone(), &path, &[], "{}").await;
        assert_eq!(answer.expect(401).problem(), "unauthorized", "{method} {path}");
    }
}

#[tokio::test]
async fn a_key_without_the_scope_opens_nothing_that_needs_it() {
    let (gateway, _sink, ids) = two_projects().await;
    let reader = Caller::with_scopes(&gateway, "acme", &["read"]).await;
    let sender = Caller::with_scopes(&gateway, "acme", &["ingest"]).await;
    let operator = Caller::with_scopes(&gateway, "acme", &["operate"]).await;
    let verbs =
        ["pause", "resume", "enable", "disable", "test", "verify", "replay", "replays", "cancel"];
    for (method, path) in guarded(&ids) {
        let is_ingest = method == Method::POST
            && ["/api/v1/events", "/api/v1/events/batch"].contains(&path.as_str());
        let is_operation = method != Method::GET && path.starts_with("/api/v1/directory/")
            || method == Method::POST
                && verbs.iter().any(|verb| path.ends_with(&format!("/{verb}")));
        for (caller, may) in
            [(&reader, method == Method::GET), (&sender, is_ingest), (&operator, is_operation)]
        {
            if !may {
                let answer = caller.send(method.clone(), &path, &[], "{}").await;
                assert_eq!(answer.status, 403, "{method} {path}: {}", answer.text);
            }
        }
    }
}
