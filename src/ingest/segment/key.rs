//! The four places where a client may put its write key, in the order in which they count.

use axum::http::{HeaderMap, Uri, header};
use base64::{Engine as _, engine::general_purpose::STANDARD};

use super::fields::MessageFields;

/// The write key of a request: the user name of `Authorization: Basic`, with or without its colon; the
/// body's `writeKey`, also beside a bearer token; the query's.
pub fn find(headers: &HeaderMap, uri: &Uri, fields: &MessageFields<'_>) -> Option<String> {
    Elsewhere::of(headers, uri).or_in(fields)
}

/// The keys that stand outside of the body.
#[derive(Clone, Debug)]
pub struct Elsewhere {
    /// It counts before the body's, which then need not be read to know who calls.
    pub header: Option<String>,
    pub query: Option<String>,
}

impl Elsewhere {
    pub fn of(headers: &HeaderMap, uri: &Uri) -> Self {
        Self { header: in_header(headers), query: in_query(uri) }
    }

    pub fn or_in(&self, fields: &MessageFields<'_>) -> Option<String> {
        let key = self.header.clone().or_else(|| fields.text("writeKey"));
        key.or_else(|| self.query.clone()).filter(|it| !it.is_empty())
    }
}

fn in_header(headers: &HeaderMap) -> Option<String> {
    headers
        .get(header::AUTHORIZATION)
        .and_then(|it| it.to_str().ok())
        .and_then(|it| it.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("basic"))
        .and_then(|(_, encoded)| user_name(encoded.trim()))
}

fn in_query(uri: &Uri) -> Option<String> {
    let mut pairs = url::form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes());
    pairs.find(|(name, _)| name == "writeKey").map(|(_, key)| key.into_owned())
}

fn user_name(encoded: &str) -> Option<String> {
    let text = String::from_utf8(STANDARD.decode(encoded).ok()?).ok()?;
    Some(text.split(':').next().unwrap_or_default().to_owned()).filter(|it| !it.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_is_found_in_all_four_places_and_the_first_counts() {
        let basic = |text: &str| format!("Basic {}", STANDARD.encode(text));
        for (authorization, body, query, expected) in [
            (Some(basic("wk_a:")), r#"{"writeKey":"wk_b"}"#, "", Some("wk_a")),
            (Some(basic("wk_a")), "{}", "", Some("wk_a")),
            (Some("Bearer token".to_owned()), r#"{"writeKey":"wk_b"}"#, "", Some("wk_b")),
            (Some("Basic ???".to_owned()), r#"{"writeKey":"wk_b"}"#, "", Some("wk_b")),
            (Some(basic(":")), r#"{"writeKey":"wk_b"}"#, "", Some("wk_b")),
            (None, r#"{"writeKey":"wk_b"}"#, "writeKey=wk_c", Some("wk_b")),
            (None, "{}", "a=1&writeKey=wk%5Fc", Some("wk_c")),
            (None, r#"{"writeKey":7}"#, "", None),
            (None, "{}", "writeKey=", None),
        ] {
            let mut headers = HeaderMap::new();
            if let Some(value) = &authorization {
                headers.insert(header::AUTHORIZATION, value.parse().unwrap());
            }
            let fields = MessageFields::parse(body.as_bytes()).unwrap();
            let uri = format!("/v1/batch?{query}").parse().unwrap();
            let found = find(&headers, &uri, &fields);
            assert_eq!(found.as_deref(), expected, "{authorization:?} {body} {query}");
        }
    }
}
