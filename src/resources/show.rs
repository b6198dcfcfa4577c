//! From the model back to what people write: for export, and for the answers of the API.

use super::{
    AuthSpec, BasicSpec, DestinationKind, DestinationSpec, PipelineSpec, RouteSpec, SecretSpec,
};
use crate::model::{Auth, Connection, Destination, Pipeline, Policy};

/// Every field, with placeholders for secrets.
pub(super) fn destination(model: &Destination) -> DestinationSpec {
    let Connection::Webhook(webhook) = &model.connection;
    let placeholder = |field: &str| SecretSpec::placeholder(&model.name, field);
    let policy = model.policy.clone();
    DestinationSpec {
        name: model.name.clone(),
        kind: DestinationKind::Webhook,
        url: webhook.urls.first().map(|it| it.as_text().to_owned()).unwrap_or_default(),
        method: webhook.contract.method,
        headers: (webhook.headers.keys())
            .map(|name| (name.clone(), placeholder(&format!("header_{name}"))))
            .collect(),
        auth: match &webhook.auth {
            Auth::None => AuthSpec::None,
            Auth::Bearer { .. } => AuthSpec::Bearer(placeholder("token")),
            Auth::Basic { username, .. } => AuthSpec::Basic(BasicSpec {
                username: username.clone(),
                password: placeholder("password"),
            }),
        },
        secret: (!webhook.signing_keys.is_empty()).then(|| placeholder("secret")),
        signed: !webhook.signing_keys.is_empty(),
        ordering: Some(policy.ordering),
        retry: Some(policy.retry),
        expires_after: policy.expires_after,
        concurrency: Some(policy.concurrency),
        rate_limit: policy.rate_limit,
        timeout: Some(policy.timeout),
        breaker: Some(policy.breaker),
    }
}

impl DestinationSpec {
    /// Without the fields that have their default anyway, as a person would write it.
    pub fn brief(mut self) -> Self {
        let default = Policy::default();
        self.ordering = self.ordering.filter(|it| *it != default.ordering);
        self.retry = self.retry.filter(|it| *it != default.retry);
        self.concurrency = self.concurrency.filter(|it| *it != default.concurrency);
        self.timeout = self.timeout.filter(|it| *it != default.timeout);
        self.breaker = self.breaker.filter(|it| *it != default.breaker);
        self
    }
}

pub(super) fn pipeline(model: &Pipeline) -> PipelineSpec {
    PipelineSpec {
        name: model.name.clone(),
        enabled: model.enabled,
        on: model.on.clone(),
        sources: model.sources.clone(),
        when: model.when.clone(),
        steps: model.steps.clone(),
        routes: (model.routes.iter())
            .map(|it| RouteSpec {
                to: it.to.clone(),
                when: it.when.clone(),
                steps: it.steps.clone(),
            })
            .collect(),
    }
}
