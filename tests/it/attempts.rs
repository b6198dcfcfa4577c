//! What one attempt leads to, from the request to the log: ids, 410, waits by a clock that is set, answers
//! that are not quite HTTP.

use std::time::Duration;

use jiff::SignedDuration;
use serde_json::{Value, json};

use crate::harness::{
    chaos::{Chaos, Step, write},
    gateway::Gateway,
    sink::{Answer, Received, Sink},
};

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(60 * 60);

/// The requests by their path.
fn ids(received: &[Received], header: &str) -> Vec<(String, String)> {
    let pair = |it: &Received| {
        (String::from_utf8_lossy(&it.body).into_owned(), it.header(header).to_owned())
    };
    received.iter().map(pair).collect()
}

async fn enable(gateway: &Gateway) {
    let answer = gateway.post("/api/v1/destinations/sink/enable", json!({})).await;
    assert!(answer.status.is_success(), "{}", answer.body);
}

async fn state(gateway: &Gateway) -> Value {
    gateway.get("/api/v1/destinations/sink").await.body["state"].clone()
}

#[tokio::test]
async fn messages_that_differ_never_share_an_id() {
    // Given an endpoint that is down at first, and two routes and two pipelines to it
    let sink = Sink::with(|it| Answer::status(if it.number < 4 { 503 } else { 200 })).await;
    let resources = "version: 1\nproject: acme\nsources: [{ name: app, kind: api }]\n\
         destinations:\n  - { name: sink, kind: webhook, url: \"${URL}\", secret: \"${SECRET}\", \
         envelope: payload, retry: { waits: [1m] }, breaker: { failures_in_a_row: 100 } }\n\
         pipelines:\n  - name: one\n    routes:\n      \
         - { to: sink, steps: [{ map: { a: \"{{ payload.n }}\" } }] }\n      \
         - { to: sink, steps: [{ map: { b: \"{{ payload.n }}\" } }] }\n      \
         - { to: sink, steps: [{ map: { a: \"{{ payload.n }}\" } }] }\n  \
         - { name: two, routes: [{ to: sink }] }\n";
    let gateway = Gateway::start(resources, &sink.url("/")).await;

    // When an event is published, and each of its messages is sent twice, with a restart in between
    let event = gateway.publish("order.created", json!({ "n": 1 })).await;
    gateway.idle().await;
    let gateway = gateway.restart().await;
    gateway.run_for(HOUR).await;

    // Then each message has an id of its own, the first one that of the event, on every attempt; the same
    // message of two routes has one
    let received = sink.received();
    for header in ["webhook-id", "idempotency-key"] {
        let mut first = ids(&received[..4], header);
        let mut second = ids(&received[4..], header);
        first.sort();
        second.sort();
        let expected = [
            (r#"{"a":1}"#, event.to_string()),
            (r#"{"a":1}"#, event.to_string()),
            (r#"{"b":1}"#, format!("{event}_2")),
            (r#"{"n":1}"#, format!("{event}_3")),
        ];
        let expected = expected.map(|(body, id)| (body.to_owned(), id));
        assert_eq!(first, expected, "{header}");
        assert_eq!(second, expected, "{header}");
    }
}

#[tokio::test]
async fn batches_of_messages_that_differ_have_ids_of_their_own() {
    let sink = Sink::new().await;
    let resources = "version: 1\nproject: acme\nsources: [{ name: app, kind: api }]\n\
         destinations:\n  - { name: sink, kind: webhook, url: \"${URL}\", secret: \"${SECRET}\", \
         headers: { X-Kind: \"{{ type }}\" }, batch: { linger: 1s } }\n\
         pipelines:\n  - name: one\n    routes:\n      \
         - { to: sink }\n      \
         - { to: sink, steps: [{ transform.js: \"export default (e) => ({ ...e, type: 'other' })\" }] }\n";
    let gateway = Gateway::start(resources, &sink.url("/")).await;
    gateway.publish("order.created", json!({ "n": 1 })).await;
    gateway.publish("order.created", json!({ "n": 2 })).await;
    gateway.run_for(MINUTE).await;
    let received = sink.received();
    assert_eq!(received.len(), 2);
    assert_ne!(received[0].header("webhook-id"), received[1].header("webhook-id"));
}

#[tokio::test]
async fn one_message_that_is_gone_stops_no_others_after_enable() {
    // Given an endpoint that answers 410 for one message, and accepts the others
    let sink =
        Sink::with(|it| Answer::status(if it.json()["data"]["n"] == 1 { 410 } else { 200 })).await;
    let gateway = Gateway::delivering_to(&sink.url("/"), ", concurrency: 1").await;
    let poison = gateway.publish("order.created", json!({ "n": 1 })).await;
    gateway.run_for(MINUTE).await;
    assert_eq!(state(&gateway).await, "disabled");
    let other = gateway.publish("order.created", json!({ "n": 2 })).await;
    gateway.run_for(HOUR).await;
    assert_eq!(gateway.states(poison).await, ["retrying"]);

    // When a person enables the destination
    enable(&gateway).await;
    gateway.run_for(HOUR).await;

    // Then the other goes first, and the one that is refused again is dead by itself
    assert_eq!(gateway.states(other).await, ["delivered"]);
    assert_eq!(gateway.states(poison).await, ["dead"]);
    assert_eq!(state(&gateway).await, "active");
    assert_eq!(sink.received().len(), 3);
}

#[tokio::test]
async fn in_a_fifo_line_a_message_that_is_gone_twice_is_dead() {
    let sink =
        Sink::with(|it| Answer::status(if it.json()["data"]["n"] == 1 { 410 } else { 200 })).await;
    let gateway = Gateway::delivering_to(&sink.url("/"), ", ordering: fifo").await;
    let poison = gateway.publish("order.created", json!({ "n": 1 })).await;
    let other = gateway.publish("order.created", json!({ "n": 2 })).await;
    gateway.run_for(MINUTE).await;
    assert_eq!(state(&gateway).await, "disabled");
    enable(&gateway).await;
    gateway.run_for(HOUR).await;
    assert_eq!(gateway.states(poison).await, ["dead"]);
    assert_eq!(gateway.states(other).await, ["delivered"]);
}

#[tokio::test]
async fn answers_of_a_template_url_concern_one_message() {
    for (status, header) in [(410, None), (404, Some("disable"))] {
        let sink = Sink::with(move |it| {
            let answer = Answer::status(if it.path == "/1" { status } else { 200 });
            header.iter().fold(answer, |answer, it| answer.header("webhook-delivery", it))
        })
        .await;
        let url = format!("{}{{{{ payload.n }}}}", sink.url("/"));
        let gateway = Gateway::delivering_to(&url, ", batch: true").await;
        let poison = gateway.publish("order.created", json!({ "n": 1 })).await;
        let other = gateway.publish("order.created", json!({ "n": 2 })).await;
        gateway.run_for(MINUTE).await;
        assert_eq!(gateway.states(poison).await, ["dead"]);
        assert_eq!(gateway.states(other).await, ["delivered"]);
        assert_eq!(state(&gateway).await, "active");
    }
}

#[tokio::test]
async fn each_profile_understands_a_410_as_its_document_does() {
    for (profile, states, after) in [
        ("standard", "retrying", "disabled"),
        ("ingestlayer", "delivered", "active"),
        ("segment", "dead", "active"),
        ("segment-actions", "dead", "active"),
        ("customerio", "dead", "active"),
        ("standard, on_gone: retry", "delivered", "active"),
    ] {
        let sink = Sink::answering(&[410, 200]).await;
        let settings =
            format!(", profile: {profile}").replace("profile: standard", "verify: false");
        let gateway = Gateway::delivering_to(&sink.url("/"), &settings).await;
        let event = gateway.publish("track", json!({ "type": "track" })).await;
        gateway.run_for(HOUR).await;
        assert_eq!(gateway.states(event).await, [states], "{profile}");
        assert_eq!(state(&gateway).await, after, "{profile}");
    }
}

#[tokio::test]
async fn a_clock_that_is_set_back_holds_no_delivery_up() {
    // Given an endpoint that fails so often that the breaker opens, asks for a pause, and is then mended
    let sink = Sink::with(|it| match it.number {
        0..5 => Answer::status(503).header("retry-after", "20"),
        _ => Answer::status(200),
    })
    .await;
    for settings in [
        ", retry: { waits: [2s, 2s, 2s, 2s, 2s, 2s, 2s, 2s] }",
        ", retry: { waits: [90s, 90s] }",
        ", ordering: fifo, retry: { waits: [90s, 90s] }",
        ", batch: { linger: 5s }, retry: { waits: [2s, 2s] }",
    ] {
        for restarts in [false, true] {
            let gateway = Gateway::delivering_to(&sink.url("/"), settings).await;
            let first = gateway.publish("order.created", json!({ "n": 1 })).await;
            gateway.run_for(Duration::from_secs(7)).await;

            // When the clock, which was an hour ahead, is set right
            gateway.clock.step(SignedDuration::from_hours(-1));
            let gateway = if restarts { gateway.restart().await } else { gateway };
            let second = gateway.publish("order.created", json!({ "n": 2 })).await;
            gateway.run_for(Duration::from_secs(240)).await;

            // Then what waited and what is new goes out within its own waits
            let states = [gateway.states(first).await, gateway.states(second).await];
            assert_eq!(states, [["delivered"], ["delivered"]], "{settings} {restarts}");
        }
    }
}

#[tokio::test]
async fn a_status_counts_whatever_follows_it() {
    let many = (0..150).map(|it| format!("x-{it}: 1\r\n")).collect::<String>();
    let long = format!("x-long: {}\r\n", "a".repeat(70_000));
    for (name, lines) in [
        ("a space before the colon", "x-a : 1\r\n"),
        ("a control character", "set-cookie: a=\x01\r\n"),
        ("a folded line", "x-a: 1\r\n  2\r\n"),
        ("a warning of PHP", "<b>Warning</b>: Undefined variable\r\n"),
        ("150 headers", many.as_str()),
        ("a header of 70 kB", long.as_str()),
        ("two lengths", "content-length: 2\r\ncontent-length: 3\r\n"),
        ("no length", "content-length: two\r\n"),
        ("an odd encoding", "transfer-encoding: identity, nonsense\r\n"),
    ] {
        let head =
            |status: &str| format!("HTTP/1.1 {status}\r\n{lines}connection: close\r\n\r\nok");
        let script = [Step::Read, write(head("200 OK"))];
        let chaos = Chaos::playing(script).await;
        let outcome = crate::harness::outlet::Lab::new()
            .attempt(&chaos.url("/"), Duration::from_secs(20))
            .await;
        assert_eq!(outcome.class, tidegate::model::Class::Accepted, "{name}: {}", outcome.reason);
        let chaos = Chaos::playing([Step::Read, write(head("500 Oh"))]).await;
        let outcome = crate::harness::outlet::Lab::new()
            .attempt(&chaos.url("/"), Duration::from_secs(20))
            .await;
        assert_eq!(outcome.status, Some(500), "{name}: {}", outcome.reason);
    }
}

#[tokio::test]
async fn a_destination_signs_nothing_where_its_document_has_no_secret() {
    for (settings, is_signed) in [
        ("profile: segment", false),
        ("profile: segment-actions", false),
        ("profile: customerio", false),
        ("profile: customerio, signed: true", true),
        ("profile: customerio, secret: ours", true),
        ("profile: ingestlayer", true),
        ("profile: ingestlayer, auth: { bearer: token }", false),
        ("profile: ingestlayer, auth: { bearer: token }, signed: true", true),
    ] {
        let sink = Sink::new().await;
        let resources = format!(
            "version: 1\nproject: acme\nsources: [{{ name: app, kind: api }}]\n\
             destinations: [{{ name: sink, kind: webhook, url: \"${{URL}}\", {settings} }}]\n\
             pipelines: [{{ name: all, routes: [{{ to: sink }}] }}]\n"
        );
        let gateway = Gateway::start(&resources, &sink.url("/")).await;
        gateway.publish("track", json!({ "type": "track" })).await;
        gateway.run_for(MINUTE).await;
        let received = sink.received().remove(0);
        let signatures = ["x-signature", "x-ingestlayer-signature"].map(|it| received.header(it));
        assert_eq!(signatures.iter().any(|it| !it.is_empty()), is_signed, "{settings}");

        // It is the same after an export.
        let exported = gateway.get("/api/v1/destinations/sink").await.body;
        assert_eq!(exported["signing_keys"].as_array().unwrap().len(), usize::from(is_signed));
    }
}
