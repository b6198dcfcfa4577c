//! The shape of payloads that were looked into: a tree of fields with the kinds of their values.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{Field, Kinds, member};

/// Levels that are looked into; what is deeper is not.
const DEPTH: usize = 16;
/// Elements of one list that are looked into.
const ELEMENTS: usize = 20;
/// The name under which members are learned whose own name looks like data.
const ANY: &str = "*";

/// What was seen of a payload, or of a field of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Shape {
    /// How often a value of each kind was seen.
    kinds: [u64; 7],
    first: Option<Timestamp>,
    last: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    members: BTreeMap<String, Shape>,
    /// Of the elements of lists, all alike.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    element: Option<Box<Shape>>,
}

/// A field that was seen.
#[derive(Clone, Debug, PartialEq)]
pub struct SeenField {
    pub field: Field,
    /// How often it was there.
    pub count: u64,
    /// How often what it stands in was there.
    pub of: u64,
    /// How often with a value of each kind.
    pub by_kind: Vec<(&'static str, u64)>,
    pub first: Option<Timestamp>,
    pub last: Option<Timestamp>,
}

impl Shape {
    /// Notes what a payload looks like, with at most `room` new fields. Returns how many it added.
    pub fn see(&mut self, value: &Value, now: Timestamp, room: usize) -> usize {
        let mut left = room;
        self.note(value, now, 0, &mut left);
        room - left
    }

    fn note(&mut self, value: &Value, now: Timestamp, depth: usize, room: &mut usize) {
        self.kinds[Kinds::of(value).0.trailing_zeros() as usize] += 1;
        self.first = self.first.or(Some(now));
        self.last = self.last.max(Some(now));
        if depth >= DEPTH {
            return;
        }
        match value {
            Value::Object(members) => {
                for (name, value) in members {
                    let name = if is_name(name) { name } else { ANY };
                    if !self.members.contains_key(name) {
                        if *room == 0 {
                            continue;
                        }
                        *room -= 1;
                        self.members.insert(name.to_owned(), Self::default());
                    }
                    if let Some(member) = self.members.get_mut(name) {
                        member.note(value, now, depth + 1, room);
                    }
                }
            }
            Value::Array(elements) => {
                if self.element.is_none() {
                    if *room == 0 {
                        return;
                    }
                    *room -= 1;
                }
                let element = self.element.get_or_insert_default();
                elements
                    .iter()
                    .take(ELEMENTS)
                    .for_each(|it| element.note(it, now, depth + 1, room));
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => (),
        }
    }

    /// Fields in it, however deep.
    pub fn fields(&self) -> usize {
        let inner = self.members.values().chain(self.element.as_deref());
        inner.map(|it| 1 + it.fields()).sum()
    }

    /// How many values were looked at.
    pub fn looks(&self) -> u64 {
        self.kinds.iter().sum()
    }

    fn named(&self, kind: &str) -> u64 {
        self.by_kind().find(|it| it.0 == kind).map_or(0, |it| it.1)
    }

    fn by_kind(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let names = Kinds(u8::MAX).names().into_iter();
        names.zip(self.kinds).filter(|it| it.1 > 0)
    }

    /// Every field of it, by the path by which expressions read it.
    pub fn list(&self) -> Vec<SeenField> {
        let mut found = Vec::new();
        self.collect("payload", &mut found);
        found
    }

    fn collect(&self, path: &str, found: &mut Vec<SeenField>) {
        let objects = self.named("object");
        for (name, shape) in &self.members {
            let path = format!("{path}{}", if name == ANY { ".*".into() } else { member(name) });
            let mut kinds = Kinds::default();
            let by_kind: Vec<_> = shape.by_kind().collect();
            for place in (0..7).filter(|it| shape.kinds[*it] > 0) {
                kinds.add(Kinds(1 << place));
            }
            found.push(SeenField {
                field: Field { path: path.clone(), kinds },
                count: shape.looks(),
                of: objects,
                by_kind,
                first: shape.first,
                last: shape.last,
            });
            shape.collect(&path, found);
        }
        if let Some(element) = &self.element {
            element.collect(&format!("{path}[]"), found);
        }
    }

    /// A schema that everything that was looked at agrees with. What was always there is required.
    pub fn to_schema(&self) -> Value {
        let mut schema = self.schema();
        schema.insert("$schema".to_owned(), "https://json-schema.org/draft/2020-12/schema".into());
        schema.into()
    }

    fn schema(&self) -> Map<String, Value> {
        let mut schema = Map::new();
        let mut kinds: Vec<_> = self.by_kind().map(|it| it.0).collect();
        // Every integer is a number.
        if kinds.contains(&"number") {
            kinds.retain(|it| *it != "integer");
        }
        match &kinds[..] {
            [] => (),
            [only] => drop(schema.insert("type".to_owned(), json!(only))),
            several => drop(schema.insert("type".to_owned(), json!(several))),
        }
        let objects = self.named("object");
        let mut properties = Map::new();
        let mut required = Vec::new();
        for (name, shape) in self.members.iter().filter(|it| it.0 != ANY) {
            properties.insert(name.clone(), shape.schema().into());
            if shape.looks() >= objects {
                required.push(Value::from(name.as_str()));
            }
        }
        if !properties.is_empty() {
            schema.insert("properties".to_owned(), properties.into());
        }
        if !required.is_empty() {
            schema.insert("required".to_owned(), required.into());
        }
        if let Some(element) = &self.element {
            schema.insert("items".to_owned(), element.schema().into());
        }
        schema
    }
}

/// Whether a member's name is a name, and not itself data, such as an address, an id or a date.
fn is_name(name: &str) -> bool {
    const LONGEST: usize = 64;
    const DIGITS: usize = 5;
    let is_allowed = |it: char| it.is_alphanumeric() || matches!(it, '_' | '-' | ' ' | '$' | '.');
    let digits = name.chars().filter(char::is_ascii_digit).count();
    (1..=LONGEST).contains(&name.chars().count())
        && name.chars().all(is_allowed)
        && name.starts_with(|it: char| !it.is_numeric())
        && digits < DIGITS
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::Schema;

    fn seen(payloads: &[Value]) -> Shape {
        let mut shape = Shape::default();
        for (second, payload) in payloads.iter().enumerate() {
            shape.see(payload, Timestamp::from_second(second as i64).unwrap(), 500);
        }
        shape
    }

    #[test]
    fn fields_have_their_kinds_and_how_often_they_were_there() {
        let shape = seen(&[
            json!({ "plan": "pro", "items": [{ "price": 1 }, { "price": 1.5 }, {}] }),
            json!({ "plan": null, "seats": 3 }),
        ]);
        let shown = shape.list().into_iter().map(|it| (it.field.path, it.count, it.of, it.by_kind));
        let shown: Vec<_> = shown.collect();
        let expected = [
            ("payload.items".to_owned(), 1, 2, vec![("array", 1)]),
            ("payload.items[].price".to_owned(), 2, 3, vec![("integer", 1), ("number", 1)]),
            ("payload.plan".to_owned(), 2, 2, vec![("null", 1), ("string", 1)]),
            ("payload.seats".to_owned(), 1, 2, vec![("integer", 1)]),
        ];
        assert_eq!(shown, expected);
        assert_eq!(shape.fields(), 5);
        let plan = &shape.list()[2];
        assert_eq!(
            (plan.first, plan.last),
            (Some(Timestamp::UNIX_EPOCH), Timestamp::from_second(1).ok())
        );
    }

    #[test]
    fn no_value_is_kept_and_neither_is_a_name_that_is_data() {
        let payload = json!({
            "email": "eve@a.example",
            "by_user": { "eve@a.example": 1, "12345": 2, "+49 170 1234567": 3, "2026-01-31": 4 },
            "first name": "Eve",
        });
        let shape = seen(&[payload]);
        let kept = serde_json::to_string(&shape).unwrap();
        for data in ["a.example", "Eve", "12345", "+49", "2026"] {
            assert!(!kept.contains(data), "{data} in {kept}");
        }
        let paths: Vec<_> = shape.list().into_iter().map(|it| it.field.path).collect();
        let expected =
            ["payload.by_user", "payload.by_user.*", "payload.email", r#"payload["first name"]"#];
        assert_eq!(paths, expected);
    }

    #[test]
    fn a_schema_made_of_it_takes_all_that_was_seen_and_asks_for_what_was_always_there() {
        let payloads = [
            json!({ "plan": "pro", "n": 1, "by": { "1": 2 }, "items": [{ "price": 1 }] }),
            json!({ "plan": "free", "n": 1.5, "by": {}, "items": [], "note": null }),
        ];
        let made = seen(&payloads).to_schema();
        let schema = Schema::compile(&made).unwrap();
        assert!(payloads.iter().all(|it| schema.faults(it).is_empty()), "{made}");
        assert_eq!(made["required"], json!(["by", "items", "n", "plan"]));
        assert_eq!(made["properties"]["n"]["type"], "number");
        assert_eq!(schema.faults(&json!({ "plan": 1, "n": 1, "by": {}, "items": [] })).len(), 1);
    }

    #[test]
    fn shapes_beyond_the_bounds_are_not_learned() {
        let mut shape = Shape::default();
        let wide: Map<String, Value> =
            ('a'..='z').map(|it| (it.to_string(), json!({ "inner": 1 }))).collect();
        assert_eq!(shape.see(&wide.into(), Timestamp::UNIX_EPOCH, 10), 10);
        assert_eq!(shape.fields(), 10);
        let deep = (0..60).fold(json!(1), |inner, _| json!({ "a": inner }));
        let mut shape = Shape::default();
        assert_eq!(shape.see(&deep, Timestamp::UNIX_EPOCH, 500), DEPTH);
        // The schema that is made of as much as there can be is one that we take.
        let mut shape = Shape::default();
        for place in 0..500 {
            let name = format!("{}{}", "n".repeat(61), char::from_u32(0x4e00 + place).unwrap());
            shape.see(
                &json!({ name: [1, "a", null] }),
                Timestamp::UNIX_EPOCH,
                500 - shape.fields(),
            );
        }
        assert!(Schema::compile(&shape.to_schema()).is_ok());
    }
}
