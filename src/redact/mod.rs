//! Takes personal data out of events: named fields, and values that are known by their form.
//!
//! What is not personal keeps its bytes. The key of a member is looked at like a text: where it says
//! something personal, that is taken out of it, or the member goes.

mod path;
mod detect;
mod text;
mod walk;
mod taken;

use crate::{
    crypto::Pseudonym,
    model::{RawJson, Redaction, RedactionMode},
};
use detect::{Detectors, Kind};
use path::{FieldPath, Root, Segment};
pub use taken::TakenValues;

/// A redaction, ready to be applied.
pub struct Redactor {
    payload: Vec<Vec<Segment>>,
    metadata: Vec<Vec<Segment>>,
    detectors: Detectors,
    mode: RedactionMode,
    pseudonym: Option<Pseudonym>,
}

/// What is wrong with a redaction, and where in it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {rule}")]
pub struct InvalidRedaction {
    pub path: String,
    pub rule: &'static str,
    pub found: &'static str,
}

/// Fields of one redaction.
const MOST_FIELDS: usize = 200;

impl Redactor {
    /// `pseudonym` makes the values of mode `hash`; without it, that mode is refused.
    pub fn new(
        redaction: &Redaction,
        pseudonym: Option<Pseudonym>,
    ) -> Result<Self, InvalidRedaction> {
        let Redaction { fields, detect, mode } = redaction;
        let wrong =
            |path: &str, rule, found| Err(InvalidRedaction { path: path.to_owned(), rule, found });
        let detectors = Detectors::of(detect);
        if fields.is_empty() && !detectors.any() {
            return wrong("", "must have `fields`, `detect`, or both", "neither");
        }
        if fields.len() > MOST_FIELDS {
            return wrong("fields", "must hold at most 200 fields", "more");
        }
        if *mode == RedactionMode::Truncate && !detectors.only_ip() {
            return wrong("detect", "must be `ip` alone in mode `truncate`", "another kind");
        }
        if *mode == RedactionMode::Hash && pseudonym.is_none() {
            return wrong("mode", "must be `drop` or `mask` here", "another mode");
        }
        let (mut payload, mut metadata) = (Vec::new(), Vec::new());
        for (place, field) in fields.iter().enumerate() {
            let Some(FieldPath { root, segments }) = FieldPath::parse(field) else {
                return wrong(&format!("fields[{place}]"), path::RULE, "another text");
            };
            match root {
                Root::Payload => payload.push(segments),
                Root::Metadata => metadata.push(segments),
            }
        }
        Ok(Self { payload, metadata, detectors, mode: *mode, pseudonym })
    }

    /// For what must not be kept at all: whatever it finds is gone for good, by `drop` or `mask`.
    pub fn before_storing(redaction: &Redaction) -> Result<Self, InvalidRedaction> {
        match redaction.mode {
            RedactionMode::Drop | RedactionMode::Mask => Self::new(redaction, None),
            RedactionMode::Hash | RedactionMode::Truncate => Err(InvalidRedaction {
                path: "mode".to_owned(),
                rule: "must be `drop` or `mask` here",
                found: "another mode",
            }),
        }
    }

    /// The payload without what is to be taken out of it; `None` where it stays as it is.
    pub fn payload(&self, payload: &RawJson) -> Option<RawJson> {
        walk::redact(self, payload, &self.payload, "null")
    }

    /// The metadata, which stays an object.
    pub fn metadata(&self, metadata: &RawJson) -> Option<RawJson> {
        walk::redact(self, metadata, &self.metadata, "{}")
    }

    /// What stands in the place of a detected value.
    fn replacement(&self, kind: Kind, value: &str) -> String {
        match self.mode {
            RedactionMode::Drop => format!("[{}]", kind.word()),
            RedactionMode::Mask => kind.mask(value),
            RedactionMode::Hash => self.hash(kind.word(), &kind.normal(value)),
            RedactionMode::Truncate => detect::truncate(value).unwrap_or_else(|| kind.mask(value)),
        }
    }

    /// What stands in the place of a named field's value. In mode `drop` nothing does, and nobody asks.
    fn named(&self, value: &str) -> String {
        match (Detectors::all().whole(value), self.mode) {
            (Some(kind), _) => self.replacement(kind, value.trim()),
            (None, RedactionMode::Hash) => self.hash("value", value),
            (None, RedactionMode::Drop | RedactionMode::Mask | RedactionMode::Truncate) => {
                let first = value.chars().next().map(String::from).unwrap_or_default();
                first + "***"
            }
        }
    }

    /// What stands in the place of a value that goes without a trace in the event itself.
    fn gone(&self, value: &str) -> String {
        let kind = Detectors::all().whole(value);
        kind.map_or_else(|| "[redacted]".to_owned(), |it| format!("[{}]", it.word()))
    }

    fn hash(&self, kind: &str, value: &str) -> String {
        // `new` made sure that there is one where the mode needs it.
        self.pseudonym.as_ref().map_or_else(|| "***".to_owned(), |it| it.of(kind, value))
    }
}

#[cfg(test)]
mod tests;
