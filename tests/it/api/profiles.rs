//! Profiles over the API: their values, their limits, and how their secrets rotate.

use serde_json::{Value, json};

use super::{EMPTY, empty, rows};
use crate::harness::{
    caller::Caller,
    gateway::{Gateway, SECRET},
};

fn hook(name: &str, profile: &str) -> Value {
    let url = format!("https://{name}.example/");
    json!({"name": name, "kind": "webhook", "profile": profile, "url": url})
}

#[tokio::test]
async fn a_destination_shows_every_value_that_its_profile_has() {
    let (_gateway, admin) = empty().await;
    let profiles = rows(&admin.get("/api/v1/profiles").await.expect(200));
    assert_eq!(profiles.len(), 6);
    for profile in profiles {
        let word = profile["profile"].as_str().unwrap();
        let made = admin.post("/api/v1/destinations", &hook(word, word)).await.expect(201).json();
        let values = profile["values"].as_object().unwrap();
        assert!(values.len() >= 16, "{values:?}");
        for (field, value) in values {
            assert_eq!(&made[field], value, "{word}: {field}");
        }
        // What is shown can be sent back, and what is left out is the profile's again.
        let one = format!("/api/v1/destinations/{word}");
        let mut other = hook(word, word);
        other["timeout"] = json!("4s");
        assert_eq!(admin.put(&one, &other).await.expect(200).json()["timeout"], "4s");
        let back = admin.put(&one, &hook(word, word)).await.expect(200).json();
        assert_eq!(back["timeout"], values["timeout"], "{word}");
    }
}

#[tokio::test]
async fn the_51st_active_endpoint_of_admin_is_refused_until_another_is_disabled() {
    let (_gateway, admin) = empty().await;
    for place in 0..50 {
        let hook = hook(&format!("hook-{place}"), "admin");
        admin.post("/api/v1/destinations", &hook).await.expect(201);
    }
    let refused = admin.post("/api/v1/destinations", &hook("late", "admin")).await.expect(400);
    let error = &refused.json()["errors"][0];
    assert_eq!(error["field"], "profile");
    assert!(error["rule"].as_str().unwrap().contains("at most 50 active"), "{error}");

    // Neither a file nor a change of profile gets around it; other profiles do not count.
    let other = admin.post("/api/v1/destinations", &hook("late", "standard")).await.expect(201);
    assert_eq!(other.json()["state"], "active");
    admin.put("/api/v1/destinations/late", &hook("late", "admin")).await.expect(400);
    let file = json!({"resources": {
        "version": 1, "project": "acme", "destinations": [hook("by-file", "admin")],
    }});
    admin.post("/api/v1/apply", &file).await.expect(400);
    // What is there already may change.
    let mut change = hook("hook-7", "admin");
    change["timeout"] = json!("4s");
    admin.put("/api/v1/destinations/hook-7", &change).await.expect(200);

    // A disabled one frees its place, and has none when it comes back.
    let disable = "/api/v1/destinations/hook-0/disable";
    admin.post(disable, &json!({})).await.expect(200);
    admin.post("/api/v1/apply", &file).await.expect(200);
    let enable = "/api/v1/destinations/hook-0/enable";
    let refused = admin.post(enable, &json!({})).await.expect(409);
    assert!(refused.text.contains("resources.admin_endpoints"), "{}", refused.text);
    admin.delete("/api/v1/destinations/by-file").await.expect(204);
    admin.post(enable, &json!({})).await.expect(200);
}

#[tokio::test]
async fn an_operator_sets_how_many_endpoints_a_project_has() {
    let gateway = Gateway::configured(EMPTY, |config| config.resources.endpoints = 6).await;
    let admin = Caller::with_scopes(&gateway, "acme", &["admin"]).await;
    let mut five = hook("five", "segment");
    five.as_object_mut().unwrap().remove("url");
    five["urls"] = (0..5).map(|it| json!(format!("https://{it}.example/"))).collect();
    let made = admin.post("/api/v1/destinations", &five).await.expect(201).json();
    assert_eq!(made["urls"].as_array().unwrap().len(), 5);
    admin.post("/api/v1/destinations", &hook("six", "standard")).await.expect(201);
    let refused = admin.post("/api/v1/destinations", &hook("seven", "standard")).await.expect(400);
    assert_eq!(refused.json()["errors"][0]["field"], "url");
}

#[tokio::test]
async fn a_scheme_that_carries_one_signature_changes_its_secret_at_a_chosen_moment() {
    let (gateway, admin) = empty().await;
    for profile in ["admin", "segment"] {
        let mut made = hook(profile, profile);
        made["signed"] = json!(true);
        admin.post("/api/v1/destinations", &made).await.expect(201);
        let path = format!("/api/v1/destinations/{profile}/rotate-secret");
        let refused = admin.post(&path, &json!({"overlap": "1h"})).await.expect(400).json();
        assert_eq!(refused["errors"][0]["field"], "overlap");
        let past = json!({"at": "2020-01-01T00:00:00Z"});
        assert_eq!(admin.post(&path, &past).await.expect(400).json()["errors"][0]["field"], "at");

        let moment = "2026-12-01T00:00:00Z";
        let given = json!({"at": moment, "secret": "canary s3cret"});
        let rotated = admin.post(&path, &given).await.expect(200).json();
        assert_eq!(rotated["signing_secret"], "canary s3cret");
        let keys = &rotated["signing_keys"];
        assert_eq!(keys.as_array().unwrap().len(), 2);
        assert_eq!(
            (&keys[0]["active_from"], &keys[0]["expires_at"]),
            (&json!(moment), &Value::Null)
        );
        assert_eq!(keys[1]["expires_at"], moment);
        let shown = admin.get(&format!("/api/v1/destinations/{profile}")).await;
        assert!(!shown.text.contains("canary"), "{}", shown.text);

        // Without a moment it is now, and nobody signs twice.
        let rotated = admin.post(&path, &json!({})).await.expect(200).json();
        assert_eq!(rotated["signing_keys"].as_array().unwrap().len(), 1);
        assert_eq!(rotated["signing_secret"].as_str().unwrap().len(), 64);
    }
    drop(gateway);
}

#[tokio::test]
async fn a_scheme_that_carries_several_signs_with_both_for_a_while() {
    let (_gateway, admin) = empty().await;
    for (profile, wrong) in [("standard", "hunter2"), ("ingestlayer", "")] {
        let mut made = hook(profile, profile);
        made["secret"] = json!(SECRET);
        admin.post("/api/v1/destinations", &made).await.expect(201);
        let path = format!("/api/v1/destinations/{profile}/rotate-secret");
        let refused = admin.post(&path, &json!({"secret": wrong})).await.expect(400).json();
        assert_eq!(refused["errors"][0]["field"], "secret");
        let at = json!({"at": "2026-02-01T00:00:00Z", "overlap": "1h"});
        let rotated = admin.post(&path, &at).await.expect(200).json();
        let secret = rotated["signing_secret"].as_str().unwrap();
        assert_eq!(secret.starts_with("whsec_"), profile == "standard");
        let keys = &rotated["signing_keys"];
        assert_eq!(keys[0]["active_from"], "2026-02-01T00:00:00Z");
        assert_eq!(keys[1]["expires_at"], "2026-02-01T01:00:00Z");
        let rotated = admin.post(&path, &json!({})).await.expect(200).json();
        assert_eq!(rotated["signing_keys"][1]["expires_at"], "2026-01-02T00:00:00Z");
    }
}
