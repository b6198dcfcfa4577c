//! What traffic shows of each type of event: its fields, their kinds, how often, and since when.
//!
//! No value of any payload is kept. Every event is counted; a payload is looked into while its type is
//! new, and then now and then. Everything is bounded, and what is beyond a bound is not learned.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
};

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::shape::Shape;
use crate::model::{Event, IdMap, ProjectId, TypeName};

/// Types of one project that are learned.
const TYPES: usize = 1000;
/// Fields of all types together, which is some tens of MiB of memory at the most.
const FIELDS: usize = 200_000;
/// Fields of one type.
const FIELDS_OF_A_TYPE: usize = 500;
/// The first payloads of a type that are all looked into, and then every so many.
const FIRST: u64 = 100;
const EVERY: u64 = 256;
/// Bytes of a payload beyond which it is only counted.
const LARGEST: usize = 256 * 1024;
/// After so long, a type that does not come any more is forgotten.
const FORGOTTEN: SignedDuration = SignedDuration::from_hours(90 * 24);

/// All that was learned.
#[derive(Default)]
pub struct Learned {
    projects: RwLock<IdMap<ProjectId, HashMap<TypeName, Arc<Type>>>>,
    fields: AtomicUsize,
}

/// What traffic shows of one type.
#[derive(Debug)]
pub struct Type {
    events: AtomicU64,
    flagged: AtomicU64,
    rejected: AtomicU64,
    /// In microseconds since 1970.
    first: i64,
    last: AtomicI64,
    shape: Mutex<Shape>,
}

/// How often a type came.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[schema(as = EventTypeTraffic)]
pub struct TypeCounts {
    /// Events that were kept.
    pub events: u64,
    /// Those of them that were not as the schema says.
    pub flagged: u64,
    /// Events that were not kept, since they were not as the schema says.
    pub rejected: u64,
    #[schema(value_type = String, format = DateTime)]
    pub first_seen_at: Timestamp,
    #[schema(value_type = String, format = DateTime)]
    pub last_seen_at: Timestamp,
}

/// One type, as it is kept in a file.
#[derive(Serialize, Deserialize)]
struct LearnedType {
    project: ProjectId,
    name: TypeName,
    counts: TypeCounts,
    shape: Shape,
}

impl Learned {
    /// Counts an event that was kept, and looks into it now and then.
    pub fn see(&self, event: &Event) {
        let Some(learned) = self.entry(event.project, &event.event_type, event.received_at) else {
            return;
        };
        let before = learned.events.fetch_add(1, Relaxed);
        let now = event.received_at;
        learned.last.fetch_max(now.as_microsecond(), Relaxed);
        let is_looked_into = before < FIRST || before.is_multiple_of(EVERY);
        if !is_looked_into || event.payload.bytes().len() > LARGEST {
            return;
        }
        let payload = event.payload.to_value();
        let mut shape = learned.shape();
        let taken = self.fields.load(Relaxed);
        let own = FIELDS_OF_A_TYPE.saturating_sub(shape.fields());
        let room = FIELDS.saturating_sub(taken).min(own);
        let added = shape.see(&payload, now, room);
        self.fields.fetch_add(added, Relaxed);
    }

    /// Counts an event of this type that was not as its schema says.
    pub fn judged(&self, project: ProjectId, name: &TypeName, is_kept: bool, now: Timestamp) {
        let Some(learned) = self.entry(project, name, now) else { return };
        let count = if is_kept { &learned.flagged } else { &learned.rejected };
        count.fetch_add(1, Relaxed);
        learned.last.fetch_max(now.as_microsecond(), Relaxed);
    }

    pub fn get(&self, project: ProjectId, name: &TypeName) -> Option<Arc<Type>> {
        let projects = self.projects.read().unwrap_or_else(PoisonError::into_inner);
        projects.get(&project)?.get(name).cloned()
    }

    /// Every type of a project, in no order.
    pub fn all(&self, project: ProjectId) -> Vec<(TypeName, Arc<Type>)> {
        let projects = self.projects.read().unwrap_or_else(PoisonError::into_inner);
        let types = projects.get(&project).into_iter().flatten();
        types.map(|(name, it)| (name.clone(), it.clone())).collect()
    }

    fn entry(&self, project: ProjectId, name: &TypeName, now: Timestamp) -> Option<Arc<Type>> {
        let is_full = |types: &HashMap<TypeName, Arc<Type>>| {
            let is_full = types.len() >= TYPES;
            if is_full {
                metrics::counter!("tidegate_event_types_not_learned_total").increment(1);
            }
            is_full
        };
        let projects = self.projects.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(types) = projects.get(&project) {
            if let Some(known) = types.get(name) {
                return Some(known.clone());
            }
            // Whoever invents types without end holds up nobody who only reads.
            if is_full(types) {
                return None;
            }
        }
        drop(projects);
        let mut projects = self.projects.write().unwrap_or_else(PoisonError::into_inner);
        let types = projects.entry(project).or_default();
        if !types.contains_key(name) && is_full(types) {
            return None;
        }
        let fresh = || Arc::new(Type::new(now));
        Some(types.entry(name.clone()).or_insert_with(fresh).clone())
    }

    /// Forgets the types of projects that are gone, and those that do not come any more.
    pub fn forget(&self, now: Timestamp, is_there: impl Fn(ProjectId) -> bool) {
        let horizon = now.checked_sub(FORGOTTEN).unwrap_or(Timestamp::MIN).as_microsecond();
        let mut projects = self.projects.write().unwrap_or_else(PoisonError::into_inner);
        projects.retain(|project, _| is_there(*project));
        for types in projects.values_mut() {
            types.retain(|_, it| it.last.load(Relaxed) >= horizon);
        }
        let all = projects.values().flat_map(HashMap::values);
        self.fields.store(all.map(|it| it.shape().fields()).sum(), Relaxed);
    }

    /// All of it, for a file.
    pub fn to_kept(&self) -> impl Serialize {
        let projects = self.projects.read().unwrap_or_else(PoisonError::into_inner).clone();
        let types = projects.into_iter().flat_map(|(project, types)| {
            types.into_iter().map(move |(name, it)| LearnedType {
                project,
                name,
                counts: it.counts(),
                shape: it.shape().clone(),
            })
        });
        types.collect::<Vec<_>>()
    }

    /// What a file holds.
    pub fn from_kept(file: &std::path::Path) -> Self {
        let kept: Vec<LearnedType> = crate::derived::read(file).unwrap_or_default();
        let learned = Self::default();
        let mut projects = learned.projects.write().unwrap_or_else(PoisonError::into_inner);
        for LearnedType { project, name, counts, shape } in kept {
            learned.fields.fetch_add(shape.fields(), Relaxed);
            let known = Type {
                events: counts.events.into(),
                flagged: counts.flagged.into(),
                rejected: counts.rejected.into(),
                first: counts.first_seen_at.as_microsecond(),
                last: counts.last_seen_at.as_microsecond().into(),
                shape: Mutex::new(shape),
            };
            projects.entry(project).or_default().insert(name, Arc::new(known));
        }
        drop(projects);
        learned
    }
}

impl Type {
    fn new(now: Timestamp) -> Self {
        Self {
            events: AtomicU64::new(0),
            flagged: AtomicU64::new(0),
            rejected: AtomicU64::new(0),
            first: now.as_microsecond(),
            last: now.as_microsecond().into(),
            shape: Mutex::default(),
        }
    }

    pub fn counts(&self) -> TypeCounts {
        let time = |it| Timestamp::from_microsecond(it).unwrap_or(Timestamp::UNIX_EPOCH);
        TypeCounts {
            events: self.events.load(Relaxed),
            flagged: self.flagged.load(Relaxed),
            rejected: self.rejected.load(Relaxed),
            first_seen_at: time(self.first),
            last_seen_at: time(self.last.load(Relaxed)),
        }
    }

    /// What its payloads look like.
    pub fn shape(&self) -> std::sync::MutexGuard<'_, Shape> {
        self.shape.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
