//! `systems/004`: Segment's classic webhooks, from the samples of its document.

use std::{io, net::SocketAddr, time::Duration};

use jiff::Timestamp;
use serde_json::{Value, json};
use tidegate::{
    destinations::DestinationClient as _,
    model::{Class, Profile, Retry, RetryOn, RetryPreset},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    task::JoinHandle,
};

use super::{names, sha1};
use crate::harness::{
    authority::{Authority, self_signed},
    gateway::Gateway,
    outlet::{Lab, destination_of, message_with, now, webhook_of},
    sink::{Answer, Sink},
};

/// The six calls without their version, which is ours to add, and the notification of a deletion.
const CALLS: [&str; 7] = [
    r#"{"type":"page","userId":"019mr8mf4r","properties":{"path":"/pricing","referrer":"https://segment.com","title":"Segment Pricing","url":"https://segment.com/pricing"},"timestamp":"2012-12-02T00:30:08.276Z"}"#,
    r#"{"type":"screen","userId":"019mr8mf4r","name":"Main Screen","timestamp":"2012-12-02T00:30:08.276Z","context":{"device":{"model":"x86_64","type":"ios"},"os":{"name":"iPhone OS","version":"7.1"},"app":{"build":"88","name":"YourApp","version":"2.0.0"}}}"#,
    r#"{"type":"identify","userId":"019mr8mf4r","traits":{"email":"achilles@segment.com","name":"Achilles","subscriptionPlan":"Premium","friendCount":29},"timestamp":"2012-12-02T00:30:08.276Z"}"#,
    r#"{"type":"track","userId":"019mr8mf4r","event":"Purchased an Item","properties":{"revenue":"39.95","shippingMethod":"2-day"},"timestamp":"2012-12-02T00:30:08.276Z"}"#,
    r#"{"type":"alias","previousId":"previousId","userId":"userId","timestamp":"2012-12-02T00:30:08.276Z"}"#,
    r#"{"type":"group","groupId":"0e8c78ea9d97a7b8185e8632","userId":"019mr8mf4r","traits":{"name":"Initech","industry":"Technology","employees":329,"plan":"Enterprise","total billed":830},"timestamp":"2012-12-02T00:30:08.276Z"}"#,
    r#"{"type":"delete","userId":"019mr8mf4r","timestamp":"2012-12-02T00:30:08.276Z"}"#,
];

#[tokio::test]
async fn the_six_calls_and_delete_have_the_documented_bodies_and_headers() {
    let (lab, sink) = (Lab::new(), Sink::new().await);
    let destination = lab.signed(destination_of(Profile::Segment, &[&sink.url("/x")]), "shared");
    let policy = &destination.policy;
    assert_eq!(policy.timeout, Duration::from_secs(5));
    assert_eq!(policy.retry, Retry::Preset(RetryPreset::Segment4h));
    assert_eq!(policy.retry_on, RetryOn::ServerErrors);
    let outlet = lab.build(&destination);
    for call in CALLS {
        let outcome = outlet.send(&[message_with(1, "{}", call)], now()).await;
        assert_eq!(outcome.class, Class::Accepted);

        let request = sink.received().pop().unwrap();
        let expected = match call.contains(r#""type":"delete""#) {
            true => call.to_owned(),
            false => format!(r#"{{"version":1,{}"#, &call[1..]),
        };
        assert_eq!(request.body, expected);
        assert_eq!((request.method.as_str(), request.path.as_str()), ("POST", "/x"));
        assert_eq!(request.header("user-agent"), "Segment.io/1.0");
        assert_eq!(request.header("content-type"), "application/json");
        assert_eq!(request.header("x-signature"), sha1("shared", expected.as_bytes()));
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
async fn own_headers_are_added_and_do_not_displace_ours() {
    let (lab, sink) = (Lab::new(), Sink::new().await);
    let mut destination = destination_of(Profile::Segment, &[&sink.url("/")]);
    let header = lab.header(&destination, "7");
    webhook_of(&mut destination).headers.insert("X-Api-Version".to_owned(), header.clone());
    lab.build(&destination).send(&[message_with(1, "{}", CALLS[0])], now()).await;
    assert_eq!(sink.received()[0].header("x-api-version"), "7");
    for name in ["X-Signature", "User-Agent", "Content-Type", "Idempotency-Key"] {
        let mut own = lab.signed(destination.clone(), "shared");
        webhook_of(&mut own).headers.insert(name.to_owned(), header.clone());
        let refused = tidegate::destinations::webhook::Webhook::new(&own, &lab.vault, &lab.egress);
        let reason = refused.err().unwrap().to_string();
        assert!(reason.contains("is set by Tidegate itself"), "{name}: {reason}");
    }
}

#[tokio::test]
async fn with_a_self_signed_certificate_no_request_is_sent() {
    let lab = Authority::new().lab();
    let sink = Sink::over_tls(self_signed()).await;
    let url = format!("https://hooks.example.com:{}/", sink.address().port());
    let outlet = lab.build(&destination_of(Profile::Segment, &[&url]));
    let outcome = outlet.send(&[message_with(1, "{}", CALLS[0])], now()).await;
    assert_eq!(outcome.class, Class::Tls);
    assert_eq!(outcome.reason, "the certificate is self-signed or its issuer is not trusted");
    sink.open_connections_become(0).await;
    assert_eq!((sink.connections(), sink.received().len()), (1, 0));
}

#[tokio::test]
async fn a_redirect_is_a_failure_and_leads_nowhere() {
    let (lab, there) = (Lab::new(), Sink::new().await);
    let to = there.url("/");
    for status in [301, 302, 303, 307, 308] {
        let to = to.clone();
        let sink = Sink::with(move |_| Answer::status(status).header("location", &to)).await;
        let outlet = lab.build(&destination_of(Profile::Segment, &[&sink.url("/")]));
        let outcome = outlet.send(&[message_with(1, "{}", CALLS[0])], now()).await;
        assert_eq!((outcome.class, outcome.status), (Class::Status, Some(status)));
    }
    assert_eq!(there.connections(), 0);
}

#[tokio::test]
async fn the_timeout_includes_the_body_of_the_answer() {
    let lab = Lab::new();
    for (profile, class) in [
        (Profile::Segment, Class::Timeout),
        (Profile::SegmentActions, Class::Timeout),
        (Profile::Standard, Class::Accepted),
    ] {
        let (address, _server) = unfinished().await;
        let mut destination = destination_of(profile, &[&format!("http://{address}/")]);
        destination.policy.timeout = Duration::from_millis(300);
        let outlet = lab.build(&destination);
        let outcome = outlet.send(&[message_with(1, "{}", CALLS[0])], now()).await;
        assert_eq!(outcome.class, class, "{profile:?}: {}", outcome.reason);
        assert!(outcome.duration >= Duration::from_millis(300));
    }
}

/// A server that promises ten bytes, sends three, and holds the connection.
async fn unfinished() -> (SocketAddr, JoinHandle<io::Result<()>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serve = async move {
        let (mut stream, _) = listener.accept().await?;
        let mut request = [0; 4096];
        // The request is small and comes in one piece, or at least begins.
        let _ = stream.read(&mut request).await?;
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc").await?;
        // Until the other side has had enough.
        while stream.read(&mut request).await? > 0 {}
        Ok(())
    };
    (address, tokio::spawn(serve))
}

/// A gateway with two webhooks of the profile `segment` in one destination.
async fn gateway_to(one: &Sink, other: &Sink) -> Gateway {
    let resources = format!(
        "version: 1\nproject: acme\nsources: [{{ name: app, kind: api }}]\n\
         destinations:\n  - {{ name: sink, kind: webhook, profile: segment, secret: shared, \
         urls: [\"{}\", \"{}\"] }}\n\
         pipelines:\n  - {{ name: all, on: [\"*\"], routes: [{{ to: sink }}] }}\n",
        one.url("/"),
        other.url("/")
    );
    Gateway::start(&resources, "").await
}

fn call() -> Value {
    json!({ "type": "track", "userId": "u1", "event": "Paid" })
}

/// "Segment retries requests that fail due to temporary errors like timeouts and 5xx status codes for
/// up to four hours."
#[tokio::test]
async fn all_failing_is_retried_as_a_group_for_four_hours() {
    let [one, other] = [Sink::answering(&[503]).await, Sink::answering(&[500]).await];
    let gateway = gateway_to(&one, &other).await;
    let start: Timestamp = gateway.now();

    let event = gateway.publish("track", call()).await;
    gateway.run_for(Duration::from_secs(3 * 60 * 60)).await;
    assert_eq!(gateway.states(event).await, ["retrying"]);
    gateway.run_for(Duration::from_secs(24 * 60 * 60)).await;

    assert_eq!(gateway.states(event).await, ["dead"]);
    let (one, other) = (one.received(), other.received());
    assert!(one.len() > 3 && one.len() == other.len(), "{} {}", one.len(), other.len());
    for request in one.iter().chain(&other) {
        assert_eq!(request.body, one[0].body);
        assert_eq!(request.header("x-signature"), sha1("shared", &request.body));
    }
    let delivery = gateway.deliveries().await.remove(0);
    let id = delivery["id"].as_str().unwrap();
    let log = gateway.get(&format!("/api/v1/deliveries/{id}")).await.body["log"].clone();
    let last: Timestamp =
        log.as_array().unwrap().last().unwrap()["at"].as_str().unwrap().parse().unwrap();
    let hours = last.duration_since(start).as_secs_f64() / 3600.0;
    assert!((3.0..=4.1).contains(&hours), "{hours}");
}

/// "If sending a message to any of the webhooks succeed, we consider the message to be successfully
/// processed and won't retry the request to the other webhooks."
#[tokio::test]
async fn one_success_ends_it_for_all() {
    let [one, other] = [Sink::answering(&[503]).await, Sink::answering(&[500, 200]).await];
    let gateway = gateway_to(&one, &other).await;
    let event = gateway.publish("track", call()).await;
    gateway.run_for(Duration::from_secs(24 * 60 * 60)).await;
    assert_eq!(gateway.states(event).await, ["delivered"]);
    assert_eq!((one.received().len(), other.received().len()), (2, 2));
}
