//! Several URLs of one destination: each message goes to all of them, and one success is enough.

use std::time::Duration;

use tidegate::{
    destinations::DestinationClient as _,
    model::{Class, Profile},
};

use crate::harness::{
    outlet::{Lab, destination_of, message, now},
    sink::{Answer, Sink},
};

async fn sinks(statuses: &[u16]) -> Vec<Sink> {
    let mut sinks = Vec::new();
    for status in statuses {
        sinks.push(Sink::answering(&[*status]).await);
    }
    sinks
}

#[tokio::test]
async fn one_success_among_five_is_success_for_all() {
    let lab = Lab::new();
    let sinks = sinks(&[500, 404, 200, 503, 410]).await;
    let urls: Vec<_> = sinks.iter().map(|it| it.url("/x?token=secret")).collect();
    let urls: Vec<_> = urls.iter().map(String::as_str).collect();
    let outlet = lab.build(&destination_of(Profile::Segment, &urls));

    for number in 0..3 {
        let outcome = outlet.send(&[message(number)], now()).await;
        assert_eq!((outcome.class, outcome.status), (Class::Accepted, Some(200)));
        for (place, sink) in sinks.iter().enumerate() {
            let line = format!("{} (http://{}): ", place + 1, sink.address());
            assert!(outcome.reason.contains(&line), "{}", outcome.reason);
        }
        assert!(!outcome.reason.contains("secret"), "{}", outcome.reason);
    }

    // Every URL got every message, the same bytes, over a connection of its own that is kept.
    let bodies = |it: &Sink| it.received().into_iter().map(|it| it.body).collect::<Vec<_>>();
    for sink in &sinks {
        assert_eq!((bodies(sink), sink.connections()), (bodies(&sinks[0]), 1));
        assert_eq!(sink.received().len(), 3);
    }
}

#[tokio::test]
async fn all_failing_is_one_failure_that_gives_the_most_reason_to_try_again() {
    let lab = Lab::new();
    let nobody = {
        let sink = Sink::new().await;
        sink.url("/")
    };
    for (statuses, expected) in [
        (&[404, 410][..], (Class::Status, Some(404))),
        (&[404, 503, 429][..], (Class::Status, Some(503))),
        (&[410, 410][..], (Class::Abort, Some(410))),
    ] {
        let sinks = sinks(statuses).await;
        let urls: Vec<_> = sinks.iter().map(|it| it.url("/")).collect();
        let urls: Vec<_> = urls.iter().map(String::as_str).collect();
        let outcome =
            lab.build(&destination_of(Profile::Segment, &urls)).send(&[message(1)], now()).await;
        assert_eq!((outcome.class, outcome.status), expected, "{}", outcome.reason);

        let urls: Vec<_> = urls.into_iter().chain([nobody.as_str()]).collect();
        let outcome =
            lab.build(&destination_of(Profile::Segment, &urls)).send(&[message(1)], now()).await;
        assert_eq!(outcome.class, Class::Connect, "{}", outcome.reason);
        assert!(outcome.reason.contains(&statuses[0].to_string()), "{}", outcome.reason);
        assert!(outcome.reason.contains("refused"), "{}", outcome.reason);
    }
}

#[tokio::test]
async fn they_are_asked_at_once_and_share_one_deadline() {
    let lab = Lab::new();
    let [slow, slower] = [(); 2].map(|()| Sink::holding(|_| Answer::status(200)));
    let (slow, slower, quick) = (slow.await, slower.await, Sink::new().await);
    let urls = [slow.url("/"), slower.url("/"), quick.url("/")];
    let mut destination = destination_of(Profile::Segment, &urls.each_ref().map(String::as_str));
    destination.policy.timeout = Duration::from_millis(300);

    let outcome = lab.build(&destination).send(&[message(1)], now()).await;

    assert_eq!(outcome.class, Class::Accepted);
    assert_eq!(outcome.reason.matches("timed out waiting for the answer").count(), 2);
    assert!(outcome.duration < Duration::from_millis(600), "{:?}", outcome.duration);
    slow.open_connections_become(0).await;
    slower.open_connections_become(0).await;
}
