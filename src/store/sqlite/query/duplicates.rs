//! What makes an event unique, and what is said of one that is not.

use xxhash_rust::xxh3::xxh3_64;

use super::readers::Readers;
use crate::{
    model::{EventId, IdempotencyKey, NewEvent, ProjectId, TypeName},
    store::{
        Appended, Result,
        sqlite::keys::{KeyReader, gate::GateKeys},
    },
};

/// What is compared with the first event of a duplicate.
pub struct DuplicateCheck {
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
pub fn first_with_key(
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
pub fn compare(
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
