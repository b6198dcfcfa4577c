//! The contract itself, over real sockets, without a client in between.

use std::io::Write as _;

use http::Method;
use jiff::SignedDuration;
use serde_json::{Value, json};

use crate::harness::{
    caller::{Answer, Caller},
    gateway::Gateway,
};

const RESOURCES: &str = "version: 1\nproject: acme\nsources:\n  \
    - { name: web, kind: segment, write_key: wk_demo }\n  - { name: app, kind: api }\n";

struct Lab {
    gateway: Gateway,
    /// Without a key of our own.
    client: Caller,
    reader: Caller,
}

impl Lab {
    async fn new() -> Self {
        let gateway = Gateway::start(RESOURCES, "http://127.0.0.1:9/").await;
        let client = Caller::new(&gateway, None);
        let reader = Caller::with_scopes(&gateway, "acme", &["read"]).await;
        Self { gateway, client, reader }
    }

    async fn post(&self, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        self.client.send(Method::POST, path, headers, body.to_owned()).await
    }

    /// Oldest first, as (type, payload).
    async fn kept(&self) -> Vec<(String, Value)> {
        let list = self.reader.get("/api/v1/events?limit=200").await.expect(200).json();
        let mut kept = Vec::new();
        for it in list["data"].as_array().unwrap().iter().rev() {
            let path = format!("/api/v1/events/{}", it["id"].as_str().unwrap());
            let event = self.reader.get(&path).await.expect(200).json();
            kept.push((event["type"].as_str().unwrap().to_owned(), event["payload"].clone()));
        }
        kept
    }
}

fn track(id: &str) -> Value {
    json!({ "type": "track", "userId": "u1", "event": "Signed Up", "messageId": id })
}

#[tokio::test]
async fn every_path_and_place_of_the_key_and_content_type_is_taken_with_exactly_200() {
    let lab = Lab::new().await;
    let basic = [("authorization", "Basic d2tfZGVtbzo=")];
    let bare = [("authorization", "Basic d2tfZGVtbw==")];
    let plain = [("content-type", "text/plain")];
    let form = [("content-type", "application/x-www-form-urlencoded")];
    let one = |id: &str| {
        let mut message = track(id);
        message["writeKey"] = "wk_demo".into();
        message.to_string()
    };
    let batch = |id: &str| json!({ "batch": [track(id)] }).to_string();

    let answers = [
        lab.post("/v1/track", &plain, &one("m1")).await,
        lab.post("/v1/t", &form, &one("m2")).await,
        lab.post("/v1/batch", &basic, &batch("m3")).await,
        lab.post("/v1/b", &bare, &batch("m4")).await,
        lab.post("/v1/import", &basic, &batch("m5")).await,
        lab.post("/beacon/v1/batch?writeKey=wk_demo", &[], &batch("m6")).await,
        lab.post("/v1/m", &[], "{}").await,
    ];
    for answer in answers {
        assert_eq!((answer.status.as_u16(), &answer.json()["success"]), (200, &json!(true)));
    }
    let ids: Vec<_> = lab.kept().await.into_iter().map(|it| it.1["messageId"].clone()).collect();
    assert_eq!(ids, ["m1", "m2", "m3", "m4", "m5", "m6"]);
}

#[tokio::test]
async fn a_single_call_takes_its_type_from_the_path() {
    let lab = Lab::new().await;
    for (path, body) in [
        ("/v1/identify", json!({ "userId": "u", "traits": { "plan": "pro" } })),
        ("/v1/p", json!({ "anonymousId": "a", "name": "Home" })),
        ("/v1/s", json!({ "anonymousId": "a", "name": "Main" })),
        ("/v1/g", json!({ "userId": "u", "groupId": "g" })),
        ("/v1/alias", json!({ "userId": "u", "previousId": "p" })),
    ] {
        let headers = [("authorization", "Basic d2tfZGVtbzo=")];
        lab.post(path, &headers, &body.to_string()).await.expect(200);
    }
    let types: Vec<_> = lab.kept().await.into_iter().map(|it| it.0).collect();
    assert_eq!(types, ["identify", "page", "screen", "group", "alias"]);
}

#[tokio::test]
async fn a_message_is_kept_once_however_often_it_is_sent() {
    let lab = Lab::new().await;
    let headers = [("authorization", "Basic d2tfZGVtbzo=")];
    for _ in 0..3 {
        let body = json!({ "batch": [track("m1"), track("m2"), track("m1")] });
        lab.post("/v1/batch", &headers, &body.to_string()).await.expect(200);
    }
    assert_eq!(lab.kept().await.len(), 2);

    // Messages without an id are events of their own.
    let body =
        json!({ "batch": [{ "type": "page", "userId": "u" }, { "type": "page", "userId": "u" }] });
    lab.post("/v1/batch", &headers, &body.to_string()).await.expect(200);
    assert_eq!(lab.kept().await.len(), 4);
}

#[tokio::test]
async fn the_fault_of_one_message_does_not_fail_the_others() {
    let lab = Lab::new().await;
    let headers = [("authorization", "Basic d2tfZGVtbzo=")];
    let large = "x".repeat(33 * 1024);
    let body = json!({ "batch": [
        track("m1"),
        { "type": "track", "event": "x" },
        { "type": "track", "userId": "u", "event": "x", "properties": { "large": large } },
        7,
        track("m2"),
    ] });
    let answer = lab.post("/v1/batch", &headers, &body.to_string()).await.expect(200).json();
    let faults: Vec<_> = answer["rejected"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| (it["index"].as_u64().unwrap(), it["code"].as_str().unwrap()))
        .collect();
    assert_eq!(faults, [(1, "no_user_anon_id"), (2, "message_too_large"), (3, "invalid_message")]);
    assert_eq!(lab.kept().await.len(), 2);

    // Messages beyond the most that a batch may have are rejected, too, and told.
    let many: Vec<_> = (0..2501).map(|_| json!({ "type": "page", "userId": "u" })).collect();
    let body = json!({ "batch": many }).to_string();
    let answer = lab.post("/v1/batch", &headers, &body).await.expect(200).json();
    assert_eq!(answer["rejected"][0]["index"], 2500);
    assert_eq!(answer["rejected"][0]["code"], "too_many_messages");
}

#[tokio::test]
async fn errors_are_json_with_a_code_and_a_message_and_stop_every_client() {
    let lab = Lab::new().await;
    let key = [("authorization", "Basic d2tfZGVtbzo=")];
    let huge = json!({ "batch": [], "x": "y".repeat(501 * 1024) }).to_string();
    for (path, headers, body, status, code) in [
        ("/v1/batch", &key[..], "{", 400, "invalid_json"),
        ("/v1/batch", &key, "[]", 400, "invalid_request"),
        ("/v1/batch", &key, "{}", 400, "invalid_request"),
        ("/v1/batch", &key, &huge, 400, "body_too_large"),
        ("/v1/track", &key, r#"{"userId":"u"}"#, 400, "no_event"),
        ("/v1/batch", &[], r#"{"batch":[]}"#, 401, "unknown_write_key"),
        ("/v1/batch", &[], r#"{"batch":[],"writeKey":"wk_other"}"#, 401, "unknown_write_key"),
        ("/v1/nothing", &key, "{}", 404, "not_found"),
        ("/v1/batch", &[("content-encoding", "br")], "{}", 400, "unsupported_encoding"),
    ] {
        let answer = lab.post(path, headers, body).await;
        let json = answer.json();
        assert_eq!((answer.status.as_u16(), json["code"].as_str()), (status, Some(code)), "{path}");
        assert!(json["message"].as_str().is_some_and(|it| !it.is_empty()));
        assert_eq!(answer.headers["content-type"], "application/json");
    }
    assert_eq!(lab.kept().await.len(), 0);
}

#[tokio::test]
async fn gzip_is_understood_whatever_the_content_type_says() {
    let lab = Lab::new().await;
    let body = json!({ "batch": [track("m1")], "writeKey": "wk_demo" }).to_string();
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(body.as_bytes()).unwrap();
    let headers =
        [("content-type", "application/x-www-form-urlencoded"), ("content-encoding", "gzip")];
    let body = encoder.finish().unwrap();
    lab.client.send(Method::POST, "/v1/batch", &headers, body).await.expect(200);
    assert_eq!(lab.kept().await.len(), 1);
}

#[tokio::test]
async fn browsers_may_ask_anything_and_read_when_to_come_back() {
    let lab = Lab::new().await;
    let asks = [
        ("origin", "https://shop.example"),
        ("access-control-request-method", "POST"),
        ("access-control-request-headers", "authorization,x-retry-count,anonymousid"),
    ];
    let preflight = lab.client.send(Method::OPTIONS, "/v1/t", &asks, "").await.expect(204);
    let header = |answer: &Answer, name: &str| {
        answer.headers.get(name).map(|it| it.to_str().unwrap().to_owned()).unwrap_or_default()
    };
    assert_eq!(header(&preflight, "access-control-allow-origin"), "https://shop.example");
    assert_eq!(header(&preflight, "access-control-allow-headers"), asks[2].1);
    assert_eq!(header(&preflight, "access-control-allow-credentials"), "true");

    // Errors too can be read by the page.
    let refused = lab.post("/v1/t", &asks[..1], "{").await.expect(400);
    assert_eq!(header(&refused, "access-control-allow-origin"), "https://shop.example");
    assert!(header(&refused, "access-control-expose-headers").contains("Retry-After"));
}

#[tokio::test]
async fn settings_lead_a_browser_to_this_gateway() {
    let lab = Lab::new().await;
    for path in ["/v1/projects/wk_demo/settings", "/projects/wk_demo/settings"] {
        let settings = lab.client.get(path).await.expect(200).json();
        let segment = &settings["integrations"]["Segment.io"];
        assert_eq!(segment["apiHost"], format!("{}/v1", lab.gateway.app.address));
        assert_eq!((&segment["protocol"], &segment["apiKey"]), (&json!("http"), &json!("wk_demo")));
        assert_eq!(settings["integrations"].as_object().unwrap().len(), 1);
    }
    lab.client.get("/v1/projects/wk_other/settings").await.expect(401);

    let config = lab.client.get("/sourceConfig/?p=npm&writeKey=wk_demo").await.expect(200).json();
    assert_eq!(config["source"]["enabled"], true);
    assert!(config["source"]["destinations"].is_array() && config["source"]["config"].is_object());
}

#[tokio::test]
async fn a_pixel_is_a_picture_whatever_happens() {
    let lab = Lab::new().await;
    // {"writeKey":"wk_demo","userId":"u","event":"Opened"}
    let data = "eyJ3cml0ZUtleSI6IndrX2RlbW8iLCJ1c2VySWQiOiJ1IiwiZXZlbnQiOiJPcGVuZWQifQ";
    for query in [
        format!("data={data}"),
        "writeKey=wk_demo&userId=u&event=Opened&properties.mail=7".to_owned(),
        "nothing=right".to_owned(),
        "data=%00".to_owned(),
    ] {
        let path = format!("/v1/pixel/track?{query}");
        let (status, headers, _) = lab.client.open(Method::GET, &path, &[], "").await;
        assert_eq!(
            (status.as_u16(), &headers["content-type"]),
            (200, &"image/gif".parse().unwrap())
        );
    }
    let kept = lab.kept().await;
    assert_eq!(kept.len(), 2);
    assert_eq!(kept[1].1["properties"]["mail"], "7");
}

#[tokio::test]
async fn never_store_holds_at_every_endpoint() {
    let resources = "version: 1\nproject: acme\nsources:\n  \
        - { name: web, kind: segment, write_key: wk_demo, never_store: { fields: [payload.traits.ssn] } }\n  \
        - { name: form, kind: webhook, verify: none, never_store: { detect: [card] } }\n";
    let gateway = Gateway::start(resources, "http://127.0.0.1:9/").await;
    let client = Caller::new(&gateway, None);
    let message = json!({ "writeKey": "wk_demo", "userId": "u", "traits": { "ssn": "never-this", "plan": "pro" } });
    client.post("/v1/identify", &message).await.expect(200);
    client.post("/in/form", &json!({ "note": "card 4242 4242 4242 4242 ok" })).await.expect(200);

    let reader = Caller::with_scopes(&gateway, "acme", &["read"]).await;
    let list = reader.get("/api/v1/events").await.expect(200).json();
    let mut kept = String::new();
    for it in list["data"].as_array().unwrap() {
        let path = format!("/api/v1/events/{}", it["id"].as_str().unwrap());
        kept.push_str(&reader.get(&path).await.expect(200).text);
    }
    assert_eq!(list["data"].as_array().unwrap().len(), 2);
    assert!(!kept.contains("never-this") && !kept.contains("4242 4242"), "{kept}");
    assert!(kept.contains(r#""plan":"pro""#));
}

#[tokio::test]
async fn a_message_counts_once_for_as_long_as_its_source_says() {
    let resources = "version: 1\nproject: acme\nsources:\n  \
        - { name: web, kind: segment, write_key: wk_demo, key_window: 36h }\n  \
        - { name: ever, kind: segment, write_key: wk_ever }\n  \
        - { name: hook, kind: webhook, verify: none, key: payload.id, key_window: 24h }\n";
    let gateway = Gateway::start(resources, "http://127.0.0.1:9/").await;
    let send = async |gateway: &Gateway, key: &str| {
        let mut message = track("m1");
        message["writeKey"] = key.into();
        Caller::new(gateway, None).post("/v1/track", &message).await.expect(200);
        let reader = Caller::admin(gateway);
        let list = reader.get("/api/v1/events?project=acme").await.expect(200).json();
        list["data"].as_array().unwrap().len()
    };
    // The same message within the window is one event, and after it another, which then counts.
    for (hours, events) in [(0, 1), (36, 1), (1, 2), (30, 2), (7, 3)] {
        gateway.clock.advance(SignedDuration::from_hours(hours));
        assert_eq!(send(&gateway, "wk_demo").await, events, "{hours} hours later");
    }
    let gateway = gateway.restart().await;
    gateway.clock.advance(SignedDuration::from_hours(35));
    assert_eq!(send(&gateway, "wk_demo").await, 3);
    // Where nothing is said, a key counts for ever, whoever took it.
    gateway.clock.advance(SignedDuration::from_hours(24 * 365));
    assert_eq!(send(&gateway, "wk_ever").await, 3);

    // It is the same for what other services post.
    for (hours, events) in [(0, 4), (24, 4), (1, 5)] {
        gateway.clock.advance(SignedDuration::from_hours(hours));
        Caller::new(&gateway, None).post("/in/hook", &json!({ "id": 7 })).await.expect(200);
        let list = Caller::admin(&gateway).get("/api/v1/events?project=acme").await.json();
        assert_eq!(list["data"].as_array().unwrap().len(), events, "{hours} hours later");
    }

    let caller = Caller::admin(&gateway);
    for (kind, window) in [("segment", "23h"), ("api", "48h")] {
        let spec = json!({ "name": "x", "kind": kind, "key_window": window });
        let problem = caller.post("/api/v1/sources?project=acme", &spec).await.expect(400).json();
        assert_eq!(problem["errors"][0]["field"], "key_window", "{problem}");
    }
}
