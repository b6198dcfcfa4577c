//! One attempt, in a task of its own.

use std::sync::Arc;

use tokio::sync::mpsc;

use super::{
    executor::{Completion, failure},
    outgoing::Outgoing,
};
use crate::{
    clock::Clock,
    destinations::DestinationClient,
    model::{Class, Message, Outcome, Owed},
};

/// One attempt. It reports whatever happens, a panic included: nothing stays in flight for ever.
pub struct Attempt {
    pub reports: mpsc::UnboundedSender<Completion>,
    pub outgoing: Arc<Outgoing>,
    pub owed: Owed,
    pub message: Option<Message>,
    pub outcome: Option<Outcome>,
    pub is_withheld: bool,
}

impl Attempt {
    pub async fn make(&mut self, outlet: Option<Arc<dyn DestinationClient>>, clock: &dyn Clock) {
        let Some(message) = &self.message else { return };
        self.is_withheld = !self.outgoing.begin_one(message);
        if self.is_withheld {
            return;
        }
        self.outcome = Some(match outlet {
            Some(outlet) => outlet.send(std::slice::from_ref(message), clock.now()).await,
            None => failure(Class::Config, "the destination is not there any more"),
        });
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        let Some(message) = self.message.take() else { return };
        if self.is_withheld {
            let _ = self.reports.send(Completion::Withheld { owed: self.owed, message });
            return;
        }
        self.outgoing.ended(std::slice::from_ref(&message));
        let outcome = self.outcome.take();
        let _ = self.reports.send(Completion::Attempted {
            destination: self.owed.destination,
            delivery: message.seq,
            outcome: outcome.unwrap_or_else(|| failure(Class::Unknown, "the attempt broke off")),
            message: Some(message),
        });
    }
}
