//! The state in which a destination is saved: whether it must show first that it is there.

use jiff::Timestamp;

use crate::model::{Connection, Destination, DestinationState};

/// The state of a destination that gets this connection. One whose contract asks for it starts
/// unverified, and does so again when its URLs change. `old` is the destination as it is.
pub(super) fn after(
    old: Option<&Destination>,
    connection: &Connection,
    now: Timestamp,
) -> DestinationState {
    let verifies = connection.webhook().is_some_and(|it| it.contract.verify);
    let Some(old) = old else {
        return if verifies { unverified(now) } else { DestinationState::Active };
    };
    match &old.state {
        DestinationState::Unverified { .. } if !verifies => DestinationState::Active,
        // What was changed may be what was wrong: it is tried again.
        DestinationState::Unverified { since, .. } if old.connection != *connection => {
            unverified(*since)
        }
        DestinationState::Active if verifies && !is_proven(&old.connection, connection) => {
            unverified(now)
        }
        DestinationState::Paused { .. } if verifies && !is_proven(&old.connection, connection) => {
            let reason = "it was paused and is another endpoint now: enable it to verify it";
            DestinationState::Disabled { since: now, reason: reason.to_owned() }
        }
        // Who enables one that is disabled has it verified.
        DestinationState::Active
        | DestinationState::Paused { .. }
        | DestinationState::Unverified { .. }
        | DestinationState::Disabled { .. } => old.state.clone(),
    }
}

/// Waits for its first try.
fn unverified(since: Timestamp) -> DestinationState {
    DestinationState::Unverified { since, reason: String::new() }
}

/// Whether what the old connection showed goes for the new one.
fn is_proven(old: &Connection, new: &Connection) -> bool {
    match (old.webhook(), new.webhook()) {
        (Some(old), Some(new)) => old.contract.verify && old.urls == new.urls,
        (None, _) | (_, None) => false,
    }
}
