//! A person who wants to be forgotten, and what was asked to be done about it.

use std::{
    collections::{HashMap, HashSet},
    fmt,
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{DeletionId, IdMap, ProjectId, RawJson, json};

/// A request to forget a user, and how far it has come. It runs in the background and survives a
/// restart.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Deletion {
    pub id: DeletionId,
    pub project: ProjectId,
    pub person: Person,
    pub then: Then,
    pub state: DeletionState,
    /// Destinations that were notified.
    pub notified: u64,
    /// Events whose bodies are erased.
    pub erased: u64,
    /// Deliveries of the user's events that were still owed.
    pub cancelled: u64,
    /// Deliveries of the user's events whose attempt was under way when the request was accepted.
    #[serde(default)]
    pub in_flight: u64,
    /// Every event up to this place was looked at; `until` is the last one.
    pub cursor: u64,
    pub until: u64,
    pub created_at: Timestamp,
    #[serde(default)]
    pub ended_at: Option<Timestamp>,
}

impl Deletion {
    /// Whether events of this user are turned away.
    pub fn suppresses(&self) -> bool {
        match self.then {
            Then::Suppress | Then::SuppressAndErase => true,
            Then::Keep | Then::Erase => false,
        }
    }

    pub fn erases(&self) -> bool {
        match self.then {
            Then::Erase | Then::SuppressAndErase => true,
            Then::Keep | Then::Suppress => false,
        }
    }

    /// Whether nothing more happens by itself.
    pub fn has_ended(&self) -> bool {
        match self.state {
            DeletionState::Done | DeletionState::Cancelled => true,
            DeletionState::Notifying | DeletionState::Waiting | DeletionState::Erasing => false,
        }
    }
}

/// What is done beside telling the destinations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Then {
    /// Nothing.
    #[default]
    Keep,
    /// The bodies of the user's stored events are erased.
    Erase,
    /// Events of the user are turned away from now on.
    Suppress,
    SuppressAndErase,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum DeletionState {
    /// The destinations are being notified.
    Notifying,
    /// They are notified. Erasing begins when no other request erases; until then it can be cancelled.
    Waiting,
    Erasing,
    Done,
    /// The destinations were notified, and nothing was erased.
    Cancelled,
}

/// Whose events are meant: those whose payload has this id in one of the fields.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Person {
    pub user_id: String,
    /// A path into the payload, such as `user.id`. `None`: `userId` or `user_id` at its top.
    #[serde(default)]
    pub field: Option<String>,
}

impl Person {
    /// Bytes of a user id.
    pub const LONGEST: usize = 1024;
    /// Names in a path.
    pub const DEEPEST: usize = 8;

    /// Whether a payload names this user. A number counts as the text that it is written as.
    pub fn is_meant_by(&self, payload: &RawJson) -> bool {
        ids(self.field.as_deref(), payload).any(|it| it == self.user_id)
    }
}

/// Users whose events are turned away, by project and by where their ids stand.
#[derive(Default)]
pub struct Suppressed(IdMap<ProjectId, HashMap<Option<String>, HashSet<String>>>);

impl Suppressed {
    pub fn of<'a>(deletions: impl Iterator<Item = &'a Deletion>) -> Self {
        let mut suppressed = Self::default();
        for it in deletions.filter(|it| it.suppresses()) {
            let by_field = suppressed.0.entry(it.project).or_default();
            let ids = by_field.entry(it.person.field.clone()).or_default();
            ids.insert(it.person.user_id.clone());
        }
        suppressed
    }

    /// Whether an event of this project names one of them. Nothing is parsed where there is none.
    pub fn includes(&self, project: ProjectId, payload: &RawJson) -> bool {
        let by_field = self.0.get(&project).into_iter().flatten();
        by_field
            .into_iter()
            .any(|(field, users)| ids(field.as_deref(), payload).any(|it| users.contains(&it)))
    }
}

/// The ids that stand where a field says, or where they usually do.
pub(super) fn ids(field: Option<&str>, payload: &RawJson) -> impl Iterator<Item = String> {
    let paths: [Option<Vec<&str>>; 2] = match field {
        Some(path) => [Some(path.split('.').collect()), None],
        None => [Some(vec!["userId"]), Some(vec!["user_id"])],
    };
    // What is stored is JSON. What a damaged disk made of it names nobody; `tidegate check` finds it.
    let value = |path: Vec<&str>| json::value_at(payload.bytes(), &path).ok().flatten();
    paths.into_iter().flatten().filter_map(move |path| id_of(value(path)?))
}

impl fmt::Debug for Person {
    /// Who it is does not reach a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Person").field("field", &self.field).finish_non_exhaustive()
    }
}

/// A text, or a whole number as it is written.
fn id_of(json: &[u8]) -> Option<String> {
    let is_number = json.iter().all(|it| it.is_ascii_digit() || *it == b'-');
    let text =
        if is_number { str::from_utf8(json).ok().map(Into::into) } else { json::lossy_text(json) };
    text.map(std::borrow::Cow::into_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_person_is_found_in_the_fields_that_are_meant() {
        for (field, payload, is_meant) in [
            (None, r#"{"userId":"u 1"}"#, true),
            (None, r#"{"user_id":"u\u00201","x":[{}]}"#, true),
            (None, r#"{"user\u0049d":"u 1"}"#, true),
            (None, r#"{"userId":"u 2"}"#, false),
            (None, r#"{"userId":null,"user_id":"u 1"}"#, true),
            (None, r#"{"traits":{"userId":"u 1"}}"#, false),
            (None, r#"["u 1"]"#, false),
            (None, r#""u 1""#, false),
            (Some("user.id"), r#"{"user":{"id":"u 1"}}"#, true),
            (Some("user.id"), r#"{"userId":"u 1"}"#, false),
            (Some("user.id"), r#"{"user":7}"#, false),
            // Names that are no text, beside the id and around it, hide nobody.
            (None, r#"{"userId":"u 1","\ud800":1}"#, true),
            (None, r#"{"x":1e400,"userId":"u 1","a":{"\udc00":"\ud800"}}"#, true),
            (Some("user.id"), r#"{"\ud800":1,"user":{"\ud800":2,"id":"u 1"}}"#, true),
            (None, r#"{"userId":"u 2","userId":"u 1"}"#, true),
        ] {
            let person = Person { user_id: "u 1".to_owned(), field: field.map(str::to_owned) };
            let payload_json = RawJson::trusted(payload);
            assert_eq!(person.is_meant_by(&payload_json), is_meant, "{payload}");
        }
        let number = Person { user_id: "42".to_owned(), field: None };
        for (payload, is_meant) in [
            (r#"{"userId":42}"#, true),
            (r#"{"userId":"42"}"#, true),
            (r#"{"userId":42.0}"#, false),
            (r#"{"userId":true}"#, false),
        ] {
            assert_eq!(number.is_meant_by(&RawJson::trusted(payload)), is_meant, "{payload}");
        }
    }
}
