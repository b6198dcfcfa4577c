//! `systems/002`: a fixed schema over HTTPS, signed over the raw body, with a key against repeats.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

use jiff::SignedDuration;
use serde_json::json;
use tidegate::{
    destinations::{DestinationClient as _, webhook},
    model::{Class, DestinationId, Ordering, Profile, Retry, RetryPreset},
};

use super::{names, sha256};
use crate::harness::{
    authority::{Authority, self_signed},
    gateway::Gateway,
    outlet::{destination_of, message_with, now, webhook_of},
    sink::{Answer, Sink},
};

const METADATA: &str = r#"{"source":"web","ip_address":"203.0.113.42"}"#;
const PAYLOAD: &str = r#"{ "user_id": "usr_9x2k4m7", "role": "admin" }"#;

fn url(sink: &Sink) -> String {
    format!("https://hooks.example.com:{}/webhook", sink.address().port())
}

#[tokio::test]
async fn a_request_is_the_documents_sample_to_the_letter() {
    let authority = Authority::new();
    let (lab, sink) = (authority.lab(), Sink::over_tls(authority.server(|_| ())).await);
    let destination = lab.signed(destination_of(Profile::Admin, &[&url(&sink)]), "s3cret");
    let policy = &destination.policy;
    assert_eq!(policy.timeout, Duration::from_secs(3));
    assert_eq!(policy.ordering, Ordering::Fifo);
    assert_eq!(policy.retry, Retry::Preset(RetryPreset::Admin24h));
    assert_eq!(policy.expires_after, Some(Duration::from_secs(24 * 60 * 60)));

    let message = message_with(1, METADATA, PAYLOAD);
    let outcome = lab.build(&destination).send(std::slice::from_ref(&message), now()).await;

    assert_eq!((outcome.class, outcome.status), (Class::Accepted, Some(200)));
    let request = sink.received().pop().unwrap();
    assert_eq!((request.method.as_str(), request.path.as_str()), ("POST", "/webhook"));
    assert_eq!(request.header("content-type"), "application/json");
    let expected = format!(
        r#"{{"id":"{}","type":"user.signed_up","timestamp":"2026-11-21T08:00:00Z","data":{PAYLOAD},"metadata":{METADATA}}}"#,
        message.message_id()
    );
    assert_eq!(request.body, expected);
    let code = sha256("s3cret", &[&request.body]);
    assert_eq!(request.header("x-admin-signature"), format!("sha256={code}"));
    let expected = [
        "content-length",
        "content-type",
        "host",
        "idempotency-key",
        "tidegate-hops",
        "user-agent",
        "x-admin-signature",
    ];
    assert_eq!(names(&request.headers), expected);
}

#[tokio::test]
async fn the_idempotency_key_is_one_for_each_event_and_endpoint_on_every_attempt_and_replay() {
    let authority = Authority::new();
    let (lab, sink) = (authority.lab(), Sink::over_tls(authority.server(|_| ())).await);
    let one = destination_of(Profile::Admin, &[&url(&sink)]);
    let mut other = one.clone();
    other.id = DestinationId::from_bits(6);
    let [one, other] = [one, other].map(|it| lab.build(&it));
    let [first, second] = [1, 2].map(|it| message_with(it, METADATA, PAYLOAD));
    let mut replayed = first.clone();
    replayed.seq = tidegate::model::DeliverySeq::new(first.event.seq, 7);
    let later = now() + SignedDuration::from_hours(3);

    one.send(std::slice::from_ref(&first), now()).await;
    one.send(std::slice::from_ref(&first), later).await;
    one.send(&[replayed], later).await;
    one.send(&[second], now()).await;
    other.send(&[first], now()).await;

    let received = sink.received();
    let keys: Vec<_> = received.iter().map(|it| it.header("idempotency-key")).collect();
    assert!(keys[0] == keys[1] && keys[1] == keys[2], "{keys:?}");
    assert!(keys[3] != keys[0] && keys[4] != keys[0] && keys[3] != keys[4], "{keys:?}");
    assert!(keys.iter().all(|it| it.len() <= 255 && !it.is_empty()));
    assert!(received[0].body == received[1].body && received[1].body == received[2].body);
}

#[tokio::test]
async fn only_https_with_a_trusted_certificate_is_spoken() {
    let authority = Authority::new();
    let lab = authority.lab();
    let plain = destination_of(Profile::Admin, &["http://hooks.example.com/webhook"]);
    let refused = webhook::Webhook::new(&plain, &lab.vault, &lab.egress).err().unwrap();
    assert_eq!(refused.to_string(), "the contract allows `https` only");

    let sink = Sink::over_tls(self_signed()).await;
    let outlet = lab.build(&destination_of(Profile::Admin, &[&url(&sink)]));
    let outcome = outlet.send(&[message_with(1, METADATA, PAYLOAD)], now()).await;
    assert_eq!((outcome.class, sink.received().len()), (Class::Tls, 0));
}

#[tokio::test]
async fn the_one_signature_changes_at_the_chosen_moment() {
    let authority = Authority::new();
    let (lab, sink) = (authority.lab(), Sink::over_tls(authority.server(|_| ())).await);
    let mut destination = destination_of(Profile::Admin, &[&url(&sink)]);
    let moment = now() + SignedDuration::from_hours(24);
    let mut keys = ["new", "old"].map(|it| lab.signing_key(&destination, it));
    keys[0].active_from = Some(moment);
    keys[1].expires_at = Some(moment + SignedDuration::from_hours(1));
    webhook_of(&mut destination).signing_keys = keys.to_vec();
    let outlet = lab.build(&destination);

    for at in [now(), moment - SignedDuration::from_secs(1), moment] {
        outlet.send(&[message_with(1, METADATA, PAYLOAD)], at).await;
    }

    for (request, secret) in sink.received().iter().zip(["old", "old", "new"]) {
        let expected = format!("sha256={}", sha256(secret, &[&request.body]));
        assert_eq!(request.header("x-admin-signature"), expected);
    }
}

const HOUR: Duration = Duration::from_secs(60 * 60);
/// The gateway's own rules about time and order; the wire is spoken in plain and unverified here.
const UNVERIFIED: &str = ", profile: admin, https_only: false, verify: false";

/// "Events are delivered in chronological order per endpoint. If a retry occurs, it's inserted into the
/// queue at the correct timestamp position." "Once your endpoint resumes accepting connections, queued
/// events are replayed automatically."
#[tokio::test]
async fn backlog_of_a_recovered_endpoint_arrives_in_order() {
    let is_down = Arc::new(AtomicBool::new(true));
    let looked_at = is_down.clone();
    let sink =
        Sink::with(move |_| Answer::status(if looked_at.load(SeqCst) { 503 } else { 200 })).await;
    let gateway = Gateway::delivering_to(&sink.url("/webhook"), UNVERIFIED).await;
    let mut events = Vec::new();
    for number in 0..3 {
        events.push(gateway.publish("user.created", json!({ "n": number })).await);
        gateway.run_for(7 * HOUR).await;
    }
    let numbers = || {
        let received = sink.received();
        received.iter().map(|it| it.json()["data"]["n"].as_u64().unwrap()).collect::<Vec<_>>()
    };
    let before = numbers();
    assert!(before.len() > 5 && before.iter().all(|it| *it == 0), "{before:?}");

    is_down.store(false, SeqCst);
    gateway.run_for(2 * HOUR).await;

    assert_eq!(numbers()[before.len()..], [0, 1, 2]);
    for event in events {
        assert_eq!(gateway.states(event).await, ["delivered"]);
    }
    let received = sink.received();
    assert!(received.iter().take(before.len() + 1).all(|it| it.body == received[0].body));
}

/// "Admin caches events for 24 hours."
#[tokio::test]
async fn undelivered_events_expire_visibly_after_a_day() {
    let sink = Sink::answering(&[503]).await;
    let gateway = Gateway::delivering_to(&sink.url("/webhook"), UNVERIFIED).await;
    let first = gateway.publish("user.created", json!({})).await;
    gateway.run_for(2 * HOUR).await;
    let second = gateway.publish("user.created", json!({})).await;

    gateway.run_for(21 * HOUR).await;
    assert_eq!(gateway.states(first).await, ["retrying"]);
    gateway.run_for(2 * HOUR).await;
    assert_eq!(gateway.states(first).await, ["expired"]);
    assert_eq!(gateway.states(second).await, ["retrying"]);
    gateway.run_for(2 * HOUR).await;
    assert_eq!(gateway.states(second).await, ["expired"]);
}
