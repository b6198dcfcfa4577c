//! From an event to a request. Pure.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, header};

use super::config::HttpSettings;
use crate::{
    destinations::{
        egress::Endpoint,
        profiles::USER_AGENT,
        webhook::{
            self, HOPS, MOST_HOPS,
            headers::{OwnHeaders, Reserved},
            refused,
            target::TargetTemplate,
        },
    },
    expr::Template,
    model::{Class, Message, Outcome, Target},
    settings::AuthSpec,
};

/// What a request has where `headers` says nothing of it.
const USUAL_TYPE: &str = "application/json";

/// A request without its connection. Its headers hold secrets, so it has no `Debug`.
pub(super) struct OwnRequest {
    /// `None`: the URL of the settings, which is no template.
    pub target: Option<Uri>,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// The templates of one destination, compiled. It holds secrets, and has no `Debug`.
pub(super) struct RequestTemplates {
    pub method: Method,
    target: Option<TargetTemplate>,
    /// What every request has.
    fixed: HeaderMap,
    own: OwnHeaders,
    body: Option<Template>,
}

impl RequestTemplates {
    /// From settings whose secrets are in clear.
    pub fn new(settings: &HttpSettings, target: &Target) -> Result<Self, String> {
        let clear = |(name, value): (&String, &crate::settings::SecretSpec)| {
            (name.clone(), value.secret().expose().to_owned())
        };
        let headers = settings.headers.iter().map(clear).collect();
        let own = OwnHeaders::new(Reserved::Plain, &headers, None).map_err(|it| it.to_string())?;
        let mut fixed = HeaderMap::new();
        fixed.insert(header::USER_AGENT, HeaderValue::from_static(USER_AGENT));
        if settings.body.is_some() {
            fixed.insert(header::CONTENT_TYPE, HeaderValue::from_static(USUAL_TYPE));
        }
        for (name, value) in &own.fixed {
            fixed.insert(name.clone(), value.clone());
        }
        let authorization = match &settings.auth {
            AuthSpec::None => None,
            AuthSpec::Bearer(token) => Some(webhook::bearer(token.secret().expose())),
            AuthSpec::Basic(it) => {
                Some(webhook::basic(&it.username, it.password.secret().expose()))
            }
        };
        if let Some(value) = authorization {
            let value = value.ok_or("`auth` has characters that HTTP cannot carry")?;
            fixed.insert(header::AUTHORIZATION, value);
        }
        let template = target.is_template().then(|| TargetTemplate::compile(target)).transpose();
        let body = settings.body.as_deref().map(Template::compile).transpose();
        Ok(Self {
            method: Method::from_bytes(settings.method.as_bytes()).map_err(|it| it.to_string())?,
            target: template.map_err(|it| it.to_string())?,
            fixed,
            own,
            body: body.map_err(|it| it.to_string())?,
        })
    }

    pub fn is_template(&self) -> bool {
        self.target.is_some()
    }

    /// Whether the owner set this header.
    pub fn is_own(&self, name: &HeaderName) -> bool {
        self.own.has(name)
    }

    /// The request for this message, or the outcome where none can be made.
    pub fn of(&self, message: &Message, endpoint: &Endpoint) -> Result<OwnRequest, Outcome> {
        let misfit = |reason: String| refused(Class::Config, reason);
        let hops = webhook::hops(message) + 1;
        if hops > MOST_HOPS {
            let reason = "the event has passed through 8 gateways: it seems to go in circles";
            return Err(refused(Class::Abort, reason));
        }
        let facts = webhook::facts(message);
        let target = match &self.target {
            None => None,
            Some(template) => {
                let url = template.resolve(&facts).map_err(|it| misfit(it.to_string()))?;
                Some(endpoint.target(&url).map_err(|it| misfit(it.to_string()))?)
            }
        };
        let mut headers = self.fixed.clone();
        headers.extend(self.own.render(&facts).map_err(|it| misfit(it.to_string()))?);
        headers.insert(HOPS, HeaderValue::from(hops));
        let body = match &self.body {
            None => Bytes::new(),
            Some(template) => {
                let text = template.render(&facts);
                text.map_err(|it| misfit(format!("the template of the body: {it}")))?.into()
            }
        };
        Ok(OwnRequest { target, headers, body })
    }
}
