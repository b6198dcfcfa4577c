//! Stored JSON as values of the engine, read only as far as an expression looks, and values as JSON
//! again.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, OnceLock},
};

use bytes::Bytes;
use minijinja::value::{Enumerator, Object, ObjectRepr, Value, ValueKind};

use crate::model::json::{self, scan, text};

/// An object or a list, as the bytes in which it came. What is inside is found when it is first
/// looked for, and then kept.
pub(super) struct Json {
    bytes: Bytes,
    content: OnceLock<ValueContent>,
}

enum ValueContent {
    Map(ObjectFields),
    List(Vec<ValueSlot>),
}

struct ObjectFields {
    entries: Vec<ObjectEntry>,
    /// Made for large objects only: a look along a few keys is faster.
    places: Option<HashMap<Box<[u8]>, usize>>,
}

struct ObjectEntry {
    /// In bytes, since a name may be no text; see [`text::name`].
    name: Box<[u8]>,
    /// How an expression that walks over all names sees such a one.
    shown: Option<Box<str>>,
    slot: ValueSlot,
}

struct ValueSlot {
    raw: Bytes,
    value: OnceLock<Value>,
}

/// A number that neither 128 bits nor a double hold. It is compared as a double, and is a key, a lane
/// and a text as it is written, so that two such numbers stay two.
#[derive(Debug)]
pub(super) struct Large {
    written: Box<str>,
    rounded: f64,
}

impl Object for Large {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.written)
    }
}

/// The nearest double, where a value is a number that is none.
pub(super) fn rounded(value: &Value) -> Option<Value> {
    value.downcast_object_ref::<Large>().map(|it| Value::from(it.rounded))
}

/// A number of that kind, as it is written.
pub(super) fn written(value: &Value) -> Option<&str> {
    value.downcast_object_ref::<Large>().map(|it| &*it.written)
}

/// Up to here, keys are compared one after the other.
const FEW_KEYS: usize = 24;

/// The value of these bytes, which are JSON. Objects and lists stay unread.
pub(super) fn value(raw: &Bytes) -> Value {
    let raw = &match raw.first() {
        Some(b' ' | b'\t' | b'\n' | b'\r') => raw.slice_ref(raw.trim_ascii()),
        Some(_) | None => raw.clone(),
    };
    match raw.first() {
        Some(b'{' | b'[') => {
            Value::from_object(Json { bytes: raw.clone(), content: OnceLock::new() })
        }
        Some(b'"') => json::lossy_text(raw).map_or(Value::from(()), |it| Value::from(it.as_ref())),
        Some(b't') => Value::from(true),
        Some(b'f') => Value::from(false),
        Some(b'n') | None => Value::from(()),
        Some(_) => number(raw),
    }
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
    let Ok(float) = text.parse::<f64>() else { return Value::from(()) };
    let mantissa = text.split(['e', 'E']).next().unwrap_or_default();
    let is_whole = !text.contains(['.', 'e', 'E']);
    let vanishes = float == 0.0 && mantissa.contains(|it: char| matches!(it, '1'..='9'));
    if is_whole || float.is_infinite() || vanishes {
        return Value::from_object(Large { written: text.into(), rounded: float });
    }
    Value::from(float)
}

impl Json {
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    fn content(&self) -> &ValueContent {
        self.content.get_or_init(|| read(&self.bytes))
    }

    fn field(&self, key: &str) -> Option<Value> {
        self.slot(key).map(ValueSlot::value)
    }

    /// A field as the bytes in which it came.
    pub fn raw_field(&self, key: &str) -> Option<&Bytes> {
        self.slot(key).map(|it| &it.raw)
    }

    fn slot(&self, key: &str) -> Option<&ValueSlot> {
        match self.content() {
            ValueContent::Map(fields) => fields.get(key),
            ValueContent::List(_) => None,
        }
    }
}

impl ObjectFields {
    fn get(&self, key: &str) -> Option<&ValueSlot> {
        let place = match &self.places {
            Some(places) => places.get(key.as_bytes()).copied(),
            None => self.entries.iter().position(|it| *it.name == *key.as_bytes()),
        };
        let entry = match place {
            Some(place) => self.entries.get(place),
            None if !key.contains("\\u") => None,
            None => self.entries.iter().rfind(|it| it.shown.as_deref() == Some(key)),
        };
        entry.map(|it| &it.slot)
    }
}

impl ValueSlot {
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
            ValueContent::List(items) => items.get(key.as_usize()?).map(ValueSlot::value),
            ValueContent::Map(_) => None,
        }
    }

    fn get_value_by_str(self: &Arc<Self>, key: &str) -> Option<Value> {
        self.field(key)
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        match self.content() {
            ValueContent::Map(fields) => Enumerator::Values(
                fields.entries.iter().map(|it| Value::from(it.shown())).collect(),
            ),
            ValueContent::List(items) => Enumerator::Seq(items.len()),
        }
    }

    fn enumerator_len(self: &Arc<Self>) -> Option<usize> {
        Some(match self.content() {
            ValueContent::Map(fields) => fields.entries.len(),
            ValueContent::List(items) => items.len(),
        })
    }

    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(std::str::from_utf8(&self.bytes).unwrap_or_default())
    }
}

/// One pass over an object or a list, which remembers where its parts are.
fn read(bytes: &Bytes) -> ValueContent {
    let slot = |raw: &[u8]| ValueSlot { raw: bytes.slice_ref(raw), value: OnceLock::new() };
    // What is stored was checked when it came in. If it is damaged all the same, it has no fields.
    if bytes.first() != Some(&b'{') {
        let items = scan::elements(bytes).unwrap_or_default();
        return ValueContent::List(items.into_iter().map(slot).collect());
    }
    let object = json::Object::read(bytes).unwrap_or_default();
    let entry = |it: json::Field<'_>| {
        let is_text = std::str::from_utf8(&it.name).is_ok();
        let shown = (!is_text).then(|| text::shown_name(it.inner).into());
        ObjectEntry { name: it.name.into(), shown, slot: slot(it.value) }
    };
    let entries: Vec<ObjectEntry> = object.into_fields().into_iter().map(entry).collect();
    let places = (entries.len() > FEW_KEYS)
        .then(|| entries.iter().enumerate().map(|(place, it)| (it.name.clone(), place)).collect());
    ValueContent::Map(ObjectFields { entries, places })
}

impl ObjectEntry {
    fn shown(&self) -> &str {
        let text = std::str::from_utf8(&self.name).unwrap_or_default();
        self.shown.as_deref().unwrap_or(text)
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
    if let Some(number) = written(value) {
        out.extend_from_slice(number.as_bytes());
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
