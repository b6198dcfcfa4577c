//! In which country an IP address is, by a database file of MaxMind's format.

use std::{net::IpAddr, path::Path};

pub struct Countries {
    reader: maxminddb::Reader<Vec<u8>>,
}

/// The file of countries cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("the country database `{path}` cannot be used")]
pub struct CountryError {
    path: String,
    source: maxminddb::MaxMindDbError,
}

impl Countries {
    /// Reads the file into memory: some 10 MB. It is read again at the next start.
    pub fn open(path: &Path) -> Result<Self, CountryError> {
        let reader = maxminddb::Reader::open_readfile(path)
            .map_err(|source| CountryError { path: path.display().to_string(), source })?;
        Ok(Self { reader })
    }

    /// Two letters by ISO 3166, such as `DE`.
    pub fn of(&self, ip: &str) -> Option<String> {
        let ip: IpAddr = ip.trim().parse().ok()?;
        let found = self.reader.lookup(ip.to_canonical()).ok()?;
        let path =
            [maxminddb::PathElement::Key("country"), maxminddb::PathElement::Key("iso_code")];
        found.decode_path::<String>(&path).ok().flatten()
    }
}
