//! Headers that users may set on a webhook, and those that are ours.

use std::collections::{BTreeMap, HashSet};

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::{
    crypto::signature::standard,
    expr::{ExprError, Facts, Template},
    settings::Invalid,
};

/// How many gateways an event has passed through, this one included.
pub const HOPS: HeaderName = HeaderName::from_static("tidegate-hops");
pub const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
pub const ID: HeaderName = HeaderName::from_static(standard::ID);
pub const TIMESTAMP: HeaderName = HeaderName::from_static(standard::TIMESTAMP);

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
    #[error("a header's template must have {expected} at line {line}, column {column}")]
    Template { expected: String, line: usize, column: usize },
    #[error("a destination has at most {MOST_HEADERS} headers of its own")]
    TooMany,
}

/// Which headers are Tidegate's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reserved {
    /// Those of the connection, and all that a webhook's contract promises.
    Webhook,
    /// Those of the connection. `content-type`, `user-agent` and the like are the owner's.
    Plain,
}

/// Whether a user may set this header on a webhook. A value with `{{ … }}` in it is a template over
/// the event. The header that carries our signature is refused too, by [`OwnHeaders::new`].
pub fn check_header(name: &str, value: &str) -> Result<(), HeaderError> {
    check_header_beside(Reserved::Webhook, name, value)
}

/// The same where other headers are reserved.
pub fn check_header_beside(reserved: Reserved, name: &str, value: &str) -> Result<(), HeaderError> {
    parse_name(reserved, name)?;
    if is_template(value) { compile(value).map(|_| ()) } else { parse_value(value).map(|_| ()) }
}

/// The headers that a destination's owner set.
pub(in crate::destinations) struct OwnHeaders {
    /// What is the same in every request.
    pub fixed: HeaderMap,
    templates: Vec<(HeaderName, Template)>,
}

/// A header has no usable value for an event. For people; holds nothing of the event.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(in crate::destinations) enum Unrendered {
    #[error("the template of the header `{0}` has no value for this event")]
    Failed(HeaderName),
    #[error(
        "the header `{0}` would not be printable ASCII of at most {LONGEST_VALUE} bytes for this event"
    )]
    Value(HeaderName),
}

impl OwnHeaders {
    /// `signature` is the header that carries our signature, if we sign.
    pub fn new(
        reserved: Reserved,
        headers: &BTreeMap<String, String>,
        signature: Option<&HeaderName>,
    ) -> Result<Self, HeaderError> {
        if headers.len() > MOST_HEADERS {
            return Err(HeaderError::TooMany);
        }
        let mut fixed = HeaderMap::with_capacity(headers.len());
        let mut templates = Vec::new();
        for (name, value) in headers {
            let name = parse_name(reserved, name)?;
            if Some(&name) == signature {
                return Err(HeaderError::Reserved(name.to_string()));
            }
            if is_template(value) {
                templates.push((name, compile(value)?));
            } else {
                fixed.insert(name, parse_value(value)?);
            }
        }
        Ok(Self { fixed, templates })
    }

    pub fn has_templates(&self) -> bool {
        !self.templates.is_empty()
    }

    /// Whether it is one of them.
    pub fn has(&self, name: &HeaderName) -> bool {
        self.fixed.contains_key(name) || self.templates.iter().any(|it| it.0 == *name)
    }

    /// The values of the templates for one event.
    pub fn render(&self, facts: &Facts) -> Result<Vec<(HeaderName, HeaderValue)>, Unrendered> {
        let render = |(name, template): &(HeaderName, Template)| {
            let text = template.render(facts).map_err(|_| Unrendered::Failed(name.clone()))?;
            let value = parse_value(&text).map_err(|_| Unrendered::Value(name.clone()))?;
            Ok((name.clone(), value))
        };
        self.templates.iter().map(render).collect()
    }
}

fn is_template(value: &str) -> bool {
    ["{{", "{%", "{#"].iter().any(|it| value.contains(it))
}

fn compile(value: &str) -> Result<Template, HeaderError> {
    if value.len() > LONGEST_VALUE {
        return Err(HeaderError::Value);
    }
    // What was found there is not said: it may be a part of a key.
    Template::compile(value).map_err(|ExprError { expected, line, column, .. }| {
        HeaderError::Template { expected, line, column }
    })
}

fn parse_name(reserved: Reserved, name: &str) -> Result<HeaderName, HeaderError> {
    if name.len() > LONGEST_NAME {
        return Err(HeaderError::Name);
    }
    let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| HeaderError::Name)?;
    if name == http::header::AUTHORIZATION {
        return Err(HeaderError::Authorization);
    }
    if is_reserved(reserved, name.as_str()) {
        return Err(HeaderError::Reserved(name.to_string()));
    }
    Ok(name)
}

/// Notes what is wrong with the headers of a destination together: there are too many, or two that HTTP
/// takes for one.
pub(in crate::destinations) fn check_names<'a>(
    names: impl ExactSizeIterator<Item = &'a String>,
    wrong: &mut Vec<Invalid>,
) {
    if names.len() > MOST_HEADERS {
        let rule = format!("must hold at most {MOST_HEADERS} headers");
        wrong.push(Invalid::new("headers", rule, "more"));
    }
    let mut seen = HashSet::new();
    for name in names {
        if !seen.insert(name.to_ascii_lowercase()) {
            let rule = "must be a name that stands once, in upper or lower case";
            wrong.push(Invalid::new(format!("headers.{name}"), rule, "it again"));
        }
    }
}

/// What a user's header may say. Such values are often keys, so they are not shown in logs.
fn parse_value(value: &str) -> Result<HeaderValue, HeaderError> {
    // Tabs and what is not ASCII would pass in HTTP, and mean different things to different servers.
    if value.len() > LONGEST_VALUE || !value.bytes().all(|it| (b' '..=b'~').contains(&it)) {
        return Err(HeaderError::Value);
    }
    let mut value = HeaderValue::from_str(value).map_err(|_| HeaderError::Value)?;
    value.set_sensitive(true);
    Ok(value)
}

/// In lower case: what belongs to the connection, what frames the message, and what we promise to say.
fn is_reserved(reserved: Reserved, name: &str) -> bool {
    /// Of the names below, those that frame nothing.
    const OWNERS: [&str; 3] = ["content-type", "idempotency-key", "user-agent"];
    if reserved == Reserved::Plain && (OWNERS.contains(&name) || name.starts_with("webhook-")) {
        return false;
    }
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
    use crate::destinations::webhook::tests::message;

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
    fn a_destination_has_a_bounded_number_of_headers_and_not_that_of_its_signature() {
        let signature = HeaderName::from_static("x-signature");
        let parsed = |headers: BTreeMap<String, String>| {
            OwnHeaders::new(Reserved::Webhook, &headers, Some(&signature)).map(|it| it.fixed.len())
        };
        let headers = |count| (0..count).map(|it| (format!("x-{it}"), "1".to_owned())).collect();
        assert_eq!(parsed(headers(32)), Ok(32));
        assert_eq!(parsed(headers(33)), Err(HeaderError::TooMany));
        let own = BTreeMap::from([("X-Signature".to_owned(), "mine".to_owned())]);
        assert_eq!(parsed(own), Err(HeaderError::Reserved("x-signature".to_owned())));
    }

    #[test]
    fn a_template_is_checked_when_it_is_saved_and_its_value_when_it_is_rendered() {
        assert_eq!(check_header("x-user", "{{ payload.id }}"), Ok(()));
        let refused = check_header("x-user", "{{ nonsense }}");
        assert!(matches!(refused, Err(HeaderError::Template { .. })), "{refused:?}");
        assert!(matches!(check_header("x-user", "{{"), Err(HeaderError::Template { .. })));

        let name = HeaderName::from_static("x-user");
        let headers = [("x-user".to_owned(), "u={{ payload.id }}".to_owned())].into();
        let headers = OwnHeaders::new(Reserved::Webhook, &headers, None).unwrap();
        let wrong = || Err(Unrendered::Value(name.clone()));
        for (payload, expected) in [
            (r#"{"id":"a b"}"#, Ok("u=a b")),
            (r#"{"id":null}"#, Ok("u=")),
            (r#"{"id":"a\r\nx-b: 2"}"#, wrong()),
            (r#"{"id":"grün"}"#, wrong()),
            (r#"{"id":"a\u0000"}"#, wrong()),
        ] {
            let facts = Facts::new(message("{}", payload, None).event, None);
            let found = headers.render(&facts);
            let found = found.as_ref().map(|it| it[0].1.to_str().unwrap());
            assert_eq!(found.map_err(Clone::clone), expected, "{payload}");
        }
    }
}
