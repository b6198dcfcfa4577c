//! From a URL's host to a connected stream: look up, judge, dial what was judged, shake hands.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use futures_util::{StreamExt as _, stream::FuturesUnordered};
use rustls_pki_types::ServerName;
use tokio::{
    net::TcpStream,
    sync::Semaphore,
    time::{Instant, timeout_at},
};
use tokio_rustls::TlsConnector;
use url::{Host, Url};

use super::{
    EgressFailure, Phase, Shared,
    policy::{AddressVerdict, Policy, Reason, judge, judge_name},
    stream::Stream,
    tls,
};

/// Where an endpoint is, as its URL says it.
pub(super) struct HostPort {
    host: Host<String>,
    port: u16,
    /// Whom the certificate must name. `None`: no TLS.
    server: Option<ServerName<'static>>,
    /// A name whose servers do not answer holds threads of the resolver, of which all have few.
    lookups: Semaphore,
}

/// Look-ups of one place at once.
const MOST_LOOKUPS: usize = 4;

impl HostPort {
    /// `None` when the URL has no host that can be dialled.
    pub fn of(url: &Url) -> Option<Self> {
        let host = match url.host()? {
            // The final dot of an absolute name is for the resolver only; certificates lack it.
            Host::Domain(name) => Host::Domain(name.strip_suffix('.').unwrap_or(name).to_owned()),
            Host::Ipv4(ip) => Host::Ipv4(ip),
            Host::Ipv6(ip) => Host::Ipv6(ip),
        };
        let server = match (url.scheme(), &host) {
            ("https", Host::Domain(name)) => Some(ServerName::try_from(name.clone()).ok()?),
            ("https", Host::Ipv4(ip)) => Some(ServerName::from(IpAddr::V4(*ip))),
            ("https", Host::Ipv6(ip)) => Some(ServerName::from(IpAddr::V6(*ip))),
            _ => None,
        };
        let port = url.port_or_known_default()?;
        Some(Self { host, port, server, lookups: Semaphore::new(MOST_LOOKUPS) })
    }

    /// Without TLS of its own. `None` when this is no host that can be dialled.
    pub fn bare(host: &str, port: u16) -> Option<Self> {
        // A database's URL is taken apart by its client, which leaves an address without its brackets.
        let address = host.parse().map(Host::Ipv6);
        let host = match address.or_else(|_| Host::parse(host)).ok()? {
            Host::Domain(name) => Host::Domain(name.strip_suffix('.').unwrap_or(&name).to_owned()),
            address => address,
        };
        Some(Self { host, port, server: None, lookups: Semaphore::new(MOST_LOOKUPS) })
    }
}

/// Opens a connection, under TLS where the place wants it. Nothing of a request is sent here.
pub(super) async fn dial(
    place: &HostPort,
    shared: &Shared,
    deadline: Instant,
) -> Result<Stream, EgressFailure> {
    let socket = open(place, shared, deadline).await?;
    let Some(server) = &place.server else { return Ok(Stream::Plain(socket)) };
    let connector = TlsConnector::from(Arc::clone(&shared.tls));
    let stream = timeout_at(deadline, connector.connect(server.clone(), socket))
        .await
        .map_err(|_| EgressFailure::Timeout(Phase::Handshake))?
        .map_err(|error| EgressFailure::Tls(tls::describe(&error)))?;
    Ok(Stream::Tls(Box::new(stream)))
}

/// Opens a bare socket to an address that was judged.
pub(super) async fn open(
    place: &HostPort,
    shared: &Shared,
    deadline: Instant,
) -> Result<TcpStream, EgressFailure> {
    let policy = shared.policy();
    let addresses = timeout_at(deadline, find(place, shared, &policy))
        .await
        .map_err(|_| EgressFailure::Timeout(Phase::Lookup))??;
    let socket = timeout_at(deadline, connect_first(&addresses))
        .await
        .map_err(|_| EgressFailure::Timeout(Phase::Connect))?
        .map_err(|error| EgressFailure::Connect(describe(&error)))?;
    if is_own(&socket, &policy) {
        return Err(denied(place, Reason::OwnListener));
    }
    // Requests are written whole, so waiting for more to send would only add delay.
    socket.set_nodelay(true).ok();
    metrics::counter!("tidegate_egress_connections_total").increment(1);
    Ok(socket)
}

/// The addresses to dial, every one of them judged.
async fn find(
    place: &HostPort,
    shared: &Shared,
    policy: &Policy,
) -> Result<Vec<SocketAddr>, EgressFailure> {
    let (addresses, is_trusted) = match &place.host {
        Host::Ipv4(ip) => (vec![IpAddr::V4(*ip)], false),
        Host::Ipv6(ip) => (vec![IpAddr::V6(*ip)], false),
        Host::Domain(name) => {
            let is_trusted = match judge_name(name, policy) {
                AddressVerdict::Denied(reason) => return Err(denied(place, reason)),
                AddressVerdict::Granted => true,
                AddressVerdict::Public => false,
            };
            let _turn = place.lookups.acquire().await;
            let found = shared.resolver.resolve(name).await;
            let found = found.map_err(|error| EgressFailure::Dns(described(&error)))?;
            (found, is_trusted)
        }
    };
    let mut addresses: Vec<_> =
        addresses.into_iter().map(|ip| SocketAddr::new(ip, place.port)).collect();
    // One denied answer denies the name: public and private mixed is how a name that is rebound looks.
    for address in &addresses {
        match judge(*address, policy) {
            AddressVerdict::Public | AddressVerdict::Granted => (),
            AddressVerdict::Denied(reason) if is_trusted && !reason.is_final() => (),
            AddressVerdict::Denied(reason) => return Err(denied(place, reason)),
        }
    }
    addresses.truncate(MOST_ADDRESSES);
    if addresses.is_empty() { Err(EgressFailure::Dns(NO_ADDRESS)) } else { Ok(addresses) }
}

const NO_ADDRESS: &str = "the host name has no address";

/// What the system's resolver said. It says so in words only, and these are shown, not acted on.
fn described(error: &io::Error) -> &'static str {
    let text = error.to_string();
    if text.contains("Temporary failure") {
        "the host name could not be looked up: the name servers did not answer"
    } else if text.contains("Non-recoverable") {
        "the host name could not be looked up: the name servers refused"
    } else {
        NO_ADDRESS
    }
}

fn denied(place: &HostPort, reason: Reason) -> EgressFailure {
    let (host, port, reason_text) = (&place.host, place.port, reason.as_str());
    tracing::info!(%host, port, reason = reason_text, "an endpoint's address is not allowed");
    metrics::counter!("tidegate_egress_denied_total").increment(1);
    EgressFailure::Denied(reason)
}

/// Addresses that are tried for one connection: all that a name has, and no more of one that has a network.
const MOST_ADDRESSES: usize = 64;
/// After this long without an answer the next address is tried beside the first (RFC 8305 §5).
const STAGGER: Duration = Duration::from_millis(250);

/// The first of the addresses that accepts.
async fn connect_first(addresses: &[SocketAddr]) -> io::Result<TcpStream> {
    let mut waiting = addresses.iter();
    let mut tries = FuturesUnordered::new();
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    loop {
        if let Some(address) = waiting.next() {
            tries.push(connect(*address));
        }
        tokio::select! {
            done = tries.next() => match done {
                Some(Ok(socket)) => return Ok(socket),
                Some(Err(error)) => last = error,
                // None is under way, and none was left to begin with.
                None => return Err(last),
            },
            () = tokio::time::sleep(STAGGER), if waiting.len() > 0 => (),
        }
    }
}

#[allow(clippy::disallowed_methods, reason = "this is `egress`, and the address was judged")]
async fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    TcpStream::connect(address).await
}

/// Whether the connection ends at a port of this process, through whatever address of this machine.
/// The policy cannot see that when we listen on all of them, nor where an address stands for another.
fn is_own(socket: &TcpStream, policy: &Policy) -> bool {
    let (Ok(peer), Ok(local)) = (socket.peer_addr(), socket.local_addr()) else { return false };
    // Where `0.0.0.0` was dialled, the system has put an address of its own into its place.
    let (to, from) = (peer.ip().to_canonical(), local.ip().to_canonical());
    let listens_there =
        |own: &SocketAddr| own.ip().to_canonical() == to || own.ip().is_unspecified() && to == from;
    policy.own.iter().any(|own| own.port() == peer.port() && listens_there(own))
}

fn describe(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "connection refused",
        io::ErrorKind::ConnectionReset => "connection reset",
        io::ErrorKind::TimedOut => "no answer to the connection",
        io::ErrorKind::HostUnreachable => "the host is unreachable",
        io::ErrorKind::NetworkUnreachable => "the network is unreachable",
        io::ErrorKind::AddrNotAvailable => "no local port is free",
        _ => "cannot connect",
    }
}
