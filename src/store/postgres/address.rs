//! Which database to use, as operators write it.

use std::{fmt, str::FromStr};

use tokio_postgres::config::{Config, SslMode};

/// `postgres://user:password@host:port/database?…`. What it says of the password and other
/// parameters never reaches a log.
#[derive(Clone, PartialEq)]
pub struct Address(Box<Config>);

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

    pub(super) fn config(&self) -> &Config {
        &self.0
    }
}

impl FromStr for Address {
    type Err = NoAddress;

    fn from_str(text: &str) -> Result<Self, NoAddress> {
        if !Self::is_meant_by(text) {
            return Err(NoAddress);
        }
        // Whoever asks for TLS gets it verified in full; there is no weaker kind.
        let (bare, verify) = match text.split_once('?') {
            Some((bare, parameters)) => {
                let is_verify =
                    |it: &&str| matches!(*it, "sslmode=verify-full" | "sslmode=verify-ca");
                let rest: Vec<&str> = parameters.split('&').filter(|it| !is_verify(it)).collect();
                let verify = parameters.split('&').any(|it| is_verify(&it));
                (format!("{bare}?{}", rest.join("&")), verify)
            }
            None => (text.to_owned(), false),
        };
        let mut config: Config = bare.trim_end_matches('?').parse().map_err(|_| NoAddress)?;
        if verify {
            config.ssl_mode(SslMode::Require);
        }
        if config.get_hosts().is_empty() || config.get_user().is_none() {
            return Err(NoAddress);
        }
        Ok(Self(Box::new(config)))
    }
}

impl fmt::Display for Address {
    /// `postgres://host:port/database`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("postgres://")?;
        for (place, host) in self.0.get_hosts().iter().enumerate() {
            let comma = if place == 0 { "" } else { "," };
            let port = self.0.get_ports().get(place).or(self.0.get_ports().first());
            match host {
                tokio_postgres::config::Host::Tcp(name) => write!(f, "{comma}{name}")?,
                tokio_postgres::config::Host::Unix(path) => {
                    write!(f, "{comma}{}", path.display())?;
                }
            }
            if let Some(port) = port {
                write!(f, ":{port}")?;
            }
        }
        write!(f, "/{}", self.0.get_dbname().unwrap_or_default())
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
        assert_eq!(address.config().get_ssl_mode(), SslMode::Require);
        let local: Address = "postgresql://tide@%2Frun%2Fpg:5/events".parse().unwrap();
        assert_eq!(local.to_string(), "postgres:///run/pg:5/events");
    }

    #[test]
    fn what_is_no_address_is_refused_without_being_repeated() {
        for text in ["mysql://a:s3cret@b/c", "postgres://", "postgres://a:s3cret@b/c?nonsense=1"] {
            let told = text.parse::<Address>().unwrap_err().to_string();
            assert!(!told.contains("s3cret"), "{text}");
        }
    }
}
