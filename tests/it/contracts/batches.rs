//! Several messages in one request: which may share one, and what it says.

use tidegate::{
    destinations::DestinationClient as _,
    model::{Batch, Class, Message, Profile},
};

use super::sha1;
use crate::harness::{
    outlet::{Lab, SECRET, destination_of, message, message_with, now, webhook_of},
    sink::Sink,
};

fn about(number: u64, payload: &str) -> Message {
    message_with(number, "{}", payload)
}

#[tokio::test]
async fn a_batch_is_a_list_also_of_one_and_its_first_element_is_signed() {
    let (lab, sink) = (Lab::new(), Sink::new().await);
    let mut destination =
        lab.signed(destination_of(Profile::Customerio, &[&sink.url("/")]), "shared");
    destination.policy.batch = Some(Batch::default());
    let outlet = lab.build(&destination);
    let messages: Vec<_> = (0..1000).map(message).collect();

    outlet.send(&messages[..1], now()).await;
    outlet.send(&messages, now()).await;

    let [one, all] = &sink.received()[..] else { panic!() };
    assert_eq!(one.body, r#"[{"n":0}]"#);
    assert_eq!(all.json().as_array().unwrap().len(), 1000);
    for request in [one, all] {
        assert_eq!(request.header("x-signature"), sha1("shared", br#"{"n":0}"#));
    }
}

#[tokio::test]
async fn messages_share_a_group_exactly_when_url_and_headers_agree() {
    let (lab, sink) = (Lab::new(), Sink::new().await);
    let url = sink.url("/{{ payload.path }}?q={{ payload.q }}");
    let mut destination = destination_of(Profile::Customerio, &[&url]);
    let header = lab.header(&destination, "{{ payload.h }}");
    webhook_of(&mut destination).headers.insert("X-H".to_owned(), header);
    destination.policy.batch = Some(Batch::default());
    let outlet = lab.build(&destination);
    let payloads = [
        r#"{"path":"a","q":1,"h":"x","n":1}"#,
        r#"{"path":"a","q":"1","h":"x","n":2}"#,
        r#"{"path":"b","q":1,"h":"x"}"#,
        r#"{"path":"a","q":2,"h":"x"}"#,
        r#"{"path":"a","q":1,"h":"y"}"#,
        r#"{"path":"a","q":1,"h":"X"}"#,
        // These two cannot be sent, each for itself.
        r#"{"path":"..","q":1,"h":"x"}"#,
        r#"{"path":"..","q":1,"h":"x"}"#,
    ];
    let messages: Vec<_> = (0..).zip(payloads).map(|(number, it)| about(number, it)).collect();
    let groups: Vec<_> = messages.iter().map(|it| outlet.group(it)).collect();
    for (one, group) in groups.iter().enumerate() {
        for (other, its) in groups.iter().enumerate() {
            let together = one == other || one + other == 1;
            assert_eq!(group == its, together, "{one} and {other}");
        }
    }

    // And what a caller puts together all the same is not sent to the wrong place.
    let outcome = outlet.send(&[messages[0].clone(), messages[2].clone()], now()).await;
    assert_eq!((outcome.class, sink.connections()), (Class::Config, 0));
    let outcome = outlet.send(&messages[..2], now()).await;
    assert_eq!((outcome.class, sink.received()[0].path.as_str()), (Class::Accepted, "/a?q=1"));
}

#[tokio::test]
async fn an_unsendable_message_spares_its_batch() {
    let lab = Lab::new();
    let outlet = lab.build(&destination_of(Profile::Segment, &["http://127.0.0.1:9/"]));
    let deep = format!("{}{}", "[".repeat(200), "]".repeat(200));
    let good = outlet.group(&about(1, "{}"));
    assert_eq!(outlet.group(&about(2, r#"{"n":2}"#)), good);
    for message in [
        about(3, "[]"),
        about(4, &format!("{{\"a\":{deep}}}")),
        message_with(5, r#"{"hops":8}"#, "{}"),
    ] {
        assert_ne!(outlet.group(&message), good);
        let outcome = outlet.send(std::slice::from_ref(&message), now()).await;
        assert!(matches!(outcome.class, Class::Config | Class::Abort), "{}", outcome.reason);
    }
}

#[tokio::test]
async fn the_standard_profile_batches_too_under_an_id_of_the_batch() {
    let (lab, sink) = (Lab::new(), Sink::new().await);
    let outlet =
        lab.build(&lab.signed(destination_of(Profile::Standard, &[&sink.url("/")]), SECRET));
    let messages = [message(1), message(2)];

    outlet.send(&messages, now()).await;
    outlet.send(&messages, now()).await;
    outlet.send(&[message(1), message(3)], now()).await;
    outlet.send(&messages[..1], now()).await;

    let received = sink.received();
    let ids: Vec<_> = received.iter().map(|it| it.header("webhook-id")).collect();
    assert!(ids[0].starts_with("batch_") && ids[0] == ids[1] && ids[0] != ids[2], "{ids:?}");
    assert_eq!(ids[3], messages[0].message_id());
    for request in &received {
        assert_eq!(request.header("idempotency-key"), request.header("webhook-id"));
    }
    let judge = standardwebhooks::Webhook::new(SECRET).unwrap();
    assert!(
        judge
            .sign(ids[0], now().as_second(), &received[0].body)
            .is_ok_and(|it| { it == received[0].header("webhook-signature") })
    );
    assert_eq!(received[0].json().as_array().unwrap().len(), 2);
    assert!(received[3].json().is_object());
}
