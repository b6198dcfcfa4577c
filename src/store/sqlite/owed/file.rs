//! `owed.db`: reading it, and bringing changes into it.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::{OwedRow, Pending, Pendings, lane_from_sql, lane_to_sql};
use crate::{
    model::{DeliverySeq, Lane, Place},
    store::{
        Result,
        sqlite::{
            folder::{
                facts::{fact, set_fact},
                files::{self, Kind, Sync},
            },
            lock,
        },
    },
};

const COLUMNS: &str = "destination, lane, position, seq, attempts, entries, due, accepted_at";

/// The file, as its readers hold it.
#[derive(Clone)]
pub(in crate::store::sqlite) struct OwedFile {
    path: PathBuf,
    idle: Arc<Mutex<Vec<Connection>>>,
}

impl OwedFile {
    /// Of a file that exists.
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, idle: Arc::default() }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn open_writer(&self) -> Result<Connection> {
        files::open_writer(&self.path, Kind::Owed, Sync::Derived, 8 << 20)
    }

    pub(super) fn read<T>(&self, read: impl FnOnce(&Connection) -> Result<T>) -> Result<T> {
        /// Connections that are kept; more may be in use at once.
        const IDLE: usize = 4;
        let kept = lock(&self.idle).pop();
        let connection = match kept {
            Some(connection) => connection,
            None => files::open_reader(&self.path, false)?,
        };
        let result = read(&connection).inspect_err(|it| self.condemn(it))?;
        let mut idle = lock(&self.idle);
        if idle.len() < IDLE {
            idle.push(connection);
        }
        Ok(result)
    }

    /// Of `owed`, seq, destination and place count.
    pub(super) fn find(&self, owed: &OwedRow) -> Result<Option<OwedRow>> {
        let sql = format!(
            "SELECT {COLUMNS} FROM owed \
             WHERE destination = ? AND lane = ? AND position = ? AND seq = ?"
        );
        let place = (
            owed.destination,
            lane_to_sql(owed.place.lane),
            owed.place.position,
            owed.seq.bits() as i64,
        );
        self.read(|it| Ok(it.prepare_cached(&sql)?.query_row(place, row).optional()?))
    }

    /// Those of these that are owed. Of each, seq, destination and place count.
    pub fn these(&self, wanted: &[OwedRow]) -> Result<Vec<OwedRow>> {
        let found = wanted.iter().map(|it| self.find(it));
        found.filter_map(Result::transpose).collect()
    }

    /// See [`crate::store::OwedQuery::Line`].
    pub fn line(
        &self,
        destination: i64,
        after: Option<(Place, DeliverySeq)>,
        per_lane: usize,
        limit: usize,
    ) -> Result<Vec<OwedRow>> {
        let sql = format!(
            "SELECT {COLUMNS} FROM owed \
             WHERE destination = ?1 AND (lane, position, seq) > (?2, ?3, ?4) \
             ORDER BY lane, position, seq"
        );
        self.read(|connection| {
            let mut statement = connection.prepare_cached(&sql)?;
            let mut found: Vec<OwedRow> = Vec::new();
            let mut after = after.map_or((i64::MIN, i64::MIN, -1), |(place, seq)| {
                (lane_to_sql(place.lane), place.position, seq.bits() as i64)
            });
            // Each round begins behind a lane of which there was enough.
            'lanes: while found.len() < limit {
                let mut rows = statement.query(params![destination, after.0, after.1, after.2])?;
                let mut of_lane = (None, 0);
                while let Some(next) = rows.next()? {
                    let next = row(next)?;
                    if of_lane.0 != Some(next.place.lane) {
                        of_lane = (Some(next.place.lane), 0);
                    }
                    if next.place.lane != Lane::NONE && of_lane.1 >= per_lane {
                        after = (lane_to_sql(next.place.lane), i64::MAX, i64::MAX);
                        continue 'lanes;
                    }
                    of_lane.1 += 1;
                    found.push(next);
                    if found.len() >= limit {
                        break;
                    }
                }
                break;
            }
            Ok(found)
        })
    }

    /// See [`crate::store::OwedQuery::Due`].
    pub fn due(&self, destination: i64, until: i64, limit: usize) -> Result<Vec<OwedRow>> {
        let sql = format!(
            "SELECT {COLUMNS} FROM owed WHERE destination = ? AND due <= ? \
             ORDER BY due, lane, position, seq LIMIT ?"
        );
        self.read(|connection| {
            let mut statement = connection.prepare_cached(&sql)?;
            let limit = i64::try_from(limit).unwrap_or(i64::MAX);
            let rows = statement.query_map((destination, until, limit), row)?;
            Ok(rows.collect::<Result<_, _>>()?)
        })
    }

    /// See [`crate::store::OwedQuery::First`]. A long lane is not read to its end.
    pub fn first(&self, destination: i64) -> Result<Option<OwedRow>> {
        /// So many are passed before it is quicker to look for the next lane.
        const FEW: usize = 16;
        let sql = format!(
            "SELECT {COLUMNS} FROM owed WHERE destination = ? AND lane > ? \
             ORDER BY lane, position, seq"
        );
        self.read(|connection| {
            let snapshot = connection.unchecked_transaction()?;
            let mut statement = snapshot.prepare_cached(&sql)?;
            let mut first: Option<OwedRow> = None;
            let mut lane = Lane::NONE;
            'lanes: loop {
                let mut rows = statement.query((destination, lane_to_sql(lane)))?;
                let mut passed = 0;
                while let Some(next) = rows.next()? {
                    let next = row(next)?;
                    if next.place.lane == lane {
                        passed += 1;
                        if passed >= FEW {
                            continue 'lanes;
                        }
                        continue;
                    }
                    (lane, passed) = (next.place.lane, 0);
                    if first.is_none_or(|it| next.place.position < it.place.position) {
                        first = Some(next);
                    }
                }
                return Ok(first);
            }
        })
    }

    /// How many each destination is owed, and when the oldest was accepted.
    pub fn backlog(&self) -> Result<Vec<(i64, u64, i64)>> {
        self.read(|connection| {
            let mut statement = connection.prepare_cached(
                "SELECT destination, count(*), min(accepted_at) FROM owed GROUP BY destination",
            )?;
            let rows = statement.query_map([], |row| {
                Ok((row.get(0)?, row.get::<_, i64>(1)? as u64, row.get(2)?))
            })?;
            Ok(rows.collect::<Result<_, _>>()?)
        })
    }
}

fn row(row: &Row<'_>) -> rusqlite::Result<OwedRow> {
    Ok(OwedRow {
        destination: row.get(0)?,
        place: Place { lane: lane_from_sql(row.get(1)?), position: row.get(2)? },
        seq: DeliverySeq::from_bits(row.get::<_, i64>(3)? as u64),
        attempts: row.get(4)?,
        entries: row.get(5)?,
        due: row.get(6)?,
        accepted_at: row.get(7)?,
    })
}

/// Brings changes into the file, which then has all up to the redo row `through`.
pub(super) fn apply(connection: &mut Connection, changes: &Pendings, through: u64) -> Result<()> {
    let mut sorted: Vec<&Pending> = changes.values().collect();
    // In the order of the table, so that neighbours share a page.
    sorted.sort_unstable_by_key(|it| {
        let row = it.row();
        (row.destination, row.place.lane, row.place.position, row.seq)
    });
    let transaction = connection.transaction()?;
    {
        let mut put = transaction.prepare_cached(&insert_sql())?;
        let mut delete = transaction.prepare_cached(
            "DELETE FROM owed WHERE destination = ? AND lane = ? AND position = ? AND seq = ?",
        )?;
        for pending in sorted {
            match pending {
                Pending::Insert(row) | Pending::Update(row) => put_row(&mut put, row)?,
                Pending::Delete(row) => {
                    let lane = lane_to_sql(row.place.lane);
                    let seq = row.seq.bits() as i64;
                    delete.execute((row.destination, lane, row.place.position, seq))?;
                }
            }
        }
        set_fact(&transaction, "applied", through as i64)?;
    }
    Ok(transaction.commit()?)
}

pub(super) fn insert_sql() -> String {
    format!("INSERT OR REPLACE INTO owed ({COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)")
}

pub(super) fn put_row(statement: &mut rusqlite::Statement<'_>, row: &OwedRow) -> Result<()> {
    statement.execute((
        row.destination,
        lane_to_sql(row.place.lane),
        row.place.position,
        row.seq.bits() as i64,
        row.attempts,
        row.entries,
        row.due,
        row.accepted_at,
    ))?;
    Ok(())
}

/// The last redo row that the file has; `None` when it was never filled.
pub(super) fn applied(connection: &Connection) -> Result<Option<u64>> {
    Ok(fact(connection, "applied")?.map(|it| it as u64))
}

/// Syncs what was committed so far. Says whether all of it is on disk now; a reader that stands in
/// the way is a reason to try again later.
pub(super) fn checkpoint(connection: &Connection) -> Result<bool> {
    let (is_busy, log, done): (bool, i64, i64) =
        connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?))
        })?;
    Ok(!is_busy && log == done)
}

impl Pending {
    fn row(&self) -> &OwedRow {
        match self {
            Self::Insert(row) | Self::Update(row) | Self::Delete(row) => row,
        }
    }
}
