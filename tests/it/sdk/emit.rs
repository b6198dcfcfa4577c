//! Ten thousand events through a connection that fails in every way that there is, to a gateway that is
//! killed: each is kept once, in the order of the calls, and each promise says so.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioIo},
};
use serde_json::Value;
use socket2::SockRef;
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
};

use super::{World, command, output};

const EVENTS: usize = 10_000;
/// The posts that are on their way when the gateway is killed.
const KILLED_AT: [usize; 3] = [8, 20, 32];

/// What becomes of a post.
#[derive(Clone, Copy, PartialEq)]
enum Fate {
    Arrives,
    Refused(StatusCode),
    /// The connection is reset before the gateway hears of it.
    Reset,
    /// The gateway takes it, and the sender does not hear of that.
    AnswerReset,
    AnswerReplaced(StatusCode),
    /// The same, and the sender waits in vain.
    NoAnswer,
}

/// One after the other, again and again.
const FATES: [Fate; 10] = [
    Fate::Arrives,
    Fate::Refused(StatusCode::SERVICE_UNAVAILABLE),
    Fate::AnswerReset,
    Fate::Arrives,
    Fate::Reset,
    Fate::Refused(StatusCode::TOO_MANY_REQUESTS),
    Fate::Arrives,
    Fate::NoAnswer,
    Fate::Arrives,
    Fate::AnswerReplaced(StatusCode::GATEWAY_TIMEOUT),
];

/// The connection between the two.
struct Weather {
    gateway: watch::Receiver<Option<SocketAddr>>,
    posts: AtomicUsize,
    kill: mpsc::UnboundedSender<()>,
    client: Client<HttpConnector, Full<Bytes>>,
}

#[derive(Debug, thiserror::Error)]
#[error("the connection breaks")]
struct Broken;

async fn listen(weather: Arc<Weather>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            // Who is closed on finds a reset.
            SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
            let weather = weather.clone();
            let service = service_fn(move |request| forward(request, weather.clone()));
            let http = hyper::server::conn::http1::Builder::new();
            tokio::spawn(http.serve_connection(TokioIo::new(stream), service));
        }
    });
    url
}

async fn forward(
    request: Request<Incoming>,
    weather: Arc<Weather>,
) -> Result<Response<Full<Bytes>>, Broken> {
    let number = weather.posts.fetch_add(1, SeqCst);
    let fate = FATES[number % FATES.len()];
    let refuse = |status| {
        let response = Response::builder().status(status).header("retry-after", "0");
        Ok(response.body(Full::new("not today".into())).unwrap())
    };
    match fate {
        Fate::Refused(status) => return refuse(status),
        Fate::Reset => return Err(Broken),
        Fate::Arrives | Fate::AnswerReset | Fate::AnswerReplaced(_) | Fate::NoAnswer => (),
    }
    let Some(gateway) = *weather.gateway.borrow() else {
        return refuse(StatusCode::BAD_GATEWAY);
    };
    if KILLED_AT.contains(&number) {
        weather.kill.send(()).unwrap();
    }
    let (mut head, body) = request.into_parts();
    head.uri = format!("http://{gateway}{}", head.uri.path()).parse().unwrap();
    let body = Full::new(body.collect().await.map_err(|_| Broken)?.to_bytes());
    let answer = weather.client.request(Request::from_parts(head, body)).await;
    let (head, body) = answer.map_err(|_| Broken)?.into_parts();
    let body = body.collect().await.map_err(|_| Broken)?.to_bytes();
    match fate {
        Fate::AnswerReset => Err(Broken),
        Fate::AnswerReplaced(status) => refuse(status),
        Fate::NoAnswer => std::future::pending().await,
        Fate::Arrives | Fate::Refused(_) | Fate::Reset => {
            Ok(Response::from_parts(head, Full::new(body)))
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_events_are_kept_once_each_and_in_order_whatever_fails_between() {
    let mut world = World::start("").await;
    let (at, gateway) = watch::channel(Some(world.address()));
    let (kill, mut kills) = mpsc::unbounded_channel();
    let client = Client::builder(TokioExecutor::new()).build_http();
    let weather = Arc::new(Weather { gateway, posts: AtomicUsize::new(0), kill, client });
    let url = listen(weather.clone()).await;

    let program = command("node", &["run/emit.mjs", &EVENTS.to_string()], &url);
    let mut said = tokio::spawn(output(program));
    let mut killed = 0;
    let said = loop {
        tokio::select! {
            said = &mut said => break said.unwrap(),
            Some(()) = kills.recv() => {
                at.send_replace(None);
                world.restart().await;
                at.send_replace(Some(world.address()));
                killed += 1;
            }
        }
    };

    assert_eq!(killed, KILLED_AT.len());
    let posts = weather.posts.load(SeqCst);
    assert!(posts > 3 * FATES.len(), "{posts} posts");
    let kept = world.events().await;
    let numbers: Vec<_> = kept.iter().map(|it| it["payload"]["n"].as_u64().unwrap()).collect();
    assert!(numbers.iter().copied().eq(0..EVENTS as u64), "{} events: {numbers:?}", numbers.len());
    let mut receipts: Vec<Value> = serde_json::from_str(&said).unwrap();
    receipts.sort_by_key(|it| it["n"].as_u64());
    assert_eq!(receipts.len(), EVENTS);
    for (receipt, event) in receipts.iter().zip(&kept) {
        assert_eq!(receipt["id"], event["id"]);
        // That it took two tries made nothing a duplicate.
        assert_eq!(receipt["duplicate"], false);
    }
}
