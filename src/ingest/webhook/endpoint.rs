//! The sources that other services post to, made ready: secrets opened, expressions compiled.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use axum::http::HeaderMap;
use jiff::{SignedDuration, Timestamp};
use sha2::{Digest as _, Sha256};
use tokio::sync::watch;

use super::content::{self, InboundContent};
use crate::{
    catalog::Catalog,
    crypto::{
        SealContext, SecretField, Vault,
        inbound::{self, Doubt, Key},
    },
    expr::{Facts, Names, Template},
    ingest::{metadata::Circumstances, schema_checks::UncheckedEvent},
    model::{
        Acknowledgement, Event, EventId, EventSeq, IdempotencyKey, InboundScheme, Intake, Name,
        NewEvent, ProjectId, Provider, RawJson, Source, SourceId, TypeName, Verify,
    },
    redact::Redactor,
};

/// The type of an event whose own cannot be found out.
const UNTYPED: &str = "webhook.received";

/// All of them. One is built when it is first posted to, and kept until its source changes.
pub struct InboundEndpoints {
    catalog: watch::Receiver<Arc<Catalog>>,
    vault: Arc<Vault>,
    built: Mutex<HashMap<SourceId, BuiltEndpoint>>,
}

/// What a door was built from, and the door.
type BuiltEndpoint = (Arc<Source>, Arc<InboundEndpoint>);

/// One source of kind `webhook`, ready.
pub struct InboundEndpoint {
    pub source: SourceId,
    pub scheme: InboundScheme,
    pub keys: Vec<Key>,
    pub url: Option<String>,
    pub answer: Acknowledgement,
    project: ProjectId,
    name: Name,
    provider: Option<Provider>,
    is_list: bool,
    event_type: Option<Template>,
    key: Option<Template>,
    /// Whether the key is made of the body's hash, which takes time.
    hashes_body: bool,
    key_window: Option<SignedDuration>,
    /// Headers by which it verifies, in lower case: they are not kept.
    proofs: Vec<String>,
    pub never_store: Option<Redactor>,
}

impl InboundEndpoints {
    pub fn new(catalog: watch::Receiver<Arc<Catalog>>, vault: Arc<Vault>) -> Self {
        Self { catalog, vault, built: Mutex::default() }
    }

    /// The enabled source of this id, or of this name where no other project has it.
    pub fn find(&self, named: &str) -> Option<Arc<InboundEndpoint>> {
        let catalog = self.catalog.borrow().clone();
        let source = match named.parse::<SourceId>() {
            Ok(id) => catalog.sources.get(&id)?,
            Err(_) => {
                let is_it = |it: &&Arc<Source>| it.name.as_str() == named && it.intake.is_some();
                let mut found = catalog.sources.values().filter(is_it);
                match (found.next(), found.next()) {
                    (Some(source), None) => source,
                    (None, _) | (Some(_), Some(_)) => return None,
                }
            }
        };
        let intake = source.intake.as_ref().filter(|_| source.enabled)?;
        let mut built = self.built.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((from, door)) = built.get(&source.id)
            && Arc::ptr_eq(from, source)
        {
            return Some(door.clone());
        }
        built.retain(|id, _| catalog.sources.contains_key(id));
        let door = Arc::new(InboundEndpoint::new(source, intake, &self.vault)?);
        built.insert(source.id, (source.clone(), door.clone()));
        Some(door)
    }
}

impl InboundEndpoint {
    /// `None` where nobody can say what it must not keep: then it accepts nothing.
    fn new(source: &Source, intake: &Intake, vault: &Vault) -> Option<Self> {
        let never_store = source.never_store.as_ref().map(Redactor::before_storing);
        let never_store = never_store.transpose().ok()?;
        let preset = match &intake.verify {
            Verify::Preset(provider) => Some((*provider, inbound::preset(*provider))),
            Verify::Scheme(_) => None,
        };
        let scheme = match (&intake.verify, &preset) {
            (Verify::Scheme(scheme), _) => scheme.clone(),
            (Verify::Preset(_), Some((_, preset))) => preset.scheme.clone(),
            // A preset was looked up just now. If there were none, nobody would be believed.
            (Verify::Preset(_), None) => InboundScheme::Basic,
        };
        let context =
            SealContext::of_source(source.project, source.id, SecretField::VerifyingSecret);
        let key = |sealed| {
            let opened = vault.open(sealed, &context).map_err(|error| error.to_string());
            opened.and_then(|it| scheme.key(&it).map_err(|error| error.to_string()))
        };
        let mut keys = Vec::with_capacity(intake.secrets.len());
        for sealed in &intake.secrets {
            match key(sealed) {
                Ok(key) => keys.push(key),
                Err(error) => tracing::error!(source = %source.name, error, "a secret is unusable"),
            }
        }
        let rows = preset.as_ref().map(|(_, row)| row);
        let event_type = intake.event_type.as_deref().or(rows.map(|it| it.event_type));
        let key = source.key.as_deref().or(rows.map(|it| it.key));
        let answer = rows.map_or(("application/json", r#"{"received":true}"#), |it| it.answer);
        Some(Self {
            source: source.id,
            keys,
            url: intake.url.clone(),
            answer: intake.answer.clone().unwrap_or_else(|| Acknowledgement {
                status: 200,
                content_type: answer.0.to_owned(),
                body: answer.1.to_owned(),
            }),
            project: source.project,
            name: source.name.clone(),
            provider: preset.as_ref().map(|(provider, _)| *provider),
            is_list: rows.is_some_and(|it| it.is_list),
            event_type: event_type.and_then(compiled),
            hashes_body: key.is_some_and(|it| it.contains("body_sha256")),
            key: key.and_then(compiled),
            key_window: source.key_window.and_then(|it| it.try_into().ok()),
            never_store,
            proofs: scheme.proofs(),
            scheme,
        })
    }

    /// What Slack asks when it is given this URL: it wants to hear its own words.
    pub fn challenge(&self, content: &InboundContent) -> Option<String> {
        if self.provider != Some(Provider::Slack) {
            return None;
        }
        let payload = content.payload.to_value();
        let is_asking = payload["type"] == "url_verification";
        payload["challenge"].as_str().filter(|_| is_asking).map(str::to_owned)
    }

    /// The events of a request: one, or one for each element where the provider sends lists.
    pub fn events(
        &self,
        content: InboundContent,
        headers: &HeaderMap,
        body: &[u8],
        circumstances: &Circumstances,
        now: Timestamp,
    ) -> Vec<UncheckedEvent> {
        let elements = self.is_list.then(|| content::elements(&content.payload)).flatten();
        let is_whole = elements.is_none();
        let payloads = elements.unwrap_or_else(|| vec![content.payload]);
        let kept = content::kept(headers, &self.proofs);
        let metadata = circumstances.with(&self.name, &content::metadata(&kept), &[]);
        let headers = content::usable(headers, self.scheme.secret_header());
        let event = |it: RawJson| {
            let hashed = if is_whole { body } else { &it.bytes()[..] };
            let hash = self.hashes_body.then(|| hex::encode(Sha256::digest(hashed)));
            let results = [("headers", headers.clone()), ("body_sha256", RawJson::of(&hash))];
            // The schema of its type judges what was sent, of which not all may be kept.
            let event = self.event(it.clone(), &results, metadata.clone(), now);
            UncheckedEvent { event, sent: Some(it), finish: None }
        };
        payloads.into_iter().map(event).collect()
    }

    fn event(
        &self,
        payload: RawJson,
        results: &[(&str, RawJson)],
        metadata: RawJson,
        now: Timestamp,
    ) -> NewEvent {
        let never = self.never_store.as_ref();
        let payload = never.and_then(|it| it.payload(&payload)).unwrap_or(payload);
        let metadata = never.and_then(|it| it.metadata(&metadata)).unwrap_or(metadata);
        let facts = Facts::new(
            Arc::new(Event {
                seq: EventSeq(0),
                id: EventId::from_bits(0),
                project: self.project,
                source: self.source,
                event_type: TypeName::trusted(UNTYPED),
                timestamp: now,
                received_at: now,
                key: None,
                metadata: metadata.clone(),
                payload: payload.clone(),
            }),
            Some(self.name.clone()),
        );
        let facts = results.iter().fold(facts, |facts, (name, it)| facts.with_result(name, it));
        let value = |it: &Option<Template>| {
            let text = it.as_ref().and_then(|it| it.render(&facts).ok())?;
            Some(text).filter(|it| !it.is_empty())
        };
        NewEvent {
            id: None,
            project: self.project,
            source: self.source,
            event_type: type_name(value(&self.event_type)),
            timestamp: None,
            received_at: now,
            // Half a character reads as this. Two ids that differ in one would be the same, and the second
            // event would be lost as a duplicate.
            key: value(&self.key)
                .filter(|it| !it.contains(char::REPLACEMENT_CHARACTER))
                .map(|it| key_of(&self.name, &it)),
            key_counts_for: self.key_window,
            metadata,
            payload,
        }
    }
}

fn compiled(source: &str) -> Option<Template> {
    let results = inbound::NAMES.map(str::to_owned);
    let template = format!("{{{{ {source} }}}}");
    // It was compiled before it was saved.
    Template::compile_with(&template, &Names { results: &results, bare: false }).ok()
}

/// The text as an event type: `orders/create` is `orders.create`, and what a type cannot hold is `_`.
fn type_name(text: Option<String>) -> TypeName {
    const LONGEST: usize = 128;
    let allowed = |it: char| match it {
        '/' | ':' => '.',
        it if it.is_ascii_alphanumeric() || matches!(it, '.' | '-' | '_') => it,
        _ => '_',
    };
    let text: String = text.unwrap_or_default().chars().map(allowed).take(LONGEST).collect();
    text.parse().unwrap_or_else(|_| TypeName::trusted(UNTYPED))
}

/// The id of a delivery, so that it is never taken for one of another source. A long one is hashed.
fn key_of(source: &Name, id: &str) -> IdempotencyKey {
    let key = format!("webhook:{source}:{id}");
    key.parse().unwrap_or_else(|_| {
        let digest = hex::encode(Sha256::digest(id.as_bytes()));
        IdempotencyKey::trusted(&format!("webhook:{source}:{digest}"))
    })
}

pub fn code(doubt: Doubt) -> &'static str {
    match doubt {
        Doubt::MissingHeader => "missing_header",
        Doubt::MalformedHeader => "malformed_header",
        Doubt::StaleTimestamp => "stale_timestamp",
        Doubt::WrongEncoding => "wrong_encoding",
        Doubt::BadSignature => "bad_signature",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_a_provider_calls_it_becomes_an_event_type() {
        for (text, expected) in [
            (Some("invoice.paid"), "invoice.paid"),
            (Some("orders/create"), "orders.create"),
            (Some("Push Hook"), "Push_Hook"),
            (Some("grün"), "gr_n"),
            (Some(""), UNTYPED),
            (None, UNTYPED),
        ] {
            assert_eq!(type_name(text.map(str::to_owned)).as_str(), expected);
        }
        assert_eq!(type_name(Some("x".repeat(200))).as_str().len(), 128);
    }

    #[test]
    fn a_key_belongs_to_its_source_and_always_fits() {
        let source: Name = "stripe".parse().unwrap();
        assert_eq!(key_of(&source, "evt_1").as_str(), "webhook:stripe:evt_1");
        let long = key_of(&source, &"x".repeat(300));
        assert_eq!(long, key_of(&source, &"x".repeat(300)));
        assert!(long.as_str().len() < 100 && long != key_of(&source, &"x".repeat(301)));
    }
}
