//! `systems/003`: mapped data to a URL by one of four methods, one by one or in batches.

use jiff::SignedDuration;
use tidegate::{
    destinations::DestinationClient as _,
    model::{Batch, Class, Method, Profile, Signed},
};

use super::{names, sha1};
use crate::harness::{
    outlet::{Lab, destination_of, message_with, now, webhook_of},
    sink::Sink,
};

const SAMPLE: [&str; 2] = [
    r#"{
    "type": "track",
    "userId": "123",
    "event": "Signed Up",
    "properties": { "plan": "Startup", "referred_by": "Friend" }
  }"#,
    r#"{ "type": "track", "userId": "456", "event": "Signed Up",
       "properties": { "plan": "Free", "referred_by": "Ad" } }"#,
];
const FIRST: &str = r#"{"type":"track","userId":"123","event":"Signed Up","properties":{"plan":"Startup","referred_by":"Friend"}}"#;
const SECOND: &str = r#"{"type":"track","userId":"456","event":"Signed Up","properties":{"plan":"Free","referred_by":"Ad"}}"#;

#[tokio::test]
async fn each_method_carries_the_payload_alone_with_its_signature_and_own_headers() {
    let (lab, sink) = (Lab::new(), Sink::new().await);
    let mut destination =
        lab.signed(destination_of(Profile::Customerio, &[&sink.url("/in")]), "shared");
    let header = lab.header(&destination, "a: b, c");
    webhook_of(&mut destination).headers.insert("X-Custom".to_owned(), header);
    for (method, name) in [
        (Method::Post, "POST"),
        (Method::Put, "PUT"),
        (Method::Patch, "PATCH"),
        (Method::Delete, "DELETE"),
    ] {
        webhook_of(&mut destination).contract.method = method;
        let message = message_with(1, "{}", SAMPLE[0]);
        let outcome = lab.build(&destination).send(&[message], now()).await;

        assert_eq!(outcome.class, Class::Accepted);
        let request = sink.received().pop().unwrap();
        assert_eq!((request.method.as_str(), request.path.as_str()), (name, "/in"));
        assert_eq!(request.body, FIRST);
        assert_eq!(request.header("x-signature"), sha1("shared", FIRST.as_bytes()));
        assert_eq!(request.header("x-custom"), "a: b, c");
        let expected = [
            "content-length",
            "content-type",
            "host",
            "tidegate-hops",
            "user-agent",
            "x-custom",
            "x-signature",
        ];
        assert_eq!(names(&request.headers), expected);
    }
}

#[tokio::test]
async fn a_batch_is_the_documents_sample_and_its_signature_a_switch() {
    let (lab, sink) = (Lab::new(), Sink::new().await);
    let mut destination =
        lab.signed(destination_of(Profile::Customerio, &[&sink.url("/")]), "shared");
    destination.policy.batch = Some(Batch::default());
    assert_eq!(Batch::default().events.get(), 1000);
    let whole = format!("[{FIRST},{SECOND}]");
    for (over, signed) in [(Signed::FirstElement, FIRST), (Signed::Body, &whole)] {
        webhook_of(&mut destination).contract.signature.over = over;
        let messages = [1, 2].map(|it| message_with(it, "{}", SAMPLE[it as usize - 1]));
        lab.build(&destination).send(&messages, now()).await;

        let request = sink.received().pop().unwrap();
        assert_eq!(request.body, whole);
        assert_eq!(request.header("x-signature"), sha1("shared", signed.as_bytes()));
    }
}

#[tokio::test]
async fn without_a_shared_secret_nothing_is_signed_and_the_body_is_the_same() {
    let (lab, sink) = (Lab::new(), Sink::new().await);
    let outlet = lab.build(&destination_of(Profile::Customerio, &[&sink.url("/")]));
    outlet.send(&[message_with(1, "{}", SAMPLE[0])], now()).await;
    let later = now() + SignedDuration::from_hours(1);
    outlet.send(&[message_with(1, "{}", SAMPLE[0])], later).await;
    for request in sink.received() {
        assert_eq!((request.header("x-signature"), &request.body[..]), ("", FIRST.as_bytes()));
    }
}
