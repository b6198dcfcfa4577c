//! What a browser finds at `/`. The dashboard is not in this build: a page says so, and what works.
//!
//! The page is one file that loads nothing, and its content security policy allows nothing but its
//! own style.

use std::sync::LazyLock;

use axum::{
    Router,
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use sha2::{Digest as _, Sha256};

use crate::problem::{Kind, Problem};

const PAGE: &str = include_str!("dashboard.html");

/// Where the page says that the gateway is, if the request does not say it in a way that can be shown.
const USUAL_URL: &str = "http://127.0.0.1:8080";

pub fn router() -> Router {
    Router::new().route("/", get(page).fallback(refuse))
}

async fn refuse() -> Response {
    Problem::new(Kind::MethodNotAllowed).into_response()
}

async fn page(headers: HeaderMap) -> Response {
    let url = url(&headers).unwrap_or_else(|| USUAL_URL.to_owned());
    let text = PAGE.replace("{version}", env!("CARGO_PKG_VERSION")).replace("{url}", &url);
    let Ok(policy) = HeaderValue::from_str(&POLICY) else {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    };
    let fixed: [(HeaderName, &'static str); 4] = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        // It names the host that was asked for.
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
    ];
    (fixed, [(header::CONTENT_SECURITY_POLICY, policy)], text).into_response()
}

/// Nothing may be loaded, run, framed or sent; the page's own style is known by its hash.
static POLICY: LazyLock<String> = LazyLock::new(|| {
    let style = PAGE.split_once("<style>").and_then(|(_, rest)| rest.split_once("</style>"));
    let style = style.map_or("", |(style, _)| style);
    let hash = STANDARD.encode(Sha256::digest(style.as_bytes()));
    format!(
        "default-src 'none'; style-src 'sha256-{hash}'; img-src data:; base-uri 'none'; \
         form-action 'none'; frame-ancestors 'none'"
    )
});

/// Where the browser has found us. The page repeats it, so a host with any letter that HTML or a
/// shell could mistake for its own is as good as none.
fn url(headers: &HeaderMap) -> Option<String> {
    let host = headers.get(header::HOST)?.to_str().ok()?;
    let is_plain = |it: char| it.is_ascii_alphanumeric() || matches!(it, '.' | '-' | ':');
    let is_host = !host.is_empty() && host.len() <= 255 && host.chars().all(is_plain);
    let is_behind_tls = headers.get("x-forwarded-proto").is_some_and(|it| it == "https");
    let scheme = if is_behind_tls { "https" } else { "http" };
    is_host.then(|| format!("{scheme}://{host}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_repeats_only_a_plain_host() {
        for (host, proto, expected) in [
            ("gateway.acme.com:8080", "", Some("http://gateway.acme.com:8080")),
            ("gateway.acme.com", "https", Some("https://gateway.acme.com")),
            ("127.0.0.1:8080", "javascript", Some("http://127.0.0.1:8080")),
            ("<script>alert(1)</script>", "", None),
            ("a.b/$(reboot)", "", None),
            ("a b", "", None),
            ("", "", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, host.parse().unwrap());
            headers.insert("x-forwarded-proto", proto.parse().unwrap());
            assert_eq!(url(&headers).as_deref(), expected, "{host}");
        }
    }

    #[test]
    fn the_page_loads_nothing_and_the_policy_names_its_style() {
        for word in ["<script", "src=", "@import", "url(", "style=", "http://", "https://"] {
            assert!(!PAGE.contains(word), "{word}");
        }
        assert_eq!(PAGE.matches("<style>").count(), 1);
        assert!(!POLICY.contains("unsafe"));
        // The hash of nothing: the style was not found.
        assert!(!POLICY.contains("47DEQpj8HBSa"), "{}", *POLICY);
    }
}
