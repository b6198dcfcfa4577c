//! Whose events go out no more: those of users who are to be forgotten.

use std::collections::HashMap;

use jiff::Timestamp;

use super::{Deletion, Event, IdMap, Person, ProjectId, SourceId, deletion::ids};

/// The users of the deletions that there are, by project and by where their ids stand. Each with the moment
/// up to which what was received of them is held back.
#[derive(Default)]
pub struct Forgotten(IdMap<ProjectId, Users>);

#[derive(Default)]
struct Users {
    by_field: HashMap<Option<String>, HashMap<String, Timestamp>>,
    /// Of all of them: what was received later is not looked at.
    until: Timestamp,
}

impl Forgotten {
    pub fn of<'a>(deletions: impl Iterator<Item = &'a Deletion>) -> Self {
        let mut forgotten = Self::default();
        for it in deletions {
            // What came in of a suppressed user after all was on its way through the gate.
            let until = if it.suppresses() { Timestamp::MAX } else { it.created_at };
            let users = forgotten.0.entry(it.project).or_default();
            users.until = users.until.max(until);
            let Person { user_id, field } = it.person.clone();
            let held = users.by_field.entry(field).or_default().entry(user_id).or_default();
            *held = (*held).max(until);
        }
        forgotten
    }

    /// Whether an event is about one of them and may not go out. What Tidegate sends itself may. Nothing is
    /// parsed where there is nobody.
    pub fn forbids(&self, event: &Event) -> bool {
        let Some(users) = self.0.get(&event.project) else { return false };
        event.source != SourceId::SYSTEM
            && event.received_at <= users.until
            && users.by_field.iter().any(|(field, held)| {
                ids(field.as_deref(), &event.payload)
                    .any(|it| held.get(&it).is_some_and(|until| event.received_at <= *until))
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{DeletionId, DeletionState, RawJson, Then};

    fn deletion(user_id: &str, field: Option<&str>, then: Then, at: i64) -> Deletion {
        Deletion {
            id: DeletionId::from_bits(1),
            project: Event::at(1).project,
            person: Person { user_id: user_id.to_owned(), field: field.map(str::to_owned) },
            then,
            state: DeletionState::Done,
            notified: 0,
            erased: 0,
            cancelled: 0,
            in_flight: 0,
            cursor: 0,
            until: 0,
            created_at: Timestamp::from_second(at).unwrap(),
            ended_at: None,
        }
    }

    #[test]
    fn events_of_forgotten_users_are_forbidden() {
        let all = [
            deletion("keeps", None, Then::Keep, 100),
            deletion("gone", Some("user.id"), Then::Suppress, 100),
        ];
        let forgotten = Forgotten::of(all.iter());
        for (payload, at, is_forbidden) in [
            (r#"{"userId":"keeps"}"#, 100, true),
            (r#"{"user_id":"keeps"}"#, 99, true),
            // What came in afterwards is another matter, unless the user is suppressed.
            (r#"{"userId":"keeps"}"#, 101, false),
            (r#"{"user":{"id":"gone"}}"#, 101, true),
            (r#"{"userId":"gone"}"#, 1, false),
            (r#"{"user":{"id":"keeps"}}"#, 1, false),
        ] {
            let received_at = Timestamp::from_second(at).unwrap();
            let payload_json = RawJson::trusted(payload);
            let event = Event { payload: payload_json, received_at, ..Event::at(1) };
            assert_eq!(forgotten.forbids(&event), is_forbidden, "{payload} at {at}");
            let own = Event { source: SourceId::SYSTEM, ..event };
            assert!(!forgotten.forbids(&own));
        }
        assert!(!Forgotten::default().forbids(&Event::at(1)));
    }
}
