//! What makes an event unique, and what is said of one that is not.

use xxhash_rust::xxh3::xxh3_64;

use super::{
    keys::{KeyHash, KeyReader},
    readers::Readers,
};
use crate::{
    model::{EventId, IdempotencyKey, NewEvent, ProjectId, TypeName},
    store::{Appended, Result},
};

/// What makes an event unique in its project: its key, and the id that its sender gave it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct GateKeys {
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

/// What is compared with the first event of a duplicate.
pub(super) struct DuplicateCheck {
    pub project: ProjectId,
    pub digest: u64,
    event_type: TypeName,
}

impl DuplicateCheck {
    pub fn of(event: &NewEvent) -> Self {
        Self {
            project: event.project,
            digest: xxh3_64(event.payload.bytes()),
            event_type: event.event_type.clone(),
        }
    }
}

/// The first event that had this key, forgotten or not.
pub(super) fn first_with_key(
    keys: &KeyReader,
    project: ProjectId,
    key: &IdempotencyKey,
) -> Result<Option<EventId>> {
    match GateKeys::of(keys, project, Some(key), None).key {
        Some(hash) => keys.find(&hash),
        None => Ok(None),
    }
}

/// Finds out which duplicates have the type and the body of the first.
pub(super) fn compare(
    readers: &Readers,
    mut appended: Vec<Appended>,
    asked: &[DuplicateCheck],
) -> Vec<Appended> {
    for (answer, asked) in appended.iter_mut().zip(asked) {
        match answer {
            Appended::New(_) => (),
            Appended::Duplicate { id, same_body, same_type } => {
                match readers.first(asked.project, *id) {
                    Ok(None) => (),
                    Ok(Some(first)) => {
                        *same_body = first.digest.map(|it| it == asked.digest.max(1));
                        *same_type = Some(first.event_type == asked.event_type);
                    }
                    // The others of the call are kept, so that it must not fail any more.
                    Err(error) => {
                        let error = &error as &dyn std::error::Error;
                        tracing::error!(error, "cannot read the first event of a duplicate");
                    }
                }
            }
        }
    }
    appended
}
