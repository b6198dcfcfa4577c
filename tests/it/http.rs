//! Destinations of the kind `http`, over real sockets: what is sent, what answers mean, and what is never shown.

use std::time::Duration;

use serde_json::{Value, json};
use tidegate::{
    model::Secret,
    resources::{self, Difference, File},
};

use crate::{
    apply::Bench,
    harness::{
        caller::Caller,
        gateway::Gateway,
        sink::{Answer, Sink},
    },
};

const KEY: &str = "k3y-of-the-crm";

/// One destination with these settings, each on a line of its own, that gets everything.
fn yaml(settings: &str) -> String {
    let settings: String = settings.lines().map(|it| format!("    {}\n", it.trim_end())).collect();
    format!(
        "version: 1\nproject: acme\nsources: [{{ name: app, kind: api }}]\ndestinations:\n  - name: crm\n    kind: http\n\
         {settings}pipelines:\n  - {{ name: all, on: [\"*\"], routes: [{{ to: crm }}] }}\n"
    )
}

async fn gateway(url: &str, settings: &str) -> (Gateway, Caller) {
    let gateway = Gateway::start(&yaml(&format!("url: \"${{URL}}\"\n{settings}")), url).await;
    let caller = Caller::with_scopes(&gateway, "acme", &["admin", "operate", "read"]).await;
    (gateway, caller)
}

async fn tested(caller: &Caller, payload: Value) -> Value {
    let trial = json!({"type": "user.signed_up", "payload": payload});
    caller.post("/api/v1/destinations/crm/test", &trial).await.expect(200).json()
}

#[tokio::test]
async fn every_method_arrives_as_it_was_written() {
    let sink = Sink::new().await;
    let (_gateway, caller) = gateway(&sink.url("/things"), "").await;
    let methods =
        ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "QUERY", "PURGE-ALL"];
    for (place, method) in methods.into_iter().enumerate() {
        let mut it =
            json!({"name": "crm", "kind": "http", "url": sink.url("/things"), "method": method});
        let has_body = !matches!(method, "GET" | "HEAD");
        if has_body {
            it["body"] = json!("type={{ type }}");
        }
        caller.put("/api/v1/destinations/crm", &it).await.expect(200);

        let outcome = tested(&caller, json!({})).await;

        assert_eq!(outcome["accepted"], true, "{method}: {outcome}");
        let request = &sink.received()[place];
        assert_eq!((request.method.as_str(), request.path.as_str()), (method, "/things"));
        let body = if has_body { "type=user.signed_up" } else { "" };
        assert_eq!(request.body, body, "{method}");
        let of_type = if has_body { "application/json" } else { "" };
        assert_eq!(request.header("content-type"), of_type, "{method}");
        assert_eq!(request.header("user-agent"), "Tidegate");
        let names = request.headers.keys().map(|it| it.as_str());
        let ours: Vec<&str> =
            names.filter(|it| it.starts_with("webhook-") || *it == "idempotency-key").collect();
        assert!(ours.is_empty(), "{ours:?}");
    }
}

const TEMPLATES: &str = r#"method: PUT
headers: { content-type: "application/vnd.acme+json", x-user: "u={{ payload.user }}", x-api-key: "${SECRET}" }
auth: { basic: { username: tide, password: "p:w" } }
body: '{"text": {{ payload.text | tojson }}, "form": "{{ payload.form | urlencode }}", "raw": {{ payload.raw }}}'
"#;

#[tokio::test]
async fn hostile_content_stays_where_its_template_stands() {
    let sink = Sink::new().await;
    let url = sink.url("/u/{{ payload.id }}?q={{ payload.q }}&z=1");
    let (gateway, _) = gateway(&url, TEMPLATES).await;
    let text = "\"}]}} {{ payload.id }} {% if %} \r\n\u{0} ü 漢 \\ </script>";
    let payload = json!({
        "id": "a/../b?c#d", "q": "x&y=1 ü", "user": "7", "text": text, "form": "a&b=c d\nü", "raw": [1, {"a": null}],
    });

    gateway.publish("user.signed_up", payload).await;
    gateway.idle().await;

    let received = sink.received();
    let [request] = received.as_slice() else { panic!("{received:?}") };
    assert_eq!(request.path, "/u/a%2F..%2Fb%3Fc%23d?q=x%26y%3D1%20%C3%BC&z=1");
    assert_eq!(request.header("x-user"), "u=7");
    assert_eq!(request.header("content-type"), "application/vnd.acme+json");
    assert_eq!(request.header("authorization"), "Basic dGlkZTpwOnc=");
    assert_eq!(request.header("x-api-key"), crate::harness::gateway::SECRET);
    let expected = json!({"text": text, "form": "a%26b%3Dc%20d%0A%C3%BC", "raw": [1, {"a": null}]});
    assert_eq!(request.json(), expected);
}

#[tokio::test]
async fn a_request_that_cannot_be_made_is_not_sent() {
    let sink = Sink::new().await;
    let url = sink.url("/u/{{ payload.id }}");
    let headers = "headers: { x-user: \"{{ payload.user }}\" }\nbody: '{{ 1 / payload.n }}'";
    let (_gateway, caller) = gateway(&url, headers).await;
    for (payload, reason) in [
        (json!({"id": 1, "n": 1, "user": "a\r\nx-evil: 1"}), "the header `x-user` would not be"),
        (json!({"id": 1, "n": 1, "user": "grün"}), "the header `x-user` would not be"),
        (json!({"id": "..", "n": 1}), "a template makes the URL's path climb"),
        (json!({"n": 1}), "a template in the URL's path is empty"),
        (json!({"id": 1, "n": "x"}), "the template of the body: "),
    ] {
        let outcome = tested(&caller, payload.clone()).await;
        let found = (&outcome["accepted"], &outcome["class"]);
        assert_eq!(found, (&json!(false), &json!("config")), "{payload}");
        assert!(outcome["reason"].as_str().unwrap().starts_with(reason), "{outcome}");
    }
    assert!(sink.received().is_empty());
    assert_eq!(tested(&caller, json!({"id": 1, "n": 1, "user": "a b"})).await["accepted"], true);
}

#[tokio::test]
async fn answers_mean_what_the_settings_say() {
    let sink = Sink::with(|it| {
        let status: u16 = it.path.trim_start_matches('/').parse().unwrap_or(200);
        Answer::status(status).header("retry-after", "7").body("why")
    })
    .await;
    let settings = "success: [2xx, 409]\ntimeout: 5s";
    let (_gateway, caller) = gateway(&sink.url("/{{ payload }}"), settings).await;
    for (status, accepted, class) in [
        (200, true, "accepted"),
        (409, true, "accepted"),
        (302, false, "status"),
        (404, false, "status"),
        (410, false, "abort"),
        (429, false, "status"),
        (500, false, "status"),
        (503, false, "status"),
    ] {
        let outcome = tested(&caller, json!(status)).await;
        let found = (&outcome["accepted"], &outcome["class"], &outcome["status"]);
        assert_eq!(found, (&json!(accepted), &json!(class), &json!(status)), "{outcome}");
        assert_eq!(outcome["response"], "why");
    }
}

#[tokio::test]
async fn a_delivery_is_retried_as_its_policy_says() {
    let sink = Sink::answering(&[503, 429, 200]).await;
    let settings = "body: '{{ payload | tojson }}'\nretry: { waits: [5s, 5m] }\nordering: fifo";
    let (gateway, _) = gateway(&sink.url("/"), settings).await;

    let event = gateway.publish("a", json!({"n": 1})).await;
    gateway.run_for(Duration::from_secs(400)).await;

    assert_eq!(gateway.states(event).await, ["delivered"]);
    let bodies: Vec<_> = sink.received().iter().map(|it| it.body.clone()).collect();
    assert_eq!(bodies, [r#"{"n":1}"#; 3]);
}

#[tokio::test]
async fn an_address_that_is_gone_disables_the_destination() {
    let sink = Sink::answering(&[410]).await;
    let (gateway, caller) = gateway(&sink.url("/"), "method: GET").await;
    gateway.publish("a", json!(1)).await;
    gateway.idle().await;
    let shown = caller.get("/api/v1/destinations/crm").await.expect(200).json();
    assert_eq!((&shown["state"], &shown["kind"]), (&json!("disabled"), &json!("http")), "{shown}");
}

#[tokio::test]
async fn hanging_and_forbidden_addresses_fail_with_their_class() {
    let sink = Sink::holding(|_| Answer::status(200)).await;
    let (_gateway, caller) = gateway(&sink.url("/"), "timeout: 100ms").await;
    assert_eq!(tested(&caller, json!(1)).await["class"], "timeout");
    sink.release(1);
    // Neither a private network nor an odd spelling of one is spoken to.
    for url in ["http://10.0.0.1/", "http://0xa9fea9fe/latest/meta-data", "http://[fd00::1]/"] {
        let it = json!({"name": "crm", "kind": "http", "url": url, "timeout": "5s"});
        caller.put("/api/v1/destinations/crm", &it).await.expect(200);
        let outcome = tested(&caller, json!(1)).await;
        assert_eq!(outcome["class"], "denied", "{url}: {outcome}");
    }
}

#[tokio::test]
async fn secrets_are_sent_and_never_shown() {
    let sink = Sink::new().await;
    let headers = format!("headers: {{ x-api-key: \"{KEY}\" }}\nauth: {{ bearer: \"{KEY}\" }}");
    let (gateway, caller) = gateway(&sink.url("/"), &headers).await;
    let shown = caller.get("/api/v1/destinations/crm").await.expect(200).json();
    assert_eq!(shown["headers"]["x-api-key"], "${CRM_HEADERS_X_API_KEY}");
    assert_eq!(shown["auth"]["bearer"], "${CRM_AUTH_BEARER}");
    let catalog = gateway.app.catalog_writer.current();
    let stored = catalog.destinations.values().next().unwrap();
    let document = serde_json::to_string(&**stored).unwrap();
    let everything = [
        shown.to_string(),
        format!("{stored:?}"),
        document,
        caller.get("/api/v1/export").await.text,
    ];
    for text in everything {
        assert!(!text.contains(KEY), "{text}");
    }
    // Placeholders that come back stand for what is there, and nothing changes.
    let mut again = shown.clone();
    for field in ["id", "version", "state", "signing_keys", "created_at"] {
        again.as_object_mut().unwrap().remove(field);
    }
    let replaced = caller.put("/api/v1/destinations/crm", &again).await.expect(200).json();
    assert_eq!(replaced["version"], shown["version"]);
    // Another host does not get them, unless they are given again.
    again["url"] = json!("https://evil.example/");
    let refused = caller.put("/api/v1/destinations/crm", &again).await.expect(400).json();
    let fields: Vec<&Value> =
        refused["errors"].as_array().unwrap().iter().map(|it| &it["field"]).collect();
    assert_eq!(fields, ["auth.bearer", "headers.x-api-key"]);

    assert_eq!(tested(&caller, json!(1)).await["accepted"], true);
    let request = &sink.received()[0];
    assert_eq!(request.header("x-api-key"), KEY);
    assert_eq!(request.header("authorization"), format!("Bearer {KEY}"));
    // A dry run shows the request, and masks in all of it what its owner keeps secret.
    let event = json!({"event": {"type": "user.signed_up", "payload": {"n": 1}}});
    let tried = caller.post("/api/v1/pipelines/all/test", &event).await.expect(200).json();
    let headers = &tried["routes"][0]["messages"][0]["requests"][0]["headers"];
    assert_eq!((&headers["x-api-key"], &headers["authorization"]), (&json!("…"), &json!("…")));
    assert_eq!(headers["user-agent"], "Tidegate");
    assert!(!tried.to_string().contains(KEY), "{tried:#}");
    // It has no signature to rotate.
    let rotate = "/api/v1/destinations/crm/rotate-secret";
    let refused = caller.post(rotate, &json!({})).await.expect(409).json();
    assert_eq!(refused["detail"], "destinations of the kind `http` do not sign");
}

async fn apply(bench: &Bench, text: &str, key: &str) -> Difference {
    let variable = |_: &str| Some(Secret::new(key));
    let file = File::read("acme.yaml", text, &variable).unwrap_or_else(|error| panic!("{error}"));
    let applied = resources::apply(&file, &bench.catalog_writer, bench.means(), false).await;
    applied.unwrap_or_else(|error| panic!("{error:?}"))
}

#[tokio::test]
async fn an_export_of_the_kind_can_be_applied_again() {
    let bench = Bench::new().await;
    let own = "url: https://a.example/{{ payload.id }}\nmethod: PATCH\nheaders: { x-api-key: \"${KEY}\" }\n\
               body: \"cost: $${{ payload.cost }}\"\nsuccess: [204]\ntimeout: 3s";
    let made = apply(&bench, &yaml(own), KEY).await.to_string();
    assert!(made.contains("+ headers.x-api-key: \"…\"") && !made.contains(KEY), "{made}");
    assert!(made.contains("+ body:") && !made.contains("success[0]: \"2xx\""), "{made}");

    let catalog = bench.catalog();
    let project = catalog.project_named("acme").unwrap().id;
    let exported = resources::export(&catalog, project).unwrap();
    assert!(exported.contains("$${{ payload.cost }}") && !exported.contains(KEY), "{exported}");
    assert!(!exported.contains("concurrency") && !exported.contains("auth"), "{exported}");
    assert_eq!(apply(&bench, &exported, KEY).await.changes, []);

    let changed = apply(&bench, &exported.replace("PATCH", "PUT"), "another key").await;
    let paths: Vec<&str> = changed.changes[0].fields.iter().map(|it| it.path.as_str()).collect();
    assert_eq!(paths, ["method", "headers.x-api-key"], "{changed}");
    assert!(!changed.to_string().contains("another key"), "{changed}");
}

#[tokio::test]
async fn wrong_settings_are_refused_with_field_and_line() {
    let bench = Bench::new().await;
    for (settings, error) in [
        (
            "urll: https://a.example/",
            "acme.yaml:7:11: destinations[0].urll: is not a field here (did you mean `url`?)",
        ),
        (
            "url: https://a.example/\nbody: [1]",
            "acme.yaml:8:11: destinations[0].body: must be a string, found a list",
        ),
        (
            "url: https://a.example/\nbody: \"{{ payload.a\"",
            "acme.yaml:8:11: destinations[0].body: must have ",
        ),
        (
            "url: https://a.example/\nmethod: get",
            "acme.yaml:8:13: destinations[0].method: must be in upper case",
        ),
        (
            "url: https://a.example/\nbatch: true",
            "acme.yaml:8:12: destinations[0].batch: must be left out",
        ),
        (
            "url: https://a.example/\nsuccess: [2xx, 9xx]",
            "acme.yaml:8:20: destinations[0].success[1]: must be `1xx` to",
        ),
        (
            "url: https://a.example/\nsecret: whsec_x",
            "acme.yaml:8:13: destinations[0].secret: is not a field here",
        ),
        (
            "url: https://a.example/\nheaders: { host: a }",
            "destinations[0].headers.host: must be a header",
        ),
        ("method: PUT", "destinations[0].url: is required, found nothing"),
    ] {
        let found = bench.refusal(&yaml(settings)).await;
        assert!(found.contains(error), "{settings}: {found}");
    }
    let kind =
        bench.refusal(&yaml("url: https://a.example/").replace("kind: http", "kind: htp")).await;
    let rule = "destinations[0].kind: must be one of `webhook`, `http` (did you mean `http`?)";
    assert!(kind.contains(rule), "{kind}");
}
