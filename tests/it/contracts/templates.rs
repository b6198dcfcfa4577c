//! URLs and headers that differ from event to event.

use tidegate::{
    destinations::{DestinationClient as _, Directory, webhook},
    model::{Class, Message, Method, Profile},
};

use crate::harness::{
    outlet::{Lab, destination_of, message_with, now, webhook_of},
    sink::Sink,
};

fn about(payload: &str) -> Message {
    message_with(1, r#"{"source":"app"}"#, payload)
}

#[tokio::test]
async fn url_and_headers_are_filled_in_for_each_message() {
    let (lab, sink) = (Lab::new(), Sink::new().await);
    let url = sink.url("/users/{{ payload.id }}?from={{ source }}&q={{ payload.q }}");
    let mut destination = destination_of(Profile::Customerio, &[&url]);
    let header = lab.header(&destination, "id={{ payload.id }}; {{ type }}");
    let webhook = webhook_of(&mut destination);
    webhook.headers.insert("X-User".to_owned(), header);
    webhook.contract.method = Method::Delete;
    let outlet = lab.build(&destination);

    outlet.send(&[about(r#"{"id":"a/b","q":"x&y=1#z"}"#)], now()).await;
    outlet.send(&[about(r#"{"id":7}"#)], now()).await;

    let [one, two] = &sink.received()[..] else { panic!() };
    assert_eq!((one.method.as_str(), two.method.as_str()), ("DELETE", "DELETE"));
    assert_eq!(one.path, "/users/a%2Fb?from=app&q=x%26y%3D1%23z");
    assert_eq!(one.header("x-user"), "id=a/b; user.signed_up");
    assert_eq!(two.path, "/users/7?from=app&q=");
    // Another path is no other host: one connection serves them all.
    assert_eq!((sink.connections(), one.header("host")), (1, sink.address().to_string().as_str()));
}

#[tokio::test]
async fn unfit_template_values_fail_one_message_only() {
    let (lab, sink) = (Lab::new(), Sink::new().await);
    let mut destination =
        destination_of(Profile::Customerio, &[&sink.url("/users/{{ payload.id }}/x")]);
    let header = lab.header(&destination, "{{ payload.name }}");
    webhook_of(&mut destination).headers.insert("X-Name".to_owned(), header);
    let outlet = lab.build(&destination);
    for (payload, reason) in [
        ("{}", "a template in the URL's path is empty for this event"),
        (r#"{"id":".."}"#, "a template makes the URL's path climb with `.` or `..`"),
        (
            r#"{"id":"1","name":"a\r\nx-admin: yes"}"#,
            "the header `x-name` would not be printable ASCII of at most 4096 bytes for this event",
        ),
        (
            r#"{"id":"1","name":"ü"}"#,
            "the header `x-name` would not be printable ASCII of at most 4096 bytes for this event",
        ),
    ] {
        let outcome = outlet.send(&[about(payload)], now()).await;
        assert_eq!((outcome.class, outcome.reason.as_str()), (Class::Config, reason), "{payload}");
    }
    assert_eq!(sink.connections(), 0);
    let outcome = outlet.send(&[about(r#"{"id":"1","name":"n"}"#)], now()).await;
    assert_eq!((outcome.class, sink.received().len()), (Class::Accepted, 1));
}

/// Whatever the payload holds, the request goes to the host that was written down.
#[tokio::test]
async fn no_value_leads_to_another_host_or_out_of_its_segment() {
    let (lab, sink) = (Lab::new(), Sink::new().await);
    let outlet =
        lab.build(&destination_of(Profile::Customerio, &[&sink.url("/a/{{ payload.id }}/z")]));
    let values = [
        "//evil.example.com",
        "@evil.example.com",
        "\\\\evil.example.com",
        "x\r\nHost: evil.example.com",
        "../../admin",
        "%2e%2e",
        "..;",
        "?x=1",
        "#",
        "\u{2028}",
        "☃",
    ];
    for value in values {
        let payload = serde_json::json!({ "id": value }).to_string();
        let outcome = outlet.send(&[about(&payload)], now()).await;
        assert_eq!(outcome.class, Class::Accepted, "{value}: {}", outcome.reason);
        let request = sink.received().pop().unwrap();
        let segments: Vec<_> = request.path.split('/').collect();
        assert_eq!((segments.len(), segments[1], segments[3]), (4, "a", "z"), "{}", request.path);
        assert_eq!(request.header("host"), sink.address().to_string());
    }
}

#[tokio::test]
async fn a_template_that_does_not_compile_says_so_on_each_attempt() {
    let (lab, sink) = (Lab::new(), Sink::new().await);
    let broken = destination_of(Profile::Customerio, &[&sink.url("/{{ nonsense }}")]);
    assert!(webhook::Webhook::new(&broken, &lab.vault, &lab.egress).is_err());
    let catalog = tokio::sync::watch::channel(Default::default()).1;
    let directory = Directory::new(catalog, lab.vault.clone(), lab.egress.clone());
    let outcome = directory.build(&broken).send(&[about("{}")], now()).await;
    assert_eq!(outcome.class, Class::Config);
    assert!(outcome.reason.starts_with("a URL's template is wrong"), "{}", outcome.reason);
}
