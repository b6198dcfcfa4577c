//! Webhooks over real sockets: what is sent, and what the answers mean.

use std::{sync::Arc, time::Duration};

use jiff::SignedDuration;
use tidegate::{
    catalog::Catalog,
    crypto::{
        SealContext, SecretField,
        signature::standard::{self, Headers, Key},
    },
    destinations::{DestinationClient as _, Directory, Outlets as _},
    model::{Auth, Class, Method, Sealed, Secret},
};
use tokio::sync::watch;

use crate::harness::{
    outlet::{Lab, SECRET, destination, message, message_with, now, webhook_of},
    sink::{Answer, Received, Sink},
};

fn verified(request: &Received, secret: &str, at: jiff::Timestamp) -> bool {
    let key = Key::verifying(&Secret::new(secret)).unwrap();
    let headers = Headers {
        id: request.header(standard::ID),
        timestamp: request.header(standard::TIMESTAMP),
        signature: request.header(standard::SIGNATURE),
    };
    standard::verify(&[key], headers, &request.body, at).is_ok()
}

#[tokio::test]
async fn a_webhook_is_a_signed_post_with_the_payload_inside() {
    let (lab, sink) = (Lab::new(), Sink::new().await);
    let mut destination = destination(&sink.url("/hooks?token=a%20b"));
    let key = lab.signing_key(&destination, SECRET);
    webhook_of(&mut destination).signing_keys.push(key);
    let message = message_with(1, "{}", r#"{ "amount": 1.50 }"#);

    let outcome = lab.build(&destination).send(std::slice::from_ref(&message), now()).await;

    assert_eq!((outcome.class, outcome.status), (Class::Accepted, Some(200)));
    assert_eq!(outcome.reason, "200 OK");
    let received = sink.received();
    let [request] = received.as_slice() else { panic!("{received:?}") };
    assert_eq!((request.method.as_str(), request.path.as_str()), ("POST", "/hooks?token=a%20b"));
    assert_eq!(
        request.body,
        r#"{"type":"user.signed_up","timestamp":"2026-11-21T08:00:00Z","data":{ "amount": 1.50 }}"#
    );
    let id = message.message_id();
    let length = request.body.len().to_string();
    let signature = request.header("webhook-signature");
    for (name, value) in [
        ("host", sink.address().to_string().as_str()),
        ("content-type", "application/json"),
        ("content-length", &length),
        ("user-agent", "Tidegate"),
        ("webhook-id", &id),
        ("idempotency-key", &id),
        ("webhook-timestamp", &now().as_second().to_string()),
        ("webhook-signature", signature),
        ("tidegate-hops", "1"),
    ] {
        assert_eq!(request.header(name), value, "{name}");
    }
    assert_eq!(request.headers.len(), 9, "{:?}", request.headers);
    assert!(verified(request, SECRET, now()));
}

#[tokio::test]
async fn every_live_key_signs_and_an_expired_one_does_not() {
    let (lab, sink) = (Lab::new(), Sink::new().await);
    let mut destination = destination(&sink.url("/"));
    let old = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
    let private = "whsk_6Xb/dCcHpPea21PS1N9VY/NZW723CEc77N4rJCubMbfVKIDij2HKpMKkioLlX0dRqSKJp4AJ6p9lMicMFs6Kvg==";
    let mut keys = [SECRET, old, private].map(|it| lab.signing_key(&destination, it));
    keys[1].expires_at = Some(now() + SignedDuration::from_hours(24));
    webhook_of(&mut destination).signing_keys = keys.to_vec();
    let outlet = lab.build(&destination);

    let later = now() + SignedDuration::from_hours(24);
    outlet.send(&[message(1)], later - SignedDuration::from_secs(1)).await;
    outlet.send(&[message(1)], later).await;

    let [before, after] = &sink.received()[..] else { panic!() };
    assert!(before.header("webhook-signature").matches(' ').count() == 2);
    assert!([SECRET, old, private].iter().all(|it| verified(before, it, later)));
    assert!(verified(after, SECRET, later) && verified(after, private, later));
    assert!(!verified(after, old, later));
}

#[tokio::test]
async fn another_attempt_has_the_same_id_and_body_and_a_new_timestamp() {
    let (lab, sink) = (Lab::new(), Sink::answering(&[503, 200]).await);
    let mut destination = destination(&sink.url("/"));
    let key = lab.signing_key(&destination, SECRET);
    webhook_of(&mut destination).signing_keys.push(key);
    let outlet = lab.build(&destination);
    let later = now() + SignedDuration::from_hours(7);

    let first = outlet.send(&[message(1)], now()).await;
    let second = outlet.send(&[message(1)], later).await;

    assert_eq!((first.class, first.status), (Class::Status, Some(503)));
    assert_eq!(first.reason, "503 Service Unavailable");
    assert_eq!(second.class, Class::Accepted);
    let [one, two] = &sink.received()[..] else { panic!() };
    assert_eq!((&one.body, one.header("webhook-id")), (&two.body, two.header("webhook-id")));
    assert_eq!(two.header("webhook-timestamp"), later.as_second().to_string());
    assert!(verified(one, SECRET, now()) && verified(two, SECRET, later));
}

#[tokio::test]
async fn a_replay_with_an_id_of_its_own_sends_that() {
    let (lab, sink) = (Lab::new(), Sink::new().await);
    let outlet = lab.build(&destination(&sink.url("/")));
    let mut fresh = message(1);
    fresh.fresh_id = true;

    outlet.send(&[message(1)], now()).await;
    outlet.send(&[fresh.clone()], now()).await;

    let [one, two] = &sink.received()[..] else { panic!() };
    assert_eq!(one.header("webhook-id"), fresh.event.id.to_string());
    assert_eq!(two.header("webhook-id"), fresh.delivery_id().to_string());
}

#[tokio::test]
async fn method_headers_and_authorisation_are_the_destinations() {
    let (lab, sink) = (Lab::new(), Sink::new().await);
    let mut destination = destination(&sink.url("/"));
    let (project, id) = (destination.project, destination.id);
    let seal = |text: &str, field| {
        lab.vault.seal(&Secret::new(text), &SealContext::of_destination(project, id, field))
    };
    let version = seal("7", SecretField::Header);
    webhook_of(&mut destination).headers.insert("X-Api-Version".to_owned(), version);
    let basic = Auth::Basic {
        username: "Aladdin".to_owned(),
        password: seal("open sesame", SecretField::BasicPassword),
    };
    let bearer = Auth::Bearer { token: seal("t0ken", SecretField::BearerToken) };
    for (method, auth, expected) in [
        (Method::Post, Auth::None, ("POST", "")),
        (Method::Put, bearer, ("PUT", "Bearer t0ken")),
        (Method::Patch, basic, ("PATCH", "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==")),
        (Method::Delete, Auth::None, ("DELETE", "")),
    ] {
        let webhook = webhook_of(&mut destination);
        (webhook.contract.method, webhook.auth) = (method, auth);
        lab.build(&destination).send(&[message(1)], now()).await;

        let request = sink.received().pop().unwrap();
        assert_eq!((request.method.as_str(), request.header("authorization")), expected);
        assert_eq!(request.header("x-api-version"), "7");
        assert_eq!(request.json()["data"]["n"], 1);
    }
}

#[tokio::test]
async fn an_event_that_goes_in_circles_is_stopped() {
    let (lab, sink) = (Lab::new(), Sink::new().await);
    let outlet = lab.build(&destination(&sink.url("/")));

    let seventh = outlet.send(&[message_with(1, r#"{"hops":7}"#, "{}")], now()).await;
    let eighth = outlet.send(&[message_with(1, r#"{"hops":8}"#, "{}")], now()).await;

    assert_eq!((seventh.class, eighth.class), (Class::Accepted, Class::Abort));
    let received = sink.received();
    assert_eq!(received.len(), 1);
    assert_eq!(received[0].header("tidegate-hops"), "8");
}

#[tokio::test]
async fn outcomes_keep_the_start_of_the_answer() {
    let lab = Lab::new();
    let sink =
        Sink::with(|_| Answer::status(429).header("retry-after", "120.5").body("x".repeat(30_000)))
            .await;
    let outcome = lab.attempt(&sink.url("/"), Duration::from_secs(10)).await;
    assert_eq!(outcome.retry_after, Some(Duration::from_millis(120_500)));
    assert_eq!(outcome.response.unwrap().bytes().len(), 1024);
    assert!(outcome.duration > Duration::ZERO);
}

#[tokio::test]
async fn one_connection_serves_attempt_after_attempt() {
    let (lab, sink) = (Lab::new(), Sink::with(|_| Answer::status(200).body("thanks")).await);
    let outlet = lab.build(&destination(&sink.url("/")));
    for number in 0..100 {
        let outcome = outlet.send(&[message(number)], now()).await;
        assert_eq!(outcome.response.unwrap().to_text(), "thanks");
    }
    assert_eq!(sink.connections(), 1);
    drop(outlet);
    sink.open_connections_become(0).await;
}

#[tokio::test]
async fn many_attempts_at_once_have_a_connection_each_and_leave_a_bounded_number() {
    let mut options = crate::harness::outlet::lab_options();
    options.idle_per_destination = 3;
    let lab =
        Lab::with(options, Arc::new(tidegate::destinations::egress::SystemResolver::default()));
    let sink = Sink::holding(|_| Answer::status(200)).await;
    let outlet = Arc::new(lab.build(&destination(&sink.url("/"))));
    let attempts: Vec<_> = (0..10)
        .map(|number| {
            let outlet = outlet.clone();
            tokio::spawn(async move { outlet.send(&[message(number)], now()).await.class })
        })
        .collect();

    sink.received_at_least(10).await;
    assert_eq!(sink.connections(), 10);
    sink.release(10);
    for attempt in attempts {
        assert_eq!(attempt.await.unwrap(), Class::Accepted);
    }
    sink.open_connections_become(3).await;
}

#[tokio::test]
async fn a_deadline_frees_the_connection_at_once() {
    let (lab, sink) = (Lab::new(), Sink::holding(|_| Answer::status(200)).await);
    let outcome = lab.attempt(&sink.url("/"), Duration::from_millis(200)).await;
    assert_eq!((outcome.class, outcome.status), (Class::Timeout, None));
    assert_eq!(outcome.reason, "timed out waiting for the answer");
    sink.open_connections_become(0).await;
}

#[tokio::test]
async fn the_directory_follows_the_catalogue() {
    let lab = Lab::new();
    let [one, two] = [Sink::new().await, Sink::new().await];
    let mut there = destination(&one.url("/"));
    let id = there.id;
    let (sender, receiver) = watch::channel(Arc::new(Catalog::default()));
    let directory = Directory::new(receiver, lab.vault.clone(), lab.egress.clone());
    let show = |destination: Option<&tidegate::model::Destination>| {
        let destinations = destination.map(|it| (it.id, Arc::new(it.clone())));
        let destinations = destinations.into_iter().collect();
        sender.send_replace(Arc::new(Catalog { destinations, ..Catalog::default() }));
    };

    assert!(directory.get(id).is_none());
    show(Some(&there));
    directory.get(id).unwrap().send(&[message(1)], now()).await;
    directory.get(id).unwrap().send(&[message(2)], now()).await;
    assert_eq!((one.received().len(), one.connections()), (2, 1));

    webhook_of(&mut there).urls = vec![two.url("/").try_into().unwrap()];
    show(Some(&there));
    assert_eq!(directory.get(id).unwrap().kind(), "webhook");
    directory.get(id).unwrap().send(&[message(3)], now()).await;
    assert_eq!((one.received().len(), two.received().len()), (2, 1));
    one.open_connections_become(0).await;

    show(None);
    assert!(directory.get(id).is_none());
    two.open_connections_become(0).await;
}

#[tokio::test]
async fn a_destination_whose_secret_does_not_open_says_so_and_sends_nothing() {
    let (lab, sink) = (Lab::new(), Sink::new().await);
    let mut broken = destination(&sink.url("/"));
    let mut key = lab.signing_key(&broken, SECRET);
    key.secret = Sealed::from_text("v1.0badc0de.AAAA");
    webhook_of(&mut broken).signing_keys.push(key);
    let catalog = Catalog {
        destinations: [(broken.id, Arc::new(broken.clone()))].into(),
        ..Default::default()
    };
    let (_sender, receiver) = watch::channel(Arc::new(catalog));
    let directory = Directory::new(receiver, lab.vault.clone(), lab.egress.clone());

    let outcome = directory.get(broken.id).unwrap().send(&[message(1)], now()).await;

    assert_eq!(outcome.class, Class::Config);
    assert!(outcome.reason.contains("master key 0badc0de"), "{}", outcome.reason);
    assert_eq!(sink.connections(), 0);
}
