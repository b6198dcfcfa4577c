//! Stored JSON as values of the engine, read only as far as an expression looks, and values as JSON
//! again.

use std::{
    borrow::Cow,
    collections::HashMap,
    fmt,
    sync::{Arc, OnceLock},
};

use bytes::Bytes;
use minijinja::value::{Enumerator, Object, ObjectRepr, Value, ValueKind};
use serde::{
    Deserializer,
    de::{MapAccess, SeqAccess, Visitor},
};
use serde_json::value::RawValue;

/// An object or a list, as the bytes in which it came. What is inside is found when it is first
/// looked for, and then kept.
pub(super) struct Json {
    bytes: Bytes,
    content: OnceLock<Content>,
}

enum Content {
    Map(Fields),
    List(Vec<Slot>),
}

struct Fields {
    entries: Vec<(Box<str>, Slot)>,
    /// Made for large objects only: a look along a few keys is faster.
    places: Option<HashMap<Box<str>, usize>>,
}

struct Slot {
    raw: Bytes,
    value: OnceLock<Value>,
}

/// Up to here, keys are compared one after the other.
const FEW_KEYS: usize = 24;

/// The value of these bytes, which are JSON. Objects and lists stay unread.
pub(super) fn value(raw: &Bytes) -> Value {
    match raw.first() {
        Some(b'{' | b'[') => {
            Value::from_object(Json { bytes: raw.clone(), content: OnceLock::new() })
        }
        Some(b'"') => text(raw).map_or(Value::from(()), |it| Value::from(it.as_ref())),
        Some(b't') => Value::from(true),
        Some(b'f') => Value::from(false),
        Some(b'n') | None => Value::from(()),
        Some(_) => number(raw),
    }
}

fn text(raw: &[u8]) -> Option<Cow<'_, str>> {
    if let [b'"', inner @ .., b'"'] = raw
        && !inner.contains(&b'\\')
    {
        return std::str::from_utf8(inner).ok().map(Cow::Borrowed);
    }
    serde_json::from_slice::<String>(raw).ok().map(Cow::Owned)
}

/// Integers are exact up to 128 bits; what is larger or has a fraction is a float.
fn number(raw: &[u8]) -> Value {
    let text = std::str::from_utf8(raw).unwrap_or_default();
    if let Ok(it) = text.parse::<i64>() {
        return if text == "-0" { Value::from(-0.0) } else { Value::from(it) };
    }
    if let Ok(it) = text.parse::<i128>() {
        return Value::from(it);
    }
    if let Ok(it) = text.parse::<u128>() {
        return Value::from(it);
    }
    text.parse::<f64>().map_or(Value::from(()), Value::from)
}

impl Json {
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    fn content(&self) -> &Content {
        self.content.get_or_init(|| read(&self.bytes))
    }

    fn field(&self, key: &str) -> Option<Value> {
        self.slot(key).map(Slot::value)
    }

    /// A field as the bytes in which it came.
    pub fn raw_field(&self, key: &str) -> Option<&Bytes> {
        self.slot(key).map(|it| &it.raw)
    }

    fn slot(&self, key: &str) -> Option<&Slot> {
        match self.content() {
            Content::Map(fields) => fields.get(key),
            Content::List(_) => None,
        }
    }
}

impl Fields {
    fn get(&self, key: &str) -> Option<&Slot> {
        match &self.places {
            Some(places) => places.get(key).map(|place| &self.entries[*place].1),
            None => self.entries.iter().find(|(name, _)| **name == *key).map(|(_, slot)| slot),
        }
    }
}

impl Slot {
    fn value(&self) -> Value {
        self.value.get_or_init(|| value(&self.raw)).clone()
    }
}

impl fmt::Debug for Json {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(std::str::from_utf8(&self.bytes).unwrap_or_default())
    }
}

impl Object for Json {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        if self.bytes.first() == Some(&b'{') { ObjectRepr::Map } else { ObjectRepr::Seq }
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        if let Some(key) = key.as_str() {
            return self.field(key);
        }
        match self.content() {
            Content::List(items) => items.get(key.as_usize()?).map(Slot::value),
            Content::Map(_) => None,
        }
    }

    fn get_value_by_str(self: &Arc<Self>, key: &str) -> Option<Value> {
        self.field(key)
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        match self.content() {
            Content::Map(fields) => Enumerator::Values(
                fields.entries.iter().map(|(key, _)| Value::from(&**key)).collect(),
            ),
            Content::List(items) => Enumerator::Seq(items.len()),
        }
    }

    fn enumerator_len(self: &Arc<Self>) -> Option<usize> {
        Some(match self.content() {
            Content::Map(fields) => fields.entries.len(),
            Content::List(items) => items.len(),
        })
    }

    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(std::str::from_utf8(&self.bytes).unwrap_or_default())
    }
}

/// One pass over an object or a list, which remembers where its parts are.
fn read(bytes: &Bytes) -> Content {
    struct Parts<'a>(&'a Bytes);

    impl<'de> Visitor<'de> for Parts<'de> {
        type Value = Content;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object or a list")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Content, A::Error> {
            let mut entries: Vec<(Box<str>, Slot)> = Vec::new();
            while let Some(key) = map.next_key::<KeyText<'de>>()? {
                let slot = Slot::of(self.0, map.next_value::<&'de RawValue>()?);
                entries.push((key.0.into(), slot));
            }
            Ok(Content::Map(Fields::of(entries)))
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Content, A::Error> {
            let mut items = Vec::new();
            while let Some(raw) = list.next_element::<&'de RawValue>()? {
                items.push(Slot::of(self.0, raw));
            }
            Ok(Content::List(items))
        }
    }

    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    // What is stored was checked when it came in. If it is damaged all the same, it has no fields.
    deserializer.deserialize_any(Parts(bytes)).unwrap_or_else(|_| Content::List(Vec::new()))
}

#[derive(serde::Deserialize)]
struct KeyText<'a>(#[serde(borrow)] Cow<'a, str>);

impl Slot {
    fn of(whole: &Bytes, raw: &RawValue) -> Self {
        Self { raw: whole.slice_ref(raw.get().as_bytes()), value: OnceLock::new() }
    }
}

impl Fields {
    /// Of a key that stands twice, the last one counts, at the place of the first.
    fn of(entries: Vec<(Box<str>, Slot)>) -> Self {
        let mut kept: Vec<(Box<str>, Slot)> = Vec::with_capacity(entries.len());
        if entries.len() <= FEW_KEYS {
            for (key, slot) in entries {
                match kept.iter_mut().find(|(name, _)| *name == key) {
                    Some((_, old)) => *old = slot,
                    None => kept.push((key, slot)),
                }
            }
            return Self { entries: kept, places: None };
        }
        let mut places: HashMap<Box<str>, usize> = HashMap::with_capacity(entries.len());
        for (key, slot) in entries {
            match places.get(&key).copied() {
                Some(place) => kept[place].1 = slot,
                None => {
                    places.insert(key.clone(), kept.len());
                    kept.push((key, slot));
                }
            }
        }
        Self { entries: kept, places: Some(places) }
    }
}

/// Writes a value as JSON. What came from JSON goes back byte for byte. A missing value is left out
/// of an object and is `null` in a list.
pub(super) fn write(value: &Value, out: &mut Vec<u8>) {
    write_at(value, out, 0);
}

/// Deeper than this, a value that an expression built is cut off. What is stored is less deep.
const DEEPEST: usize = 128;

fn write_at(value: &Value, out: &mut Vec<u8>, depth: usize) {
    if let Some(json) = value.downcast_object_ref::<Json>() {
        out.extend_from_slice(json.bytes());
        return;
    }
    match value.kind() {
        ValueKind::Bool => out.extend_from_slice(if value.is_true() { b"true" } else { b"false" }),
        ValueKind::Number => write_number(value, out),
        ValueKind::Seq | ValueKind::Iterable if depth < DEEPEST => {
            out.push(b'[');
            for (place, item) in value.try_iter().into_iter().flatten().enumerate() {
                if place > 0 {
                    out.push(b',');
                }
                write_at(&item, out, depth + 1);
            }
            out.push(b']');
        }
        ValueKind::Map if depth < DEEPEST => write_map(value, out, depth),
        _ => match value.as_str() {
            Some(text) => write_text(text, out),
            None => out.extend_from_slice(b"null"),
        },
    }
}

fn write_map(value: &Value, out: &mut Vec<u8>, depth: usize) {
    out.push(b'{');
    let mut is_first = true;
    for key in value.try_iter().into_iter().flatten() {
        let Ok(item) = value.get_item(&key) else { continue };
        if item.is_undefined() {
            continue;
        }
        if !is_first {
            out.push(b',');
        }
        is_first = false;
        match key.as_str() {
            Some(key) => write_text(key, out),
            None => write_text(&key.to_string(), out),
        }
        out.push(b':');
        write_at(&item, out, depth + 1);
    }
    out.push(b'}');
}

fn write_number(value: &Value, out: &mut Vec<u8>) {
    if value.is_integer() {
        out.extend_from_slice(value.to_string().as_bytes());
        return;
    }
    // Infinity and NaN have no JSON.
    let float = f64::try_from(value.clone()).ok().and_then(serde_json::Number::from_f64);
    match float {
        Some(it) => out.extend_from_slice(it.to_string().as_bytes()),
        None => out.extend_from_slice(b"null"),
    }
}

pub(super) fn write_text(text: &str, out: &mut Vec<u8>) {
    // Writing a text to memory does not fail.
    let _ = serde_json::to_writer(out, text);
}
