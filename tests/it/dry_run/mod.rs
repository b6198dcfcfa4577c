//! Pipelines tried over the real API: what is shown is what a real sink then gets, nothing is sent or
//! stored, and changes that break a test case are not made.

mod versions;
mod script;

use serde_json::{Value, json};

use crate::harness::{
    caller::Caller,
    gateway::{Gateway, SECRET},
    sink::{Answer, Received, Sink},
};

/// A gateway with one pipeline, whose routes go to sinks.
struct World {
    gateway: Gateway,
    crm: Sink,
    audit: Sink,
}

const PIPELINE: &str = r#"
  - name: signups
    on: ["user.*"]
    when: payload.plan != "internal"
    steps:
      - filter.match: payload.email
      - transform.js: |
          export default function (event) {
            console.log("plan", event.payload.plan);
            return { ...event, payload: { ...event.payload, plan: event.payload.plan.toUpperCase() } };
          }
    routes:
      - to: crm
        steps: [ { redact.pii: { fields: [payload.email], mode: mask } } ]
      - to: audit
        when: payload.plan == "SCALE"
    tests:
      - name: a scale plan reaches the audit
        event: { type: user.signed_up, payload: { plan: scale, email: ann@acme.com } }
        expect:
          routes: [crm, audit]
          fields: { crm: { /payload/email: "a***@acme.com", /payload/plan: SCALE, /payload/gone: null } }
      - name: who has no address is dropped
        event: { type: user.signed_up, payload: { plan: pro } }
        expect: { dropped_at: "steps[0]" }
"#;

fn resources(crm: &Sink, audit: &Sink, pipeline: &str) -> String {
    format!(
        "version: 1\nproject: acme\nsources: [{{ name: app, kind: api }}]\ndestinations:\n  \
         - {{ name: crm, kind: webhook, url: \"{}\", secret: \"${{SECRET}}\", \
         headers: {{ x-token: \"top secret\", x-type: \"{{{{ type }}}}\" }}, auth: {{ bearer: hidden-token }} }}\n  \
         - {{ name: audit, kind: webhook, profile: segment, url: \"{}\", secret: \"${{SECRET}}\", \
         auth: {{ basic: {{ username: ann, password: hidden-password }} }} }}\n\
         pipelines:{pipeline}",
        crm.url("/hooks?a=1"),
        audit.url("/audit"),
    )
}

impl World {
    async fn new() -> Self {
        Self::with(PIPELINE).await
    }

    async fn with(pipeline: &str) -> Self {
        let (crm, audit) = (Sink::new().await, Sink::new().await);
        let gateway = Gateway::start(&resources(&crm, &audit, pipeline), "").await;
        Self { gateway, crm, audit }
    }

    async fn try_it(&self, request: Value) -> Value {
        let answer = self.gateway.post("/api/v1/pipelines/signups/test", request).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        answer.body
    }

    async fn pipeline(&self) -> Value {
        self.gateway.get("/api/v1/pipelines/signups").await.body
    }

    /// The pipeline as it is written.
    async fn spec(&self) -> Value {
        let mut spec = self.pipeline().await;
        for field in ["id", "version", "created_at", "saved_at", "saved_by"] {
            spec.as_object_mut().unwrap().remove(field);
        }
        spec
    }

    async fn put(&self, spec: &Value, query: &str) -> crate::harness::gateway::Answer {
        let path = format!("/api/v1/pipelines/signups{query}");
        self.gateway.send("PUT", &path, &[], Some(spec.clone())).await
    }
}

fn signed_up() -> Value {
    json!({"plan": "scale", "email": "ann@acme.com"})
}

/// A request as the sink got it, in the form in which a dry run shows it.
fn as_shown(received: &Received, sink: &Sink) -> Value {
    let headers: serde_json::Map<String, Value> = (received.headers.iter())
        .map(|(name, value)| {
            let secret = match name.as_str() {
                "x-token" | "x-type" => Some("…"),
                "authorization" if value.to_str().unwrap().starts_with("Bearer ") => {
                    Some("Bearer …")
                }
                "authorization" => Some("Basic …"),
                _ => None,
            };
            let shown = secret.unwrap_or_else(|| value.to_str().unwrap());
            (name.to_string(), json!(shown))
        })
        .collect();
    json!({
        "method": received.method.as_str(),
        "url": sink.url(&received.path),
        "headers": headers,
        "body": std::str::from_utf8(&received.body).unwrap(),
    })
}

#[tokio::test]
async fn the_request_that_is_shown_is_the_one_that_a_sink_then_gets() {
    // Given an event that was delivered
    let world = World::new().await;
    let id = world.gateway.publish("user.signed_up", signed_up()).await;
    let got = [world.crm.received_at_least(1).await, world.audit.received_at_least(1).await];
    // When the same event is tried at the same time
    let tried = world.try_it(json!({"event_id": id.to_string()})).await;
    // Then each request is shown as it was, byte for byte, with its signature and without its secrets
    for (route, (got, sink)) in got.iter().zip([&world.crm, &world.audit]).enumerate() {
        let message = &tried["routes"][route]["messages"][0];
        assert_eq!(message["requests"], json!([as_shown(&got[0], sink)]), "{tried:#}");
    }
    let shown = tried.to_string();
    for secret in ["top secret", "hidden-token", "hidden-password", "YW5uOm", SECRET, "MfKQ9r8G"] {
        assert!(!shown.contains(secret), "{secret} in {shown}");
    }
    let crm = &tried["routes"][0]["messages"][0]["requests"][0]["headers"];
    assert!(crm["webhook-signature"].as_str().unwrap().starts_with("v1,"), "{crm}");
    assert!(!got[1][0].header("x-signature").is_empty());
}

#[tokio::test]
async fn a_dry_run_tells_each_step_and_sends_and_stores_nothing() {
    let world = World::new().await;
    world.gateway.publish("order.paid", json!({"plan": "scale"})).await;
    let event = json!({"type": "user.signed_up", "payload": signed_up()});
    let tried = world.try_it(json!({"event": event})).await;
    world.gateway.idle().await;

    assert_eq!((world.crm.received().len(), world.audit.received().len()), (0, 0));
    let events = world.gateway.get("/api/v1/events").await.body;
    assert_eq!(events["data"].as_array().unwrap().len(), 1, "{events}");
    assert!(world.gateway.deliveries().await.is_empty());

    assert_eq!(tried["dropped"], Value::Null);
    let steps = &tried["steps"];
    assert_eq!((&steps[0]["at"], &steps[0]["kind"]), (&json!("steps[0]"), &json!("filter.match")));
    assert_eq!(steps[0]["events"][0]["outcome"], "unchanged");
    let script = &steps[1]["events"][0];
    assert_eq!(script["outcome"], "changed");
    assert_eq!(script["log"], json!(["plan scale"]));
    let change = json!({"path": "/payload/plan", "before": "scale", "after": "SCALE"});
    assert_eq!(script["made"], json!([{"changes": [change], "omitted": 0}]));
    assert!(steps[1]["duration_ms"].as_f64().unwrap() > 0.0);
    let redacted = &tried["routes"][0]["steps"][0];
    assert_eq!(redacted["at"], "routes[0].steps[0]");
    let change =
        json!({"path": "/payload/email", "before": "ann@acme.com", "after": "a***@acme.com"});
    assert_eq!(redacted["events"][0]["made"][0]["changes"], json!([change]));
    assert_eq!(tried["routes"][1]["matched"], true);
}

#[tokio::test]
async fn dropped_events_say_where_and_why() {
    let world = World::new().await;
    for (event_type, payload, at, reason) in [
        ("order.paid", json!({}), "trigger", "it takes no events of the type `order.paid`"),
        (
            "user.left",
            json!({"plan": "internal"}),
            "when",
            "`payload.plan != \"internal\"` does not hold",
        ),
        ("user.left", json!({"plan": "pro"}), "steps[0]", "`payload.email` does not hold"),
    ] {
        let event = json!({"type": event_type, "payload": payload});
        let tried = world.try_it(json!({"event": event})).await;
        assert_eq!(
            (&tried["dropped"]["at"], &tried["dropped"]["reason"]),
            (&json!(at), &json!(reason))
        );
        assert_eq!(tried["routes"], json!([]));
    }
    let event = json!({"type": "user.left", "payload": {"plan": "pro", "email": "a@b.co"}});
    let tried = world.try_it(json!({"event": event})).await;
    let route = &tried["routes"][1];
    assert_eq!((&route["matched"], &route["messages"]), (&json!(false), &json!([])));
    let stopped = json!([{"by": "when", "reason": "`payload.plan == \"SCALE\"` does not hold"}]);
    assert_eq!(route["stopped"], stopped);
    // A script that fails says where.
    let event = json!({"type": "user.left", "payload": {"email": "a@b.co"}});
    let tried = world.try_it(json!({"event": event})).await;
    let failed = &tried["steps"][1]["events"][0];
    assert_eq!(failed["outcome"], "failed");
    assert_eq!(failed["line"], 3, "{failed}");
    assert!(failed["column"].as_u64().unwrap() > 0);
    assert_eq!(tried["dropped"]["at"], "steps[1]");
}

#[tokio::test]
async fn the_most_recent_event_is_one_that_the_trigger_takes() {
    let world = World::new().await;
    let none = world.gateway.post("/api/v1/pipelines/signups/test", json!({})).await;
    assert_eq!(none.status, 404, "{}", none.body);
    let wanted = world.gateway.publish("user.signed_up", signed_up()).await;
    let other = world.gateway.publish("user.moved", signed_up()).await;
    world.gateway.publish("user.signed_up", json!({"plan": "internal"})).await;
    world.gateway.publish("order.paid", signed_up()).await;
    let tried = world.try_it(json!({})).await;
    assert_eq!(tried["event"]["id"], other.to_string());
    let tried = world.try_it(json!({"recent": true, "type": "user.signed_up"})).await;
    assert_eq!(tried["event"]["id"], wanted.to_string());
}

#[tokio::test]
async fn each_of_several_events_that_a_script_makes_is_shown() {
    let pipeline = "\n  - name: signups\n    steps: [ { transform.js: \"export default (e) => \
                    [1, 2].map((n) => ({ ...e, payload: { n } }))\" } ]\n    routes: [{ to: crm }]\n";
    let world = World::with(pipeline).await;
    let event = json!({"type": "a", "payload": {"n": 0}});
    let tried = world.try_it(json!({"event": event})).await;
    let made = &tried["steps"][0]["events"][0]["made"];
    let change =
        |n| json!({"changes": [{"path": "/payload/n", "before": 0, "after": n}], "omitted": 0});
    assert_eq!(*made, json!([change(1), change(2)]));
    let messages = tried["routes"][0]["messages"].as_array().unwrap();
    let id = tried["event"]["id"].as_str().unwrap();
    for (message, n) in messages.iter().zip(1..) {
        assert_eq!(message["message_id"], format!("{id}_{n}"));
        let body: Value =
            serde_json::from_str(message["requests"][0]["body"].as_str().unwrap()).unwrap();
        assert_eq!(body["data"], json!({"n": n}));
    }
    assert_eq!(messages.len(), 2);
}

#[tokio::test]
async fn a_pipeline_that_is_not_saved_is_tried_by_who_may_save_it() {
    let world = World::new().await;
    let mut spec = world.spec().await;
    spec["when"] = json!("payload.plan == \"free\"");
    let event = json!({"type": "user.signed_up", "payload": signed_up()});
    let request = json!({"event": event, "pipeline": spec});
    let tried = world.try_it(request.clone()).await;
    assert_eq!((&tried["saved"], &tried["dropped"]["at"]), (&json!(false), &json!("when")));
    assert_eq!(world.pipeline().await["version"], 1);
    let operator = Caller::with_scopes(&world.gateway, "acme", &["operate", "read"]).await;
    let path = "/api/v1/pipelines/signups/test";
    assert_eq!(operator.post(path, &request).await.problem(), "forbidden");
    operator.post(path, &json!({"event": event})).await.expect(200);
    for scope in ["read", "operate"] {
        let half = Caller::with_scopes(&world.gateway, "acme", &[scope]).await;
        assert_eq!(half.post(path, &json!({"event": event})).await.problem(), "forbidden");
    }
    // Also with destinations that are not there yet.
    let file = json!({
        "version": 1, "project": "acme",
        "destinations": [{"name": "new", "kind": "webhook", "url": "https://new.acme.com/in", "signed": false}],
        "pipelines": [{"name": "coming", "routes": [{"to": "new"}]}],
    });
    let answer = world
        .gateway
        .post("/api/v1/pipelines/coming/test", json!({"event": event, "resources": file}));
    let tried = answer.await.body;
    let shown = &tried["routes"][0]["messages"][0]["requests"][0];
    assert_eq!(
        (&shown["url"], &shown["method"]),
        (&json!("https://new.acme.com/in"), &json!("POST")),
        "{tried:#}"
    );
    assert_eq!(world.gateway.get("/api/v1/pipelines/coming").await.status, 404);
}

#[tokio::test]
async fn steps_that_ask_ask_in_a_dry_run_and_never_in_a_test_case() {
    let api = Sink::with(|_| Answer::status(200).body(r#"{"title":"CTO"}"#)).await;
    let (crm, audit) = (Sink::new().await, Sink::new().await);
    let tests = r#"
    tests:
      - name: given
        event: { type: a, payload: { email: ann@acme.com } }
        enriched: { person: { role: CEO } }
        expect: { fields: { crm: { /payload/person/role: CEO, /payload/person/status: found } } }
      - name: not given
        event: { type: a, payload: { email: ann@acme.com } }
        expect: { fields: { crm: { /payload/person/status: failed } } }
      - name: nobody
        event: { type: a, payload: { email: ann@acme.com } }
        enriched: { person: null }
        expect: { fields: { crm: { /payload/person/status: not_found } } }
"#;
    let pipeline = format!(
        "\n  - name: signups\n    steps: [ {{ enrich.person: {{ email: payload.email }} }} ]\n    \
         routes: [{{ to: crm }}]{tests}"
    );
    let lookups = format!(
        "lookups:\n  - {{ name: people-api, kind: http, url: \"{}\", map: {{ role: \"{{{{ response.title }}}}\" }} }}\npipelines:",
        api.url("/{{ email }}")
    );
    let text = resources(&crm, &audit, &pipeline).replace("pipelines:", &lookups);
    let gateway = Gateway::start(&text, "").await;
    let answer = gateway.post("/api/v1/pipelines/signups/tests", json!({})).await.body;
    assert_eq!(
        (&answer["failed"], answer["tests"].as_array().unwrap().len()),
        (&json!(0), 3),
        "{answer:#}"
    );
    assert_eq!(api.received().len(), 0);

    let event = json!({"type": "a", "payload": {"email": "ann@acme.com"}});
    let tried = gateway.post("/api/v1/pipelines/signups/test", json!({"event": event})).await.body;
    let asked = &tried["steps"][0]["events"][0]["asked"];
    assert_eq!(
        (&asked["status"], &asked["from"]),
        (&json!("found"), &json!("people-api")),
        "{tried:#}"
    );
    assert_eq!(api.received().len(), 1);
    let body = tried["routes"][0]["messages"][0]["requests"][0]["body"].as_str().unwrap();
    let body: Value = serde_json::from_str(body).unwrap();
    assert_eq!(body["data"]["person"]["role"], "CTO");
    assert_eq!(crm.received().len(), 0);
}

#[tokio::test]
async fn a_change_that_breaks_a_test_case_is_refused_and_changes_nothing() {
    // Given a pipeline with test cases, and a change that breaks one
    let world = World::new().await;
    let before = world.pipeline().await;
    let mut spec = world.spec().await;
    spec["routes"][1]["when"] = json!("payload.plan == \"scale\"");
    // When it is made
    let refused = world.put(&spec, "").await;
    // Then it is refused with what was expected, and nothing is another
    assert_eq!(refused.status, 409, "{}", refused.body);
    assert_eq!(refused.body["type"], "/problems/failing-tests");
    let failure = json!({"what": "routes", "expected": ["audit", "crm"], "got": ["crm"]});
    let expected = json!([{"pipeline": "signups", "name": "a scale plan reaches the audit",
                           "passed": false, "failures": [failure]}]);
    assert_eq!(refused.body["tests"], expected);
    assert_eq!(world.pipeline().await, before);
    // And in a file, too, of which then nothing is applied
    let mut file = json!({"version": 1, "project": "acme", "pipelines": [spec],
                          "sources": [{"name": "web", "kind": "api"}]});
    let request = json!({"resources": file});
    let json = &[("content-type", "application/json")];
    let plan = world.gateway.send("POST", "/api/v1/plan", json, Some(request.clone())).await;
    assert_eq!((plan.status.as_u16(), &plan.body["failing_tests"]), (200, &expected));
    let refused = world.gateway.send("POST", "/api/v1/apply", json, Some(request.clone())).await;
    assert_eq!((refused.status.as_u16(), &refused.body["tests"]), (409, &expected));
    assert_eq!(world.gateway.get("/api/v1/sources/web").await.status, 404);
    assert_eq!(world.pipeline().await, before);
    // Unless it is confirmed
    let confirmed = "/api/v1/apply?confirm=failing-tests";
    let applied = world.gateway.send("POST", confirmed, json, Some(request)).await;
    assert_eq!(applied.status, 200, "{}", applied.body);
    assert_eq!(world.pipeline().await["version"], 2);
    // A new pipeline is no exception.
    file["pipelines"][0]["name"] = json!("copy");
    let copy = file["pipelines"][0].clone();
    assert_eq!(world.gateway.post("/api/v1/pipelines", copy.clone()).await.status, 409);
    let made = world.gateway.post("/api/v1/pipelines?confirm=failing-tests", copy).await;
    assert_eq!(made.status, 201, "{}", made.body);
    let wrong = world.gateway.post("/api/v1/pipelines?confirm=yes", json!({})).await;
    assert_eq!(wrong.status, 400);
}

#[tokio::test]
async fn faults_of_test_cases_name_the_field() {
    let world = World::new().await;
    let spec = world.spec().await;
    for (case, field) in [
        (json!({"name": "", "event": {"type": "a"}, "expect": {}}), "tests[0].name"),
        (
            json!({"name": "x", "event": {"type": "a"}, "expect": {"dropped_at": "step 1"}}),
            "tests[0].expect.dropped_at",
        ),
        (
            json!({"name": "x", "event": {"type": "a"}, "expect": {"fields": {"crm": {"plan": 1}}}}),
            "tests[0].expect.fields",
        ),
        (json!({"name": "x", "event": {"type": "a"}, "expects": {}}), "tests[0].expects"),
        (json!({"name": "x", "event": {}, "expect": {}}), "tests[0].event.type"),
    ] {
        let mut spec = spec.clone();
        spec["tests"] = json!([case]);
        let refused = world.put(&spec, "").await;
        assert_eq!(refused.status, 400, "{}", refused.body);
        assert_eq!(refused.body["errors"][0]["field"], field, "{}", refused.body);
    }
}

#[tokio::test]
async fn one_case_is_told_like_any_event_with_what_is_not_as_expected() {
    let world = World::new().await;
    let tried = world.try_it(json!({"case": "a scale plan reaches the audit"})).await;
    assert_eq!(
        (&tried["failures"], &tried["event"]["type"]),
        (&json!([]), &json!("user.signed_up"))
    );
    let expect = json!({"dropped": true, "routes": ["crm"], "fields": {"audit": {"/type": "x", "/messages/0/payload/plan": "SCALE"}}});
    let event = json!({"type": "user.signed_up", "payload": signed_up()});
    let tried = world.try_it(json!({"event": event, "expect": expect})).await;
    let expected = json!([
        {"what": "dropped", "expected": true, "got": false},
        {"what": "routes", "expected": ["crm"], "got": ["audit", "crm"]},
        {"what": "fields.audit./type", "expected": "x", "got": "user.signed_up"},
    ]);
    assert_eq!(tried["failures"], expected);
    let two = world
        .gateway
        .post("/api/v1/pipelines/signups/test", json!({"event": event, "recent": true}));
    assert_eq!(two.await.status, 400);
}
