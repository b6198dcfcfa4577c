//! The replay of events that a destination never had, or that went nowhere: from old to new, each through
//! today's pipelines. A new destination gets old events so, and a filter that was wrong is made up for.

use std::{collections::BTreeSet, sync::Arc};

use super::{
    Parts, ReplayCursor,
    event::{self, is_still_planned},
};
use crate::{
    catalog::Catalog,
    model::{DeliverySeq, DestinationId, EventSeq, Replay},
    pipeline::dry::Routes,
    store::{EventFilter, EventRecord, ReplayItem, StoreError},
};

/// Events that are looked at in one turn. Each may ask look-ups, and a replay is cancelled between turns.
const CHUNK: usize = 100;
/// A turn ends early with so many deliveries, which are made in one transaction.
const MOST_ITEMS: usize = 1000;

/// Which events a replay of missed ones is about: those that were received before it was made.
pub fn events_of(replay: &Replay) -> EventFilter {
    let selection = &replay.selection;
    EventFilter {
        event_type: selection.event_type.clone(),
        source: None,
        from: selection.from,
        until: Some(selection.until.map_or(replay.created_at, |it| it.min(replay.created_at))),
    }
}

/// Whether an event went past the destination, or without one past all of them. What its pipelines have
/// not decided yet is left to them.
fn is_missed(record: &EventRecord, destination: Option<DestinationId>) -> bool {
    let is_its = |it: &DestinationId| destination.is_none_or(|to| to == *it);
    !is_still_planned(record) && !record.deliveries.iter().any(|it| is_its(&it.destination))
}

impl Parts {
    /// Looks at the next events from `made_below` on.
    pub(super) async fn missed(
        &self,
        replay: &Replay,
        walk: &mut ReplayCursor,
        made_below: DeliverySeq,
        catalog: &Arc<Catalog>,
    ) -> Result<(), StoreError> {
        let behind = EventSeq(made_below.event().0.saturating_sub(1));
        let filter = events_of(replay);
        let events = self.database.events_behind(replay.project, &filter, behind, CHUNK).await?;
        if events.is_empty() {
            return self.finish(replay).await;
        }
        let only = replay.selection.destination.map(|it| vec![it]);
        let routes = self.means.routes(replay.project, only, catalog).await?;
        let mut items = Vec::new();
        let mut through = behind;
        for event in events {
            through = event.seq;
            if let Some(record) = self.database.event(replay.project, event.id).await? {
                items.extend(self.of_missed(replay, &record, &routes).await?);
            }
            if items.len() >= MOST_ITEMS {
                break;
            }
        }
        let end = DeliverySeq::first_of(EventSeq(through.0 + 1));
        self.keep(replay, items, end).await?;
        walk.made_below = Some(end);
        Ok(())
    }

    /// What today's pipelines make of an event that was missed.
    async fn of_missed(
        &self,
        replay: &Replay,
        record: &EventRecord,
        routes: &Arc<Routes>,
    ) -> Result<Vec<ReplayItem>, StoreError> {
        if !is_missed(record, replay.selection.destination) {
            return Ok(Vec::new());
        }
        let Some(made) = self.means.plan(routes, record, &BTreeSet::new()).await? else {
            return Ok(Vec::new());
        };
        let alive = made.deliveries.into_iter().filter(|it| it.dead.is_none());
        Ok(alive.map(|it| event::item(record.event.seq, it, None)).collect())
    }
}
