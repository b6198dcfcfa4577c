//! Who is calling, and for which project: found in memory, at the cost of one hash.
//!
//! Each request is answered by a [`Session`], which knows its project; nothing below the API takes
//! a project from anywhere else.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex},
};

use axum::http::{HeaderMap, HeaderName, header};
use jiff::{SignedDuration, Timestamp};
use tokio::sync::watch;

use crate::{
    catalog::{Catalog, CatalogDerived},
    clock::Clock,
    crypto::{AdminKey, KeyHasher, PlainKey, Random, Sha256Key},
    expr::{Facts, Template},
    model::{
        ApiKey, Event, EventId, EventSeq, IdMap, IdempotencyKey, KeyId, Name, NewEvent, ProjectId,
        Scope, SenderField, Source, SourceId, SourceKind, WriteKey,
    },
    problem::{Kind, Problem},
    redact::Redactor,
};

/// The header by which a key for all projects names the one it means.
pub static PROJECT_HEADER: HeaderName = HeaderName::from_static("tidegate-project");

/// Recognises callers.
pub struct Keyring {
    hasher: KeyHasher,
    admin: Option<AdminKey>,
    clock: Arc<dyn Clock>,
    /// Of the digests under which tokens are remembered; nobody can aim at a digest without it.
    seal: Sha256Key,
    ring: CatalogDerived<Ring>,
}

/// What one catalogue says about callers. It lives until the catalogue changes.
struct Ring {
    catalog: Arc<Catalog>,
    /// By the first characters of the key, which are not secret.
    by_hint: HashMap<String, Vec<Arc<ApiKey>>>,
    projects: IdMap<ProjectId, ApiSources>,
    by_write_key: HashMap<WriteKey, Arc<OpenSource>>,
    /// Tokens that were recognised, by digest, to spare the next request the HMAC.
    seen: Mutex<HashMap<[u8; 32], Caller>>,
}

/// The sources of a project that `/api/v1/events` posts to.
#[derive(Clone, Debug, Default)]
pub struct ApiSources {
    by_name: HashMap<Name, Arc<OpenSource>>,
    /// The oldest one that is enabled; of those that are equally old, the first by name.
    default: Option<Arc<OpenSource>>,
}

/// A source that takes events.
pub struct OpenSource {
    pub project: ProjectId,
    pub id: SourceId,
    pub name: Name,
    /// Gives an event its idempotency key, where the sender gave none.
    pub key: Option<SourceKey>,
    key_window: Option<SignedDuration>,
    /// What its senders may say in metadata, though we saw it.
    pub believed: Vec<SenderField>,
    pub never_store: Option<Redactor>,
}

/// The expression by which a source derives idempotency keys.
pub struct SourceKey(Template);

/// Whose key it is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Caller {
    /// `None`: the administrator's key from the environment.
    pub key: Option<KeyId>,
    /// `None`: every project.
    project: Option<ProjectId>,
    scopes: u8,
    expires_at: Option<Timestamp>,
}

/// One request's caller, under the catalogue of that moment.
pub struct Session {
    pub caller: Caller,
    ring: Arc<Ring>,
}

impl Keyring {
    pub fn new(
        catalog: watch::Receiver<Arc<Catalog>>,
        hasher: KeyHasher,
        admin: Option<AdminKey>,
        clock: Arc<dyn Clock>,
        random: &dyn Random,
    ) -> Self {
        let ring = CatalogDerived::new(catalog, |it, _| Ring::of(it.clone()));
        let mut seal = [0; 32];
        random.fill(&mut seal);
        Self { hasher, admin, clock, seal: Sha256Key::new(&seal), ring }
    }

    /// The caller by `Authorization: Bearer …`, if the key has the scope.
    pub fn authenticate(&self, headers: &HeaderMap, scope: Scope) -> Result<Session, Problem> {
        let token = headers
            .get(header::AUTHORIZATION)
            .ok_or_else(|| unauthorized("the request has no header `Authorization: Bearer tg_…`"))?
            .to_str()
            .ok()
            .and_then(|it| it.split_once(' '))
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
            .map(|(_, token)| token.trim())
            .ok_or_else(|| unauthorized("the header is `Authorization: Bearer tg_…`"))?;
        let ring = self.ring();
        let caller = self.recognise(&ring, token)?;
        if caller.expires_at.is_some_and(|it| it <= self.clock.now()) {
            return Err(unauthorized("the API key has expired"));
        }
        if !caller.may(scope) {
            let detail = format!("the API key needs the scope `{}`", name_of(scope));
            return Err(Problem::new(Kind::Forbidden).detail(detail));
        }
        Ok(Session { caller, ring })
    }

    /// The enabled source with this write key.
    pub fn by_write_key(&self, key: &str) -> Option<Arc<OpenSource>> {
        self.ring().by_write_key.get(key).cloned()
    }

    fn recognise(&self, ring: &Ring, token: &str) -> Result<Caller, Problem> {
        /// Keys are few. If not, forgetting all and starting again is as good as any order.
        const SEEN_AT_MOST: usize = 4096;
        // Whoever finds two texts with one code could come in by the other's key; with a secret key, nobody can.
        let digest = self.seal.code(&[token.as_bytes()]);
        if let Some(caller) = lock(&ring.seen).get(&digest) {
            return Ok(*caller);
        }
        let caller = self.recognise_anew(ring, token)?;
        let mut seen = lock(&ring.seen);
        if seen.len() >= SEEN_AT_MOST {
            seen.clear();
        }
        seen.insert(digest, caller);
        Ok(caller)
    }

    fn recognise_anew(&self, ring: &Ring, token: &str) -> Result<Caller, Problem> {
        if self.admin.as_ref().is_some_and(|it| it.matches(token)) {
            return Ok(Caller { key: None, project: None, scopes: u8::MAX, expires_at: None });
        }
        let key = PlainKey::parse(token).map_err(|error| unauthorized(error.to_string()))?;
        let candidates = ring.by_hint.get(key.hint()).map(Vec::as_slice).unwrap_or_default();
        candidates
            .iter()
            .find(|it| self.hasher.matches(&key, &it.hash))
            .map(|it| Caller::of(it))
            .ok_or_else(|| {
                unauthorized(
                    "unknown API key: it may have been revoked, or it belongs to another gateway",
                )
            })
    }

    fn ring(&self) -> Arc<Ring> {
        self.ring.get()
    }
}

impl Ring {
    fn of(catalog: Arc<Catalog>) -> Self {
        let mut by_hint: HashMap<String, Vec<Arc<ApiKey>>> = HashMap::new();
        for key in catalog.keys.values() {
            // A key whose project is gone opens nothing.
            if key.project.is_none_or(|it| catalog.projects.contains_key(&it)) {
                by_hint.entry(key.hint.clone()).or_default().push(key.clone());
            }
        }
        let mut projects: IdMap<ProjectId, ApiSources> =
            catalog.projects.keys().map(|&id| (id, ApiSources::default())).collect();
        let mut sources: Vec<_> = catalog.sources.values().collect();
        // Those of one file are of one moment, and then the name decides.
        sources.sort_by_key(|it| (it.created_at, it.name.clone()));
        let by_write_key = by_write_key(&catalog);
        for source in sources {
            let is_open = source.enabled && matches!(source.kind, SourceKind::Api);
            let Some(sources) = projects.get_mut(&source.project).filter(|_| is_open) else {
                continue;
            };
            let Some(open) = OpenSource::of(source).map(Arc::new) else { continue };
            sources.default.get_or_insert_with(|| open.clone());
            sources.by_name.insert(source.name.clone(), open);
        }
        Self { catalog, by_hint, projects, by_write_key, seen: Mutex::default() }
    }
}

fn by_write_key(catalog: &Catalog) -> HashMap<WriteKey, Arc<OpenSource>> {
    let is_open = |it: &&Arc<Source>| it.enabled && catalog.projects.contains_key(&it.project);
    let written = |it: &Arc<Source>| Some((it.write_key.clone()?, Arc::new(OpenSource::of(it)?)));
    catalog.sources.values().filter(is_open).filter_map(written).collect()
}

impl OpenSource {
    /// `None` where nobody can say what it must not keep: then it accepts nothing.
    fn of(source: &Source) -> Option<Self> {
        let compiled = |key: &String| {
            let template = Template::compile(&format!("{{{{ {key} }}}}"));
            // It was compiled before it was saved.
            template.ok().map(SourceKey)
        };
        let never_store = match source.never_store.as_ref().map(Redactor::before_storing) {
            Some(Err(error)) => {
                tracing::error!(source = %source.name, %error, "a stored never-store list makes no sense; the source accepts nothing");
                return None;
            }
            Some(Ok(redactor)) => Some(redactor),
            None => None,
        };
        Some(Self {
            project: source.project,
            id: source.id,
            name: source.name.clone(),
            key: source.key.as_ref().and_then(compiled),
            key_window: source.key_window.and_then(|it| it.try_into().ok()),
            believed: source.metadata_from_sender.clone(),
            never_store,
        })
    }

    /// The event without what must not be kept of it, and with the key that the source derives.
    pub fn finish(&self, mut event: NewEvent, is_key_derived: bool) -> NewEvent {
        if let Some(never) = &self.never_store {
            event.payload = never.payload(&event.payload).unwrap_or(event.payload);
            event.metadata = never.metadata(&event.metadata).unwrap_or(event.metadata);
        }
        if is_key_derived && let Some(key) = &self.key {
            event.key = key.of(&event, &self.name).or(event.key);
        }
        event.key_counts_for = self.key_window;
        event
    }
}

impl SourceKey {
    /// The key of an event; none where the expression has no value, or one that is no key.
    pub fn of(&self, event: &NewEvent, source: &Name) -> Option<IdempotencyKey> {
        let it = event.clone();
        let seen = Event {
            seq: EventSeq(0),
            id: it.id.unwrap_or(EventId::from_bits(0)),
            project: it.project,
            source: it.source,
            event_type: it.event_type,
            timestamp: it.timestamp.unwrap_or(it.received_at),
            received_at: it.received_at,
            key: None,
            metadata: it.metadata,
            payload: it.payload,
        };
        let facts = Facts::new(Arc::new(seen), Some(source.clone()));
        let key = self.0.render(&facts).ok()?;
        // Half a character reads as this. Two keys that differ in one would be the same, and the second
        // event would be lost as a duplicate.
        if key.contains(char::REPLACEMENT_CHARACTER) {
            return None;
        }
        let key: IdempotencyKey = key.parse().ok()?;
        // What the payload says may look like a key of another kind, and is none.
        Some(if key.is_reserved() { key.set_apart() } else { key })
    }
}

impl fmt::Debug for OpenSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the source {}", self.name)
    }
}

impl ApiSources {
    /// The named source, or the default.
    pub fn get(&self, name: Option<&str>) -> Option<&Arc<OpenSource>> {
        match name {
            None => self.default.as_ref(),
            Some(name) => self.by_name.get(name),
        }
    }

    pub fn with_id(&self, id: SourceId) -> Option<&OpenSource> {
        self.by_name.values().find(|it| it.id == id).map(AsRef::as_ref)
    }
}

impl Caller {
    fn of(key: &ApiKey) -> Self {
        let scopes = key.scopes.iter().fold(0, |bits, &scope| bits | bit(scope));
        Self { key: Some(key.id), project: key.project, scopes, expires_at: key.expires_at }
    }

    /// `admin` includes the others.
    pub fn may(&self, scope: Scope) -> bool {
        self.scopes & (bit(scope) | bit(Scope::Admin)) != 0
    }

    /// When it opens nothing any more; never, where there is none.
    pub fn expires_at(&self) -> Option<Timestamp> {
        self.expires_at
    }

    /// Why the caller may no longer do what it was allowed before in this project; `None`: it may. For
    /// answers that outlive the moment at which the key was looked at.
    pub fn refusal(
        &self,
        catalog: &Catalog,
        project: ProjectId,
        scope: Scope,
        now: Timestamp,
    ) -> Option<String> {
        if !catalog.projects.contains_key(&project) {
            return Some("the project was deleted".to_owned());
        }
        let now_is = match self.key {
            None => *self,
            Some(id) => match catalog.keys.get(&id) {
                None => return Some("the API key was deleted".to_owned()),
                Some(key) => Self::of(key),
            },
        };
        if now_is.expires_at.is_some_and(|it| it <= now) {
            return Some("the API key has expired".to_owned());
        }
        let is_wrong = !now_is.may(scope) || now_is.project.is_some_and(|it| it != project);
        is_wrong.then(|| format!("the API key has no longer the scope `{}` here", name_of(scope)))
    }

    /// Whether it administers every project.
    pub fn is_for_all_projects(&self) -> bool {
        self.project.is_none()
    }
}

impl Session {
    /// The project that the request is about. A key of a project has that one; a key for all
    /// projects names one by id or name, unless there is only one.
    pub fn project(&self, named: Option<&str>) -> Result<ProjectId, Problem> {
        let catalog = &self.ring.catalog;
        let named = named.map(|text| {
            let by_id = text.parse().ok().filter(|id| catalog.projects.contains_key(id));
            by_id.or_else(|| catalog.project_named(text).map(|it| it.id))
        });
        match (self.caller.project, named) {
            (Some(own), None) => Ok(own),
            (Some(own), Some(named)) if named == Some(own) => Ok(own),
            // Whether the other one exists is not this caller's business.
            (Some(_), Some(_)) => Err(Problem::new(Kind::Forbidden)
                .detail("the API key belongs to another project than the one that is named")),
            (None, Some(Some(named))) => Ok(named),
            (None, Some(None)) => {
                Err(Problem::new(Kind::NotFound).detail("there is no such project"))
            }
            (None, None) => match catalog.projects.keys().next() {
                Some(&only) if catalog.projects.len() == 1 => Ok(only),
                _ => Err(Problem::invalid_field(
                    format!("header:{}", PROJECT_HEADER),
                    "must name a project, by id or name, here or as `?project=`: the key is for all projects",
                    "nothing",
                )),
            },
        }
    }

    pub fn sources(&self, project: ProjectId) -> Option<&ApiSources> {
        self.ring.projects.get(&project)
    }

    pub fn catalog(&self) -> &Arc<Catalog> {
        &self.ring.catalog
    }
}

fn bit(scope: Scope) -> u8 {
    match scope {
        Scope::Ingest => 1,
        Scope::Read => 2,
        Scope::Operate => 4,
        Scope::Admin => 8,
    }
}

fn name_of(scope: Scope) -> &'static str {
    match scope {
        Scope::Ingest => "ingest",
        Scope::Read => "read",
        Scope::Operate => "operate",
        Scope::Admin => "admin",
    }
}

fn unauthorized(detail: impl Into<std::borrow::Cow<'static, str>>) -> Problem {
    Problem::new(Kind::Unauthorized).detail(detail)
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}
