//! Segment's Webhooks (Actions): a mapped payload to one URL, observed on the wire.

use std::time::Duration;

use tidegate::{
    destinations::{DestinationClient as _, profiles},
    model::{Batch, Method, Profile, RetryOn},
};

use super::{names, sha1};
use crate::harness::{
    outlet::{Lab, destination_of, message_with, now, webhook_of},
    sink::Sink,
};

#[tokio::test]
async fn a_mapped_payload_goes_out_alone_and_signed() {
    let (lab, sink) = (Lab::new(), Sink::new().await);
    let mut destination =
        lab.signed(destination_of(Profile::SegmentActions, &[&sink.url("/")]), "shared");
    assert_eq!(destination.policy.timeout, Duration::from_secs(10));
    assert_eq!(destination.policy.retry_on, RetryOn::Temporary);
    assert_eq!(profiles::values(Profile::SegmentActions).most_urls, 1);
    for (method, name) in [(Method::Post, "POST"), (Method::Put, "PUT"), (Method::Patch, "PATCH")] {
        webhook_of(&mut destination).contract.method = method;
        // Nulls stay; the rest is as `JSON.stringify` writes it.
        let message = message_with(1, "{}", r#"{ "b": null, "1": 1.50, "a": "\/" }"#);
        lab.build(&destination).send(&[message], now()).await;

        let request = sink.received().pop().unwrap();
        let body = r#"{"1":1.5,"b":null,"a":"/"}"#;
        assert_eq!((request.method.as_str(), &request.body[..]), (name, body.as_bytes()));
        assert_eq!(request.header("user-agent"), "Segment (Actions)");
        assert_eq!(request.header("x-signature"), sha1("shared", body.as_bytes()));
        let expected = [
            "content-length",
            "content-type",
            "host",
            "tidegate-hops",
            "user-agent",
            "x-signature",
        ];
        assert_eq!(names(&request.headers), expected);
    }
}

#[tokio::test]
async fn a_batch_is_an_array_signed_over_its_first_event() {
    let (lab, sink) = (Lab::new(), Sink::new().await);
    let mut destination =
        lab.signed(destination_of(Profile::SegmentActions, &[&sink.url("/")]), "shared");
    destination.policy.batch = Some(Batch::default());
    let messages = [r#"{"n":1.0}"#, r#"{"n":2.0}"#].map(|it| message_with(1, "{}", it));
    lab.build(&destination).send(&messages, now()).await;
    let request = sink.received().pop().unwrap();
    assert_eq!(request.body, r#"[{"n":1},{"n":2}]"#);
    assert_eq!(request.header("x-signature"), sha1("shared", br#"{"n":1}"#));
}
