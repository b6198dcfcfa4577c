//! `systems/000` and `001`: "POST the processed event as JSON to any HTTPS endpoint you control."

use std::time::Duration;

use jiff::SignedDuration;
use serde_json::json;
use tidegate::{
    crypto::{SealContext, SecretField},
    destinations::DestinationClient as _,
    model::{Auth, Class, Profile, Secret},
};

use super::{names, sha256};
use crate::harness::{
    gateway::{Gateway, SECRET},
    outlet::{Lab, destination_of, message_with, now, webhook_of},
    sink::Sink,
};

const PAYLOAD: &str = r#"{ "email": "ada@acme.com", "plan": "pro" }"#;

#[tokio::test]
async fn a_signed_request_is_the_documents_sample_to_the_letter() {
    let (lab, sink) = (Lab::new(), Sink::new().await);
    let destination =
        lab.signed(destination_of(Profile::Ingestlayer, &[&sink.url("/hooks")]), "s3cret");
    assert_eq!(destination.policy.timeout, Duration::from_secs(10));

    let message = message_with(1, r#"{"source":"app"}"#, PAYLOAD);
    let outcome = lab.build(&destination).send(&[message], now()).await;

    assert_eq!(outcome.class, Class::Accepted);
    let request = sink.received().pop().unwrap();
    assert_eq!((request.method.as_str(), request.path.as_str()), ("POST", "/hooks"));
    assert_eq!(request.header("content-type"), "application/json");
    assert_eq!(request.body, format!(r#"{{"type":"user.signed_up","payload":{PAYLOAD}}}"#));
    let time = now().as_second().to_string();
    let code = sha256("s3cret", &[time.as_bytes(), b".", &request.body]);
    assert_eq!(request.header("x-ingestlayer-signature"), format!("t={time},v1={code}"));
    // Nothing of another contract stands beside it.
    let expected = [
        "content-length",
        "content-type",
        "host",
        "idempotency-key",
        "tidegate-hops",
        "user-agent",
        "x-ingestlayer-signature",
    ];
    assert_eq!(names(&request.headers), expected);
}

#[tokio::test]
async fn a_retry_has_the_same_body_and_a_new_time_in_its_signature() {
    let (lab, sink) = (Lab::new(), Sink::answering(&[500, 200]).await);
    let destination = lab.signed(destination_of(Profile::Ingestlayer, &[&sink.url("/")]), "s3cret");
    let outlet = lab.build(&destination);
    let message = message_with(1, "{}", PAYLOAD);
    let later = now() + SignedDuration::from_secs(40);

    outlet.send(std::slice::from_ref(&message), now()).await;
    outlet.send(&[message], later).await;

    let [one, two] = &sink.received()[..] else { panic!() };
    assert_eq!(one.body, two.body);
    assert_eq!(one.header("idempotency-key"), two.header("idempotency-key"));
    let signature = |it: &crate::harness::sink::Received| {
        it.header("x-ingestlayer-signature").split_once(",v1=").map(|(time, _)| time.to_owned())
    };
    assert_eq!(signature(one), Some(format!("t={}", now().as_second())));
    assert_eq!(signature(two), Some(format!("t={}", later.as_second())));
}

#[tokio::test]
async fn auth_is_none_or_a_bearer_token_or_hmac_under_a_name_of_choice() {
    let (lab, sink) = (Lab::new(), Sink::new().await);
    let plain = destination_of(Profile::Ingestlayer, &[&sink.url("/")]);
    let mut bearer = plain.clone();
    let context = SealContext::of_destination(plain.project, plain.id, SecretField::BearerToken);
    let token = lab.vault.seal(&Secret::new("t0ken"), &context);
    webhook_of(&mut bearer).auth = Auth::Bearer { token };
    let mut named = lab.signed(plain.clone(), "s3cret");
    webhook_of(&mut named).contract.signature.header = "x-acme-signature".to_owned();

    for destination in [plain, bearer, named] {
        let message = message_with(1, "{}", PAYLOAD);
        lab.build(&destination).send(&[message], now()).await;
    }

    let [none, bearer, named] = &sink.received()[..] else { panic!() };
    let found = |it: &crate::harness::sink::Received| {
        ["authorization", "x-ingestlayer-signature", "x-acme-signature"]
            .map(|name| it.headers.contains_key(name))
    };
    assert_eq!(found(none), [false; 3]);
    assert_eq!(found(bearer), [true, false, false]);
    assert_eq!(bearer.header("authorization"), "Bearer t0ken");
    assert_eq!(found(named), [false, false, true]);
}

#[tokio::test]
async fn during_a_rotation_both_secrets_sign() {
    let (lab, sink) = (Lab::new(), Sink::new().await);
    let mut destination = destination_of(Profile::Ingestlayer, &[&sink.url("/")]);
    let mut keys = ["new", "old"].map(|it| lab.signing_key(&destination, it));
    keys[1].expires_at = Some(now() + SignedDuration::from_hours(24));
    webhook_of(&mut destination).signing_keys = keys.to_vec();
    let outlet = lab.build(&destination);
    let after = now() + SignedDuration::from_hours(24);

    for at in [now(), after] {
        outlet.send(&[message_with(1, "{}", PAYLOAD)], at).await;
    }

    let [during, after] = &sink.received()[..] else { panic!() };
    for (request, secrets) in [(during, &["new", "old"][..]), (after, &["new"][..])] {
        let header = request.header("x-ingestlayer-signature");
        let (time, codes) = header.split_once(',').unwrap();
        let codes: Vec<_> = codes.split(',').collect();
        let start = format!("{}.", &time[2..]);
        let expected: Vec<_> = (secrets.iter())
            .map(|it| format!("v1={}", sha256(it, &[start.as_bytes(), &request.body])))
            .collect();
        assert_eq!(codes, expected);
    }
}

/// "Retries use exponential backoff for several attempts before dead-lettering."
#[tokio::test]
async fn a_refused_delivery_is_dead_after_eight_attempts() {
    let sink = Sink::answering(&[500, 404, 301, 429, 503]).await;
    let gateway = Gateway::delivering_to(&sink.url("/hooks"), ", profile: ingestlayer").await;

    let event = gateway.publish("user.signed_up", json!({ "plan": "pro" })).await;
    gateway.run_for(Duration::from_secs(24 * 60 * 60)).await;

    assert_eq!(gateway.states(event).await, ["dead"]);
    let received = sink.received();
    assert_eq!(received.len(), 8);
    let mut times = Vec::new();
    for request in &received {
        assert_eq!(request.body, r#"{"type":"user.signed_up","payload":{"plan":"pro"}}"#);
        assert_eq!(request.header("idempotency-key"), event.to_string());
        let header = request.header("x-ingestlayer-signature");
        let (time, code) = header.strip_prefix("t=").unwrap().split_once(",v1=").unwrap();
        assert_eq!(code, sha256(SECRET, &[time.as_bytes(), b".", &request.body]));
        times.push(time.parse::<i64>().unwrap());
    }
    // Each wait may be four times the one before, to two hours; chance spreads it below that.
    for (place, pair) in times.windows(2).enumerate() {
        let most = (10 * 4_i64.pow(place as u32)).min(2 * 60 * 60);
        assert!((0..=most + 1).contains(&(pair[1] - pair[0])), "{times:?}");
    }
}
