//! Webhooks as a kind of destination: their row in the table of kinds.

use std::sync::Arc;

use super::{Webhook, config::WebhookSpec};
use crate::{
    crypto::Vault,
    destinations::{
        DestinationClient,
        egress::Egress,
        kind::{FieldSchema, Kind, KindAbout, OwnFields, parse, written},
        profiles,
        secrets::Safe,
    },
    model::{self, Auth, Connection, Destination, Name, Policy},
    settings::Invalid,
};

/// The kind `webhook`. It stores its settings typed, since other stages ask for its keys and its contract.
pub struct WebhookKind;

static ABOUT: KindAbout = KindAbout {
    word: "webhook",
    title: "Webhook",
    help: "Signed events to an HTTP endpoint, by the contract of a profile such as Standard Webhooks.",
    example: "\
name: crm-webhook
kind: webhook
url: https://api.acme.com/hooks
secret: ${CRM_WEBHOOK_SECRET}
",
    secrets: &["secret", "auth.bearer", "auth.basic.password", "headers.*"],
};

impl Kind for WebhookKind {
    fn about(&self) -> &'static KindAbout {
        &ABOUT
    }

    fn schema(&self) -> FieldSchema {
        FieldSchema::of::<WebhookSpec>()
    }

    fn usual_policy(&self, fields: &OwnFields) -> Policy {
        let profile = parse::<WebhookSpec>(fields).map(|it| it.profile).unwrap_or_default();
        profiles::values(profile).policy
    }

    fn read(&self, fields: &OwnFields) -> Result<(), Invalid> {
        parse::<WebhookSpec>(fields).map(drop)
    }

    fn check(
        &self,
        fields: &OwnFields,
        _: &Policy,
        safe: &Safe<'_>,
        old: Option<&Connection>,
    ) -> Result<Connection, Vec<Invalid>> {
        let mut wrong = Vec::new();
        let spec = parse::<WebhookSpec>(fields).map_err(|it| vec![it])?;
        let connection = spec.check(safe, old.and_then(Connection::webhook), &mut wrong);
        match connection {
            Some(webhook) if wrong.is_empty() => Ok(Connection::Webhook(webhook)),
            Some(_) | None => Err(wrong),
        }
    }

    fn show(&self, connection: &Connection, name: &Name) -> OwnFields {
        let spec = connection.webhook().map(|it| WebhookSpec::of(it, name));
        spec.map(|it| written(&it)).unwrap_or_default()
    }

    fn brief(&self, fields: OwnFields) -> OwnFields {
        parse::<WebhookSpec>(&fields).map_or(fields, |it| written(&it.brief()))
    }

    fn changed_secrets(&self, old: &Connection, new: &Connection) -> Vec<String> {
        match (old.webhook(), new.webhook()) {
            (Some(old), Some(new)) => changed(old, new),
            (None, _) | (_, None) => Vec::new(),
        }
    }

    fn build(
        &self,
        destination: &Destination,
        vault: &Vault,
        egress: &Egress,
    ) -> Result<Arc<dyn DestinationClient>, String> {
        match Webhook::new(destination, vault, egress) {
            Ok(webhook) => Ok(Arc::new(webhook)),
            Err(error) => Err(error.to_string()),
        }
    }
}

fn changed(old: &model::Webhook, new: &model::Webhook) -> Vec<String> {
    let mut changed = Vec::new();
    match (&old.auth, &new.auth) {
        (Auth::Bearer { token: old }, Auth::Bearer { token: new }) if old != new => {
            changed.push("auth.bearer".to_owned());
        }
        (Auth::Basic { password: old, .. }, Auth::Basic { password: new, .. }) if old != new => {
            changed.push("auth.basic.password".to_owned());
        }
        (Auth::None | Auth::Bearer { .. } | Auth::Basic { .. }, _) => (),
    }
    let is_signed = !old.signing_keys.is_empty() && !new.signing_keys.is_empty();
    if is_signed && old.signing_keys != new.signing_keys {
        changed.push("secret".to_owned());
    }
    for (name, value) in &new.headers {
        if old.headers.get(name).is_some_and(|old| old != value) {
            changed.push(format!("headers.{name}"));
        }
    }
    changed
}
