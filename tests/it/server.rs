//! The accept loop: what it does to clients that are slow, large, many, or in the way of a stop.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{Router, body::Body, extract::ConnectInfo, routing};
use http_body_util::BodyExt as _;
use tidegate::server::{self, Options};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::{Notify, oneshot},
    task::JoinHandle,
};

struct Served {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    ended: JoinHandle<()>,
}

async fn serve(router: Router, options: Options) -> Served {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let ended = tokio::spawn(async move {
        let stopped = async { drop(stopped.await) };
        server::serve(listener, router, options, stopped).await;
    });
    Served { address, stop: Some(stop), ended }
}

impl Served {
    #[allow(clippy::disallowed_methods, reason = "a client on loopback, not a destination")]
    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }
}

/// Reads until the server closes. The time limit only ends a test that has failed.
async fn read_to_end(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    let read = stream.read_to_end(&mut bytes);
    let _ = tokio::time::timeout(Duration::from_secs(20), read).await.expect("it stays open");
    String::from_utf8(bytes).unwrap()
}

async fn read_until(stream: &mut TcpStream, text: &str) -> String {
    let mut bytes = Vec::new();
    while !String::from_utf8_lossy(&bytes).contains(text) {
        let read = stream.read_buf(&mut bytes);
        let read = tokio::time::timeout(Duration::from_secs(20), read).await.expect("nothing came");
        assert!(read.unwrap() > 0, "closed after {:?}", String::from_utf8_lossy(&bytes));
    }
    String::from_utf8(bytes).unwrap()
}

fn hello() -> Router {
    Router::new().route("/", routing::get(|| async { "hello" }).post(count))
}

/// Answers with the length of the body, or with what went wrong.
async fn count(body: Body) -> String {
    match body.collect().await {
        Ok(body) => format!("{} bytes", body.to_bytes().len()),
        Err(error) => format!("failed: {:?}", std::error::Error::source(&error)),
    }
}

fn short(timeout: u64) -> Duration {
    Duration::from_millis(timeout)
}

#[tokio::test]
async fn a_half_sent_header_closes_the_connection() {
    let options = Options { header_timeout: short(200), ..Options::default() };
    let served = serve(hello(), options).await;
    for beginning in ["", "GET / HT", "GET / HTTP/1.1\r\nhost: a\r\n"] {
        let mut stream = served.connect().await;
        let begun = Instant::now();
        stream.write_all(beginning.as_bytes()).await.unwrap();
        assert_eq!(read_to_end(&mut stream).await, "");
        assert!(begun.elapsed() >= short(190), "{beginning:?}");
    }
}

#[tokio::test]
async fn a_header_that_drips_does_not_buy_time() {
    let options = Options { header_timeout: short(300), ..Options::default() };
    let served = serve(hello(), options).await;
    let stream = served.connect().await;
    let (mut reads, mut writes) = stream.into_split();
    let drips = tokio::spawn(async move {
        while writes.write_all(b"x").await.is_ok() {
            tokio::time::sleep(short(20)).await;
        }
    });
    let mut rest = Vec::new();
    let read = reads.read_to_end(&mut rest);
    let _ = tokio::time::timeout(Duration::from_secs(20), read).await.expect("it stays open");
    drips.await.unwrap();
}

#[tokio::test]
async fn an_idle_connection_lives_longer_than_a_header_and_then_ends() {
    let options =
        Options { header_timeout: short(100), idle_timeout: short(600), ..Options::default() };
    let served = serve(hello(), options).await;
    let mut stream = served.connect().await;
    for _ in 0..2 {
        stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
        read_until(&mut stream, "hello").await;
        // Longer than a header may take: between requests, another limit holds.
        tokio::time::sleep(short(300)).await;
    }
    let begun = Instant::now();
    assert_eq!(read_to_end(&mut stream).await, "");
    assert!(begun.elapsed() >= short(200));

    // The second header of a connection has a timer like the first.
    let mut stream = served.connect().await;
    stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    read_until(&mut stream, "hello").await;
    let begun = Instant::now();
    stream.write_all(b"GET / HT").await.unwrap();
    assert_eq!(read_to_end(&mut stream).await, "");
    assert!(begun.elapsed() < short(500), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_body_that_stalls_fails_and_one_that_flows_does_not() {
    let options = Options { body_timeout: short(300), ..Options::default() };
    let served = serve(hello(), options).await;
    let head = "POST / HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: 4\r\n\r\n";

    let mut stream = served.connect().await;
    stream.write_all(format!("{head}ab").as_bytes()).await.unwrap();
    let answer = read_to_end(&mut stream).await;
    assert!(answer.contains("TimedOut"), "{answer}");

    let mut stream = served.connect().await;
    stream.write_all(format!("{head}ab").as_bytes()).await.unwrap();
    stream.write_all(b"cd").await.unwrap();
    let answer = read_to_end(&mut stream).await;
    assert!(answer.ends_with("4 bytes"), "{answer}");
}

#[tokio::test]
async fn headers_and_urls_have_a_size() {
    let served = serve(hello(), Options::default()).await;
    let many: String = (0..101).map(|number| format!("x-{number}: 1\r\n")).collect();
    for (request, status) in [
        (format!("GET /?{} HTTP/1.1\r\nhost: a\r\n", "q".repeat(8190)), "HTTP/1.1 200"),
        (format!("GET /?{} HTTP/1.1\r\nhost: a\r\n", "q".repeat(8191)), "HTTP/1.1 414"),
        (format!("GET / HTTP/1.1\r\nhost: a\r\n{many}"), "HTTP/1.1 431"),
        (format!("GET / HTTP/1.1\r\nhost: a\r\nx: {}\r\n", "y".repeat(31_000)), "HTTP/1.1 200"),
        (format!("GET / HTTP/1.1\r\nhost: a\r\nx: {}\r\n", "y".repeat(40_000)), "HTTP/1.1 431"),
    ] {
        let mut stream = served.connect().await;
        let request = format!("{request}connection: close\r\n\r\n");
        // The server may close before it has read everything.
        let _ = stream.write_all(request.as_bytes()).await;
        let answer = read_until(&mut stream, "\r\n").await;
        assert!(answer.starts_with(status), "{answer}");
    }
}

#[tokio::test]
async fn a_connection_too_many_is_told_to_come_back() {
    for options in [
        Options { connections: Some(2), ..Options::default() },
        Options { connections_per_ip: Some(2), ..Options::default() },
    ] {
        let served = serve(hello(), options).await;
        let mut first = served.connect().await;
        let mut second = served.connect().await;
        for stream in [&mut first, &mut second] {
            stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
            read_until(stream, "hello").await;
        }

        let mut third = served.connect().await;
        let _ = third.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
        let answer = read_to_end(&mut third).await;
        assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
        assert!(answer.contains("retry-after: 1") && answer.contains("too-many-connections"));

        // The place of one that leaves is free again, once the server has seen it leave.
        drop(first);
        loop {
            let mut next = served.connect().await;
            let _ = next.write_all(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await;
            if read_to_end(&mut next).await.ends_with("hello") {
                break;
            }
        }
    }
}

#[tokio::test]
async fn a_stop_lets_a_request_end_and_takes_no_other() {
    let (begun, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (begins, waits) = (begun.clone(), go_on.clone());
    let slow = move || async move {
        begins.notify_one();
        waits.notified().await;
        "done"
    };
    let mut served = serve(Router::new().route("/", routing::get(slow)), Options::default()).await;
    let mut idle = served.connect().await;
    let mut stream = served.connect().await;
    stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    begun.notified().await;

    served.stop.take().unwrap().send(()).unwrap();
    assert_eq!(read_to_end(&mut idle).await, "");
    #[allow(clippy::disallowed_methods, reason = "a client on loopback, not a destination")]
    let refused = TcpStream::connect(served.address).await;
    assert!(refused.is_err());
    assert!(!served.ended.is_finished());

    go_on.notify_one();
    let answer = read_to_end(&mut stream).await;
    assert!(answer.ends_with("done") && answer.contains("connection: close"), "{answer}");
    served.ended.await.unwrap();
}

#[tokio::test]
async fn a_stop_cuts_what_does_not_end() {
    let never = || std::future::pending::<&str>();
    let router = Router::new().route("/", routing::get(never));
    let mut served = serve(router, Options { drain: short(200), ..Options::default() }).await;
    let mut stream = served.connect().await;
    stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    served.stop.take().unwrap().send(()).unwrap();
    assert_eq!(read_to_end(&mut stream).await, "");
    served.ended.await.unwrap();
}

#[tokio::test]
async fn a_client_that_does_not_read_is_left() {
    let body = "x".repeat(64 * 1024 * 1024);
    let router = Router::new().route("/", routing::get(move || async move { body }));
    let options = Options { write_timeout: short(200), connections: Some(1), ..Options::default() };
    let served = serve(router, options).await;
    let mut stream = served.connect().await;
    stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    read_until(&mut stream, "HTTP/1.1 200").await;
    // Its place becomes free although it neither reads nor leaves.
    loop {
        let mut next = served.connect().await;
        let _ = next.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
        if read_until(&mut next, "\r\n").await.starts_with("HTTP/1.1 200") {
            break;
        }
    }
}

#[tokio::test]
async fn handlers_know_the_callers_address() {
    let whoami = |ConnectInfo(peer): ConnectInfo<SocketAddr>| async move { peer.to_string() };
    let served = serve(Router::new().route("/", routing::get(whoami)), Options::default()).await;
    let mut stream = served.connect().await;
    stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await.unwrap();
    let answer = read_to_end(&mut stream).await;
    assert!(answer.ends_with(&stream.local_addr().unwrap().to_string()), "{answer}");
}
