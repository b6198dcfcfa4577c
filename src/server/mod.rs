//! The accept loop: connections with timers and a cap, which hyper leaves to us.
//!
//! `axum::serve` installs no timer, so that a client which sends half a header holds its connection
//! for ever. Nothing here is held for ever: each phase of a connection has a limit.

pub mod budget;
mod body;
mod connection;
mod limits;

use std::{
    future::Future,
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    task::Poll,
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    extract::ConnectInfo,
    http::{HeaderValue, Request, Version, header},
    response::Response,
};
use http_body_util::Either;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::{Deserialize, Serialize};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
};
use tower_service::Service as _;

pub use self::body::{AnswerBody, PacedBody};
use self::{
    body::ReportingBody,
    connection::{Phase, WatchedStream},
    limits::{Admission, ConnectionSlot, Slots},
};
use crate::problem::{Kind, Problem};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// From the first byte of a request (or from the connection's start) to the end of its header.
    #[serde(with = "humantime_serde")]
    pub header_timeout: Duration,
    /// How long a connection may stay open between two requests.
    #[serde(with = "humantime_serde")]
    pub idle_timeout: Duration,
    /// From the end of a request's header to the end of its body.
    #[serde(with = "humantime_serde")]
    pub body_timeout: Duration,
    /// A body that arrives more slowly than this, in bytes a second, is given up; the first 5 s are free.
    pub body_bytes_per_second: u32,
    /// How long a client may leave a response unread.
    #[serde(with = "humantime_serde")]
    pub write_timeout: Duration,
    /// Connections at once. Without it: about half of the files that the process may open. When there are
    /// more, the one that has been idle for the longest is closed for a new one.
    pub connections: Option<usize>,
    /// Connections at once from one address, unless that is this machine's or in `free_addresses`. Without it:
    /// half of all connections.
    pub connections_per_ip: Option<usize>,
    /// Addresses that stand for many callers, and have no limit of their own: those of trusted proxies.
    #[serde(skip)]
    pub free_addresses: Vec<IpAddr>,
    /// Bytes of a request's line and header, at least 8192. A request has at most 100 header fields.
    pub header_bytes: usize,
    /// Bytes of a request's path and query.
    pub url_bytes: usize,
    /// On a stop: how long requests that have begun may take to end.
    #[serde(with = "humantime_serde")]
    pub drain: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            header_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(75),
            body_timeout: Duration::from_secs(30),
            body_bytes_per_second: 1024,
            write_timeout: Duration::from_secs(30),
            connections: None,
            connections_per_ip: None,
            free_addresses: Vec::new(),
            header_bytes: 32 * 1024,
            url_bytes: 8 * 1024,
            drain: Duration::from_secs(15),
        }
    }
}

/// How far a stop has come, as connections see it.
#[derive(Clone, Copy, PartialEq)]
enum Stop {
    NotYet,
    /// Finish the request, and take no other.
    Drain,
    Now,
}

/// What answers requests.
pub trait Answers: Send + Sync + 'static {
    /// `peer` is at the other end of the connection.
    fn answer(
        &self,
        request: Request<PacedBody>,
        peer: SocketAddr,
    ) -> impl Future<Output = Response<AnswerBody>> + Send;
}

impl Answers for Router {
    /// The handlers find the peer in the extension `ConnectInfo<SocketAddr>`.
    async fn answer(&self, request: Request<PacedBody>, peer: SocketAddr) -> Response<AnswerBody> {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(ConnectInfo(peer));
        let Ok(response) = self.clone().call(request).await;
        response.map(Either::Right)
    }
}

/// What every connection shares.
struct Server<A> {
    answers: A,
    http: http1::Builder,
    options: Options,
}

/// Serves until `stop` ends; then takes no new connection, lets requests that have begun end
/// within [`Options::drain`], and cuts the others.
pub async fn serve<A: Answers>(
    listener: TcpListener,
    answers: A,
    options: Options,
    stop: impl Future<Output = ()> + Send,
) {
    /// hyper refuses to work with less.
    const LEAST_HEADER_BYTES: usize = 8192;
    let mut http = http1::Builder::new();
    // The timers of a header and of an idle connection are ours, see `connection.rs`: hyper has one
    // for both, which would be too long for the one or too short for the other.
    // Answers are small: one piece of memory costs less than two that the kernel gathers.
    http.timer(TokioTimer::new())
        .writev(false)
        .header_read_timeout(None)
        .max_buf_size(options.header_bytes.max(LEAST_HEADER_BYTES))
        .max_header_size(options.header_bytes);
    let slots =
        Slots::new(options.connections, options.connections_per_ip, &options.free_addresses);
    let server = Arc::new(Server { answers, http, options });
    let (stopping, stopped) = watch::channel(Stop::NotYet);

    let mut stop = std::pin::pin!(stop);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = &mut stop => break,
        };
        match accepted {
            Ok((stream, peer)) => match slots.admit(peer.ip()) {
                Admission::Admitted(slot) => {
                    tokio::spawn(server.clone().run(stream, peer, stopped.clone(), slot));
                }
                Admission::Soon(waiting) => {
                    let (server, stopped) = (server.clone(), stopped.clone());
                    tokio::spawn(async move {
                        match waiting.place().await {
                            Ok(slot) => server.run(stream, peer, stopped, slot).await,
                            Err(linger) => limits::refuse(stream, Some(linger)),
                        }
                    });
                }
                Admission::Refused(linger) => limits::refuse(stream, linger),
            },
            Err(error) => rest_after(&error).await,
        }
    }
    drop((listener, stopped));
    // Every connection holds a receiver: when the last is gone, so are they.
    stopping.send_replace(Stop::Drain);
    if tokio::time::timeout(server.options.drain, stopping.closed()).await.is_err() {
        stopping.send_replace(Stop::Now);
        stopping.closed().await;
    }
}

/// An error of `accept` concerns one connection, or says that there are no more files to open; then
/// asking again at once would only spin.
async fn rest_after(error: &io::Error) {
    const REST: Duration = Duration::from_millis(50);
    let is_about_one_connection = matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::Interrupted
    );
    if !is_about_one_connection {
        tracing::warn!(%error, "cannot accept connections for the moment");
        tokio::time::sleep(REST).await;
    }
}

impl<A: Answers> Server<A> {
    /// Serves one connection to its end.
    async fn run(
        self: Arc<Self>,
        stream: TcpStream,
        peer: SocketAddr,
        mut stop: watch::Receiver<Stop>,
        slot: ConnectionSlot,
    ) {
        // Without it, a small response may wait 40 ms for an acknowledgement of the one before.
        let _ = stream.set_nodelay(true);
        let phase = slot.phase.clone();
        let stream = WatchedStream::new(stream, phase.clone(), &self.options);
        let service = service_fn(|request| self.answer(request, peer, phase.clone()));
        let mut connection =
            std::pin::pin!(self.http.serve_connection(TokioIo::new(stream), service));
        let mut stopping = stop.clone();
        loop {
            let stop_now = *stop.borrow_and_update();
            match stop_now {
                Stop::NotYet => (),
                Stop::Drain => connection.as_mut().graceful_shutdown(),
                Stop::Now => return,
            }
            let mut changed = std::pin::pin!(stop.changed());
            let mut is_listening = false;
            // What has been polled once wakes this task, so the connection alone is polled until then.
            let ended = std::future::poll_fn(|context| {
                if let Poll::Ready(ended) = connection.as_mut().poll(context) {
                    return Poll::Ready(Some(ended));
                }
                if !is_listening || stopping.has_changed().unwrap_or(true) {
                    is_listening = true;
                    if phase.must_go(context) {
                        return Poll::Ready(Some(Ok(())));
                    }
                    // It fails when the accept loop is gone without a word: the process is ending.
                    return changed.as_mut().poll(context).map(|it| it.err().map(|_| Ok(())));
                }
                if phase.is_let_go() { Poll::Ready(Some(Ok(()))) } else { Poll::Pending }
            });
            match ended.await {
                None => stopping.mark_unchanged(),
                Some(Ok(())) => return,
                Some(Err(error)) => {
                    tracing::debug!(%peer, %error, "a connection broke");
                    return;
                }
            }
        }
    }

    async fn answer(
        &self,
        request: Request<Incoming>,
        peer: SocketAddr,
        phase: Phase,
    ) -> Result<Response<ReportingBody>, std::convert::Infallible> {
        let busy = phase.begin_request();
        let url_bytes = request.uri().path_and_query().map_or(0, |it| it.as_str().len());
        let refused = |problem| Response::from(problem).map(Either::Right);
        let mut response = if url_bytes > self.options.url_bytes {
            let detail = format!("a URL has at most {} bytes here", self.options.url_bytes);
            refused(Problem::new(Kind::UrlTooLong).detail(detail))
        } else if let Some(found) = without_host(&request) {
            let rule = "must be there once (RFC 9112 §3.2)";
            refused(Problem::invalid_field("header:host", rule, found))
        } else {
            let request = request.map(|body| PacedBody::new(body, &self.options));
            self.answers.answer(request, peer).await
        };
        // Whatever an answer holds, a browser takes it for what it says it is.
        const NOSNIFF: HeaderValue = HeaderValue::from_static("nosniff");
        response.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, NOSNIFF);
        Ok(response.map(|body| ReportingBody::new(body, busy)))
    }
}

/// What is wrong with the header `Host`: two hops that read two of them differently could be played off
/// against each other.
fn without_host(request: &Request<Incoming>) -> Option<&'static str> {
    let mut hosts = request.headers().get_all(header::HOST).iter();
    match (hosts.next(), hosts.next()) {
        (Some(_), None) => None,
        (Some(_), Some(_)) => Some("two"),
        (None, _) if request.version() < Version::HTTP_11 => None,
        (None, _) => Some("nothing"),
    }
}
