//! Who takes part: nodes that say now and then that they live, and the shares that they hold. All times
//! are the database's.
//!
//! A lease lasts as long as its node: so to live costs one row a beat, whatever a node holds, and the
//! row of a lease is written only when it changes hands. Writers lock it until their commit, so that
//! it cannot change hands in between.

use std::time::Duration;

use jiff::Timestamp;
use tokio_postgres::Row;

use super::{
    PostgresStore,
    connect::{BEGIN, COMMIT, Session, Values},
    core::setting,
    leases::duty_named,
    values::{self, Uuid, event_of_row},
};
use crate::store::{
    ClusterSnapshot, Duty, Epoch, Lease, Member, MemberId, PlanProgress, Result, Role, Share,
    StoreError,
};

/// A row that is made again, since another node took this one's place, has the time of its first start.
const BEAT: &str = "INSERT INTO nodes (id, name, roles, address, version, seen_at, alive_until, started_at) \
     VALUES ($1, $2, $3, $4, $5, clock_timestamp(), clock_timestamp() + $6 * interval '1 ms', \
     CASE WHEN $7::float8 > 0 THEN 'epoch'::timestamptz + $7 * interval '1 us' ELSE clock_timestamp() END) \
     ON CONFLICT (id) DO UPDATE SET roles = excluded.roles, seen_at = excluded.seen_at, \
     alive_until = excluded.alive_until";
const NODES: &str = "SELECT id, name, roles, coalesce(address, ''), \
     (extract(epoch FROM started_at) * 1000000)::bigint, \
     (extract(epoch FROM seen_at) * 1000000)::bigint, \
     (extract(epoch FROM clock_timestamp()) * 1000000)::bigint \
     FROM nodes WHERE alive_until > clock_timestamp() ORDER BY id";
const LEASES: &str = "SELECT kind, shard, node, epoch FROM leases ORDER BY kind, shard";
const LOGS: &str = "SELECT l.shard, l.last, p.through FROM logs l JOIN plans p ON p.shard = l.shard \
     ORDER BY l.shard";
const REVISION: &str = "SELECT revision FROM resources";
/// One that is locked by a writer is left for the next time: it must not hold up the others.
const CLAIM: &str = "WITH free AS (SELECT l.kind, l.shard FROM leases l \
     JOIN unnest($2::text[], $3::int[]) AS w (kind, shard) \
     ON l.kind = w.kind AND l.shard = w.shard \
     WHERE l.node IS NULL OR NOT EXISTS (SELECT 1 FROM nodes n \
     WHERE n.id = l.node AND n.alive_until > clock_timestamp()) \
     ORDER BY l.kind, l.shard FOR UPDATE OF l SKIP LOCKED) \
     UPDATE leases l SET node = $1, epoch = l.epoch + 1 FROM free \
     WHERE l.kind = free.kind AND l.shard = free.shard RETURNING l.kind, l.shard, l.epoch";
const GIVE_BACK: &str = "UPDATE leases l SET node = NULL \
     FROM unnest($2::text[], $3::int[], $4::bigint[]) AS w (kind, shard, epoch) \
     WHERE l.node = $1 AND l.kind = w.kind AND l.shard = w.shard AND l.epoch = w.epoch";
const LEAVE: &str = "UPDATE leases SET node = NULL WHERE node = $1";
const END: &str = "DELETE FROM nodes WHERE id = $1";
/// A process of this name that is not ours has ended, since we were started in its place.
const SUCCEED: &str = "DELETE FROM nodes WHERE name = $1 AND id <> $2";
/// Others of this name that live, as far as the database knows, the last that was heard of first.
const NAMESAKES: &str = "SELECT id, coalesce(address, ''), cardinality(roles) > 0, \
     (extract(epoch FROM seen_at) * 1000000)::bigint FROM nodes \
     WHERE name = $1 AND id <> $2 AND alive_until > clock_timestamp() ORDER BY seen_at DESC";
/// Those that ended without a word long ago.
const TIDY: &str = "DELETE FROM nodes WHERE alive_until < clock_timestamp() - interval '1 hour'";

/// Another node of the same name.
#[derive(Clone, Debug, PartialEq)]
pub struct Namesake {
    pub id: MemberId,
    pub address: String,
    /// It has not said that it is ending.
    pub works: bool,
    /// In microseconds, by the database's clock.
    pub seen_at: i64,
}

impl PostgresStore {
    /// What all nodes must agree on: the value that the first one gave.
    pub async fn agreed(&self, name: &str, first: &[u8]) -> Result<Vec<u8>> {
        let mut loan = self.core.session().await?;
        setting(loan.session()?, name, first).await
    }

    /// The same, if there is one already.
    pub async fn agreed_before(&self, name: &str) -> Result<Option<Vec<u8>>> {
        let mut loan = self.core.session().await?;
        let rows =
            loan.session()?.query("SELECT value FROM meta WHERE name = $1", &[&name]).await?;
        Ok(rows.first().map(|it| it.try_get(0)).transpose()?)
    }

    /// Says that a node lives, which renews what it holds, and tells who else does.
    pub async fn beat(&self, me: &Member, lease: Duration) -> Result<ClusterSnapshot> {
        let mut loan = self.core.session().await?;
        let session = loan.session()?;
        let roles: Vec<&str> = me.roles.iter().map(|it| it.as_str()).collect();
        let (id, version) = (Uuid(me.id.0), env!("CARGO_PKG_VERSION"));
        let lease = i64::try_from(lease.as_millis()).unwrap_or(i64::MAX >> 20) as f64;
        let started = me.started_at.as_microsecond() as f64;
        let values: Values<'_> = &[&id, &me.name, &roles, &me.address, &version, &lease, &started];
        let steps: [(&'static str, Values<'_>); 5] =
            [(BEAT, values), (NODES, &[]), (LEASES, &[]), (LOGS, &[]), (REVISION, &[])];
        let found = session.pipeline(&steps).await?;
        let [_, nodes, leases, logs, revision] = &found[..] else {
            return Err(StoreError::Closed);
        };
        let mut view = ClusterSnapshot::default();
        for row in nodes {
            view.members.push(member(row)?);
            view.at = time(row, 6)?;
        }
        for row in leases {
            view.leases.extend(lease_of(row)?);
        }
        for row in logs {
            let (last, planned) = (row.try_get(1)?, row.try_get(2)?);
            let (last, planned) = (event_of_row(last), event_of_row(planned));
            view.logs.push(PlanProgress { last, planned });
        }
        for row in revision {
            let revision: i64 = row.try_get(0)?;
            view.resources = revision as u64;
        }
        let is_ours = |it: &&Lease| it.holder == Some(me.id);
        let ours = view.leases.iter().filter(is_ours).map(|it| (it.share, it.epoch));
        self.core.leases.know(ours);
        // A lease of a node that does not live is nobody's.
        let ClusterSnapshot { members, leases, .. } = &mut view;
        for lease in leases {
            lease.holder = lease.holder.filter(|it| members.iter().any(|other| other.id == *it));
        }
        Ok(view)
    }

    /// Another node of this name of which something was heard lately.
    pub async fn namesake(&self, me: &Member) -> Result<Option<Namesake>> {
        let mut loan = self.core.session().await?;
        let rows = loan.session()?.query(NAMESAKES, &[&me.name, &Uuid(me.id.0)]).await?;
        let Some(row) = rows.first() else { return Ok(None) };
        Ok(Some(Namesake {
            id: MemberId(row.try_get::<_, Uuid>(0)?.0),
            address: row.try_get(1)?,
            works: row.try_get(2)?,
            seen_at: row.try_get(3)?,
        }))
    }

    /// Takes over what a process of the same name left that has ended, and forgets who ended long ago.
    pub async fn succeed(&self, me: &Member) -> Result<()> {
        let mut loan = self.core.session().await?;
        let session = loan.session()?;
        session.execute(SUCCEED, &[&me.name, &Uuid(me.id.0)]).await?;
        session.execute(TIDY, &[]).await?;
        Ok(())
    }

    /// Takes shares that nobody holds, each with a new epoch; those that others were quicker to take
    /// are missing from the answer.
    pub async fn claim(&self, me: MemberId, shares: &[Share]) -> Result<Vec<(Share, Epoch)>> {
        let (kinds, numbers) = columns(shares.iter());
        let mut loan = self.core.session().await?;
        let session = loan.session()?;
        let values: Values<'_> = &[&Uuid(me.0), &kinds, &numbers];
        let rows = in_transaction(session, CLAIM, values).await?;
        let mut claimed = Vec::new();
        for row in &rows {
            let epoch = Epoch(row.try_get(2)?);
            if let Some(share) = share_of(row)? {
                self.core.leases.hold(share.duty, share.shard, epoch.0);
                claimed.push((share, epoch));
            }
        }
        Ok(claimed)
    }

    /// Gives shares back. Those that it does not hold any more are passed over.
    pub async fn give_back(&self, me: MemberId, shares: &[(Share, Epoch)]) -> Result<()> {
        let (kinds, numbers) = columns(shares.iter().map(|it| &it.0));
        let epochs: Vec<i64> = shares.iter().map(|it| it.1.0).collect();
        for (share, _) in shares {
            self.core.leases.release(share.duty, share.shard);
        }
        let mut loan = self.core.session().await?;
        let session = loan.session()?;
        let values: Values<'_> = &[&Uuid(me.0), &kinds, &numbers, &epochs];
        in_transaction(session, GIVE_BACK, values).await.map(drop)
    }

    /// Says that a node has ended, with whatever it held.
    pub async fn leave(&self, me: MemberId) -> Result<()> {
        self.core.leases.know(std::iter::empty());
        let mut loan = self.core.session().await?;
        let session = loan.session()?;
        session.execute(LEAVE, &[&Uuid(me.0)]).await?;
        session.execute(END, &[&Uuid(me.0)]).await?;
        Ok(())
    }
}

async fn in_transaction(
    session: &mut Session,
    sql: &'static str,
    values: Values<'_>,
) -> Result<Vec<Row>> {
    let found = session.pipeline(&[(BEGIN, &[]), (sql, values), (COMMIT, &[])]).await;
    if found.is_err() {
        session.roll_back().await;
    }
    Ok(found?.into_iter().nth(1).unwrap_or_default())
}

fn columns<'a>(shares: impl Iterator<Item = &'a Share>) -> (Vec<&'static str>, Vec<i32>) {
    shares.map(|it| (it.duty.as_str(), i32::from(it.shard))).unzip()
}

fn member(row: &Row) -> Result<Member> {
    let roles: Vec<String> = row.try_get(2)?;
    Ok(Member {
        id: MemberId(row.try_get::<_, Uuid>(0)?.0),
        name: row.try_get(1)?,
        // What a newer program does is no concern of ours.
        roles: roles.iter().filter_map(|it| it.parse::<Role>().ok()).collect(),
        address: row.try_get(3)?,
        started_at: time(row, 4)?,
        seen_at: time(row, 5)?,
    })
}

fn time(row: &Row, column: usize) -> Result<Timestamp> {
    values::time(row.try_get(column)?)
}

/// `None`: a duty that only a newer program knows.
fn share_of(row: &Row) -> Result<Option<Share>> {
    let (kind, shard): (&str, i32) = (row.try_get(0)?, row.try_get(1)?);
    let duty: Option<Duty> = duty_named(kind);
    Ok(duty.map(|duty| Share { duty, shard: shard as u16 }))
}

fn lease_of(row: &Row) -> Result<Option<Lease>> {
    let holder: Option<Uuid> = row.try_get(2)?;
    let (holder, epoch) = (holder.map(|it| MemberId(it.0)), Epoch(row.try_get(3)?));
    Ok(share_of(row)?.map(|share| Lease { share, holder, epoch }))
}
