//! Stage 3 of 6: keeps events and what became of them, and is the only way from one stage to the next.
//!
//! Four traits, one for each kind of caller: [`Store`] for the stages, in batches; [`Records`] for
//! people who ask what happened; [`Registry`] for resources; [`Directory`] for what enrichment looks
//! up; [`Eraser`] for people who want to be forgotten. A database implements all of them, and passes
//! the suite in `tests/it/store`, which is their contract.

mod error;
mod codes;
mod counts;
mod fields;
mod registry;
mod cluster;
pub mod sqlite;
pub mod postgres;
pub mod transfer;

use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;

pub use self::{
    error::{Loss, Result, StoreError},
    registry::{Change, Document, Registry, RegistryLock, Revised},
};

use crate::model::{
    Altered, Class, Counted, DeliveryId, DeliverySeq, DeliveryState, DestinationId, Ended, Entry,
    Event, EventId, EventSeq, IdempotencyKey, Message, Name, NewEvent, Owed, Pattern, Person,
    PipelineId, Place, Plan, PlannedDelivery, ProjectId, RawJson, Remembered, ReplayId, Selection,
    Skipped, SourceId, Standing,
};

pub use self::cluster::{
    ClusterCommand, ClusterSnapshot, Duty, Epoch, HeldShares, Lease, LeaseSet, Member, MemberId,
    NodeMessage, OwedFrom, PlanProgress, ReceivedMessage, Role, Share, UnknownRole, WorkedShares,
};

/// What the stages ask of a database.
///
/// Each method is one transaction: it happens whole or not at all, and what it returned survives a
/// crash and a power cut. A method that changes a delivery's state also writes the activity log, so
/// that the two cannot disagree. Calls that wait at the same time share a commit.
#[async_trait]
pub trait Store: Send + Sync {
    // Ingest.

    /// Accepts events, in this order, each once for its (project, key), and once for its (project, id) where it
    /// brings one, whoever gave that to the first event. The answers stand in the order of the events. Fails whole, with nothing kept. The accepted ones are hinted to the
    /// pipeline in their order of acceptance.
    async fn append(&self, events: Vec<NewEvent>) -> Result<Vec<Appended>>;

    // Pipeline.

    /// The oldest events behind `after` that have no plan, in accept order. Large ones may come
    /// fewer at a time than `limit`; nothing comes only when there are none.
    async fn unplanned(&self, after: EventSeq, limit: usize) -> Result<Vec<Arc<Event>>>;

    /// Keeps what the pipelines made of events, and returns the deliveries that are owed now, in
    /// the order of the plans. Plans come in accept order, each event once; a plan of an event that
    /// has one already is ignored and returns nothing. A call that would pass over an event without
    /// a plan fails, so that a call that failed cannot be forgotten: read [`Self::unplanned`] then.
    ///
    /// An event whose plan [waits](Plan::waits) gets more of them later, in any order among events.
    /// They say that they are the [rest](Plan::is_rest), and come once the first one is kept; where the
    /// first is not kept, they fail. Each adds its deliveries behind those that there are and replaces the reasons, until none
    /// waits. Deliveries that are dead from the start end in the same transaction.
    async fn plan(&self, plans: Vec<Plan>) -> Result<Vec<Owed>>;

    /// The oldest events behind `after` whose plan waits, in accept order. Large ones may come fewer
    /// at a time than `limit`; nothing comes only when there are none.
    async fn waiting(&self, after: EventSeq, limit: usize) -> Result<Vec<WaitingEvent>>;

    // What steps remember. It also changes with the plans that say so, in their transaction: a plan that is
    // ignored changes nothing.

    /// All of it, as it is after the plans that were kept.
    async fn memories(&self) -> Result<Vec<Remembered>>;

    /// Whether the events of this project are planned over this store, where several nodes share them.
    fn plans_for(&self, _project: ProjectId) -> bool {
        true
    }

    /// Changes some of it beside the plans, behind those that were asked for before.
    async fn remember(&self, changes: Vec<Remembered>) -> Result<()>;

    // What Tidegate sends itself.

    /// Keeps an event that was sent already, once, with what came of it: its delivery is the first that
    /// the event has, and has ended. It comes to the pipelines like any other, whose plan for it must
    /// have no deliveries. It counts in no [`Minute`].
    async fn record(&self, recording: Recording) -> Result<Arc<Event>>;

    // Dispatch.

    /// Records what came of deliveries. A settlement of a delivery that has ended is ignored.
    async fn settle(&self, settlements: Vec<Settlement>) -> Result<()>;

    /// Deliveries that are still owed.
    async fn owed(&self, query: OwedQuery) -> Result<Vec<Owed>>;

    /// How much is owed, by destination.
    async fn backlog(&self) -> Result<Vec<Backlog>>;

    /// What to send for these deliveries, in their order; one whose event is gone is left out.
    async fn messages(&self, deliveries: &[DeliverySeq]) -> Result<Vec<Message>>;

    /// Makes new deliveries of old events and moves the replay's progress, in one transaction.
    async fn replay(&self, step: ReplayStep) -> Result<Vec<Owed>>;

    // Upkeep.

    /// Forgets events received before their project's horizon whose deliveries have all ended.
    /// Idempotency keys outlive them. It works in small steps beside ingest. Returns how many went.
    async fn prune(&self, horizons: &[(ProjectId, Timestamp)]) -> Result<u64>;

    /// Whether events can be accepted at this moment, and how the last commits went.
    fn health(&self) -> Health;

    /// Commits what waits and closes the files. Calls afterwards fail with [`StoreError::Closed`].
    async fn close(&self);
}

/// What people ask. Nothing here is on the hot path, and nothing crosses a project.
#[async_trait]
pub trait Records: Send + Sync {
    async fn event(&self, project: ProjectId, id: EventId) -> Result<Option<EventRecord>>;
    async fn event_by_key(
        &self,
        project: ProjectId,
        key: &IdempotencyKey,
    ) -> Result<Option<EventRecord>>;
    /// Newest first. Large ones come fewer at a time than the page has rows: it ends behind the first
    /// that does not fit into [`PAGE_BYTES`].
    async fn events(
        &self,
        project: ProjectId,
        filter: &EventFilter,
        page: Page,
    ) -> Result<Vec<Event>>;
    /// Oldest first, from behind `after` on. Large ones come fewer at a time than `limit`; nothing
    /// comes only when there are none.
    async fn events_behind(
        &self,
        project: ProjectId,
        filter: &EventFilter,
        after: EventSeq,
        limit: usize,
    ) -> Result<Vec<Event>>;
    /// How many events a filter means.
    async fn count_events(&self, project: ProjectId, filter: &EventFilter) -> Result<u64>;
    /// With its activity log.
    async fn delivery(
        &self,
        project: ProjectId,
        seq: DeliverySeq,
    ) -> Result<Option<DeliveryRecord>>;
    /// By its id, with its activity log.
    async fn delivery_by_id(
        &self,
        project: ProjectId,
        id: DeliveryId,
    ) -> Result<Option<DeliveryRecord>>;
    /// Newest event first. The activity log and the copy of each are left out, here and in the
    /// record of an event.
    async fn deliveries(
        &self,
        project: ProjectId,
        selection: &Selection,
        page: Page,
    ) -> Result<Vec<DeliveryRecord>>;
    /// How many deliveries a selection means.
    async fn count(&self, project: ProjectId, selection: &Selection) -> Result<u64>;
    /// The activity log of a project, newest first.
    async fn activity(
        &self,
        project: ProjectId,
        filter: &ActivityFilter,
        page: Page,
    ) -> Result<Vec<ActivityRecord>>;
    /// Counts of one destination by minute, oldest first; minutes in which nothing happened are left out.
    async fn stats(
        &self,
        destination: DestinationId,
        from: Timestamp,
        until: Timestamp,
    ) -> Result<Vec<Minute>>;
    /// Counts of one pipeline by minute, oldest first, then by version and place.
    async fn counts(
        &self,
        pipeline: PipelineId,
        from: Timestamp,
        until: Timestamp,
    ) -> Result<Vec<Counted>>;
    async fn replay_progress(&self, replay: ReplayId) -> Result<ReplayProgress>;
}

/// What projects know of people, companies and things of their own: JSON objects by table and key.
#[async_trait]
pub trait Directory: Send + Sync {
    /// Keeps all of them or none. Of two with the same key, the later one counts.
    async fn put_entities(
        &self,
        project: ProjectId,
        table: &Name,
        entities: Vec<Entity>,
        how: Upsert,
    ) -> Result<()>;

    /// The fields of each that is there, in the order of the keys. For single events: it is quick.
    async fn find_entities(
        &self,
        project: ProjectId,
        keys: Vec<EntityKey>,
    ) -> Result<Vec<Option<RawJson>>>;

    /// In the order of their keys, from behind `after` on; the empty text is before all.
    async fn list_entities(
        &self,
        project: ProjectId,
        table: &Name,
        after: &str,
        limit: usize,
    ) -> Result<Vec<Entity>>;

    /// Returns how many were there.
    async fn remove_entities(
        &self,
        project: ProjectId,
        table: &Name,
        keys: Vec<String>,
    ) -> Result<u64>;
}

/// Forgetting what events say about a person, and not that they happened: their place, type and times
/// stay, and so do their deliveries. It works beside the stages, a stretch of events at a time.
#[async_trait]
pub trait Eraser: Send + Sync {
    /// The last event that was accepted; 0 when there is none.
    async fn last_event(&self) -> Result<EventSeq>;

    /// Looks for a person in the bodies of a project's events behind `after`, through as many as suit
    /// the database, but none behind `until`. `None`: there are no more. What Tidegate sent itself is
    /// passed over.
    async fn find_person(
        &self,
        project: ProjectId,
        person: &Person,
        after: EventSeq,
        until: EventSeq,
    ) -> Result<Option<ScannedRange>>;

    /// Erases the bodies of the events that were found, in one step that happens whole or not at all:
    /// payload, metadata and key, the copies of their deliveries, and what endpoints answered; and of
    /// the last two also what stands in this stretch about events that were erased before. Keys go on
    /// counting. It waits until the events have a plan. From then on they are neither sent nor
    /// replayed. It survives a power cut. Returns how many events were erased.
    async fn erase(&self, stretch: &ScannedRange) -> Result<u64>;
}

/// Events that were looked at, and those of them that name somebody.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ScannedRange {
    /// The last event that was looked at.
    pub through: EventSeq,
    /// In order. Events that are erased already are not among them.
    pub events: Vec<EventSeq>,
    /// Their deliveries that may still be owed.
    pub open: Vec<DeliverySeq>,
}

/// A database that serves all of them.
pub trait Database: Store + Records + Registry + Directory + Eraser {}
impl<T: Store + Records + Registry + Directory + Eraser> Database for T {}

/// An event of which some pipelines have not decided yet.
#[derive(Clone, Debug)]
pub struct WaitingEvent {
    pub event: Arc<Event>,
    /// As its last plan said it. Those that wait name their pipelines.
    pub skipped: Vec<Skipped>,
}

/// What became of an event that was offered to the store.
#[derive(Clone, Debug)]
pub enum Appended {
    New(Arc<Event>),
    /// The key or the id was seen before. The others are `None` when the first event is so old that it is
    /// forgotten, and `same_body` also when it is erased; `id` is the first event's all the same.
    Duplicate {
        id: EventId,
        same_body: Option<bool>,
        same_type: Option<bool>,
    },
}

/// An event that was sent outside of every order.
#[derive(Clone, Debug)]
pub struct Recording {
    /// It has an id, since it was sent under one.
    pub event: NewEvent,
    pub destination: DestinationId,
    /// What happened, of which the last entry is the end. The delivery and the numbers in them are
    /// given by the store.
    pub entries: Vec<Entry>,
}

/// What came of a delivery that was owed.
#[derive(Clone, Debug)]
pub struct Settlement {
    /// As it was owed before.
    pub owed: Owed,
    pub entry: Entry,
    pub next: Next,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Next {
    /// Is still owed, and stands so.
    Owed(Standing),
    Ended(Ended),
}

#[derive(Clone, Debug)]
pub enum OwedQuery {
    /// The line of a destination from behind `after` on, in the order of (lane, position, seq). At
    /// most `per_lane` are taken of each lane but [`crate::model::Lane::NONE`]; the rest of it is passed over.
    Line {
        destination: DestinationId,
        after: Option<(Place, DeliverySeq)>,
        per_lane: usize,
        limit: usize,
    },
    /// Those that failed before and are due again up to `until`, earliest first.
    Due { destination: DestinationId, until: Timestamp, limit: usize },
    /// Of those with a lane, one whose position is the least.
    First { destination: DestinationId },
    /// Just these, where they are still owed.
    These(Vec<DeliverySeq>),
}

#[derive(Clone, Debug, PartialEq)]
pub struct Backlog {
    pub destination: DestinationId,
    pub owed: u64,
    /// When the event of the oldest was accepted.
    pub oldest: Timestamp,
}

/// One chunk of a replay.
#[derive(Clone, Debug)]
pub struct ReplayStep {
    pub replay: ReplayId,
    pub items: Vec<ReplayItem>,
    pub fresh_ids: bool,
    pub at: Timestamp,
    /// Where the next step goes on, kept with the deliveries that this one makes.
    pub cursor: Option<DeliverySeq>,
}

#[derive(Clone, Debug)]
pub struct ReplayItem {
    pub event: EventSeq,
    pub destination: DestinationId,
    pub place: Place,
    /// The delivery to repeat, whose copy and pipeline it takes over. `None`: the bare event. One that is dead
    /// or expired is a dead letter no more, and so are those that are as it is; one that was replayed already is
    /// left out.
    pub like: Option<DeliverySeq>,
    /// What it carries instead: what today's pipelines made of the event.
    pub replanned: Option<PlannedDelivery>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReplayProgress {
    pub cursor: Option<DeliverySeq>,
    pub done: u64,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Health {
    /// Why nothing can be accepted, e.g. a full disk; `None` when it can.
    pub refuses: Option<Refusal>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    DiskFull,
    /// The disk failed to write or sync. What was acknowledged is safe; the process must be restarted.
    Broken,
    /// The database cannot be reached. It is tried again all the time.
    Unreachable,
}

#[derive(Clone, Debug)]
pub struct EventRecord {
    pub event: Arc<Event>,
    /// Whether a pipeline has seen it.
    pub planned: bool,
    pub skipped: Vec<Skipped>,
    pub deliveries: Vec<DeliveryRecord>,
}

#[derive(Clone, Debug)]
pub struct DeliveryRecord {
    pub seq: DeliverySeq,
    pub event: EventId,
    pub event_type: crate::model::TypeName,
    pub received_at: Timestamp,
    pub destination: DestinationId,
    pub pipeline: Option<PipelineId>,
    pub pipeline_version: u32,
    pub replay: Option<ReplayId>,
    pub state: DeliveryState,
    /// Dead or expired, and delivered again since: the ordinal of the delivery that took its place. It is no
    /// dead letter any more.
    pub replayed_as: Option<u16>,
    pub attempts: u16,
    pub due: Option<Timestamp>,
    pub copy: Option<Arc<Altered>>,
    pub entries: Vec<Entry>,
}

#[derive(Clone, Debug)]
pub struct ActivityRecord {
    pub event: EventId,
    pub event_type: crate::model::TypeName,
    pub destination: DestinationId,
    pub entry: Entry,
}

#[derive(Clone, Debug, Default)]
pub struct EventFilter {
    pub event_type: Option<Pattern>,
    pub source: Option<SourceId>,
    pub from: Option<Timestamp>,
    pub until: Option<Timestamp>,
}

#[derive(Clone, Debug, Default)]
pub struct ActivityFilter {
    pub event_type: Option<Pattern>,
    pub destination: Option<DestinationId>,
    pub class: Option<Class>,
    pub failed_only: bool,
    pub from: Option<Timestamp>,
    pub until: Option<Timestamp>,
}

/// The events of a page weigh so much at most, or the page has one event.
pub const PAGE_BYTES: usize = 4 << 20;

/// A page of a list that runs from new to old.
#[derive(Clone, Copy, Debug)]
pub struct Page {
    /// Only what stands before this place: `EventSeq` for events, `DeliverySeq` bits for deliveries
    /// and their log (then `number` decides within a delivery).
    pub before: Option<(u64, u16)>,
    pub limit: usize,
}

/// What one destination did in one minute.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Minute {
    pub start: Timestamp,
    pub planned: u64,
    pub delivered: u64,
    pub failed_attempts: u64,
    pub dead: u64,
    /// Expired or cancelled.
    pub dropped: u64,
    /// Attempts by duration: below 10 ms, 50 ms, 100 ms, 500 ms, 1 s, 5 s, and longer.
    pub durations: [u64; 7],
}

/// A row of the directory.
#[derive(Clone, Debug, PartialEq)]
pub struct Entity {
    pub key: String,
    /// An object.
    pub fields: RawJson,
    pub updated_at: Timestamp,
}

/// A table and a key in it.
pub type EntityKey = (Name, String);

/// What becomes of the fields that a row has already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Upsert {
    /// They go.
    Replace,
    /// They stay, unless the new row has them, too. A new field that is null takes the old one away.
    Merge,
}
