//! Making new deliveries of old events.

use std::collections::{BTreeSet, HashMap};

use super::{
    Duty,
    connect::{BEGIN, COMMIT, Connection, Values},
    core::Core,
    error::unavailable,
    leases::CHECK,
    minutes::Minutes,
    plan::LAST,
    rows::{NewDeliveries, NewOwed},
    values::{self, Uuid, delivery_of_row, delivery_to_row, event_of_row, seq_to_row, shard_of},
};
use crate::{
    model::{DeliverySeq, EventSeq, Owed, ProjectId, ReplayId, Standing},
    store::{ReplayProgress, ReplayStep, Result, StoreError},
};

/// As for plans: an event's deliveries are numbered by one at a time.
const LOCK: &str =
    "SELECT shard, through FROM plans WHERE shard = ANY($1) ORDER BY shard FOR UPDATE";
const EVENTS: &str = "SELECT e.seq, e.project FROM unnest($1::bigint[]) AS w (seq) \
     JOIN events e ON e.seq = w.seq WHERE e.digest <> 0";
const LIKE: &str = "SELECT d.seq, d.pipeline, d.version, d.copy \
     FROM unnest($1::bigint[]) AS w (seq) JOIN deliveries d ON d.seq = w.seq";
const PROGRESS: &str = "INSERT INTO replays (replay, cursor, done) VALUES ($1, $2, $3) \
     ON CONFLICT (replay) DO UPDATE SET cursor = $2, done = replays.done + $3";

pub(super) async fn replay(core: &Core, step: ReplayStep) -> Result<Vec<Owed>> {
    let mut loan = core.session().await?;
    let session = loan.session()?;
    let result = replay_in(core, session, &step).await;
    if result.is_err() {
        session.roll_back().await;
    }
    result
}

async fn replay_in(core: &Core, session: &mut Connection, step: &ReplayStep) -> Result<Vec<Owed>> {
    let asked: BTreeSet<EventSeq> = step.items.iter().map(|it| it.event).collect();
    // A place in no shard that there is has no event.
    let shards: BTreeSet<u16> = asked.iter().map(|it| shard_of(*it)).collect();
    let shards: Vec<i32> =
        shards.into_iter().filter(|it| *it < core.shards).map(i32::from).collect();
    // What goes on by itself is one node's work. What a person asks for is done where it is asked.
    let duty = step.cursor.is_some().then_some(0);
    let claim = core.leases.claim(Duty::Upkeep, duty.into_iter())?;
    let events: Vec<i64> = asked.iter().map(|it| seq_to_row(*it)).collect();
    let like: Vec<i64> = step.items.iter().filter_map(|it| it.like).map(delivery_to_row).collect();
    let claimed: Values<'_> = &[&claim.duty, &claim.shards, &claim.epochs];
    let locked: Values<'_> = &[&shards];
    let of_events: Values<'_> = &[&events];
    let of_like: Values<'_> = &[&like];
    let found = session
        .pipeline(&[
            (BEGIN, &[]),
            (CHECK, claimed),
            (LOCK, locked),
            (EVENTS, of_events),
            (LAST, of_events),
            (LIKE, of_like),
        ])
        .await?;
    let [_, _, locked, events, last, like] = &found[..] else {
        return Err(StoreError::Closed);
    };
    let mut turn = Turn::default();
    for row in locked {
        let shard: i32 = row.try_get(0)?;
        turn.through.insert(shard as u16, event_of_row(row.try_get(1)?));
    }
    for row in events {
        let project: Uuid = row.try_get(1)?;
        turn.projects.insert(event_of_row(row.try_get(0)?), project.id());
    }
    for row in last {
        let last: Option<i64> = row.try_get(1)?;
        let next = last.map_or(0, |it| delivery_of_row(it).ordinal() + 1);
        turn.next.insert(event_of_row(row.try_get(0)?), next);
    }
    for row in like {
        let like =
            Like { pipeline: row.try_get(1)?, version: row.try_get(2)?, copy: row.try_get(3)? };
        turn.like.insert(delivery_of_row(row.try_get(0)?), like);
    }
    turn.take(core, step)?;
    turn.write(session, step).await?;
    Ok(turn.owed)
}

struct Like {
    pipeline: Option<Uuid>,
    version: i32,
    copy: Option<Vec<u8>>,
}

#[derive(Default)]
struct Turn {
    through: HashMap<u16, EventSeq>,
    /// Of events that are there, and not erased.
    projects: HashMap<EventSeq, ProjectId>,
    /// The first ordinal that is free.
    next: HashMap<EventSeq, u16>,
    like: HashMap<DeliverySeq, Like>,
    deliveries: NewDeliveries,
    open: NewOwed,
    minutes: Minutes,
    owed: Vec<Owed>,
}

impl Turn {
    /// Items whose event or delivery is gone are left out.
    fn take(&mut self, core: &Core, step: &ReplayStep) -> Result<()> {
        let now = core.clock.now();
        for item in &step.items {
            let Some(project) = self.projects.get(&item.event).copied() else { continue };
            let like = match item.like {
                Some(seq) => match self.like.get(&seq) {
                    Some(like) => Some(like),
                    None => continue,
                },
                None => None,
            };
            if self.through.get(&shard_of(item.event)).is_none_or(|it| *it < item.event) {
                // Its plan numbers its deliveries from 0.
                return Err(unavailable("the event has no plan yet"));
            }
            let ordinal = self.next.entry(item.event).or_default();
            if *ordinal >= DeliverySeq::PER_EVENT {
                return Err(StoreError::TooManyDeliveries);
            }
            let seq = DeliverySeq::new(item.event, *ordinal);
            *ordinal += 1;
            let rows = &mut self.deliveries;
            rows.push(seq, item.place, project, item.destination);
            if let (Some(pipeline), Some(version), Some(copy)) =
                (rows.pipelines.last_mut(), rows.versions.last_mut(), rows.copies.last_mut())
                && let Some(like) = like
            {
                (*pipeline, *version, *copy) = (like.pipeline, like.version, like.copy.clone());
            }
            if let (Some(accepted), Some(replay), Some(fresh)) =
                (rows.accepted.last_mut(), rows.replays.last_mut(), rows.fresh.last_mut())
            {
                // It waits from now on: an old event must not expire before its first attempt.
                *accepted = Some(values::micros(step.at));
                *replay = Some(step.replay.into());
                *fresh = step.fresh_ids;
            }
            let owed = Owed {
                seq,
                destination: item.destination,
                place: item.place,
                accepted_at: values::rounded(step.at),
                standing: Standing::NEW,
            };
            self.minutes.planned(item.destination, now);
            self.open.push(&owed, project);
            self.owed.push(owed);
        }
        Ok(())
    }

    async fn write(&mut self, session: &mut Connection, step: &ReplayStep) -> Result<()> {
        let (replay, cursor) = (Uuid::from(step.replay), step.cursor.map(delivery_to_row));
        let done = self.owed.len() as i64;
        let minutes = self.minutes.values();
        let (deliveries, open) = (self.deliveries.values(), self.open.values());
        let progress: Values<'_> = &[&replay, &cursor, &done];
        let mut steps: Vec<(&'static str, Values<'_>)> = Vec::new();
        if done > 0 {
            steps.extend([
                (NewDeliveries::INSERT, &deliveries as Values<'_>),
                (NewOwed::INSERT, &open),
                (Minutes::INSERT, &minutes),
            ]);
        }
        steps.extend([(PROGRESS, progress), (COMMIT, &[])]);
        session.pipeline(&steps).await?;
        Ok(())
    }
}

/// How far a replay has come.
pub(super) async fn progress(core: &Core, replay: ReplayId) -> Result<ReplayProgress> {
    let mut loan = core.session().await?;
    let sql = "SELECT cursor, done FROM replays WHERE replay = $1";
    let found = loan.session()?.query(sql, &[&Uuid::from(replay)]).await?;
    let Some(row) = found.first() else { return Ok(ReplayProgress::default()) };
    let cursor: Option<i64> = row.try_get(0)?;
    let done: i64 = row.try_get(1)?;
    Ok(ReplayProgress { cursor: cursor.map(delivery_of_row), done: done as u64 })
}
