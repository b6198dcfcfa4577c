//! Connections to PostgreSQL servers of users: only the first bytes are ours, the rest is its client's.

use std::{error::Error as _, fmt, sync::Arc};

use tokio::{net::TcpStream, time::Instant};
use tokio_postgres::{
    Client, Config,
    config::{Host, SslMode},
    tls::MakeTlsConnect,
};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::{
    Egress, EgressFailure, Phase, Shared,
    dial::{HostPort, open},
};
use crate::model::Secret;

/// One database on one server.
pub struct Database {
    shared: Arc<Shared>,
    place: HostPort,
    config: Config,
    /// The name that the certificate must have.
    host: String,
    tls: MakeRustlsConnect,
}

/// What a database's URL must be, and is not. It holds no part of the URL, which has a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadDatabase(pub &'static str);

const PORT: u16 = 5432;

impl Egress {
    /// Prepares what every connection has in common. Nothing is dialled yet.
    pub fn database(&self, url: &Secret) -> Result<Database, BadDatabase> {
        let mut config = Database::check(url)?;
        config.application_name("tidegate");
        let [Host::Tcp(host)] = config.get_hosts() else {
            return Err(BadDatabase("must name one host"));
        };
        let host = host.clone();
        let port = config.get_ports().first().copied().unwrap_or(PORT);
        let place = HostPort::bare(&host, port).ok_or(BadDatabase("must name a host"))?;
        let mut tls = rustls::ClientConfig::clone(&self.shared.tls);
        tls.alpn_protocols.clear();
        Ok(Database {
            shared: self.shared.clone(),
            place,
            config,
            host: host.trim_matches(['[', ']']).to_owned(),
            tls: MakeRustlsConnect::new(tls),
        })
    }
}

impl Database {
    /// A URL that names one database on one host, under TLS unless it says `sslmode=disable`.
    pub fn check(url: &Secret) -> Result<Config, BadDatabase> {
        let text = url.expose();
        if !text.starts_with("postgres://") && !text.starts_with("postgresql://") {
            return Err(BadDatabase("must be a `postgres://` URL"));
        }
        let mut config: Config =
            text.parse().map_err(|_| BadDatabase("must be a `postgres://` URL"))?;
        let hosts = config.get_hosts();
        let is_one_host = matches!(hosts, [Host::Tcp(_)])
            && config.get_hostaddrs().is_empty()
            && config.get_ports().len() <= 1;
        if !is_one_host {
            return Err(BadDatabase("must name one host"));
        }
        let [Host::Tcp(host)] = hosts else { return Err(BadDatabase("must name one host")) };
        if HostPort::bare(host, PORT).is_none() {
            return Err(BadDatabase("must name a host, or an address as in `postgres://[::1]/`"));
        }
        if config.get_options().is_some() {
            return Err(BadDatabase("must have no `options`"));
        }
        if config.get_ssl_mode() != SslMode::Disable {
            config.ssl_mode(SslMode::Require);
        }
        Ok(config)
    }

    /// Connects to an address that the policy allows, and logs in.
    pub async fn connect(&self, deadline: Instant) -> Result<Client, EgressFailure> {
        let socket = open(&self.place, &self.shared, deadline).await?;
        let tls = MakeTlsConnect::<TcpStream>::make_tls_connect(&mut self.tls.clone(), &self.host);
        let tls = tls.map_err(|_| EgressFailure::Tls("its host cannot have a certificate"))?;
        let connected = tokio::time::timeout_at(deadline, self.config.connect_raw(socket, tls));
        let (client, connection) = connected
            .await
            .map_err(|_| EgressFailure::Timeout(Phase::Handshake))?
            .map_err(|error| failure(&error))?;
        // It ends when the client is dropped; what goes wrong, the client hears.
        tokio::spawn(async move { drop(connection.await) });
        Ok(client)
    }
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Database")
    }
}

/// Why nobody could log in.
fn failure(error: &tokio_postgres::Error) -> EgressFailure {
    match error.as_db_error().map(|it| it.code().code()) {
        Some("28P01" | "28000") => {
            EgressFailure::Connect("the server refuses the user or the password")
        }
        Some("3D000") => EgressFailure::Connect("the server has no such database"),
        Some("53300") => EgressFailure::Connect("the server has too many connections"),
        Some("57P03") => EgressFailure::Connect("the server is starting or stopping"),
        Some(_) => EgressFailure::Connect("the server refuses the connection"),
        None => match error.source().and_then(|it| it.downcast_ref::<std::io::Error>()) {
            Some(error) if error.get_ref().is_some() => {
                EgressFailure::Tls(super::tls::describe(error))
            }
            _ if error.to_string().contains("TLS") => EgressFailure::Tls(
                "the server does not speak TLS, and the URL does not allow to go without",
            ),
            _ => EgressFailure::Connect("the connection broke while logging in"),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_names_one_host_and_is_under_tls_unless_it_says_otherwise() {
        let mode = |url: &str| Database::check(&Secret::new(url)).map(|it| it.get_ssl_mode());
        assert_eq!(mode("postgres://a:b@db.acme.com/crm"), Ok(SslMode::Require));
        assert_eq!(mode("postgres://a:b@db/crm?sslmode=prefer"), Ok(SslMode::Require));
        assert_eq!(mode("postgres://a:b@db/crm?sslmode=disable"), Ok(SslMode::Disable));
        assert_eq!(mode("postgres://a:b@[2001:db8::7]:5433/crm"), Ok(SslMode::Require));
        for url in [
            "host=db user=a",
            "postgres://a:b@one,two/crm",
            "postgres://a:b@/crm?host=/var/run",
            "postgres://a:b@db/crm?options=-c%20x=y",
            "postgres://a:b@[2001:db8::7%25eth0]/crm",
            "postgres://a:b@d b/crm",
            "http://db/crm",
            "nothing",
        ] {
            assert!(mode(url).is_err(), "{url}");
        }
    }
}
