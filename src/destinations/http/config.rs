//! The settings of an `http` destination, and what may stand in them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::errors::StatusPattern;
use crate::{
    destinations::webhook::{
        check::LONGEST_URL,
        check_target,
        headers::{Reserved, check_header_beside, check_names},
        secrets::check_username,
    },
    expr::Template,
    model::{Policy, Target},
    settings::{AuthSpec, Invalid, SecretSpec},
};

const LONGEST_METHOD: usize = 32;
const MOST_STATUSES: usize = 32;

/// A request to an HTTP API.
#[derive(Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct HttpSettings {
    /// An absolute `https` or `http` URL. Its path and query may hold `{{ … }}` over the event; each value is
    /// percent-encoded.
    #[schema(example = "https://api.acme.com/users/{{ payload.user_id }}")]
    pub url: String,
    /// Any method of HTTP but `CONNECT` and `TRACE`. `GET` and `HEAD` take no `body`.
    #[serde(default = "post")]
    #[schema(default = "POST", example = "PUT")]
    pub method: String,
    /// Sent with every attempt. Their values are kept like secrets, and may hold `{{ … }}`. A value must be printable
    /// ASCII for every event.
    #[serde(default)]
    #[schema(value_type = BTreeMap<String, String>)]
    pub headers: BTreeMap<String, SecretSpec>,
    #[serde(default)]
    pub auth: AuthSpec,
    /// A template of any text over the event, at most 64 KiB; its result at most 1 MiB. `{{ … }}` inserts a value as it
    /// is, `{{ … | tojson }}` as JSON, `{{ … | urlencode }}` for a form. The header `content-type` is
    /// `application/json` unless `headers` has another one. Left out: the request has no body.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "{\"text\": {{ payload.text | tojson }}}")]
    pub body: Option<String>,
    /// The statuses that count as delivered: `2xx` for all from 200 to 299, or a number.
    #[serde(default = "usual_success")]
    #[schema(value_type = Vec<String>, example = json!(["2xx", "409"]))]
    pub success: Vec<StatusPattern>,
}

fn post() -> String {
    "POST".to_owned()
}

fn usual_success() -> Vec<StatusPattern> {
    vec![StatusPattern::Hundred(2)]
}

impl HttpSettings {
    /// What is wrong with them, each with its field.
    pub(super) fn check_all(&self, policy: &Policy, wrong: &mut Vec<Invalid>) {
        self.check_url(wrong);
        self.check_method(wrong);
        self.check_headers(wrong);
        self.check_auth(wrong);
        if let Some(body) = &self.body
            && let Err(error) = Template::compile(body)
        {
            wrong.push(Invalid::expression("body", &error));
        }
        if self.success.is_empty() || self.success.len() > MOST_STATUSES {
            let rule = format!("must hold 1 to {MOST_STATUSES} statuses");
            let found = if self.success.is_empty() { "none" } else { "more" };
            wrong.push(Invalid::new("success", rule, found));
        }
        if policy.batch.is_some() {
            let rule = "must be left out: a destination of the kind `http` sends one event in each request";
            wrong.push(Invalid::new("batch", rule, "a batch"));
        }
    }

    pub(super) fn target(&self) -> Result<Target, &'static str> {
        Target::try_from(self.url.clone())
    }

    fn check_url(&self, wrong: &mut Vec<Invalid>) {
        if self.url.len() > LONGEST_URL {
            let rule = format!("must be at most {LONGEST_URL} bytes");
            wrong.push(Invalid::new("url", rule, "a longer text"));
            return;
        }
        let target = match self.target() {
            Ok(target) => target,
            Err(rule) => {
                wrong.push(Invalid::new("url", format!("must be a URL: {rule}"), "another text"));
                return;
            }
        };
        if target.is_template() {
            if let Err(error) = Template::compile(target.as_text()) {
                wrong.push(Invalid::expression("url", &error));
            } else if let Err(error) = check_target(&target) {
                let rule = format!("must be a URL with templates: {error}");
                wrong.push(Invalid::new("url", rule, "another text"));
            }
        }
    }

    fn check_method(&self, wrong: &mut Vec<Invalid>) {
        let upper = self.method.to_ascii_uppercase();
        let is_token = http::Method::from_bytes(self.method.as_bytes()).is_ok();
        if !is_token || self.method.len() > LONGEST_METHOD {
            let rule = format!("must be a method of HTTP, at most {LONGEST_METHOD} bytes");
            wrong.push(Invalid::new("method", rule, "another text"));
        } else if self.method != upper && is_common(&upper) {
            let rule = format!("must be in upper case, since methods differ by case: `{upper}`");
            wrong.push(Invalid::new("method", rule, "lower case"));
        } else if matches!(upper.as_str(), "CONNECT" | "TRACE") {
            let rule = "must be a method that delivers: `CONNECT` and `TRACE` do not";
            wrong.push(Invalid::new("method", rule, "one of them"));
        }
        if matches!(self.method.as_str(), "GET" | "HEAD") && self.body.is_some() {
            let rule = format!("must be left out where `method` is `{}`", self.method);
            wrong.push(Invalid::new("body", rule, "a body"));
        }
    }

    fn check_headers(&self, wrong: &mut Vec<Invalid>) {
        check_names(self.headers.keys(), wrong);
        for (name, value) in &self.headers {
            let path = format!("headers.{name}");
            let text = if value.is_placeholder() { "" } else { value.secret().expose() };
            if let Err(error) = check_header_beside(Reserved::Plain, name, text) {
                let rule = format!("must be a header that can be sent: {error}");
                wrong.push(Invalid::new(path, rule, "another text"));
            }
        }
    }

    fn check_auth(&self, wrong: &mut Vec<Invalid>) {
        let is_sendable =
            |it: &SecretSpec| http::HeaderValue::from_str(it.secret().expose()).is_ok();
        match &self.auth {
            AuthSpec::Bearer(token) if !is_sendable(token) => {
                let rule = "must have no control characters";
                wrong.push(Invalid::new("auth.bearer", rule, "another text"));
            }
            AuthSpec::Basic(basic) => check_username(&basic.username, wrong),
            AuthSpec::None | AuthSpec::Bearer(_) => (),
        }
    }
}

/// A method that nobody means in lower case.
fn is_common(upper: &str) -> bool {
    let all =
        ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "QUERY", "CONNECT", "TRACE"];
    all.contains(&upper)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::settings::tree::TreeNode;

    fn wrong(more: Value) -> String {
        let mut settings = json!({"url": "https://a.com/"});
        settings.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let settings: HttpSettings = match TreeNode::from(settings).read() {
            Ok(settings) => settings,
            Err(invalid) => return invalid.to_string(),
        };
        let mut wrong = Vec::new();
        settings.check_all(&Policy::default(), &mut wrong);
        wrong.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
    }

    #[test]
    fn settings_that_can_be_sent_are_accepted() {
        for more in [
            json!({}),
            json!({"method": "GET"}),
            json!({"method": "PURGE-ALL", "body": "x"}),
            json!({"method": "purge"}),
            json!({"headers": {"Content-Type": "text/xml", "user-agent": "x", "webhook-id": "{{ id }}"}}),
            json!({"success": ["2xx", "404", 409]}),
            json!({"body": "{% if payload.a %}{{ payload.a | tojson }}{% endif %}"}),
            json!({"auth": {"basic": {"username": "ü", "password": "ü"}}}),
        ] {
            assert_eq!(wrong(more.clone()), "", "{more}");
        }
    }

    #[test]
    fn settings_that_cannot_be_sent_are_refused() {
        for (more, starts) in [
            (json!({"url": "/x"}), "url: must be a URL: "),
            (json!({"url": "https://{{ payload.host }}/"}), "url: must be a URL: "),
            (json!({"url": "https://a.com/{{ nonsense }}"}), "url: must have one of "),
            (json!({"url": "x".repeat(4097)}), "url: must be at most 4096 bytes"),
            (json!({"method": "GE T"}), "method: must be a method of HTTP"),
            (json!({"method": "POST\r\nx: 1"}), "method: must be a method of HTTP"),
            (json!({"method": ""}), "method: must be a method of HTTP"),
            (json!({"method": "post"}), "method: must be in upper case"),
            (json!({"method": "CONNECT"}), "method: must be a method that delivers"),
            (
                json!({"method": "GET", "body": "x"}),
                "body: must be left out where `method` is `GET`",
            ),
            (json!({"headers": {"a b": "1"}}), "headers.a b: must be a header"),
            (json!({"headers": {"x-a": "1\r\nx-b: 2"}}), "headers.x-a: must be a header"),
            (json!({"headers": {"host": "a"}}), "headers.host: must be a header"),
            (
                json!({"headers": {"x-a": "1", "X-A": "2"}}),
                "headers.x-a: must be a name that stands once",
            ),
            (json!({"headers": {"authorization": "x"}}), "headers.authorization: must be a header"),
            (
                json!({"auth": {"basic": {"username": "a:b", "password": "p"}}}),
                "auth.basic.username: ",
            ),
            (json!({"auth": {"bearer": "a\nb"}}), "auth.bearer: must have no control characters"),
            (json!({"body": "{{ payload.a"}), "body: must have "),
            (json!({"success": []}), "success: must hold 1 to 32 statuses, found none"),
            (json!({"success": ["9xx"]}), "success[0]: must be `1xx` to `5xx`"),
            (json!({"success": [99]}), "success[0]: must be `1xx` to `5xx`"),
        ] {
            let found = wrong(more.clone());
            assert!(found.starts_with(starts), "{more}: {found}");
            assert!(!found.contains("; "), "{more}: {found}");
        }
    }
}
