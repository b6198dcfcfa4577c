//! The rest of what is taken in, once all about events is there; and whether all of it has arrived.
//!
//! What is taken in here may be taken in again after a crash: it is compared by its key.

use super::{
    super::{
        connect::{BEGIN, COMMIT, Values},
        memories::{Changes, KEEP},
        values::{Uuid, delivery_to_row, first_of, lane_to_row, micros, seq_to_row},
    },
    Intake, IntakeCursor, IntakeError, KEEP_MARK, MARK, Mark,
};
use crate::{
    model::{EventId, EventSeq, Owed, ProjectId, RawJson, Remembered},
    store::{Document, Entity, Result, StoreError},
};

/// Those of events that are there are there already.
const OLD_KEYS: &str = "INSERT INTO gate (hash, id, seq) \
     SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::bigint[]) ON CONFLICT (hash) DO NOTHING";
const ARE_THERE: &str = "SELECT count(*) FROM unnest($1::uuid[]) AS w (hash) \
     JOIN gate g ON g.hash = w.hash";
const OPEN: &str = "INSERT INTO open (destination, lane, position, seq, accepted_at, due, project, \
     attempts, entries) SELECT * FROM unnest($1::uuid[], $2::bigint[], $3::bigint[], $4::bigint[], \
     $5::bigint[], $6::bigint[], $7::uuid[], $8::int[], $9::int[]) ON CONFLICT DO NOTHING";
const ENTITIES: &str = "INSERT INTO entities (project, tab, key, fields, updated_at) \
     SELECT * FROM unnest($1::uuid[], $2::bytea[], $3::bytea[], $4::bytea[], $5::bigint[]) \
     ON CONFLICT (project, tab, key) DO UPDATE \
     SET fields = excluded.fields, updated_at = excluded.updated_at";
const DOCUMENTS: &str = "INSERT INTO documents (kind, id, body) \
     SELECT * FROM unnest($1::text[], $2::uuid[], $3::bytea[])";
const WAITING: &str = "INSERT INTO waiting SELECT * FROM unnest($1::bigint[])";
const LOGS: &str = "UPDATE logs SET last = w.last FROM unnest($1::int[], $2::bigint[]) \
     AS w (shard, last) WHERE logs.shard = w.shard";
const PLANS: &str = "UPDATE plans SET through = w.through FROM unnest($1::int[], $2::bigint[]) \
     AS w (shard, through) WHERE plans.shard = w.shard";
/// What was planned and has not ended is what is owed, also where the minutes of old events are gone.
const BALANCE: &str = "INSERT INTO minutes SELECT destination, 0, sum(owed), 0, 0, 0, 0, \
     '{0,0,0,0,0,0,0}' FROM (SELECT destination, count(*) AS owed FROM open GROUP BY 1 UNION ALL \
     SELECT destination, -sum(planned - delivered - dead - dropped) FROM minutes GROUP BY 1) AS w \
     GROUP BY destination HAVING sum(owed) <> 0";
/// What is compared at the end, by table.
const SUMS: [(&str, &str); 5] = [
    (
        "events",
        "SELECT count(*), coalesce(sum(('x' || encode(substr(sha256(metadata || payload), 1, 4), \
         'hex'))::bit(32)::bigint), 0)::bigint FROM events",
    ),
    (
        "deliveries",
        "SELECT count(*), coalesce(sum((seq & 2047) + version + coalesce(octet_length(copy), 0)), 0)\
         ::bigint FROM deliveries",
    ),
    ("activity", "SELECT count(*), coalesce(sum(at % 65521 + number), 0)::bigint FROM activity"),
    ("open", "SELECT count(*), coalesce(sum(accepted_at % 65521 + entries), 0)::bigint FROM open"),
    ("entities", "SELECT count(*), coalesce(sum(octet_length(fields)), 0)::bigint FROM entities"),
];

/// What a database needs besides rows, given at the end.
pub struct Rest {
    pub documents: Vec<Document>,
    /// With the project of the pipeline.
    pub memories: Vec<(ProjectId, Remembered)>,
    pub waiting: Vec<(EventSeq, ProjectId)>,
}

impl Intake {
    /// What is counted of a table is counted from here on.
    pub fn begin_again(&mut self, table: &str) {
        self.mark.totals.remove(table);
    }

    pub async fn owed(&mut self, rows: &[(Owed, ProjectId)], place: IntakeCursor) -> Result<()> {
        let of =
            |it: &dyn Fn(&Owed) -> i64| rows.iter().map(|row| it(&row.0)).collect::<Vec<i64>>();
        let destinations: Vec<Uuid> = rows.iter().map(|it| it.0.destination.into()).collect();
        let lanes = of(&|it| lane_to_row(it.place.lane));
        let positions = of(&|it| it.place.position);
        let seqs: Vec<i64> =
            rows.iter().map(|it| delivery_to_row(self.places.delivery(it.0.seq, it.1))).collect();
        let accepted = of(&|it| micros(it.accepted_at));
        let dues: Vec<Option<i64>> = rows.iter().map(|it| it.0.standing.due.map(micros)).collect();
        let projects: Vec<Uuid> = rows.iter().map(|it| it.1.into()).collect();
        let attempts: Vec<i32> = rows.iter().map(|it| it.0.standing.attempts.into()).collect();
        let entries: Vec<i32> = rows.iter().map(|it| it.0.standing.entries.into()).collect();
        let values: Values<'_> = &[
            &destinations,
            &lanes,
            &positions,
            &seqs,
            &accepted,
            &dues,
            &projects,
            &attempts,
            &entries,
        ];
        let sum = |it: &Owed| micros(it.accepted_at) % 65521 + i64::from(it.standing.entries);
        let total = ("open", rows.len() as i64, rows.iter().map(|it| sum(&it.0)).sum());
        self.write(&[(OPEN, values)], place, &[total]).await
    }

    pub async fn entities(
        &mut self,
        rows: &[(ProjectId, String, Entity)],
        place: IntakeCursor,
    ) -> Result<()> {
        let projects: Vec<Uuid> = rows.iter().map(|it| it.0.into()).collect();
        let tables: Vec<&[u8]> = rows.iter().map(|it| it.1.as_bytes()).collect();
        let keys: Vec<&[u8]> = rows.iter().map(|it| it.2.key.as_bytes()).collect();
        let fields: Vec<&[u8]> = rows.iter().map(|it| &it.2.fields.bytes()[..]).collect();
        let times: Vec<i64> = rows.iter().map(|it| micros(it.2.updated_at)).collect();
        let sum = fields.iter().map(|it| it.len() as i64).sum();
        let values: Values<'_> = &[&projects, &tables, &keys, &fields, &times];
        self.write(&[(ENTITIES, values)], place, &[("entities", rows.len() as i64, sum)]).await
    }

    /// Keys of events that are forgotten, or erased. Of one key, the first that comes counts.
    pub async fn keys(
        &mut self,
        rows: &[(u128, EventId)],
        place: IntakeCursor,
    ) -> Result<(), IntakeError> {
        if self.erased.is_empty() {
            let sql = "SELECT id, seq FROM events WHERE digest = 0";
            for row in self.connection.query(sql, &[]).await? {
                self.erased.insert(row.try_get(0)?, row.try_get(1)?);
            }
        }
        let hashes: Vec<Uuid> = rows.iter().map(|it| Uuid(it.0)).collect();
        let ids: Vec<Uuid> = rows.iter().map(|it| it.1.into()).collect();
        // No event has the place 0.
        let seqs: Vec<i64> =
            ids.iter().map(|it| self.erased.get(it).copied().unwrap_or(0)).collect();
        self.write(&[(OLD_KEYS, &[&hashes, &ids, &seqs])], place, &[]).await?;
        let found = self.connection.query(ARE_THERE, &[&hashes]).await?;
        let found: i64 = found.first().map_or(Ok(0), |it| it.try_get(0))?;
        let given = rows.len() as i64;
        if found != given {
            let (given, found) = ((given, 0), (found, 0));
            return Err(IntakeError::Mismatch { table: "gate".to_owned(), given, found });
        }
        Ok(())
    }

    /// Compares what was given with what is there.
    pub async fn verify(&mut self, events: u64) -> Result<(), IntakeError> {
        let of_events = self.mark.totals.get("events").copied().unwrap_or_default();
        if of_events.count.unsigned_abs() != events {
            let (given, found) = ((events as i64, 0), (of_events.count, 0));
            return Err(IntakeError::Mismatch { table: "events".to_owned(), given, found });
        }
        for (table, sql) in SUMS {
            let given = self.mark.totals.get(table).copied().unwrap_or_default();
            let rows = self.connection.query(sql, &[]).await?;
            let row = rows.first().ok_or(StoreError::Damaged { what: "count" })?;
            let (given, found) = ((given.count, given.sum), (row.try_get(0)?, row.try_get(1)?));
            if given != found {
                return Err(IntakeError::Mismatch { table: table.to_owned(), given, found });
            }
        }
        Ok(())
    }

    /// Opens the database to gateways, with what was still missing, in one transaction.
    pub async fn finish(&mut self, rest: &Rest) -> Result<()> {
        let mark = Mark { is_done: true, ..self.mark.clone() };
        let value = RawJson::of(&mark);
        let kinds: Vec<&str> = rest.documents.iter().map(|it| it.kind.as_str()).collect();
        let ids: Vec<Uuid> = rest.documents.iter().map(|it| Uuid(it.id)).collect();
        let bodies: Vec<&[u8]> = rest.documents.iter().map(|it| &it.body.bytes()[..]).collect();
        let mut changes = Changes::default();
        for (project, remembered) in &rest.memories {
            changes.add(self.places.shard(*project), std::slice::from_ref(remembered));
        }
        changes.close();
        let waiting: Vec<i64> =
            rest.waiting.iter().map(|it| seq_to_row(self.places.event(it.0, it.1))).collect();
        let shards: Vec<i32> = self.places.used.iter().map(|it| i32::from(*it)).collect();
        let last = |it: &u16| seq_to_row(self.places.last(*it));
        let through = |it: &u16| seq_to_row(first_of(*it)) + self.places.through.0 as i64;
        let lasts: Vec<i64> = self.places.used.iter().map(last).collect();
        let throughs: Vec<i64> = self.places.used.iter().map(through).collect();
        let kept = changes.kept();
        let steps: [(&'static str, Values<'_>); 10] = [
            (BEGIN, &[]),
            // Nothing before it waited for the disk.
            ("SET LOCAL synchronous_commit = on", &[]),
            (DOCUMENTS, &[&kinds, &ids, &bodies]),
            (KEEP, &kept),
            (WAITING, &[&waiting]),
            (BALANCE, &[]),
            (LOGS, &[&shards, &lasts]),
            (PLANS, &[&shards, &throughs]),
            (KEEP_MARK, &[&MARK, &&value.bytes()[..]]),
            (COMMIT, &[]),
        ];
        self.connection.pipeline(&steps).await?;
        self.mark = mark;
        Ok(())
    }
}
