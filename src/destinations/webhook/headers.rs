//! Headers that users may set on a webhook, and those that are ours.

use std::collections::BTreeMap;

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::crypto::signature::standard;

/// How many gateways an event has passed through, this one included.
pub const HOPS: HeaderName = HeaderName::from_static("tidegate-hops");
pub const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
pub const ID: HeaderName = HeaderName::from_static(standard::ID);
pub const TIMESTAMP: HeaderName = HeaderName::from_static(standard::TIMESTAMP);
pub const SIGNATURE: HeaderName = HeaderName::from_static(standard::SIGNATURE);

/// Headers of one destination.
pub const MOST_HEADERS: usize = 32;
/// Bytes of one header's value.
pub const LONGEST_VALUE: usize = 4096;
/// Bytes of one header's name.
const LONGEST_NAME: usize = 128;

/// Why a header cannot be set. `Display` states the rule, and never repeats the value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    #[error("a header's name is 1 to {LONGEST_NAME} letters, digits, or `-` and the like")]
    Name,
    #[error("a header's value is at most {LONGEST_VALUE} bytes of printable ASCII")]
    Value,
    #[error("the header `{0}` is set by Tidegate itself")]
    Reserved(String),
    #[error("the header `authorization` is set by `auth`")]
    Authorization,
    #[error("a destination has at most {MOST_HEADERS} headers of its own")]
    TooMany,
}

/// Whether a user may set this header on a webhook.
pub fn check_header(name: &str, value: &str) -> Result<(), HeaderError> {
    parse(name, value).map(|_| ())
}

/// All headers of a destination, ready to be sent.
pub fn parse_headers(headers: &BTreeMap<String, String>) -> Result<HeaderMap, HeaderError> {
    if headers.len() > MOST_HEADERS {
        return Err(HeaderError::TooMany);
    }
    let mut parsed = HeaderMap::with_capacity(headers.len());
    for (name, value) in headers {
        let (name, value) = parse(name, value)?;
        parsed.insert(name, value);
    }
    Ok(parsed)
}

fn parse(name: &str, value: &str) -> Result<(HeaderName, HeaderValue), HeaderError> {
    if name.len() > LONGEST_NAME {
        return Err(HeaderError::Name);
    }
    let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| HeaderError::Name)?;
    if name == http::header::AUTHORIZATION {
        return Err(HeaderError::Authorization);
    }
    if is_reserved(name.as_str()) {
        return Err(HeaderError::Reserved(name.to_string()));
    }
    // Tabs and what is not ASCII would pass in HTTP, and mean different things to different servers.
    if value.len() > LONGEST_VALUE || !value.bytes().all(|it| (b' '..=b'~').contains(&it)) {
        return Err(HeaderError::Value);
    }
    let value = HeaderValue::from_str(value).map_err(|_| HeaderError::Value)?;
    Ok((name, value))
}

/// In lower case: what belongs to the connection, what frames the message, and what we promise to say.
fn is_reserved(name: &str) -> bool {
    const NAMES: [&str; 17] = [
        "accept-encoding",
        "connection",
        "content-encoding",
        "content-length",
        "content-type",
        "expect",
        "host",
        "idempotency-key",
        "keep-alive",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "user-agent",
        "forwarded",
        "via",
        "http2-settings",
    ];
    const PREFIXES: [&str; 4] = ["webhook-", "tidegate-", "proxy-", "x-forwarded-"];
    NAMES.contains(&name) || PREFIXES.iter().any(|it| name.starts_with(it))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_of_ours_and_headers_that_break_requests_are_refused() {
        let reserved = |name: &str| Err(HeaderError::Reserved(name.to_owned()));
        for (name, value, expected) in [
            ("X-Api-Key", "k 1", Ok(())),
            ("X-Empty", "", Ok(())),
            ("cookie", "a=b", Ok(())),
            ("Content-Length", "1", reserved("content-length")),
            ("HOST", "a", reserved("host")),
            ("Transfer-Encoding", "chunked", reserved("transfer-encoding")),
            ("Webhook-Signature", "v1,x", reserved("webhook-signature")),
            ("webhook-anything", "x", reserved("webhook-anything")),
            ("Tidegate-Hops", "0", reserved("tidegate-hops")),
            ("Proxy-Authorization", "x", reserved("proxy-authorization")),
            ("User-Agent", "x", reserved("user-agent")),
            ("Authorization", "Token x", Err(HeaderError::Authorization)),
            ("", "x", Err(HeaderError::Name)),
            ("a b", "x", Err(HeaderError::Name)),
            ("a:", "x", Err(HeaderError::Name)),
            ("a\r\nb", "x", Err(HeaderError::Name)),
            (&"a".repeat(129), "x", Err(HeaderError::Name)),
            ("x-a", "1\r\nx-b: 2", Err(HeaderError::Value)),
            ("x-a", "tab\there", Err(HeaderError::Value)),
            ("x-a", "grün", Err(HeaderError::Value)),
            ("x-a", &"a".repeat(4097), Err(HeaderError::Value)),
        ] {
            assert_eq!(check_header(name, value), expected, "{name:?}: {value:?}");
        }
    }

    #[test]
    fn a_destination_has_a_bounded_number_of_headers() {
        let headers = |count| (0..count).map(|it| (format!("x-{it}"), "1".to_owned())).collect();
        assert_eq!(parse_headers(&headers(32)).map(|it| it.len()), Ok(32));
        assert_eq!(parse_headers(&headers(33)), Err(HeaderError::TooMany));
    }
}
