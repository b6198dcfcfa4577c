//! What browsers need before they let a page talk to us: everything that they ask about is allowed,
//! by name, since `*` covers neither `Authorization` nor credentials.

use axum::{
    extract::Request,
    http::{HeaderMap, HeaderValue, Method, StatusCode, header},
    middleware::Next,
    response::{IntoResponse as _, Response},
};

/// What a page may do with the routes behind it.
struct Open {
    methods: &'static str,
    /// Cookies may come along. Segment's clients ask for that; we look at none.
    credentials: bool,
}

const SEGMENT: Open = Open { methods: "GET,POST,OPTIONS", credentials: true };
const EVENTS: Open = Open { methods: "POST,OPTIONS", credentials: false };

/// For every route that Segment's clients use.
pub async fn segment(request: Request, next: Next) -> Response {
    opened(&SEGMENT, request, next).await
}

/// For the routes of the API on which a page may post events, with a key that can do nothing else. The
/// rest of the API, such as reading events at the same path, stays closed to pages of other origins.
pub async fn events(request: Request, next: Next) -> Response {
    if !request.headers().contains_key(header::ORIGIN) {
        return next.run(request).await;
    }
    let asked = match *request.method() {
        Method::OPTIONS => request.headers().get(header::ACCESS_CONTROL_REQUEST_METHOD),
        _ => None,
    };
    let is_post = request.method() == Method::POST || asked.is_some_and(|it| it == "POST");
    if is_post && ["/api/v1/events", "/api/v1/events/batch"].contains(&request.uri().path()) {
        opened(&EVENTS, request, next).await
    } else {
        next.run(request).await
    }
}

/// Answers preflights, and opens every other answer, errors too, to the page that asked.
async fn opened(open: &Open, request: Request, next: Next) -> Response {
    let asked = request.headers().get(header::ACCESS_CONTROL_REQUEST_HEADERS).cloned();
    let origin = request.headers().get(header::ORIGIN).cloned();
    let mut response = if request.method() == Method::OPTIONS {
        StatusCode::NO_CONTENT.into_response()
    } else {
        next.run(request).await
    };
    open.put(response.headers_mut(), origin, asked);
    response
}

impl Open {
    fn put(
        &self,
        headers: &mut HeaderMap,
        origin: Option<HeaderValue>,
        asked: Option<HeaderValue>,
    ) {
        headers.append(header::VARY, HeaderValue::from_static("origin"));
        let Some(origin) = origin else { return };
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        if self.credentials {
            let yes = HeaderValue::from_static("true");
            headers.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, yes);
        }
        let methods = HeaderValue::from_static(self.methods);
        headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, methods);
        headers.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("86400"));
        // Without this, a script cannot read when to come back.
        let exposed = HeaderValue::from_static("Retry-After, X-RateLimit-Reset");
        headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, exposed);
        if let Some(asked) = asked {
            headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, asked);
        }
    }
}
