//! One attempt: one message, one request, one outcome.

use std::time::Duration;

use async_trait::async_trait;
use http::{HeaderMap, header};
use jiff::Timestamp;
use tokio::time::Instant;

use super::{
    config::HttpSettings,
    errors::{self, StatusPattern},
    message::{OwnRequest, RequestTemplates},
};
use crate::{
    destinations::{
        DestinationClient, Preview,
        egress::{Egress, Endpoint},
        webhook::{
            preview::{MASK, shown},
            refused,
        },
    },
    model::{Class, Destination, EndpointUrl, Message, Outcome},
};

pub(super) struct HttpClient {
    requests: RequestTemplates,
    endpoint: Endpoint,
    /// For people: a URL's path may hold secrets.
    origin: String,
    success: Vec<StatusPattern>,
    timeout: Duration,
}

impl HttpClient {
    /// From settings whose secrets are in clear. Nothing is sent.
    pub fn new(
        settings: &HttpSettings,
        destination: &Destination,
        egress: &Egress,
    ) -> Result<Self, String> {
        let target = settings.target()?;
        let origin = target.origin();
        let fixed = if target.is_template() { &origin } else { target.as_text() };
        let url = EndpointUrl::try_from(fixed.to_owned())?;
        Ok(Self {
            requests: RequestTemplates::new(settings, &target)?,
            endpoint: egress.endpoint(&url).map_err(|it| it.to_string())?,
            origin,
            success: settings.success.clone(),
            timeout: destination.policy.timeout,
        })
    }

    fn request(&self, messages: &[Message]) -> Result<OwnRequest, Outcome> {
        match messages {
            [message] => self.requests.of(message, &self.endpoint),
            _ => Err(refused(Class::Config, "the kind `http` sends one event in each request")),
        }
    }

    fn shown(&self, headers: &HeaderMap, length: usize) -> Vec<(String, String)> {
        shown(headers, length, |name, _| {
            let is_secret = *name == header::AUTHORIZATION || self.requests.is_own(name);
            is_secret.then(|| MASK.to_owned())
        })
    }
}

#[async_trait]
impl DestinationClient for HttpClient {
    fn kind(&self) -> &'static str {
        "http"
    }

    async fn send(&self, messages: &[Message], at: Timestamp) -> Outcome {
        let OwnRequest { target, headers, body } = match self.request(messages) {
            Ok(request) => request,
            Err(outcome) => return outcome,
        };
        let start = Instant::now();
        let (method, deadline) = (self.requests.method.clone(), start + self.timeout);
        let answer = match target {
            None => self.endpoint.send(method, headers, body, deadline).await,
            Some(target) => self.endpoint.send_to(target, method, headers, body, deadline).await,
        };
        let duration = start.elapsed();
        match answer {
            Ok(answer) => {
                let now = at.checked_add(duration).unwrap_or(at);
                let is_template = self.requests.is_template();
                errors::outcome(&answer, &self.success, is_template, now, duration)
            }
            Err(failure) => failure.outcome(duration),
        }
    }

    fn preview(&self, messages: &[Message], _: Timestamp) -> Result<Vec<Preview>, Outcome> {
        let OwnRequest { target, headers, body } = self.request(messages)?;
        let method = self.requests.method.clone();
        let sent = self.endpoint.prepare(target, method, headers, body.clone());
        Ok(vec![Preview {
            method: self.requests.method.to_string(),
            url: format!("{}{}", self.origin.trim_end_matches('/'), sent.uri()),
            headers: self.shown(sent.headers(), body.len()),
            signature: None,
            body,
        }])
    }
}
