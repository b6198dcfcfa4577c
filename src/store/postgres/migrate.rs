//! The schema: versions that are applied once each, whoever comes first.
//!
//! A version only adds. So a program of the version before goes on working beside it, and nodes can
//! be exchanged one after the other. What a later version needs to take away, it takes away when no
//! node can know it any more; then it says in `compatible` which programs may still come.

use super::{connect::Session, error::is_worth_another_try};
use crate::store::{Result, StoreError};

/// Each with the oldest version that a program must know to work with a database that has it.
const VERSIONS: &[(i32, &str)] = &[
    (1, include_str!("migrations/0001.sql")),
    // A program of version 1 takes every lease when it starts.
    (2, include_str!("migrations/0002.sql")),
];

/// What this program knows.
pub(super) const KNOWN: i32 = VERSIONS.len() as i32;

const TABLE: &str = "CREATE TABLE IF NOT EXISTS schema_versions (
    version int PRIMARY KEY,
    compatible int NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT clock_timestamp())";

/// Brings the schema up to date. Nodes that start at the same time take turns. What a crash
/// interrupts is not there.
pub(super) async fn migrate(connection: &mut Session) -> Result<()> {
    if let Some(found) = version(connection).await?
        && is_fit(found)?
    {
        return Ok(());
    }
    let mut tries = 1;
    loop {
        connection.begin().await?;
        let done = migrate_in(connection).await;
        match done {
            Ok(()) => return connection.commit().await,
            Err(error) => {
                connection.roll_back().await;
                // Those who work meanwhile may have locked in another order.
                if !is_worth_another_try(&error, tries) {
                    return Err(error);
                }
                tries += 1;
            }
        }
    }
}

async fn migrate_in(connection: &mut Session) -> Result<()> {
    // Another node may take a while; it is waited for.
    let wait = "SET LOCAL lock_timeout = 0; SET LOCAL statement_timeout = 0; \
                SELECT pg_advisory_xact_lock(7234003, 0)";
    connection.client.batch_execute(wait).await?;
    connection.client.batch_execute(TABLE).await?;
    let found = version(connection).await?.unwrap_or((0, 0));
    if is_fit(found)? {
        return Ok(());
    }
    for (version, (compatible, sql)) in (1_i32..).zip(VERSIONS) {
        if version <= found.0 {
            continue;
        }
        connection.client.batch_execute(sql).await?;
        let sql = "INSERT INTO schema_versions (version, compatible) VALUES ($1, $2)";
        connection.execute(sql, &[&version, compatible]).await?;
        tracing::info!(version, "the database has a new schema version");
    }
    Ok(())
}

/// The newest version, and the one that a program must know. `None`: there is no schema yet.
async fn version(connection: &mut Session) -> Result<Option<(i32, i32)>> {
    let sql = "SELECT to_regclass('schema_versions') IS NOT NULL";
    let is_there: bool = connection.client.query_one(sql, &[]).await?.get(0);
    if !is_there {
        return Ok(None);
    }
    let sql = "SELECT max(version), max(compatible) FROM schema_versions";
    let row = connection.client.query_one(sql, &[]).await?;
    let (version, compatible): (Option<i32>, Option<i32>) = (row.try_get(0)?, row.try_get(1)?);
    Ok(version.zip(compatible))
}

/// Whether a program that knows [`KNOWN`] can begin at once. An error: it must not begin at all.
fn is_fit((version, compatible): (i32, i32)) -> Result<bool> {
    if compatible > KNOWN {
        let [found, known] = [version, KNOWN].map(i32::unsigned_abs);
        return Err(StoreError::Newer { found, known });
    }
    Ok(version >= KNOWN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_newer_schema_is_taken_when_it_says_that_it_only_adds() {
        assert!(is_fit((KNOWN, KNOWN)).unwrap());
        assert!(is_fit((KNOWN + 1, KNOWN)).unwrap());
        assert!(!is_fit((KNOWN - 1, 0)).unwrap());
        assert!(is_fit((KNOWN + 1, KNOWN + 1)).is_err());
    }
}
