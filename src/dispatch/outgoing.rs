//! What is on its way at this moment, and what may not go out any more.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::{
    catalog::{Catalog, CatalogDerived},
    model::{DeliverySeq, Event, Forgotten, IdMap, Message, Person, ProjectId, SourceId},
};

/// Every message passes here before it goes out. It is noted first and looked at then; so whoever keeps a
/// deletion first and counts then either finds a message here or knows that it was held back.
pub struct Outgoing {
    forgotten: CatalogDerived<Forgotten>,
    under_way: Mutex<IdMap<DeliverySeq, Arc<Event>>>,
}

impl Outgoing {
    pub fn new(catalog: watch::Receiver<Arc<Catalog>>) -> Self {
        let forgotten = CatalogDerived::new(catalog, |it, _| {
            Forgotten::of(it.deletions.values().map(AsRef::as_ref))
        });
        Self { forgotten, under_way: Mutex::default() }
    }

    /// Whether a message may go out; it does so now, until [`Self::ended`].
    pub fn begin_one(&self, message: &Message) -> bool {
        self.lock().insert(message.seq, message.event.clone());
        let is_free = !self.forgotten.get().forbids(&message.event);
        if !is_free {
            self.lock().remove(&message.seq);
        }
        is_free
    }

    /// Parts messages into those that go out now, until [`Self::ended`], and those that must not.
    pub fn begin(&self, messages: Vec<Message>) -> (Vec<Message>, Vec<Message>) {
        {
            let mut under_way = self.lock();
            for it in &messages {
                under_way.insert(it.seq, it.event.clone());
            }
        }
        let forgotten = self.forgotten.get();
        let (held, free): (Vec<_>, Vec<_>) =
            messages.into_iter().partition(|it| forgotten.forbids(&it.event));
        self.ended(&held);
        (free, held)
    }

    pub fn ended(&self, messages: &[Message]) {
        let mut under_way = self.lock();
        for it in messages {
            under_way.remove(&it.seq);
        }
    }

    /// How many messages about this user are on their way.
    pub fn about(&self, project: ProjectId, person: &Person) -> u64 {
        let under_way: Vec<Arc<Event>> = self.lock().values().cloned().collect();
        let is_about = |it: &&Arc<Event>| {
            it.project == project
                && it.source != SourceId::SYSTEM
                && person.is_meant_by(&it.payload)
        };
        under_way.iter().filter(is_about).count() as u64
    }

    fn lock(&self) -> MutexGuard<'_, IdMap<DeliverySeq, Arc<Event>>> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
