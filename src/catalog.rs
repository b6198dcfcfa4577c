//! All resources, in memory, as every stage sees them.
//!
//! A [`Catalog`] is one consistent picture that never changes; a change makes the next one and
//! tells whoever watches. It is changed only through the [`CatalogWriter`], which keeps it first.

use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError, RwLock},
};

use serde::{Serialize, de::DeserializeOwned};
use tokio::sync::{Mutex, watch};

use crate::{
    model::{
        ApiKey, Deletion, DeletionId, Destination, DestinationId, EventType, EventTypeId, KeyId,
        Lookup, LookupId, Pipeline, PipelineId, Project, ProjectId, RawJson, Replay, ReplayId,
        Source, SourceId,
    },
    store::{Change, Document, Registry, Revised, StoreError},
};

/// Every resource, by id.
#[derive(Clone, Debug, Default)]
pub struct Catalog {
    pub projects: BTreeMap<ProjectId, Arc<Project>>,
    pub keys: BTreeMap<KeyId, Arc<ApiKey>>,
    pub sources: BTreeMap<SourceId, Arc<Source>>,
    pub destinations: BTreeMap<DestinationId, Arc<Destination>>,
    pub pipelines: BTreeMap<PipelineId, Arc<Pipeline>>,
    /// The versions that each pipeline had before the one that it has.
    pub histories: BTreeMap<PipelineId, Arc<History>>,
    pub event_types: BTreeMap<EventTypeId, Arc<EventType>>,
    pub replays: BTreeMap<ReplayId, Arc<Replay>>,
    pub lookups: BTreeMap<LookupId, Arc<Lookup>>,
    pub deletions: BTreeMap<DeletionId, Arc<Deletion>>,
}

impl Catalog {
    pub fn project_named(&self, name: &str) -> Option<&Arc<Project>> {
        self.projects.values().find(|it| it.name.as_str() == name)
    }

    pub fn source_named(&self, project: ProjectId, name: &str) -> Option<&Arc<Source>> {
        self.sources.values().find(|it| it.project == project && it.name.as_str() == name)
    }

    pub fn destination_named(&self, project: ProjectId, name: &str) -> Option<&Arc<Destination>> {
        self.destinations.values().find(|it| it.project == project && it.name.as_str() == name)
    }

    pub fn lookup_named(&self, project: ProjectId, name: &str) -> Option<&Arc<Lookup>> {
        self.lookups.values().find(|it| it.project == project && it.name.as_str() == name)
    }

    pub fn pipeline_named(&self, project: ProjectId, name: &str) -> Option<&Arc<Pipeline>> {
        self.pipelines.values().find(|it| it.project == project && it.name.as_str() == name)
    }
}

/// What somebody makes of the catalogue, to be made again when that has changed.
pub struct CatalogDerived<T> {
    catalog: watch::Receiver<Arc<Catalog>>,
    make: Make<T>,
    /// With the catalogue that it was made of.
    made: RwLock<(Arc<Catalog>, Arc<T>)>,
}

/// Makes it of a catalogue, and of what was made of the one before.
type Make<T> = fn(&Arc<Catalog>, Option<&T>) -> T;

impl<T> CatalogDerived<T> {
    pub fn new(catalog: watch::Receiver<Arc<Catalog>>, make: Make<T>) -> Self {
        let now = catalog.borrow().clone();
        let made = Arc::new(make(&now, None));
        Self { catalog, make, made: RwLock::new((now, made)) }
    }

    /// As the present catalogue has it.
    pub fn get(&self) -> Arc<T> {
        let (now, before) = {
            let now = self.catalog.borrow();
            let made = self.made.read().unwrap_or_else(PoisonError::into_inner);
            // It keeps its catalogue alive, so the same address is the same catalogue.
            if Arc::ptr_eq(&made.0, &now) {
                return made.1.clone();
            }
            (now.clone(), made.1.clone())
        };
        let fresh = Arc::new((self.make)(&now, Some(&before)));
        *self.made.write().unwrap_or_else(PoisonError::into_inner) = (now, fresh.clone());
        fresh
    }
}

/// Versions of one pipeline, by their number.
pub type History = BTreeMap<u32, Arc<Pipeline>>;

/// Versions of a pipeline that are kept besides the one that it has; the oldest go.
pub const MOST_VERSIONS: usize = 200;
/// Bytes of their documents, where they are more than one.
pub const VERSION_BYTES: usize = 4 << 20;

/// One resource with its kind.
#[allow(
    clippy::large_enum_variant,
    reason = "changes are rare and few; a box would only be in the way"
)]
#[derive(Clone, Debug, PartialEq)]
pub enum Resource {
    Project(Project),
    Key(ApiKey),
    Source(Source),
    Destination(Destination),
    Pipeline(Pipeline),
    /// One that it had before.
    PipelineVersion(Pipeline),
    EventType(EventType),
    Replay(Replay),
    Lookup(Lookup),
    Deletion(Deletion),
}

#[allow(clippy::large_enum_variant, reason = "as above")]
#[derive(Clone, Debug, PartialEq)]
pub enum Edit {
    Put(Resource),
    DeleteProject(ProjectId),
    DeleteKey(KeyId),
    DeleteSource(SourceId),
    DeleteDestination(DestinationId),
    /// With the versions that it had.
    DeletePipeline(PipelineId),
    DeletePipelineVersion(PipelineId, u32),
    DeleteEventType(EventTypeId),
    DeleteReplay(ReplayId),
    DeleteLookup(LookupId),
    DeleteDeletion(DeletionId),
}

/// The one writer of the catalogue in this process. Others may change the same resources: then each
/// change is decided on by what the database has at that moment, while the others wait.
pub struct CatalogWriter {
    registry: Arc<dyn Registry>,
    current: watch::Sender<Arc<Catalog>>,
    /// One change at a time, so that each sees the one before. It is the revision that is known.
    turn: Mutex<u64>,
}

impl CatalogWriter {
    /// Reads the catalogue as it was kept.
    pub async fn open(registry: Arc<dyn Registry>) -> Result<Self, StoreError> {
        let kept = match registry.newer(0).await? {
            Some(kept) => kept,
            None => Revised { revision: 0, documents: registry.load().await? },
        };
        let catalog = Catalog::of(&kept.documents, &Catalog::default())?;
        let current = watch::Sender::new(Arc::new(catalog));
        Ok(Self { registry, current, turn: Mutex::new(kept.revision) })
    }

    pub fn current(&self) -> Arc<Catalog> {
        self.current.borrow().clone()
    }

    pub fn watch(&self) -> watch::Receiver<Arc<Catalog>> {
        self.current.subscribe()
    }

    /// Takes over what other nodes have changed, if anything.
    pub async fn refresh(&self) -> Result<(), StoreError> {
        let mut known = self.turn.lock().await;
        if let Some(newer) = self.registry.newer(*known).await? {
            self.take_over(&newer, &mut known)?;
        }
        Ok(())
    }

    fn take_over(&self, newer: &Revised, known: &mut u64) -> Result<(), StoreError> {
        let catalog = Catalog::of(&newer.documents, &self.current())?;
        *known = newer.revision;
        self.current.send_replace(Arc::new(catalog));
        Ok(())
    }

    /// Decides on edits by the catalogue as it is, keeps them all in one transaction, and then
    /// shows them. Decisions run one at a time, over all nodes, so a check in `decide` still holds when its
    /// edits are kept. What a pipeline was before it was changed is kept in the same transaction.
    pub async fn edit<T, E: From<StoreError>>(
        &self,
        decide: impl FnOnce(&Catalog) -> Result<(Vec<Edit>, T), E>,
    ) -> Result<T, E> {
        let mut known = self.turn.lock().await;
        let mut turn = self.registry.turn(*known).await?;
        if let Some(newer) = turn.as_mut().and_then(|it| it.newer()) {
            self.take_over(&newer, &mut known)?;
        }
        let mut next = Catalog::clone(&self.current());
        let decided = decide(&next);
        let (mut edits, answer) = match decided {
            Ok((edits, answer)) if !edits.is_empty() => (edits, answer),
            nothing => {
                if let Some(turn) = turn {
                    turn.give_up().await;
                }
                return nothing.map(|it| it.1);
            }
        };
        edits.extend(next.remembered(&edits));
        let changes = edits.iter().map(Edit::to_change).collect();
        match turn {
            Some(turn) => *known = turn.commit(changes).await?,
            None => self.registry.change(changes).await?,
        }
        for edit in edits {
            next.apply(edit);
        }
        self.current.send_replace(Arc::new(next));
        Ok(answer)
    }
}

impl Catalog {
    /// As documents say. What is as it was is the same object, so that whoever looks for changes finds
    /// only these.
    fn of(documents: &[Document], before: &Self) -> Result<Self, StoreError> {
        fn same<K: Ord, V: PartialEq>(new: &mut BTreeMap<K, Arc<V>>, before: &BTreeMap<K, Arc<V>>) {
            for (key, value) in new {
                if let Some(it) = before.get(key).filter(|it| *it == value) {
                    *value = it.clone();
                }
            }
        }
        let mut catalog = Self::default();
        for document in documents {
            catalog.apply(Edit::Put(Resource::from_document(document)?));
        }
        same(&mut catalog.projects, &before.projects);
        same(&mut catalog.keys, &before.keys);
        same(&mut catalog.sources, &before.sources);
        same(&mut catalog.destinations, &before.destinations);
        same(&mut catalog.pipelines, &before.pipelines);
        same(&mut catalog.histories, &before.histories);
        same(&mut catalog.event_types, &before.event_types);
        same(&mut catalog.replays, &before.replays);
        same(&mut catalog.lookups, &before.lookups);
        same(&mut catalog.deletions, &before.deletions);
        Ok(catalog)
    }

    fn apply(&mut self, edit: Edit) {
        match edit {
            Edit::Put(Resource::Project(it)) => drop(self.projects.insert(it.id, Arc::new(it))),
            Edit::Put(Resource::Key(it)) => drop(self.keys.insert(it.id, Arc::new(it))),
            Edit::Put(Resource::Source(it)) => drop(self.sources.insert(it.id, Arc::new(it))),
            Edit::Put(Resource::Destination(it)) => {
                drop(self.destinations.insert(it.id, Arc::new(it)))
            }
            Edit::Put(Resource::Pipeline(it)) => drop(self.pipelines.insert(it.id, Arc::new(it))),
            Edit::Put(Resource::PipelineVersion(it)) => {
                let history = self.histories.entry(it.id).or_default();
                Arc::make_mut(history).insert(it.version, Arc::new(it));
            }
            Edit::Put(Resource::EventType(it)) => {
                drop(self.event_types.insert(it.id, Arc::new(it)))
            }
            Edit::Put(Resource::Replay(it)) => drop(self.replays.insert(it.id, Arc::new(it))),
            Edit::Put(Resource::Lookup(it)) => drop(self.lookups.insert(it.id, Arc::new(it))),
            Edit::Put(Resource::Deletion(it)) => drop(self.deletions.insert(it.id, Arc::new(it))),
            Edit::DeleteProject(id) => drop(self.projects.remove(&id)),
            Edit::DeleteKey(id) => drop(self.keys.remove(&id)),
            Edit::DeleteSource(id) => drop(self.sources.remove(&id)),
            Edit::DeleteDestination(id) => drop(self.destinations.remove(&id)),
            Edit::DeletePipeline(id) => drop(self.pipelines.remove(&id)),
            Edit::DeletePipelineVersion(id, version) => {
                let Some(history) = self.histories.get_mut(&id) else { return };
                Arc::make_mut(history).remove(&version);
                if history.is_empty() {
                    self.histories.remove(&id);
                }
            }
            Edit::DeleteEventType(id) => drop(self.event_types.remove(&id)),
            Edit::DeleteReplay(id) => drop(self.replays.remove(&id)),
            Edit::DeleteLookup(id) => drop(self.lookups.remove(&id)),
            Edit::DeleteDeletion(id) => drop(self.deletions.remove(&id)),
        }
    }
}

impl Catalog {
    /// What edits of pipelines add to their histories, and what has no room there any more.
    fn remembered(&self, edits: &[Edit]) -> Vec<Edit> {
        let mut more = Vec::new();
        for edit in edits {
            match edit {
                Edit::Put(Resource::Pipeline(new)) => {
                    let before = self.pipelines.get(&new.id);
                    let Some(before) = before.filter(|it| it.version < new.version) else {
                        continue;
                    };
                    let forgotten = self.history(new.id).map(|it| overflow(it, before));
                    let forget = |it| Edit::DeletePipelineVersion(new.id, it);
                    more.extend(forgotten.into_iter().flatten().map(forget));
                    more.push(Edit::Put(Resource::PipelineVersion(Pipeline::clone(before))));
                }
                Edit::DeletePipeline(id) => {
                    let versions = self.history(*id).into_iter().flat_map(BTreeMap::keys);
                    more.extend(versions.map(|it| Edit::DeletePipelineVersion(*id, *it)));
                }
                Edit::Put(_)
                | Edit::DeleteProject(_)
                | Edit::DeleteKey(_)
                | Edit::DeleteSource(_)
                | Edit::DeleteDestination(_)
                | Edit::DeletePipelineVersion(..)
                | Edit::DeleteEventType(_)
                | Edit::DeleteReplay(_)
                | Edit::DeleteLookup(_)
                | Edit::DeleteDeletion(_) => (),
            }
        }
        more
    }

    fn history(&self, pipeline: PipelineId) -> Option<&History> {
        self.histories.get(&pipeline).map(Arc::as_ref)
    }

    /// A version of a pipeline, which may be the one that it has.
    pub fn pipeline_version(&self, id: PipelineId, version: u32) -> Option<&Arc<Pipeline>> {
        let current = self.pipelines.get(&id).filter(|it| it.version == version);
        current.or_else(|| self.history(id)?.get(&version))
    }
}

/// The versions that must go when one more comes.
fn overflow(history: &History, new: &Pipeline) -> Vec<u32> {
    let weight = |it: &Pipeline| RawJson::of(it).bytes().len();
    let (mut count, mut bytes) = (1, weight(new));
    let mut forgotten = Vec::new();
    for (version, document) in history.iter().rev() {
        count += 1;
        bytes += weight(document);
        if count > MOST_VERSIONS || bytes > VERSION_BYTES {
            forgotten.push(*version);
        }
    }
    forgotten
}

const PIPELINE_VERSION: &str = "pipeline_version";

/// Where a version is kept: far from the ids of resources, and from the versions of other pipelines.
fn version_bits(pipeline: PipelineId, version: u32) -> u128 {
    const STEP: u128 = 0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835;
    pipeline.bits().wrapping_add(STEP.wrapping_mul(u128::from(version)))
}

impl Edit {
    fn to_change(&self) -> Change {
        let delete = |kind: &str, id| Change::Delete { kind: kind.to_owned(), id };
        match self {
            Self::Put(resource) => Change::Put(resource.to_document()),
            Self::DeleteProject(id) => delete("project", id.bits()),
            Self::DeleteKey(id) => delete("key", id.bits()),
            Self::DeleteSource(id) => delete("source", id.bits()),
            Self::DeleteDestination(id) => delete("destination", id.bits()),
            Self::DeletePipeline(id) => delete("pipeline", id.bits()),
            Self::DeletePipelineVersion(id, version) => {
                delete(PIPELINE_VERSION, version_bits(*id, *version))
            }
            Self::DeleteEventType(id) => delete("event_type", id.bits()),
            Self::DeleteReplay(id) => delete("replay", id.bits()),
            Self::DeleteLookup(id) => delete("lookup", id.bits()),
            Self::DeleteDeletion(id) => delete("deletion", id.bits()),
        }
    }
}

impl Resource {
    fn to_document(&self) -> Document {
        fn document<T: Serialize>(kind: &str, id: u128, value: &T) -> Document {
            Document { kind: kind.to_owned(), id, body: RawJson::of(value) }
        }
        match self {
            Self::Project(it) => document("project", it.id.bits(), it),
            Self::Key(it) => document("key", it.id.bits(), it),
            Self::Source(it) => document("source", it.id.bits(), it),
            Self::Destination(it) => document("destination", it.id.bits(), it),
            Self::Pipeline(it) => document("pipeline", it.id.bits(), it),
            Self::PipelineVersion(it) => {
                document(PIPELINE_VERSION, version_bits(it.id, it.version), it)
            }
            Self::EventType(it) => document("event_type", it.id.bits(), it),
            Self::Replay(it) => document("replay", it.id.bits(), it),
            Self::Lookup(it) => document("lookup", it.id.bits(), it),
            Self::Deletion(it) => document("deletion", it.id.bits(), it),
        }
    }

    fn from_document(document: &Document) -> Result<Self, StoreError> {
        fn parse<T: DeserializeOwned>(document: &Document) -> Result<T, StoreError> {
            serde_json::from_slice(document.body.bytes())
                .map_err(|_| StoreError::Damaged { what: "resource" })
        }
        match document.kind.as_str() {
            "project" => parse(document).map(Self::Project),
            "key" => parse(document).map(Self::Key),
            "source" => parse(document).map(Self::Source),
            "destination" => parse(document).map(Self::Destination),
            "pipeline" => parse(document).map(Self::Pipeline),
            PIPELINE_VERSION => parse(document).map(Self::PipelineVersion),
            "event_type" => parse(document).map(Self::EventType),
            "replay" => parse(document).map(Self::Replay),
            "lookup" => parse(document).map(Self::Lookup),
            "deletion" => parse(document).map(Self::Deletion),
            _ => Err(StoreError::Damaged { what: "kind of resource" }),
        }
    }
}
