//! The only place that turns errors into HTTP (RFC 9457, problem+json).
//!
//! `type` is a relative reference, `/problems/<slug>`, since every installation has a name of its
//! own; it is a promise, and so are status and title. `detail` and `errors` are for people, and
//! neither repeats what the caller sent nor says what is inside.

use std::{borrow::Cow, time::Duration};

use axum::{
    body::Body,
    http::{HeaderValue, Response, StatusCode, header},
    response::IntoResponse,
};
use serde::{Serialize, de::IgnoredAny};
use serde_json::Value;

use crate::{
    gate::Refused,
    pipeline::dry::CaseResult,
    resources::{FailingTests, FileError, Invalid},
    store::StoreError,
};

const CONTENT_TYPE: &str = "application/problem+json";

/// What kind of problem it is: callers may branch on its slug.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    InvalidRequest,
    InvalidJson,
    InvalidBody,
    Unauthorized,
    UnknownWriteKey,
    NotVerified,
    Forbidden,
    NotFound,
    MethodNotAllowed,
    BodyTimeout,
    Conflict,
    FailingTests,
    BodyTooLarge,
    UrlTooLong,
    UnsupportedEncoding,
    Rejected,
    RateLimited,
    Overloaded,
    TooManyConnections,
    Unavailable,
    DiskFull,
    Loop,
    Internal,
}

impl Kind {
    pub const ALL: [Self; 23] = [
        Self::InvalidRequest,
        Self::InvalidJson,
        Self::InvalidBody,
        Self::Unauthorized,
        Self::UnknownWriteKey,
        Self::NotVerified,
        Self::Forbidden,
        Self::NotFound,
        Self::MethodNotAllowed,
        Self::BodyTimeout,
        Self::Conflict,
        Self::FailingTests,
        Self::BodyTooLarge,
        Self::UrlTooLong,
        Self::UnsupportedEncoding,
        Self::Rejected,
        Self::RateLimited,
        Self::Overloaded,
        Self::TooManyConnections,
        Self::Unavailable,
        Self::DiskFull,
        Self::Loop,
        Self::Internal,
    ];

    /// The status, the slug of `type`, and the title.
    pub const fn parts(self) -> (u16, &'static str, &'static str) {
        match self {
            Self::InvalidRequest => (400, "invalid-request", "The request is invalid"),
            Self::InvalidJson => (400, "invalid-json", "The body is not valid JSON"),
            Self::InvalidBody => (400, "invalid-body", "The body cannot be read"),
            Self::Unauthorized => (401, "unauthorized", "A valid API key is required"),
            Self::UnknownWriteKey => (401, "unknown-write-key", "Unknown write key"),
            Self::NotVerified => (401, "not-verified", "The signature could not be verified"),
            Self::Forbidden => (403, "forbidden", "The API key does not allow this"),
            Self::NotFound => (404, "not-found", "Not found"),
            Self::MethodNotAllowed => (405, "method-not-allowed", "Method not allowed"),
            Self::BodyTimeout => (408, "body-timeout", "The body arrived too slowly"),
            Self::Conflict => (409, "conflict", "Conflict with the current state"),
            Self::FailingTests => (409, "failing-tests", "Test cases of the pipeline fail"),
            Self::BodyTooLarge => (413, "body-too-large", "The body is too large"),
            Self::UrlTooLong => (414, "url-too-long", "The URL is too long"),
            Self::UnsupportedEncoding => {
                (415, "unsupported-encoding", "The content encoding is not supported")
            }
            Self::Rejected => (422, "rejected", "The request cannot be processed"),
            Self::RateLimited => (429, "rate-limited", "Rate limit of the API key exceeded"),
            Self::Overloaded => (429, "overloaded", "The gateway is overloaded"),
            Self::TooManyConnections => (503, "too-many-connections", "Too many connections"),
            Self::Unavailable => (503, "unavailable", "The store is unavailable"),
            Self::DiskFull => (507, "disk-full", "The disk is full"),
            Self::Loop => (508, "loop", "The event loops between gateways"),
            Self::Internal => (500, "internal", "Internal error"),
        }
    }

    pub fn status(self) -> StatusCode {
        StatusCode::from_u16(self.parts().0).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }
}

/// What is wrong with one field.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct FieldError {
    /// Its path, such as `payload` or `events[3].type`; `header:…` and `query:…` elsewhere.
    pub field: String,
    /// What would be right.
    #[schema(value_type = String)]
    pub rule: Cow<'static, str>,
    /// What kind of value stands there instead, and never the value.
    #[schema(value_type = String)]
    pub found: Cow<'static, str>,
}

impl FieldError {
    pub fn new(
        field: impl Into<String>,
        rule: impl Into<Cow<'static, str>>,
        found: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self { field: field.into(), rule: rule.into(), found: found.into() }
    }
}

/// The body of every answer that is not a success.
#[derive(Clone, Debug, PartialEq, Serialize, utoipa::ToSchema, utoipa::ToResponse)]
#[response(description = "What went wrong (RFC 9457)", content_type = "application/problem+json")]
pub struct Problem {
    /// `/problems/<slug>`, stable.
    #[serde(rename = "type")]
    pub reference: String,
    pub title: &'static str,
    pub status: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub detail: Option<Cow<'static, str>>,
    /// What is wrong where, when the request itself is.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    pub errors: Vec<FieldError>,
    /// The test cases that fail, where a change was refused for them.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, value_type = Vec<CaseResult>)]
    pub tests: Option<Box<FailingTests>>,
    #[serde(skip)]
    kind: Kind,
    #[serde(skip)]
    retry_after: Option<Duration>,
}

impl Problem {
    pub fn new(kind: Kind) -> Self {
        let (status, slug, title) = kind.parts();
        Self {
            reference: format!("/problems/{slug}"),
            title,
            status,
            detail: None,
            errors: Vec::new(),
            tests: None,
            kind,
            retry_after: None,
        }
    }

    /// A request that says nothing sensible, field by field.
    pub fn invalid(errors: Vec<FieldError>) -> Self {
        Self::new(Kind::InvalidRequest).errors(errors)
    }

    pub fn invalid_field(
        field: impl Into<String>,
        rule: impl Into<Cow<'static, str>>,
        found: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self::invalid(vec![FieldError::new(field, rule, found)])
    }

    pub fn not_found(what: &str) -> Self {
        Self::new(Kind::NotFound).detail(format!("the project has no such {what}"))
    }

    pub fn detail(mut self, detail: impl Into<Cow<'static, str>>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    pub fn errors(mut self, errors: Vec<FieldError>) -> Self {
        self.errors = errors;
        self
    }

    /// Rounded up to whole seconds in the answer.
    pub fn retry_after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait);
        self
    }

    pub fn kind(&self) -> Kind {
        self.kind
    }

    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// The whole answer as bytes of HTTP/1.1, for a connection that no HTTP library serves.
    pub fn to_closing_response(&self) -> Vec<u8> {
        let body = self.to_json();
        let mut head = format!(
            "HTTP/1.1 {}\r\ncontent-type: {CONTENT_TYPE}\r\nx-content-type-options: nosniff\r\n\
             connection: close\r\ncontent-length: {}\r\n",
            self.kind.status(),
            body.len()
        );
        if let Some(seconds) = self.retry_after_seconds() {
            head.push_str(&format!("retry-after: {seconds}\r\n"));
        }
        [head.as_bytes(), b"\r\n", &body].concat()
    }

    /// How long to wait, in whole seconds.
    pub fn retry_after_seconds(&self) -> Option<u64> {
        let wait = self.retry_after?;
        Some((wait.as_secs() + u64::from(wait.subsec_nanos() > 0)).max(1))
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response<Body> {
        let mut response = Response::new(Body::from(self.to_json()));
        *response.status_mut() = self.kind.status();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(CONTENT_TYPE));
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        if let Some(seconds) = self.retry_after_seconds() {
            headers.insert(header::RETRY_AFTER, seconds.into());
        }
        if self.kind == Kind::Unauthorized {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

impl From<Problem> for Response<Body> {
    fn from(problem: Problem) -> Self {
        problem.into_response()
    }
}

impl From<Refused> for Problem {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Overloaded { retry_after } => {
                Self::new(Kind::Overloaded).retry_after(retry_after).detail(
                    "nothing of the request was kept; send it again after the time in Retry-After",
                )
            }
            Refused::DiskFull { retry_after } => disk_full().retry_after(retry_after),
            Refused::Store(error) => error.into(),
        }
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        /// A database that went away may take a while to come back.
        const LATER: Duration = Duration::from_secs(5);
        match &error {
            // A commit that failed may be on the disk nonetheless: nobody knows before a restart.
            StoreError::Unavailable(_) => {
                log(&error);
                Self::new(Kind::Unavailable).retry_after(LATER).detail(
                    "whether anything of the request was kept is not known; send it again later, \
                     with the same idempotency key",
                )
            }
            StoreError::Closed | StoreError::Fenced | StoreError::Unfinished => {
                log(&error);
                Self::new(Kind::Unavailable).retry_after(LATER).detail(
                    "nothing of the request was kept; send it again when the gateway has restarted",
                )
            }
            StoreError::Full => disk_full().retry_after(2 * LATER),
            StoreError::TooManyDeliveries => Self::new(Kind::Rejected).detail(error.to_string()),
            StoreError::Damaged { .. } | StoreError::Incomplete(_) | StoreError::Newer { .. } => {
                log(&error);
                Self::new(Kind::Internal).detail("see the server log for details")
            }
        }
    }
}

impl From<Invalid> for Problem {
    fn from(invalid: Invalid) -> Self {
        Self::invalid_field(invalid.path, invalid.rule, invalid.found)
    }
}

impl From<Vec<Invalid>> for Problem {
    fn from(wrong: Vec<Invalid>) -> Self {
        let error = |it: Invalid| FieldError::new(it.path, it.rule, it.found);
        Self::invalid(wrong.into_iter().map(error).collect())
    }
}

impl From<FailingTests> for Problem {
    fn from(failing: FailingTests) -> Self {
        let problem = Self::new(Kind::FailingTests)
            .detail("nothing was changed; `?confirm=failing-tests` changes it all the same");
        Self { tests: Some(Box::new(failing)), ..problem }
    }
}

impl From<FileError> for Problem {
    fn from(error: FileError) -> Self {
        /// Enough to work on.
        const SHOWN: usize = 50;
        let mut problems = error.problems;
        problems.truncate(SHOWN);
        // With file, line and column, where there are any.
        let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
        let errors = problems
            .into_iter()
            .map(|it| FieldError::new(it.invalid.path, it.invalid.rule, it.invalid.found));
        Self::invalid(errors.collect()).detail(lines.join("\n"))
    }
}

fn disk_full() -> Problem {
    Problem::new(Kind::DiskFull)
        .detail("nothing of the request was kept; it can be sent again when there is room")
}

/// The caller learns nothing of the inside, so the operator must.
fn log(error: &StoreError) {
    let cause = std::error::Error::source(error).map(ToString::to_string);
    tracing::error!(%error, cause, "a request failed in the store");
}

/// What kind of value a JSON text is, for [`FieldError::found`]. What is no JSON is described by its form.
pub fn kind_of_json(text: &[u8]) -> &'static str {
    let text = text.trim_ascii();
    match text.first() {
        None => "nothing",
        Some(b'{') if text.get(1) != Some(&0) => "an object",
        Some(b'[') if text.get(1) != Some(&0) => "an array",
        Some(b'"') if text.get(1) != Some(&0) => "a string",
        Some(first) if serde_json::from_slice::<IgnoredAny>(text).is_ok() => match first {
            b't' | b'f' => "a boolean",
            b'n' => "null",
            _ => "a number",
        },
        Some(_) => kind_of_other(text),
    }
}

/// What a text is that is no JSON. Nothing of it is repeated: it may be a secret.
fn kind_of_other(text: &[u8]) -> &'static str {
    let begins = |with: &[u8]| text.starts_with(with);
    if begins(b"\xff\xfe") || begins(b"\xfe\xff") || text.get(..2).is_some_and(|it| it.contains(&0))
    {
        return "text in UTF-16 or UTF-32, where JSON is UTF-8";
    }
    if begins(b"\x1f\x8b") || begins(b"\x28\xb5\x2f\xfd") {
        return "compressed bytes, of which no `Content-Encoding` tells";
    }
    if std::str::from_utf8(text).is_err() {
        return "bytes that are no UTF-8, and so not JSON";
    }
    let is_name = |it: &u8| it.is_ascii_alphanumeric() || b"_-.[]%+".contains(it);
    match text.iter().position(|it| !is_name(it)) {
        Some(0) if begins(b"<") => "XML or HTML, which is not JSON",
        Some(end @ 1..) if text[end] == b'=' => "the fields of a form, which are not JSON",
        Some(_) | None => "text that is not JSON",
    }
}

/// The same, of a value.
pub fn kind_of_value(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_a_slug_of_its_own() {
        let slugs: std::collections::BTreeSet<_> =
            Kind::ALL.into_iter().map(|it| it.parts().1).collect();
        assert_eq!(slugs.len(), Kind::ALL.len());
    }

    #[test]
    fn bodies_that_are_not_json_are_named() {
        for (text, expected) in [
            (&b" {\"a\""[..], "an object"),
            (b"[", "an array"),
            (b"\"a", "a string"),
            (b"true", "a boolean"),
            (b" null ", "null"),
            (b"-1.5e3", "a number"),
            (b"", "nothing"),
            (b"<a/>", "XML or HTML, which is not JSON"),
            (b"type=x&b=1", "the fields of a form, which are not JSON"),
            (b"payload%5Ba%5D=1", "the fields of a form, which are not JSON"),
            (b"truely", "text that is not JSON"),
            (b"nothing", "text that is not JSON"),
            (b"12 apples", "text that is not JSON"),
            (b"=", "text that is not JSON"),
            (b"'a'", "text that is not JSON"),
            (b"\xff\xfe{\0}\0", "text in UTF-16 or UTF-32, where JSON is UTF-8"),
            (b"{\0\"\0", "text in UTF-16 or UTF-32, where JSON is UTF-8"),
            (b"\0{\0\"", "text in UTF-16 or UTF-32, where JSON is UTF-8"),
            (b"\x1f\x8b\x08", "compressed bytes, of which no `Content-Encoding` tells"),
            (b"a\xff", "bytes that are no UTF-8, and so not JSON"),
        ] {
            assert_eq!(kind_of_json(text), expected, "{}", text.escape_ascii());
        }
    }

    #[test]
    fn a_refusal_says_when_to_come_back_and_nothing_of_the_inside() {
        for (error, status, retry_after) in [
            (Refused::Overloaded { retry_after: Duration::from_millis(1001) }, 429, Some("2")),
            (Refused::DiskFull { retry_after: Duration::from_secs(10) }, 507, Some("10")),
            (Refused::Store(StoreError::Unavailable("10.0.0.7 refused".into())), 503, Some("5")),
            (Refused::Store(StoreError::Damaged { what: "block" }), 500, None),
        ] {
            let problem = Problem::from(error);
            assert!(!String::from_utf8(problem.to_json()).unwrap().contains("10.0.0.7"));
            let response = problem.into_response();
            assert_eq!(response.status().as_u16(), status);
            let header = response.headers().get(header::RETRY_AFTER);
            assert_eq!(header.map(|it| it.to_str().unwrap()), retry_after);
        }
    }
}
