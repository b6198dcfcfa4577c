//! From a webhook back to what people write.

use super::config::{SignatureSpec, WebhookSpec};
use crate::{
    destinations::profiles::{self, Values},
    model::{Auth, Contract, Name, Profile, Webhook},
    settings::{AuthSpec, BasicSpec, SecretSpec, Setting},
};

impl WebhookSpec {
    /// Every field, with placeholders for secrets. `name` is that of the destination.
    pub(super) fn of(webhook: &Webhook, name: &Name) -> Self {
        let placeholder = |field: &str| SecretSpec::placeholder(name, field);
        let mut urls = webhook.urls.iter().map(|it| it.as_text().to_owned());
        let (url, urls) = match webhook.urls.len() {
            1 => (urls.next(), Vec::new()),
            _ => (None, urls.collect()),
        };
        Self {
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
            ..Self::values(webhook.profile, &webhook.contract)
        }
    }

    /// A webhook of which only the values are said that a profile has, too.
    pub fn values(profile: Profile, contract: &Contract) -> Self {
        let contract = contract.clone();
        let signature = contract.signature;
        Self {
            profile,
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
            ..Self::default()
        }
    }

    /// Without the values that its profile has anyway, as a person would write it.
    pub(super) fn brief(mut self) -> Self {
        fn keep<T: PartialEq>(own: &mut Option<T>, usual: &Option<T>) {
            if own == usual {
                *own = None;
            }
        }
        let Values { contract, without_secret, .. } = profiles::values(self.profile);
        let is_usual = Self { signed: None, ..self.clone() }.is_signed(without_secret, false);
        self.signed = self.signed.filter(|it| *it != is_usual);
        let usual = Self::values(self.profile, &contract);
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
        self
    }
}
