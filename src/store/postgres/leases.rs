//! What this node may work on. Each duty of each shard belongs to one node at a time, under a lease
//! with an epoch that grows when it changes hands. Whoever writes for a shard has the database check
//! the epoch in the same transaction, so that a node that lost a lease can write nothing, whenever it
//! finds out.

use std::{
    collections::{BTreeMap, HashMap},
    sync::RwLock,
};

use super::connect::Session;
use super::values::Uuid;
use crate::store::{Duty, Epoch, Result, Share, StoreError};

/// As `leases.kind` names it.
pub(super) fn duty_named(kind: &str) -> Option<Duty> {
    Duty::ALL.into_iter().find(|it| it.as_str() == kind)
}

/// The leases that this node holds, as far as it knows, with their epochs.
#[derive(Default)]
pub struct Leases(RwLock<HashMap<(Duty, u16), i64>>);

impl Leases {
    /// It was acquired in this epoch.
    pub fn hold(&self, duty: Duty, shard: u16, epoch: i64) {
        self.write().insert((duty, shard), epoch);
    }

    /// It was given back, or lost.
    pub fn release(&self, duty: Duty, shard: u16) {
        self.write().remove(&(duty, shard));
    }

    /// These, and only these, are ours.
    pub(super) fn know(&self, ours: impl Iterator<Item = (Share, Epoch)>) {
        let ours = ours.map(|(share, epoch)| ((share.duty, share.shard), epoch.0)).collect();
        let mut held = self.write();
        if *held != ours {
            *held = ours;
        }
    }

    pub fn holds(&self, duty: Duty, shard: u16) -> bool {
        self.read().contains_key(&(duty, shard))
    }

    /// What the database must check before it writes for these shards. [`StoreError::Fenced`]: one of
    /// them is not ours, which is known already.
    pub(super) fn claim(&self, duty: Duty, shards: impl Iterator<Item = u16>) -> Result<Claim> {
        let held = self.read();
        let mut epochs = BTreeMap::new();
        for shard in shards {
            let Some(epoch) = held.get(&(duty, shard)) else {
                fenced();
                return Err(StoreError::Fenced);
            };
            epochs.insert(i32::from(shard), *epoch);
        }
        let (shards, epochs) = epochs.into_iter().unzip();
        Ok(Claim { duty: duty.as_str(), shards, epochs })
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, HashMap<(Duty, u16), i64>> {
        self.0.read().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, HashMap<(Duty, u16), i64>> {
        self.0.write().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// A write was refused since its lease was lost.
pub(super) fn fenced() {
    metrics::counter!("tidegate_store_fenced_total").increment(1);
}

/// Leases that a transaction depends on, in the order in which they are locked.
pub(super) struct Claim {
    pub duty: &'static str,
    pub shards: Vec<i32>,
    pub epochs: Vec<i64>,
}

/// The first statement of a transaction that depends on a claim.
pub(super) const CHECK: &str = "SELECT check_leases($1, $2, $3)";

/// Takes every lease for one node, whoever holds them: for a tool that must be alone, and for tests.
/// Whoever still runs is fenced from now on.
pub(super) async fn take_all(
    connection: &mut Session,
    node: u128,
) -> Result<Vec<(Duty, u16, i64)>> {
    let sql = "UPDATE leases SET node = $1, epoch = epoch + 1, expires_at = 'infinity' \
               WHERE kind = $2 RETURNING shard, epoch";
    let mut taken = Vec::new();
    for duty in Duty::ALL {
        for row in connection.query(sql, &[&Uuid(node), &duty.as_str()]).await? {
            let shard: i32 = row.try_get(0)?;
            taken.push((duty, shard as u16, row.try_get(1)?));
        }
    }
    Ok(taken)
}
