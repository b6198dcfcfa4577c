//! What Segment's clients are answered, in the form that each of them understands.

use std::borrow::Cow;

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse as _, Response},
};
use serde::Serialize;

use crate::problem::{Kind, Problem};

/// Why one message was not taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Fault {
    pub code: &'static str,
    pub message: Cow<'static, str>,
}

impl Fault {
    pub fn new(code: &'static str, message: impl Into<Cow<'static, str>>) -> Self {
        Self { code, message: message.into() }
    }
}

/// Why a request was not taken.
#[derive(Debug)]
pub enum RefusedRequest {
    /// As a whole.
    Whole(Problem),
    /// The one message that it was had this fault.
    Message(Fault),
}

impl From<Problem> for RefusedRequest {
    fn from(problem: Problem) -> Self {
        Self::Whole(problem)
    }
}

/// What became of a request: everything was taken but for these.
#[derive(Debug, Default, Serialize)]
pub struct TakenRequest {
    success: Success,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    rejected: Vec<Rejected>,
}

#[derive(Debug, Serialize)]
struct Rejected {
    /// Its place in the batch, from 0.
    index: usize,
    #[serde(flatten)]
    fault: Fault,
}

/// Always true: the request as a whole was understood.
#[derive(Debug, Default)]
struct Success;

impl Serialize for Success {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bool(true)
    }
}

impl TakenRequest {
    /// Of a large batch that is all wrong, the first faults say enough.
    const SHOWN: usize = 100;

    pub fn reject(&mut self, index: usize, fault: Fault) {
        if self.rejected.len() < Self::SHOWN {
            // Those whose schema refuses them are known after the others.
            let place = self.rejected.partition_point(|it| it.index <= index);
            self.rejected.insert(place, Rejected { index, fault });
        }
    }

    /// The fault of a call that was alone in its request.
    pub fn only_fault(&mut self) -> Option<Fault> {
        self.rejected.pop().map(|it| it.fault)
    }
}

/// Exactly 200 on success: some clients take 201, 202 and 204 for a failure, and send again.
pub fn answered(outcome: Result<TakenRequest, RefusedRequest>) -> Response {
    match outcome {
        Ok(taken) => (StatusCode::OK, Json(taken)).into_response(),
        Err(RefusedRequest::Whole(problem)) => refused(&problem),
        Err(RefusedRequest::Message(fault)) => {
            let slug = Kind::InvalidRequest.parts().1;
            metrics::counter!("tidegate_ingest_refused_total", "reason" => slug).increment(1);
            let body = serde_json::json!({ "success": false, "code": fault.code, "message": fault.message });
            (StatusCode::BAD_REQUEST, Json(body)).into_response()
        }
    }
}

/// The statuses that make clients stop (400, 401) or come back (429, 5xx), with the `code` and the
/// `message` without which some of them would send again what can never be taken.
fn refused(problem: &Problem) -> Response {
    let kind = problem.kind();
    let (status, slug, title) = kind.parts();
    metrics::counter!("tidegate_ingest_refused_total", "reason" => slug).increment(1);
    let status = match kind {
        // 400 alone is understood as final by all of them.
        Kind::InvalidRequest
        | Kind::InvalidJson
        | Kind::InvalidBody
        | Kind::BodyTooLarge
        | Kind::UnsupportedEncoding
        | Kind::UrlTooLong
        | Kind::Rejected
        | Kind::Conflict
        | Kind::FailingTests
        | Kind::Loop => 400,
        // 429 is not counted as one of a client's few tries; 503 is.
        Kind::TooManyConnections | Kind::Overloaded | Kind::RateLimited => 429,
        Kind::DiskFull | Kind::Unavailable | Kind::Internal => 503,
        Kind::Unauthorized
        | Kind::UnknownWriteKey
        | Kind::NotVerified
        | Kind::Forbidden
        | Kind::NotFound
        | Kind::MethodNotAllowed
        | Kind::BodyTimeout => status,
    };
    let message = match (&problem.detail, problem.errors.first()) {
        (Some(detail), _) => detail.to_string(),
        (None, Some(error)) => format!("{}: {}; found {}", error.field, error.rule, error.found),
        (None, None) => title.to_owned(),
    };
    let body = serde_json::json!({ "success": false, "code": code(slug), "message": message });
    let mut response =
        (StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR), Json(body))
            .into_response();
    if matches!(status, 429 | 503) {
        /// More than this, no client waits.
        const LONGEST: u64 = 300;
        let seconds = problem.retry_after_seconds().unwrap_or(1).clamp(1, LONGEST);
        let value = HeaderValue::from(seconds);
        response.headers_mut().insert(header::RETRY_AFTER, value.clone());
        response.headers_mut().insert("x-ratelimit-reset", value);
    }
    response
}

/// `invalid-json` as clients of this kind write codes: `invalid_json`.
fn code(slug: &str) -> String {
    slug.replace('-', "_")
}
