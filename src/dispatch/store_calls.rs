//! What the dispatcher asks of the store, again and again until it is done.

use std::{collections::BTreeMap, time::Duration};

use tokio::sync::mpsc;

use super::{executor::Completion, later};
use crate::{
    catalog::{CatalogWriter, Edit, Resource},
    clock::Clock,
    model::{DeliverySeq, DestinationId, DestinationState, Owed},
    store::{Settlement, Store, StoreError},
};

/// Offers settlements to the store until it takes them, refuses them, or is closed.
pub async fn settle(
    store: &dyn Store,
    clock: &dyn Clock,
    settlements: Vec<Settlement>,
    timeout: Duration,
    reports: &mpsc::UnboundedSender<Completion>,
) {
    let report = match offer(store, clock, &settlements, timeout).await {
        HandedOver::Taken => Completion::Settled(names(&settlements)),
        HandedOver::Closed => Completion::Closed,
        // Some of them may still be ours.
        HandedOver::Refused => {
            let mut by_destination: BTreeMap<DestinationId, Vec<Settlement>> = BTreeMap::new();
            for it in settlements {
                by_destination.entry(it.owed.destination).or_default().push(it);
            }
            let (mut settled, mut refused) = (Vec::new(), Vec::new());
            for settlements in by_destination.into_values() {
                match offer(store, clock, &settlements, timeout).await {
                    HandedOver::Taken => settled.extend(names(&settlements)),
                    HandedOver::Refused => refused.extend(names(&settlements)),
                    HandedOver::Closed => {
                        let _ = reports.send(Completion::Closed);
                        return;
                    }
                }
            }
            Completion::Refused { settled, refused }
        }
    };
    let _ = reports.send(report);
}

enum HandedOver {
    Taken,
    /// Another node works for one of the destinations.
    Refused,
    Closed,
}

async fn offer(
    store: &dyn Store,
    clock: &dyn Clock,
    settlements: &[Settlement],
    timeout: Duration,
) -> HandedOver {
    loop {
        match store.settle(settlements.to_vec()).await {
            Ok(()) => return HandedOver::Taken,
            Err(StoreError::Closed) => return HandedOver::Closed,
            Err(StoreError::Fenced) => return HandedOver::Refused,
            Err(error) => warn(&error, "what came of attempts is not on disk yet"),
        }
        clock.sleep_until(later(clock.now(), timeout)).await;
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
    timeout: Duration,
    reports: &mpsc::UnboundedSender<Completion>,
) {
    let seqs: Vec<DeliverySeq> = wanted.iter().map(|it| it.seq).collect();
    loop {
        match store.messages(&seqs).await {
            Ok(messages) => {
                let _ = reports.send(Completion::Loaded { wanted, messages });
                return;
            }
            Err(StoreError::Closed) => {
                let _ = reports.send(Completion::Closed);
                return;
            }
            Err(error) => warn(&error, "cannot read what is to be sent"),
        }
        clock.sleep_until(later(clock.now(), timeout)).await;
    }
}

pub async fn disable(
    catalog_writer: &CatalogWriter,
    clock: &dyn Clock,
    id: DestinationId,
    version: u32,
    reason: &str,
) -> Result<(), StoreError> {
    let since = clock.now();
    catalog_writer
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
