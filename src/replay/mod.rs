//! Replays: old events, delivered again, from old to new and a chunk at a time.
//!
//! A replay of a selection runs here in the background. It makes deliveries through the store, which
//! keeps with them how far it has come; so it survives a restart and makes nothing twice. A replay of
//! one event is made at once, by [`replay_event`].

mod event;
mod missed;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use tokio::sync::watch;

use crate::{
    catalog::{Catalog, CatalogWriter, Edit, Resource},
    clock::{self, Clock},
    model::{
        DeliverySeq, DeliveryState, Destination, DestinationId, Event, Lane, Ordering, Owed, Place,
        PlannedDelivery, Replay, ReplayId, ReplayState, Selection,
    },
    pipeline::Placing,
    store::{Database, DeliveryRecord, Page, ReplayItem, ReplayStep, StoreError},
};

/// Deliveries that are listed at once, and roughly how many are made in one transaction.
const CHUNK: usize = 500;

pub use event::{Chosen, EventReplay, Means, What, replay_event};
pub use missed::events_of as missed_events;

/// Tells the dispatcher what is owed again.
pub type Replayed = Arc<dyn Fn(&[Owed]) + Send + Sync>;

/// What the background work is given.
pub struct Parts {
    pub database: Arc<dyn Database>,
    pub catalog_writer: Arc<CatalogWriter>,
    pub clock: Arc<dyn Clock>,
    pub replayed: Replayed,
    pub means: Means,
    /// Becomes true when the work is to end.
    pub stop: watch::Receiver<bool>,
}

/// Carries out the catalogue's replays until it is stopped, each a chunk in turn.
pub async fn run(mut parts: Parts) {
    let mut catalog = parts.catalog_writer.watch();
    let mut walks: HashMap<ReplayId, ReplayCursor> = HashMap::new();
    while !*parts.stop.borrow() {
        let now = catalog.borrow_and_update().clone();
        let is_running = |it: &&Arc<Replay>| it.state == ReplayState::Running;
        let running: Vec<_> = now.replays.values().filter(is_running).cloned().collect();
        walks.retain(|id, _| running.iter().any(|it| it.id == *id));
        if running.is_empty() {
            tokio::select! {
                changed = catalog.changed() => if changed.is_err() { return },
                _ = parts.stop.changed() => return,
            }
            continue;
        }
        for replay in running {
            let walk = walks.entry(replay.id).or_default();
            if let Err(error) = parts.turn(&replay, walk, &now).await {
                // It goes on from what is on disk, however far that is.
                walks.remove(&replay.id);
                tracing::warn!(replay = %replay.id, %error, "a replay waits for the store");
                clock::pause(parts.clock.as_ref(), &mut parts.stop).await;
            }
        }
    }
}

/// Show the progress of a replay in this process. First it goes through the selection from new to old, as
/// lists run, and notes where chunks begin; then it makes the chunks from old to new.
#[derive(Default)]
struct ReplayCursor {
    /// Everything below is made already. Read from the store at the beginning.
    made_below: Option<DeliverySeq>,
    /// Where the next page of the list ends; `None` before the first.
    below: Option<DeliverySeq>,
    /// The list has come to its end.
    is_listed: bool,
    /// From new to old, each from its first place to before its last.
    chunks: Vec<(DeliverySeq, DeliverySeq)>,
}

impl Parts {
    /// One page of the list, or one chunk of deliveries.
    async fn turn(
        &self,
        replay: &Replay,
        walk: &mut ReplayCursor,
        catalog: &Arc<Catalog>,
    ) -> Result<(), StoreError> {
        if walk.made_below.is_none() {
            let progress = self.database.replay_progress(replay.id).await?;
            walk.made_below = Some(progress.cursor.unwrap_or(DeliverySeq::from_bits(0)));
        }
        let made_below = walk.made_below.unwrap_or(DeliverySeq::from_bits(0));
        if replay.missed {
            return self.missed(replay, walk, made_below, catalog).await;
        }
        if !walk.is_listed {
            return self.list(replay, walk, made_below).await;
        }
        let Some((first, end)) = walk.chunks.pop() else { return self.finish(replay).await };
        let mut records = Vec::new();
        let mut before = end;
        loop {
            let page = self.page(replay, Some(before)).await?;
            let is_last = page.len() < CHUNK || page.last().is_none_or(|it| it.seq < first);
            before = page.last().map_or(first, |it| it.seq);
            records.extend(page.into_iter().filter(|it| it.seq >= first && it.seq >= made_below));
            if is_last {
                break;
            }
        }
        records.reverse();
        self.make(replay, chosen(records, replay), end, catalog).await
    }

    async fn list(
        &self,
        replay: &Replay,
        walk: &mut ReplayCursor,
        made_below: DeliverySeq,
    ) -> Result<(), StoreError> {
        let end = walk.below.unwrap_or(DeliverySeq::from_bits(u64::MAX >> 1));
        let page = self.page(replay, Some(end)).await?;
        let Some(last) = page.last() else {
            walk.is_listed = true;
            return Ok(());
        };
        // Chunks hold whole events, so that one destination gets an event once from a replay.
        let first = DeliverySeq::first_of(last.seq.event());
        walk.chunks.push((first, end));
        walk.below = Some(first);
        walk.is_listed = page.len() < CHUNK || first <= made_below;
        Ok(())
    }

    async fn page(
        &self,
        replay: &Replay,
        before: Option<DeliverySeq>,
    ) -> Result<Vec<DeliveryRecord>, StoreError> {
        let until =
            replay.selection.until.map_or(replay.created_at, |it| it.min(replay.created_at));
        let selection = Selection { until: Some(until), ..replay.selection.clone() };
        let page = Page { before: before.map(|it| (it.bits(), 0)), limit: CHUNK };
        self.database.deliveries(replay.project, &selection, page).await
    }

    /// Makes the deliveries of a chunk, and notes that everything below `end` is made.
    async fn make(
        &self,
        replay: &Replay,
        records: Vec<DeliveryRecord>,
        end: DeliverySeq,
        catalog: &Arc<Catalog>,
    ) -> Result<(), StoreError> {
        // What never got through its steps has to, before it goes out.
        let (replanned, records): (Vec<_>, Vec<_>) =
            records.into_iter().partition(event::never_got_through);
        let mut items = self.items(&records, catalog).await?;
        items.extend(self.planned_anew(replay, &replanned, catalog).await?);
        items.sort_by_key(|it| it.event);
        self.keep(replay, items, end).await
    }

    /// Makes what was chosen. The items of an event stand together.
    async fn keep(
        &self,
        replay: &Replay,
        items: Vec<ReplayItem>,
        end: DeliverySeq,
    ) -> Result<(), StoreError> {
        if items.is_empty() {
            return Ok(());
        }
        match self.step(replay, items.clone(), end).await {
            Err(StoreError::TooManyDeliveries) => (),
            other => return other,
        }
        // One event of the chunk is full. The others are made one by one, and the full one is left.
        for item in items {
            let event = item.event;
            match self.step(replay, vec![item], DeliverySeq::first_of(event)).await {
                Err(StoreError::TooManyDeliveries) => {
                    tracing::warn!(replay = %replay.id, event = event.0, "an event has no room for another delivery");
                }
                other => other?,
            }
        }
        Ok(())
    }

    async fn step(
        &self,
        replay: &Replay,
        items: Vec<ReplayItem>,
        below: DeliverySeq,
    ) -> Result<(), StoreError> {
        let step = ReplayStep {
            replay: replay.id,
            items,
            fresh_ids: replay.fresh_ids,
            at: self.clock.now(),
            cursor: Some(below),
        };
        let owed = self.database.replay(step).await?;
        (self.replayed)(&owed);
        Ok(())
    }

    /// What to make. A delivery whose destination is gone is left out.
    async fn items(
        &self,
        records: &[DeliveryRecord],
        catalog: &Catalog,
    ) -> Result<Vec<ReplayItem>, StoreError> {
        let in_order = |it: &&DeliveryRecord| {
            let destination = catalog.destinations.get(&it.destination);
            destination.is_some_and(|it| it.policy.ordering != Ordering::None)
        };
        // Where there is an order, the place depends on the event itself.
        let seqs: Vec<_> = records.iter().filter(in_order).map(|it| it.seq).collect();
        let messages = match seqs.is_empty() {
            true => Vec::new(),
            false => self.database.messages(&seqs).await?,
        };
        let events: HashMap<DeliverySeq, Arc<Event>> =
            messages.into_iter().map(|it| (it.seq, it.event)).collect();
        let mut places = ReplayPlacing::new(catalog);
        let items = records.iter().filter_map(|record| {
            let place = places.of(record.destination, events.get(&record.seq))?;
            Some(ReplayItem {
                event: record.seq.event(),
                destination: record.destination,
                place,
                like: Some(record.seq),
                replanned: None,
            })
        });
        Ok(items.collect())
    }

    /// What today's routes make of events whose deliveries never got through theirs. Where they say no, nothing.
    async fn planned_anew(
        &self,
        replay: &Replay,
        records: &[DeliveryRecord],
        catalog: &Arc<Catalog>,
    ) -> Result<Vec<ReplayItem>, StoreError> {
        if records.is_empty() {
            return Ok(Vec::new());
        }
        let to: BTreeSet<DestinationId> = records.iter().map(|it| it.destination).collect();
        let to = Some(to.into_iter().collect());
        let routes = self.means.routes(replay.project, to, catalog).await?;
        let mut items = Vec::new();
        for record in records {
            let Some(event) = self.database.event(replay.project, record.event).await? else {
                continue;
            };
            let to = BTreeSet::from([record.destination]);
            let Some(made) = self.means.plan(&routes, &event, &to).await? else { continue };
            let is_its =
                |it: &PlannedDelivery| it.destination == record.destination && it.dead.is_none();
            let mut like = Some(record.seq);
            let before = items.len();
            for planned in made.deliveries.into_iter().filter(is_its) {
                items.push(event::item(record.seq.event(), planned, like.take()));
            }
            if items.len() == before {
                let skipped = made.skipped.first().map(|it| it.reason.as_str()).unwrap_or_default();
                tracing::info!(replay = %replay.id, event = %record.event, skipped, "today's route does not let an event through: it is not replayed");
            }
        }
        Ok(items)
    }

    async fn finish(&self, replay: &Replay) -> Result<(), StoreError> {
        let done = self.database.replay_progress(replay.id).await?.done;
        let id = replay.id;
        let decide = |catalog: &Catalog| {
            let replay = catalog.replays.get(&id).filter(|it| it.state == ReplayState::Running);
            let edit = replay.map(|it| {
                let ended = Replay { state: ReplayState::Done, done, ..Replay::clone(it) };
                Edit::Put(Resource::Replay(ended))
            });
            Ok::<_, StoreError>((edit.into_iter().collect(), ()))
        };
        self.catalog_writer.edit(decide).await
    }
}

/// Of the records, from old to new, those that a replay repeats: ended ones, made before it, the last
/// of each event and destination.
fn chosen(records: Vec<DeliveryRecord>, replay: &Replay) -> Vec<DeliveryRecord> {
    // A replay that began later leaves this one's deliveries alone, or two would feed each other.
    // Within a millisecond their ids say nothing about the order.
    let is_older = |it: &DeliveryRecord| {
        it.replay.is_none_or(|by| by != replay.id && by.millis() <= replay.id.millis())
    };
    let mut seen = HashSet::new();
    let mut chosen: Vec<_> = records
        .into_iter()
        .rev()
        // What took its place is repeated in its turn, or is still owed.
        .filter(|it| has_ended(it.state) && it.replayed_as.is_none() && is_older(it))
        .filter(|it| seen.insert((it.seq.event(), it.destination)))
        .collect();
    chosen.reverse();
    chosen
}

/// Whether a delivery can be repeated. One that is still owed is attempted anyway.
pub fn has_ended(state: DeliveryState) -> bool {
    match state {
        DeliveryState::Pending | DeliveryState::Retrying => false,
        DeliveryState::Delivered
        | DeliveryState::Dead
        | DeliveryState::Expired
        | DeliveryState::Cancelled => true,
    }
}

/// Places in the lines of destinations, which are made ready once for each.
struct ReplayPlacing<'c> {
    catalog: &'c Catalog,
    ready: BTreeMap<DestinationId, Option<Placing>>,
}

impl<'c> ReplayPlacing<'c> {
    fn new(catalog: &'c Catalog) -> Self {
        Self { catalog, ready: BTreeMap::new() }
    }

    /// `None` when the destination is gone, or the event that its order needs.
    fn of(&mut self, id: DestinationId, event: Option<&Arc<Event>>) -> Option<Place> {
        let destination: &Destination = self.catalog.destinations.get(&id)?;
        let placing = self.ready.entry(id).or_insert_with(|| {
            let is_ordered = destination.policy.ordering != Ordering::None;
            is_ordered.then(|| Placing::of(destination, self.catalog))
        });
        match placing {
            None => Some(Place { lane: Lane::NONE, position: 0 }),
            Some(placing) => event.map(|it| placing.place(it)),
        }
    }
}

/// How long the list of replays keeps those that have ended, by number.
pub const ENDED_KEPT: usize = 1000;
/// Replays of a project that may run at once.
pub const RUNNING_AT_MOST: usize = 16;
