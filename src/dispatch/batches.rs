//! Carries out a batch: loads its messages, splits it into requests, and makes them one by one.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use tokio::sync::mpsc;

use super::{
    budget::Budget,
    executor::{Completion, failure},
    later,
    outgoing::Outgoing,
    store_calls::warn,
};
use crate::{
    clock::Clock,
    destinations::DestinationClient,
    model::{Class, DeliverySeq, DestinationId, Lane, Message, Owed},
    store::{Store, StoreError},
};

/// What the loop says to a batch that is under way.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum BatchCommand {
    GoOn,
    Leave,
}

/// One batch. Whatever happens, a panic included, it ends with [`Report::BatchOver`].
pub struct BatchJob {
    pub store: Arc<dyn Store>,
    pub clock: Arc<dyn Clock>,
    pub reports: mpsc::UnboundedSender<Completion>,
    pub outgoing: Arc<Outgoing>,
    pub orders: mpsc::UnboundedReceiver<BatchCommand>,
    pub outlet: Option<Arc<dyn DestinationClient>>,
    pub budget: Arc<Budget>,
    /// The pause after the store has failed.
    pub timeout: Duration,
    pub destination: DestinationId,
    pub number: u32,
    /// Of payloads in one request.
    pub bytes: usize,
    /// With the messages that are in memory already.
    pub todo: VecDeque<(Owed, Option<Message>)>,
    /// In memory, in the order in which they are to be sent.
    pub loaded: Vec<(Owed, Message)>,
    /// What the request that is being made carries.
    pub sending: Vec<Message>,
    pub parts: VecDeque<Vec<Message>>,
}

/// Messages read at first, when nothing is known of their weight, and at most.
const FIRST_CALL: usize = 16;
const LONGEST_CALL: usize = 256;

impl BatchJob {
    pub async fn run(mut self) {
        let mut missing = Vec::new();
        if !self.load(&mut missing).await {
            return;
        }
        let mut left: Vec<DeliverySeq> = self.todo.iter().map(|(owed, _)| owed.seq).collect();
        let outlet = self.outlet.clone();
        let group = |message: &Message| outlet.as_ref().map_or(0, |it| it.group(message));
        let loaded = std::mem::take(&mut self.loaded);
        let owed: HashMap<DeliverySeq, Owed> = loaded.iter().map(|it| (it.1.seq, it.0)).collect();
        let (parts, others) = split(loaded, |(owed, it)| (owed.place.lane, group(it)));
        let without_owed = |it: Vec<(Owed, Message)>| it.into_iter().map(|(_, it)| it).collect();
        self.parts = parts.into_iter().map(without_owed).collect();
        left.splice(0..0, others.iter().map(|(owed, _)| owed.seq));
        for (owed, message) in others {
            self.budget.give_back(self.destination, message.weight());
            self.todo.push_back((owed, Some(message)));
        }
        if !left.is_empty() || !missing.is_empty() {
            let (destination, batch) = (self.destination, self.number);
            let _ = self.reports.send(Completion::Cut { destination, batch, left, missing });
        }
        self.send_parts(&owed).await;
    }

    async fn send_parts(&mut self, owed: &HashMap<DeliverySeq, Owed>) {
        while let Some(part) = self.parts.pop_front() {
            let (part, withheld) = self.outgoing.begin(part);
            self.withhold(&withheld, owed);
            if part.is_empty() {
                continue;
            }
            self.sending = part;
            let outcome = match &self.outlet {
                Some(outlet) => outlet.send(&self.sending, self.clock.now()).await,
                None => failure(Class::Config, "the destination is not there any more"),
            };
            self.report_part(outcome);
            if self.parts.is_empty() || self.orders.recv().await != Some(BatchCommand::GoOn) {
                return;
            }
        }
    }

    /// These must not go out.
    fn withhold(&mut self, withheld: &[Message], owed: &HashMap<DeliverySeq, Owed>) {
        if withheld.is_empty() {
            return;
        }
        let weight = withheld.iter().map(Message::weight).sum();
        self.budget.give_back(self.destination, weight);
        let owed = withheld.iter().filter_map(|it| owed.get(&it.seq)).copied().collect();
        let _ = self.reports.send(Completion::WithheldTogether { batch: self.number, owed });
    }

    fn report_part(&mut self, outcome: crate::model::Outcome) {
        let messages = std::mem::take(&mut self.sending);
        self.outgoing.ended(&messages);
        let weight = messages.iter().map(Message::weight).sum();
        self.budget.give_back(self.destination, weight);
        let (destination, batch) = (self.destination, self.number);
        let _ = self.reports.send(Completion::PartEnded { destination, batch, messages, outcome });
    }

    /// Brings into memory what one request may carry; the rest stays in `todo`. `false`: it is to end.
    async fn load(&mut self, missing: &mut Vec<DeliverySeq>) -> bool {
        let mut bytes = 0;
        while let Some((_, message)) = self.todo.front() {
            if message.is_none() {
                if !self.read(bytes, missing).await {
                    return false;
                }
                continue;
            }
            let Some((owed, Some(message))) = self.todo.pop_front() else { continue };
            let length = message.payload().bytes().len();
            let fits = self.loaded.is_empty() || bytes + length <= self.bytes;
            if !fits || !self.budget.take(self.destination, message.weight()) {
                self.todo.push_front((owed, Some(message)));
                return true;
            }
            bytes += length;
            self.loaded.push((owed, message));
        }
        true
    }

    /// Reads the next few messages that are not in memory.
    async fn read(&mut self, bytes: usize, missing: &mut Vec<DeliverySeq>) -> bool {
        let count = match self.loaded.len() {
            0 => FIRST_CALL,
            loaded => {
                let average = (bytes / loaded).max(1);
                (self.bytes.saturating_sub(bytes) / average + 1).clamp(1, LONGEST_CALL)
            }
        };
        let is_unread = |it: &&(Owed, Option<Message>)| it.1.is_none();
        let wanted: Vec<DeliverySeq> =
            self.todo.iter().filter(is_unread).take(count).map(|(owed, _)| owed.seq).collect();
        let messages = loop {
            match self.store.messages(&wanted).await {
                Ok(messages) => break messages,
                Err(StoreError::Closed) => {
                    let _ = self.reports.send(Completion::Closed);
                    return false;
                }
                Err(error) => warn(&error, "cannot read what is to be sent"),
            }
            let until = later(self.clock.now(), self.timeout);
            tokio::select! {
                () = self.clock.sleep_until(until) => (),
                _ = self.orders.recv() => return false,
            }
        };
        let mut found: HashMap<DeliverySeq, Message> =
            messages.into_iter().map(|it| (it.seq, it)).collect();
        for (owed, message) in &mut self.todo {
            if message.is_none() {
                *message = found.remove(&owed.seq);
            }
        }
        let mut left = count;
        self.todo.retain(|(owed, message)| {
            let is_missing = message.is_none() && left > 0 && wanted.contains(&owed.seq);
            if is_missing {
                left -= 1;
                missing.push(owed.seq);
            }
            !is_missing
        });
        true
    }
}

impl Drop for BatchJob {
    fn drop(&mut self) {
        if !self.sending.is_empty() {
            self.report_part(failure(Class::Unknown, "the attempt broke off"));
        }
        let parts = std::mem::take(&mut self.parts).into_iter().flatten();
        let loaded = std::mem::take(&mut self.loaded).into_iter().map(|(_, it)| it);
        let mut messages: Vec<Message> = parts.chain(loaded).collect();
        let weight = messages.iter().map(Message::weight).sum();
        self.budget.give_back(self.destination, weight);
        messages.extend(std::mem::take(&mut self.todo).into_iter().filter_map(|(_, it)| it));
        let (destination, batch) = (self.destination, self.number);
        let _ = self.reports.send(Completion::BatchOver { destination, batch, messages });
    }
}

/// Splits a batch into requests, by its items' lanes and groups: of each lane the first run of one
/// group, together with the other lanes' runs of that group. So a request that fails holds up none
/// of the others, and no item overtakes another of its lane. What stands behind such a run comes back.
pub fn split<T>(items: Vec<T>, of: impl Fn(&T) -> (Lane, u64)) -> (Vec<Vec<T>>, Vec<T>) {
    let mut parts: Vec<Vec<T>> = Vec::new();
    let mut left = Vec::new();
    let mut numbers: HashMap<u64, usize> = HashMap::new();
    // The group of each lane's run; `None` behind its end.
    let mut runs: HashMap<Lane, Option<u64>> = HashMap::new();
    for item in items {
        let (lane, group) = of(&item);
        if lane != Lane::NONE {
            let run = runs.entry(lane).or_insert(Some(group));
            if *run != Some(group) {
                *run = None;
                left.push(item);
                continue;
            }
        }
        let number = *numbers.entry(group).or_insert(parts.len());
        match parts.get_mut(number) {
            Some(part) => part.push(item),
            None => parts.push(vec![item]),
        }
    }
    (parts, left)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Items are `lane:group`, with their place.
    #[track_caller]
    fn check(items: &str, parts: &[&[usize]], left: &[usize]) {
        let items = items.split(' ').enumerate().map(|(place, it)| {
            let (lane, group) = it.split_once(':').unwrap();
            (place, Lane(lane.parse().unwrap()), group.parse().unwrap())
        });
        let (actual, others) = split(items.collect(), |it| (it.1, it.2));
        let places = |it: &Vec<(usize, Lane, u64)>| it.iter().map(|it| it.0).collect::<Vec<_>>();
        assert_eq!(actual.iter().map(places).collect::<Vec<_>>(), parts);
        assert_eq!(places(&others), left);
    }

    #[test]
    fn a_request_carries_one_group_and_no_lane_is_in_two_requests() {
        check("0:1 0:2 0:1 0:2", &[&[0, 2], &[1, 3]], &[]);
        check("5:1 5:1 5:2 5:1", &[&[0, 1]], &[2, 3]);
        check("5:1 6:2 5:1 6:1 7:1 6:2", &[&[0, 2, 4], &[1]], &[3, 5]);
    }
}
