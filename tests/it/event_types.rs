//! Event types: events held to their schemas at every door, types learned from traffic, and the counts of
//! sources and keys.

use http::Method;
use serde_json::{Value, json};

use crate::harness::{caller::Caller, gateway::Gateway};

const RESOURCES: &str = r#"version: 1
project: acme
sources:
  - { name: app, kind: api }
  - { name: web, kind: segment, write_key: wk_demo }
  - { name: hook, kind: webhook, verify: none, type: payload.kind }
  - { name: safe, kind: api, never_store: { fields: [payload.card] } }
event_types:
  - name: order.paid
    description: Somebody has paid.
    group: billing
    example: { amount: 1.5, card: "4111" }
    schema: &order
      type: object
      required: [amount, card]
      properties: { amount: { type: number, description: In euros. }, plan: { enum: [free, pro] } }
    validate: reject
  - { name: order.sent, schema: *order, validate: flag }
  - { name: order.seen, schema: *order, validate: off }
  - name: track
    schema: { properties: { event: { pattern: "^[A-Z]" } } }
    validate: reject
"#;

struct Lab {
    gateway: Gateway,
    caller: Caller,
}

impl Lab {
    async fn new() -> Self {
        Self::with(RESOURCES).await
    }

    async fn with(resources: &str) -> Self {
        let gateway = Gateway::start(resources, "http://127.0.0.1:9/").await;
        let caller = Caller::with_scopes(&gateway, "acme", &["ingest", "read", "admin"]).await;
        Self { gateway, caller }
    }

    async fn restart(self) -> Self {
        let Self { gateway, caller } = self;
        let key = caller.key().unwrap().to_owned();
        let gateway = gateway.restart().await;
        let caller = Caller::new(&gateway, Some(&key));
        Self { gateway, caller }
    }

    async fn get(&self, path: &str) -> Value {
        self.caller.get(path).await.expect(200).json()
    }

    async fn traffic(&self, source: &str) -> Value {
        self.get(&format!("/api/v1/sources/{source}/traffic")).await
    }

    /// Every event that was kept, the newest first.
    async fn kept(&self) -> Vec<Value> {
        self.get("/api/v1/events?payload=true").await["data"].as_array().unwrap().clone()
    }
}

fn event(event_type: &str, payload: Value) -> Value {
    json!({ "type": event_type, "payload": payload })
}

#[tokio::test]
async fn an_event_that_is_not_as_its_schema_says_is_rejected_and_its_sender_is_told_why() {
    let lab = Lab::new().await;
    let bad = event("order.paid", json!({ "amount": "hunter2", "card": "4111" }));
    let good = event("order.paid", json!({ "amount": 1, "card": "4111" }));

    let refused = lab.caller.post("/api/v1/events", &bad).await.expect(422);
    assert_eq!(refused.problem(), "rejected");
    assert_eq!(refused.json()["errors"][0]["field"], "payload.amount");
    assert!(!refused.text.contains("hunter2"), "{}", refused.text);
    lab.caller.post("/api/v1/events", &good).await.expect(202);
    let missing = event("order.paid", json!({}));
    let batch = lab.caller.post("/api/v1/events/batch", &json!([good, bad, missing])).await;
    let batch = batch.expect(202).json();
    assert_eq!((&batch["accepted"], &batch["rejected"]), (&json!(1), &json!(2)));
    assert_eq!(batch["results"][1]["errors"][0]["field"], "events[1].payload.amount");
    assert_eq!(batch["results"][2]["errors"].as_array().unwrap().len(), 2);
    let all_bad = lab.caller.post("/api/v1/events/batch", &json!([bad])).await.expect(422);
    assert_eq!(all_bad.problem(), "rejected");

    assert_eq!(lab.kept().await.len(), 2);
    let traffic = lab.traffic("app").await;
    assert_eq!((&traffic["accepted"], &traffic["rejected"]["schema"]), (&json!(2), &json!(4)));
    let rejection = &traffic["rejections"][3];
    assert_eq!((&rejection["code"], &rejection["ip"]), (&json!("schema"), &json!("127.0.0.1")));
    let reason = rejection["reason"].as_str().unwrap();
    assert!(reason.contains("`order.paid`") && reason.contains("payload.amount"), "{reason}");
    assert!(!traffic.to_string().contains("hunter2"));
}

#[tokio::test]
async fn a_payload_that_no_schema_can_judge_is_not_as_it_says() {
    let lab = Lab::with(&RESOURCES.replace("type: object\n", "type: [object, \"null\"]\n")).await;
    for number in ["1e999", r#""\ud800""#] {
        let body = format!(r#"{{"type":"order.paid","payload":{{"amount":1,"card":{number}}}}}"#);
        let json = [("content-type", "application/json")];
        lab.caller.send(Method::POST, "/api/v1/events", &json, body).await.expect(422);
    }
}

#[tokio::test]
async fn a_flagged_event_is_kept_and_shows_what_is_wrong_and_nobody_else_can_say_so() {
    let lab = Lab::new().await;
    let mut bad = event("order.sent", json!({ "amount": true, "card": "4111" }));
    bad["metadata"] = json!({ "schema_errors": "forged", "mine": 1 });
    lab.caller.post("/api/v1/events", &bad).await.expect(202);
    bad["type"] = "order.seen".into();
    lab.caller.post("/api/v1/events", &bad).await.expect(202);

    let kept = lab.kept().await;
    assert_eq!(kept[0]["metadata"].get("schema_errors"), None);
    let errors = kept[1]["metadata"]["schema_errors"].as_array().unwrap();
    assert!(errors[0].as_str().unwrap().starts_with("payload.amount: "), "{errors:?}");
    assert_eq!((errors.len(), &kept[1]["metadata"]["mine"]), (1, &json!(1)));
    let traffic = lab.get("/api/v1/event-types/order.sent").await["traffic"].clone();
    assert_eq!((&traffic["events"], &traffic["flagged"]), (&json!(1), &json!(1)));
}

#[tokio::test]
async fn segments_clients_and_webhooks_are_held_to_schemas_too() {
    let lab = Lab::new().await;
    let stranger = Caller::new(&lab.gateway, None);
    let track = |event: &str| json!({ "type": "track", "userId": "u", "event": event });
    let batch = json!({ "writeKey": "wk_demo", "batch": [track("Good"), track("bad")] });
    let answer = stranger.post("/v1/batch", &batch).await.expect(200).json();
    assert_eq!((&answer["success"], &answer["rejected"][0]["index"]), (&json!(true), &json!(1)));
    assert_eq!(answer["rejected"][0]["code"], "schema");
    let mut single = track("bad");
    single["writeKey"] = "wk_demo".into();
    stranger.post("/v1/t", &single).await.expect(400);
    assert_eq!(lab.traffic("web").await["rejected"]["schema"], 2);

    let hook = json!({ "kind": "order.paid", "amount": 1 });
    assert_eq!(stranger.post("/in/hook", &hook).await.expect(422).problem(), "rejected");
    let hook = json!({ "kind": "order.sent", "amount": 1 });
    stranger.post("/in/hook", &hook).await.expect(200);
    assert_eq!(lab.traffic("hook").await["rejected"]["schema"], 1);
    let kept = lab.kept().await;
    assert_eq!(
        (kept.len(), kept[0]["metadata"]["schema_errors"].as_array().unwrap().len()),
        (2, 1)
    );
}

#[tokio::test]
async fn schemas_see_fields_that_are_redacted_later() {
    let lab = Lab::new().await;
    let mut paid = event("order.paid", json!({ "amount": 1, "card": "4111" }));
    paid["source"] = "safe".into();
    lab.caller.post("/api/v1/events", &paid).await.expect(202);
    assert_eq!(lab.kept().await[0]["payload"], json!({ "amount": 1 }));
    // And what is not kept is not learned either.
    let fields = lab.get("/api/v1/event-types/order.paid/fields").await;
    let card = fields["fields"].as_array().unwrap().iter().find(|it| it["path"] == "payload.card");
    assert_eq!(card, None, "{fields}");
}

#[tokio::test]
async fn a_type_that_nobody_described_is_learned_and_adopted() {
    let lab = Lab::with("version: 1\nproject: acme\nsources: [{ name: app, kind: api }]\n").await;
    for number in 0..5 {
        let payload = match number {
            0 => json!({ "plan": "secret-plan", "seats": 1, "tags": ["a"] }),
            _ => json!({ "plan": "secret-plan", "seats": 1.5 }),
        };
        lab.caller.post("/api/v1/events", &event("team.grew", payload)).await.expect(202);
    }
    let list = lab.get("/api/v1/event-types").await;
    let [learned] = &list["data"].as_array().unwrap()[..] else { panic!("{list}") };
    assert_eq!((&learned["name"], &learned["id"]), (&json!("team.grew"), &Value::Null));
    assert_eq!((&learned["registered"], &learned["traffic"]["events"]), (&json!(false), &json!(5)));

    // It is there after a restart.
    let lab = lab.restart().await;
    let fields = lab.get("/api/v1/event-types/team.grew/fields").await;
    assert!(!fields.to_string().contains("secret-plan"), "{fields}");
    let shown: Vec<_> = fields["fields"].as_array().unwrap().iter().collect();
    let paths: Vec<_> = shown.iter().map(|it| it["path"].as_str().unwrap()).collect();
    assert_eq!(paths, ["payload.plan", "payload.seats", "payload.tags"]);
    assert_eq!(
        (&shown[2]["seen"]["share"], &shown[1]["kinds"]),
        (&json!(0.2), &json!(["integer", "number"]))
    );

    let adopt = "/api/v1/event-types/team.grew/adopt";
    let adopted = lab.caller.post(adopt, &json!({ "validate": "reject" })).await.expect(201).json();
    assert_eq!((&adopted["registered"], &adopted["validate"]), (&json!(true), &json!("reject")));
    assert_eq!(adopted["schema"]["required"], json!(["plan", "seats"]));
    assert_eq!(lab.caller.post(adopt, &json!({})).await.expect(409).problem(), "conflict");
    lab.caller.post(adopt, &json!({ "replace": true })).await.expect(200);
    lab.caller.post("/api/v1/event-types/nobody.knows/adopt", &json!({})).await.expect(404);

    let bad = event("team.grew", json!({ "plan": 1, "seats": 1 }));
    lab.caller.post("/api/v1/events", &bad).await.expect(422);
    let good = event("team.grew", json!({ "plan": "x", "seats": 1, "more": true }));
    lab.caller.post("/api/v1/events", &good).await.expect(202);
    let fields = lab.get("/api/v1/event-types/team.grew/fields").await;
    let more = fields["fields"].as_array().unwrap().iter().find(|it| it["path"] == "payload.more");
    assert_eq!(
        (&fields["fields"][0]["in_schema"], &more.unwrap()["in_schema"]),
        (&json!(true), &json!(false))
    );
    // The file that the project exports says the same.
    let yaml = lab.caller.get("/api/v1/export").await.expect(200).text;
    assert!(yaml.contains("validate: reject") && yaml.contains("team.grew"), "{yaml}");
}

#[tokio::test]
async fn lists_of_types_have_pages_by_name() {
    let lab = Lab::new().await;
    for name in ["a.first", "order.paid", "z.last"] {
        let payload = json!({ "amount": 1, "card": "4111" });
        lab.caller.post("/api/v1/events", &event(name, payload)).await.expect(202);
    }
    let names = async |query: &str| -> (Vec<String>, Option<String>) {
        let page = lab.get(&format!("/api/v1/event-types?{query}")).await;
        let rows = page["data"].as_array().unwrap().iter();
        let names = rows.map(|it| it["name"].as_str().unwrap().to_owned()).collect();
        (names, page["next"].as_str().map(str::to_owned))
    };
    let (first, next) = names("limit=4").await;
    assert_eq!(first, ["a.first", "order.paid", "order.seen", "order.sent"]);
    let (second, end) = names(&format!("limit=4&cursor={}", next.unwrap())).await;
    assert_eq!((second, end), (vec!["track".to_owned(), "z.last".to_owned()], None));
    assert_eq!(names("registered=false").await.0, ["a.first", "z.last"]);
    assert_eq!(names("registered=true").await.0.len(), 4);
    let described = lab.get("/api/v1/event-types/order.paid").await;
    assert_eq!(
        (&described["group"], &described["validate"]),
        (&json!("billing"), &json!("reject"))
    );
    assert_eq!(described["schema"]["properties"]["amount"]["description"], "In euros.");
}

#[tokio::test]
async fn a_schema_that_makes_no_sense_is_refused_with_its_place() {
    let lab = Lab::new().await;
    for (spec, field, word) in [
        (
            json!({ "schema": { "properties": { "a": { "type": "x" } } } }),
            "schema.properties.a.type",
            "/properties/a/type",
        ),
        (json!({ "schema": { "$ref": "http://127.0.0.1:9/schema" } }), "schema.$ref", "/$ref"),
        (json!({ "validate": "reject" }), "schema", "must be there"),
        (json!({ "validate": "maybe" }), "validate", "`off`"),
        (json!({ "schema": { "type": "object" }, "example": 1 }), "example", "agree"),
        (json!({ "group": "" }), "group", "1 to 64"),
    ] {
        let mut spec = spec;
        spec["name"] = "a.b".into();
        let refused = lab.caller.post("/api/v1/event-types", &spec).await.expect(400).json();
        let error = &refused["errors"][0];
        assert_eq!(error["field"], field, "{error}");
        assert!(error["rule"].as_str().unwrap().contains(word), "{error}");
    }
}

#[tokio::test]
async fn sources_and_keys_are_counted_through_restarts() {
    let lab = Lab::new().await;
    let mut once = event("a", json!(1));
    once["idempotency_key"] = "k".into();
    lab.caller.post("/api/v1/events", &once).await.expect(202);
    lab.caller.post("/api/v1/events", &once).await.expect(200);
    lab.caller.post("/api/v1/events", &json!({ "type": "a" })).await.expect(400);
    lab.caller.send(Method::POST, "/api/v1/events", &[], "{").await.expect(400);
    lab.caller.post("/api/v1/events/batch", &json!([event("a", json!(1)), 7])).await.expect(202);
    Caller::admin(&lab.gateway).post("/api/v1/events", &event("a", json!(2))).await.expect(202);
    let before = lab.traffic("app").await;
    assert_eq!((&before["accepted"], &before["duplicates"]), (&json!(3), &json!(1)));
    assert_eq!(before["rejected"], json!({ "invalid_json": 1, "invalid_request": 2 }));
    let [key, admin] = &before["keys"].as_array().unwrap()[..] else { panic!("{before}") };
    assert_eq!((&key["name"], &key["accepted"]), (&json!("k-ingest-read-admin"), &json!(2)));
    assert_eq!(key["rejected"], before["rejected"]);
    assert_eq!((&admin["key"], &admin["accepted"]), (&Value::Null, &json!(1)));
    assert_eq!(admin["last_taken_at"], "2026-01-01T00:00:00Z");

    let lab = lab.restart().await;
    assert_eq!(lab.traffic("app").await, before);
    lab.caller.post("/api/v1/events", &event("a", json!(3))).await.expect(202);
    assert_eq!(lab.traffic("app").await["accepted"], 4);

    // A source that is gone takes its counts with it, and another of its name begins anew.
    lab.caller.delete("/api/v1/sources/app").await.expect(204);
    lab.caller.post("/api/v1/sources", &json!({ "name": "app", "kind": "api" })).await.expect(201);
    assert_eq!(lab.traffic("app").await["accepted"], 0);
}
