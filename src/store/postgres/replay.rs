//! Making new deliveries of old events.

use std::collections::{BTreeSet, HashMap, HashSet};

use super::{
    Duty,
    connect::{BEGIN, COMMIT, Session, Values},
    core::Core,
    error::unavailable,
    leases::CHECK,
    minutes::Minutes,
    plan::LAST,
    rows::{NewDeliveries, NewEntries, NewOwed},
    values::{self, Uuid, delivery_of_row, delivery_to_row, event_of_row, seq_to_row, shard_of},
};
use crate::{
    model::{
        DeliveryId, DeliverySeq, Ended, Entry, EntryKind, EventId, EventSeq, Owed, ProjectId,
        ReplayId, Standing,
    },
    store::{ReplayItem, ReplayProgress, ReplayStep, Result, StoreError, codes::ended},
};

/// As for plans: an event's deliveries are numbered by one at a time.
const LOCK: &str =
    "SELECT shard, through FROM plans WHERE shard = ANY($1) ORDER BY shard FOR UPDATE";
const EVENTS: &str = "SELECT e.seq, e.project, e.id FROM unnest($1::bigint[]) AS w (seq) \
     JOIN events e ON e.seq = w.seq WHERE e.digest <> 0";
const LIKE: &str = "SELECT d.seq, d.pipeline, d.version, d.copy \
     FROM unnest($1::bigint[]) AS w (seq) JOIN deliveries d ON d.seq = w.seq";
/// The dead letters among the deliveries of an event to one destination that carry the same, up to the one
/// that is named: an older program did not note which of them were replayed. And how often each was replayed.
const DEAD: &str = "SELECT w.seq, d.seq, max(a.ended), max(a.number), \
     count(*) FILTER (WHERE a.attempt = 0 AND a.duration IS NOT NULL) \
     FROM unnest($1::bigint[]) AS w (seq) JOIN deliveries l ON l.seq = w.seq \
     JOIN deliveries d ON d.seq >= (w.seq >> 11 << 11) AND d.seq <= w.seq \
     AND d.destination = l.destination AND d.copy IS NOT DISTINCT FROM l.copy \
     JOIN activity a ON a.delivery = d.seq GROUP BY w.seq, d.seq";
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

async fn replay_in(core: &Core, session: &mut Session, step: &ReplayStep) -> Result<Vec<Owed>> {
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
            (DEAD, of_like),
        ])
        .await?;
    let [_, _, locked, events, last, like, dead] = &found[..] else {
        return Err(StoreError::Closed);
    };
    let mut turn = ReplayBatch::default();
    for row in locked {
        let shard: i32 = row.try_get(0)?;
        turn.through.insert(shard as u16, event_of_row(row.try_get(1)?));
    }
    for row in events {
        let (project, id): (Uuid, Uuid) = (row.try_get(1)?, row.try_get(2)?);
        turn.projects.insert(event_of_row(row.try_get(0)?), (project.id(), id.id()));
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
    for row in dead {
        let (like, seq) = (delivery_of_row(row.try_get(0)?), delivery_of_row(row.try_get(1)?));
        let (code, last): (Option<i32>, Option<i32>) = (row.try_get(2)?, row.try_get(3)?);
        let replayed: i64 = row.try_get(4)?;
        if replayed > 0 {
            turn.replayed.insert(seq);
        } else if let Some(code) = code
            && let ended @ (Ended::Dead | Ended::Expired) = ended(code.into())?
        {
            let last = last.unwrap_or(0) as u16;
            turn.dead.entry(like).or_default().push(DeadLetter { seq, ended, last });
        }
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

/// A delivery that is dead or expired, and was not replayed yet.
struct DeadLetter {
    seq: DeliverySeq,
    ended: Ended,
    /// Of its activity log.
    last: u16,
}

#[derive(Default)]
struct ReplayBatch {
    through: HashMap<u16, EventSeq>,
    /// Of events that are there, and not erased. With their ids.
    projects: HashMap<EventSeq, (ProjectId, EventId)>,
    /// The first ordinal that is free.
    next: HashMap<EventSeq, u16>,
    like: HashMap<DeliverySeq, Like>,
    /// By the delivery that is repeated.
    dead: HashMap<DeliverySeq, Vec<DeadLetter>>,
    /// Deliveries that were replayed already.
    replayed: HashSet<DeliverySeq>,
    entries: NewEntries,
    deliveries: NewDeliveries,
    open: NewOwed,
    minutes: Minutes,
    owed: Vec<Owed>,
}

impl ReplayBatch {
    /// Items whose event or delivery is gone are left out.
    fn take(&mut self, core: &Core, step: &ReplayStep) -> Result<()> {
        let now = core.clock.now();
        for item in &step.items {
            let Some((project, id)) = self.projects.get(&item.event).copied() else { continue };
            if item.like.is_some_and(|it| self.replayed.contains(&it)) {
                continue;
            }
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
            {
                if let Some(replanned) = &item.replanned {
                    *pipeline = Some(replanned.pipeline.into());
                    *version = i32::try_from(replanned.pipeline_version).unwrap_or(i32::MAX);
                    *copy = replanned.copy.as_ref().map(|it| it.to_bytes().to_vec());
                } else if let Some(like) = like {
                    (*pipeline, *version, *copy) = (like.pipeline, like.version, like.copy.clone());
                }
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
            self.replace(step, item, (project, id), seq.ordinal());
            self.minutes.planned(item.destination, now);
            self.open.push(&owed, project);
            self.owed.push(owed);
        }
        Ok(())
    }

    /// The dead letters that are none any more with this delivery.
    fn replace(
        &mut self,
        step: &ReplayStep,
        item: &ReplayItem,
        (project, event): (ProjectId, EventId),
        by: u16,
    ) {
        let dead = item.like.and_then(|it| self.dead.remove(&it)).unwrap_or_default();
        for DeadLetter { seq, ended, last } in dead {
            if !self.replayed.insert(seq) {
                continue;
            }
            let reason = format!("replayed as {}", DeliveryId::of(event, by));
            let entry = Entry {
                delivery: seq,
                number: last.saturating_add(1),
                at: step.at,
                kind: EntryKind::Replayed { by, reason },
                ended: Some(ended),
            };
            self.entries.push(&entry, project, item.destination);
        }
    }

    async fn write(&mut self, session: &mut Session, step: &ReplayStep) -> Result<()> {
        let (replay, cursor) = (Uuid::from(step.replay), step.cursor.map(delivery_to_row));
        let done = self.owed.len() as i64;
        let minutes = self.minutes.values();
        let (deliveries, open) = (self.deliveries.values(), self.open.values());
        let entries = self.entries.values();
        let progress: Values<'_> = &[&replay, &cursor, &done];
        let mut steps: Vec<(&'static str, Values<'_>)> = Vec::new();
        if done > 0 {
            steps.extend([
                (NewDeliveries::INSERT, &deliveries as Values<'_>),
                (NewOwed::INSERT, &open),
                (Minutes::INSERT, &minutes),
            ]);
        }
        if !self.entries.is_empty() {
            steps.push((NewEntries::INSERT, &entries));
        }
        steps.extend([(PROGRESS, progress), (COMMIT, &[])]);
        session.pipeline(&steps).await?;
        Ok(())
    }
}

/// Show the progress of a replay.
pub(super) async fn progress(core: &Core, replay: ReplayId) -> Result<ReplayProgress> {
    let mut loan = core.session().await?;
    let sql = "SELECT cursor, done FROM replays WHERE replay = $1";
    let found = loan.session()?.query(sql, &[&Uuid::from(replay)]).await?;
    let Some(row) = found.first() else { return Ok(ReplayProgress::default()) };
    let cursor: Option<i64> = row.try_get(0)?;
    let done: i64 = row.try_get(1)?;
    Ok(ReplayProgress { cursor: cursor.map(delivery_of_row), done: done as u64 })
}
