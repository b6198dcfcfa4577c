//! Stage 6 of 6: the places that events go to, and how each of them is spoken to.

pub mod egress;
pub mod http;
pub mod kind;
pub mod kinds;
pub mod plain;
pub mod profiles;
pub mod secrets;
pub mod webhook;
mod directory;

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use jiff::Timestamp;

use crate::model::{Class, DestinationId, Message, Outcome};

pub use directory::Directory;

/// A place that events go to.
///
/// A destination makes one attempt and says what came of it. When to try again, in what order and
/// how often is the dispatcher's business, so a new kind of destination is one file that knows its
/// protocol and nothing else.
#[async_trait]
pub trait DestinationClient: Send + Sync {
    /// The word that chooses this kind in the configuration, e.g. `webhook`.
    fn kind(&self) -> &'static str;

    /// Makes one attempt with all of the messages: one request where the protocol can carry several.
    /// It neither retries nor panics, and ends within the destination's timeout. `at` is the moment
    /// of the attempt, for timestamps and signatures.
    async fn send(&self, messages: &[Message], at: Timestamp) -> Outcome;

    /// What [`Self::send`] would send at this moment: one request to each place. Or what would come of
    /// the attempt before anything is sent. It does no I/O, and shows no secret.
    fn preview(&self, _messages: &[Message], _at: Timestamp) -> Result<Vec<Preview>, Outcome> {
        Err(webhook::refused(Class::Config, "this kind of destination shows no requests"))
    }

    /// Which messages may share a request with this one: those that give the same number. Only asked
    /// where the destination's policy has a batch.
    fn group(&self, _message: &Message) -> u64 {
        0
    }
}

/// A request as it would be sent, with secrets masked as `…`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Preview {
    pub method: String,
    pub url: String,
    /// Their names in lower case.
    pub headers: Vec<(String, String)>,
    /// The header that carries our signature, if there is one.
    pub signature: Option<String>,
    pub body: Bytes,
}

/// Where the dispatcher gets its destinations from.
pub trait Outlets: Send + Sync {
    /// The destination as the catalogue has it now. `None` when it was deleted.
    fn get(&self, id: DestinationId) -> Option<Arc<dyn DestinationClient>>;
}
