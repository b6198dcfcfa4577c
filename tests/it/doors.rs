//! What strangers and senders can and cannot do at the doors for events.

use hmac::{Hmac, KeyInit as _, Mac as _};
use http::Method;
use serde_json::{Value, json};
use sha2::Sha256;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::harness::{
    caller::{Answer, Caller},
    gateway::Gateway,
    sink::Sink,
};

const SECRET: &str = "s3cret-of-the-sender";

async fn readers(gateway: &Gateway) -> Caller {
    Caller::with_scopes(gateway, "acme", &["read", "ingest"]).await
}

async fn kept(reader: &Caller) -> Vec<Value> {
    let list = reader.get("/api/v1/events?limit=200").await.expect(200).json();
    list["data"].as_array().unwrap().clone()
}

#[tokio::test]
async fn the_secret_of_a_source_reaches_nobody() {
    // Given a source that verifies by a secret in a header of its own name, and a receiver of whole events,
    let sink = Sink::answering(&[200]).await;
    let resources = format!(
        "version: 1\nproject: acme\n\
         sources:\n  - {{ name: crm, kind: webhook, verify: {{ api-key: {{ header: X-Acme }} }}, secret: {SECRET} }}\n\
         destinations:\n  - {{ name: sink, kind: webhook, url: \"${{URL}}\", secret: \"${{SECRET}}\", envelope: full }}\n\
         pipelines:\n  - {{ name: all, on: [\"*\"], routes: [{{ to: sink }}] }}\n"
    );
    let gateway = Gateway::start(&resources, &sink.url("/")).await;
    let reader = readers(&gateway).await;

    // when a webhook comes with it, and with other credentials,
    let headers = [
        ("x-acme", SECRET),
        ("apikey", SECRET),
        ("ocp-apim-subscription-key", SECRET),
        ("referer", "https://a.example/?token=s3cret-of-the-sender"),
        ("x-topic", "orders"),
    ];
    let sender = Caller::new(&gateway, None);
    sender.send(Method::POST, "/in/crm", &headers, r#"{"n":1}"#).await.expect(200);

    // then the receiver, the API and the export have the other headers alone.
    let received = sink.received_at_least(1).await.remove(0);
    let sent = String::from_utf8(received.body.to_vec()).unwrap();
    let id = kept(&reader).await[0]["id"].as_str().unwrap().to_owned();
    let shown = reader.get(&format!("/api/v1/events/{id}")).await.expect(200).text;
    let exported = reader.get("/api/v1/events/export").await.expect(200).text;
    for text in [&sent, &shown, &exported] {
        assert!(!text.contains(SECRET), "{text}");
        assert!(text.contains("x-topic"), "{text}");
    }
}

fn signed(body: &str) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(SECRET.as_bytes()).unwrap();
    mac.update(body.as_bytes());
    format!("sha256={}", hex::encode(mac.finalize().into_bytes()))
}

#[tokio::test]
async fn a_copied_webhook_counts_once() {
    let resources = format!(
        "version: 1\nproject: acme\nsources:\n  - {{ name: github, kind: webhook, verify: github, secret: {SECRET} }}\n"
    );
    let gateway = Gateway::start(&resources, "http://127.0.0.1:9/").await;
    let (reader, sender) = (readers(&gateway).await, Caller::new(&gateway, None));
    let post = async |body: &str, id: &str, event: &str| {
        let signature = signed(body);
        let headers = [
            ("x-hub-signature-256", signature.as_str()),
            ("x-github-delivery", id),
            ("x-github-event", event),
        ];
        sender.send(Method::POST, "/in/github", &headers, body.to_owned()).await.expect(200);
    };
    post(r#"{"action":"opened"}"#, "1", "issues").await;
    post(r#"{"action":"opened"}"#, "1", "issues").await;
    post(r#"{"action":"opened"}"#, "2", "issues").await;
    post(r#"{"action":"opened"}"#, "3", "deployment").await;
    assert_eq!(kept(&reader).await.len(), 1);
    post(r#"{"action":"closed"}"#, "4", "issues").await;
    assert_eq!(kept(&reader).await.len(), 2);
}

#[tokio::test]
async fn keys_of_other_kinds_cannot_be_claimed() {
    let resources = "version: 1\nproject: acme\nsources:\n  \
         - { name: app, kind: api, key: payload.key }\n  \
         - { name: orders, kind: webhook, verify: none, key: payload.id }\n";
    let gateway = Gateway::start(resources, "http://127.0.0.1:9/").await;
    let (app, sender) = (readers(&gateway).await, Caller::new(&gateway, None));
    for key in ["webhook:orders:1001", "messageId:m-1"] {
        let event = json!({ "type": "a", "payload": {}, "idempotency_key": key });
        let refused = app.post("/api/v1/events", &event).await.expect(400);
        assert!(refused.text.contains("must not begin with `webhook:`"), "{}", refused.text);
        let plain = r#"{"type":"a","payload":{}}"#;
        let header = [("idempotency-key", key)];
        app.send(Method::POST, "/api/v1/events", &header, plain).await.expect(400);
    }
    // What an expression makes of a payload means no delivery of another source either.
    let event = json!({ "type": "a", "payload": { "key": "webhook:orders:1001" } });
    app.post("/api/v1/events", &event).await.expect(202);
    app.post("/api/v1/events", &event).await.expect(200);
    sender.send(Method::POST, "/in/orders", &[], r#"{"id":1001}"#).await.expect(200);
    assert_eq!(kept(&app).await.len(), 2);
}

#[tokio::test]
async fn an_id_of_the_gateway_cannot_be_posted_again() {
    let resources = "version: 1\nproject: acme\nsources: [{ name: app, kind: api }]\n";
    let gateway = Gateway::start(resources, "http://127.0.0.1:9/").await;
    let app = readers(&gateway).await;
    let first = json!({ "type": "a", "payload": 1 });
    let id = app.post("/api/v1/events", &first).await.expect(202).json()["id"].clone();
    let again = json!({ "type": "a", "payload": 2, "id": id, "idempotency_key": "k" });
    let answer = app.post("/api/v1/events", &again).await.expect(200).json();
    assert_eq!((&answer["id"], &answer["same_body"]), (&id, &json!(false)));
    assert_eq!(kept(&app).await.len(), 1);
}

#[tokio::test]
async fn a_key_of_another_type_is_told_and_counted() {
    let resources = "version: 1\nproject: acme\nsources: [{ name: app, kind: api }]\n";
    let gateway = Gateway::start(resources, "http://127.0.0.1:9/").await;
    let app = readers(&gateway).await;
    let event = |event_type: &str| json!({ "type": event_type, "payload": {}, "idempotency_key": "user-42" });
    app.post("/api/v1/events", &event("user.signed_up")).await.expect(202);
    let same = app.post("/api/v1/events", &event("user.signed_up")).await.expect(200).json();
    assert_eq!((&same["same_type"], same.get("note")), (&json!(true), None));
    let other = app.post("/api/v1/events", &event("user.deleted")).await.expect(200).json();
    assert_eq!((&other["same_type"], &other["same_body"]), (&json!(false), &json!(true)));
    assert!(other["note"].as_str().unwrap().contains("`signup:42`"), "{other}");
    let batch = app.post("/api/v1/events/batch", &json!([event("user.deleted")])).await.expect(200);
    assert_eq!(batch.json()["results"][0]["same_type"], json!(false));
    let status = app.get("/api/v1/status").await.expect(200).json();
    assert_eq!(status["conflicts"][0]["source"], "app");
    assert_eq!(status["conflicts"][0]["events"], 2);
}

#[tokio::test]
async fn a_source_may_believe_its_sender_about_metadata() {
    let resources = "version: 1\nproject: acme\nsources:\n  \
         - { name: app, kind: api }\n  \
         - { name: admin, kind: api, metadata_from_sender: [source, ip] }\n";
    let gateway = Gateway::start(resources, "http://127.0.0.1:9/").await;
    let app = readers(&gateway).await;
    for (source, expected) in [("admin", ("web", "203.0.113.42")), ("app", ("app", "127.0.0.1"))] {
        let metadata = json!({ "source": "web", "ip": "203.0.113.42" });
        let event = json!({ "type": "a", "payload": 1, "source": source, "metadata": metadata });
        let id = app.post("/api/v1/events", &event).await.expect(202).json()["id"].clone();
        let path = format!("/api/v1/events/{}", id.as_str().unwrap());
        let shown = app.get(&path).await.expect(200).json();
        let found = (&shown["metadata"]["source"], &shown["metadata"]["ip"], &shown["source"]);
        assert_eq!(found, (&json!(expected.0), &json!(expected.1), &json!(source)));
    }
}

/// Sends these bytes over a connection of its own, and reads to its end.
#[allow(clippy::disallowed_methods, reason = "it leads to this machine only")]
async fn raw(gateway: &Gateway, request: &str) -> String {
    let mut stream = TcpStream::connect(gateway.app.address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn a_request_names_one_host() {
    let gateway = Gateway::start("version: 1\nproject: acme\n", "http://127.0.0.1:9/").await;
    for (head, expected) in [
        ("GET /healthz HTTP/1.1\r\nhost: a\r\n", "HTTP/1.1 200"),
        ("GET /healthz HTTP/1.1\r\n", "HTTP/1.1 400"),
        ("GET /healthz HTTP/1.1\r\nhost: a\r\nhost: b\r\n", "HTTP/1.1 400"),
        ("GET /healthz HTTP/1.0\r\n", "HTTP/1.0 200"),
    ] {
        let answer = raw(&gateway, &format!("{head}connection: close\r\n\r\n")).await;
        assert!(answer.starts_with(expected), "{head}: {answer}");
        assert!(answer.contains("x-content-type-options: nosniff"), "{answer}");
    }
}

#[tokio::test]
async fn answers_of_sources_never_execute() {
    let resources = "version: 1\nproject: acme\nsources:\n  - { name: open, kind: webhook, verify: none, \
         answer: { content_type: text/html, body: \"<script>alert(1)</script>\" } }\n";
    let gateway = Gateway::start(resources, "http://127.0.0.1:9/").await;
    let sender = Caller::new(&gateway, None);
    for path in ["/in/open", "/in/none"] {
        let answer: Answer = sender.send(Method::POST, path, &[], "{}").await;
        let policy = answer.headers["content-security-policy"].to_str().unwrap();
        assert!(policy.starts_with("sandbox"), "{path}: {policy}");
        assert_eq!(answer.headers["x-content-type-options"], "nosniff");
    }
}

#[tokio::test]
async fn only_a_trusted_proxy_says_which_url_was_called() {
    let resources = format!(
        "version: 1\nproject: acme\nsources:\n  - {{ name: twilio, kind: webhook, verify: twilio, secret: {SECRET} }}\n"
    );
    let body = "SmsStatus=sent";
    let signature = |url: &str| {
        use base64::Engine as _;
        let mut mac = Hmac::<sha1::Sha1>::new_from_slice(SECRET.as_bytes()).unwrap();
        mac.update(format!("{url}SmsStatussent").as_bytes());
        base64::engine::general_purpose::STANDARD.encode(mac.finalize().into_bytes())
    };
    for (is_trusted, expected) in [(false, 401), (true, 200)] {
        let gateway = Gateway::configured(&resources, |config| {
            let proxies = if is_trusted { vec!["127.0.0.1".parse().unwrap()] } else { Vec::new() };
            config.ingest.trusted_proxies = proxies;
        })
        .await;
        let signature = signature("https://gw.acme.com/in/twilio");
        let headers = [
            ("x-twilio-signature", signature.as_str()),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-host", "gw.acme.com"),
            ("content-type", "application/x-www-form-urlencoded"),
        ];
        let sender = Caller::new(&gateway, None);
        sender.send(Method::POST, "/in/twilio", &headers, body).await.expect(expected);
    }
}

#[tokio::test]
#[allow(clippy::disallowed_methods, reason = "it leads to this machine only")]
async fn bodies_of_strangers_leave_room_for_events_with_a_key() {
    // Given a gateway with little room, and strangers whose bodies never end,
    let resources = "version: 1\nproject: acme\nsources:\n  - { name: app, kind: api }\n  \
         - { name: open, kind: webhook, verify: none }\n  - { name: web, kind: segment, write_key: wk_demo }\n";
    let room = 64 * 1024;
    let gateway = Gateway::configured(resources, |config| config.ingest.reading_bytes = room).await;
    let app = readers(&gateway).await;
    let mut held = Vec::new();
    for path in ["/in/open", "/v1/batch"].repeat(8) {
        let mut stream = TcpStream::connect(gateway.app.address).await.unwrap();
        let head = format!("POST {path} HTTP/1.1\r\nhost: a\r\ncontent-length: 60000\r\n\r\n");
        let part = "x".repeat(room / 8);
        stream.write_all(format!("{head}{part}").as_bytes()).await.unwrap();
        held.push(stream);
    }
    // when they have taken what they may,
    let stranger = Caller::new(&gateway, None);
    let text = format!("\"{}\"", "y".repeat(8000));
    let mut last = 0;
    for _ in 0..500 {
        last = stranger.send(Method::POST, "/in/open", &[], text.clone()).await.status.as_u16();
        if last == 429 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    assert_eq!(last, 429, "the room of strangers is full");

    // then events with a key are taken all the same.
    let event = json!({ "type": "a", "payload": "z".repeat(8000) });
    for _ in 0..10 {
        app.post("/api/v1/events", &event).await.expect(202);
    }
    drop(held);
}

#[tokio::test]
async fn one_project_cannot_take_every_tail() {
    let resources = "version: 1\nproject: acme\nsources: [{ name: app, kind: api }]\n";
    let gateway = Gateway::configured(resources, |config| config.api.watchers = 4).await;
    let admin = Caller::admin(&gateway);
    admin.post("/api/v1/projects", &json!({ "name": "other" })).await.expect(201);
    let ours = Caller::with_scopes(&gateway, "acme", &["read"]).await;
    let theirs = Caller::with_scopes(&gateway, "other", &["read"]).await;
    let mut open = Vec::new();
    for (caller, expected) in [(&ours, [200, 200, 429]), (&theirs, [200, 200, 429])] {
        for status in expected {
            let (found, _, body) = caller.open(Method::GET, "/api/v1/tail", &[], "").await;
            assert_eq!(found.as_u16(), status);
            open.push(body);
        }
    }
}

#[tokio::test]
async fn every_door_skips_a_byte_order_mark() {
    // Given an API, a Segment and a signed source,
    let resources = format!(
        "version: 1\nproject: acme\nsources:\n  - {{ name: app, kind: api }}\n  \
         - {{ name: web, kind: segment, write_key: wk_demo }}\n  \
         - {{ name: github, kind: webhook, verify: github, secret: {SECRET} }}\n"
    );
    let gateway = Gateway::start(&resources, "http://127.0.0.1:9/").await;
    let (reader, sender) = (readers(&gateway).await, Caller::new(&gateway, None));

    // when each of their doors is sent a body behind the mark of UTF-8,
    const MARK: &str = "\u{feff}";
    let event = |n: u8| json!({ "type": "a.b", "payload": { "n": n } });
    let one = format!("{MARK}{}", event(1));
    reader.send(Method::POST, "/api/v1/events", &[], one).await.expect(202);
    for (content_type, body) in [
        ("application/json", format!("{MARK}[{}]", event(2))),
        ("application/x-ndjson", format!("{MARK}{}\n{}\n", event(3), event(4))),
    ] {
        let headers = [("content-type", content_type)];
        let answer = reader.send(Method::POST, "/api/v1/events/batch", &headers, body).await;
        let answer = answer.expect(202).json();
        assert_eq!(answer["rejected"], 0, "{answer}");
    }
    let call =
        json!({ "userId": "u", "event": "Paid", "properties": { "n": 5 }, "writeKey": "wk_demo" });
    let call = format!("{MARK}{call}");
    sender
        .send(Method::POST, "/v1/track", &[("content-type", "text/plain")], call)
        .await
        .expect(200);
    let webhook = format!("{MARK}{}", json!({ "n": 6 }));
    // Signed is what was sent, with the mark.
    let signature = signed(&webhook);
    let headers = [
        ("x-hub-signature-256", signature.as_str()),
        ("x-github-delivery", "1"),
        ("x-github-event", "push"),
    ];
    sender.send(Method::POST, "/in/github", &headers, webhook.clone()).await.expect(200);
    let bare = signed(webhook.trim_start_matches(MARK));
    let headers = [("x-hub-signature-256", bare.as_str()), ("x-github-delivery", "2")];
    sender.send(Method::POST, "/in/github", &headers, webhook).await.expect(401);

    // then each event is kept, without the mark.
    let mut all = Vec::new();
    for it in kept(&reader).await {
        let path = format!("/api/v1/events/{}", it["id"].as_str().unwrap());
        let event = reader.get(&path).await.expect(200);
        assert!(!event.text.contains(MARK), "{}", event.text);
        let payload = &event.json()["payload"];
        let n = [&payload["n"], &payload["properties"]["n"]].into_iter().find_map(Value::as_u64);
        all.push(n.unwrap_or_else(|| panic!("{payload}")));
    }
    all.sort_unstable();
    assert_eq!(all, [1, 2, 3, 4, 5, 6]);

    // And a mark in the middle, or one of UTF-16, is no JSON, which is what the answer says.
    let middle = format!("{{\"type\":{MARK}\"a.b\",\"payload\":{{}}}}").into_bytes();
    let utf_16: Vec<u8> =
        MARK.encode_utf16().chain("{}".encode_utf16()).flat_map(u16::to_le_bytes).collect();
    for body in [middle, utf_16] {
        let answer = reader.send(Method::POST, "/api/v1/events", &[], body).await.expect(400);
        assert!(!answer.text.contains("a number"), "{}", answer.text);
    }
}
