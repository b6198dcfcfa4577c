//! What makes an event unique, as it goes to the writer.

use super::{KeyHash, KeyReader};
use crate::model::{EventId, IdempotencyKey, NewEvent, ProjectId};

/// What makes an event unique in its project: its key, and the id that its sender gave it.
#[derive(Clone, Copy, Debug, Default)]
pub struct GateKeys {
    pub key: Option<KeyHash>,
    pub id: Option<KeyHash>,
}

impl GateKeys {
    pub fn of(
        keys: &KeyReader,
        project: ProjectId,
        key: Option<&IdempotencyKey>,
        given: Option<EventId>,
    ) -> Self {
        const KEY: u8 = 0;
        const GIVEN_ID: u8 = 1;
        Self {
            key: key.map(|it| keys.hash(KEY, project, it.as_str())),
            id: given.map(|it| keys.hash(GIVEN_ID, project, &it.to_string())),
        }
    }

    pub fn iter(self) -> impl Iterator<Item = KeyHash> {
        self.key.into_iter().chain(self.id)
    }
}

/// An event on its way, with what was worked out about it beside the writer.
#[derive(Clone)]
pub struct PendingEvent {
    pub event: NewEvent,
    /// Of the payload.
    pub digest: u64,
    pub gate: GateKeys,
    /// The event of this project that has the id which this one brings.
    pub taken: Option<EventId>,
    /// For an event that may need one.
    pub random: u64,
}
