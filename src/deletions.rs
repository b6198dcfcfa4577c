//! People who want to be forgotten: telling destinations, and erasing what is stored.
//!
//! Each request is a document of the catalogue, carried out here in the background, one step at a time,
//! and each step is noted when it is done. So a crash repeats one step at most: telling twice is one
//! event all the same, since its id follows from the request's, and what is erased is not found again.

use std::{
    collections::{BTreeSet, HashSet},
    sync::Arc,
    time::Duration,
};

use serde_json::json;
use tokio::sync::watch;

use crate::{
    catalog::{Catalog, CatalogWriter, Edit, Resource},
    clock::{self, Clock},
    dispatch,
    model::{
        Deletion, DeletionId, DeletionState, DeliverySeq, DestinationId, EventId, EventSeq,
        Forgotten, NewEvent, ProjectId, RawJson, SourceId, TypeName,
    },
    pipeline::Direction,
    store::{Database, OwedQuery, StoreError},
};

/// Requests of a project that may wait or be under way at once.
pub const OPEN_AT_MOST: usize = 1000;
/// How long the list keeps those that have ended, by number. Those that suppress stay.
pub const ENDED_KEPT: usize = 1000;
/// Users of a project that may be suppressed.
pub const SUPPRESSED_AT_MOST: usize = 10_000;

/// What the background work is given.
pub struct Parts {
    pub database: Arc<dyn Database>,
    pub catalog_writer: Arc<CatalogWriter>,
    pub clock: Arc<dyn Clock>,
    pub dispatch: dispatch::Handle,
    /// Becomes true when the work is to end.
    pub stop: watch::Receiver<bool>,
}

/// Carries out the catalogue's deletions until it is stopped.
pub async fn run(mut parts: Parts) {
    let mut catalog = parts.catalog_writer.watch();
    let mut swept = HashSet::new();
    while !*parts.stop.borrow() {
        let now = catalog.borrow_and_update().clone();
        let Some(deletion) = next(&now).cloned() else {
            tokio::select! {
                changed = catalog.changed() => if changed.is_err() { return },
                _ = parts.stop.changed() => return,
            }
            continue;
        };
        let mut stop = parts.stop.clone();
        let done = tokio::select! {
            done = parts.turn(&deletion, &now, &mut swept) => done,
            _ = stop.wait_for(|it| *it) => return,
        };
        if let Err(error) = done {
            // It goes on from what was noted, however far that is.
            tracing::warn!(deletion = %deletion.id, %error, "a deletion waits for the store");
            clock::pause(parts.clock.as_ref(), &mut parts.stop).await;
        }
    }
}

/// What to do now: tell first, since that is quick; then erase, one request after the other.
fn next(catalog: &Catalog) -> Option<&Arc<Deletion>> {
    let first = |state| catalog.deletions.values().find(|it| it.state == state);
    first(DeletionState::Notifying)
        .or_else(|| first(DeletionState::Erasing))
        .or_else(|| first(DeletionState::Waiting))
}

/// The destinations that get notices of deletions, and to which pipelines route what comes from the project's sources. Every enabled
/// source counts as affected: what a receiver got may be forgotten here already.
fn affected(catalog: &Catalog, project: ProjectId) -> Vec<DestinationId> {
    let has_source = |names: &[crate::model::Name]| {
        let mut sources = catalog.sources.values().filter(|it| it.project == project && it.enabled);
        sources.any(|it| names.is_empty() || names.contains(&it.name))
    };
    let pipelines = catalog.pipelines.values().filter(|it| it.project == project && it.enabled);
    let routes = pipelines.filter(|it| has_source(&it.sources)).flat_map(|it| &it.routes);
    let found: BTreeSet<DestinationId> = routes
        .filter_map(|it| catalog.destination_named(project, it.to.as_str()))
        .filter(|it| it.connection.gets_deletion_notices())
        .map(|it| it.id)
        .collect();
    found.into_iter().collect()
}

/// The id of an event that tells of a deletion; more than one are needed only where there are very many
/// destinations.
pub fn event_id(deletion: DeletionId, part: usize) -> EventId {
    EventId::from_bits(deletion.bits() ^ part as u128)
}

impl Parts {
    /// `swept` are the deletions whose users are owed nothing any more, as far as this process knows.
    async fn turn(
        &self,
        deletion: &Deletion,
        catalog: &Catalog,
        swept: &mut HashSet<DeletionId>,
    ) -> Result<(), StoreError> {
        match deletion.state {
            DeletionState::Notifying => self.notify(deletion, catalog, swept).await,
            DeletionState::Waiting => self.begin(deletion).await,
            DeletionState::Erasing => self.erase(deletion).await,
            DeletionState::Done | DeletionState::Cancelled => Ok(()),
        }
    }

    async fn notify(
        &self,
        deletion: &Deletion,
        catalog: &Catalog,
        swept: &mut HashSet<DeletionId>,
    ) -> Result<(), StoreError> {
        let to = affected(catalog, deletion.project);
        let now = self.clock.now();
        let payload = RawJson::of(&json!({
            "type": "delete",
            "userId": deletion.person.user_id,
            "timestamp": format!("{:.3}", deletion.created_at),
        }));
        let event = |(part, to): (usize, &[DestinationId])| NewEvent {
            id: Some(event_id(deletion.id, part)),
            project: deletion.project,
            source: SourceId::SYSTEM,
            event_type: TypeName::trusted("delete"),
            timestamp: Some(deletion.created_at),
            received_at: now,
            key: None,
            key_counts_for: None,
            metadata: Direction::metadata(to),
            payload: payload.clone(),
        };
        let events: Vec<NewEvent> = to.chunks(Direction::MOST).enumerate().map(event).collect();
        if !events.is_empty() {
            self.database.append(events).await?;
        }
        // The dispatcher holds back what is about the user from the moment at which the request was kept. Here
        // it is ended, so that it stays so when the request is deleted.
        let mut cancelled = 0;
        if !swept.contains(&deletion.id) {
            cancelled = self.sweep(deletion.project, catalog).await?;
            let own = catalog.deletions.values().filter(|it| it.project == deletion.project);
            swept.extend(own.map(|it| it.id));
        }
        swept.remove(&deletion.id);
        let ended_at = (!deletion.erases()).then_some(self.clock.now());
        self.note(deletion, |it| {
            it.notified = to.len() as u64;
            it.cancelled += cancelled;
            it.state = match it.erases() {
                true => DeletionState::Waiting,
                false => DeletionState::Done,
            };
            it.ended_at = ended_at;
        })
        .await
    }

    async fn begin(&self, deletion: &Deletion) -> Result<(), StoreError> {
        let last = self.database.last_event().await?;
        self.note(deletion, |it| {
            it.state = DeletionState::Erasing;
            it.until = last.0;
        })
        .await
    }

    /// One stretch.
    async fn erase(&self, deletion: &Deletion) -> Result<(), StoreError> {
        let Deletion { project, person, cursor, until, .. } = deletion;
        let (after, until) = (EventSeq(*cursor), EventSeq(*until));
        let Some(stretch) = self.database.find_person(*project, person, after, until).await? else {
            let now = self.clock.now();
            return self
                .note(deletion, |it| {
                    it.state = DeletionState::Done;
                    it.cursor = it.until;
                    it.ended_at = Some(now);
                })
                .await;
        };
        let cancelled = self.cancel(&stretch.open).await?;
        let erased = self.database.erase(&stretch).await?;
        self.note(deletion, |it| {
            it.cursor = stretch.through.0;
            it.erased += erased;
            it.cancelled += cancelled;
        })
        .await
    }

    /// Ends what is owed of events of a project that may not go out any more. Returns how many deliveries that
    /// were.
    async fn sweep(&self, project: ProjectId, catalog: &Catalog) -> Result<u64, StoreError> {
        const PAGE: usize = 500;
        let forgotten = Forgotten::of(catalog.deletions.values().map(AsRef::as_ref));
        let mut count = 0;
        for destination in catalog.destinations.values().filter(|it| it.project == project) {
            let mut after = None;
            loop {
                let (destination, per_lane) = (destination.id, usize::MAX);
                let line = OwedQuery::Line { destination, after, per_lane, limit: PAGE };
                let owed = self.database.owed(line).await?;
                let Some(last) = owed.last() else { break };
                after = Some((last.place, last.seq));
                let seqs: Vec<DeliverySeq> = owed.iter().map(|it| it.seq).collect();
                let messages = self.database.messages(&seqs).await?;
                let about = messages.iter().filter(|it| forgotten.forbids(&it.event));
                let about: Vec<DeliverySeq> = about.map(|it| it.seq).collect();
                if !about.is_empty() {
                    count += self.cancel(&about).await?;
                }
            }
        }
        Ok(count)
    }

    /// Cancels these, where they are still owed, and waits until no attempt is under way. An attempt that
    /// hangs for longer has what its endpoint answers erased by no one, so it is waited for.
    async fn cancel(&self, open: &[DeliverySeq]) -> Result<u64, StoreError> {
        const POLL: Duration = Duration::from_millis(20);
        let owed = self.database.owed(OwedQuery::These(open.to_vec())).await?;
        let count = owed.len() as u64;
        let mut left = owed;
        while !left.is_empty() {
            self.dispatch.cancel(left).await;
            tokio::time::sleep(POLL).await;
            left = self.database.owed(OwedQuery::These(open.to_vec())).await?;
        }
        Ok(count)
    }

    /// Changes a request, unless somebody else has changed it meanwhile.
    async fn note(
        &self,
        deletion: &Deletion,
        change: impl FnOnce(&mut Deletion),
    ) -> Result<(), StoreError> {
        let decide = |catalog: &Catalog| {
            // How much was under way may be noted at any time.
            let is_same = |it: &&Arc<Deletion>| {
                Deletion { in_flight: deletion.in_flight, ..Deletion::clone(it) } == *deletion
            };
            let found = catalog.deletions.get(&deletion.id).filter(is_same);
            let edit = found.map(|it| {
                let mut next = Deletion::clone(it);
                change(&mut next);
                Edit::Put(Resource::Deletion(next))
            });
            Ok::<_, StoreError>((edit.into_iter().collect(), ()))
        };
        self.catalog_writer.edit(decide).await
    }
}
