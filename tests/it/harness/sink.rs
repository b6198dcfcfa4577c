//! A real HTTP/1.1 endpoint on loopback that records what it receives and answers by a script.

use std::{
    convert::Infallible,
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
    task::JoinSet,
};
use tokio_rustls::{TlsAcceptor, rustls::ServerConfig};

use super::until;

/// Listens from the moment it is made; when it is dropped, its connections close.
pub struct Sink {
    address: SocketAddr,
    is_tls: bool,
    state: Arc<State>,
    _tasks: JoinSet<()>,
}

/// A request as it arrived.
#[derive(Clone, Debug)]
pub struct Received {
    /// Counts from 0 in the order of arrival.
    pub number: usize,
    /// Which connection it came on, from 0.
    pub connection: usize,
    pub method: Method,
    /// With its query.
    pub path: String,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Received {
    /// The header's value, or an empty text.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |it| it.to_str().unwrap())
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

/// What to answer.
#[derive(Clone, Debug)]
pub struct Answer {
    status: u16,
    headers: HeaderMap,
    body: Bytes,
}

impl Answer {
    pub fn status(status: u16) -> Self {
        Self { status, headers: HeaderMap::new(), body: Bytes::new() }
    }

    pub fn header(mut self, name: &str, value: &str) -> Self {
        let name: HeaderName = name.parse().unwrap();
        self.headers.append(name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        self
    }

    pub fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self
    }
}

type Script = dyn Fn(&Received) -> Answer + Send + Sync;

struct State {
    script: Box<Script>,
    /// Each answer takes one; without a hold there are more than enough.
    leave: Semaphore,
    received: Mutex<Vec<Received>>,
    accepted: AtomicUsize,
    open: AtomicUsize,
    /// Moves whenever something of the above does.
    changed: watch::Sender<u64>,
}

impl State {
    fn change(&self) {
        self.changed.send_modify(|it| *it += 1);
    }
}

impl Sink {
    /// Answers 200.
    pub async fn new() -> Self {
        Self::answering(&[200]).await
    }

    /// Answers with these statuses, one after the other, and goes on with the last.
    pub async fn answering(statuses: &[u16]) -> Self {
        let statuses = statuses.to_vec();
        let last = *statuses.last().expect("at least one status");
        Self::with(move |it| Answer::status(*statuses.get(it.number).unwrap_or(&last))).await
    }

    /// Answers as the function says.
    pub async fn with(script: impl Fn(&Received) -> Answer + Send + Sync + 'static) -> Self {
        let state = State::new(script, Semaphore::MAX_PERMITS);
        Self::start(None, state).await
    }

    /// Records requests and keeps their answers back until [`Self::release`].
    pub async fn holding(script: impl Fn(&Received) -> Answer + Send + Sync + 'static) -> Self {
        Self::start(None, State::new(script, 0)).await
    }

    /// Listens on this address, where that is free.
    pub async fn at(
        address: SocketAddr,
        script: impl Fn(&Received) -> Answer + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        Ok(Self::serving(listener, None, State::new(script, Semaphore::MAX_PERMITS)))
    }

    /// Answers 200 under TLS.
    pub async fn over_tls(tls: ServerConfig) -> Self {
        let state = State::new(|_| Answer::status(200), Semaphore::MAX_PERMITS);
        Self::start(Some(TlsAcceptor::from(Arc::new(tls))), state).await
    }

    async fn start(tls: Option<TlsAcceptor>, state: State) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self::serving(listener, tls, state)
    }

    fn serving(listener: TcpListener, tls: Option<TlsAcceptor>, state: State) -> Self {
        let address = listener.local_addr().unwrap();
        let state = Arc::new(state);
        let mut tasks = JoinSet::new();
        let is_tls = tls.is_some();
        tasks.spawn(accept(listener, tls, state.clone()));
        Self { address, is_tls, state, _tasks: tasks }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The URL of a path, which starts with `/`.
    pub fn url(&self, path: &str) -> String {
        let scheme = if self.is_tls { "https" } else { "http" };
        format!("{scheme}://{}{path}", self.address)
    }

    /// What has arrived so far, in order.
    pub fn received(&self) -> Vec<Received> {
        self.state.received.lock().unwrap().clone()
    }

    /// Waits until this many have arrived, and returns all that have.
    pub async fn received_at_least(&self, count: usize) -> Vec<Received> {
        let arrived = || self.state.received.lock().unwrap().len();
        let what = format!("{count} requests");
        until(self.state.changed.subscribe(), &what, || arrived() >= count).await;
        self.received()
    }

    /// Lets this many more answers out of a sink that holds them.
    pub fn release(&self, count: usize) {
        self.state.leave.add_permits(count);
    }

    /// Connections that were made so far.
    pub fn connections(&self) -> usize {
        self.state.accepted.load(SeqCst)
    }

    /// Connections that are open now.
    pub fn open_connections(&self) -> usize {
        self.state.open.load(SeqCst)
    }

    pub async fn open_connections_become(&self, count: usize) {
        let what = format!("{count} open connections");
        until(self.state.changed.subscribe(), &what, || self.open_connections() == count).await;
    }
}

impl State {
    fn new(script: impl Fn(&Received) -> Answer + Send + Sync + 'static, leave: usize) -> Self {
        Self {
            script: Box::new(script),
            leave: Semaphore::new(leave),
            received: Mutex::default(),
            accepted: AtomicUsize::new(0),
            open: AtomicUsize::new(0),
            changed: watch::Sender::new(0),
        }
    }
}

async fn accept(listener: TcpListener, tls: Option<TlsAcceptor>, state: Arc<State>) {
    let mut connections = JoinSet::new();
    loop {
        let (socket, _) = tokio::select! {
            accepted = listener.accept() => accepted.unwrap(),
            Some(_) = connections.join_next() => continue,
        };
        socket.set_nodelay(true).unwrap();
        let number = state.accepted.fetch_add(1, SeqCst);
        state.open.fetch_add(1, SeqCst);
        state.change();
        connections.spawn(connection(socket, tls.clone(), number, state.clone()));
    }
}

async fn connection(socket: TcpStream, tls: Option<TlsAcceptor>, number: usize, state: Arc<State>) {
    match tls {
        None => serve(socket, number, &state).await,
        // A client that does not like the certificate goes away here.
        Some(tls) => {
            if let Ok(stream) = tls.accept(socket).await {
                serve(stream, number, &state).await;
            }
        }
    }
    state.open.fetch_sub(1, SeqCst);
    state.change();
}

async fn serve(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    number: usize,
    state: &Arc<State>,
) {
    let service = service_fn(|request| answer(request, number, state.clone()));
    // A client that goes away is none of the sink's business.
    http1::Builder::new().serve_connection(TokioIo::new(stream), service).await.ok();
}

async fn answer(
    request: Request<Incoming>,
    connection: usize,
    state: Arc<State>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let Ok(body) = body.collect().await else {
        return Ok(Response::builder().status(400).body(Full::default()).unwrap());
    };
    let received = {
        let mut all = state.received.lock().unwrap();
        let request = Received {
            number: all.len(),
            connection,
            method: head.method,
            path: head.uri.to_string(),
            headers: head.headers,
            body: body.to_bytes(),
        };
        all.push(request.clone());
        request
    };
    state.change();
    if state.leave.available_permits() < Semaphore::MAX_PERMITS {
        state.leave.acquire().await.unwrap().forget();
    }
    let Answer { status, headers, body } = (state.script)(&received);
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status.try_into().unwrap();
    *response.headers_mut() = headers;
    Ok(response)
}
