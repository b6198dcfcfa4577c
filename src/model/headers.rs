//! Which headers of a request prove who sent it, or from where: they are neither kept nor shown.

use std::borrow::Cow;

use bytes::Bytes;
use serde_json::value::RawValue;

use super::RawJson;

/// Words of a name, between `-`, `_` and `.`.
const WORDS: [&str; 23] = [
    "auth",
    "authorization",
    "authentication",
    "apikey",
    "bearer",
    "cert",
    "certificate",
    "cookie",
    "cookie2",
    "credential",
    "credentials",
    "csrf",
    "hmac",
    "jwt",
    "otp",
    "passphrase",
    "passwd",
    "passcode",
    "pwd",
    "session",
    "sessionid",
    "sig",
    "xsrf",
];
/// Anywhere in a name.
const PARTS: [&str; 4] = ["token", "secret", "password", "signature"];
/// What stands before `key` in names of keys that open nothing: `x-event-key` of Bitbucket.
const HARMLESS_KEYS: [&str; 14] = [
    "event",
    "routing",
    "partition",
    "ordering",
    "sort",
    "object",
    "cache",
    "surrogate",
    "dedupe",
    "deduplication",
    "message",
    "request",
    "record",
    "primary",
];
/// The caller's address by those who passed the request on; `metadata.ip` has the one that counts.
const ADDRESSES: [&str; 13] = [
    "forwarded",
    "x-forwarded",
    "x-forwarded-for",
    "x-original-forwarded-for",
    "x-real-ip",
    "x-client-ip",
    "x-cluster-client-ip",
    "true-client-ip",
    "cf-connecting-ip",
    "cf-connecting-ipv6",
    "fastly-client-ip",
    "fly-client-ip",
    "x-azure-clientip",
];
/// Headers that hold a path with its query, or the query alone: credentials stand there, too.
const PLACES: [&str; 11] = [
    "referer",
    "x-original-url",
    "x-original-uri",
    "x-rewrite-url",
    "x-forwarded-url",
    "x-forwarded-uri",
    "x-forwarded-path",
    "x-forwarded-query",
    "x-envoy-original-path",
    "x-request-uri",
    "x-request-url",
];

/// Whether a header of this name, in lower case, is neither kept nor shown.
pub fn is_hidden(name: &str) -> bool {
    // A token or key of idempotency names a delivery, and nobody.
    if name.contains("idempotency") {
        return false;
    }
    let mut before = "";
    let has_word = name.split(['-', '_', '.']).any(|word| {
        let is_key = word == "key" && !HARMLESS_KEYS.contains(&before);
        before = word;
        is_key || WORDS.contains(&word)
    });
    has_word || PARTS.iter().any(|it| name.contains(it)) || ADDRESSES.contains(&name)
}

/// The value without a query where the header holds a URL, and without a name and a password in it.
pub fn shown_value<'v>(name: &str, value: &'v str) -> Cow<'v, str> {
    let value = match value.split_once('?') {
        Some((before, _)) if PLACES.contains(&name) => before,
        _ if name == "x-forwarded-query" => "",
        _ => value,
    };
    let Some((scheme, rest)) = value.split_once("://") else { return Cow::Borrowed(value) };
    let end = rest.find(['/', '?', '#', ' ', ',']).unwrap_or(rest.len());
    match rest[..end].rfind('@') {
        Some(at) => Cow::Owned(format!("{scheme}://{}", &rest[at + 1..])),
        None => Cow::Borrowed(value),
    }
}

/// Metadata as it may leave the store: an event that was kept by an older version may have headers that
/// would not be kept today. `also` are further names, in lower case: those that its source verifies by.
pub fn without_hidden(metadata: RawJson, also: &[String]) -> RawJson {
    // As the door for webhooks writes it, and no sender's own object of this name.
    if !metadata.as_str().starts_with(r#"{"headers":{"#) {
        return metadata;
    }
    type Object<'a> = serde_json::Map<String, serde_json::Value>;
    let mut fields = Vec::new();
    let Ok(()) = raw_fields(metadata.as_str(), |name, value| fields.push((name, value))) else {
        return metadata;
    };
    let Some((_, headers)) = fields.first() else { return metadata };
    let Ok(headers) = serde_json::from_str::<Object<'_>>(headers.get()) else { return metadata };
    let is_kept = |name: &String| !is_hidden(name) && !also.contains(name);
    let shown: Object<'_> = headers
        .iter()
        .filter(|(name, _)| is_kept(name))
        .map(|(name, value)| match value.as_str() {
            Some(text) => (name.clone(), shown_value(name, text).into()),
            None => (name.clone(), value.clone()),
        })
        .collect();
    if shown == headers {
        return metadata;
    }
    let mut json = format!(r#"{{"headers":{}"#, RawJson::of(&shown).as_str());
    for (name, value) in &fields[1..] {
        json.push_str(&format!(",{}:{}", RawJson::of(name).as_str(), value.get()));
    }
    json.push('}');
    RawJson::trusted(Bytes::from(json))
}

/// Visits the fields of an object in their order, each as it is written.
fn raw_fields<'a>(
    json: &'a str,
    visit: impl FnMut(String, &'a RawValue),
) -> Result<(), serde_json::Error> {
    struct Fields<F>(F);
    impl<'de, F: FnMut(String, &'de RawValue)> serde::de::Visitor<'de> for Fields<F> {
        type Value = ();

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<M: serde::de::MapAccess<'de>>(mut self, mut map: M) -> Result<(), M::Error> {
            while let Some((name, value)) = map.next_entry::<String, &RawValue>()? {
                (self.0)(name, value);
            }
            Ok(())
        }
    }
    let mut deserializer = serde_json::Deserializer::from_str(json);
    serde::Deserializer::deserialize_map(&mut deserializer, Fields(visit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_hidden_by_their_name() {
        for name in [
            "authorization",
            "proxy-authorization",
            "cookie",
            "x-api-key",
            "apikey",
            "ocp-apim-subscription-key",
            "x-functions-key",
            "x-goog-api-key",
            "x-acme-key",
            "x-webhook-auth",
            "x_auth",
            "x-hub-signature-256",
            "x-my-sig",
            "x-csrf-token",
            "x-amz-security-token",
            "x-user-password",
            "x-forwarded-client-cert",
            "x-forwarded-for",
            "cf-connecting-ip",
        ] {
            assert!(is_hidden(name), "{name}");
        }
        for name in [
            "x-github-event",
            "x-github-delivery",
            "x-event-key",
            "idempotency-key",
            "i-twilio-idempotency-token",
            "webhook-id",
            "author",
            "x-design",
            "content-type",
            "monkey",
        ] {
            assert!(!is_hidden(name), "{name}");
        }
    }

    #[test]
    fn values_lose_queries_and_passwords() {
        for (name, value, expected) in [
            ("referer", "https://a.example/x?token=1", "https://a.example/x"),
            ("x-original-uri", "/in/crm?key=1", "/in/crm"),
            ("x-forwarded-query", "key=1", ""),
            ("x-topic", "what?", "what?"),
            ("x-callback", "https://me:pw@a.example/p@q", "https://a.example/p@q"),
            ("x-callback", "https://a.example/p@q", "https://a.example/p@q"),
        ] {
            assert_eq!(shown_value(name, value), expected, "{name}: {value}");
        }
    }

    #[test]
    fn stored_metadata_loses_what_is_hidden_today() {
        let also = ["x-acme".to_owned()];
        for (stored, expected) in [
            (
                r#"{"headers":{"x-webhook-auth":"S","x-acme":"S","x-topic":"a"},"source":"crm","n":1.50}"#,
                r#"{"headers":{"x-topic":"a"},"source":"crm","n":1.50}"#,
            ),
            (r#"{"headers":{"x-topic":"a"},"n":1.50}"#, r#"{"headers":{"x-topic":"a"},"n":1.50}"#),
            // A sender's own words.
            (r#"{"a":1,"headers":{"apikey":"b"}}"#, r#"{"a":1,"headers":{"apikey":"b"}}"#),
            (r#"{"source":"app","ip":"::1"}"#, r#"{"source":"app","ip":"::1"}"#),
        ] {
            let metadata = RawJson::parse(stored.to_owned()).unwrap();
            assert_eq!(without_hidden(metadata, &also).as_str(), expected);
        }
    }
}
