//! What a sender is promised: each event kept once, whole, before the answer; and what is refused, how.

use std::{collections::HashSet, io::Write as _, time::Duration};

use http::Method;
use jiff::SignedDuration;
use serde_json::{Value, json};

use crate::harness::{
    caller::{Answer, Caller},
    gateway::Gateway,
};

const RESOURCES: &str =
    "version: 1\nproject: acme\nsources: [{ name: app, kind: api }, { name: web, kind: api }]\n";

async fn gateway() -> (Gateway, Caller) {
    let gateway = Gateway::start(RESOURCES, "http://127.0.0.1:9/").await;
    let sender = Caller::with_scopes(&gateway, "acme", &["ingest", "read"]).await;
    (gateway, sender)
}

async fn post_text(
    sender: &Caller,
    headers: &[(&str, &str)],
    body: impl Into<bytes::Bytes>,
) -> Answer {
    sender.send(Method::POST, "/api/v1/events", headers, body).await
}

async fn post_batch(sender: &Caller, content_type: &str, body: impl Into<bytes::Bytes>) -> Answer {
    let headers = [("content-type", content_type)];
    sender.send(Method::POST, "/api/v1/events/batch", &headers, body).await
}

async fn kept(sender: &Caller, answer: &Answer) -> Value {
    let id = answer.json()["id"].as_str().unwrap().to_owned();
    sender.get(&format!("/api/v1/events/{id}")).await.expect(200).json()
}

async fn count(sender: &Caller) -> usize {
    sender.get("/api/v1/events?limit=200").await.json()["data"].as_array().unwrap().len()
}

/// The fields that a problem names.
fn fields(answer: &Answer) -> Vec<String> {
    let problem = answer.json();
    let errors = problem["errors"].as_array().cloned().unwrap_or_default();
    errors.iter().map(|it| it["field"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn an_accepted_event_is_kept_as_it_came() {
    // Given a payload that no serialiser would write like this,
    let (gateway, sender) = gateway().await;
    let payload = r#"{"b" : 1.50,"a":1e2, "b":"\u00e9"}"#;
    let event = format!(
        r#"{{"type":"user.signed_up","payload":{payload},"timestamp":"2025-12-31T23:59:59.123456789+01:00",
            "metadata":{{"ip":"1.1.1.1","plan":"pro"}}}}"#
    );

    // when it is posted,
    let headers = [("user-agent", "test/1"), ("tidegate-hops", "3")];
    let answer = post_text(&sender, &headers, event).await.expect(202);

    // then the answer says so, and it can be read back byte for byte.
    assert_eq!(
        answer.json(),
        json!({"id": answer.json()["id"], "accepted": true, "duplicate": false})
    );
    let id = answer.json()["id"].as_str().unwrap().to_owned();
    let found = sender.get(&format!("/api/v1/events/{id}")).await.expect(200);
    assert!(found.text.contains(&format!(r#""payload":{payload}"#)), "{}", found.text);
    let found = found.json();
    assert_eq!(found["type"], "user.signed_up");
    assert_eq!(found["timestamp"], "2025-12-31T22:59:59.123456Z");
    assert_eq!(found["received_at"], gateway.now().to_string());
    let metadata = json!({"plan": "pro", "source": "app", "ip": "127.0.0.1", "user_agent": "test/1", "hops": 3});
    assert_eq!(found["metadata"], metadata);
}

#[tokio::test]
async fn the_same_key_is_the_same_event_and_another_body_is_told() {
    let (_gateway, sender) = gateway().await;
    let event =
        |payload: u32| json!({"type": "a", "payload": payload, "idempotency_key": "order-1"});
    let first = sender.post("/api/v1/events", &event(1)).await.expect(202).json()["id"].clone();

    let again = sender.post("/api/v1/events", &event(1)).await.expect(200).json();
    assert_eq!(
        again,
        json!({"id": first, "accepted": false, "duplicate": true, "same_body": true, "same_type": true})
    );

    let other = sender.post("/api/v1/events", &event(2)).await.expect(200).json();
    assert_eq!((&other["id"], &other["same_body"]), (&first, &json!(false)));
    assert!(other["note"].as_str().unwrap().contains("another payload"));

    let key = [("idempotency-key", "order-1")];
    let header = post_text(&sender, &key, r#"{"type":"a","payload":1}"#).await.expect(200);
    assert_eq!(header.json()["id"], first);
    assert_eq!(count(&sender).await, 1);

    let found = sender.get("/api/v1/events?idempotency_key=order-1").await.expect(200).json();
    assert_eq!(found["data"][0]["id"], first);
}

#[tokio::test]
async fn a_key_in_body_and_header_must_be_one() {
    let (_gateway, sender) = gateway().await;
    let event = r#"{"type":"a","payload":1,"idempotency_key":"k"}"#;
    post_text(&sender, &[("idempotency-key", "k")], event).await.expect(202);
    let answer = post_text(&sender, &[("idempotency-key", "other")], event).await.expect(400);
    assert_eq!(
        (answer.problem().as_str(), fields(&answer)),
        ("invalid-request", vec!["idempotency_key".to_owned()])
    );
    let answer = post_text(&sender, &[("idempotency-key", "")], event).await.expect(400);
    assert_eq!(fields(&answer), ["header:idempotency-key"]);
}

#[tokio::test]
async fn an_id_of_the_senders_makes_two_requests_one() {
    let (_gateway, sender) = gateway().await;
    let id = "evt_06cm5yfgg1e2jrp3k5mk9v0y2r";
    let event = json!({"type": "a", "payload": 1, "id": id});
    let first = sender.post("/api/v1/events", &event).await;
    assert_eq!(first.json()["id"], id, "{}", first.text);
    assert_eq!(first.status, 202);
    let again = sender.post("/api/v1/events", &event).await.expect(200);
    assert_eq!((&again.json()["id"], &again.json()["duplicate"]), (&json!(id), &json!(true)));
}

#[tokio::test]
async fn sixty_four_posts_of_one_key_at_once_are_one_event_also_after_a_restart() {
    let (gateway, sender) = gateway().await;
    let event = json!({"type": "a", "payload": 1, "idempotency_key": "once"});
    let posts = (0..64).map(|_| {
        let (sender, event) = (sender.clone(), event.clone());
        tokio::spawn(async move { sender.post("/api/v1/events", &event).await })
    });
    let posts: Vec<_> = posts.collect();
    let (mut ids, mut accepted) = (HashSet::new(), 0);
    for post in posts {
        let answer = post.await.unwrap();
        accepted += usize::from(answer.status == 202);
        ids.insert(answer.json()["id"].as_str().unwrap().to_owned());
    }
    assert_eq!((ids.len(), accepted), (1, 1));

    let gateway = gateway.restart().await;
    let sender = Caller::admin(&gateway);
    let again = sender.post("/api/v1/events", &event).await.expect(200).json();
    assert!(ids.contains(again["id"].as_str().unwrap()));
}

#[tokio::test]
async fn a_batch_answers_for_each_event_in_order() {
    let (_gateway, sender) = gateway().await;
    let events = [
        r#"{"type":"a","payload":1,"idempotency_key":"k"}"#,
        r#"{"type":"a b","payload":1}"#,
        r#"{"type":"a","payload":1,"idempotency_key":"k"}"#,
        r#"{"type":"a","payload":null,"source":"web"}"#,
    ];
    let first = post_batch(&sender, "application/json", format!("[{}]", events.join(","))).await;
    let first = first.expect(202).json();
    let lines =
        post_batch(&sender, "application/x-ndjson", events.join("\n")).await.expect(202).json();
    for (answer, statuses, tally) in [
        (&first, ["accepted", "rejected", "duplicate", "accepted"], [2, 1, 1]),
        (&lines, ["duplicate", "rejected", "duplicate", "accepted"], [1, 2, 1]),
    ] {
        let results = answer["results"].as_array().unwrap();
        let found: Vec<_> = results.iter().map(|it| it["status"].as_str().unwrap()).collect();
        assert_eq!(found, statuses);
        let found = ["accepted", "duplicates", "rejected"].map(|it| answer[it].as_u64().unwrap());
        assert_eq!(found, tally);
        assert_eq!(results[1]["errors"][0]["field"], "events[1].type");
        assert_eq!(results[2]["id"], first["results"][0]["id"]);
    }
    assert_eq!(count(&sender).await, 3);
}

#[tokio::test]
async fn a_batch_without_a_new_event_says_so_by_its_status() {
    let (_gateway, sender) = gateway().await;
    let event = r#"{"type":"a","payload":1,"idempotency_key":"k"}"#;
    post_batch(&sender, "application/json", format!("[{event}]")).await.expect(202);
    post_batch(&sender, "application/json", format!("[{event}]")).await.expect(200);
    post_batch(&sender, "application/json", format!("[{event},1]")).await.expect(200);

    let all_bad = post_batch(&sender, "application/json", "[1,{}]").await.expect(422);
    assert_eq!(all_bad.problem(), "rejected");
    assert_eq!(fields(&all_bad), ["events[0]", "events[1].type", "events[1].payload"]);
    for (body, status, slug) in [
        ("[]".to_owned(), 400, "invalid-request"),
        ("{}".to_owned(), 400, "invalid-request"),
        (format!("[{event}"), 400, "invalid-json"),
        (format!("[{}]", vec!["1"; 1001].join(",")), 413, "body-too-large"),
    ] {
        let answer = post_batch(&sender, "application/json", body).await.expect(status);
        assert_eq!(answer.problem(), slug);
    }
    let key = [("idempotency-key", "k"), ("content-type", "application/json")];
    let answer =
        sender.send(Method::POST, "/api/v1/events/batch", &key, format!("[{event}]")).await;
    assert_eq!(fields(&answer.expect(400)), ["header:idempotency-key"]);
}

#[tokio::test]
async fn a_large_batch_is_kept_whole_and_in_order() {
    let (_gateway, sender) = gateway().await;
    let filler = "x".repeat(1000);
    let lines =
        (0..1000).map(|n| format!(r#"{{"type":"a","payload":{{"n":{n},"filler":"{filler}"}}}}"#));
    let lines: Vec<_> = lines.collect();
    let answer =
        post_batch(&sender, "application/x-ndjson", lines.join("\n")).await.expect(202).json();
    let ids: Vec<_> =
        answer["results"].as_array().unwrap().iter().map(|it| it["id"].clone()).collect();
    assert_eq!(answer["accepted"], 1000);
    let last = sender.get("/api/v1/events?limit=1&payload=true").await.json();
    assert_eq!(
        (&last["data"][0]["id"], &last["data"][0]["payload"]["n"]),
        (&ids[999], &json!(999))
    );
}

#[tokio::test]
async fn compressed_bodies_are_taken_and_limits_count_what_comes_out() {
    let (_gateway, sender) = gateway().await;
    let gzip = |text: &str| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(text.as_bytes()).unwrap();
        encoder.finish().unwrap()
    };
    let zstd = |text: &str| zstd::encode_all(text.as_bytes(), 1).unwrap();
    let event = |size: usize| format!(r#"{{"type":"a","payload":"{}"}}"#, "x".repeat(size));
    let small = event(100);
    for (encoding, body) in [("gzip", gzip(&small)), ("zstd", zstd(&small))] {
        let answer = post_text(&sender, &[("content-encoding", encoding)], body).await.expect(202);
        assert_eq!(kept(&sender, &answer).await["payload"].as_str().unwrap().len(), 100);
    }
    let large = event(1024 * 1024);
    for (encoding, body) in
        [("identity", large.clone().into_bytes()), ("gzip", gzip(&large)), ("zstd", zstd(&large))]
    {
        let answer = post_text(&sender, &[("content-encoding", encoding)], body).await.expect(413);
        assert_eq!(answer.problem(), "body-too-large", "{encoding}");
    }
    let answer = post_text(&sender, &[("content-encoding", "br")], small.clone()).await.expect(415);
    assert_eq!(answer.problem(), "unsupported-encoding");
    let answer = post_text(&sender, &[("content-encoding", "gzip")], small).await.expect(400);
    assert_eq!(answer.problem(), "invalid-body");
}

#[tokio::test]
async fn a_bad_event_is_refused_with_its_fields_and_never_its_values() {
    let (_gateway, sender) = gateway().await;
    for (body, expected) in [
        (
            r#"{"type":"hunter 2","payload":1,"timestamp":"hunter2"}"#.to_owned(),
            vec!["type", "timestamp"],
        ),
        (r#"{"type":"a","payload":1,"source":"hunter2"}"#.to_owned(), vec!["source"]),
        (r#"{"type":"a","payload":1,"metadata":"hunter2"}"#.to_owned(), vec!["metadata"]),
        (format!(r#"{{"type":"a","payload":{}{}}}"#, "[".repeat(64), "]".repeat(64)), vec!["body"]),
        (r#""hunter2""#.to_owned(), vec!["body"]),
    ] {
        let answer = post_text(&sender, &[], body).await.expect(400);
        assert_eq!(fields(&answer), expected);
        assert!(!answer.text.contains("hunter"), "{}", answer.text);
    }
    let answer = post_text(&sender, &[], r#"{"type":"a","payload":hunter2}"#).await.expect(400);
    assert!(
        answer.problem() == "invalid-json" && !answer.text.contains("hunter"),
        "{}",
        answer.text
    );
    let answer = post_text(&sender, &[("tidegate-hops", "8")], r#"{"type":"a","payload":1}"#).await;
    assert_eq!(answer.expect(508).problem(), "loop");
    assert_eq!(count(&sender).await, 0);
}

#[tokio::test]
async fn only_a_key_that_may_post_posts() {
    let (gateway, sender) = gateway().await;
    let event = json!({"type": "a", "payload": 1});
    let reader = Caller::with_scopes(&gateway, "acme", &["read"]).await;
    let problem = |answer: Answer| (answer.status.as_u16(), answer.problem());
    assert_eq!(problem(reader.post("/api/v1/events", &event).await), (403, "forbidden".to_owned()));
    for key in [None, Some(""), Some("tg_short"), Some("another key than the admin's")] {
        let answer = Caller::new(&gateway, key).post("/api/v1/events", &event).await;
        assert_eq!(answer.headers["www-authenticate"], "Bearer");
        assert_eq!(problem(answer), (401, "unauthorized".to_owned()), "{key:?}");
    }

    // A key ends when its time is over, and at once when it is deleted.
    let expires_at = gateway.now() + SignedDuration::from_secs(60);
    let spec = json!({"name": "brief", "scopes": ["ingest"], "expires_at": expires_at.to_string()});
    let admin = Caller::admin(&gateway);
    let brief = admin.post("/api/v1/keys", &spec).await.expect(201).json();
    let brief = Caller::new(&gateway, brief["key"].as_str());
    brief.post("/api/v1/events", &event).await.expect(202);
    gateway.clock.advance(SignedDuration::from_secs(60));
    assert_eq!(problem(brief.post("/api/v1/events", &event).await).0, 401);

    sender.post("/api/v1/events", &event).await.expect(202);
    let keys = admin.get("/api/v1/keys").await.json();
    for key in keys["data"].as_array().unwrap() {
        admin.delete(&format!("/api/v1/keys/{}", key["id"].as_str().unwrap())).await.expect(204);
    }
    assert_eq!(problem(sender.post("/api/v1/events", &event).await).0, 401);
}

#[tokio::test]
async fn an_event_without_a_source_has_the_oldest_one_that_is_enabled() {
    let (gateway, sender) = gateway().await;
    let event = json!({"type": "a", "payload": 1});
    let source = async |sender: &Caller| {
        let answer = sender.post("/api/v1/events", &event).await.expect(202);
        kept(sender, &answer).await["source"].clone()
    };
    let admin = Caller::admin(&gateway);
    let disabled = |name: &str| json!({"name": name, "kind": "api", "enabled": false});
    let first = source(&sender).await;
    let (first, second) = if first == "app" { ("app", "web") } else { ("web", "app") };
    admin.put(&format!("/api/v1/sources/{first}"), &disabled(first)).await.expect(200);
    assert_eq!(source(&sender).await, second);

    let named = json!({"type": "a", "payload": 1, "source": first});
    assert_eq!(fields(&sender.post("/api/v1/events", &named).await.expect(400)), ["source"]);
    admin.put(&format!("/api/v1/sources/{second}"), &disabled(second)).await.expect(200);
    assert_eq!(fields(&sender.post("/api/v1/events", &event).await.expect(400)), ["source"]);
}

#[tokio::test]
async fn a_key_that_posts_too_often_is_told_when_to_come_back() {
    let gateway = Gateway::configured(RESOURCES, |config| {
        config.ingest.rate_limit = Some(tidegate::model::RateLimit {
            events: 2.try_into().unwrap(),
            per: Duration::from_secs(1),
        });
    });
    let gateway = gateway.await;
    let one = Caller::with_scopes(&gateway, "acme", &["ingest"]).await;
    let other = Caller::with_scopes(&gateway, "acme", &["ingest", "read"]).await;
    let event = json!({"type": "a", "payload": 1});
    one.post("/api/v1/events", &event).await.expect(202);
    one.post("/api/v1/events", &event).await.expect(202);
    let refused = one.post("/api/v1/events", &event).await.expect(429);
    assert_eq!(
        (refused.problem().as_str(), &refused.headers["retry-after"]),
        ("rate-limited", &"1".parse().unwrap())
    );
    other.post("/api/v1/events", &event).await.expect(202);

    gateway.clock.advance(SignedDuration::from_secs(1));
    let batch = json!([event, event, event, event]);
    one.post("/api/v1/events/batch", &batch).await.expect(202);
    let refused = one.post("/api/v1/events", &event).await.expect(429);
    assert_eq!(refused.headers["retry-after"], "2");
}

#[tokio::test]
async fn more_than_there_is_room_for_is_refused_before_it_is_read() {
    let gateway = Gateway::configured(RESOURCES, |config| config.ingest.reading_bytes = 1000).await;
    let sender = Caller::with_scopes(&gateway, "acme", &["ingest", "read"]).await;
    let event = |size: usize| json!({"type": "a", "payload": "x".repeat(size)});
    let refused = sender.post("/api/v1/events", &event(1000)).await.expect(429);
    assert_eq!(
        (refused.problem().as_str(), &refused.headers["retry-after"]),
        ("overloaded", &"1".parse().unwrap())
    );
    assert_eq!(count(&sender).await, 0);
    sender.post("/api/v1/events", &event(100)).await.expect(202);
}

#[tokio::test]
async fn events_that_wait_for_the_disk_are_bounded() {
    let gateway = Gateway::configured(RESOURCES, |config| config.gate.waiting_bytes = 2000).await;
    let sender = Caller::with_scopes(&gateway, "acme", &["ingest", "read"]).await;
    let event = json!({"type": "a", "payload": "x".repeat(1500)});
    let posts: Vec<_> = (0..64)
        .map(|_| {
            let (sender, event) = (sender.clone(), event.clone());
            tokio::spawn(async move { sender.post("/api/v1/events", &event).await })
        })
        .collect();
    let mut accepted = 0;
    for post in posts {
        let answer = post.await.unwrap();
        match answer.status.as_u16() {
            202 => accepted += 1,
            429 => assert_eq!(answer.headers["retry-after"], "1"),
            other => panic!("{other}: {}", answer.text),
        }
    }
    assert!(accepted > 0);
    assert_eq!(count(&sender).await, accepted);
}

#[tokio::test]
async fn never_store_applies_before_the_write() {
    // Given a source with fields and values that must not be kept,
    let resources = "version: 1\nproject: acme\nsources:\n  - name: app\n    kind: api\n    \
         never_store: { fields: [payload.password, metadata.ip], detect: [card] }\n";
    let gateway = Gateway::start(resources, "http://127.0.0.1:9/").await;
    let sender = Caller::with_scopes(&gateway, "acme", &["ingest", "read"]).await;
    let event = r#"{"type":"a","idempotency_key":"k","payload":{"password":"hunter2","n":1.50,
        "note":"card \u0034242 4242 4242 4242","card":4242424242424242}}"#;

    // when an event with them is posted, alone and in a batch,
    let answer = post_text(&sender, &[], event).await.expect(202);
    let batch = format!("[{}]", event.replace("\"k\"", "\"other\""));
    post_batch(&sender, "application/json", batch).await.expect(202);

    // then they are gone, and the same body is the same body.
    let id = answer.json()["id"].as_str().unwrap().to_owned();
    let found = sender.get(&format!("/api/v1/events/{id}")).await.expect(200);
    assert!(
        found.text.contains(
            r#"{"n":1.50,
        "note":"card [card]"}"#
        ),
        "{}",
        found.text
    );
    assert!(found.json()["metadata"].get("ip").is_none());
    let again = post_text(&sender, &[], event).await.expect(200).json();
    assert_eq!((&again["duplicate"], &again["same_body"]), (&json!(true), &json!(true)));
    assert_eq!(count(&sender).await, 2);
}

#[tokio::test]
async fn a_page_of_another_origin_may_post_events_and_nothing_else() {
    let (_gateway, sender) = gateway().await;
    let ask = async |path: &str, method: &str| {
        let asks = [
            ("origin", "https://shop.example"),
            ("access-control-request-method", method),
            ("access-control-request-headers", "authorization,content-type,tidegate-project"),
        ];
        let answer = sender.send(Method::OPTIONS, path, &asks, "").await;
        let header = |name| answer.headers.get(name).map(|it| it.to_str().unwrap().to_owned());
        let allowed = header("access-control-allow-headers");
        assert_eq!(allowed.is_some(), answer.status.as_u16() == 204);
        assert!(allowed.is_none_or(|it| it == asks[2].1));
        assert_eq!(header("access-control-allow-credentials"), None);
        header("access-control-allow-origin")
    };
    for path in ["/api/v1/events", "/api/v1/events/batch"] {
        assert_eq!(ask(path, "POST").await.as_deref(), Some("https://shop.example"));
        assert_eq!(ask(path, "GET").await, None);
        // The page can read what was refused, and when to come back.
        let refused = sender.send(Method::POST, path, &[("origin", "null")], "[").await.expect(400);
        assert_eq!(refused.headers["access-control-allow-origin"], "null");
        assert!(
            refused.headers["access-control-expose-headers"]
                .to_str()
                .unwrap()
                .contains("Retry-After")
        );
    }
    for path in ["/api/v1/deliveries", "/api/v1/keys", "/api/v1/events/export"] {
        assert_eq!(ask(path, "POST").await, None, "{path}");
    }
    let list =
        sender.send(Method::GET, "/api/v1/events", &[("origin", "https://shop.example")], "");
    assert!(!list.await.expect(200).headers.contains_key("access-control-allow-origin"));
}

#[tokio::test]
async fn an_event_is_answered_alike_whether_a_program_or_a_page_posts_it() {
    // Given bodies of which each is right or wrong in its own way,
    let (_gateway, sender) = gateway().await;
    let kept = r#"{"type":"a","payload":1,"idempotency_key":"KEY"}"#;
    for body in [kept, kept, "{", r#"{"payload":1}"#, r#"{"type":"a","payload":1,"source":"x"}"#] {
        // When they come past the router, and through it, since a page is told more,
        let program = post_text(&sender, &[], body.replace("KEY", "of a program")).await;
        let page = [("origin", "https://shop.example")];
        let page = post_text(&sender, &page, body.replace("KEY", "of some page")).await;
        // Then nothing else differs, not even the order of the headers.
        let names = |it: &Answer| -> Vec<String> {
            let names = it.headers.keys().map(|it| it.as_str().to_owned());
            names.filter(|it| !it.starts_with("access-control-") && it != "vary").collect()
        };
        assert_eq!((program.status, names(&program)), (page.status, names(&page)), "{body}");
        for name in ["content-type", "content-length"] {
            assert_eq!(program.headers[name], page.headers[name], "{body}");
        }
        let without_id = |it: &Answer| {
            let mut json = it.json();
            json.as_object_mut().unwrap().remove("id");
            json
        };
        assert_eq!(without_id(&program), without_id(&page));
    }
}
