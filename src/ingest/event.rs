//! One event as it is written in a request: taken apart in one pass, its payload left as it came.

use std::{borrow::Cow, collections::BTreeMap, fmt};

use jiff::Timestamp;
use serde::{
    Deserialize,
    de::{self, DeserializeSeed, IgnoredAny, MapAccess, Visitor},
};
use serde_json::value::RawValue;

use super::shape;
use crate::{
    model::{EventId, IdempotencyKey, TypeName, moment},
    problem::{FieldError, Kind, Problem, kind_of_json},
};

/// What the sender said about an event, checked.
#[derive(Debug)]
pub struct Draft<'a> {
    pub event_type: TypeName,
    /// Exactly the bytes that came.
    pub payload: &'a RawValue,
    pub id: Option<EventId>,
    pub timestamp: Option<Timestamp>,
    pub key: Option<IdempotencyKey>,
    /// An object.
    pub metadata: Option<&'a RawValue>,
    /// The name of a source.
    pub source: Option<Cow<'a, str>>,
}

/// Why a text is no event.
#[derive(Debug)]
pub enum NoEvent {
    /// It is not JSON: what is wrong, and where.
    Json(String),
    Fields(Vec<FieldError>),
}

impl From<NoEvent> for Problem {
    fn from(error: NoEvent) -> Self {
        match error {
            NoEvent::Json(detail) => Self::new(Kind::InvalidJson).detail(detail),
            NoEvent::Fields(errors) => Self::invalid(errors),
        }
    }
}

/// Parses one event. `path` is where it stands, for the names of fields: empty, or `events[3]`.
pub fn parse<'a>(json: &'a [u8], path: &str) -> Result<Draft<'a>, NoEvent> {
    if let Err(error) = shape::check(json) {
        let here = if path.is_empty() { "body" } else { path };
        return Err(NoEvent::Fields(vec![FieldError::new(here, error.to_string(), "more")]));
    }
    let found = kind_of_json(json);
    if found != "an object" {
        let here = if path.is_empty() { "body" } else { path };
        let rule = "must be an object with `type` and `payload`";
        return Err(NoEvent::Fields(vec![FieldError::new(here, rule, found)]));
    }
    let mut fields = EventFields { path, errors: Vec::new(), seen: [None; FIELDS.len()] };
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    let parsed = FieldsSeed(&mut fields).deserialize(&mut deserializer);
    parsed.and_then(|()| deserializer.end()).map_err(|error| NoEvent::Json(syntax(&error)))?;
    fields.into_draft().map_err(NoEvent::Fields)
}

/// What is wrong with a JSON text and where, without repeating anything of it.
pub fn syntax(error: &serde_json::Error) -> String {
    match error.classify() {
        serde_json::error::Category::Syntax | serde_json::error::Category::Eof => error.to_string(),
        serde_json::error::Category::Data | serde_json::error::Category::Io => {
            format!("unexpected value at line {} column {}", error.line(), error.column())
        }
    }
}

const FIELDS: [&str; 7] =
    ["type", "payload", "id", "timestamp", "idempotency_key", "metadata", "source"];
const TYPE: usize = 0;
const PAYLOAD: usize = 1;
const ID: usize = 2;
const TIMESTAMP: usize = 3;
const IDEMPOTENCY_KEY: usize = 4;
const METADATA: usize = 5;
const SOURCE: usize = 6;

/// The fields of an event, each still as JSON.
struct EventFields<'a, 'p> {
    path: &'p str,
    errors: Vec<FieldError>,
    seen: [Option<&'a RawValue>; FIELDS.len()],
}

impl<'a> EventFields<'a, '_> {
    fn into_draft(mut self) -> Result<Draft<'a>, Vec<FieldError>> {
        let event_type = match self.seen[TYPE] {
            Some(_) => self.text(TYPE, |text| text.parse::<TypeName>().map_err(|it| it.rule)),
            None => self.missing(TYPE, "an event has a type, such as `user.signed_up`"),
        };
        let payload = match self.seen[PAYLOAD] {
            Some(payload) => Some(payload),
            None => self.missing(PAYLOAD, "an event has a payload: any JSON value"),
        };
        let id = self.text(ID, parse_id);
        let timestamp = self.text(TIMESTAMP, |text| moment::parse(text).map_err(|it| it.rule()));
        let key =
            self.text(IDEMPOTENCY_KEY, |text| IdempotencyKey::given(text).map_err(|it| it.rule));
        let metadata = self.given(METADATA);
        if let Some(metadata) = metadata
            && !metadata.get().starts_with('{')
        {
            self.wrong(METADATA, "must be an object", kind_of_json(metadata.get().as_bytes()));
        }
        if metadata.is_some_and(|it| it.get().starts_with('{') && !has_plain_names(it)) {
            self.wrong(
                METADATA,
                "must have names that are well-formed Unicode",
                "half a character",
            );
        }
        let source = self.given(SOURCE).and_then(|raw| {
            let text = text_of(raw);
            if text.is_none() {
                self.wrong(
                    SOURCE,
                    "must be the name of a source",
                    kind_of_json(raw.get().as_bytes()),
                );
            }
            text
        });
        match (event_type, payload) {
            (Some(event_type), Some(payload)) if self.errors.is_empty() => {
                Ok(Draft { event_type, payload, id, timestamp, key, metadata, source })
            }
            _ => Err(self.errors),
        }
    }

    /// A field that may be left out or `null`.
    fn given(&self, field: usize) -> Option<&'a RawValue> {
        self.seen[field].filter(|raw| raw.get() != "null")
    }

    /// A string that means something; what is wrong with it is noted.
    fn text<T>(
        &mut self,
        field: usize,
        parse: impl Fn(&str) -> Result<T, &'static str>,
    ) -> Option<T> {
        // A type of `null` is not the same as none: it was meant to be there.
        let raw = if field == TYPE { self.seen[field] } else { self.given(field) }?;
        match text_of(raw).map(|text| parse(&text)) {
            Some(Ok(value)) => return Some(value),
            Some(Err(rule)) => self.wrong(field, rule, "another string"),
            None => {
                let rule = parse("").err().unwrap_or("it is a string");
                self.wrong(field, rule, kind_of_json(raw.get().as_bytes()));
            }
        }
        None
    }

    fn missing<T>(&mut self, field: usize, rule: &'static str) -> Option<T> {
        self.wrong(field, rule, "nothing");
        None
    }

    fn wrong(&mut self, field: usize, rule: &'static str, found: &'static str) {
        let field = self.name(FIELDS[field]);
        self.errors.push(FieldError::new(field, rule, found));
    }

    fn name(&self, field: &str) -> String {
        if self.path.is_empty() { field.to_owned() } else { format!("{}.{field}", self.path) }
    }
}

/// Whether each name of an object is a text. JSON also knows half a pair of surrogates, which is none, and
/// the name could not be distinguished from ours.
fn has_plain_names(object: &RawValue) -> bool {
    let is_suspect = object.get().contains(r"\ud") || object.get().contains(r"\uD");
    !is_suspect || serde_json::from_str::<BTreeMap<String, IgnoredAny>>(object.get()).is_ok()
}

/// The text of a JSON string, borrowed where nothing is escaped.
fn text_of(raw: &RawValue) -> Option<Cow<'_, str>> {
    let inner = raw.get().strip_prefix('"')?.strip_suffix('"')?;
    if inner.contains('\\') {
        serde_json::from_str(raw.get()).ok().map(Cow::Owned)
    } else {
        Some(Cow::Borrowed(inner))
    }
}

fn parse_id(text: &str) -> Result<EventId, &'static str> {
    const RULE: &str = "an id is `evt_` and a UUIDv7 in 26 digits of Crockford's base 32";
    let id: EventId = text.parse().map_err(|_| RULE)?;
    // The version stands at bit 76, the variant at bit 62. Without them, two ids could differ only in
    // what a delivery's id replaces.
    let is_version_7 = id.bits() >> 76 & 0xf == 7 && id.bits() >> 62 & 0b11 == 0b10;
    if is_version_7 { Ok(id) } else { Err(RULE) }
}

struct FieldsSeed<'f, 'a, 'p>(&'f mut EventFields<'a, 'p>);

impl<'a> DeserializeSeed<'a> for FieldsSeed<'_, 'a, '_> {
    type Value = ();

    fn deserialize<D: de::Deserializer<'a>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'a> Visitor<'a> for FieldsSeed<'_, 'a, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an event")
    }

    fn visit_map<M: MapAccess<'a>>(self, mut map: M) -> Result<(), M::Error> {
        while let Some(name) = map.next_key::<FieldName>()? {
            let value: &'a RawValue = map.next_value()?;
            match name {
                FieldName::Known(field) if self.0.seen[field].is_none() => {
                    self.0.seen[field] = Some(value);
                }
                FieldName::Known(field) => {
                    self.0.wrong(field, "must be given only once", "another");
                }
                FieldName::Unknown(name) => {
                    const RULE: &str = "an event has the fields `type`, `payload`, `id`, `timestamp`, \
                         `idempotency_key`, `metadata` and `source`, and no other";
                    let found = kind_of_json(value.get().as_bytes());
                    let field = self.0.name(&name);
                    self.0.errors.push(FieldError::new(field, RULE, found));
                }
            }
        }
        Ok(())
    }
}

enum FieldName {
    Known(usize),
    /// The first characters of it.
    Unknown(String),
}

impl<'de> Deserialize<'de> for FieldName {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NameVisitor;
        impl Visitor<'_> for NameVisitor {
            type Value = FieldName;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a field's name")
            }

            fn visit_str<E: de::Error>(self, name: &str) -> Result<FieldName, E> {
                const SHOWN: usize = 64;
                Ok(match FIELDS.iter().position(|it| *it == name) {
                    Some(field) => FieldName::Known(field),
                    None => FieldName::Unknown(name.chars().take(SHOWN).collect()),
                })
            }
        }
        deserializer.deserialize_str(NameVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn errors(json: &str) -> String {
        match parse(json.as_bytes(), "") {
            Ok(_) => "none".to_owned(),
            Err(NoEvent::Json(detail)) => format!("json: {detail}"),
            Err(NoEvent::Fields(errors)) => {
                let each = errors.iter().map(|it| format!("{} has {}", it.field, it.found));
                each.collect::<Vec<_>>().join(", ")
            }
        }
    }

    #[test]
    fn every_wrong_field_is_named_with_the_kind_of_what_it_has() {
        for (json, expected) in [
            (r#"{"type":"a","payload":null}"#, "none"),
            (r#"{"type":"a","payload":1,"id":null,"timestamp":null,"metadata":null}"#, "none"),
            (r#"{"type":"a"}"#, "payload has nothing"),
            (r#"{"type":null,"payload":1}"#, "type has null"),
            (r#"{}"#, "type has nothing, payload has nothing"),
            (r#"{"type":7,"payload":1}"#, "type has a number"),
            (r#"{"type":"a b","payload":1}"#, "type has another string"),
            (r#"{"type":"a","payload":1,"id":"evt_1"}"#, "id has another string"),
            (
                r#"{"type":"a","payload":1,"id":"evt_00000000000000000000000000"}"#,
                "id has another string",
            ),
            (r#"{"type":"a","payload":1,"timestamp":1700000000}"#, "timestamp has a number"),
            (
                r#"{"type":"a","payload":1,"timestamp":"2026-01-31"}"#,
                "timestamp has another string",
            ),
            (
                r#"{"type":"a","payload":1,"idempotency_key":""}"#,
                "idempotency_key has another string",
            ),
            (r#"{"type":"a","payload":1,"metadata":[]}"#, "metadata has an array"),
            (r#"{"type":"a","payload":1,"metadata":{"a":"\ud800","\ud83d\ude00":1}}"#, "none"),
            (
                r#"{"type":"a","payload":1,"metadata":{"\ud800":1}}"#,
                "metadata has half a character",
            ),
            (r#"{"type":"a","payload":1,"source":{}}"#, "source has an object"),
            (r#"{"type":"a","payload":1,"Payload":{}}"#, "Payload has an object"),
            (r#"{"type":"a","type":"b","payload":1}"#, "type has another"),
            (r#"[1]"#, "body has an array"),
            (r#""secret""#, "body has a string"),
            ("", "body has nothing"),
            (r#"{"type":"a","payload":}"#, "json: expected value at line 1 column 23"),
            (r#"{"type":"a","payload":1} x"#, "json: trailing characters at line 1 column 26"),
            (r#"{"type":"a","payload":1"#, "json: EOF while parsing an object at line 1 column 23"),
        ] {
            assert_eq!(errors(json), expected, "{json}");
        }
    }

    #[test]
    fn errors_never_repeat_a_value() {
        let json = r#"{"type":"hunter2!","payload":1,"id":"hunter2","metadata":"hunter2"}"#;
        let Err(NoEvent::Fields(errors)) = parse(json.as_bytes(), "events[3]") else { panic!() };
        assert_eq!(errors.len(), 3);
        assert!(!format!("{errors:?}").contains("hunter2"));
        assert_eq!(errors[0].field, "events[3].type");
    }

    #[test]
    fn the_payload_keeps_its_bytes() {
        let json = r#"{"payload" : {"b":1.50, "a":1e2,"b":"\u00e9"} ,"type":"a\u002eb"}"#;
        let draft = parse(json.as_bytes(), "").unwrap();
        assert_eq!(draft.payload.get(), r#"{"b":1.50, "a":1e2,"b":"\u00e9"}"#);
        assert_eq!(draft.event_type.as_str(), "a.b");
    }
}
