//! What stands in a request's body, as JSON: JSON itself untouched, the fields of a form, or a text.

use std::borrow::Cow;

use axum::http::{HeaderMap, header};
use bytes::Bytes;
use serde_json::{Map, Value, value::RawValue};

use crate::{
    ingest::shape,
    model::{RawJson, headers as names, json},
    problem::kind_of_json,
};

/// A body as an event's payload.
pub struct InboundContent {
    pub payload: RawJson,
}

/// Why a body cannot be an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    #[error("the body is not valid JSON, though its content type says so; found {0}")]
    Json(&'static str),
    #[error("the body {0}")]
    Shape(#[from] shape::ShapeError),
    #[error("the body must be JSON, a form or text in UTF-8; found {0}")]
    NoText(&'static str),
}

impl InboundContent {
    pub fn of(headers: &HeaderMap, body: &Bytes) -> Result<Self, Unreadable> {
        let content_type = headers.get(header::CONTENT_TYPE).and_then(|it| it.to_str().ok());
        let essence = content_type.unwrap_or_default().split(';').next().unwrap_or_default();
        let essence = essence.trim().to_ascii_lowercase();
        if essence == "application/x-www-form-urlencoded" {
            return Ok(Self { payload: form(body) });
        }
        let body = json::without_mark(body);
        shape::check(body)?;
        let trimmed = json::trimmed(body);
        let payload = if trimmed.is_empty() {
            RawJson::NULL
        } else if let Ok(payload) = RawJson::parse(Bytes::copy_from_slice(trimmed)) {
            payload
        } else if essence.ends_with("json") {
            return Err(Unreadable::Json(kind_of_json(body)));
        } else {
            let text =
                std::str::from_utf8(body).map_err(|_| Unreadable::NoText(kind_of_json(body)))?;
            RawJson::of(text)
        };
        Ok(Self { payload })
    }
}

/// The fields of a form. One that comes several times is a list. GitHub and Slack put JSON into a
/// field `payload`: where that is the only one, it is the payload.
fn form(body: &[u8]) -> RawJson {
    let mut fields = Map::new();
    for (name, value) in url::form_urlencoded::parse(body) {
        let value = Value::from(value.into_owned());
        match fields.get_mut(name.as_ref()) {
            None => drop(fields.insert(name.into_owned(), value)),
            Some(Value::Array(values)) => values.push(value),
            Some(first) => *first = Value::Array(vec![first.take(), value]),
        }
    }
    if let (1, Some(Value::String(text))) = (fields.len(), fields.get("payload"))
        && shape::check(text.as_bytes()).is_ok()
        && let Ok(payload) = RawJson::parse(text.clone())
    {
        return payload;
    }
    RawJson::of(&fields)
}

/// The elements of a list, if it is one that is not empty.
pub fn elements(payload: &RawJson) -> Option<Vec<RawJson>> {
    let elements: Vec<&RawValue> = serde_json::from_slice(payload.bytes()).ok()?;
    let element = |it: &&RawValue| RawJson::trusted(payload.bytes().slice_ref(it.get().as_bytes()));
    Some(elements.iter().map(element).collect::<Vec<_>>()).filter(|it| !it.is_empty())
}

/// Bytes of names and values that an event keeps of its headers.
const HEADER_BYTES: usize = 8 * 1024;

/// The headers that are kept with the event, and that receivers may see: nothing that proves who somebody
/// is. `proofs` are those by which the source verifies.
pub fn kept(headers: &HeaderMap, proofs: &[String]) -> RawJson {
    collected(headers, |name, value| {
        let is_hidden = names::is_hidden(name) || proofs.iter().any(|it| it == name);
        (!is_hidden).then(|| names::shown_value(name, value))
    })
}

/// The headers that the source's own expressions may use for the type and the key of an event. They may
/// use a signature, which tells one request from another, and no secret.
pub fn usable(headers: &HeaderMap, secret: Option<&str>) -> RawJson {
    const HIDDEN: [&str; 5] =
        ["authorization", "cookie", "proxy-authorization", "x-gitlab-token", "x-api-key"];
    collected(headers, |name, value| {
        let is_secret = secret.is_some_and(|it| it.eq_ignore_ascii_case(name));
        let is_hidden = HIDDEN.contains(&name) || name.contains("token") || name.contains("secret");
        // A delivery's token of idempotency names the delivery, and nobody.
        let is_hidden = is_secret || (is_hidden && !name.contains("idempotency"));
        (!is_hidden).then_some(Cow::Borrowed(value))
    })
}

fn collected<'h>(
    headers: &'h HeaderMap,
    show: impl Fn(&str, &'h str) -> Option<Cow<'h, str>>,
) -> RawJson {
    let mut shown = Map::new();
    let mut bytes = 0;
    for (name, value) in headers {
        let (name, Ok(value)) = (name.as_str(), value.to_str()) else { continue };
        bytes += name.len() + value.len();
        if bytes <= HEADER_BYTES
            && let Some(value) = show(name, value)
        {
            shown.insert(name.to_owned(), value.into());
        }
    }
    RawJson::of(&shown)
}

/// `{"headers":{…}}`.
pub fn metadata(headers: &RawJson) -> Box<RawValue> {
    let json = format!(r#"{{"headers":{}}}"#, headers.as_str());
    // It is an object around an object; if it were not, there would be no headers.
    RawValue::from_string(json).unwrap_or_else(|_| RawValue::NULL.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(content_type: &str, body: &'static [u8]) -> Result<String, Unreadable> {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, content_type.parse().unwrap());
        let content = InboundContent::of(&headers, &Bytes::from_static(body))?;
        Ok(content.payload.as_str().to_owned())
    }

    #[test]
    fn json_stays_as_it_came_and_everything_else_becomes_json() {
        for (content_type, body, expected) in [
            ("application/json", &b" {\"n\" : 1.50}\n"[..], Ok(r#"{"n" : 1.50}"#)),
            ("text/plain", b"{\"n\":1}", Ok(r#"{"n":1}"#)),
            ("application/json; charset=utf-8", b"{", Err(Unreadable::Json("an object"))),
            ("application/vnd.api+json", b"{", Err(Unreadable::Json("an object"))),
            ("text/xml", b"<a/>", Ok(r#""<a/>""#)),
            (
                "text/plain",
                b"\xff",
                Err(Unreadable::NoText("bytes that are no UTF-8, and so not JSON")),
            ),
            (
                "application/json",
                b"\xff\xfe{\0}\0",
                Err(Unreadable::Json("text in UTF-16 or UTF-32, where JSON is UTF-8")),
            ),
            ("application/json", b"\xef\xbb\xbf{\"n\":1}", Ok(r#"{"n":1}"#)),
            ("text/plain", b"\xef\xbb\xbfhello", Ok(r#""hello""#)),
            ("text/plain", b"", Ok("null")),
            (
                "application/x-www-form-urlencoded",
                b"a=1&b=x+y&a=2",
                Ok(r#"{"a":["1","2"],"b":"x y"}"#),
            ),
            ("application/x-www-form-urlencoded", b"payload=%7B%22n%22%3A1%7D", Ok(r#"{"n":1}"#)),
            ("application/x-www-form-urlencoded", b"payload=%7B", Ok(r#"{"payload":"{"}"#)),
        ] {
            assert_eq!(read(content_type, body).as_deref(), expected.as_deref(), "{body:?}");
        }
    }

    #[test]
    fn credentials_of_webhooks_are_not_shown() {
        let mut headers = HeaderMap::new();
        for name in ["authorization", "cookie", "x-gitlab-token", "x-my-secret", "x-github-event"] {
            headers.insert(name, "value".parse().unwrap());
        }
        headers.insert("x-acme", "S".parse().unwrap());
        headers.insert("x-sig", "abc".parse().unwrap());
        let proofs = ["x-acme".to_owned()];
        assert_eq!(kept(&headers, &proofs).as_str(), r#"{"x-github-event":"value"}"#);
        let usable = usable(&headers, Some("X-Acme"));
        assert_eq!(usable.as_str(), r#"{"x-github-event":"value","x-sig":"abc"}"#);
    }
}
