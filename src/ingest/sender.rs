//! Who posts to `/api/v1/events`, and how what is posted becomes events of a source.

use std::{fmt, sync::Arc};

use bytes::Bytes;
use jiff::Timestamp;

use super::{
    auth::{OpenSource, Session},
    batch::{self, Format},
    event::Draft,
    metadata::Circumstances,
    schema_checks::{Judged, UncheckedEvent},
    traffic::Caller,
    types::Judge,
    unfit::Unfit,
};
use crate::{
    model::{NewEvent, ProjectId, RawJson, SourceId},
    problem::{FieldError, Problem},
};

/// Who sends, and what the request tells about its events.
pub struct Sender {
    pub session: Session,
    pub project: ProjectId,
    pub received_at: Timestamp,
    pub circumstances: Circumstances,
    pub judge: Arc<Judge>,
}

/// A batch, its events apart from what was wrong with the others.
pub struct Parsed {
    pub events: Vec<UncheckedEvent>,
    /// In the order of the request; `Ok` stands for the next of `events`.
    pub items: Vec<Result<(), Unfit>>,
}

impl Sender {
    /// Whose key it is, for the counts.
    pub fn caller(&self) -> Caller {
        Caller::Key(self.session.caller.key)
    }

    /// Where a rejection is counted: at this source, or where an event is counted that names none.
    pub fn counts_at(&self, source: Option<SourceId>) -> Option<&OpenSource> {
        let sources = self.session.sources(self.project)?;
        match source {
            Some(id) => sources.with_id(id),
            None => sources.get(None).map(AsRef::as_ref),
        }
    }

    /// `payload` is the draft's, in memory that the event keeps. `path` stands before the names of fields.
    pub fn event(
        &self,
        payload: RawJson,
        draft: Draft<'_>,
        path: impl fmt::Display,
    ) -> Result<UncheckedEvent, Unfit> {
        let sources = self.session.sources(self.project);
        let source = sources.and_then(|it| it.get(draft.source.as_deref()));
        let Some(source) = source else {
            let field = format!("{path}source");
            let (rule, found) = match draft.source {
                Some(_) => (
                    "it is the name of an enabled source of kind `api` in this project",
                    "another name",
                ),
                None => ("the project has an enabled source of kind `api`: make one first", "none"),
            };
            return Err(Unfit::Fields(vec![FieldError::new(field, rule, found)]));
        };
        let metadata = match draft.metadata {
            Some(given) => self.circumstances.with(&source.name, given, &source.believed),
            None => self.circumstances.alone(&source.name),
        };
        let event = NewEvent {
            id: draft.id,
            project: self.project,
            source: source.id,
            event_type: draft.event_type,
            timestamp: draft.timestamp,
            received_at: self.received_at,
            key: draft.key,
            key_counts_for: None,
            metadata,
            payload,
        };
        let is_key_derived = event.key.is_none();
        Ok(UncheckedEvent::of(event, source, is_key_derived))
    }

    /// `most`: the bytes of one event.
    pub fn events(&self, body: &Bytes, format: Format, most: usize) -> Result<Parsed, Problem> {
        let drafts = batch::parse(body, format, most)?;
        let mut parsed = Parsed {
            events: Vec::with_capacity(drafts.len()),
            items: Vec::with_capacity(drafts.len()),
        };
        for (place, draft) in drafts.into_iter().enumerate() {
            let event = draft.map_err(Unfit::Fields).and_then(|draft| {
                let payload = body.slice_ref(draft.payload.get().as_bytes());
                self.event(RawJson::trusted(payload), draft, format_args!("events[{place}]."))
            });
            parsed.items.push(event.map(|event| parsed.events.push(event)));
        }
        Ok(parsed)
    }
}

/// What becomes of each item of a batch once its events are judged; what is kept goes to `events`.
pub fn settled(
    items: Vec<Result<(), Unfit>>,
    judged: Vec<Judged>,
    events: &mut Vec<NewEvent>,
) -> Vec<Result<(), Unfit>> {
    let mut judged = judged.into_iter();
    let mut settle = |item: Result<(), Unfit>| match (item, judged.next()) {
        (Ok(()), Some(event)) => event.map(|event| events.push(event)),
        (item, _) => item,
    };
    items.into_iter().map(|it| if it.is_ok() { settle(it) } else { it }).collect()
}
