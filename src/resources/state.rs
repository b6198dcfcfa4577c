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
    let verifies = connection.verifies();
    let Some(old) = old else {
        return if verifies { unverified(now) } else { DestinationState::Active };
    };
    match &old.state {
        DestinationState::Unverified { .. } if !verifies => DestinationState::Active,
        // What was changed may be what was wrong: it is tried again.
        DestinationState::Unverified { since, .. } if old.connection != *connection => {
            unverified(*since)
        }
        DestinationState::Active if verifies && !old.connection.proves(connection) => {
            unverified(now)
        }
        DestinationState::Paused { .. } if verifies && !old.connection.proves(connection) => {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        destinations::profiles,
        model::{Auth, DestinationId, Era, Policy, Profile, ProjectId, Webhook},
    };

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn connection(profile: Profile, url: &str) -> Connection {
        Webhook {
            profile,
            urls: vec![url.to_owned().try_into().unwrap()],
            headers: Default::default(),
            auth: Auth::None,
            signing_keys: Vec::new(),
            contract: profiles::values(profile).contract,
        }
        .into()
    }

    /// `active`, `unverified since 7: 503`, …
    fn reported(state: &DestinationState) -> String {
        match state {
            DestinationState::Active => "active".to_owned(),
            DestinationState::Paused { since } => format!("paused since {}", since.as_second()),
            DestinationState::Unverified { since, reason } => {
                format!("unverified since {}: {reason}", since.as_second())
            }
            DestinationState::Disabled { since, .. } => {
                format!("disabled since {}", since.as_second())
            }
        }
    }

    #[test]
    fn each_new_url_requires_verification() {
        let admin = |url| connection(Profile::Admin, url);
        let standard = || connection(Profile::Standard, "https://a.com/");
        let (a, b) = ("https://a.com/", "https://b.com/");
        let failed = || DestinationState::Unverified { since: at(3), reason: "503".to_owned() };
        let paused = DestinationState::Paused { since: at(3) };
        let gone = || DestinationState::Disabled { since: at(3), reason: "410".to_owned() };
        for (before, state, now, expected) in [
            (admin(a), DestinationState::Active, admin(a), "active"),
            (admin(a), DestinationState::Active, admin(b), "unverified since 9: "),
            (standard(), DestinationState::Active, admin(a), "unverified since 9: "),
            (admin(a), DestinationState::Active, standard(), "active"),
            (admin(a), failed(), admin(a), "unverified since 3: 503"),
            (admin(a), failed(), admin(b), "unverified since 3: "),
            (admin(a), failed(), standard(), "active"),
            (admin(a), paused.clone(), admin(a), "paused since 3"),
            (admin(a), paused, admin(b), "disabled since 9"),
            (admin(a), gone(), admin(b), "disabled since 3"),
        ] {
            let old = Destination {
                id: DestinationId::from_bits(1),
                project: ProjectId::from_bits(2),
                name: "crm".parse().unwrap(),
                version: 1,
                state,
                policy: Policy::default(),
                era: Era::FIRST,
                connection: before,
                created_at: at(0),
            };
            assert_eq!(reported(&after(Some(&old), &now, at(9))), expected, "{old:?}");
        }
        assert_eq!(reported(&after(None, &admin(a), at(9))), "unverified since 9: ");
        assert_eq!(reported(&after(None, &standard(), at(9))), "active");
    }
}
