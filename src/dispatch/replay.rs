//! Carries out replays: new deliveries of what a selection means, oldest first, in chunks.
//!
//! Each chunk is one transaction with the place where the next one goes on. So a replay survives a
//! restart without making anything twice, and can be cancelled between two chunks. What it makes is
//! left in the store; the scheduler reads it like everything else that does not fit in memory, so a
//! replay of a million holds up nobody.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use tokio::sync::watch;

use super::{Handle, Lost, later};
use crate::{
    catalog::{Catalog, Edit, Registrar, Resource},
    clock::Clock,
    model::{
        DeliverySeq, Destination, DestinationId, Event, Lane, Ordering, Place, Replay, ReplayId,
        ReplayState, Selection,
    },
    store::{Page, Records, ReplayItem, ReplayStep, Store, StoreError},
};

/// What the loop is given.
pub struct ReplayParts {
    pub store: Arc<dyn Store>,
    pub records: Arc<dyn Records>,
    pub registrar: Arc<Registrar>,
    pub clock: Arc<dyn Clock>,
    pub dispatch: Handle,
    /// Where deliveries stand in the line of a destination: the pipeline knows.
    pub places: Places,
    /// Becomes true when the loop is to end.
    pub stop: watch::Receiver<bool>,
}

/// Says for a destination how its events are placed.
pub type Places = Box<dyn Fn(&Destination, &Catalog) -> Placing + Send + Sync>;
pub type Placing = Box<dyn Fn(&Arc<Event>) -> Place + Send + Sync>;

/// New deliveries in one transaction.
const CHUNK: usize = 200;
/// Records read at once while looking for what is selected.
const PAGE: usize = 500;
/// Deliveries remembered of one replay. Records are read from new to old, and repeated from old to
/// new, so a longer replay looks through them once for each so many.
const LEG: usize = 50_000;
const PATIENCE: Duration = Duration::from_secs(1);

pub struct Replays {
    parts: ReplayParts,
    catalog: watch::Receiver<Arc<Catalog>>,
    /// Replays under way. Each makes a chunk in turn.
    running: BTreeMap<ReplayId, Leg>,
}

/// What is to be repeated next.
struct Leg {
    /// The oldest stands last.
    items: VecDeque<(DeliverySeq, DestinationId)>,
    /// Whether there is more behind the newest of them.
    has_more: bool,
}

impl Replays {
    pub fn new(parts: ReplayParts) -> Self {
        let catalog = parts.registrar.watch();
        Self { parts, catalog, running: BTreeMap::new() }
    }

    /// Runs until it is told to stop, or the store is closed. What is not done by then goes on at
    /// the next start.
    pub async fn run(mut self) {
        while !*self.parts.stop.borrow() {
            let catalog = self.catalog.borrow_and_update().clone();
            let is_running = |it: &&Arc<Replay>| it.state == ReplayState::Running;
            let replays: Vec<_> = catalog.replays.values().filter(is_running).cloned().collect();
            // A cancelled one is not gone on with.
            self.running.retain(|id, _| replays.iter().any(|it| it.id == *id));
            let mut wait = None;
            for replay in &replays {
                match self.go_on(replay, &catalog).await {
                    Ok(()) => (),
                    Err(StoreError::Closed) => return,
                    Err(error) => {
                        tracing::warn!(
                            replay = %replay.id,
                            error = &error as &dyn std::error::Error,
                            "cannot go on with a replay"
                        );
                        wait = Some(later(self.parts.clock.now(), PATIENCE));
                    }
                }
            }
            let Self { parts, catalog, .. } = &mut self;
            let pause = async {
                match wait {
                    Some(until) => parts.clock.sleep_until(until).await,
                    None if replays.is_empty() => std::future::pending().await,
                    None => (),
                }
            };
            tokio::select! {
                _ = parts.stop.wait_for(|it| *it) => return,
                Ok(()) = catalog.changed(), if replays.is_empty() => catalog.mark_changed(),
                () = pause => (),
            }
        }
    }

    /// Makes one chunk of a replay, or finds that it is done.
    async fn go_on(&mut self, replay: &Replay, catalog: &Catalog) -> Result<(), StoreError> {
        if !self.running.contains_key(&replay.id) {
            let leg = self.look(replay).await?;
            self.running.insert(replay.id, leg);
        }
        let Some(leg) = self.running.get(&replay.id) else { return Ok(()) };
        let chunk: Vec<_> = leg.items.iter().rev().take(CHUNK).copied().collect();
        if let Some(&(last, _)) = chunk.last() {
            let items = self.items(&chunk, catalog).await?;
            self.make(replay, items, last).await?;
        }
        let Some(leg) = self.running.get_mut(&replay.id) else { return Ok(()) };
        leg.items.truncate(leg.items.len() - chunk.len());
        if leg.items.is_empty() {
            let has_more = leg.has_more;
            self.running.remove(&replay.id);
            if !has_more {
                self.finish(replay.id).await?;
            }
        }
        Ok(())
    }

    /// Finds what is selected behind the place where the replay stands.
    async fn look(&self, replay: &Replay) -> Result<Leg, StoreError> {
        let records = &self.parts.records;
        let cursor = records.replay_progress(replay.id).await?.cursor;
        // What comes in while it runs is not meant.
        let until =
            replay.selection.until.map_or(replay.created_at, |it| it.min(replay.created_at));
        let selection = Selection { until: Some(until), ..replay.selection.clone() };
        let mut leg = Leg { items: VecDeque::new(), has_more: false };
        let mut before = None;
        loop {
            let page = Page { before, limit: PAGE };
            let page = records.deliveries(replay.project, &selection, page).await?;
            for record in &page {
                let is_behind = cursor.is_none_or(|cursor| record.seq > cursor);
                // Its own deliveries may be selected as well, and would never end.
                if is_behind && record.replay != Some(replay.id) {
                    leg.items.push_back((record.seq, record.destination));
                }
            }
            if leg.items.len() > LEG {
                leg.items.drain(..leg.items.len() - LEG);
                leg.has_more = true;
            }
            match page.last() {
                Some(last)
                    if page.len() >= PAGE && cursor.is_none_or(|cursor| last.seq > cursor) =>
                {
                    before = Some((last.seq.bits(), 0));
                }
                Some(_) | None => return Ok(leg),
            }
        }
    }

    /// What is to be made, with its places. What has lost its destination or its event is left out.
    async fn items(
        &self,
        chunk: &[(DeliverySeq, DestinationId)],
        catalog: &Catalog,
    ) -> Result<Vec<ReplayItem>, StoreError> {
        let ordered = |id: &DestinationId| {
            let destination = catalog.destinations.get(id)?;
            (destination.policy.ordering != Ordering::None).then_some(destination)
        };
        let mut placings: BTreeMap<DestinationId, Placing> = BTreeMap::new();
        let mut wanted = Vec::new();
        for (seq, id) in chunk {
            if let Some(destination) = ordered(id) {
                wanted.push(*seq);
                let place = || (self.parts.places)(destination, catalog);
                placings.entry(*id).or_insert_with(place);
            }
        }
        let mut events = BTreeMap::new();
        if !wanted.is_empty() {
            let messages = self.parts.store.messages(&wanted).await?;
            events.extend(messages.into_iter().map(|it| (it.seq, it.event)));
        }
        let item = |(seq, destination): &(DeliverySeq, DestinationId)| {
            catalog.destinations.get(destination)?;
            let place = match placings.get(destination) {
                Some(placing) => placing(events.get(seq)?),
                None => Place { lane: Lane::NONE, position: 0 },
            };
            let (event, destination) = (seq.event(), *destination);
            Some(ReplayItem { event, destination, place, like: Some(*seq) })
        };
        Ok(chunk.iter().filter_map(item).collect())
    }

    /// Makes the deliveries of a chunk, and moves the replay's place behind it.
    async fn make(
        &self,
        replay: &Replay,
        items: Vec<ReplayItem>,
        last: DeliverySeq,
    ) -> Result<(), StoreError> {
        let step = |items, cursor| ReplayStep {
            replay: replay.id,
            items,
            fresh_ids: replay.fresh_ids,
            at: self.parts.clock.now(),
            cursor: Some(cursor),
        };
        let owed = match self.parts.store.replay(step(items.clone(), last)).await {
            Err(StoreError::TooManyDeliveries) => {
                // One event of them is full. The others go one by one, each with its own place.
                let mut owed = Vec::new();
                for item in items {
                    let cursor = item.like.unwrap_or(last);
                    match self.parts.store.replay(step(vec![item], cursor)).await {
                        Err(StoreError::TooManyDeliveries) => {
                            tracing::warn!(delivery = cursor.bits(), "it has no room for a replay");
                        }
                        made => owed.extend(made?),
                    }
                }
                self.parts.store.replay(step(Vec::new(), last)).await?;
                owed
            }
            made => made?,
        };
        let mut lost = Lost::default();
        owed.iter().for_each(|it| lost.note(it));
        self.parts.dispatch.spilled(lost).await;
        Ok(())
    }

    async fn finish(&self, id: ReplayId) -> Result<(), StoreError> {
        let done = self.parts.records.replay_progress(id).await?.done;
        self.parts
            .registrar
            .edit(|catalog| {
                let found = catalog.replays.get(&id);
                let running = found.filter(|it| it.state == ReplayState::Running);
                let edits = running.map(|it| {
                    let replay = Replay { state: ReplayState::Done, done, ..Replay::clone(it) };
                    Edit::Put(Resource::Replay(replay))
                });
                Ok((edits.into_iter().collect(), ()))
            })
            .await
    }
}
