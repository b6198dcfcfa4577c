//! The receivers' own verification code, in Express, on hostile JSON.

use tidegate::{
    clock::{Clock as _, SystemClock},
    destinations::DestinationClient as _,
    model::{Batch, Class, Destination, IdempotencyHeader, Message, Profile, Signed},
};

use super::{
    hostile::{self, PAYLOADS},
    judges::Receivers,
};
use crate::harness::{
    outlet::{Lab, SECRET, destination_of, message_with, webhook_of},
    sink::Sink,
};

/// How a destination is set up for a receiver of `tests/judges/receivers.mjs`.
#[derive(Clone, Copy)]
enum Setup {
    Plain(Profile),
    Batched(Profile, Signed),
    /// The profile with another name for its header.
    Named(Profile, &'static str),
}

const SETUPS: [(&str, Setup); 12] = [
    ("/standard", Setup::Plain(Profile::Standard)),
    ("/standard", Setup::Batched(Profile::Standard, Signed::Body)),
    ("/ingestlayer", Setup::Plain(Profile::Ingestlayer)),
    ("/admin", Setup::Plain(Profile::Admin)),
    ("/single", Setup::Plain(Profile::Segment)),
    ("/first", Setup::Batched(Profile::Segment, Signed::FirstElement)),
    ("/single", Setup::Plain(Profile::SegmentActions)),
    ("/first", Setup::Batched(Profile::SegmentActions, Signed::FirstElement)),
    ("/first", Setup::Batched(Profile::Customerio, Signed::FirstElement)),
    ("/whole", Setup::Batched(Profile::Customerio, Signed::Body)),
    ("/stripe", Setup::Named(Profile::Ingestlayer, "stripe-signature")),
    ("/octokit", Setup::Named(Profile::Admin, "x-hub-signature-256")),
];

fn set_up(lab: &Lab, setup: Setup, url: &str) -> Destination {
    let (Setup::Plain(profile) | Setup::Batched(profile, _) | Setup::Named(profile, _)) = setup;
    let mut destination = lab.signed(destination_of(profile, &[url]), SECRET);
    if let Setup::Batched(..) = setup {
        destination.policy.batch = Some(Batch::default());
    }
    let contract = &mut webhook_of(&mut destination).contract;
    match setup {
        Setup::Plain(_) => (),
        Setup::Batched(_, over) => contract.signature.over = over,
        Setup::Named(_, name) => contract.signature.header = name.to_owned(),
    }
    // The receivers of this test speak plain HTTP, and one does not show the other's header.
    contract.https_only = false;
    contract.idempotency_key = IdempotencyHeader::None;
    destination
}

fn hostile_messages(generated: u64) -> Vec<Message> {
    let metadata = r#"{ "source":"app","n":1.50 }"#;
    let written = PAYLOADS.iter().map(|it| it.to_string());
    (written.chain((0..generated).map(hostile::object)).enumerate())
        .map(|(number, payload)| message_with(number as u64, metadata, &payload))
        .collect()
}

#[tokio::test]
async fn every_delivery_verifies_whatever_the_payload_holds() {
    let (lab, receivers) = (Lab::new(), Receivers::with_secret(SECRET));
    let messages = hostile_messages(200);
    for (path, setup) in SETUPS {
        let outlet = lab.build(&set_up(&lab, setup, &receivers.url(path)));
        for message in &messages {
            let outcome = outlet.send(std::slice::from_ref(message), SystemClock.now()).await;
            let payload = message.payload().as_str();
            assert_eq!(outcome.class, Class::Accepted, "{path}: {} of {payload}", outcome.reason);
        }
        if let Setup::Batched(..) = setup {
            for batch in messages.chunks(17) {
                let outcome = outlet.send(batch, SystemClock.now()).await;
                assert_eq!(outcome.class, Class::Accepted, "{path}: {}", outcome.reason);
            }
        }
    }
}

#[tokio::test]
async fn a_flipped_byte_does_not_verify() {
    let (lab, receivers) = (Lab::new(), Receivers::with_secret(SECRET));
    for (path, setup) in SETUPS {
        let sink = Sink::new().await;
        let outlet = lab.build(&set_up(&lab, setup, &sink.url(path)));
        let message = message_with(1, "{}", r#"{"n":1.5,"name":"x"}"#);
        outlet.send(&[message], SystemClock.now()).await;
        let request = sink.received().pop().unwrap();

        assert_eq!(receivers.judge(path, &request, &request.body).await, 200, "{path}");
        for place in 0..request.body.len() {
            let mut body = request.body.to_vec();
            body[place] ^= 1;
            let status = receivers.judge(path, &request, &body).await;
            let text = String::from_utf8_lossy(&body);
            assert!([400, 401].contains(&status), "{path}: {status} to {text}");
        }
    }
}

#[tokio::test]
async fn another_secret_or_none_does_not_verify() {
    let (lab, receivers) = (Lab::new(), Receivers::with_secret(SECRET));
    for (path, setup) in SETUPS {
        let url = receivers.url(path);
        let other = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
        let signed = lab.signed(set_up(&lab, setup, &url), other);
        let mut unsigned = signed.clone();
        webhook_of(&mut unsigned).signing_keys.clear();
        for destination in [signed, unsigned] {
            let outlet = lab.build(&destination);
            let message = message_with(1, "{}", r#"{"n":1}"#);
            let outcome = outlet.send(&[message], SystemClock.now()).await;
            assert_eq!(outcome.status, Some(401), "{path}: {}", outcome.reason);
        }
    }
}
