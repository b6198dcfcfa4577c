//! Look-ups as people write them: tables of the project's own, and services and databases to ask.

use std::{collections::BTreeMap, num::NonZeroU32, time::Duration};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Invalid, Scope, SecretSpec, Spec, diff::Shown as _};
use crate::{
    crypto::{SealContext, SecretField, Vault},
    destinations::{egress::Database, secrets::GIVEN_AGAIN},
    expr::{Condition, ExprError, Expression, Mapping, Names, Template},
    model::{
        EndpointUrl, HttpLookup, Learn, Lookup, LookupCache, LookupId, LookupLimits,
        LookupSettings, Name, PostgresLookup, RawJson, Sealed, StepSpec, Table,
    },
    pipeline,
};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LookupSpec {
    #[schema(value_type = String, example = "users")]
    pub name: Name,
    pub kind: LookupKind,
    /// Fields of a row that are keys of rows in other tables: `account: accounts`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schema(value_type = BTreeMap<String, String>)]
    pub references: BTreeMap<String, Name>,
    /// Of a table: which events tell of its rows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub learn: Option<Learn>,
    /// Of a PostgreSQL: `postgres://user:password@host/database`, which is a secret as a whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, example = "${CRM_DATABASE}")]
    pub database: Option<SecretSpec>,
    /// Of a PostgreSQL: one `SELECT`, whose `$1` is the key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "SELECT name, plan_id AS plan FROM accounts WHERE id = $1")]
    pub query: Option<String>,
    /// Of a service: a template over `email`, `domain` and `secret.…`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "https://people.acme.com/v1/find?email={{ email }}")]
    pub url: Option<String>,
    /// Of a service: templates over the same.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
    /// Of a service: what its templates know as `secret.…`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schema(value_type = BTreeMap<String, String>)]
    pub secrets: BTreeMap<String, SecretSpec>,
    /// Of a service: what is made of its answer, as templates over `response`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>, example = json!({ "company": "{{ response.company.name }}" }))]
    pub map: Option<Value>,
    /// From the question to the whole answer.
    #[serde(default, with = "humantime_serde::option", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, example = "2s")]
    pub timeout: Option<Duration>,
    /// Questions at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u32>)]
    pub concurrency: Option<NonZeroU32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache: Option<LookupCache>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum LookupKind {
    /// Rows that the project puts here itself.
    Table,
    /// A service that knows people by their e-mail address.
    Http,
    /// A PostgreSQL that has rows.
    Postgres,
}

/// Tables that every project has.
const BUILT_IN: [&str; 2] = ["people", "companies"];
const MOST: usize = 32;
/// Headers that say how the request itself is sent.
const OURS: [&str; 9] = [
    "host",
    "connection",
    "content-length",
    "transfer-encoding",
    "te",
    "trailer",
    "upgrade",
    "expect",
    "accept-encoding",
];

impl Spec for LookupSpec {
    type Model = Lookup;

    fn check(&self, scope: &Scope<'_>, old: Option<&Lookup>) -> Result<Lookup, Vec<Invalid>> {
        let mut wrong = Vec::new();
        let namesake = scope.catalog.lookup_named(scope.project, self.name.as_str());
        if namesake.is_some_and(|it| Some(it.id) != old.map(|old| old.id)) {
            let rule = "must be a name that no other resource of this kind has";
            wrong.push(Invalid::new("name", rule, "the name of another look-up"));
        }
        let is_built_in = BUILT_IN.contains(&self.name.as_str());
        if is_built_in && self.kind != LookupKind::Table {
            wrong.push(Invalid::new("kind", "must be `table` for this name", "another kind"));
        }
        self.check_fit(&mut wrong);
        let id = old.map_or_else(|| scope.id(), |it| it.id);
        let settings = match self.kind {
            LookupKind::Table => {
                self.check_learn(&mut wrong);
                let references = self.references.clone();
                Some(LookupSettings::Table(Table { references, learn: self.learn.clone() }))
            }
            LookupKind::Http => self.http(scope, id, old, &mut wrong).map(LookupSettings::Http),
            LookupKind::Postgres => {
                self.postgres(scope, id, old, &mut wrong).map(LookupSettings::Postgres)
            }
        };
        match settings {
            Some(settings) if wrong.is_empty() => Ok(Lookup {
                id,
                project: scope.project,
                name: self.name.clone(),
                settings,
                created_at: old.map_or(scope.means.now, |it| it.created_at),
            }),
            Some(_) | None => Err(wrong),
        }
    }

    fn of(model: &Lookup) -> Self {
        let mut spec = Self {
            name: model.name.clone(),
            kind: LookupKind::Table,
            references: model.settings.references().cloned().unwrap_or_default(),
            learn: None,
            database: None,
            query: None,
            url: None,
            headers: BTreeMap::new(),
            secrets: BTreeMap::new(),
            map: None,
            timeout: None,
            concurrency: None,
            cache: None,
        };
        let limits = match &model.settings {
            LookupSettings::Table(it) => {
                spec.learn = it.learn.clone();
                return spec;
            }
            LookupSettings::Http(it) => {
                spec.kind = LookupKind::Http;
                spec.url = Some(it.url.clone());
                spec.headers = it.headers.clone();
                spec.secrets = placeholders(&model.name, &it.secrets);
                spec.map = Some(it.map.to_value());
                &it.limits
            }
            LookupSettings::Postgres(it) => {
                spec.kind = LookupKind::Postgres;
                spec.database = Some(SecretSpec::placeholder(&model.name, "database"));
                spec.query = Some(it.query.clone());
                &it.limits
            }
        };
        let default = LookupLimits::default();
        spec.timeout = Some(limits.timeout).filter(|it| *it != default.timeout);
        spec.concurrency = Some(limits.concurrency).filter(|it| *it != default.concurrency);
        spec.cache = Some(limits.cache.clone()).filter(|it| *it != default.cache);
        spec
    }
}

impl LookupSpec {
    /// Fields that mean nothing for this kind.
    fn check_fit(&self, wrong: &mut Vec<Invalid>) {
        use LookupKind::{Http, Postgres, Table};
        let given: [(&str, bool, &[LookupKind]); 11] = [
            ("references", !self.references.is_empty(), &[Table, Postgres]),
            ("learn", self.learn.is_some(), &[Table]),
            ("database", self.database.is_some(), &[Postgres]),
            ("query", self.query.is_some(), &[Postgres]),
            ("url", self.url.is_some(), &[Http]),
            ("headers", !self.headers.is_empty(), &[Http]),
            ("secrets", !self.secrets.is_empty(), &[Http]),
            ("map", self.map.is_some(), &[Http]),
            ("cache", self.cache.is_some(), &[Http, Postgres]),
            ("timeout", self.timeout.is_some(), &[Http, Postgres]),
            ("concurrency", self.concurrency.is_some(), &[Http, Postgres]),
        ];
        for (field, is_given, kinds) in given {
            if is_given && !kinds.contains(&self.kind) {
                wrong.push(Invalid::new(field, "is no setting of this kind", "a value"));
            }
        }
        for (field, count) in [
            ("references", self.references.len()),
            ("headers", self.headers.len()),
            ("secrets", self.secrets.len()),
        ] {
            if count > MOST {
                wrong.push(Invalid::new(field, "must hold at most 32", "more"));
            }
        }
    }

    fn check_learn(&self, wrong: &mut Vec<Invalid>) {
        let Some(Learn { when, key, fields }) = &self.learn else { return };
        let names = Names::default();
        let mut note = |field: &str, refused: Option<ExprError>| {
            let refused = refused.map(|it| pipeline::Invalid::expression(field, &it).into());
            wrong.extend::<Option<Invalid>>(refused);
        };
        note("learn.when", Condition::compile(when).err());
        note("learn.key", Expression::compile_with(key, &names).err());
        note("learn.fields", Expression::compile_with(fields, &names).err());
    }

    fn http(
        &self,
        scope: &Scope<'_>,
        id: LookupId,
        old: Option<&Lookup>,
        wrong: &mut Vec<Invalid>,
    ) -> Option<HttpLookup> {
        let old = match old.map(|it| &it.settings) {
            Some(LookupSettings::Http(it)) => Some(it),
            Some(LookupSettings::Table(_) | LookupSettings::Postgres(_)) | None => None,
        };
        let names = ["email", "domain", "secret"].map(str::to_owned);
        let names = Names { results: &names, bare: true };
        let url = self.required("url", self.url.as_ref(), wrong);
        if let Some(url) = url {
            check_template("url", url, &names, wrong);
            // The host is in no template, so that nothing an event says can choose it.
            let host = url.split("{{").next().unwrap_or_default();
            let path = host.split_once("://").and_then(|it| it.1.find('/'));
            if path.is_none() || EndpointUrl::try_from(host.to_owned()).is_err() {
                let rule =
                    "must begin with `http://` or `https://`, a host and `/`, before any `{{ … }}`";
                wrong.push(Invalid::new("url", rule, "another text"));
            }
        }
        for (name, value) in &self.headers {
            let path = format!("headers.{name}");
            check_template(&path, value, &names, wrong);
            check_is_sealed(&path, name, value, wrong);
            let is_ours = OURS.iter().any(|it| name.eq_ignore_ascii_case(it));
            if is_ours || http::HeaderName::try_from(name.as_str()).is_err() {
                let rule = "must be a header that is not about the connection or the body";
                wrong.push(Invalid::new(path, rule, "another name"));
            }
        }
        let map = self.required("map", self.map.as_ref(), wrong);
        if let Some(map) = map {
            let results = ["email", "domain", "response"].map(str::to_owned);
            let names = Names { results: &results, bare: true };
            match Mapping::compile_with(map, &names) {
                Ok(_) if map.is_object() => (),
                Ok(_) => wrong.push(Invalid::new("map", "must be a map", "something else")),
                Err(error) => {
                    let path = format!("map.{}", error.path);
                    wrong.push(pipeline::Invalid::expression(&path, &error.source).into());
                }
            }
        }
        if let Some(url) = url {
            let query = url.split_once('?').map_or("", |it| it.1);
            for (name, value) in query.split('&').filter_map(|it| it.split_once('=')) {
                check_is_sealed("url", name, value, wrong);
            }
        }
        let is_moved = old.zip(url).is_some_and(|(old, url)| origin(&old.url) != origin(url));
        let secrets = self.seal(scope, id, old.map(|it| (&it.secrets, is_moved)), wrong);
        Some(HttpLookup {
            url: url?.clone(),
            headers: self.headers.clone(),
            secrets,
            map: RawJson::of(map?),
            limits: self.limits(wrong),
        })
    }

    fn postgres(
        &self,
        scope: &Scope<'_>,
        id: LookupId,
        old: Option<&Lookup>,
        wrong: &mut Vec<Invalid>,
    ) -> Option<PostgresLookup> {
        let query = self.required("query", self.query.as_ref(), wrong);
        if let Some(query) = query {
            let is_right = query.contains("$1") && !query.contains("$2");
            if !is_right || query.contains(';') || query.len() > 8192 {
                let rule = "must be one SELECT with `$1` as its only parameter, without `;`";
                wrong.push(Invalid::new("query", rule, "another text"));
            }
        }
        let given = self.required("database", self.database.as_ref(), wrong)?;
        let old = match old.map(|it| &it.settings) {
            Some(LookupSettings::Postgres(it)) => Some(&it.database),
            Some(LookupSettings::Table(_) | LookupSettings::Http(_)) | None => None,
        };
        let context = SealContext::of_lookup(scope.project, id, SecretField::LookupSecret);
        let checked = match old {
            Some(_) if given.is_placeholder() => Ok(()),
            Some(_) | None => Database::check(given.secret()).map(drop),
        };
        if let Err(error) = checked {
            wrong.push(Invalid::new("database", error.0, "another text"));
            return None;
        }
        Some(PostgresLookup {
            database: kept(scope.means.vault, &context, given, old),
            query: query?.clone(),
            references: self.references.clone(),
            limits: self.limits(wrong),
        })
    }

    fn required<'a, T>(
        &self,
        field: &str,
        given: Option<&'a T>,
        wrong: &mut Vec<Invalid>,
    ) -> Option<&'a T> {
        if given.is_none() {
            wrong.push(Invalid::new(field, "is required for this kind", "nothing"));
        }
        given
    }

    fn limits(&self, wrong: &mut Vec<Invalid>) -> LookupLimits {
        let default = LookupLimits::default();
        let limits = LookupLimits {
            timeout: self.timeout.unwrap_or(default.timeout),
            concurrency: self.concurrency.unwrap_or(default.concurrency),
            cache: self.cache.clone().unwrap_or(default.cache),
        };
        let range = Duration::from_millis(10)..=Duration::from_secs(60);
        if !range.contains(&limits.timeout) {
            wrong.push(Invalid::new("timeout", "must be 10ms to 1m", "another duration"));
        }
        if limits.concurrency.get() > 256 {
            wrong.push(Invalid::new("concurrency", "must be 1 to 256", "a larger number"));
        }
        if limits.cache.entries > 1_000_000 {
            wrong.push(Invalid::new("cache.entries", "must be at most 1000000", "more"));
        }
        limits
    }

    /// The secrets, sealed; those that are the same stay as they are.
    fn seal(
        &self,
        scope: &Scope<'_>,
        id: LookupId,
        old: Option<(&BTreeMap<String, Sealed>, bool)>,
        wrong: &mut Vec<Invalid>,
    ) -> BTreeMap<String, Sealed> {
        let (old, is_moved) = old.map_or((None, false), |it| (Some(it.0), it.1));
        let vault = scope.means.vault;
        let context = SealContext::of_lookup(scope.project, id, SecretField::LookupSecret);
        let mut sealed = BTreeMap::new();
        for (name, given) in &self.secrets {
            let old = old.and_then(|it| it.get(name));
            let secret = given.secret();
            let is_right = (1..=4096).contains(&secret.expose().len())
                && !secret.expose().chars().any(char::is_control);
            if is_moved && given.is_placeholder() && old.is_some() {
                let path = format!("secrets.{name}");
                wrong.push(Invalid::new(path, GIVEN_AGAIN, "a placeholder"));
            } else if is_right && (old.is_some() || !given.is_placeholder()) {
                sealed.insert(name.clone(), kept(vault, &context, given, old));
            } else {
                let rule = "must be a secret of 1 to 4096 bytes without control characters";
                wrong.push(Invalid::new(format!("secrets.{name}"), rule, "another text"));
            }
        }
        sealed
    }

    /// Secrets that are others now. They look the same from outside.
    pub(super) fn changed_secrets(old: &Lookup, new: &Lookup) -> Vec<String> {
        let secrets = |it: &Lookup| -> BTreeMap<String, Sealed> {
            match &it.settings {
                LookupSettings::Http(it) => (it.secrets.iter())
                    .map(|(name, it)| (format!("secrets.{name}"), it.clone()))
                    .collect(),
                LookupSettings::Postgres(it) => {
                    BTreeMap::from([("database".to_owned(), it.database.clone())])
                }
                LookupSettings::Table(_) => BTreeMap::new(),
            }
        };
        let (old, mut new) = (secrets(old), secrets(new));
        new.retain(|name, it| old.get(name).is_some_and(|old| old != it));
        new.into_keys().collect()
    }
}

/// A secret, sealed; one that is the same stays as it is.
fn kept(vault: &Vault, context: &SealContext, given: &SecretSpec, old: Option<&Sealed>) -> Sealed {
    match old {
        Some(old) if given.is_placeholder() => old.clone(),
        Some(old) if vault.open(old, context).is_ok_and(|it| it == *given.secret()) => old.clone(),
        Some(_) | None => vault.seal(given.secret(), context),
    }
}

fn placeholders(name: &Name, secrets: &BTreeMap<String, Sealed>) -> BTreeMap<String, SecretSpec> {
    secrets.keys().map(|it| (it.clone(), SecretSpec::placeholder(name, it))).collect()
}

/// Scheme, host and port, in which there is no template.
fn origin(url: &str) -> String {
    let host = url.split("{{").next().unwrap_or_default();
    EndpointUrl::try_from(host.to_owned()).map(|it| it.origin()).unwrap_or_default()
}

/// What goes by such a name is a secret, and belongs under `secrets`, where it is sealed: headers and URL are
/// kept as they are, and everybody who may read sees them.
fn check_is_sealed(path: &str, name: &str, value: &str, wrong: &mut Vec<Invalid>) {
    const NAMES: [&str; 10] = [
        "authorization",
        "cookie",
        "token",
        "secret",
        "password",
        "credential",
        "api-key",
        "apikey",
        "access-key",
        "auth-key",
    ];
    let name = name.to_ascii_lowercase().replace('_', "-");
    let is_secret = NAMES.iter().any(|it| name.contains(it)) || matches!(&*name, "key" | "x-key");
    if is_secret && !(value.contains("{{") && value.contains("secret")) {
        let rule = "must take what is secret from `secrets`, such as `{{ secret.token }}`";
        wrong.push(Invalid::new(path, rule, "a text that everybody could read"));
    }
}

fn check_template(path: &str, source: &str, names: &Names<'_>, wrong: &mut Vec<Invalid>) {
    if let Err(error) = Template::compile_with(source, names) {
        wrong.push(pipeline::Invalid::expression(path, &error).into());
    }
}

/// Whether the look-ups that steps name are there, and of the right kind.
pub(super) fn check_steps(
    steps: &[StepSpec],
    path: &str,
    scope: &Scope<'_>,
    wrong: &mut Vec<Invalid>,
) {
    let found = |name: &str| scope.catalog.lookup_named(scope.project, name);
    let is_refused =
        |name: &str| name.parse().is_ok_and(|it: Name| scope.is_refused(LookupSpec::KIND, &it));
    for (place, step) in steps.iter().enumerate() {
        let Some((kind, settings)) = step.0.iter().next() else { continue };
        let path = format!("{path}[{place}].{kind}");
        match kind.as_str() {
            pipeline::ENRICH_ENTITY => {
                let Some(table) = settings.get("table").and_then(Value::as_str) else { continue };
                let is_table = BUILT_IN.contains(&table)
                    || found(table).is_some_and(|it| it.settings.references().is_some());
                if !is_table && !is_refused(table) {
                    let rule = "must be the name of a look-up of kind `table` or `postgres`";
                    wrong.push(Invalid::new(format!("{path}.table"), rule, "another name"));
                }
            }
            pipeline::ENRICH_PERSON => {
                let names = settings.get("from").and_then(Value::as_array);
                for (place, name) in names.into_iter().flatten().enumerate() {
                    let Some(name) = name.as_str() else { continue };
                    let is_service = found(name)
                        .is_some_and(|it| matches!(it.settings, LookupSettings::Http(_)));
                    if !is_service && !is_refused(name) {
                        let rule = "must be the name of a look-up of kind `http`";
                        let path = format!("{path}.from[{place}]");
                        wrong.push(Invalid::new(path, rule, "another name"));
                    }
                }
            }
            _ => (),
        }
    }
}
