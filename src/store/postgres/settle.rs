//! Writing what came of deliveries.
//!
//! A writer takes what has queued. One statement ends or moves the deliveries, finds out which were
//! still owed, and writes the activity log of just those. What one call, or several at the same time,
//! say of the same delivery goes into rounds, one behind the other.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use super::{
    Duty,
    append::Failed,
    batch_queue::{BatchReceiver, Call, CallBatch},
    connect::{BEGIN, COMMIT, Session, Values},
    core::{Core, session},
    error::{is_worth_another_try, unavailable},
    leases::{CHECK, Claim},
    minutes::Minutes,
    rows::NewEntries,
    values::{self, delivery_of_row, lane_to_row},
};
use crate::{
    model::{DeliverySeq, DestinationId, Entry},
    store::{Next, Result, Settlement, StoreError},
};

/// What one transaction takes at most.
const BYTES: usize = 1 << 20;
const CALLS: usize = 2048;

/// Two callers may have acted on the same standing: both entries are kept, one behind the other.
const SETTLE: &str = "WITH w AS (SELECT * FROM unnest($1::bigint[], $2::int[], $3::bigint[], \
     $4::uuid[], $5::uuid[], $6::int[], $7::int[], $8::int[], $9::bigint[], $10::int[], \
     $11::bytea[], $12::bigint[], $13::bytea[], $14::bigint[], $15::bigint[], $16::bool[], \
     $17::int[], $18::int[], $19::bigint[]) AS w (seq, number, at, project, destination, attempt, \
     class, status, duration, ended, reason, retry_after, response, lane, position, ends, attempts, \
     entries, due)), \
     gone AS (DELETE FROM open o USING w WHERE w.ends AND o.destination = w.destination \
     AND o.lane = w.lane AND o.position = w.position AND o.seq = w.seq \
     RETURNING w.*, o.project AS of_project, greatest(w.number, o.entries + 1) AS of_number), \
     moved AS (UPDATE open o SET attempts = w.attempts, due = w.due, \
     entries = greatest(w.entries, w.number, o.entries + 1) \
     FROM w WHERE NOT w.ends AND o.destination = w.destination \
     AND o.lane = w.lane AND o.position = w.position AND o.seq = w.seq \
     RETURNING w.*, o.project AS of_project, o.entries AS of_number), \
     done AS (SELECT * FROM gone UNION ALL SELECT * FROM moved), \
     noted AS (INSERT INTO activity (delivery, number, at, project, destination, attempt, class, \
     status, duration, ended, reason, retry_after, response) \
     SELECT seq, of_number, at, of_project, destination, attempt, class, status, duration, ended, \
     reason, retry_after, response FROM done) \
     SELECT seq FROM done";

/// A writer, until its lane is closed.
pub(super) async fn run(core: Arc<Core>, mut queue: BatchReceiver<Vec<Settlement>, ()>) {
    let mut kept = None;
    while let Some(CallBatch { calls, flushes }) = queue.take(BYTES, CALLS).await {
        metrics::histogram!("tidegate_store_batch", "work" => "settle").record(calls.len() as f64);
        settle(&core, &mut kept, calls).await;
        flushes.answer();
    }
}

async fn settle(core: &Core, kept: &mut Option<Session>, calls: Vec<Call<Vec<Settlement>, ()>>) {
    // A call that is not ours any more must not fail the others.
    let (calls, fenced): (Vec<_>, Vec<_>) =
        calls.into_iter().partition(|it| claim(core, it.input.iter()).is_ok());
    fenced.into_iter().for_each(|it| it.answer(Err(StoreError::Fenced)));
    if calls.is_empty() {
        return;
    }
    let mut tries = 1;
    let mut tried = try_settle(core, kept, &calls).await;
    while let Err(failed) = &tried
        && is_worth_another_try(&failed.error, tries)
    {
        tries += 1;
        tried = try_settle(core, kept, &calls).await;
    }
    let failed = match tried {
        Ok(()) => {
            calls.into_iter().for_each(|it| it.answer(Ok(())));
            return;
        }
        Err(failed) => failed,
    };
    let is_about_one = failed.is_about_values || matches!(failed.error, StoreError::Fenced);
    if calls.len() > 1 && is_about_one {
        for call in calls {
            Box::pin(settle(core, kept, vec![call])).await;
        }
        return;
    }
    let mut error = Some(failed.error);
    for call in calls {
        call.answer(Err(error.take().unwrap_or_else(|| unavailable("the commit failed"))));
    }
}

fn claim<'a>(core: &Core, settlements: impl Iterator<Item = &'a Settlement>) -> Result<Claim> {
    let shard = |it: &Settlement| values::shard_of_destination(it.owed.destination, core.shards);
    core.leases.claim(Duty::Dispatch, settlements.map(shard))
}

async fn try_settle(
    core: &Core,
    kept: &mut Option<Session>,
    calls: &[Call<Vec<Settlement>, ()>],
) -> Result<(), Failed> {
    let all = || calls.iter().flat_map(|it| &it.input);
    let claim = claim(core, all())?;
    let connection = session(core, kept).await?;
    let result = settle_in(connection, &claim, all()).await;
    if result.is_err() {
        connection.roll_back().await;
    }
    result
}

async fn settle_in<'a>(
    connection: &mut Session,
    claim: &Claim,
    all: impl Iterator<Item = &'a Settlement>,
) -> Result<(), Failed> {
    let mut minutes = Minutes::default();
    let rounds = rounds(all);
    for (place, round) in rounds.iter().enumerate() {
        let entries = round.entries.values();
        let claimed: Values<'_> = &[&claim.duty, &claim.shards, &claim.epochs];
        let mut values = entries.to_vec();
        let more: Values<'_> = &[
            &round.lanes,
            &round.positions,
            &round.ends,
            &round.attempts,
            &round.numbers,
            &round.dues,
        ];
        values.extend_from_slice(more);
        let mut steps: Vec<(&'static str, Values<'_>)> = Vec::new();
        if place == 0 {
            steps.extend([(BEGIN, &[] as Values<'_>), (CHECK, claimed)]);
        }
        steps.push((SETTLE, &values));
        let found = connection.pipeline(&steps).await?;
        let mut done = HashSet::new();
        for row in found.last().into_iter().flatten() {
            done.insert(delivery_of_row(row.try_get(0)?));
        }
        let ignored = round.reported.len() - done.len();
        metrics::counter!("tidegate_store_settlements_ignored_total").increment(ignored as u64);
        for (seq, destination, entry) in &round.reported {
            if done.contains(seq) {
                minutes.entry(*destination, entry);
            }
        }
    }
    let has_minutes = !minutes.is_empty();
    let counts = minutes.values();
    let mut steps: Vec<(&'static str, Values<'_>)> = Vec::new();
    if has_minutes {
        steps.push((Minutes::INSERT, &counts));
    }
    steps.push((COMMIT, &[]));
    connection.pipeline(&steps).await?;
    Ok(())
}

/// Settlements of different deliveries, by column.
#[derive(Default)]
struct Round<'a> {
    entries: NewEntries,
    lanes: Vec<i64>,
    positions: Vec<i64>,
    ends: Vec<bool>,
    attempts: Vec<i32>,
    numbers: Vec<i32>,
    dues: Vec<Option<i64>>,
    reported: Vec<(DeliverySeq, DestinationId, &'a Entry)>,
}

fn rounds<'a>(all: impl Iterator<Item = &'a Settlement>) -> Vec<Round<'a>> {
    let mut rounds: Vec<Round<'a>> = Vec::new();
    let mut seen: HashMap<DeliverySeq, usize> = HashMap::new();
    for Settlement { owed, entry, next } in all {
        let place = seen.entry(owed.seq).or_default();
        if rounds.len() <= *place {
            rounds.push(Round::default());
        }
        let round = &mut rounds[*place];
        *place += 1;
        let (standing, ends) = match next {
            Next::Owed(standing) => (Some(standing), false),
            Next::Ended(_) => (None, true),
        };
        let reported = Entry { delivery: owed.seq, ..entry.clone() };
        round.entries.push_of(&reported, None, owed.destination);
        round.lanes.push(lane_to_row(owed.place.lane));
        round.positions.push(owed.place.position);
        round.ends.push(ends);
        round.attempts.push(standing.map_or(0, |it| it.attempts.into()));
        round.numbers.push(standing.map_or(0, |it| it.entries.into()));
        round.dues.push(standing.and_then(|it| it.due).map(values::micros));
        round.reported.push((owed.seq, owed.destination, entry));
    }
    rounds
}
