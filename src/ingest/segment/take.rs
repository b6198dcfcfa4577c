//! A request of Segment's clients, taken apart into events. It is work for the processor alone, and so it
//! can be done by a thread on which nobody waits.

use std::{net::IpAddr, sync::Arc};

use axum::http::{header, request::Parts};
use jiff::Timestamp;

use super::{
    answer::{Fault, RefusedRequest, TakenRequest},
    fields::MessageFields,
    key::Elsewhere,
    merge::{MessageLimits, Shared},
    message::{self, Around, Call, CompleteMessage},
};
use crate::{
    ingest::{
        Ingest, OpenSource, metadata::Circumstances, schema_checks::UncheckedEvent,
        traffic::Rejection,
    },
    model::{IdempotencyKey, NewEvent, TypeName},
    problem::Problem,
};

/// What a request says outside of its body.
#[derive(Clone)]
pub struct RequestFacts {
    /// What the path says, if it does.
    pub call: Option<Call>,
    keys: Elsewhere,
    circumstances: Result<Circumstances, Problem>,
    ip: IpAddr,
    is_browser: bool,
    pub received_at: Timestamp,
}

/// What is right of a request, and what is to be reported of the rest.
pub struct Apart {
    pub source: Arc<OpenSource>,
    /// Which message of the request each event is.
    pub places: Vec<usize>,
    pub events: Vec<UncheckedEvent>,
    pub taken: TakenRequest,
}

impl RequestFacts {
    pub fn of(ingest: &Ingest, call: Option<Call>, parts: &Parts) -> Self {
        let ip = ingest.caller_ip(parts);
        Self {
            call,
            keys: Elsewhere::of(&parts.headers, &parts.uri),
            circumstances: Circumstances::of(&parts.headers, ip),
            ip,
            is_browser: parts.headers.contains_key(header::ORIGIN),
            received_at: ingest.clock.now(),
        }
    }

    /// The caller's address.
    pub fn ip(&self) -> IpAddr {
        self.ip.to_canonical()
    }

    /// What is reported of a message that was not taken.
    pub fn rejection(&self, fault: &Fault) -> Rejection {
        Rejection::new(self.received_at, fault.code, fault.message.to_string(), self.ip())
    }
}

impl Ingest {
    pub(super) fn take_apart(
        &self,
        asked: &RequestFacts,
        body: &[u8],
    ) -> Result<Apart, RefusedRequest> {
        let fields = MessageFields::parse(body).inspect_err(|problem| {
            self.refused_whole(
                asked,
                self.opened(asked.keys.or_in(&MessageFields::default())),
                problem,
            );
        })?;
        let source = self.opened(asked.keys.or_in(&fields))?;
        let messages = fields
            .messages(asked.call.is_none())
            .and_then(|messages| Ok((messages, asked.circumstances.clone()?)));
        let (messages, circumstances) =
            messages.inspect_err(|it| self.refused_whole(asked, Ok(source.clone()), it))?;
        let around = self.around(asked, circumstances, body.len(), &fields);
        let mut taken = TakenRequest::default();
        let room = messages.len().min(self.options.segment.messages);
        let (mut places, mut events) = (Vec::with_capacity(room), Vec::with_capacity(room));
        for (place, message) in messages.into_iter().enumerate() {
            match self.segment_message(place, message, &around) {
                Ok(message) => {
                    places.push(place);
                    events.push(message.into_new(&source, &around));
                }
                Err(fault) => {
                    self.turned_away(&source, asked.rejection(&fault));
                    taken.reject(place, fault);
                }
            }
        }
        Ok(Apart { source, places, events, taken })
    }

    /// Counts a request that is refused as a whole, if its key says at which source.
    fn refused_whole(
        &self,
        asked: &RequestFacts,
        source: Result<Arc<OpenSource>, Problem>,
        problem: &Problem,
    ) {
        let rejection = Rejection::of(problem, asked.received_at, asked.ip);
        if let Some((source, rejection)) = source.ok().zip(rejection) {
            self.turned_away(&source, rejection);
        }
    }

    fn around<'a>(
        &'a self,
        asked: &RequestFacts,
        circumstances: Circumstances,
        body: usize,
        fields: &MessageFields<'a>,
    ) -> Around<'a> {
        let options = &self.options.segment;
        // Of a single call, these are the message's own.
        let of_batch = |name| fields.get(name).filter(|_| asked.call.is_none());
        let limits = MessageLimits {
            message: options.message_bytes,
            shared: options.shared_bytes.max(body),
        };
        Around {
            call: asked.call,
            received_at: asked.received_at,
            circumstances,
            ip: asked.ip.to_canonical(),
            random: self.random.as_ref(),
            is_browser: asked.is_browser,
            sent_at: of_batch("sentAt"),
            shared: Shared::of(of_batch("context"), of_batch("integrations"), limits),
        }
    }

    fn segment_message(
        &self,
        place: usize,
        message: &[u8],
        around: &Around<'_>,
    ) -> Result<CompleteMessage, Fault> {
        let options = &self.options.segment;
        if place >= options.messages {
            let text = format!("a batch must have at most {} messages", options.messages);
            return Err(Fault::new("too_many_messages", text));
        }
        if message.len() > options.message_bytes {
            let (most, found) = (options.message_bytes, message.len());
            let text = format!("a message must have at most {most} bytes; this one has {found}");
            return Err(Fault::new("message_too_large", text));
        }
        message::parse(message, around)
    }
}

impl CompleteMessage {
    fn into_new(self, source: &Arc<OpenSource>, around: &Around<'_>) -> UncheckedEvent {
        // A prefix, so that a message's id is never taken for an idempotency key of the REST API.
        let key = IdempotencyKey::trusted(&format!("messageId:{}", self.id));
        let key = Some(key).filter(|_| self.is_known);
        let event = NewEvent {
            id: None,
            project: source.project,
            source: source.id,
            event_type: TypeName::trusted(self.call.name()),
            timestamp: Some(self.timestamp),
            received_at: around.received_at,
            key,
            key_counts_for: None,
            metadata: around.circumstances.beside(&source.name, &self.odd_times.to_field()),
            payload: self.payload,
        };
        UncheckedEvent::of(event, source, true)
    }
}
