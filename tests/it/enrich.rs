//! Enrichment over real sockets: what arrives with an event, and what happens when nobody answers.

use http::Method;
use jiff::SignedDuration;
use serde_json::{Value, json};

use crate::harness::{
    caller::Caller,
    chaos::{Chaos, Step},
    gateway::Gateway,
    sink::{Answer, Received, Sink},
};

/// What everything is sent to, and a service that is asked about people.
struct World {
    gateway: Gateway,
    sink: Sink,
}

impl World {
    /// `steps` are those of the one pipeline, `lookups` what it may ask.
    async fn new(lookups: &str, steps: &str) -> Self {
        let sink = Sink::new().await;
        let resources = format!(
            "version: 1\nproject: acme\nsources: [{{ name: app, kind: api }}]\n\
             lookups:\n{lookups}\n\
             destinations:\n  - {{ name: sink, kind: webhook, url: \"${{URL}}\", signed: false }}\n\
             pipelines:\n  - {{ name: all, steps: [ {steps} ], routes: [{{ to: sink }}] }}\n"
        );
        let gateway = Gateway::start(&resources, &sink.url("/")).await;
        Self { gateway, sink }
    }

    async fn put(&self, table: &str, rows: Value) {
        let path = format!("/api/v1/directory/{table}?project=acme");
        let answer = Caller::admin(&self.gateway).post(&path, &rows).await.expect(200).json();
        assert_eq!(answer["refused"], 0, "{answer}");
    }

    /// The payloads that arrived once there are so many, by their number.
    async fn arrived(&self, count: usize) -> Vec<Value> {
        let mut payloads: Vec<Value> = (self.sink.received_at_least(count).await.iter())
            .map(|it| it.json()["data"].clone())
            .collect();
        payloads.sort_by_key(|it| it["n"].as_u64());
        payloads
    }

    async fn publish(&self, payload: Value) {
        self.gateway.publish("user.signed_up", payload).await;
    }
}

const PERSON: &str = "{ enrich.person: { email: payload.email } }";

/// A service that answers at this address, as a look-up.
fn service(url: &str, settings: &str) -> String {
    format!(
        "  - {{ name: people-api, kind: http, url: \"{url}\", \
         secrets: {{ token: \"${{SECRET}}\" }}, \
         headers: {{ authorization: \"Bearer {{{{ secret.token }}}}\" }}, \
         map: {{ company: \"{{{{ response.org.name }}}}\", role: \"{{{{ response.title }}}}\" }}\
         {settings} }}\n"
    )
}

fn knows_ann(request: &Received) -> Answer {
    match request.path.contains("ann") {
        true => Answer::status(200).body(r#"{"org":{"name":"Acme Inc."},"title":"CTO","age":7}"#),
        false => Answer::status(404),
    }
}

#[tokio::test]
async fn a_person_of_the_directory_arrives_with_the_event() {
    let world = World::new("  []", PERSON).await;
    let people = json!([
        {"email": "Ann@acme.com", "role": "CTO"},
        {"email": "bob@gmail.com", "role": "Owner", "company": "globex.com"},
    ]);
    world.put("people", people).await;
    let companies = json!([
        {"domain": "acme.com", "name": "Acme Inc.", "country": "DE"},
        {"domain": "globex.com", "name": "Globex"},
        {"domain": "gmail.com", "name": "not a company"},
    ]);
    world.put("companies", companies).await;
    for (n, email) in
        ["ann@ACME.com", "new@acme.com", "bob@gmail.com", "eve@gmail.com"].into_iter().enumerate()
    {
        world.publish(json!({"n": n, "email": email})).await;
    }
    world.publish(json!({"n": 4, "email": 7})).await;
    let people: Vec<Value> = world.arrived(5).await.iter().map(|it| it["person"].clone()).collect();
    let expected = [
        json!({"role": "CTO", "company": "Acme Inc.", "domain": "acme.com", "country": "DE",
               "status": "found"}),
        json!({"company": "Acme Inc.", "domain": "acme.com", "country": "DE", "status": "found"}),
        json!({"role": "Owner", "company": "Globex", "domain": "globex.com", "status": "found"}),
        json!({"status": "not_found"}),
        json!({"status": "no_key"}),
    ];
    assert_eq!(people, expected);
}

#[tokio::test]
async fn a_service_is_asked_once_for_each_address_until_its_answer_is_old() {
    let api = Sink::with(knows_ann).await;
    let url = api.url("/find?email={{ email }}");
    let world =
        World::new(&service(&url, ", cache: { found: 1h, missing: 1m, entries: 100 }"), PERSON)
            .await;
    for (n, email) in
        ["ann+x@acme.com", "ann+x@acme.com", "bob@acme.com", "bob@acme.com"].into_iter().enumerate()
    {
        world.publish(json!({"n": n, "email": email})).await;
        world.arrived(n + 1).await;
    }
    let arrived = world.arrived(4).await;
    let ann =
        json!({"company": "Acme Inc.", "role": "CTO", "domain": "acme.com", "status": "found"});
    let bob = json!({"domain": "acme.com", "status": "not_found"});
    let people: Vec<&Value> = arrived.iter().map(|it| &it["person"]).collect();
    assert_eq!(people, [&ann, &ann, &bob, &bob]);
    // The address is encoded, and the secret is where only the service sees it.
    let asked = api.received();
    let paths: Vec<&str> = asked.iter().map(|it| it.path.as_str()).collect();
    assert_eq!(paths, ["/find?email=ann%2Bx%40acme.com", "/find?email=bob%40acme.com"]);
    assert!(asked[0].header("authorization").starts_with("Bearer whsec_"));
    // When the time of an answer is over, it is asked for again.
    world.gateway.clock.advance(SignedDuration::from_mins(2));
    for n in 4..6 {
        let email = if n == 4 { "ann+x@acme.com" } else { "bob@acme.com" };
        world.publish(json!({"n": n, "email": email})).await;
        world.arrived(n + 1).await;
    }
    assert_eq!(api.received().len(), 3);
}

#[tokio::test]
async fn a_hanging_service_does_not_slow_other_pipelines_nor_other_events() {
    // Given a service that never answers, and a minute of patience
    let api = Chaos::playing([Step::Read, Step::Hang]).await;
    let (asking, plain) = (Sink::new().await, Sink::new().await);
    let resources = format!(
        "version: 1\nproject: acme\nsources: [{{ name: app, kind: api }}]\n\
         lookups:\n{}\n\
         destinations:\n  - {{ name: asking, kind: webhook, url: \"{}\", signed: false }}\n  \
         - {{ name: plain, kind: webhook, url: \"{}\", signed: false }}\n\
         pipelines:\n  \
         - {{ name: asking, steps: [ {{ enrich.person: {{ email: payload.email, timeout: 1m }} }} ], \
         routes: [{{ to: asking }}] }}\n  \
         - {{ name: plain, routes: [{{ to: plain }}] }}\n",
        service(&api.url("/{{ email }}"), ", timeout: 1m"),
        asking.url("/"),
        plain.url("/")
    );
    let gateway = Gateway::start(&resources, "").await;
    // When events come that ask, and others that need not
    for n in 0..50 {
        let payload = if n % 2 == 0 { json!({"n": n, "email": "a@b.co"}) } else { json!({"n": n}) };
        gateway.publish("user.signed_up", payload).await;
    }
    // Then whoever does not wait for the service has arrived, and it was asked once
    plain.received_at_least(50).await;
    let arrived = asking.received_at_least(25).await;
    assert!(arrived.iter().all(|it| it.json()["data"]["person"]["status"] == "no_key"));
    assert_eq!((arrived.len(), api.requests()), (25, 1));
    // And also after a restart the others do not wait.
    let gateway = gateway.restart().await;
    gateway.publish("user.signed_up", json!({"n": 50})).await;
    plain.received_at_least(51).await;
}

#[tokio::test]
async fn whatever_goes_wrong_outside_is_an_answer() {
    let hanging = Chaos::playing([Step::Read, Step::Hang]).await;
    let nonsense = Sink::with(|_| Answer::status(200).body("no json")).await;
    let broken = Sink::answering(&[500]).await;
    let forbidden = Sink::answering(&[403]).await;
    for (url, status, reason) in [
        (hanging.url("/{{ email }}"), "timeout", "no answer in time"),
        (nonsense.url("/{{ email }}"), "failed", "its answer is no JSON, or is longer than 64 KiB"),
        (broken.url("/{{ email }}"), "failed", "it answered 500"),
        (forbidden.url("/{{ email }}"), "failed", "it answered 403"),
        (
            "http://10.1.2.3/{{ email }}".to_owned(),
            "failed",
            "the endpoint's address is not allowed: it is none that this gateway may speak to; its log says more",
        ),
    ] {
        let patience = if status == "timeout" { "50ms" } else { "4s" };
        let steps = format!(
            "{PERSON}, {{ map: {{ n: 0, person: \"{{{{ person }}}}\", mark: \"{{{{ enrichment.person }}}}\" }} }}"
        );
        let world = World::new(&service(&url, &format!(", timeout: {patience}")), &steps).await;
        world.publish(json!({"email": "a@acme.com"})).await;
        let arrived = &world.arrived(1).await[0];
        assert_eq!(arrived["person"], json!({"domain": "acme.com", "status": status}));
        let mark = json!({"status": status, "from": "people-api", "reason": reason});
        assert_eq!(arrived["mark"], mark);
    }
}

#[tokio::test]
async fn a_service_that_fails_again_and_again_is_left_alone_for_a_while() {
    let api = Sink::with(|it| match it.number {
        0..5 => Answer::status(500),
        _ => Answer::status(200).body(r#"{"title":"CTO"}"#),
    })
    .await;
    let world = World::new(&service(&api.url("/{{ email }}"), ""), PERSON).await;
    for n in 0..9 {
        world.publish(json!({"n": n, "email": format!("a{n}@acme.com")})).await;
        world.arrived(n + 1).await;
    }
    assert_eq!(api.received().len(), 5);
    world.gateway.clock.advance(SignedDuration::from_secs(6));
    for n in 9..12 {
        world.publish(json!({"n": n, "email": format!("a{n}@acme.com")})).await;
        let arrived = world.arrived(n + 1).await;
        assert_eq!(arrived[n]["person"]["status"], "found");
    }
}

#[tokio::test]
async fn an_entity_arrives_with_what_it_refers_to() {
    let lookups = "  \
        - { name: users, kind: table, references: { account: accounts } }\n  \
        - { name: accounts, kind: table, references: { plan: plans, owner: users } }\n  \
        - { name: plans, kind: table }\n";
    let step = "{ enrich.entity: { table: users, key: payload.user_id, into: user, \
                follow: [account.plan, account.owner], with_key: true } }";
    let world = World::new(lookups, step).await;
    let users = json!([{"id": "u1", "name": "Ann", "account": "a1"}, {"id": 2, "account": "gone"}]);
    world.put("users", users).await;
    world.put("accounts", json!({"id": "a1", "plan": "pro", "owner": 2})).await;
    world.put("plans", json!({"id": "pro", "seats": 5})).await;
    for (n, user) in [json!("u1"), json!(2), json!("u3")].iter().enumerate() {
        world.publish(json!({"n": n, "user_id": user})).await;
    }
    let arrived = world.arrived(3).await;
    let users: Vec<&Value> = arrived.iter().map(|it| &it["user"]).collect();
    let expected = [
        &json!({"id": "u1", "name": "Ann", "status": "found", "account": {
            "id": "a1", "plan": {"id": "pro", "seats": 5}, "owner": {"id": 2, "account": "gone"},
        }}),
        &json!({"id": 2, "account": "gone", "status": "found"}),
        &json!({"status": "not_found"}),
    ];
    assert_eq!(users, expected);
}

#[tokio::test]
async fn learned_facts_enrich_the_next_event() {
    let lookups = "  - { name: people, kind: table, learn: { when: 'type == \"identify\"', \
                   key: payload.traits.email, fields: payload.traits } }\n";
    let world = World::new(lookups, PERSON).await;
    let traits = json!({"email": "ann@acme.com", "role": "CTO"});
    world.gateway.publish("identify", json!({"n": 0, "traits": traits})).await;
    let caller = Caller::admin(&world.gateway);
    let path = "/api/v1/directory/people/entries/Ann@acme.com?project=acme";
    let waited = tokio::time::timeout(crate::harness::PATIENCE, async {
        while caller.get(path).await.status != 200 {}
    });
    waited.await.expect("it is never learned");
    world.publish(json!({"n": 1, "email": "ann@acme.com"})).await;
    assert_eq!(world.arrived(2).await[1]["person"]["role"], "CTO");
}

#[tokio::test]
async fn an_import_keeps_what_is_right_and_says_which_lines_are_wrong() {
    let world = World::new("  - { name: users, kind: table }\n", PERSON).await;
    let caller = Caller::admin(&world.gateway);
    let import = async |table: &str, kind: &str, body: String| {
        let path = format!("/api/v1/directory/{table}/import?project=acme");
        caller.send(Method::POST, &path, &[("content-type", kind)], body).await
    };
    let mut csv = "email,name\n".to_owned();
    for n in 0..1203 {
        let email = if n % 400 == 0 { "nobody".to_owned() } else { format!("p{n}@acme.com") };
        csv += &format!("{email},\"Person, {n}\"\n");
    }
    let answer = import("people", "text/csv", csv).await.expect(200).json();
    assert_eq!((&answer["kept"], &answer["refused"]), (&json!(1199), &json!(4)));
    let lines: Vec<u64> = answer["errors"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| it["line"].as_u64().unwrap())
        .collect();
    assert_eq!(lines, [2, 402, 802, 1202]);
    let lines = "{\"id\":1,\"a\":1}\nnonsense\n{\"id\":2}";
    let answer = import("users", "application/x-ndjson", lines.to_owned()).await.expect(200).json();
    assert_eq!((&answer["kept"], &answer["errors"][0]["line"]), (&json!(2), &json!(2)));
    // Lists come in pages, in the order of keys.
    let (mut keys, mut path) =
        (Vec::new(), "/api/v1/directory/people?project=acme&limit=200".to_owned());
    loop {
        let page = caller.get(&path).await.expect(200).json();
        keys.extend(
            page["data"].as_array().unwrap().iter().map(|it| it["key"].clone().to_string()),
        );
        let Some(next) = page["next"].as_str() else { break };
        path = format!("/api/v1/directory/people?project=acme&limit=200&cursor={next}");
    }
    assert!(keys.len() == 1199 && keys.is_sorted());
    // A row can be changed in part, and removed.
    let row = "/api/v1/directory/users/entries/1?project=acme";
    caller.put(&format!("{row}&mode=merge"), &json!({"b": 2})).await.expect(204);
    assert_eq!(caller.get(row).await.expect(200).json(), json!({"id": 1, "a": 1, "b": 2}));
    caller.delete(row).await.expect(204);
    caller.get(row).await.expect(404);
    // And strangers are told so.
    assert_eq!(
        import("nothing", "text/csv", String::new()).await.expect(404).problem(),
        "not-found"
    );
    import("people", "text/plain", String::new()).await.expect(400);
    let reader = Caller::with_scopes(&world.gateway, "acme", &["read"]).await;
    reader.delete(row).await.expect(403);
}

#[tokio::test]
async fn rows_and_secrets_of_look_ups_survive_a_restart_and_are_never_shown() {
    let api = Sink::with(knows_ann).await;
    let url = api.url("/find/{{ email }}?key={{ secret.token }}");
    let world = World::new(&service(&url, ""), PERSON).await;
    world.put("people", json!({"email": "bob@acme.com", "role": "CEO"})).await;
    let World { gateway, sink } = world;
    let world = World { gateway: gateway.restart().await, sink };
    world.publish(json!({"n": 0, "email": "bob@acme.com"})).await;
    world.publish(json!({"n": 1, "email": "ann@acme.com"})).await;
    let arrived = world.arrived(2).await;
    assert_eq!(arrived[0]["person"]["role"], "CEO");
    assert_eq!(arrived[1]["person"]["role"], "CTO");
    let asked = api.received();
    assert!(asked[0].path.contains("?key=whsec_"), "{}", asked[0].path);
    let caller = Caller::admin(&world.gateway);
    for path in ["/api/v1/lookups/people-api?project=acme", "/api/v1/export?project=acme"] {
        let text = caller.get(path).await.expect(200).text;
        assert!(text.contains("${PEOPLE_API_TOKEN}") && !text.contains("whsec_"), "{text}");
    }
    // What is shown can be put again, and means the same secret.
    let mut spec = caller.get("/api/v1/lookups/people-api?project=acme").await.json();
    for field in ["id", "created_at"] {
        spec.as_object_mut().unwrap().remove(field);
    }
    spec["timeout"] = json!("3s");
    caller.put("/api/v1/lookups/people-api?project=acme", &spec).await.expect(200);
    world.publish(json!({"n": 2, "email": "ann2@acme.com"})).await;
    world.arrived(3).await;
    assert!(api.received().last().unwrap().path.contains("?key=whsec_"));
}

#[tokio::test]
async fn a_look_up_that_cannot_work_is_refused_where_it_is_wrong() {
    let world = World::new("  - { name: users, kind: table }\n", PERSON).await;
    let caller = Caller::admin(&world.gateway);
    for (spec, field) in [
        (json!({"name": "x", "kind": "http", "map": {"a": "1"}}), "url"),
        (json!({"name": "x", "kind": "http", "url": "https://a.co/", "map": "1"}), "map"),
        (
            json!({"name": "x", "kind": "http", "url": "https://{{ domain }}/", "map": {"a": "1"}}),
            "url",
        ),
        (
            json!({"name": "x", "kind": "http", "url": "https://a.co/{{ payload.x }}", "map": {"a": "1"}}),
            "url",
        ),
        (
            json!({"name": "x", "kind": "http", "url": "https://a.co/", "map": {"a": "{{ person }}"}}),
            "map.a",
        ),
        (json!({"name": "x", "kind": "table", "url": "https://a.co/"}), "url"),
        (
            json!({"name": "people", "kind": "http", "url": "https://a.co/", "map": {"a": "1"}}),
            "kind",
        ),
        (json!({"name": "users", "kind": "table"}), "name"),
        (
            json!({"name": "x", "kind": "table", "learn": {"when": "type ==", "key": "type", "fields": "payload"}}),
            "learn.when",
        ),
    ] {
        let answer = caller.post("/api/v1/lookups?project=acme", &spec).await;
        let problem = answer.json();
        assert_eq!(problem["errors"][0]["field"], field, "{spec} {problem}");
    }
    for (step, field) in [
        (json!({"enrich.entity": {"table": "nothing", "key": "payload.id"}}), "table"),
        (json!({"enrich.person": {"email": "payload.email", "from": ["users"]}}), "from[0]"),
        (json!({"enrich.person": {}}), "email"),
        (json!({"enrich.person": {"email": "payload.email", "into": "payload"}}), "into"),
        (json!({"enrich.person": {"email": "payload.email", "on_error": "explode"}}), "on_error"),
        (json!({"enrich.person": {"email": "payload.email", "timeout": "2h"}}), "timeout"),
        (json!({"enrich.person": {"mail": "payload.email"}}), "mail"),
    ] {
        let spec = json!({"name": "p", "steps": [step], "routes": [{"to": "sink"}]});
        let problem = caller.post("/api/v1/pipelines?project=acme", &spec).await.json();
        let found = problem["errors"][0]["field"].as_str().unwrap_or_default().to_owned();
        assert!(found.starts_with("steps[0].enrich.") && found.ends_with(field), "{problem}");
    }
    let step = json!({"enrich.entity": {"table": "users", "key": "payload.id"}});
    let spec = json!({"name": "p", "steps": [step], "routes": [{"to": "sink"}]});
    caller.post("/api/v1/pipelines?project=acme", &spec).await.expect(201);
    let refused = caller.delete("/api/v1/lookups/users?project=acme").await.expect(409);
    assert!(refused.text.contains("the pipeline `p` names this look-up"), "{}", refused.text);
}

/// Redacts, enriches and redacts: `before` and `after` stand around the step that asks the directory.
async fn redacted(before: &str, after: &str, payload: Value) -> Value {
    let entity = "{ enrich.entity: { table: users, key: payload.user_id, into: user } }";
    let map = r#"{ map: { n: 0, all: "{{ payload }}", mail: "{{ user.mail }}", title: "{{ user.title }}" } }"#;
    let steps: Vec<&str> =
        [before, entity, PERSON, after, map].into_iter().filter(|it| !it.is_empty()).collect();
    let world = World::new("  - { name: users, kind: table }", &steps.join(", ")).await;
    let user = json!({"id": "u1", "mail": "JANE@acme.com", "title": "Jane Doe, CTO", "other": "joe@acme.com"});
    world.put("users", user).await;
    world
        .put("people", json!({"email": "jane@acme.com", "backup": "jane@acme.com", "role": "CTO"}))
        .await;
    world.publish(payload).await;
    world.arrived(1).await.remove(0)
}

#[tokio::test]
async fn masked_values_stay_masked_after_enrichment() {
    let payload = || json!({"n": 0, "user_id": "u1", "email": "jane@acme.com", "name": "Jane Doe"});
    let fields = "{ redact.pii: { fields: [payload.email, payload.name], mode: mask } }";
    for (before, after) in [(fields, ""), ("", fields)] {
        let got = redacted(before, after, payload()).await;
        let text = got.to_string().to_lowercase();
        assert!(!text.contains("jane"), "{got}");
        // What was not taken out of the event stays.
        assert_eq!(got["all"]["user"]["other"], "joe@acme.com", "{got}");
        assert_eq!(got["mail"], "j***@acme.com", "{got}");
    }
    let detect = "{ redact.pii: { detect: email, mode: hash } }";
    let got = redacted("", detect, payload()).await;
    assert!(!got.to_string().to_lowercase().contains("@acme.com"), "{got}");
    assert_eq!(got["all"]["person"]["backup"], got["all"]["email"], "{got}");
    let got = redacted(detect, "", payload()).await;
    assert_eq!(
        (&got["mail"], &got["all"]["user"]["other"]),
        (&got["all"]["email"], &json!("joe@acme.com"))
    );
}

#[tokio::test]
async fn the_key_of_a_row_comes_only_where_it_is_asked_for() {
    for (asked, user, person) in [
        (
            "",
            json!({"n": 1, "status": "found"}),
            json!({"role": "CTO", "domain": "acme.com", "status": "found"}),
        ),
        (
            ", with_key: true",
            json!({"id": 7, "n": 1, "status": "found"}),
            json!({"email": "Ann@acme.com", "role": "CTO", "domain": "acme.com", "status": "found"}),
        ),
    ] {
        let steps = format!(
            "{{ enrich.entity: {{ table: users, key: payload.user_id, into: user{asked} }} }}, \
             {{ enrich.person: {{ email: payload.email{asked} }} }}"
        );
        let world = World::new("  - { name: users, kind: table }", &steps).await;
        world.put("users", json!({"id": 7, "n": 1})).await;
        world.put("people", json!({"email": "Ann@acme.com", "role": "CTO"})).await;
        world.publish(json!({"n": 0, "user_id": 7, "email": "ann@acme.com"})).await;
        let got = world.arrived(1).await.remove(0);
        assert_eq!((&got["user"], &got["person"]), (&user, &person), "{got}");
    }
}
