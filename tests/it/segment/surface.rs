//! Every route of the contract, and what each of them owes to browsers and to impatient clients.

use std::collections::BTreeMap;

use http::Method;
use serde_json::{Value, json};

use crate::harness::{
    caller::{Answer, Caller},
    gateway::Gateway,
};

const RESOURCES: &str =
    "version: 1\nproject: acme\nsources: [{ name: web, kind: segment, write_key: wk_demo }]\n";
const BASIC: (&str, &str) = ("authorization", "Basic d2tfZGVtbzo=");
const CALLS: [&str; 6] = ["identify", "track", "page", "screen", "group", "alias"];
const BATCHES: [&str; 7] =
    ["/v1/batch", "/v1/b", "/v1/batch/b", "/v1/import", "/batch", "/b", "/beacon/v1/batch"];
const SETTINGS: [&str; 3] = [
    "/v1/projects/wk_demo/settings",
    "/projects/wk_demo/settings",
    "/v1/projects/projects/wk_demo/settings",
];

struct Lab {
    _gateway: Gateway,
    client: Caller,
    reader: Caller,
}

impl Lab {
    async fn new() -> Self {
        let gateway = Gateway::start(RESOURCES, "http://127.0.0.1:9/").await;
        let client = Caller::new(&gateway, None);
        let reader = Caller::with_scopes(&gateway, "acme", &["read"]).await;
        Self { _gateway: gateway, client, reader }
    }

    async fn post(&self, path: &str, headers: &[(&str, &str)], body: &Value) -> Answer {
        self.client.send(Method::POST, path, headers, body.to_string()).await
    }

    /// Oldest first.
    async fn payloads(&self) -> Vec<Value> {
        let list = self.reader.get("/api/v1/events?limit=200").await.expect(200).json();
        let mut payloads = Vec::new();
        for it in list["data"].as_array().unwrap().iter().rev() {
            let path = format!("/api/v1/events/{}", it["id"].as_str().unwrap());
            payloads.push(self.reader.get(&path).await.expect(200).json()["payload"].clone());
        }
        payloads
    }

    async fn traffic(&self) -> Value {
        self.reader.get("/api/v1/sources/web/traffic").await.expect(200).json()
    }
}

fn call_paths() -> Vec<(String, &'static str)> {
    let long = CALLS.iter().map(|call| (format!("/v1/{call}"), *call));
    let short = CALLS.iter().map(|call| (format!("/v1/{}", &call[..1]), *call));
    long.chain(short).collect()
}

fn header(answer: &Answer, name: &str) -> String {
    answer.headers.get(name).map(|it| it.to_str().unwrap().to_owned()).unwrap_or_default()
}

#[tokio::test]
async fn every_call_has_two_paths_and_every_batch_seven_and_each_is_taken_with_200() {
    let lab = Lab::new().await;
    let mut expected = Vec::new();
    for (path, call) in call_paths() {
        let message = json!({
            "userId": "u", "event": "e", "groupId": "g", "previousId": "p", "messageId": path,
        });
        lab.post(&path, &[BASIC], &message).await.expect(200);
        expected.push((call.to_owned(), path));
    }
    for path in BATCHES {
        let body = json!({ "batch": [{ "type": "track", "userId": "u", "event": "e", "messageId": path }] });
        lab.post(path, &[BASIC], &body).await.expect(200);
        expected.push(("track".to_owned(), path.to_owned()));
    }
    let text = |it: &Value, name: &str| it[name].as_str().unwrap().to_owned();
    let kept = lab.payloads().await;
    let kept: Vec<_> = kept.iter().map(|it| (text(it, "type"), text(it, "messageId"))).collect();
    assert_eq!(kept, expected);

    for path in SETTINGS
        .iter()
        .chain(&["/sourceConfig/?writeKey=wk_demo", "/sourceConfig?writeKey=wk_demo"])
    {
        lab.client.get(path).await.expect(200);
    }
    lab.post("/v1/m", &[], &json!({ "series": [] })).await.expect(200);
    assert_eq!(
        lab.payloads().await.len(),
        expected.len(),
        "what clients say of themselves is no event"
    );
}

#[tokio::test]
async fn every_route_answers_the_question_of_a_browser_without_a_key() {
    let lab = Lab::new().await;
    let mut paths: Vec<String> = call_paths().into_iter().map(|it| it.0).collect();
    paths.extend(BATCHES.iter().chain(&SETTINGS).map(|it| (*it).to_owned()));
    paths
        .extend(["/v1/m", "/v1/pixel/track", "/sourceConfig", "/sourceConfig/"].map(str::to_owned));
    let asks = [
        ("origin", "https://shop.example"),
        ("access-control-request-method", "POST"),
        ("access-control-request-headers", "authorization, anonymousid, sentat, rsa-retry-attempt"),
    ];
    for path in paths {
        let answer = lab.client.send(Method::OPTIONS, &path, &asks, "").await.expect(204);
        assert_eq!(header(&answer, "access-control-allow-origin"), asks[0].1, "{path}");
        assert_eq!(header(&answer, "access-control-allow-headers"), asks[2].1, "{path}");
        assert_eq!(header(&answer, "access-control-allow-methods"), "GET,POST,OPTIONS", "{path}");
        assert_eq!(header(&answer, "access-control-max-age"), "86400", "{path}");
    }
    // What a page hears in the end has the same, whether it went well or not.
    for (key, status) in [("wk_demo", 200), ("wk_other", 401)] {
        let body = json!({ "writeKey": key, "userId": "u" });
        let answer = lab.post("/v1/identify", &asks[..1], &body).await.expect(status);
        assert_eq!(header(&answer, "access-control-allow-origin"), asks[0].1);
        assert_eq!(header(&answer, "access-control-allow-credentials"), "true");
    }
}

#[tokio::test]
async fn a_token_beside_the_key_in_the_body_and_the_key_in_the_query_open_it_as_well() {
    let lab = Lab::new().await;
    let message = json!({ "writeKey": "wk_demo", "userId": "u" });
    let bearer = [("authorization", "Bearer somebodys-token")];
    lab.post("/v1/identify", &bearer, &message).await.expect(200);
    lab.post("/v1/identify?writeKey=wk_demo", &[], &json!({ "userId": "u" })).await.expect(200);
    lab.post("/v1/identify", &bearer, &json!({ "userId": "u" })).await.expect(401);
    // The first place counts, also where a later one would be right.
    let other = [("authorization", "Basic d2tfb3RoZXI6")];
    lab.post("/v1/identify", &other, &message).await.expect(401);
    // No message holds its key.
    assert!(lab.payloads().await.iter().all(|it| it.get("writeKey").is_none()));
}

#[tokio::test]
async fn batch_context_reaches_each_message() {
    let lab = Lab::new().await;
    // The client's clock is a day slow: what it made five seconds ago happened five seconds ago.
    let body = json!({
        "sentAt": "2025-12-31T00:00:00Z",
        "context": { "locale": "de", "app": { "name": "shop" } },
        "integrations": { "All": false, "Webhooks": true },
        "batch": [
            { "type": "track", "userId": "u", "event": "e", "timestamp": "2025-12-30T23:59:55Z",
              "context": { "locale": "en" }, "integrations": { "Webhooks": false } },
            { "type": "page", "anonymousId": "a" },
        ],
    });
    lab.post("/v1/batch", &[BASIC], &body).await.expect(200);
    let kept = lab.payloads().await;
    assert_eq!(kept[0]["timestamp"], "2025-12-31T23:59:55.000Z");
    assert_eq!(kept[0]["originalTimestamp"], "2025-12-30T23:59:55Z");
    assert_eq!(kept[0]["sentAt"], "2025-12-31T00:00:00Z");
    assert_eq!(kept[0]["receivedAt"], "2026-01-01T00:00:00.000Z");
    assert_eq!(kept[0]["context"], json!({ "app": { "name": "shop" }, "locale": "en" }));
    assert_eq!(kept[0]["integrations"], json!({ "All": false, "Webhooks": false }));
    assert_eq!(kept[1]["integrations"], body["integrations"]);
    assert_eq!(kept[1]["timestamp"], "2026-01-01T00:00:00.000Z");
}

#[tokio::test]
async fn a_pixel_whose_names_nest_without_end_is_a_picture_and_no_deep_stack() {
    let lab = Lab::new().await;
    let deep = format!("writeKey=wk_demo&userId=u&event=e&properties{}=1", ".a".repeat(3_500));
    let (status, ..) =
        lab.client.open(Method::GET, &format!("/v1/pixel/track?{deep}"), &[], "").await;
    assert_eq!(status, 200);
    let kept = &lab.payloads().await[0];
    let mut level = &kept["properties"];
    let mut levels = 1;
    while let Some(inner) = level.get("a") {
        (level, levels) = (inner, levels + 1);
    }
    assert_eq!(levels, 16);
    assert_eq!(level.as_object().unwrap().len(), 1, "the rest is one name");
}

#[tokio::test]
async fn rejected_messages_are_shown_at_the_source() {
    let lab = Lab::new().await;
    let wide: BTreeMap<_, _> = (0..3000).map(|it| (format!("k{it}"), it)).collect();
    let body = json!({ "batch": [
        { "type": "track", "userId": "u" },
        { "type": "page" },
        { "type": "page", "userId": "u", "properties": wide },
        { "type": "page", "userId": "u" },
    ] });
    lab.post("/v1/batch", &[BASIC], &body).await.expect(200);
    // Requests that are refused as a whole are told, too, where a key says whose they are.
    lab.client.send(Method::POST, "/v1/batch", &[BASIC], "{").await.expect(400);
    lab.post("/v1/batch", &[], &json!({ "writeKey": "wk_demo" })).await.expect(400);
    let huge = json!({ "batch": [], "x": "y".repeat(501 * 1024) });
    lab.post("/v1/batch", &[BASIC], &huge).await.expect(400);
    let pixel = "/v1/pixel/track?writeKey=wk_demo&userId=u";
    assert_eq!(lab.client.open(Method::GET, pixel, &[], "").await.0, 200);

    let traffic = lab.traffic().await;
    let expected = json!({
        "no_event": 2, "no_user_anon_id": 1, "message_too_large": 1, "invalid_json": 1,
        "invalid_request": 1, "body_too_large": 1,
    });
    assert_eq!((&traffic["accepted"], &traffic["rejected"]), (&json!(1), &expected), "{traffic}");
    let told = traffic["rejections"].as_array().unwrap();
    assert_eq!(told.len(), 7);
    assert_eq!(told[0]["code"], "no_event", "the newest is first: {traffic}");
    assert!(
        told.iter().all(|it| it["ip"] == "127.0.0.1" && !it["reason"].as_str().unwrap().is_empty())
    );
    // Whose key is unknown is nobody's traffic.
    lab.post("/v1/batch", &[], &json!({ "writeKey": "wk_other", "batch": [] })).await.expect(401);
    assert_eq!(lab.traffic().await["rejected"], expected);
}

#[tokio::test]
async fn an_overloaded_gateway_says_in_whole_seconds_when_to_come_back() {
    // So little room for bodies that one message does not fit.
    let gateway = Gateway::configured(RESOURCES, |config| config.ingest.reading_bytes = 64).await;
    let body = json!({ "userId": "u", "traits": { "note": "x".repeat(200) } }).to_string();
    let headers = [BASIC, ("origin", "https://shop.example")];
    let client = Caller::new(&gateway, None);
    let answer = client.send(Method::POST, "/v1/identify", &headers, body).await.expect(429);
    let seconds: u64 = header(&answer, "retry-after").parse().expect("a whole number");
    assert!((1..=300).contains(&seconds));
    assert_eq!(header(&answer, "x-ratelimit-reset"), seconds.to_string());
    assert!(header(&answer, "access-control-expose-headers").contains("Retry-After"));
    let json = answer.json();
    assert!(json["code"].is_string() && json["message"].is_string(), "{json}");
    assert_eq!(gateway.now().to_string(), "2026-01-01T00:00:00Z");
}
