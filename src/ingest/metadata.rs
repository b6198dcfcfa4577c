//! An event's metadata: what the sender gave, and what we saw ourselves, which wins.

use std::{
    fmt::{self, Write as _},
    net::{IpAddr, SocketAddr},
};

use axum::http::{HeaderMap, HeaderName, header};
use bytes::Bytes;
use serde::de::{self, DeserializeSeed, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::{
    model::{Name, RawJson, SenderField},
    problem::{Kind, Problem},
};

/// The header that counts the gateways which an event has passed.
pub static HOPS_HEADER: HeaderName = HeaderName::from_static("tidegate-hops");
/// An event that has passed so many is going in circles.
const HOPS_AT_MOST: u32 = 8;

/// The names that the sender cannot set.
const OURS: [&str; 6] = ["source", "ip", "user_agent", "hops", "schema_errors", "odd_times"];

/// What a request tells about its events, as the fields of a JSON object behind `source`.
#[derive(Clone, Debug)]
pub struct Circumstances {
    json: String,
    /// Behind the address, which comes first.
    ip_ends: usize,
}

impl Circumstances {
    /// Fails when the events go in circles.
    pub fn of(headers: &HeaderMap, ip: IpAddr) -> Result<Self, Problem> {
        /// Longer ones are cut: nobody reads them, and each event would carry them.
        const USER_AGENT_BYTES: usize = 256;
        /// An address and a short name of a program.
        const USUAL: usize = 96;
        let mut json = String::with_capacity(USUAL);
        // Writing to a `String` cannot fail.
        write!(json, r#","ip":"{}""#, ip.to_canonical()).ok();
        let ip_ends = json.len();
        let user_agent = headers.get(header::USER_AGENT).and_then(|it| it.to_str().ok());
        if let Some(user_agent) = user_agent {
            // A header that `to_str` takes is ASCII, so every cut falls between characters.
            push_field(
                &mut json,
                "user_agent",
                &user_agent[..user_agent.len().min(USER_AGENT_BYTES)],
            );
        }
        if let Some(hops) = headers.get(&HOPS_HEADER) {
            let hops = hops.to_str().ok().and_then(|it| it.parse::<u32>().ok());
            let hops = hops.ok_or_else(|| {
                Problem::invalid_field(
                    format!("header:{}", HOPS_HEADER),
                    "must be a number",
                    "another text",
                )
            })?;
            if hops >= HOPS_AT_MOST {
                let detail =
                    format!("it has passed {HOPS_AT_MOST} gateways, so its route is a circle");
                return Err(Problem::new(Kind::Loop).detail(detail));
            }
            json.push_str(&format!(r#","hops":{hops}"#));
        }
        Ok(Self { json, ip_ends })
    }

    /// The metadata of an event to which the sender gave none.
    pub fn alone(&self, source: &Name) -> RawJson {
        self.beside(source, "")
    }

    /// The same, with fields of ours: JSON that begins with a comma, or nothing.
    pub fn beside(&self, source: &Name, fields: &str) -> RawJson {
        let parts = [r#"{"source":""#, source.as_str(), "\"", &self.json, fields, "}"];
        // Of just this capacity, bytes take over the memory as it is.
        let mut json = String::with_capacity(parts.iter().map(|it| it.len()).sum());
        parts.iter().for_each(|it| json.push_str(it));
        RawJson::trusted(Bytes::from(json))
    }

    /// The metadata of an event, with the sender's object, which was parsed before. What the source lets its
    /// senders say (`believed`) goes before what we saw.
    pub fn with(&self, source: &Name, given: &RawValue, believed: &[SenderField]) -> RawJson {
        let mut json = String::with_capacity(given.get().len() + self.json.len() + 80);
        json.push('{');
        let mut deserializer = serde_json::Deserializer::from_str(given.get());
        let mut others = Others { json: &mut json, believed, source: None, ip: None };
        // It cannot fail, since it was parsed as a whole already; and if it did, ours stand.
        let _ = (&mut others).deserialize(&mut deserializer);
        let Others { source: said, ip, .. } = others;
        match said {
            Some(said) => json.push_str(&format!(r#""source":{said}"#)),
            None => json.push_str(&format!(r#""source":"{source}""#)),
        }
        match ip {
            Some(ip) => json.push_str(&format!(r#","ip":"{ip}""#)),
            None => json.push_str(&self.json[..self.ip_ends]),
        }
        json.push_str(&self.json[self.ip_ends..]);
        json.push('}');
        RawJson::trusted(Bytes::from(json))
    }
}

fn push_field(json: &mut String, name: &str, value: &str) {
    json.push_str(&format!(r#","{name}":"#));
    // A string always serialises.
    json.push_str(&serde_json::to_string(value).unwrap_or_default());
}

/// Copies the fields of an object that are not ours, each with a comma behind it, and puts those aside that
/// the sender may say.
struct Others<'j, 'b> {
    json: &'j mut String,
    believed: &'b [SenderField],
    /// As JSON.
    source: Option<String>,
    ip: Option<IpAddr>,
}

impl Others<'_, '_> {
    /// Takes a value that is believed, if it is one: another kind of value is not, and ours stands.
    fn put_aside(&mut self, name: &str, value: &RawValue) {
        /// A source is a name, and receivers may show it.
        const SOURCE_BYTES: usize = 256;
        let believes = |field| self.believed.contains(&field);
        let Ok(text) = serde_json::from_str::<String>(value.get()) else { return };
        if name == "source" && believes(SenderField::Source) && text.len() <= SOURCE_BYTES {
            self.source = Some(value.get().to_owned());
        } else if name == "ip" && believes(SenderField::Ip) {
            self.ip = text.parse::<IpAddr>().ok().map(|it| it.to_canonical()).or(self.ip);
        }
    }
}

impl<'de> DeserializeSeed<'de> for &mut Others<'_, '_> {
    type Value = ();

    fn deserialize<D: de::Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for &mut Others<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<(), M::Error> {
        while let Some((name, value)) = map.next_entry::<String, &RawValue>()? {
            if OURS.contains(&name.as_str()) {
                self.put_aside(&name, value);
            } else {
                self.json.push_str(&serde_json::to_string(&name).unwrap_or_default());
                self.json.push(':');
                self.json.push_str(value.get());
                self.json.push(',');
            }
        }
        Ok(())
    }
}

/// The caller's address: the peer's, unless that is a proxy of ours, which then says whose it is.
pub fn caller_ip(headers: &HeaderMap, peer: IpAddr, trusted_proxies: &[IpAddr]) -> IpAddr {
    if !is_trusted(peer, trusted_proxies) {
        return peer;
    }
    let mut caller = peer;
    let lines: Vec<&str> =
        headers.get_all("x-forwarded-for").iter().filter_map(|it| it.to_str().ok()).collect();
    // Each proxy adds whom it heard at the end; so from the end, the first stranger is the caller.
    for address in lines.iter().rev().flat_map(|line| line.rsplit(',')) {
        let Some(address) = parse_address(address) else { break };
        caller = address;
        if !is_trusted(address, trusted_proxies) {
            break;
        }
    }
    caller
}

/// Whether an address is one of these.
pub fn is_trusted(ip: IpAddr, trusted_proxies: &[IpAddr]) -> bool {
    trusted_proxies.iter().any(|it| it.to_canonical() == ip.to_canonical())
}

/// An address as proxies write it: alone, with a port, in brackets, in quotes.
fn parse_address(text: &str) -> Option<IpAddr> {
    let text = text.trim().trim_matches('"');
    if let Ok(ip) = text.parse() {
        return Some(ip);
    }
    if let Ok(socket) = text.parse::<SocketAddr>() {
        return Some(socket.ip());
    }
    text.strip_prefix('[')?.strip_suffix(']')?.parse().ok()
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        let line = |&(name, value): &(&'static str, &'static str)| {
            (name.parse().unwrap(), HeaderValue::from_static(value))
        };
        lines.iter().map(line).collect()
    }

    #[test]
    fn observed_metadata_wins_over_the_senders() {
        let headers = headers(&[("user-agent", "a\"b"), ("tidegate-hops", "2")]);
        let seen = Circumstances::of(&headers, "::ffff:192.0.2.1".parse().unwrap()).unwrap();
        let source: Name = "app".parse().unwrap();
        let given = r#"{"ip":"1.1.1.1","\u0069p":"1.1.1.1","x\ny":1.50,"hops":0,"source":"z","user_agent":0}"#;
        let given: &RawValue = serde_json::from_str(given).unwrap();

        let ours = r#""source":"app","ip":"192.0.2.1","user_agent":"a\"b","hops":2}"#;
        assert_eq!(seen.alone(&source).as_str(), format!("{{{ours}"));
        assert_eq!(seen.with(&source, given, &[]).as_str(), format!(r#"{{"x\ny":1.50,{ours}"#));
    }

    #[test]
    fn a_source_may_believe_its_sender_about_source_and_ip() {
        let headers = headers(&[("user-agent", "a")]);
        let seen = Circumstances::of(&headers, "192.0.2.1".parse().unwrap()).unwrap();
        let source: Name = "app".parse().unwrap();
        let both = [SenderField::Source, SenderField::Ip];
        for (given, believed, expected) in [
            (r#"{"source":"web","ip":"203.0.113.42"}"#, &both[..], r#""web","ip":"203.0.113.42""#),
            (r#"{"source":"web","ip":"203.0.113.42"}"#, &both[..1], r#""web","ip":"192.0.2.1""#),
            (r#"{"source":"web","ip":"203.0.113.42"}"#, &[], r#""app","ip":"192.0.2.1""#),
            (r#"{"source":7,"ip":"nowhere"}"#, &both, r#""app","ip":"192.0.2.1""#),
            ("{}", &both, r#""app","ip":"192.0.2.1""#),
        ] {
            let given: &RawValue = serde_json::from_str(given).unwrap();
            let expected = format!(r#"{{"source":{expected},"user_agent":"a"}}"#);
            assert_eq!(seen.with(&source, given, believed).as_str(), expected);
        }
    }

    #[test]
    fn an_event_that_passed_eight_gateways_is_refused() {
        let ip = "192.0.2.1".parse().unwrap();
        for (hops, expected) in
            [("0", None), ("7", None), ("8", Some(Kind::Loop)), ("x", Some(Kind::InvalidRequest))]
        {
            let outcome = Circumstances::of(&headers(&[("tidegate-hops", hops)]), ip);
            assert_eq!(outcome.err().map(|it| it.kind()), expected, "{hops}");
        }
    }

    #[test]
    fn an_address_is_written_as_ever() {
        for ip in ["0.0.0.0", "9.10.99.100", "101.110.199.200", "255.1.20.205", "2001:db8::1"] {
            let seen = Circumstances::of(&HeaderMap::new(), ip.parse().unwrap()).unwrap();
            assert_eq!(seen.json, format!(r#","ip":"{ip}""#));
        }
    }

    #[test]
    fn only_a_trusted_proxy_is_believed() {
        let proxies: Vec<IpAddr> = ["10.0.0.1", "10.0.0.2"].map(|it| it.parse().unwrap()).into();
        for (peer, forwarded, expected) in [
            ("192.0.2.1", "198.51.100.7", "192.0.2.1"),
            ("10.0.0.1", "198.51.100.7", "198.51.100.7"),
            ("10.0.0.1", "1.1.1.1, 198.51.100.7, 10.0.0.2", "198.51.100.7"),
            ("10.0.0.1", "nonsense", "10.0.0.1"),
            ("10.0.0.1", "198.51.100.7:49152", "198.51.100.7"),
            ("10.0.0.1", "[2001:db8::7]:443", "2001:db8::7"),
            ("10.0.0.1", "[2001:db8::7]", "2001:db8::7"),
            ("10.0.0.1", "1.1.1.1, \"198.51.100.7:80\", 10.0.0.2:81", "198.51.100.7"),
            ("10.0.0.1", "198.51.100.7:port", "10.0.0.1"),
            ("10.0.0.1", "1.1.1.1, nonsense, 10.0.0.2", "10.0.0.2"),
        ] {
            let headers = headers(&[("x-forwarded-for", forwarded)]);
            let ip = caller_ip(&headers, peer.parse().unwrap(), &proxies);
            assert_eq!(ip.to_string(), expected, "{peer} for {forwarded}");
        }
    }
}
