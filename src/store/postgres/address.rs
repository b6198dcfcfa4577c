//! Which database to use, as operators write it.

use std::{
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
};

use tokio_postgres::config::{Config, Host, SslMode, TargetSessionAttrs};

/// `postgres://user:password@host:port/database?…`, where `host:port` may be several of them behind
/// commas: the servers of one database, of which the one that can be written is used. What it says of
/// the password and other parameters never reaches a log.
#[derive(Clone, PartialEq)]
pub struct Address {
    config: Box<Config>,
    /// Certificates that are believed, in place of the machine's.
    roots: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[error(
    "the address of a database is `postgres://user:password@host:5432/name`, with parameters such as `?sslmode=require` behind it"
)]
pub struct NoAddress;

impl Address {
    /// Whether a text is meant as one.
    pub fn is_meant_by(text: &str) -> bool {
        text.starts_with("postgres://") || text.starts_with("postgresql://")
    }

    /// One for each server, in their order.
    pub(super) fn servers(&self) -> Vec<Config> {
        let mut servers = Vec::new();
        for place in 0..self.config.get_hosts().len() {
            servers.extend(self.server(place));
        }
        servers
    }

    fn server(&self, place: usize) -> Option<Config> {
        let all = &*self.config;
        let mut one = Config::new();
        match all.get_hosts().get(place)? {
            Host::Tcp(name) => one.host(name),
            Host::Unix(path) => one.host_path(path),
        };
        if let Some(address) = all.get_hostaddrs().get(place) {
            one.hostaddr(*address);
        }
        if let Some(port) = all.get_ports().get(place).or(all.get_ports().first()) {
            one.port(*port);
        }
        all.get_user().map(|it| one.user(it));
        all.get_password().map(|it| one.password(it));
        all.get_dbname().map(|it| one.dbname(it));
        all.get_options().map(|it| one.options(it));
        one.ssl_mode(all.get_ssl_mode())
            .ssl_negotiation(all.get_ssl_negotiation())
            .channel_binding(all.get_channel_binding())
            // One that follows another, or must not be written for other reasons, is of no use.
            .target_session_attrs(TargetSessionAttrs::ReadWrite);
        Some(one)
    }

    /// Whether the server's certificate must be right. Whoever does not ask for TLS takes it where it
    /// is offered: then a wrong certificate is no worse than none.
    pub(super) fn verifies(&self) -> bool {
        self.config.get_ssl_mode() == SslMode::Require
    }

    pub(super) fn roots(&self) -> Option<&Path> {
        self.roots.as_deref()
    }
}

impl FromStr for Address {
    type Err = NoAddress;

    fn from_str(text: &str) -> Result<Self, NoAddress> {
        if !Self::is_meant_by(text) {
            return Err(NoAddress);
        }
        let (bare, parameters) = text.split_once('?').unwrap_or((text, ""));
        let (mut rest, mut verifies, mut roots) = (Vec::new(), false, None);
        for parameter in parameters.split('&').filter(|it| !it.is_empty()) {
            match parameter.split_once('=') {
                // Whoever asks for TLS gets it verified in full; there is no weaker kind.
                Some(("sslmode", "verify-full" | "verify-ca")) => verifies = true,
                Some(("sslrootcert", _)) => {
                    let mut pairs = url::form_urlencoded::parse(parameter.as_bytes());
                    roots = pairs.next().map(|it| PathBuf::from(it.1.into_owned()));
                }
                _ => rest.push(parameter),
            }
        }
        let text = format!("{bare}?{}", rest.join("&"));
        let mut config: Config = text.trim_end_matches('?').parse().map_err(|_| NoAddress)?;
        if verifies {
            config.ssl_mode(SslMode::Require);
        }
        let hosts = config.get_hosts().len();
        let fits = |count: usize| count <= 1 || count == hosts;
        let are_there = hosts > 0 && config.get_user().is_some();
        if !are_there || !fits(config.get_ports().len()) || !fits(config.get_hostaddrs().len()) {
            return Err(NoAddress);
        }
        Ok(Self { config: Box::new(config), roots })
    }
}

impl fmt::Display for Address {
    /// `postgres://host:port/database`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("postgres://")?;
        for (place, host) in self.config.get_hosts().iter().enumerate() {
            let comma = if place == 0 { "" } else { "," };
            let port = self.config.get_ports().get(place).or(self.config.get_ports().first());
            match host {
                Host::Tcp(name) => write!(f, "{comma}{name}")?,
                Host::Unix(path) => write!(f, "{comma}{}", path.display())?,
            }
            if let Some(port) = port {
                write!(f, ":{port}")?;
            }
        }
        write!(f, "/{}", self.config.get_dbname().unwrap_or_default())
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_never_shows_its_password() {
        let text = "postgres://tide:s3cret@db.acme.com:5433/events?sslmode=verify-full&options=-csearch_path%3Dx";
        let address: Address = text.parse().unwrap();
        assert_eq!(address.to_string(), "postgres://db.acme.com:5433/events");
        assert_eq!(format!("{address:?}"), "postgres://db.acme.com:5433/events");
        assert!(address.verifies());
        let local: Address = "postgresql://tide@%2Frun%2Fpg:5/events".parse().unwrap();
        assert_eq!(local.to_string(), "postgres:///run/pg:5/events");
    }

    #[test]
    fn an_address_may_name_several_servers_and_who_vouches_for_them() {
        let text = "postgres://tide:s3cret@one:1,two:2/events?sslmode=verify-full\
                    &sslrootcert=%2Fetc%2Fdb%2Fca.pem&target_session_attrs=read-write";
        let address: Address = text.parse().unwrap();
        assert_eq!(address.to_string(), "postgres://one:1,two:2/events");
        assert_eq!(address.roots(), Some(Path::new("/etc/db/ca.pem")));
        let servers = address.servers();
        let ports: Vec<u16> = servers.iter().flat_map(|it| it.get_ports().to_vec()).collect();
        assert_eq!(ports, [1, 2]);
        for server in servers {
            assert_eq!(server.get_hosts().len(), 1);
            assert_eq!(server.get_password(), Some(&b"s3cret"[..]));
            assert_eq!(server.get_ssl_mode(), SslMode::Require);
            assert_eq!(server.get_target_session_attrs(), TargetSessionAttrs::ReadWrite);
        }
        let plain: Address = "postgres://tide@one,two:7/events".parse().unwrap();
        assert!(!plain.verifies());
        assert_eq!(plain.servers().len(), 2);
    }

    #[test]
    fn invalid_addresses_are_refused_without_being_repeated() {
        for text in ["mysql://a:s3cret@b/c", "postgres://", "postgres://a:s3cret@b/c?nonsense=1"] {
            let reported = text.parse::<Address>().unwrap_err().to_string();
            assert!(!reported.contains("s3cret"), "{text}");
        }
    }
}
