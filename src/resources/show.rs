//! From the model back to what people write: for export, and for the answers of the API.

use std::collections::BTreeMap;

use super::{
    AuthSpec, BasicSpec, DestinationKind, DestinationSpec, PipelineSpec, RouteSpec, SecretSpec,
    Setting, SignatureSpec, Span,
};
use crate::{
    destinations::profiles::{self, Values},
    model::{Auth, Connection, Contract, Destination, Name, Pipeline, Policy, Profile},
};

/// Every field, with placeholders for secrets.
pub(super) fn destination(model: &Destination) -> DestinationSpec {
    let Connection::Webhook(webhook) = &model.connection;
    let placeholder = |field: &str| SecretSpec::placeholder(&model.name, field);
    let mut urls = webhook.urls.iter().map(|it| it.as_text().to_owned());
    let (url, urls) = match webhook.urls.len() {
        1 => (urls.next(), Vec::new()),
        _ => (None, urls.collect()),
    };
    DestinationSpec {
        url,
        urls,
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
        signed: Some(!webhook.signing_keys.is_empty()),
        ..values(model.name.clone(), webhook.profile, &webhook.contract, &model.policy)
    }
}

/// A destination of which only the values are said that a profile has, too.
pub(super) fn values(
    name: Name,
    profile: Profile,
    contract: &Contract,
    policy: &Policy,
) -> DestinationSpec {
    let (contract, policy) = (contract.clone(), policy.clone());
    let signature = contract.signature;
    DestinationSpec {
        name,
        kind: DestinationKind::Webhook,
        profile,
        url: None,
        urls: Vec::new(),
        headers: BTreeMap::new(),
        auth: AuthSpec::None,
        secret: None,
        signed: None,
        envelope: Some(contract.envelope),
        method: Some(contract.method),
        user_agent: Some(contract.user_agent),
        signature: Some(SignatureSpec {
            scheme: Some(signature.scheme),
            header: Some(signature.header),
            over: Some(signature.over),
        }),
        idempotency_key: Some(contract.idempotency_key),
        https_only: Some(contract.https_only),
        verify: Some(contract.verify),
        whole_answer: Some(contract.whole_answer),
        integration: Some(Setting::of(contract.integration)),
        on_gone: Some(contract.on_gone),
        ordering: Some(policy.ordering),
        retry: Some(policy.retry),
        retry_on: Some(policy.retry_on),
        expires_after: Some(Setting::of(policy.expires_after.map(Span::from))),
        concurrency: Some(policy.concurrency),
        rate_limit: Some(Setting::of(policy.rate_limit)),
        timeout: Some(policy.timeout),
        retry_after_at_most: Some(policy.retry_after_at_most),
        breaker: Some(policy.breaker),
        batch: Some(Setting::of(policy.batch)),
    }
}

impl DestinationSpec {
    /// Without the values that its profile has anyway, as a person would write it.
    pub fn brief(mut self) -> Self {
        fn keep<T: PartialEq>(own: &mut Option<T>, usual: &Option<T>) {
            if own == usual {
                *own = None;
            }
        }
        let Values { contract, policy, without_secret, .. } = profiles::values(self.profile);
        let is_usual = Self { signed: None, ..self.clone() }.is_signed(without_secret, false);
        self.signed = self.signed.filter(|it| *it != is_usual);
        let usual = values(self.name.clone(), self.profile, &contract, &policy);
        self.signature = self.signature.and_then(|it| it.brief(&contract.signature));
        keep(&mut self.envelope, &usual.envelope);
        keep(&mut self.method, &usual.method);
        keep(&mut self.user_agent, &usual.user_agent);
        keep(&mut self.idempotency_key, &usual.idempotency_key);
        keep(&mut self.https_only, &usual.https_only);
        keep(&mut self.verify, &usual.verify);
        keep(&mut self.whole_answer, &usual.whole_answer);
        keep(&mut self.integration, &usual.integration);
        keep(&mut self.on_gone, &usual.on_gone);
        keep(&mut self.retry_after_at_most, &usual.retry_after_at_most);
        keep(&mut self.ordering, &usual.ordering);
        keep(&mut self.retry, &usual.retry);
        keep(&mut self.retry_on, &usual.retry_on);
        keep(&mut self.expires_after, &usual.expires_after);
        keep(&mut self.concurrency, &usual.concurrency);
        keep(&mut self.rate_limit, &usual.rate_limit);
        keep(&mut self.timeout, &usual.timeout);
        keep(&mut self.breaker, &usual.breaker);
        keep(&mut self.batch, &usual.batch);
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
        tests: model.tests.clone(),
    }
}
