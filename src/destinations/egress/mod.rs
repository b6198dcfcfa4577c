//! The only way to addresses that users gave us.
//!
//! Every connection is judged where it is dialled ([`policy`]), by the address that is dialled, so
//! that no spelling, no name and no second answer of a resolver leads around the policy. There is
//! no proxy from the environment, no redirect is followed, and no body is decompressed.
//!
//! Each [`Endpoint`] has its own idle connections: destinations cannot take each other's, and a
//! destination that is changed or deleted closes what it had.

pub mod policy;
mod resolver;
mod tls;
mod stream;
mod dial;
mod database;
mod connection;
mod pool;

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, StatusCode, Uri, header};
use http_body_util::Full;
use rustls::ClientConfig;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use url::{Host, Position, Url};

use crate::model::{Class, EndpointUrl, Outcome, Snippet};
use connection::{Connection, Exchanged};
use dial::{HostPort, dial};
use policy::{AddressVerdict, Net, Policy, Reason};
use pool::{ConnectionPool, Counter};

pub use database::{BadDatabase, Database};
pub use resolver::{Resolver, SystemResolver};
pub use tls::TlsError;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// Networks that endpoints may be in although they are not public, such as `10.0.0.0/8`.
    pub allow_nets: Vec<Net>,
    /// Host names that may lead anywhere but to this gateway itself and to `deny_nets`.
    pub allow_hosts: Vec<String>,
    /// Networks that endpoints may not be in although they are public. Wins over what is allowed.
    pub deny_nets: Vec<Net>,
    /// A PEM file with certificate authorities to trust besides those that the machine trusts.
    pub extra_roots: Option<PathBuf>,
    /// How long a connection is kept for the next request to the same destination. An endpoint
    /// that says it keeps it for less is believed.
    #[serde(with = "humantime_serde")]
    pub idle_for: Duration,
    /// Idle connections of one destination.
    pub idle_per_destination: usize,
    /// Idle connections of all destinations together.
    pub idle_in_all: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            allow_nets: Vec::new(),
            allow_hosts: Vec::new(),
            deny_nets: Vec::new(),
            extra_roots: None,
            idle_for: Duration::from_secs(30),
            idle_per_destination: 64,
            idle_in_all: 2048,
        }
    }
}

/// What all endpoints share: the policy, the resolver, TLS.
#[derive(Clone)]
pub struct Egress {
    shared: Arc<Shared>,
}

struct Shared {
    policy: RwLock<Arc<Policy>>,
    resolver: Arc<dyn Resolver>,
    tls: Arc<ClientConfig>,
    idle_for: Duration,
    idle_per_destination: usize,
    idle: Arc<Counter>,
}

impl Shared {
    fn policy(&self) -> Arc<Policy> {
        self.policy.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Egress {
    pub fn new(options: Options, resolver: Arc<dyn Resolver>) -> Result<Self, TlsError> {
        let tls = tls::config(options.extra_roots.as_deref())?;
        let normal = |name: String| name.trim_end_matches('.').to_ascii_lowercase();
        let policy = Policy {
            allow_nets: options.allow_nets,
            allow_hosts: options.allow_hosts.into_iter().map(normal).collect(),
            deny_nets: options.deny_nets,
            own: Vec::new(),
        };
        let shared = Shared {
            policy: RwLock::new(Arc::new(policy)),
            resolver,
            tls,
            idle_for: options.idle_for,
            idle_per_destination: options.idle_per_destination,
            idle: Counter::new(options.idle_in_all),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Denies an address from now on because this process listens there.
    pub fn protect(&self, own: SocketAddr) {
        let mut policy = self.shared.policy.write().unwrap_or_else(PoisonError::into_inner);
        Arc::make_mut(&mut policy).own.push(own);
    }

    /// Whether the address that stands in the URL is refused, or its name as such; then the network that
    /// would have to be allowed, where one would do. A name may still lead to an address that is refused.
    pub fn refuses(&self, url: &Url) -> Option<RefusedUrl> {
        let policy = self.shared.policy();
        let port = url.port_or_known_default().unwrap_or_default();
        let judged = |ip: IpAddr, net: String| {
            let verdict = policy::judge(SocketAddr::new(ip, port), &policy);
            matches!(verdict, AddressVerdict::Denied(_)).then(|| RefusedUrl { allow: Some(net) })
        };
        match url.host()? {
            Host::Domain(name) => {
                let is_local = name == "localhost" || name.ends_with(".localhost");
                let allow = is_local.then(|| "127.0.0.0/8".to_owned());
                matches!(policy::judge_name(name, &policy), AddressVerdict::Denied(_))
                    .then_some(RefusedUrl { allow })
            }
            Host::Ipv4(ip) if ip.is_loopback() => judged(ip.into(), "127.0.0.0/8".to_owned()),
            Host::Ipv4(ip) => judged(ip.into(), format!("{ip}/32")),
            Host::Ipv6(ip) => judged(ip.into(), format!("{ip}/128")),
        }
    }

    /// Prepares what every request to the URL has in common. Nothing is dialled yet.
    pub fn endpoint(&self, url: &EndpointUrl) -> Result<Endpoint, BadUrl> {
        let url = url.as_url();
        let place = HostPort::of(url).ok_or(BadUrl)?;
        let target = target(url)?;
        let host = url[Position::BeforeHost..Position::AfterPort].parse().map_err(|_| BadUrl)?;
        let pool = ConnectionPool::new(self.shared.idle_per_destination, self.shared.idle.clone());
        Ok(Endpoint { shared: self.shared.clone(), place, target, host, pool })
    }
}

/// A URL that is refused before anything is looked up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedUrl {
    /// What `--allow-net` would have to say.
    pub allow: Option<String>,
}

/// The path and query of a URL.
fn target(url: &Url) -> Result<Uri, BadUrl> {
    url[Position::BeforePath..Position::AfterQuery].parse().map_err(|_| BadUrl)
}

/// The URL has a host or a path that HTTP cannot carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the URL has a host or a path that HTTP cannot carry")]
pub struct BadUrl;

/// One URL, and the idle connections to it.
pub struct Endpoint {
    shared: Arc<Shared>,
    place: HostPort,
    target: Uri,
    host: HeaderValue,
    pool: Arc<ConnectionPool>,
}

impl Endpoint {
    /// Sends one request, once, and ends by the deadline. `headers` need no `Host`.
    ///
    /// A kept connection may turn out to be closed. Where that shows before a byte of the request
    /// was handed to it, another connection is used: the endpoint has seen nothing, so it is still
    /// one attempt. Where it shows later, the endpoint may have seen the request, and it fails.
    ///
    /// The status decides what an answer means: a body that is longer than 64 KiB, breaks off, or
    /// drips until the deadline does not take back the status before it. Only its beginning is kept.
    pub async fn send(
        &self,
        method: http::Method,
        headers: HeaderMap,
        body: Bytes,
        deadline: Instant,
    ) -> Result<EndpointAnswer, EgressFailure> {
        self.send_to(self.target.clone(), method, headers, body, deadline).await
    }

    /// The path and query of another URL, for [`Self::send_to`]. Of its host nothing is taken.
    pub fn target(&self, url: &EndpointUrl) -> Result<Uri, BadUrl> {
        target(url.as_url())
    }

    /// The same as [`Self::send`], to another path of the same host.
    pub async fn send_to(
        &self,
        target: Uri,
        method: http::Method,
        headers: HeaderMap,
        body: Bytes,
        deadline: Instant,
    ) -> Result<EndpointAnswer, EgressFailure> {
        let request = self.prepare(Some(target), method, headers, body).map(Full::new);
        self.exchange(request, deadline, Snippet::LIMIT).await
    }

    /// The request that [`Self::send_to`] sends, or [`Self::send`] where there is no target. The
    /// connection adds its length.
    pub fn prepare(
        &self,
        target: Option<Uri>,
        method: http::Method,
        headers: HeaderMap,
        body: Bytes,
    ) -> Request<Bytes> {
        let mut request = Request::new(body);
        *request.method_mut() = method;
        *request.uri_mut() = target.unwrap_or_else(|| self.target.clone());
        *request.headers_mut() = headers;
        request.headers_mut().insert(header::HOST, self.host.clone());
        request
    }

    /// Reads what stands at a path of the same place, once, and ends by the deadline. The answer's
    /// body is kept whole, as long as it is no longer than 64 KiB.
    pub async fn get(
        &self,
        target: Uri,
        headers: HeaderMap,
        deadline: Instant,
    ) -> Result<EndpointAnswer, EgressFailure> {
        let mut request = Request::new(Full::new(Bytes::new()));
        *request.uri_mut() = target;
        *request.headers_mut() = headers;
        request.headers_mut().insert(header::HOST, self.host.clone());
        self.exchange(request, deadline, connection::BODY_LIMIT).await
    }

    async fn exchange(
        &self,
        mut request: Request<Full<Bytes>>,
        deadline: Instant,
        keep: usize,
    ) -> Result<EndpointAnswer, EgressFailure> {
        let idle_for = self.shared.idle_for;
        while let Some(mut connection) = self.pool.take() {
            match connection.exchange(request, deadline, idle_for, keep).await {
                Exchanged::Unsent(unsent) => request = unsent,
                Exchanged::Failed(failure) => return Err(failure),
                Exchanged::Answered(answer, is_reusable) => {
                    return Ok(self.finish(connection, answer, is_reusable));
                }
            }
        }
        let stream = dial(&self.place, &self.shared, deadline).await?;
        let mut connection = Box::new(Connection::new(stream, idle_for).await?);
        match connection.exchange(request, deadline, idle_for, keep).await {
            Exchanged::Unsent(_) => Err(EgressFailure::Broken("the connection closed at once")),
            Exchanged::Failed(failure) => Err(failure),
            Exchanged::Answered(answer, is_reusable) => {
                Ok(self.finish(connection, answer, is_reusable))
            }
        }
    }

    fn finish(
        &self,
        connection: Box<Connection>,
        answer: EndpointAnswer,
        is_reusable: bool,
    ) -> EndpointAnswer {
        if is_reusable {
            self.pool.put(connection);
        }
        answer
    }
}

/// What an endpoint answered.
#[derive(Clone, Debug)]
pub struct EndpointAnswer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    /// Its beginning: at most [`Snippet::LIMIT`] bytes, where nothing else was asked for.
    pub body: Bytes,
    /// The deadline passed before the body had ended.
    pub is_late: bool,
}

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EgressFailure {
    Denied(Reason),
    Dns(&'static str),
    Connect(&'static str),
    Tls(&'static str),
    /// The endpoint may have seen the request.
    Broken(&'static str),
    Timeout(Phase),
}

/// What was under way when the deadline passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    Lookup,
    Connect,
    Handshake,
    /// The request was being sent or the answer awaited.
    Answer,
}

impl EgressFailure {
    /// The outcome of an attempt that failed in this way, after `duration`.
    pub fn outcome(&self, duration: Duration) -> Outcome {
        Outcome {
            class: self.class(),
            status: None,
            reason: self.reason(),
            retry_after: None,
            duration,
            response: None,
        }
    }

    pub fn class(&self) -> Class {
        match self {
            Self::Denied(_) => Class::Denied,
            Self::Dns(_) => Class::Dns,
            Self::Connect(_) => Class::Connect,
            Self::Tls(_) => Class::Tls,
            Self::Broken(_) => Class::Broken,
            Self::Timeout(_) => Class::Timeout,
        }
    }

    /// For people; holds no address, path or secret.
    pub fn reason(&self) -> String {
        match self {
            // Which network a name leads into, or whether it leads to this gateway, is for the operator. That a
            // name is internal is said by the name itself.
            Self::Denied(reason) => {
                let why = match *reason == Reason::InternalName {
                    true => reason.as_str(),
                    false => "it is none that this gateway may speak to; see its log",
                };
                format!("the endpoint's address is not allowed: {why}")
            }
            Self::Dns(why) | Self::Connect(why) | Self::Tls(why) | Self::Broken(why) => {
                (*why).to_owned()
            }
            Self::Timeout(Phase::Lookup) => "timed out looking up the host name".to_owned(),
            Self::Timeout(Phase::Connect) => "timed out connecting".to_owned(),
            Self::Timeout(Phase::Handshake) => "timed out in the TLS handshake".to_owned(),
            Self::Timeout(Phase::Answer) => "timed out waiting for the answer".to_owned(),
        }
    }
}
