//! JSON of senders, read by the gateway's reader and by a second, slow one: whatever looks into an event
//! must find what the second finds. For the fuzzers.

use std::sync::{Arc, LazyLock};

use jiff::Timestamp;
use serde_json::json;

use super::{
    promise::Broken,
    slow::{self, Slow},
};
use crate::{
    expr::{Condition, Expression, Facts, Key, Mapping, Names},
    ingest::{segment::parsers as segment, shape},
    model::{
        Event, EventId, EventSeq, Person, ProjectId, RawJson, SourceId, TypeName, json::trimmed,
    },
};

/// Fields that are looked for: what the corpus and the fuzzer's changes have often.
const NAMES: [&str; 5] = ["a", "b", "userId", "user_id", "id"];

/// What is compiled once.
struct Programs {
    map: Mapping,
    is_x: Condition,
    is_more: Condition,
    text: Expression,
    lane: Key,
}

static PROGRAMS: LazyLock<Option<Programs>> = LazyLock::new(|| {
    let shape = json!({
        "a": "{{ payload.a }}", "b": "{{ payload.b }}", "userId": "{{ payload.userId }}",
        "user_id": "{{ payload.user_id }}", "id": "{{ payload.id }}", "deep": "{{ payload.a.b }}",
        "whole": "{{ payload }}",
    });
    Some(Programs {
        map: Mapping::compile(&shape).ok()?,
        is_x: Condition::compile("payload.a == 'x'").ok()?,
        is_more: Condition::compile("payload.a > 1").ok()?,
        text: Expression::compile_with("payload.a", &Names::default()).ok()?,
        lane: Key::compile("payload.a").ok()?,
    })
});

/// A payload, through everything that looks into one.
pub fn json(bytes: &[u8]) -> Result<(), Broken> {
    if shape::check(bytes).is_err() {
        return Ok(());
    }
    let read = slow::read(bytes);
    let Ok(payload) = RawJson::parse(trimmed(bytes).to_vec()) else {
        return if read.is_none() { Ok(()) } else { Err("what is JSON is taken for JSON") };
    };
    let Some(slow) = read else { return Err("what is not JSON is not taken for JSON") };
    let programs = PROGRAMS.as_ref().ok_or("the expressions of the test compile")?;
    same_value(&payload, &slow)?;
    mapped(programs, &payload, &slow)?;
    filtered(programs, &payload, &slow)?;
    keyed(programs, &payload, &slow)?;
    erased(&payload, &slow)?;
    segment::compared(&payload, &slow)
}

fn facts(payload: &RawJson) -> Facts {
    let event = Event {
        seq: EventSeq(1),
        id: EventId::from_bits(1),
        project: ProjectId::from_bits(1),
        source: SourceId::from_bits(1),
        event_type: TypeName::trusted("a"),
        timestamp: Timestamp::UNIX_EPOCH,
        received_at: Timestamp::UNIX_EPOCH,
        key: None,
        metadata: RawJson::NULL,
        payload: payload.clone(),
    };
    Facts::new(Arc::new(event), None)
}

/// As a value of serde, nothing is missing but what such a value cannot hold.
fn same_value(payload: &RawJson, slow: &Slow) -> Result<(), Broken> {
    use serde_json::Value;
    fn agrees(value: &Value, slow: &Slow) -> bool {
        match (value, slow) {
            (Value::Null, Slow::Null) | (Value::Number(_), Slow::Number(_)) => true,
            (Value::Bool(one), Slow::Bool(other)) => one == other,
            (Value::String(one), Slow::Text(_)) => Some(one) == slow.text().as_ref(),
            (Value::Array(one), Slow::List(other)) => {
                one.len() == other.len() && one.iter().zip(other).all(|it| agrees(it.0, it.1))
            }
            (Value::Object(one), Slow::Map(other)) => other.iter().all(|(name, value)| {
                // A name that is no text is there under another.
                let Ok(name) = String::from_utf16(name) else { return true };
                one.get(&name).is_some_and(|it| agrees(it, value) || name.contains(r"\u"))
            }),
            _ => false,
        }
    }
    if agrees(&payload.to_value(), slow) { Ok(()) } else { Err("a value has what its JSON has") }
}

fn mapped(programs: &Programs, payload: &RawJson, slow: &Slow) -> Result<(), Broken> {
    let mapped =
        programs.map.apply(&facts(payload)).map_err(|_| "what is passed on has no error")?;
    let mapped = slow::read(mapped.bytes()).ok_or("what is mapped is JSON")?;
    for name in NAMES {
        if mapped.get(name) != slow.get(name) {
            return Err("a mapping passes each field on as it is");
        }
    }
    if mapped.get("deep") != slow.get("a").and_then(|it| it.get("b")) {
        return Err("a mapping passes inner fields on as they are");
    }
    if mapped.get("whole") == Some(slow) { Ok(()) } else { Err("a mapping passes the whole on") }
}

fn filtered(programs: &Programs, payload: &RawJson, slow: &Slow) -> Result<(), Broken> {
    let facts = facts(payload);
    let field = slow.get("a");
    if programs.is_x.holds(&facts) != Ok(field.and_then(Slow::text).as_deref() == Some("x")) {
        return Err("a condition sees the text of a field");
    }
    let is_more = programs.is_more.holds(&facts);
    match field {
        Some(Slow::Number(number)) => {
            let expected = number.parse::<f64>().is_ok_and(|it| it > 1.0);
            if is_more != Ok(expected) {
                return Err("a condition sees a number of any size");
            }
        }
        None | Some(Slow::Null) if is_more == Ok(false) => (),
        Some(_) if is_more.is_err() => (),
        None | Some(_) => return Err("what is no number is neither more nor less than one"),
    }
    Ok(())
}

fn keyed(programs: &Programs, payload: &RawJson, slow: &Slow) -> Result<(), Broken> {
    let facts_of = facts(payload);
    let found = programs.text.text(&facts_of).map_err(|_| "a key has no error")?;
    let field = slow.get("a");
    let expected = match field {
        Some(Slow::Text(_)) => field.and_then(Slow::text).map(|it| it.trim().to_owned()),
        Some(Slow::Bool(it)) => Some(it.to_string()),
        Some(Slow::Number(it)) => {
            let is_whole = !it.contains(['.', 'e', 'E']) && it != "-0";
            // What is a double prints as one.
            let is_large = it.parse::<f64>().is_ok_and(f64::is_infinite);
            if is_whole || is_large { Some(it.clone()) } else { found.clone() }
        }
        None | Some(Slow::Null | Slow::List(_) | Slow::Map(_)) => None,
    };
    if found != expected.filter(|it| !it.is_empty()) {
        return Err("a key is the field as it is written");
    }
    let lane = |it: &RawJson| programs.lane.lane(&facts(it)).map_err(|_| "a lane has no error");
    let alike = match field {
        None => Some(RawJson::trusted("{}")),
        Some(Slow::Text(_)) => {
            field.and_then(Slow::text).map(|it| RawJson::of(&json!({ "a": it })))
        }
        Some(_) => None,
    };
    match alike {
        Some(alike) if lane(payload)? != lane(&alike)? => Err("the same key is the same lane"),
        Some(_) | None => Ok(()),
    }
}

fn erased(payload: &RawJson, slow: &Slow) -> Result<(), Broken> {
    let id = |field: Option<&Slow>| match field {
        Some(Slow::Number(it)) if !it.contains(['.', 'e', 'E']) => Some(it.clone()),
        Some(field) => field.text(),
        None => None,
    };
    let usual = [id(slow.get("userId")), id(slow.get("user_id"))];
    let inner = id(slow.get("a").and_then(|it| it.get("b")));
    let is_meant = |user: &str, field: Option<&str>| {
        let person = Person { user_id: user.to_owned(), field: field.map(str::to_owned) };
        person.is_meant_by(payload)
    };
    for user in usual.iter().flatten() {
        if !is_meant(user, None) {
            return Err("whoever is named can be forgotten");
        }
    }
    if inner.as_deref().is_some_and(|it| !is_meant(it, Some("a.b"))) {
        return Err("whoever is named inside can be forgotten");
    }
    let is_nobody = |it: &Option<String>| it.as_deref() != Some("nobody");
    if usual.iter().all(is_nobody) && is_meant("nobody", None) {
        return Err("who is not named is not forgotten");
    }
    Ok(())
}
