//! All resources, in memory, as every stage sees them.
//!
//! A [`Catalog`] is one consistent picture that never changes; a change makes the next one and
//! tells whoever watches. It is changed only through the [`Registrar`], which keeps it first.

use std::{collections::BTreeMap, sync::Arc};

use serde::{Serialize, de::DeserializeOwned};
use tokio::sync::{Mutex, watch};

use crate::{
    model::{
        ApiKey, Deletion, DeletionId, Destination, DestinationId, EventType, EventTypeId, KeyId,
        Pipeline, PipelineId, Project, ProjectId, RawJson, Replay, ReplayId, Source, SourceId,
    },
    store::{Change, Document, Registry, StoreError},
};

/// Every resource, by id.
#[derive(Clone, Debug, Default)]
pub struct Catalog {
    pub projects: BTreeMap<ProjectId, Arc<Project>>,
    pub keys: BTreeMap<KeyId, Arc<ApiKey>>,
    pub sources: BTreeMap<SourceId, Arc<Source>>,
    pub destinations: BTreeMap<DestinationId, Arc<Destination>>,
    pub pipelines: BTreeMap<PipelineId, Arc<Pipeline>>,
    pub event_types: BTreeMap<EventTypeId, Arc<EventType>>,
    pub replays: BTreeMap<ReplayId, Arc<Replay>>,
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

    pub fn pipeline_named(&self, project: ProjectId, name: &str) -> Option<&Arc<Pipeline>> {
        self.pipelines.values().find(|it| it.project == project && it.name.as_str() == name)
    }
}

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
    EventType(EventType),
    Replay(Replay),
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
    DeletePipeline(PipelineId),
    DeleteEventType(EventTypeId),
    DeleteReplay(ReplayId),
    DeleteDeletion(DeletionId),
}

/// The one writer of the catalogue.
pub struct Registrar {
    registry: Arc<dyn Registry>,
    current: watch::Sender<Arc<Catalog>>,
    /// One change at a time, so that each sees the one before.
    turn: Mutex<()>,
}

impl Registrar {
    /// Reads the catalogue as it was kept.
    pub async fn open(registry: Arc<dyn Registry>) -> Result<Self, StoreError> {
        let mut catalog = Catalog::default();
        for document in registry.load().await? {
            catalog.apply(Edit::Put(Resource::from_document(&document)?));
        }
        Ok(Self { registry, current: watch::Sender::new(Arc::new(catalog)), turn: Mutex::new(()) })
    }

    pub fn current(&self) -> Arc<Catalog> {
        self.current.borrow().clone()
    }

    pub fn watch(&self) -> watch::Receiver<Arc<Catalog>> {
        self.current.subscribe()
    }

    /// Decides on edits by the catalogue as it is, keeps them all in one transaction, and then
    /// shows them. Decisions run one at a time, so a check in `decide` still holds when its edits are kept.
    pub async fn edit<T, E: From<StoreError>>(
        &self,
        decide: impl FnOnce(&Catalog) -> Result<(Vec<Edit>, T), E>,
    ) -> Result<T, E> {
        let _turn = self.turn.lock().await;
        let mut next = Catalog::clone(&self.current());
        let (edits, answer) = decide(&next)?;
        if edits.is_empty() {
            return Ok(answer);
        }
        self.registry.change(edits.iter().map(Edit::to_change).collect()).await?;
        for edit in edits {
            next.apply(edit);
        }
        self.current.send_replace(Arc::new(next));
        Ok(answer)
    }
}

impl Catalog {
    fn apply(&mut self, edit: Edit) {
        match edit {
            Edit::Put(Resource::Project(it)) => drop(self.projects.insert(it.id, Arc::new(it))),
            Edit::Put(Resource::Key(it)) => drop(self.keys.insert(it.id, Arc::new(it))),
            Edit::Put(Resource::Source(it)) => drop(self.sources.insert(it.id, Arc::new(it))),
            Edit::Put(Resource::Destination(it)) => {
                drop(self.destinations.insert(it.id, Arc::new(it)))
            }
            Edit::Put(Resource::Pipeline(it)) => drop(self.pipelines.insert(it.id, Arc::new(it))),
            Edit::Put(Resource::EventType(it)) => {
                drop(self.event_types.insert(it.id, Arc::new(it)))
            }
            Edit::Put(Resource::Replay(it)) => drop(self.replays.insert(it.id, Arc::new(it))),
            Edit::Put(Resource::Deletion(it)) => drop(self.deletions.insert(it.id, Arc::new(it))),
            Edit::DeleteProject(id) => drop(self.projects.remove(&id)),
            Edit::DeleteKey(id) => drop(self.keys.remove(&id)),
            Edit::DeleteSource(id) => drop(self.sources.remove(&id)),
            Edit::DeleteDestination(id) => drop(self.destinations.remove(&id)),
            Edit::DeletePipeline(id) => drop(self.pipelines.remove(&id)),
            Edit::DeleteEventType(id) => drop(self.event_types.remove(&id)),
            Edit::DeleteReplay(id) => drop(self.replays.remove(&id)),
            Edit::DeleteDeletion(id) => drop(self.deletions.remove(&id)),
        }
    }
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
            Self::DeleteEventType(id) => delete("event_type", id.bits()),
            Self::DeleteReplay(id) => delete("replay", id.bits()),
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
            Self::EventType(it) => document("event_type", it.id.bits(), it),
            Self::Replay(it) => document("replay", it.id.bits(), it),
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
            "event_type" => parse(document).map(Self::EventType),
            "replay" => parse(document).map(Self::Replay),
            "deletion" => parse(document).map(Self::Deletion),
            _ => Err(StoreError::Damaged { what: "kind of resource" }),
        }
    }
}
