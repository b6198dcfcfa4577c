//! What a sender is answered.

use axum::{
    Json,
    body::Body,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use http_body_util::{Either, Full};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    gate::Admitted,
    model::EventId,
    problem::{FieldError, Kind, Problem},
    store::Appended,
};

/// An event as it is posted. For the documentation: `event.rs` reads it.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[schema(as = NewEvent)]
pub struct NewEventBody {
    /// Such as `user.signed_up`: 1 to 128 letters, digits, `.`, `-` or `_`.
    #[serde(rename = "type")]
    pub event_type: String,
    /// Any JSON value. It is kept exactly as it comes.
    pub payload: Value,
    /// The sender's own id for the event: `evt_` and a UUIDv7 as a TypeID. It makes two requests one event, with
    /// a key or without. The id of an event that the project has already means that event.
    #[schema(nullable)]
    pub id: Option<String>,
    /// When it happened, in RFC 3339, kept to the microsecond. Without it: when it is received.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub timestamp: Option<String>,
    /// Makes two requests one event, for ever, in its project: name the event and the thing, such as `signup:42`.
    /// 1 to 255 bytes, not beginning with `webhook:` or `messageId:`.
    #[schema(nullable, example = "signup:42")]
    pub idempotency_key: Option<String>,
    /// An object. `source`, `ip`, `user_agent` and `hops` in it are set by Tidegate.
    #[schema(value_type = Option<Object>)]
    pub metadata: Option<Value>,
    /// The name of a source of kind `api`. Without it: the project's oldest one that is enabled.
    pub source: Option<String>,
}

/// What became of one event.
#[derive(Debug, PartialEq, Serialize, utoipa::ToSchema)]
pub struct EventAnswer {
    /// The event's id; for a duplicate, that of the first; null when it was turned away.
    #[schema(value_type = Option<String>)]
    pub id: Option<EventId>,
    /// It is new, and on disk.
    pub accepted: bool,
    /// Its key was seen before, and nothing was kept.
    pub duplicate: bool,
    /// Its user is to be forgotten (`/api/v1/deletions`): nothing was kept, and to send it again is of
    /// no use.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    #[schema(required = false)]
    pub suppressed: bool,
    /// Whether a duplicate's payload is the first one's; null when that is no longer known.
    #[serde(skip_serializing_if = "Same::is_not_meant")]
    #[schema(value_type = Option<bool>, required = false)]
    pub same_body: Same,
    /// Whether a duplicate's type is the first one's; null when that is no longer known.
    #[serde(skip_serializing_if = "Same::is_not_meant")]
    #[schema(value_type = Option<bool>, required = false)]
    pub same_type: Same,
    /// For people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<&'static str>,
}

/// Whether a duplicate is the same as the first event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Same {
    /// It is no duplicate.
    NotMeant,
    Known(bool),
    Unknown,
}

impl Same {
    fn is_not_meant(&self) -> bool {
        *self == Self::NotMeant
    }

    fn of(is_same: Option<bool>) -> Self {
        is_same.map_or(Self::Unknown, Self::Known)
    }
}

/// What people should know of a duplicate that is not the same event once more.
fn note(same_type: Same, same_body: Same) -> Option<&'static str> {
    match (same_type, same_body) {
        (Same::Known(false), _) => Some(
            "the key or id was used before by an event of another type: the first event stands, and this one was \
             not kept. A key names the event and the thing, such as `signup:42`",
        ),
        (_, Same::Known(false)) => Some(
            "the key or id was used before with another payload: the first event stands, and this one was not \
             kept. A key names the event and the thing, such as `signup:42`",
        ),
        (
            Same::NotMeant | Same::Known(true) | Same::Unknown,
            Same::NotMeant | Same::Known(true) | Same::Unknown,
        ) => None,
    }
}

impl Serialize for Same {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Known(same) => serializer.serialize_bool(*same),
            Self::NotMeant | Self::Unknown => serializer.serialize_none(),
        }
    }
}

const SUPPRESSED: &str = "events of this user are turned away, since the user is to be forgotten";

impl EventAnswer {
    pub fn of(admitted: &Admitted) -> Self {
        match admitted {
            Admitted::Suppressed => Self {
                id: None,
                accepted: false,
                duplicate: false,
                suppressed: true,
                same_body: Same::NotMeant,
                same_type: Same::NotMeant,
                note: Some(SUPPRESSED),
            },
            Admitted::Accepted(Appended::New(event)) => Self {
                id: Some(event.id),
                accepted: true,
                duplicate: false,
                suppressed: false,
                same_body: Same::NotMeant,
                same_type: Same::NotMeant,
                note: None,
            },
            Admitted::Accepted(Appended::Duplicate { id, same_body, same_type }) => {
                let (same_body, same_type) = (Same::of(*same_body), Same::of(*same_type));
                Self {
                    id: Some(*id),
                    accepted: false,
                    duplicate: true,
                    suppressed: false,
                    same_body,
                    same_type,
                    note: note(same_type, same_body),
                }
            }
        }
    }
}

/// A body that is there as a whole, or one that is made by axum.
pub type AnswerBody = Either<Full<Bytes>, Body>;

impl EventAnswer {
    /// The answer with these headers, which are none yet but may have memory for some.
    pub fn into_response_with(self, mut headers: HeaderMap) -> Response<AnswerBody> {
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        // The server would add it behind what a router adds, and a page would be answered in another order.
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        let mut response = Response::new(Either::Left(Full::from(self.to_json())));
        *response.status_mut() = if self.accepted { StatusCode::ACCEPTED } else { StatusCode::OK };
        *response.headers_mut() = headers;
        response
    }

    fn to_json(&self) -> Vec<u8> {
        match self.id {
            // What most senders hear, put together at a tenth of the cost.
            Some(id) if self.accepted => id.with_text(|id| {
                [r#"{"id":""#, id, r#"","accepted":true,"duplicate":false}"#].concat().into_bytes()
            }),
            // Every field serialises.
            _ => serde_json::to_vec(self).unwrap_or_default(),
        }
    }
}

/// What became of a batch.
#[derive(Debug, PartialEq, Serialize, utoipa::ToSchema)]
pub struct BatchAnswer {
    pub accepted: usize,
    pub duplicates: usize,
    pub rejected: usize,
    /// Of users who are to be forgotten.
    #[serde(skip_serializing_if = "is_none")]
    #[schema(required = false)]
    pub suppressed: usize,
    /// In the order of the events.
    pub results: Vec<BatchResult>,
}

/// What became of one event of a batch.
#[derive(Debug, PartialEq, Serialize, utoipa::ToSchema)]
#[serde(tag = "status", rename_all = "snake_case")]
pub enum BatchResult {
    Accepted {
        #[schema(value_type = String)]
        id: EventId,
    },
    Duplicate {
        /// The first event's.
        #[schema(value_type = String)]
        id: EventId,
        #[schema(value_type = Option<bool>)]
        same_body: Same,
        #[schema(value_type = Option<bool>)]
        same_type: Same,
        #[serde(skip_serializing_if = "Option::is_none")]
        note: Option<&'static str>,
    },
    Rejected {
        errors: Vec<FieldError>,
    },
    /// Its user is to be forgotten: nothing was kept, and to send it again is of no use.
    Suppressed {
        note: &'static str,
    },
}

fn is_none(count: &usize) -> bool {
    *count == 0
}

impl BatchAnswer {
    /// `admitted` answers, in their order, the items that are `Ok`.
    pub fn of(
        items: Vec<Result<(), Vec<FieldError>>>,
        admitted: &[Admitted],
    ) -> Result<Self, Problem> {
        let mut admitted = admitted.iter();
        let mut answer = Self {
            accepted: 0,
            duplicates: 0,
            rejected: 0,
            suppressed: 0,
            results: Vec::with_capacity(items.len()),
        };
        for item in items {
            let result = match item {
                Err(errors) => {
                    answer.rejected += 1;
                    BatchResult::Rejected { errors }
                }
                Ok(()) => match admitted.next().ok_or_else(|| Problem::new(Kind::Internal))? {
                    Admitted::Suppressed => {
                        answer.suppressed += 1;
                        BatchResult::Suppressed { note: SUPPRESSED }
                    }
                    Admitted::Accepted(Appended::New(event)) => {
                        answer.accepted += 1;
                        BatchResult::Accepted { id: event.id }
                    }
                    Admitted::Accepted(Appended::Duplicate { id, same_body, same_type }) => {
                        answer.duplicates += 1;
                        let (same_body, same_type) = (Same::of(*same_body), Same::of(*same_type));
                        let note = note(same_type, same_body);
                        BatchResult::Duplicate { id: *id, same_body, same_type, note }
                    }
                },
            };
            answer.results.push(result);
        }
        if answer.rejected == answer.results.len() {
            let errors = answer.results.into_iter().flat_map(BatchResult::into_errors).collect();
            return Err(Problem::new(Kind::Rejected)
                .detail("no event of the batch was kept, since each has an error")
                .errors(errors));
        }
        Ok(answer)
    }
}

impl BatchResult {
    fn into_errors(self) -> Vec<FieldError> {
        match self {
            Self::Rejected { errors } => errors,
            Self::Accepted { .. } | Self::Duplicate { .. } | Self::Suppressed { .. } => Vec::new(),
        }
    }
}

impl IntoResponse for BatchAnswer {
    fn into_response(self) -> Response {
        let status = if self.accepted > 0 { StatusCode::ACCEPTED } else { StatusCode::OK };
        (status, Json(self)).into_response()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::model::{Event, EventSeq, ProjectId, RawJson, SourceId};

    #[test]
    fn the_usual_answer_is_what_its_fields_say() {
        let event = Event {
            seq: EventSeq(1),
            id: EventId::from_bits(u128::MAX / 3),
            project: ProjectId::from_bits(1),
            source: SourceId::from_bits(1),
            event_type: "a".parse().unwrap(),
            timestamp: jiff::Timestamp::UNIX_EPOCH,
            received_at: jiff::Timestamp::UNIX_EPOCH,
            key: None,
            metadata: RawJson::NULL,
            payload: RawJson::NULL,
        };
        let same_body = Some(true);
        for admitted in [
            Admitted::Accepted(Appended::Duplicate {
                id: event.id,
                same_body,
                same_type: same_body,
            }),
            Admitted::Accepted(Appended::New(Arc::new(event))),
            Admitted::Suppressed,
        ] {
            let answer = EventAnswer::of(&admitted);
            assert_eq!(answer.to_json(), serde_json::to_vec(&answer).unwrap());
        }
    }
}
