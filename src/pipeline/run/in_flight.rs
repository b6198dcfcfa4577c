//! Plans that are on their way to the disk, and what goes on to dispatch once they are there.

use std::sync::Arc;

use super::parked::Ticket;
use crate::model::{Altered, DeliverySeq, Event, Message, Owed, Plan};

/// What is remembered of a plan while it is on its way.
pub(super) struct Sent {
    pub event: Arc<Event>,
    pub part: SentPart,
    deliveries: u16,
    /// Those that are not dead from the start.
    owed: u16,
    /// The copies in the order of the deliveries; empty when there are none.
    copies: Vec<Option<Arc<Altered>>>,
}

/// Which plan of its event it is.
pub(super) enum SentPart {
    First,
    /// That of a pipeline which waited. The event had about so many deliveries before.
    Later(Ticket, usize),
}

impl Sent {
    pub fn of(plan: &Plan, part: SentPart) -> Self {
        let has_copies = plan.deliveries.iter().any(|it| it.copy.is_some());
        let copies = match has_copies {
            true => plan.deliveries.iter().map(|it| it.copy.clone()).collect(),
            false => Vec::new(),
        };
        // A plan has at most 1024.
        let deliveries = plan.deliveries.len() as u16;
        let owed = plan.deliveries.iter().filter(|it| it.dead.is_none()).count() as u16;
        Self { event: plan.event.clone(), part, deliveries, owed, copies }
    }

    pub fn weight(&self) -> usize {
        let copies = self.copies.iter().flatten().map(|it| it.weight());
        self.event.payload.bytes().len() + self.event.metadata.bytes().len() + copies.sum::<usize>()
    }

    /// Its deliveries, as far as they can be known: later parts begin where the store says.
    pub fn seqs(&self) -> impl Iterator<Item = DeliverySeq> + use<'_> {
        /// Replays of the event that may have come in between.
        const SLACK: u16 = 8;
        let range = match &self.part {
            SentPart::First => 0..self.deliveries,
            SentPart::Later(_, before) => {
                let before = *before as u16;
                let more = if self.deliveries == 0 { 0 } else { self.deliveries + SLACK };
                before..(before + more).min(DeliverySeq::PER_EVENT)
            }
        };
        range.map(|it| DeliverySeq::new(self.event.seq, it))
    }
}

/// What there is to send for these deliveries, all of which are of these plans, in their order. Of a
/// later part, the deliveries that are owed stand before those that are not.
pub(super) fn messages(sent: &[Sent], owed: Vec<Owed>) -> Vec<(Owed, Message)> {
    let mut messages = Vec::with_capacity(owed.len());
    let mut owed = owed.into_iter().peekable();
    for sent in sent {
        let mut base = match &sent.part {
            SentPart::First => Some(0),
            SentPart::Later(..) => None,
        };
        for _ in 0..sent.owed {
            let Some(owed) = owed.next_if(|it| it.seq.event() == sent.event.seq) else { break };
            let base = *base.get_or_insert(owed.seq.ordinal());
            let place = usize::from(owed.seq.ordinal() - base);
            let copy = sent.copies.get(place).cloned().flatten();
            let message =
                Message { seq: owed.seq, event: sent.event.clone(), copy, fresh_id: false };
            messages.push((owed, message));
        }
    }
    messages
}
