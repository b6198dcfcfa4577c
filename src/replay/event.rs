//! The replay of one event. What had been delivered or given up is repeated as it was; everything else goes
//! through today's route, so that no event reaches a destination round it.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use jiff::Timestamp;

use super::{ReplayPlacing, Replayed, has_ended};
use crate::{
    catalog::Catalog,
    model::{
        DeliverySeq, DeliveryState, DestinationId, EventSeq, Message, PlannedDelivery, ProjectId,
        ReplayId, Skipped,
    },
    pipeline::{
        Lookups, Tools,
        dry::{Replanned, Routes},
    },
    store::{Database, DeliveryRecord, EventRecord, ReplayItem, ReplayStep, StoreError},
};

/// What of an event is to be delivered again.
#[derive(Clone, Copy, Debug)]
pub enum What<'a> {
    /// To every destination that it was for, once that has ended; of an event that has no delivery at all,
    /// whatever today's pipelines make of it.
    All,
    /// To these, which need not have had it before.
    To(&'a [DestinationId]),
    /// One delivery.
    Delivery(DeliverySeq),
}

/// One event, delivered again.
pub struct EventReplay<'a> {
    pub replay: ReplayId,
    pub event: &'a EventRecord,
    pub what: What<'a>,
    /// The stored payload, whatever the routes say.
    pub raw: bool,
    pub fresh_ids: bool,
    pub at: Timestamp,
}

/// With what old events are planned again.
#[derive(Clone)]
pub struct Means {
    pub database: Arc<dyn Database>,
    pub lookups: Arc<dyn Lookups>,
    pub tools: Tools,
}

/// What a replay of an event would make.
#[derive(Debug, Default)]
pub struct Chosen {
    pub items: Vec<ReplayItem>,
    /// Why there is none for a destination, for people.
    pub refused: Vec<String>,
}

/// Whether a delivery was dead before anybody attempted it: a step decided so, and what it carries may not
/// have been through the others.
pub(super) fn never_got_through(it: &DeliveryRecord) -> bool {
    it.state == DeliveryState::Dead && it.attempts == 0
}

/// Whether pipelines will still make deliveries of an event by themselves. Planning it beside them would
/// deliver it twice.
pub(super) fn is_still_planned(record: &EventRecord) -> bool {
    !record.planned || record.skipped.iter().any(Skipped::waits)
}

impl Means {
    /// What today's pipelines make of an event for these destinations; `None`: for all.
    pub(super) async fn routes(
        &self,
        project: ProjectId,
        to: Option<Vec<DestinationId>>,
        catalog: &Arc<Catalog>,
    ) -> Result<Arc<Routes>, StoreError> {
        let (catalog, tools) = (catalog.clone(), self.tools.clone());
        // Scripts are compiled, which holds the thread.
        let make = move || Arc::new(Routes::new(project, to.as_deref(), &catalog, &tools));
        tokio::task::spawn_blocking(make).await.map_err(|_| StoreError::Closed)
    }

    pub(super) async fn plan(
        &self,
        routes: &Arc<Routes>,
        record: &EventRecord,
        to: &BTreeSet<DestinationId>,
    ) -> Result<Option<Replanned>, StoreError> {
        let remembered = match routes.detects() {
            true => self.database.memories().await?,
            false => Vec::new(),
        };
        let sent = self.sent(record, to).await?;
        Ok(routes.plan(&record.event, &sent, &remembered, self.lookups.as_ref()).await)
    }

    /// What these destinations were sent of the event, without what never went out.
    async fn sent(
        &self,
        record: &EventRecord,
        to: &BTreeSet<DestinationId>,
    ) -> Result<Vec<(DestinationId, Message)>, StoreError> {
        let is_its = |it: &&DeliveryRecord| to.contains(&it.destination) && !never_got_through(it);
        let its = record.deliveries.iter().filter(is_its);
        let by_seq: HashMap<DeliverySeq, DestinationId> =
            its.map(|it| (it.seq, it.destination)).collect();
        if by_seq.is_empty() {
            return Ok(Vec::new());
        }
        let seqs: Vec<DeliverySeq> = by_seq.keys().copied().collect();
        let messages = self.database.messages(&seqs).await?;
        let named = messages.into_iter().filter_map(|it| Some((*by_seq.get(&it.seq)?, it)));
        Ok(named.collect())
    }
}

impl EventReplay<'_> {
    /// The deliveries to make.
    pub async fn choose(
        &self,
        catalog: &Arc<Catalog>,
        means: &Means,
    ) -> Result<Chosen, StoreError> {
        let mut chosen = Chosen::default();
        let mut replanned: BTreeMap<DestinationId, Option<DeliverySeq>> = BTreeMap::new();
        let mut places = ReplayPlacing::new(catalog);
        for (destination, record) in self.wanted() {
            let is_own = catalog
                .destinations
                .get(&destination)
                .is_some_and(|it| it.project == self.event.event.project);
            if !is_own {
                continue;
            }
            let like = record.map(|it| it.seq);
            match record {
                Some(it) if !has_ended(it.state) => {
                    let name = name(catalog, destination);
                    chosen.refused.push(format!(
                        "`{name}`: its last delivery is still owed, and is attempted anyway"
                    ));
                }
                None if !self.raw => drop(replanned.insert(destination, None)),
                Some(it) if !self.raw && never_got_through(it) => {
                    replanned.insert(destination, like);
                }
                None | Some(_) => {
                    let Some(place) = places.of(destination, Some(&self.event.event)) else {
                        continue;
                    };
                    let like = like.filter(|_| !self.raw);
                    let event = self.event.event.seq;
                    chosen.items.push(ReplayItem {
                        event,
                        destination,
                        place,
                        like,
                        replanned: None,
                    });
                }
            }
        }
        let is_all = matches!(self.what, What::All) && self.event.deliveries.is_empty();
        if !self.raw && (is_all || !replanned.is_empty()) {
            if is_still_planned(self.event) {
                chosen
                    .refused
                    .push("its pipelines have not decided about it yet, and will".to_owned());
                return Ok(chosen);
            }
            let to: BTreeSet<DestinationId> = replanned.keys().copied().collect();
            let only = (!is_all).then(|| to.iter().copied().collect());
            let routes = means.routes(self.event.event.project, only, catalog).await?;
            match means.plan(&routes, self.event, &to).await? {
                Some(made) => self.take(made, &replanned, catalog, &mut chosen),
                None => {
                    chosen.refused.push("planning it ended badly; see the server log".to_owned())
                }
            }
        }
        Ok(chosen)
    }

    /// The destinations that are meant, with the delivery that is repeated.
    fn wanted(&self) -> Vec<(DestinationId, Option<&DeliveryRecord>)> {
        let all = &self.event.deliveries;
        let latest: BTreeMap<DestinationId, &DeliveryRecord> =
            all.iter().map(|it| (it.destination, it)).collect();
        match self.what {
            What::All => {
                let ended = latest.values().filter(|it| has_ended(it.state));
                ended.map(|it| (it.destination, Some(*it))).collect()
            }
            What::To(to) => to.iter().map(|id| (*id, latest.get(id).copied())).collect(),
            What::Delivery(seq) => {
                let found = all.iter().find(|it| it.seq == seq);
                found.map(|it| (it.destination, Some(it))).into_iter().collect()
            }
        }
    }

    /// Takes over what was planned, and says for which destination there is nothing, and why.
    fn take(
        &self,
        made: Replanned,
        replanned: &BTreeMap<DestinationId, Option<DeliverySeq>>,
        catalog: &Catalog,
        chosen: &mut Chosen,
    ) {
        let mut like = replanned.clone();
        let mut served = BTreeSet::new();
        for planned in made.deliveries {
            let destination = planned.destination;
            if let Some(reason) = &planned.dead {
                chosen.refused.push(format!("`{}`: {reason}", name(catalog, destination)));
                served.insert(destination);
                continue;
            }
            served.insert(destination);
            chosen.items.push(item(
                self.event.event.seq,
                planned,
                like.remove(&destination).flatten(),
            ));
        }
        for id in replanned.keys().filter(|it| !served.contains(it)) {
            let name = name(catalog, *id);
            chosen.refused.push(format!("`{name}`: {}", reason(&made.skipped, &name)));
        }
        if replanned.is_empty() && chosen.items.is_empty() {
            chosen.refused.extend(made.skipped.iter().map(said));
        }
    }
}

pub(super) fn item(
    event: EventSeq,
    planned: PlannedDelivery,
    like: Option<DeliverySeq>,
) -> ReplayItem {
    let (destination, place) = (planned.destination, planned.place);
    ReplayItem { event, destination, place, like, replanned: Some(planned) }
}

fn name(catalog: &Catalog, id: DestinationId) -> String {
    catalog.destinations.get(&id).map_or_else(|| id.to_string(), |it| it.name.to_string())
}

/// Why no route leads to this destination: what was said about it, or before all routes.
fn reason(skipped: &[Skipped], name: &str) -> String {
    let is_about = |it: &&Skipped| it.route.as_ref().is_none_or(|it| it.as_str() == name);
    let reasons: Vec<String> = skipped.iter().filter(is_about).map(said).collect();
    match reasons.is_empty() {
        true => "no pipeline has a route to it".to_owned(),
        false => reasons.join("; "),
    }
}

fn said(it: &Skipped) -> String {
    match &it.pipeline {
        Some(pipeline) => format!("{pipeline} by {}: {}", it.by, it.reason),
        None => it.reason.clone(),
    }
}

/// Makes the deliveries of an event's replay, and returns how many.
pub async fn replay_event(
    database: &dyn Database,
    it: &EventReplay<'_>,
    items: Vec<ReplayItem>,
    replayed: &Replayed,
) -> Result<u64, StoreError> {
    let step =
        ReplayStep { replay: it.replay, items, fresh_ids: it.fresh_ids, at: it.at, cursor: None };
    if step.items.is_empty() {
        return Ok(0);
    }
    let owed = database.replay(step).await?;
    replayed(&owed);
    Ok(owed.len() as u64)
}
