//! A kind of destination from one type of settings: reading, checks, sealing, diff and show come from the type.

use std::{marker::PhantomData, sync::Arc};

use serde::{Serialize, de::DeserializeOwned};
use utoipa::ToSchema;

use super::{
    DestinationClient,
    egress::Egress,
    kind::{FieldSchema, Kind, KindAbout, OwnFields, each_secret, parse, text_at, written},
    secrets::Safe,
};
use crate::{
    crypto::{SealContext, SecretField, Vault},
    model::{Connection, Destination, Name, OtherConnection, Policy, Sealed},
    settings::{Invalid, SecretSpec},
};

/// The settings of a kind, as people write them and as they are stored. Their secrets are
/// [`SecretSpec`]s, and `ABOUT.secrets` says where they stand.
pub trait Settings: Serialize + DeserializeOwned + ToSchema + Send + Sync + 'static {
    const ABOUT: KindAbout;

    /// The policy of a destination that says nothing of it.
    fn usual_policy() -> Policy {
        Policy::default()
    }

    /// Notes what is wrong, by the paths of the fields. `policy` is that of the destination.
    fn check(&self, policy: &Policy, wrong: &mut Vec<Invalid>);

    /// Scheme, host and port of each address that it connects to. Stored secrets are not sent to other ones.
    fn origins(&self) -> Vec<String>;

    /// Whether the address differs from message to message.
    fn is_template(&self) -> bool {
        false
    }

    /// The client, from settings whose secrets are in clear. `Err` says for people why there is none.
    fn client(
        self,
        destination: &Destination,
        egress: &Egress,
    ) -> Result<Arc<dyn DestinationClient>, String>;
}

/// The kind whose settings are `S`.
pub struct Plain<S>(PhantomData<fn() -> S>);

impl<S> Plain<S> {
    pub const KIND: Self = Self(PhantomData);
}

impl<S: Settings> Plain<S> {
    const ABOUT: &'static KindAbout = &S::ABOUT;

    /// Every field with its default, as they are stored. Secrets are those of `given`.
    fn resolved(settings: &S, given: &OwnFields) -> OwnFields {
        let mut fields = written(settings);
        each_secret(&mut fields, S::ABOUT.secrets, &mut |path, text| {
            text_at(given, path).unwrap_or_default().clone_into(text);
        });
        fields
    }
}

impl<S: Settings> Kind for Plain<S> {
    fn about(&self) -> &'static KindAbout {
        Self::ABOUT
    }

    fn schema(&self) -> FieldSchema {
        FieldSchema::of::<S>()
    }

    fn usual_policy(&self, _: &OwnFields) -> Policy {
        S::usual_policy()
    }

    fn read(&self, fields: &OwnFields) -> Result<(), Invalid> {
        parse::<S>(fields).map(drop)
    }

    fn check(
        &self,
        fields: &OwnFields,
        policy: &Policy,
        safe: &Safe<'_>,
        old: Option<&Connection>,
    ) -> Result<Connection, Vec<Invalid>> {
        let mut wrong = Vec::new();
        let settings = parse::<S>(fields).map_err(|it| vec![it])?;
        settings.check(policy, &mut wrong);
        if !wrong.is_empty() {
            return Err(wrong);
        }
        let old = old.and_then(|it| it.other(S::ABOUT.word));
        let origins = settings.origins();
        let is_moved = old.is_some_and(|old| origins.iter().any(|it| !old.origins.contains(it)));
        let safe = Safe { is_moved, ..*safe };
        let mut resolved = Self::resolved(&settings, fields);
        each_secret(&mut resolved, S::ABOUT.secrets, &mut |path, text| {
            let old = old.and_then(|it| text_at(&it.settings, path)).map(Sealed::from_text);
            let given = SecretSpec::new(text.as_str());
            let field = SecretField::Setting;
            let path = path.join(".");
            let sealed = safe.sealed(field, &path, &given, old.as_ref(), &mut wrong);
            *text = sealed.map(|it| it.as_text().to_owned()).unwrap_or_default();
        });
        if !wrong.is_empty() {
            return Err(wrong);
        }
        Ok(Connection::Other(OtherConnection {
            kind: S::ABOUT.word.to_owned(),
            settings: resolved,
            origins,
            is_template: settings.is_template(),
        }))
    }

    fn show(&self, connection: &Connection, name: &Name) -> OwnFields {
        let Some(own) = connection.other(S::ABOUT.word) else { return OwnFields::new() };
        let mut fields = own.settings.clone();
        each_secret(&mut fields, S::ABOUT.secrets, &mut |path, text| {
            let placeholder = SecretSpec::placeholder(name, &path.join("_"));
            placeholder.secret().expose().clone_into(text);
        });
        fields
    }

    /// A field is left out when what is read without it is the same.
    fn brief(&self, mut fields: OwnFields) -> OwnFields {
        let names: Vec<String> = fields.keys().cloned().collect();
        for name in names {
            let mut without = fields.clone();
            without.shift_remove(&name);
            let same = parse::<S>(&without)
                .is_ok_and(|it| Self::resolved(&it, &without).get(&name) == fields.get(&name));
            if same {
                fields = without;
            }
        }
        fields
    }

    fn changed_secrets(&self, old: &Connection, new: &Connection) -> Vec<String> {
        let word = S::ABOUT.word;
        let (Some(old), Some(new)) = (old.other(word), new.other(word)) else {
            return Vec::new();
        };
        let mut changed = Vec::new();
        each_secret(&mut new.settings.clone(), S::ABOUT.secrets, &mut |path, text| {
            if text_at(&old.settings, path).is_some_and(|old| old != text) {
                changed.push(path.join("."));
            }
        });
        changed
    }

    fn build(
        &self,
        destination: &Destination,
        vault: &Vault,
        egress: &Egress,
    ) -> Result<Arc<dyn DestinationClient>, String> {
        let Some(own) = destination.connection.other(S::ABOUT.word) else {
            return Err("the stored destination is of another kind".to_owned());
        };
        let context =
            SealContext::of_destination(destination.project, destination.id, SecretField::Setting);
        let mut fields = own.settings.clone();
        let mut failed = None;
        each_secret(&mut fields, S::ABOUT.secrets, &mut |_, text| match vault
            .open(&Sealed::from_text(text.as_str()), &context)
        {
            Ok(secret) => secret.expose().clone_into(text),
            Err(error) => failed = Some(error.to_string()),
        });
        if let Some(failed) = failed {
            return Err(failed);
        }
        parse::<S>(&fields).map_err(|it| it.to_string())?.client(destination, egress)
    }
}
