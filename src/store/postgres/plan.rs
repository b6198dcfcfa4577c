//! Keeping what the pipelines made of events.
//!
//! A call is a transaction of two round trips: it locks how far the plans of its shards have come,
//! and so learns what of the call is new; then it writes that. Calls of one shard come from one node,
//! in their order.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use super::{
    Duty,
    batch_queue::{BatchReceiver, CallBatch},
    connect::{BEGIN, COMMIT, Session, Values},
    core::{Core, session},
    error::{is_worth_another_try, unavailable},
    leases::CHECK,
    memories::{Changes, FORGET, KEEP, Tallies},
    minutes::Minutes,
    rows::{NewDeliveries, NewEntries, NewOwed},
    values::{self, seq_to_row, shard_of},
};
use crate::{
    model::{
        DeliverySeq, Ended, Entry, EntryKind, EventSeq, Owed, Plan, PlannedDelivery, RawJson,
        Standing,
    },
    store::{Result, StoreError},
};

const LOCK: &str = "SELECT p.shard, p.through, l.last FROM plans p JOIN logs l ON l.shard = p.shard \
     WHERE p.shard = ANY($1) ORDER BY p.shard FOR UPDATE OF p";
const WAITING: &str = "SELECT event FROM waiting WHERE event = ANY($1)";
/// Where the next delivery of an event goes, replays included.
pub(super) const LAST: &str = "SELECT w.event, (SELECT max(d.seq) FROM deliveries d \
     WHERE d.seq >= w.event << 11 AND d.seq < (w.event + 1) << 11) \
     FROM unnest($1::bigint[]) AS w (event)";
const SKIPPED: &str = "INSERT INTO skipped (event, reasons) \
     SELECT * FROM unnest($1::bigint[], $2::text[]) \
     ON CONFLICT (event) DO UPDATE SET reasons = excluded.reasons";
const WAITS: &str = "INSERT INTO waiting SELECT * FROM unnest($1::bigint[]) ON CONFLICT DO NOTHING";
const DECIDED: &str = "DELETE FROM waiting WHERE event = ANY($1)";
const MOVE: &str = "UPDATE plans SET through = w.through FROM unnest($1::int[], $2::bigint[]) \
     AS w (shard, through) WHERE plans.shard = w.shard";

/// What it weighs while it waits.
pub(super) fn weight(plans: &[Plan]) -> usize {
    /// The fields of fixed size, and the bookkeeping around them.
    const FIXED: usize = 256;
    let of = |it: &Plan| {
        let copies = it.deliveries.iter().filter_map(|it| it.copy.as_ref());
        FIXED * (1 + it.deliveries.len()) + copies.map(|it| it.weight()).sum::<usize>()
    };
    plans.iter().map(of).sum()
}

/// A writer, until its lane is closed.
pub(super) async fn run(core: Arc<Core>, mut queue: BatchReceiver<Vec<Plan>, Vec<Owed>>) {
    let mut kept = None;
    while let Some(CallBatch { calls, flushes }) = queue.take(0, 1).await {
        for call in calls {
            let (mut tries, mut result) = (1, keep(&core, &mut kept, &call.input).await);
            while result.as_ref().err().is_some_and(|it| is_worth_another_try(it, tries)) {
                tries += 1;
                result = keep(&core, &mut kept, &call.input).await;
            }
            call.answer(result);
        }
        flushes.answer();
    }
}

async fn keep(core: &Core, kept: &mut Option<Session>, plans: &[Plan]) -> Result<Vec<Owed>> {
    let connection = session(core, kept).await?;
    let result = keep_in(core, connection, plans).await;
    if result.is_err() {
        connection.roll_back().await;
    }
    result
}

async fn keep_in(core: &Core, connection: &mut Session, plans: &[Plan]) -> Result<Vec<Owed>> {
    let shards: BTreeSet<u16> = plans.iter().map(|it| shard_of(it.event.seq)).collect();
    let claim = core.leases.claim(Duty::Pipeline, shards.iter().copied())?;
    let rests: Vec<i64> =
        plans.iter().filter(|it| it.is_rest).map(|it| seq_to_row(it.event.seq)).collect();
    let claimed: Values<'_> = &[&claim.duty, &claim.shards, &claim.epochs];
    let locked: Values<'_> = &[&claim.shards];
    let of_rests: Values<'_> = &[&rests];
    let mut steps: Vec<(&'static str, Values<'_>)> =
        vec![(BEGIN, &[]), (CHECK, claimed), (LOCK, locked)];
    if !rests.is_empty() {
        steps.extend([(WAITING, of_rests), (LAST, of_rests)]);
    }
    let found = connection.pipeline(&steps).await?;
    let mut turn = PlanBatch { now: core.clock.now(), ..PlanBatch::default() };
    for row in &found[2] {
        let shard: i32 = row.try_get(0)?;
        turn.shards.insert(shard as u16, (row.try_get(1)?, row.try_get(2)?));
    }
    for row in found.get(3).into_iter().flatten() {
        turn.waiting.insert(values::event_of_row(row.try_get(0)?));
    }
    for row in found.get(4).into_iter().flatten() {
        let last: Option<i64> = row.try_get(1)?;
        let next = last.map_or(0, |it| usize::from(values::delivery_of_row(it).ordinal()) + 1);
        turn.next.insert(values::event_of_row(row.try_get(0)?), next);
    }
    let waited = turn.waiting.clone();
    for plan in plans {
        turn.take(plan)?;
    }
    turn.write(connection, &waited).await?;
    Ok(turn.owed)
}

/// What one call writes.
#[derive(Default)]
struct PlanBatch {
    now: jiff::Timestamp,
    /// Of each shard, up to where events have plans, and the last event.
    shards: BTreeMap<u16, (i64, i64)>,
    /// Events whose plan waits.
    waiting: BTreeSet<EventSeq>,
    /// The first ordinal that is free.
    next: HashMap<EventSeq, usize>,
    deliveries: NewDeliveries,
    open: NewOwed,
    entries: NewEntries,
    minutes: Minutes,
    reasons: BTreeMap<i64, String>,
    changes: Changes,
    tallies: Tallies,
    owed: Vec<Owed>,
    has_news: bool,
}

impl PlanBatch {
    fn take(&mut self, plan: &Plan) -> Result<()> {
        let seq = plan.event.seq;
        let row = seq_to_row(seq);
        let Some((through, last)) = self.shards.get_mut(&shard_of(seq)) else {
            return Err(unavailable("the event is not in the store"));
        };
        let is_next = row == *through + 1 && !plan.is_rest;
        // Events up to the last planned one count as planned for ever. A call that comes after one
        // that failed is refused for this reason, too.
        if row > *through && !is_next {
            return Err(unavailable("an event before this one has no plan yet"));
        }
        if row > *last {
            return Err(unavailable("the event is not in the store"));
        }
        let base = if is_next {
            *through = row;
            0
        } else if plan.is_rest && self.waiting.contains(&seq) {
            self.next.get(&seq).copied().unwrap_or(0)
        } else {
            return Ok(());
        };
        let end = base + plan.deliveries.len();
        if end > usize::from(DeliverySeq::PER_EVENT) {
            return Err(StoreError::TooManyDeliveries);
        }
        self.has_news = true;
        self.changes.add(shard_of(seq), &plan.remembered);
        for tally in &plan.tallies {
            self.tallies.add(tally, self.now);
        }
        self.next.insert(seq, end);
        for (ordinal, delivery) in (base..).zip(&plan.deliveries) {
            // It is at most 2047.
            self.deliver(plan, DeliverySeq::new(seq, ordinal as u16), delivery);
        }
        // What an earlier part of the plan said must not stay.
        if plan.is_rest || !plan.skipped.is_empty() {
            self.reasons.insert(row, RawJson::of(&plan.skipped).as_str().to_owned());
        }
        if plan.waits() {
            self.waiting.insert(seq);
        } else {
            self.waiting.remove(&seq);
        }
        Ok(())
    }

    fn deliver(&mut self, plan: &Plan, seq: DeliverySeq, delivery: &PlannedDelivery) {
        let (project, destination) = (plan.event.project, delivery.destination);
        let rows = &mut self.deliveries;
        rows.push(seq, delivery.place, project, destination);
        if let (Some(pipeline), Some(version), Some(copy)) =
            (rows.pipelines.last_mut(), rows.versions.last_mut(), rows.copies.last_mut())
        {
            *pipeline = Some(delivery.pipeline.into());
            *version = i32::try_from(delivery.pipeline_version).unwrap_or(i32::MAX);
            *copy = delivery.copy.as_ref().map(|it| it.to_bytes().to_vec());
        }
        self.minutes.planned(destination, self.now);
        match &delivery.dead {
            None => {
                let owed = Owed {
                    seq,
                    destination,
                    place: delivery.place,
                    accepted_at: values::rounded(plan.event.received_at),
                    standing: Standing::NEW,
                };
                self.open.push(&owed, project);
                self.owed.push(owed);
            }
            Some(reason) => {
                let entry = Entry {
                    delivery: seq,
                    number: 1,
                    at: self.now,
                    kind: EntryKind::Note { reason: reason.clone() },
                    ended: Some(Ended::Dead),
                };
                self.minutes.entry(destination, &entry);
                self.entries.push(&entry, project, destination);
            }
        }
    }

    async fn write(&mut self, connection: &mut Session, waited: &BTreeSet<EventSeq>) -> Result<()> {
        if !self.has_news {
            connection.roll_back().await;
            return Ok(());
        }
        let (events, reasons): (Vec<i64>, Vec<String>) =
            std::mem::take(&mut self.reasons).into_iter().unzip();
        let waits: Vec<i64> = self.waiting.difference(waited).map(|it| seq_to_row(*it)).collect();
        let decided: Vec<i64> =
            waited.difference(&self.waiting).map(|it| seq_to_row(*it)).collect();
        let (shards, throughs): (Vec<i32>, Vec<i64>) =
            self.shards.iter().map(|(shard, it)| (i32::from(*shard), it.0)).unzip();
        self.changes.close();
        let (kept, gone) = (self.changes.kept(), self.changes.gone());
        let has_tallies = !self.tallies.is_empty();
        let tallies = self.tallies.values();
        let has_minutes = !self.minutes.is_empty();
        let minutes = self.minutes.values();
        let (deliveries, open, entries) =
            (self.deliveries.values(), self.open.values(), self.entries.values());
        let skipped: Values<'_> = &[&events, &reasons];
        let (waits_values, decided_values): (Values<'_>, Values<'_>) = (&[&waits], &[&decided]);
        let moved: Values<'_> = &[&shards, &throughs];
        let all: [(bool, &'static str, Values<'_>); 11] = [
            (!self.deliveries.is_empty(), NewDeliveries::INSERT, &deliveries),
            (!self.open.is_empty(), NewOwed::INSERT, &open),
            (!self.entries.is_empty(), NewEntries::INSERT, &entries),
            (has_minutes, Minutes::INSERT, &minutes),
            (!events.is_empty(), SKIPPED, skipped),
            (!waits.is_empty(), WAITS, waits_values),
            (!decided.is_empty(), DECIDED, decided_values),
            (self.changes.has_kept(), KEEP, &kept),
            (self.changes.has_gone(), FORGET, &gone),
            (has_tallies, Tallies::INSERT, &tallies),
            (true, MOVE, moved),
        ];
        let mut steps: Vec<(&'static str, Values<'_>)> =
            all.into_iter().filter(|it| it.0).map(|it| (it.1, it.2)).collect();
        steps.push((COMMIT, &[]));
        connection.pipeline(&steps).await?;
        Ok(())
    }
}
