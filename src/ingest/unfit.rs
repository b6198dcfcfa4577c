//! Why an event is not kept, for its sender and for its source's list of rejections.

use jiff::Timestamp;

use super::{traffic::Rejection, types};
use crate::{
    model::{SourceId, TypeName},
    problem::{FieldError, Problem},
    schema::Fault,
};

/// Why an event is not kept.
#[derive(Debug)]
pub enum Unfit {
    Fields(Vec<FieldError>),
    Schema { source: SourceId, event_type: TypeName, faults: Vec<Fault> },
}

impl Unfit {
    /// As errors of a request. `path` is where the event stands in it; fields have theirs already.
    pub fn into_errors(self, path: &str) -> Vec<FieldError> {
        match self {
            Self::Fields(errors) => errors,
            Self::Schema { faults, .. } => types::field_errors(path, &faults),
        }
    }

    pub fn into_problem(self) -> Problem {
        match self {
            Self::Fields(errors) => Problem::invalid(errors),
            Self::Schema { event_type, faults, .. } => types::problem(&event_type, &faults),
        }
    }

    /// What its source's list of rejections tells, and which source that is, if it is known.
    pub fn rejection(&self, at: Timestamp, ip: std::net::IpAddr) -> (Option<SourceId>, Rejection) {
        match self {
            Self::Fields(errors) => {
                let first = errors.first();
                let reason =
                    first.map(|it| format!("{}: {}; found {}", it.field, it.rule, it.found));
                (None, Rejection::new(at, "invalid_request", reason.unwrap_or_default(), ip))
            }
            Self::Schema { source, event_type, faults } => {
                let reason = types::reason(event_type, faults);
                (Some(*source), Rejection::new(at, types::CODE, reason, ip))
            }
        }
    }
}
