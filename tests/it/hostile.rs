//! Endpoints that misbehave: each attempt ends in time, in the right class, and frees its socket.

use std::{
    io::{Read as _, Write as _},
    sync::mpsc,
    time::Duration,
};

use tidegate::{
    destinations::DestinationClient as _,
    model::{Class, Outcome},
};
use tokio::net::TcpListener;

use crate::harness::{
    chaos::{Chaos, Step, write},
    outlet::{Lab, destination, message, message_with, now},
    sink::{Answer, Sink},
};

/// The deadline of an attempt here, and how late an attempt may end on a machine that is busy with
/// other tests. Those that are not meant to time out have much longer.
const DEADLINE: Duration = Duration::from_millis(300);
const LATE: Duration = Duration::from_millis(1_500);
const AMPLE: Duration = Duration::from_secs(20);

/// One attempt at an endpoint that plays the script, which must leave no socket behind.
async fn attempt(script: impl Into<Vec<Step>>, timeout: Duration) -> (Outcome, Chaos) {
    let chaos = Chaos::playing(script).await;
    let outcome = Lab::new().attempt(&chaos.url("/"), timeout).await;
    chaos.all_closed().await;
    assert!(outcome.duration < timeout + LATE, "{:?}", outcome.duration);
    (outcome, chaos)
}

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

#[tokio::test]
async fn an_endpoint_that_stalls_before_its_answer_times_out() {
    let drip = |text: &str| Step::Drip(text.as_bytes().to_vec(), Duration::from_millis(10));
    for (name, script) in [
        ("accepts and hangs", vec![Step::Hang]),
        ("reads and hangs", vec![Step::Read, Step::Hang]),
        ("drips a status line", vec![Step::Read, drip("HTTP/1.1 200 a long reason without end ")]),
        ("drips headers", vec![Step::Read, write("HTTP/1.1 200 OK\r\n"), drip("a: b\r\n")]),
        ("drips informational answers", vec![Step::Read, drip("HTTP/1.1 103 Early Hints\r\n\r\n")]),
    ] {
        let (outcome, _) = attempt(script, DEADLINE).await;
        assert_eq!(outcome.class, Class::Timeout, "{name}: {}", outcome.reason);
        assert!(outcome.duration >= DEADLINE, "{name}: {:?}", outcome.duration);
    }
}

#[tokio::test]
async fn an_endpoint_that_never_accepts_times_out() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let outcome = Lab::new().attempt(&url, DEADLINE).await;
    assert_eq!(outcome.class, Class::Timeout);
    assert!((DEADLINE..DEADLINE + LATE).contains(&outcome.duration), "{:?}", outcome.duration);
}

#[tokio::test]
async fn an_answer_without_measure_is_cut_off() {
    let mut many_headers = "HTTP/1.1 200 OK\r\n".to_owned();
    (0..10_000).for_each(|it| many_headers.push_str(&format!("x-{it}: 1\r\n")));
    let mut more_than_100 = "HTTP/1.1 200 OK\r\n".to_owned();
    (0..101).for_each(|it| more_than_100.push_str(&format!("x-{it}: 1\r\n")));
    for (name, script) in [
        ("10,000 headers", vec![write(many_headers + "\r\n"), Step::Hang]),
        ("101 headers", vec![write(more_than_100 + "\r\n"), Step::Hang]),
        (
            "a header of 1 MiB",
            vec![write("HTTP/1.1 200 OK\r\nx: "), write("x".repeat(1 << 20)), Step::Hang],
        ),
        ("an endless header", vec![write("HTTP/1.1 200 OK\r\nx: "), Step::Flood(vec![b'x'; 8192])]),
        (
            "endless informational answers",
            vec![Step::Flood(b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n".repeat(100))],
        ),
    ] {
        let (outcome, chaos) = attempt([vec![Step::Read], script].concat(), AMPLE).await;
        // What stands behind a status does not take it back; where there is none, nothing was answered.
        let has_status = !name.contains("informational");
        let expected = if has_status { Class::Accepted } else { Class::Broken };
        assert_eq!(outcome.class, expected, "{name}: {}", outcome.reason);
        assert!(outcome.duration < AMPLE, "{name}");
        // What was written above our limit sat in the buffers of two sockets.
        assert!(chaos.written() < 32 << 20, "{name}: {} bytes", chaos.written());
    }
}

#[tokio::test]
async fn a_body_without_measure_does_not_take_back_the_status_before_it() {
    let chunk = format!("2000\r\n{}\r\n", "x".repeat(0x2000));
    for (name, headers, rest) in [
        ("endless", "transfer-encoding: chunked", Step::Flood(chunk.into_bytes())),
        ("10 GiB", "content-length: 10737418240", Step::Flood(vec![b'x'; 8192])),
        ("until it closes", "x: y", Step::Flood(vec![b'x'; 8192])),
        (
            "chunk headers without end",
            "transfer-encoding: chunked",
            Step::Flood(b"1;extension=xxxxxxxxxxxxxxxxxxxxxxxxxx\r\nx\r\n".repeat(200)),
        ),
    ] {
        for (status, class) in [("200 OK", Class::Accepted), ("500 Oops", Class::Status)] {
            let head = format!("HTTP/1.1 {status}\r\n{headers}\r\n\r\n");
            let (outcome, chaos) = attempt([Step::Read, write(head), rest.clone()], AMPLE).await;
            assert_eq!(outcome.class, class, "{name}: {}", outcome.reason);
            assert!((1..=1024).contains(&outcome.response.unwrap().bytes().len()), "{name}");
            assert!(chaos.written() < 32 << 20, "{name}: {} bytes", chaos.written());
        }
    }
}

#[tokio::test]
async fn a_body_that_drips_or_breaks_off_ends_with_the_deadline_and_its_status() {
    let drip = Step::Drip(b"x".to_vec(), Duration::from_millis(10));
    let head = |status: &str| write(format!("HTTP/1.1 {status}\r\ncontent-length: 9999\r\n\r\n"));
    for (status, class) in [("200 OK", Class::Accepted), ("503 Oops", Class::Status)] {
        let (outcome, _) = attempt([Step::Read, head(status), drip.clone()], DEADLINE).await;
        assert_eq!(outcome.class, class);
        assert!(outcome.duration >= DEADLINE);
        assert!(outcome.response.is_some());

        let (outcome, _) = attempt([Step::Read, head(status), write("x")], AMPLE).await;
        assert_eq!(outcome.class, class);
        assert_eq!(outcome.response.unwrap().to_text(), "x");
    }
}

#[tokio::test]
async fn answers_that_are_not_http_are_broken() {
    for (name, script) in [
        ("closes at once", vec![]),
        ("closes after the request", vec![Step::Read]),
        ("resets at once", vec![Step::Reset]),
        ("resets after the request", vec![Step::Read, Step::Reset]),
        ("breaks off in the status line", vec![Step::Read, write("HTTP/1.1 20")]),
        ("breaks off in the headers", vec![Step::Read, write("HTTP/1.1 200 OK\r\na: b\r\n")]),
        ("junk", vec![Step::Read, write("hello, world\r\n\r\n"), Step::Hang]),
        ("HTTP/0.9", vec![Step::Read, write("<html>hello</html>\r\n"), Step::Hang]),
        ("HTTP/2", vec![Step::Read, write(b"\x00\x00\x12\x04\x00\x00\x00\x00\x00"), Step::Hang]),
        ("TLS", vec![Step::Read, write(b"\x15\x03\x01\x00\x02\x02\x46"), Step::Hang]),
    ] {
        let (outcome, _) = attempt(script, AMPLE).await;
        assert_eq!(outcome.class, Class::Broken, "{name}: {}", outcome.reason);
        assert_eq!(outcome.status, None, "{name}");
        assert!(outcome.duration < AMPLE, "{name}");
    }
}

#[tokio::test]
async fn every_status_is_taken_as_it_is() {
    for (head, class, status) in [
        ("HTTP/1.1 999 Whatever", Class::Status, 999),
        ("HTTP/1.0 200 OK", Class::Accepted, 200),
        (
            "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x",
            Class::Status,
            101,
        ),
        ("HTTP/1.1 204 No Content\r\ncontent-length: 5", Class::Accepted, 204),
        ("HTTP/1.1 205 Reset Content", Class::Accepted, 205),
        ("HTTP/1.1 299", Class::Accepted, 299),
        ("HTTP/1.1 410 Gone", Class::Gone, 410),
        ("HTTP/1.1 500 Oops\r\nwebhook-delivery: abort-message", Class::Abort, 500),
        ("HTTP/1.1 200 OK\r\ncontent-encoding: gzip", Class::Accepted, 200),
    ] {
        let answer = write(format!("{head}\r\n\r\nhello"));
        let (outcome, _) = attempt([Step::Read, answer], AMPLE).await;
        assert_eq!((outcome.class, outcome.status), (class, Some(status)), "{head}");
    }
}

#[tokio::test]
async fn redirects_are_failures_and_nobody_follows_them() {
    let lab = Lab::new();
    let canary = Sink::new().await;
    for status in [301, 302, 303, 307, 308] {
        for target in ["http://169.254.169.254/latest/meta-data/", "/loop", &canary.url("/")] {
            let target = target.to_owned();
            let sink =
                Sink::with(move |_| Answer::status(status).header("location", &target)).await;
            let outcome = lab.attempt(&sink.url("/"), AMPLE).await;
            assert_eq!((outcome.class, outcome.status), (Class::Status, Some(status)));
            assert!(outcome.reason.ends_with("redirects are not followed"), "{}", outcome.reason);
            assert_eq!(sink.received().len(), 1);
        }
    }
    assert_eq!(canary.connections(), 0);
}

#[tokio::test]
async fn a_kept_connection_that_was_closed_meanwhile_costs_no_attempt() {
    for end in [Step::Reset, write("")] {
        let first = vec![Step::Read, write(OK), Step::Await, end];
        let chaos = Chaos::playing_in_turn([first, vec![Step::Read, write(OK), Step::Hang]]).await;
        let outlet = Lab::new().build(&destination(&chaos.url("/")));

        assert_eq!(outlet.send(&[message(1)], now()).await.class, Class::Accepted);
        chaos.proceed();
        chaos.all_closed().await;

        assert_eq!(outlet.send(&[message(2)], now()).await.class, Class::Accepted);
        assert_eq!((chaos.connections(), chaos.requests()), (2, 2));
    }
}

/// One that was kept again and again is not asked about; what the runtime has heard is seen all the same.
#[tokio::test]
async fn a_connection_that_was_kept_before_may_be_closed_behind_any_answer() {
    let smuggled = format!("{OK}HTTP/1.1 500 Smuggled\r\ncontent-length: 0\r\n\r\n");
    for (last, end) in
        [(OK.to_owned(), Step::Reset), (OK.to_owned(), write("")), (smuggled, write(""))]
    {
        let answer = || [Step::Read, write(OK)];
        let kept = (0..3).flat_map(|_| answer());
        let first = kept.chain([Step::Read, write(last), Step::Await, end]).collect();
        let second = answer().into_iter().chain([Step::Hang]).collect();
        let chaos = Chaos::playing_in_turn([first, second]).await;
        let outlet = Lab::new().build(&destination(&chaos.url("/")));
        for number in 1..=4 {
            assert_eq!(outlet.send(&[message(number)], now()).await.class, Class::Accepted);
        }
        chaos.proceed();
        chaos.all_closed().await;
        // Whoever waits for another socket hears of this one as well.
        Lab::new().attempt(&Sink::new().await.url("/"), AMPLE).await;

        assert_eq!(outlet.send(&[message(5)], now()).await.class, Class::Accepted);
        assert_eq!((chaos.connections(), chaos.requests()), (2, 5));
    }
}

/// The runtime of this test gets no chance to hear of the close before the next attempt.
#[tokio::test]
async fn a_close_that_only_the_system_knows_of_is_seen() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let (closed, has_closed) = mpsc::channel();
    let (close, may_close) = mpsc::channel::<()>();
    let endpoint = std::thread::spawn(move || {
        for connection in listener.incoming().take(2) {
            let mut connection = connection.unwrap();
            let mut request = [0; 8192];
            assert!(connection.read(&mut request).unwrap() > 0);
            connection.write_all(OK.as_bytes()).unwrap();
            may_close.recv().unwrap();
            drop(connection);
            closed.send(()).unwrap();
        }
    });
    let outlet = Lab::new().build(&destination(&url));

    assert_eq!(outlet.send(&[message(1)], now()).await.class, Class::Accepted);
    close.send(()).unwrap();
    has_closed.recv().unwrap();
    assert_eq!(outlet.send(&[message(2)], now()).await.class, Class::Accepted);

    close.send(()).unwrap();
    endpoint.join().unwrap();
}

#[tokio::test]
async fn a_request_that_the_endpoint_has_seen_is_not_sent_again() {
    let script = [Step::Read, write(OK), Step::Read, Step::Reset];
    let chaos = Chaos::playing(script).await;
    let outlet = Lab::new().build(&destination(&chaos.url("/")));

    assert_eq!(outlet.send(&[message(1)], now()).await.class, Class::Accepted);
    assert_eq!(outlet.send(&[message(2)], now()).await.class, Class::Broken);
    assert_eq!((chaos.connections(), chaos.requests()), (1, 2));
}

#[tokio::test]
async fn an_answer_that_nobody_asked_for_is_not_taken_for_the_next_ones() {
    let smuggled = format!("{OK}HTTP/1.1 500 Smuggled\r\ncontent-length: 0\r\n\r\n");
    let chaos = Chaos::playing([Step::Read, write(smuggled), Step::Hang]).await;
    let outlet = Lab::new().build(&destination(&chaos.url("/")));
    for number in 1..=5 {
        assert_eq!(outlet.send(&[message(number)], now()).await.class, Class::Accepted);
    }
    assert_eq!((chaos.connections(), chaos.requests()), (5, 5));
}

#[tokio::test]
async fn an_endpoint_that_keeps_connections_briefly_is_believed() {
    let answer = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\nkeep-alive: timeout=1\r\n\r\n";
    let script = [Step::Read, write(answer), Step::Read, write(answer), Step::Hang];
    let chaos = Chaos::playing(script).await;
    let outlet = Lab::new().build(&destination(&chaos.url("/")));
    for number in 1..=3 {
        assert_eq!(outlet.send(&[message(number)], now()).await.class, Class::Accepted);
    }
    assert_eq!(chaos.connections(), 3);
}

#[tokio::test]
async fn an_answer_may_come_before_the_body_was_read() {
    let answer = "HTTP/1.1 413 Content Too Large\r\ncontent-length: 0\r\n\r\n";
    let chaos = Chaos::playing([write(answer), Step::Await]).await;
    let payload = format!("\"{}\"", "x".repeat(16 << 20));
    let outlet = Lab::new().build(&destination(&chaos.url("/")));

    let outcome = outlet.send(&[message_with(1, "{}", &payload)], now()).await;

    assert_eq!((outcome.class, outcome.status), (Class::Status, Some(413)));
    chaos.proceed();
    chaos.all_closed().await;
    // The rest of the body was never sent, so the connection cannot have been kept.
    outlet.send(&[message(2)], now()).await;
    assert_eq!(chaos.connections(), 2);
}

#[tokio::test]
async fn a_hundred_hanging_attempts_leave_nothing_behind() {
    let chaos = Chaos::playing([Step::Read, Step::Hang]).await;
    let lab = Lab::new();
    let mut destination = destination(&chaos.url("/"));
    destination.policy.timeout = DEADLINE;
    let outlet = std::sync::Arc::new(lab.build(&destination));
    let attempts: Vec<_> = (0..100)
        .map(|number| {
            let outlet = outlet.clone();
            tokio::spawn(async move { outlet.send(&[message(number)], now()).await })
        })
        .collect();
    for attempt in attempts {
        let outcome = attempt.await.unwrap();
        assert_eq!(outcome.class, Class::Timeout);
        assert!(outcome.duration < DEADLINE + LATE, "{:?}", outcome.duration);
    }
    chaos.all_closed().await;
}
