//! Sources as people write them: what each kind needs, and how the webhooks of others are verified.

use std::{borrow::Cow, time::Duration};

use serde::{Deserialize, Serialize};

use super::{
    Invalid, Scope, SecretSpec, Spec,
    check::{TAKEN, all_right},
    spec::{is_yes, yes},
};
use crate::{
    crypto::{Random, SealContext, SecretField, inbound},
    destinations::secrets,
    expr::{Names, Template},
    model::{
        Acknowledgement, HmacScheme, InboundScheme, Intake, Name, Provider, Redaction, SenderField,
        Source, SourceId, SourceKind, Verify, WriteKey,
    },
    pipeline,
    redact::Redactor,
};

/// Secrets of one source that are believed at once.
const MOST_SECRETS: usize = 10;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SourceSpec {
    #[schema(value_type = String, example = "app")]
    pub name: Name,
    pub kind: SourceKind,
    /// A disabled source accepts nothing.
    #[serde(default = "yes", skip_serializing_if = "is_yes")]
    pub enabled: bool,
    /// For the kind `segment`: what its clients name it by. Left out: the one there is, or a new one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, example = "wk_demo")]
    pub write_key: Option<WriteKey>,
    /// For the kind `webhook`: a provider such as `stripe`, or `basic`, `bearer`, `api-key: { header }`,
    /// `hmac: { … }`, `none`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>, example = "stripe")]
    pub verify: Option<VerifySpec>,
    /// What the sender signs with. Several are believed at once: during a rotation, the new and the old.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<String>)]
    pub secrets: Vec<SecretSpec>,
    /// The same, where there is only one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, example = "${STRIPE_SECRET}")]
    pub secret: Option<SecretSpec>,
    /// For the kind `webhook`: an expression over `headers` and `payload` that gives the event's type.
    #[serde(rename = "type", default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "headers[\"x-github-event\"]")]
    pub event_type: Option<String>,
    /// An expression that gives an event its idempotency key, where the sender gave none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "payload.user_id")]
    pub key: Option<String>,
    /// For the kinds `segment` and `webhook`: how long a message or delivery counts as one that came
    /// before; a day or more. Left out: for ever.
    #[serde(default, with = "humantime_serde::option", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, example = "7days")]
    pub key_window: Option<Duration>,
    /// What must never reach the disk: fields, and values by their form. It is taken out (`drop`, or
    /// `mask`) before the event is kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub never_store: Option<Redaction>,
    /// For the kind `api`: which of `source` and `ip` in an event's `metadata` are the sender's, where it gives
    /// them. Left out: none, and Tidegate says which source it was and from where it came.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub metadata_from_sender: Vec<SenderField>,
    /// For the kind `webhook`: this source's URL as the sender knows it, where the sender signs that
    /// (Twilio) and a proxy hides it from us.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// For the kind `webhook`: what the sender hears when the request was taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer: Option<Acknowledgement>,
}

/// How requests prove where they come from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum VerifySpec {
    Stripe,
    Github,
    Slack,
    Shopify,
    StandardWebhooks,
    Svix,
    Twilio,
    Gitlab,
    Sendgrid,
    Paddle,
    Segment,
    Customerio,
    Hmac(HmacScheme),
    Basic,
    Bearer,
    ApiKey { header: String },
    None,
}

impl VerifySpec {
    fn model(&self) -> Verify {
        let token = |header: &str, prefix: &'static str| {
            Verify::Scheme(InboundScheme::Token {
                header: Cow::Owned(header.to_ascii_lowercase()),
                prefix: Cow::Borrowed(prefix),
            })
        };
        match self {
            Self::Stripe => Verify::Preset(Provider::Stripe),
            Self::Github => Verify::Preset(Provider::Github),
            Self::Slack => Verify::Preset(Provider::Slack),
            Self::Shopify => Verify::Preset(Provider::Shopify),
            Self::StandardWebhooks => Verify::Preset(Provider::StandardWebhooks),
            Self::Svix => Verify::Preset(Provider::Svix),
            Self::Twilio => Verify::Preset(Provider::Twilio),
            Self::Gitlab => Verify::Preset(Provider::Gitlab),
            Self::Sendgrid => Verify::Preset(Provider::Sendgrid),
            Self::Paddle => Verify::Preset(Provider::Paddle),
            Self::Segment => Verify::Preset(Provider::Segment),
            Self::Customerio => Verify::Preset(Provider::Customerio),
            Self::Hmac(scheme) => Verify::Scheme(InboundScheme::Hmac(scheme.clone())),
            Self::Basic => Verify::Scheme(InboundScheme::Basic),
            Self::Bearer => token("authorization", "Bearer "),
            Self::ApiKey { header } => token(header, ""),
            Self::None => Verify::Scheme(InboundScheme::None),
        }
    }

    fn of(verify: &Verify) -> Self {
        match verify {
            Verify::Preset(Provider::Stripe) => Self::Stripe,
            Verify::Preset(Provider::Github) => Self::Github,
            Verify::Preset(Provider::Slack) => Self::Slack,
            Verify::Preset(Provider::Shopify) => Self::Shopify,
            Verify::Preset(Provider::StandardWebhooks) => Self::StandardWebhooks,
            Verify::Preset(Provider::Svix) => Self::Svix,
            Verify::Preset(Provider::Twilio) => Self::Twilio,
            Verify::Preset(Provider::Gitlab) => Self::Gitlab,
            Verify::Preset(Provider::Sendgrid) => Self::Sendgrid,
            Verify::Preset(Provider::Paddle) => Self::Paddle,
            Verify::Preset(Provider::Segment) => Self::Segment,
            Verify::Preset(Provider::Customerio) => Self::Customerio,
            Verify::Scheme(InboundScheme::Hmac(scheme)) => Self::Hmac(scheme.clone()),
            Verify::Scheme(InboundScheme::Basic) => Self::Basic,
            Verify::Scheme(InboundScheme::Token { header, .. }) if header == "authorization" => {
                Self::Bearer
            }
            Verify::Scheme(InboundScheme::Token { header, .. }) => {
                Self::ApiKey { header: header.to_string() }
            }
            Verify::Scheme(
                InboundScheme::None
                | InboundScheme::Standard { .. }
                | InboundScheme::Ecdsa { .. }
                | InboundScheme::Twilio,
            ) => Self::None,
        }
    }
}

impl Spec for SourceSpec {
    type Model = Source;

    fn check(&self, scope: &Scope<'_>, old: Option<&Source>) -> Result<Source, Vec<Invalid>> {
        let mut wrong = Vec::new();
        let namesake = scope.catalog.source_named(scope.project, self.name.as_str());
        if namesake.is_some_and(|it| Some(it.id) != old.map(|old| old.id)) {
            wrong.push(Invalid::new("name", TAKEN, "the name of another source"));
        }
        let id = old.map_or_else(|| scope.id(), |it| it.id);
        let write_key = self.write_key(scope, old, &mut wrong);
        let intake = self.intake(scope, id, old, &mut wrong);
        self.check_expressions(&mut wrong);
        self.check_window(&mut wrong);
        if self.kind != SourceKind::Api && !self.metadata_from_sender.is_empty() {
            let rule = "must be left out where `kind` is not `api`";
            wrong.push(Invalid::new("metadata_from_sender", rule, "a list"));
        }
        if let Some(redaction) = &self.never_store
            && let Err(error) = Redactor::before_storing(redaction)
        {
            let error = Invalid::new(error.path, error.rule, error.found);
            wrong.push(error.within("never_store"));
        }
        all_right(wrong)?;
        Ok(Source {
            id,
            project: scope.project,
            name: self.name.clone(),
            kind: self.kind,
            enabled: self.enabled,
            write_key,
            intake,
            key: self.key.clone(),
            key_window: self.key_window,
            never_store: self.never_store.clone(),
            metadata_from_sender: self.metadata_from_sender.clone(),
            created_at: old.map_or(scope.means.now, |it| it.created_at),
        })
    }

    fn of(model: &Source) -> Self {
        let intake = model.intake.as_ref();
        let mut secrets: Vec<_> = (1..=intake.map_or(0, |it| it.secrets.len()))
            .map(|place| match place {
                1 => SecretSpec::placeholder(&model.name, "secret"),
                _ => SecretSpec::placeholder(&model.name, &format!("secret_{place}")),
            })
            .collect();
        let secret = if secrets.len() == 1 { secrets.pop() } else { None };
        Self {
            name: model.name.clone(),
            kind: model.kind,
            enabled: model.enabled,
            write_key: model.write_key.clone(),
            verify: intake.map(|it| VerifySpec::of(&it.verify)),
            secrets,
            secret,
            event_type: intake.and_then(|it| it.event_type.clone()),
            key: model.key.clone(),
            key_window: model.key_window,
            never_store: model.never_store.clone(),
            metadata_from_sender: model.metadata_from_sender.clone(),
            url: intake.and_then(|it| it.url.clone()),
            answer: intake.and_then(|it| it.answer.clone()),
        }
    }
}

impl SourceSpec {
    fn check_window(&self, wrong: &mut Vec<Invalid>) {
        const DAY: Duration = Duration::from_secs(24 * 60 * 60);
        let rule = match (self.kind, self.key_window) {
            (_, None) => return,
            // What a sender calls a key of its own is a promise for ever.
            (SourceKind::Api, Some(_)) => "must be left out where `kind` is `api`",
            (SourceKind::Segment | SourceKind::Webhook, Some(it)) if it < DAY => {
                "must be a day or more"
            }
            (SourceKind::Segment | SourceKind::Webhook, Some(_)) => return,
        };
        wrong.push(Invalid::new("key_window", rule, "a duration"));
    }

    /// The key that is written, the one there is, or a new one.
    fn write_key(
        &self,
        scope: &Scope<'_>,
        old: Option<&Source>,
        wrong: &mut Vec<Invalid>,
    ) -> Option<WriteKey> {
        match (self.kind, &self.write_key) {
            (SourceKind::Api | SourceKind::Webhook, None) => None,
            (SourceKind::Api | SourceKind::Webhook, Some(_)) => {
                let rule = "must be left out where `kind` is not `segment`";
                wrong.push(Invalid::new("write_key", rule, "a write key"));
                None
            }
            (SourceKind::Segment, None) => {
                let kept = old.and_then(|it| it.write_key.clone());
                Some(kept.unwrap_or_else(|| new_write_key(scope.means.random)))
            }
            (SourceKind::Segment, Some(key)) => {
                let mut others = scope.catalog.sources.values();
                let is_taken = others.any(|it| {
                    it.write_key.as_ref() == Some(key) && Some(it.id) != old.map(|it| it.id)
                });
                if is_taken {
                    let rule = "must be a write key that no other source has, in any project";
                    wrong.push(Invalid::new("write_key", rule, "another source's key"));
                }
                Some(key.clone())
            }
        }
    }

    /// How the webhooks of others are judged and read, for the kind that takes them.
    fn intake(
        &self,
        scope: &Scope<'_>,
        id: SourceId,
        old: Option<&Source>,
        wrong: &mut Vec<Invalid>,
    ) -> Option<Intake> {
        if self.kind != SourceKind::Webhook {
            for (path, is_there) in [
                ("verify", self.verify.is_some()),
                ("secret", self.secret.is_some() || !self.secrets.is_empty()),
                ("type", self.event_type.is_some()),
                ("url", self.url.is_some()),
                ("answer", self.answer.is_some()),
            ] {
                if is_there {
                    let rule = "must be left out where `kind` is not `webhook`";
                    wrong.push(Invalid::new(path, rule, "a value"));
                }
            }
            return None;
        }
        let Some(spec) = &self.verify else {
            let rule = "must say how requests are verified: a provider such as `stripe`, or `none`";
            wrong.push(Invalid::new("verify", rule, "nothing"));
            return None;
        };
        let verify = spec.model();
        let scheme = match &verify {
            Verify::Preset(provider) => inbound::preset(*provider).scheme,
            Verify::Scheme(scheme) => scheme.clone(),
        };
        check_scheme(&scheme, wrong);
        if let Some(answer) = &self.answer {
            check_answer(answer, wrong);
        }
        let old = old.and_then(|it| it.intake.as_ref());
        let secrets = self.sealed_secrets(scope, id, &scheme, old, wrong);
        let (event_type, url) = (self.event_type.clone(), self.url.clone());
        Some(Intake { verify, secrets, event_type, url, answer: self.answer.clone() })
    }

    fn sealed_secrets(
        &self,
        scope: &Scope<'_>,
        id: SourceId,
        scheme: &InboundScheme,
        old: Option<&Intake>,
        wrong: &mut Vec<Invalid>,
    ) -> Vec<crate::model::Sealed> {
        if self.secret.is_some() && !self.secrets.is_empty() {
            let rule = "must be left out where `secrets` are given";
            wrong.push(Invalid::new("secret", rule, "a secret"));
        }
        let given: Vec<_> = self.secret.iter().chain(&self.secrets).collect();
        if given.is_empty() == scheme.needs_secret() || given.len() > MOST_SECRETS {
            let rule = match scheme.needs_secret() {
                true => "must hold 1 to 10 secrets that the sender signs with",
                false => "must be left out where `verify` is `none`",
            };
            let found = if given.is_empty() { "nothing" } else { "more" };
            wrong.push(Invalid::new("secret", rule, found));
            return Vec::new();
        }
        let context = SealContext::of_source(scope.project, id, SecretField::VerifyingSecret);
        let mut sealed = Vec::with_capacity(given.len());
        for (place, given) in given.into_iter().enumerate() {
            let path = match self.secret {
                Some(_) => "secret".to_owned(),
                None => format!("secrets[{place}]"),
            };
            if !given.is_placeholder()
                && let Err(error) = scheme.key(given.secret())
            {
                wrong.push(Invalid::new(path, error.to_string(), "another text"));
                continue;
            }
            let old = old.and_then(|it| it.secrets.get(place));
            sealed.extend(secrets::sealed(scope.means.vault, &context, &path, given, old, wrong));
        }
        sealed
    }

    fn check_expressions(&self, wrong: &mut Vec<Invalid>) {
        let results = inbound::NAMES.map(str::to_owned);
        let names = match self.kind {
            SourceKind::Webhook => Names { results: &results, bare: false },
            SourceKind::Api | SourceKind::Segment => Names::default(),
        };
        for (path, source) in [("type", &self.event_type), ("key", &self.key)] {
            let template = source.as_ref().map(|it| format!("{{{{ {it} }}}}"));
            if let Some(Err(error)) = template.map(|it| Template::compile_with(&it, &names)) {
                wrong.push(pipeline::Invalid::expression(path, &error).into());
            }
        }
    }
}

fn check_scheme(scheme: &InboundScheme, wrong: &mut Vec<Invalid>) {
    let names: Vec<(&str, &str)> = match scheme {
        InboundScheme::Hmac(it) => {
            let mut names = vec![("verify.hmac.header", it.header.as_ref())];
            names.extend(it.time.as_deref().map(|name| ("verify.hmac.time", name)));
            names.extend(it.id.as_deref().map(|name| ("verify.hmac.id", name)));
            if !it.signed.contains("{body}") {
                let rule = "must hold `{body}`: what is not signed can be changed by anybody";
                wrong.push(Invalid::new("verify.hmac.signed", rule, "another text"));
            }
            if it.time.is_some() && !it.signed.contains("{time}") {
                let rule = "must hold `{time}` where `time` is given: a time that is not signed can be renewed by anybody";
                wrong.push(Invalid::new("verify.hmac.signed", rule, "another text"));
            }
            if it.id.is_some() && !it.signed.contains("{id}") {
                let rule = "must hold `{id}` where `id` is given: an id that is not signed can be chosen by anybody";
                wrong.push(Invalid::new("verify.hmac.signed", rule, "another text"));
            }
            names
        }
        InboundScheme::Token { header, .. } => vec![("verify.api-key.header", header.as_ref())],
        InboundScheme::Standard { .. } | InboundScheme::Ecdsa { .. } => Vec::new(),
        InboundScheme::Twilio | InboundScheme::Basic | InboundScheme::None => Vec::new(),
    };
    for (path, name) in names {
        if http::HeaderName::try_from(name).is_err() {
            wrong.push(Invalid::new(path, "must be the name of a header", "another text"));
        }
    }
}

fn check_answer(answer: &Acknowledgement, wrong: &mut Vec<Invalid>) {
    if !(200..300).contains(&answer.status) {
        wrong.push(Invalid::new("answer.status", "must be 200 to 299", "another number"));
    }
    if http::HeaderValue::try_from(&answer.content_type).is_err() {
        let rule = "must be a media type such as `text/xml`";
        wrong.push(Invalid::new("answer.content_type", rule, "another text"));
    }
    if answer.body.len() > 4096 {
        wrong.push(Invalid::new("answer.body", "must be at most 4096 bytes", "a longer text"));
    }
}

/// `wk_` and 32 characters that nobody can guess.
fn new_write_key(random: &dyn Random) -> WriteKey {
    let mut bytes = [0; 16];
    random.fill(&mut bytes);
    WriteKey::trusted(&format!("wk_{}", hex::encode(bytes)))
}
