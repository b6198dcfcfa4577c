//! JSON that a strict reader refuses, as senders write it: it hides nothing, and loses nothing.

use http::Method;
use serde_json::{Value, json};

use crate::harness::{PATIENCE, caller::Caller, gateway::Gateway, sink::Sink};

const RESOURCES: &str = r#"version: 1
project: acme
sources:
  - { name: app, kind: api, key: payload.order }
  - { name: hook, kind: webhook, verify: none, type: payload.kind, key: payload.id }
destinations:
  - { name: sink, kind: webhook, url: "${URL}", ordering: { key: payload.user.id } }
  - { name: ads, kind: webhook, url: "${URL}", integration: Ads }
pipelines:
  - name: pro
    on: ["*"]
    when: payload.plan == "pro"
    routes:
      - { to: sink, steps: [ { map: { plan: "{{ payload.plan }}", raw: "{{ payload.raw }}", whole: "{{ payload }}" } } ] }
      - { to: ads }
"#;

struct Lab {
    gateway: Gateway,
    sink: Sink,
    caller: Caller,
}

impl Lab {
    async fn new() -> Self {
        let sink = Sink::new().await;
        let gateway = Gateway::start(RESOURCES, &sink.url("/")).await;
        let scopes = ["read", "ingest", "admin"];
        let caller = Caller::with_scopes(&gateway, "acme", &scopes).await;
        Self { gateway, sink, caller }
    }

    /// Posts an event with this payload, and gives its id.
    async fn post(&self, payload: &str) -> String {
        let body = format!(r#"{{"type":"a","source":"app","payload":{payload}}}"#);
        let answer = self.caller.send(Method::POST, "/api/v1/events", &[], body).await;
        assert!(answer.status.is_success(), "{}", answer.text);
        answer.json()["id"].as_str().unwrap().to_owned()
    }

    /// The names of the destinations that it goes to, and why others do not get it.
    async fn plan(&self, id: &str) -> (usize, String) {
        self.gateway.planned(id.parse().unwrap()).await;
        let text = self.caller.get(&format!("/api/v1/events/{id}")).await.expect(200).text;
        // The payload in it is what serde refuses.
        let part = |name: &str| {
            let object =
                tidegate::model::json::value_at(text.as_bytes(), &[name]).unwrap().unwrap();
            tidegate::model::RawJson::trusted(object.to_vec()).to_value()
        };
        (part("deliveries").as_array().unwrap().len(), part("skipped").to_string())
    }
}

#[tokio::test]
async fn half_a_character_hides_no_field_from_pipelines() {
    let lab = Lab::new().await;
    let payload = r#"{"\ud800":1,"plan":"pro","raw":["\udc00",1.50,1e400],"big":1e999}"#;
    let id = lab.post(payload).await;
    assert_eq!(lab.plan(&id).await, (2, "[]".to_owned()));
    lab.gateway.idle().await;
    let bodies: Vec<_> = lab.sink.received_at_least(2).await;
    let mapped = format!(r#"{{"plan":"pro","raw":["\udc00",1.50,1e400],"whole":{payload}}}"#);
    assert!(bodies.iter().any(|it| String::from_utf8_lossy(&it.body).contains(&mapped)));
    // What the payload says counts, not what stands beside it.
    let id = lab.post(r#"{"\ud800":1,"plan":"pro","\u0070lan":"free"}"#).await;
    assert_eq!(lab.plan(&id).await.0, 0);
}

#[tokio::test]
async fn keys_and_types_are_found_beside_half_a_character() {
    let lab = Lab::new().await;
    let one = lab.post(r#"{"order":"o-1","\ud800":1}"#).await;
    assert_eq!(one, lab.post(r#"{"\udc00":2,"order":"o-1"}"#).await);
    // Numbers that no computer holds are two, where they are written as two.
    let huge = |last: u8| format!(r#"{{"order":1{}{last}}}"#, "0".repeat(50));
    let (one, two) = (lab.post(&huge(1)).await, lab.post(&huge(2)).await);
    assert_ne!(one, two);
    assert_eq!(one, lab.post(&huge(1)).await);

    for body in [r#"{"\ud800":1,"kind":"paid","id":"w-1"}"#, r#"{"id":"w-1","kind":"paid"}"#] {
        lab.caller.send(Method::POST, "/in/hook", &[], body).await.expect(200);
    }
    let kept = lab.caller.get("/api/v1/events?type=paid").await.expect(200).json();
    assert_eq!(kept["data"].as_array().unwrap().len(), 1, "{kept}");
}

#[tokio::test]
async fn half_a_character_saves_nobody_from_being_forgotten() {
    let lab = Lab::new().await;
    let before = lab.post(r#"{"\ud800":1,"userId":"u-1","secret":"s3cret"}"#).await;
    lab.plan(&before).await;
    let asked = json!({ "user_id": "u-1", "then": "suppress_and_erase" });
    let begun = lab.caller.post("/api/v1/deletions", &asked).await.expect(202).json();
    let path = format!("/api/v1/deletions/{}", begun["id"].as_str().unwrap());
    let done = tokio::time::timeout(PATIENCE, async {
        loop {
            let now = lab.caller.get(&path).await.expect(200).json();
            if now["ended_at"] != Value::Null {
                return now;
            }
        }
    });
    let done = done.await.expect("the deletion never ends");
    assert_eq!((&done["state"], &done["erased_events"]), (&json!("done"), &json!(1)), "{done}");
    let shown = lab.caller.get(&format!("/api/v1/events/{before}")).await.text;
    assert!(!shown.contains("s3cret"), "{shown}");
    let body = r#"{"type":"a","source":"app","payload":{"userId":"u-1","\udfff":{}}}"#;
    let answer = lab.caller.send(Method::POST, "/api/v1/events", &[], body).await.expect(200);
    assert_eq!(answer.json()["accepted"], false, "{}", answer.text);
}

#[tokio::test]
async fn an_opt_out_counts_however_it_is_written() {
    let lab = Lab::new().await;
    for (integrations, is_excluded) in [
        (r#""integrations":{"All":true}"#, false),
        (r#""integrations":{"All":false},"integrations":{"All":false}"#, true),
        (r#""integr\u0061tions":{"All":false}"#, true),
        (r#""integrations":{"All":false,"\ud800":1}"#, true),
        (r#""integrations":{"All":false,"x":1e400}"#, true),
        (r#""integrations":{"Ads":false},"\udc00":"\ud800""#, true),
    ] {
        let id = lab.post(&format!(r#"{{"plan":"pro",{integrations}}}"#)).await;
        let (deliveries, skipped) = lab.plan(&id).await;
        assert_eq!(deliveries, if is_excluded { 1 } else { 2 }, "{integrations}");
        assert_eq!(skipped.contains("integrations"), is_excluded, "{skipped}");
    }
}
