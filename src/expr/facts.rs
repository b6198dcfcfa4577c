//! What an expression sees of an event.

use std::{
    fmt,
    sync::{Arc, LazyLock, OnceLock},
};

use bytes::Bytes;
use jiff::Timestamp;
use minijinja::value::{Enumerator, Object, Value};

use super::json;
use crate::model::{
    Altered, Event, EventId, EventSeq, Name, ProjectId, RawJson, SourceId, TypeName,
};

/// The names that every expression may use.
pub(super) const NAMES: [&str; 8] =
    ["type", "id", "timestamp", "received_at", "source", "idempotency_key", "payload", "metadata"];

/// An event, and what the steps before have found out or changed. Nothing of its JSON is read
/// before an expression looks at it, and then only once. Cheap to clone.
#[derive(Clone)]
pub struct Facts(Arc<Inner>);

/// Takes out of some JSON what a step took out of the event; `None` where nothing of it is there.
pub type Mask = Arc<dyn Fn(&RawJson) -> Option<RawJson> + Send + Sync>;

struct Inner {
    event: Arc<Event>,
    source: Option<Name>,
    event_type: TypeName,
    payload: RawJson,
    metadata: RawJson,
    /// Which of several that a step made of one, from 1.
    part: Option<u16>,
    payload_value: OnceLock<Value>,
    metadata_value: OnceLock<Value>,
    /// What steps have added, such as `person`.
    results: Vec<(Box<str>, Value)>,
    /// Why whatever becomes of it is dead from the start.
    doom: Option<Arc<str>>,
    /// What steps took out, and takes it out of whatever comes later.
    masks: Vec<Mask>,
}

impl Facts {
    pub fn new(event: Arc<Event>, source: Option<Name>) -> Self {
        let event_type = event.event_type.clone();
        let (payload, metadata) = (event.payload.clone(), event.metadata.clone());
        Self(Arc::new(Inner {
            event,
            source,
            event_type,
            payload,
            metadata,
            part: None,
            payload_value: OnceLock::new(),
            metadata_value: OnceLock::new(),
            results: Vec::new(),
            doom: None,
            masks: Vec::new(),
        }))
    }

    /// Nothing but results, which are added: for expressions over something else than an event.
    pub fn bare() -> Self {
        static NOTHING: LazyLock<Arc<Event>> = LazyLock::new(|| Arc::new(nothing()));
        Self::new(NOTHING.clone(), None)
    }

    /// The same event with another payload, as the steps after this one see it.
    pub fn with_payload(&self, payload: RawJson) -> Self {
        let mut next = self.copy();
        next.payload_value = OnceLock::new();
        next.payload = payload;
        Self(Arc::new(next))
    }

    pub fn with_metadata(&self, metadata: RawJson) -> Self {
        let mut next = self.copy();
        next.metadata_value = OnceLock::new();
        next.metadata = metadata;
        Self(Arc::new(next))
    }

    pub fn with_type(&self, event_type: TypeName) -> Self {
        Self(Arc::new(Inner { event_type, ..self.copy() }))
    }

    /// The same as one of several.
    pub fn as_part(&self, part: u16) -> Self {
        Self(Arc::new(Inner { part: Some(part), ..self.copy() }))
    }

    /// The same with what a step found out, under a name of its own.
    pub fn with_result(&self, name: &str, result: &RawJson) -> Self {
        self.with_results([(name, result)], None)
    }

    /// The same with several of them, and with another payload if there is one.
    pub fn with_results<const COUNT: usize>(
        &self,
        results: [(&str, &RawJson); COUNT],
        payload: Option<RawJson>,
    ) -> Self {
        let mut next = self.copy();
        for (name, result) in results {
            next.results.retain(|(it, _)| **it != *name);
            next.results.push((name.into(), json::value(result.bytes())));
        }
        if let Some(payload) = payload {
            next.payload_value = OnceLock::new();
            next.payload = payload;
        }
        Self(Arc::new(next))
    }

    /// The same, of which nothing is to be sent, for this reason.
    pub fn doomed(&self, reason: &str) -> Self {
        let mut next = self.copy();
        next.doom.get_or_insert_with(|| reason.into());
        Self(Arc::new(next))
    }

    pub fn doom(&self) -> Option<&str> {
        self.0.doom.as_deref()
    }

    /// The same, of which a step has taken something out.
    pub fn with_mask(&self, mask: Mask) -> Self {
        let mut next = self.copy();
        next.masks.push(mask);
        Self(Arc::new(next))
    }

    /// Some JSON from elsewhere, without what steps have taken out of the event.
    pub fn masked(&self, json: &RawJson) -> RawJson {
        let mut json = json.clone();
        for mask in &self.0.masks {
            json = mask(&json).unwrap_or(json);
        }
        json
    }

    /// What a step found out, as JSON.
    pub fn result(&self, name: &str) -> Option<RawJson> {
        let (_, value) = self.0.results.iter().find(|(it, _)| **it == *name)?;
        let mut out = Vec::new();
        json::write(value, &mut out);
        Some(RawJson::trusted(out))
    }

    /// All that steps found out, as JSON.
    pub fn results(&self) -> impl Iterator<Item = (&str, RawJson)> {
        self.0.results.iter().map(|(name, value)| {
            let mut out = Vec::new();
            json::write(value, &mut out);
            (&**name, RawJson::trusted(out))
        })
    }

    pub fn event(&self) -> &Arc<Event> {
        &self.0.event
    }

    /// The payload as the steps so far have left it.
    pub fn payload(&self) -> &RawJson {
        &self.0.payload
    }

    pub fn metadata(&self) -> &RawJson {
        &self.0.metadata
    }

    pub fn event_type(&self) -> &TypeName {
        &self.0.event_type
    }

    pub fn source(&self) -> Option<&Name> {
        self.0.source.as_ref()
    }

    pub fn part(&self) -> Option<u16> {
        self.0.part
    }

    /// What differs from the event; `None` where nothing does.
    pub fn altered(&self) -> Option<Arc<Altered>> {
        let Inner { event, event_type, payload, metadata, part, .. } = &*self.0;
        let altered = Altered {
            event_type: (*event_type != event.event_type).then(|| event_type.clone()),
            payload: (*payload != event.payload).then(|| payload.clone()),
            metadata: (*metadata != event.metadata).then(|| metadata.clone()),
            part: *part,
        };
        (altered != Altered::default()).then(|| Arc::new(altered))
    }

    fn copy(&self) -> Inner {
        let it = &self.0;
        Inner {
            event: it.event.clone(),
            source: it.source.clone(),
            event_type: it.event_type.clone(),
            payload: it.payload.clone(),
            metadata: it.metadata.clone(),
            part: it.part,
            payload_value: it.payload_value.clone(),
            metadata_value: it.metadata_value.clone(),
            results: it.results.clone(),
            doom: it.doom.clone(),
            masks: it.masks.clone(),
        }
    }

    pub(super) fn root(&self) -> Value {
        Value::from_dyn_object(self.0.clone())
    }

    pub(super) fn get(&self, name: &str) -> Option<Value> {
        self.0.get(name)
    }

    #[cfg(test)]
    pub(super) fn was_read(&self) -> bool {
        self.0.payload_value.get().is_some() || self.0.metadata_value.get().is_some()
    }
}

fn nothing() -> Event {
    Event {
        seq: EventSeq(0),
        id: EventId::from_bits(0),
        project: ProjectId::from_bits(0),
        source: SourceId::from_bits(0),
        event_type: TypeName::trusted("none"),
        timestamp: Timestamp::UNIX_EPOCH,
        received_at: Timestamp::UNIX_EPOCH,
        key: None,
        metadata: RawJson::NULL,
        payload: RawJson::NULL,
    }
}

impl Inner {
    fn get(&self, name: &str) -> Option<Value> {
        let event = &self.event;
        Some(match name {
            "payload" => part(&self.payload_value, self.payload.bytes()),
            "type" => Value::from(self.event_type.as_str()),
            "metadata" => part(&self.metadata_value, self.metadata.bytes()),
            "id" => Value::from(event.id.to_string()),
            "timestamp" => Value::from(event.timestamp.to_string()),
            "received_at" => Value::from(event.received_at.to_string()),
            "source" => Value::from(self.source.as_ref()?.as_str()),
            "idempotency_key" => Value::from(event.key.as_ref()?.as_str()),
            _ => self.results.iter().find(|(it, _)| **it == *name)?.1.clone(),
        })
    }
}

fn part(value: &OnceLock<Value>, bytes: &Bytes) -> Value {
    value.get_or_init(|| json::value(bytes)).clone()
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the facts of {}", self.event.id)
    }
}

impl Object for Inner {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.get(key.as_str()?)
    }

    fn get_value_by_str(self: &Arc<Self>, key: &str) -> Option<Value> {
        self.get(key)
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::NonEnumerable
    }
}
