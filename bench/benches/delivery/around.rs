//! What stands around the loops: a store that answers at once, and a destination that accepts everything.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use jiff::Timestamp;
use tidegate::{
    destinations::{DestinationClient, Outlets},
    model::{
        Class, DeliverySeq, DestinationId, Event, EventSeq, Lane, Message, NewEvent, Outcome, Owed,
        Place, Plan, ProjectId, Remembered, Standing,
    },
    store::{
        Appended, Backlog, Health, OwedQuery, Recording, ReplayStep, Settlement, Store,
        WaitingEvent,
    },
};
use tokio::sync::mpsc;

pub fn owed(event: &Event, destination: DestinationId) -> Owed {
    Owed {
        seq: DeliverySeq::new(event.seq, 0),
        destination,
        place: Place { lane: Lane::NONE, position: 0 },
        accepted_at: event.received_at,
        standing: Standing::NEW,
    }
}

/// Every delivery goes there.
pub struct AtOnce(pub Arc<dyn DestinationClient>);

impl Outlets for AtOnce {
    fn get(&self, _: DestinationId) -> Option<Arc<dyn DestinationClient>> {
        Some(self.0.clone())
    }
}

pub struct Accepts;

#[async_trait]
impl DestinationClient for Accepts {
    fn kind(&self) -> &'static str {
        "webhook"
    }

    async fn send(&self, _: &[Message], _: Timestamp) -> Outcome {
        Outcome {
            class: Class::Accepted,
            status: Some(200),
            reason: "200 OK".into(),
            retry_after: None,
            duration: Duration::from_millis(1),
            response: None,
        }
    }
}

/// A store that answers when others had their turn, and keeps nothing.
pub struct Instantly {
    /// How many were settled, at each call.
    pub settle: mpsc::UnboundedSender<usize>,
}

type Stored<T> = tidegate::store::Result<T>;

#[async_trait]
impl Store for Instantly {
    async fn append(&self, _: Vec<NewEvent>) -> Stored<Vec<Appended>> {
        Ok(Vec::new())
    }

    async fn unplanned(&self, _: EventSeq, _: usize) -> Stored<Vec<Arc<Event>>> {
        Ok(Vec::new())
    }

    async fn plan(&self, plans: Vec<Plan>) -> Stored<Vec<Owed>> {
        tokio::task::yield_now().await;
        let owed_of =
            |plan: &Plan| plan.deliveries.first().map(|it| owed(&plan.event, it.destination));
        Ok(plans.iter().filter_map(owed_of).collect())
    }

    async fn waiting(&self, _: EventSeq, _: usize) -> Stored<Vec<WaitingEvent>> {
        Ok(Vec::new())
    }

    async fn memories(&self) -> Stored<Vec<Remembered>> {
        Ok(Vec::new())
    }

    async fn remember(&self, _: Vec<Remembered>) -> Stored<()> {
        Ok(())
    }

    async fn record(&self, _: Recording) -> Stored<Arc<Event>> {
        Err(tidegate::store::StoreError::Closed)
    }

    async fn settle(&self, settlements: Vec<Settlement>) -> Stored<()> {
        tokio::task::yield_now().await;
        let _ = self.settle.send(settlements.len());
        Ok(())
    }

    async fn owed(&self, _: OwedQuery) -> Stored<Vec<Owed>> {
        Ok(Vec::new())
    }

    async fn backlog(&self) -> Stored<Vec<Backlog>> {
        Ok(Vec::new())
    }

    async fn messages(&self, _: &[DeliverySeq]) -> Stored<Vec<Message>> {
        Ok(Vec::new())
    }

    async fn replay(&self, _: ReplayStep) -> Stored<Vec<Owed>> {
        Ok(Vec::new())
    }

    async fn prune(&self, _: &[(ProjectId, Timestamp)]) -> Stored<u64> {
        Ok(0)
    }

    fn health(&self) -> Health {
        Health::default()
    }

    async fn close(&self) {}
}
