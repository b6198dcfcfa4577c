//! Messages that came with hints, kept for their first attempt, up to a number of bytes.

use std::collections::VecDeque;

use crate::model::{DeliverySeq, IdMap, Message};

/// When it is full, the oldest goes; its delivery reads it from the store.
pub struct Messages {
    kept: IdMap<DeliverySeq, Message>,
    /// In the order in which they came. Holds some that are gone already, never more than half.
    order: VecDeque<DeliverySeq>,
    bytes: usize,
    bound: usize,
}

impl Messages {
    pub fn new(bound: usize) -> Self {
        Self { kept: IdMap::default(), order: VecDeque::new(), bytes: 0, bound }
    }

    pub fn keep(&mut self, message: Message) {
        let (seq, weight) = (message.seq, message.weight());
        if weight > self.bound {
            return;
        }
        self.take(seq);
        self.bytes += weight;
        self.kept.insert(seq, message);
        self.order.push_back(seq);
        while self.bytes > self.bound
            && let Some(oldest) = self.order.pop_front()
        {
            self.take(oldest);
        }
        if self.order.len() > 64 && self.order.len() > 2 * self.kept.len() {
            let kept = &self.kept;
            self.order.retain(|seq| kept.contains_key(seq));
        }
    }

    pub fn take(&mut self, seq: DeliverySeq) -> Option<Message> {
        let message = self.kept.remove(&seq)?;
        self.bytes -= message.weight();
        Some(message)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::model::{Event, EventSeq, RawJson};

    fn message(number: u64) -> Message {
        let payload = RawJson::trusted(vec![b' '; 1_000]);
        let event = Event { payload, ..Event::at(number) };
        let seq = DeliverySeq::new(EventSeq(number), 0);
        Message { seq, event: Arc::new(event), copy: None, fresh_id: false }
    }

    fn seq(number: u64) -> DeliverySeq {
        DeliverySeq::new(EventSeq(number), 0)
    }

    #[test]
    fn the_newest_are_kept_up_to_the_bound_and_each_is_taken_once() {
        let weight = message(1).weight();
        let mut messages = Messages::new(3 * weight);
        for number in 1..=5 {
            messages.keep(message(number));
        }
        assert!(messages.take(seq(2)).is_none() && messages.take(seq(3)).is_some());
        assert!(messages.take(seq(3)).is_none());
        messages.keep(message(6));
        assert!(messages.take(seq(4)).is_some() && messages.take(seq(6)).is_some());
    }

    #[test]
    fn taken_messages_leave_nothing_behind() {
        let mut messages = Messages::new(1 << 20);
        for number in 1..=10_000 {
            messages.keep(message(number));
            messages.take(seq(number));
        }
        assert!(messages.bytes == 0 && messages.order.len() <= 65);
    }
}
