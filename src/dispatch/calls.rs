//! What the dispatcher asks of the store, again and again until it is done.

use std::{collections::BTreeMap, time::Duration};

use tokio::sync::mpsc;

use super::{hands::Report, later};
use crate::{
    catalog::{Edit, Registrar, Resource},
    clock::Clock,
    model::{DeliverySeq, DestinationId, DestinationState, Owed},
    store::{Settlement, Store, StoreError},
};

/// Offers settlements to the store until it takes them, refuses them, or is closed.
pub async fn settle(
    store: &dyn Store,
    clock: &dyn Clock,
    settlements: Vec<Settlement>,
    patience: Duration,
    reports: &mpsc::UnboundedSender<Report>,
) {
    let report = match offer(store, clock, &settlements, patience).await {
        Offered::Taken => Report::Settled(names(&settlements)),
        Offered::Closed => Report::Closed,
        // Some of them may still be ours.
        Offered::Refused => {
            let mut by_destination: BTreeMap<DestinationId, Vec<Settlement>> = BTreeMap::new();
            for it in settlements {
                by_destination.entry(it.owed.destination).or_default().push(it);
            }
            let (mut settled, mut refused) = (Vec::new(), Vec::new());
            for settlements in by_destination.into_values() {
                match offer(store, clock, &settlements, patience).await {
                    Offered::Taken => settled.extend(names(&settlements)),
                    Offered::Refused => refused.extend(names(&settlements)),
                    Offered::Closed => {
                        let _ = reports.send(Report::Closed);
                        return;
                    }
                }
            }
            Report::Refused { settled, refused }
        }
    };
    let _ = reports.send(report);
}

enum Offered {
    Taken,
    /// Another node works for one of the destinations.
    Refused,
    Closed,
}

async fn offer(
    store: &dyn Store,
    clock: &dyn Clock,
    settlements: &[Settlement],
    patience: Duration,
) -> Offered {
    loop {
        match store.settle(settlements.to_vec()).await {
            Ok(()) => return Offered::Taken,
            Err(StoreError::Closed) => return Offered::Closed,
            Err(StoreError::Fenced) => return Offered::Refused,
            Err(error) => warn(&error, "what came of attempts is not on disk yet"),
        }
        clock.sleep_until(later(clock.now(), patience)).await;
    }
}

fn names(settlements: &[Settlement]) -> Vec<(DestinationId, DeliverySeq)> {
    settlements.iter().map(|it| (it.owed.destination, it.owed.seq)).collect()
}

/// Asks the store for messages until it answers, or is closed.
pub async fn load(
    store: &dyn Store,
    clock: &dyn Clock,
    wanted: Vec<Owed>,
    patience: Duration,
    reports: &mpsc::UnboundedSender<Report>,
) {
    let seqs: Vec<DeliverySeq> = wanted.iter().map(|it| it.seq).collect();
    loop {
        match store.messages(&seqs).await {
            Ok(messages) => {
                let _ = reports.send(Report::Loaded { wanted, messages });
                return;
            }
            Err(StoreError::Closed) => {
                let _ = reports.send(Report::Closed);
                return;
            }
            Err(error) => warn(&error, "cannot read what is to be sent"),
        }
        clock.sleep_until(later(clock.now(), patience)).await;
    }
}

pub async fn disable(
    registrar: &Registrar,
    clock: &dyn Clock,
    id: DestinationId,
    version: u32,
    reason: &str,
) -> Result<(), StoreError> {
    let since = clock.now();
    registrar
        .edit(|catalog| {
            let found = catalog
                .destinations
                .get(&id)
                .filter(|it| it.version == version && it.state == DestinationState::Active);
            let edits = found.map(|it| {
                let mut destination = crate::model::Destination::clone(it);
                destination.version += 1;
                let reason = reason.to_owned();
                destination.state = DestinationState::Disabled { since, reason };
                Edit::Put(Resource::Destination(destination))
            });
            Ok((edits.into_iter().collect(), ()))
        })
        .await
}

pub fn warn(error: &StoreError, what: &'static str) {
    tracing::warn!(error = error as &dyn std::error::Error, "{what}");
}
