//! What a redaction took out of an event, to take it out of what comes from elsewhere as well.

use std::collections::HashMap;

use serde_json::{Map, Value};

use super::{Redactor, detect::Detectors, walk};
use crate::model::RawJson;

/// The values that were taken out, with what stands in their place.
#[derive(Default)]
pub struct TakenValues {
    /// Whole values, in lower case.
    whole: HashMap<String, String>,
    /// Those of a known form, by their kind and their normal form.
    known: HashMap<(&'static str, String), String>,
    /// Those that are looked for within longer texts.
    parts: Vec<(String, String)>,
}

/// What is shorter says too little to be looked for inside of a text.
const SHORTEST_PART: usize = 5;
/// Values that are looked for inside of texts. Of more, texts that are long are given up as a whole.
const MOST_PARTS: usize = 500;
/// Shorter values are those of too many fields: `7`, `x`.
const SHORTEST: usize = 2;
const FEWEST_DIGITS: usize = 4;

impl Redactor {
    /// What this takes out of an event.
    pub fn taken(&self, payload: &RawJson, metadata: &RawJson) -> TakenValues {
        let mut taken = TakenValues::default();
        let found = [(payload, &self.payload, "null"), (metadata, &self.metadata, "{}")];
        for (json, paths, empty) in found {
            for (value, new) in walk::found(self, json, paths, empty) {
                taken.add(&value, new);
            }
        }
        taken
    }

    /// Something else than the event, without what is detected in it.
    pub fn detected_in(&self, json: &RawJson) -> Option<RawJson> {
        walk::redact(self, json, &[], "null")
    }
}

impl TakenValues {
    fn add(&mut self, value: &str, new: String) {
        let trimmed = value.trim();
        let is_number = trimmed.bytes().all(|it| it.is_ascii_digit() || b".-+eE".contains(&it));
        let fewest = if is_number { FEWEST_DIGITS } else { SHORTEST };
        if trimmed.chars().count() < fewest {
            return;
        }
        if let Some(kind) = Detectors::all().whole(trimmed) {
            self.known.insert((kind.word(), kind.normal(trimmed)), new.clone());
        }
        let lower = trimmed.to_lowercase();
        if lower.len() >= SHORTEST_PART && !self.whole.contains_key(&lower) {
            self.parts.push((lower.clone(), new.clone()));
        }
        self.whole.insert(lower, new);
    }

    /// The JSON without these values; `None` where none of them is there.
    pub fn hidden_in(&self, json: &RawJson) -> Option<RawJson> {
        if self.whole.is_empty() {
            return None;
        }
        // What no reader understands goes as a whole.
        let Ok(mut value) = serde_json::from_slice(json.bytes()) else {
            return Some(RawJson::NULL);
        };
        self.value(&mut value).then(|| RawJson::of(&value))
    }

    /// Whether something in it was hidden.
    fn value(&self, value: &mut Value) -> bool {
        let hidden = match value {
            Value::Null | Value::Bool(_) => None,
            Value::Number(number) => self.whole.get(&number.to_string()).cloned(),
            Value::String(text) => self.text(text),
            Value::Array(list) => {
                return list.iter_mut().fold(false, |changed, it| self.value(it) | changed);
            }
            Value::Object(map) => return self.members(map),
        };
        let is_hidden = hidden.is_some();
        if let Some(new) = hidden {
            *value = new.into();
        }
        is_hidden
    }

    fn members(&self, map: &mut Map<String, Value>) -> bool {
        let mut changed = false;
        for (_, value) in map.iter_mut() {
            changed |= self.value(value);
        }
        let names = map.keys().any(|it| self.text(it).is_some());
        if names {
            let old = std::mem::take(map);
            map.extend(old.into_iter().map(|(name, it)| (self.text(&name).unwrap_or(name), it)));
        }
        changed | names
    }

    /// What is left of a text, if something of it was taken out of the event.
    fn text(&self, text: &str) -> Option<String> {
        if let Some(new) = self.whole.get(&text.trim().to_lowercase()) {
            return Some(new.clone());
        }
        let mut left = text.to_owned();
        for found in Detectors::all().find(text).into_iter().rev() {
            let key = (found.kind.word(), found.kind.normal(&text[found.range.clone()]));
            if let Some(new) = self.known.get(&key) {
                left.replace_range(found.range, new);
            }
        }
        if self.parts.len() > MOST_PARTS && left.len() >= SHORTEST_PART {
            let lower = left.to_lowercase();
            let is_there = self.parts.iter().take(20 * MOST_PARTS).any(|it| lower.contains(&it.0));
            let is_unknown = self.parts.len() > 20 * MOST_PARTS;
            return (is_there || is_unknown || left != text).then(|| "[redacted]".to_owned());
        }
        for (value, new) in &self.parts {
            let lower = left.to_lowercase();
            if !lower.contains(value.as_str()) {
                continue;
            }
            // Where upper case has other lengths, places would not agree.
            if lower.len() != left.len() {
                return Some("[redacted]".to_owned());
            }
            let places: Vec<usize> = lower.match_indices(value.as_str()).map(|it| it.0).collect();
            for place in places.into_iter().rev() {
                let end = place + value.len();
                if !left.is_char_boundary(place) || !left.is_char_boundary(end) {
                    return Some("[redacted]".to_owned());
                }
                left.replace_range(place..end, new);
            }
        }
        (left != text).then_some(left)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::model::{Detector, Redaction, RedactionMode};

    fn taken(fields: &[&str], detect: &[Detector], payload: &Value) -> TakenValues {
        let fields = fields.iter().map(|it| (*it).to_owned()).collect();
        let redaction = Redaction { fields, detect: detect.to_vec(), mode: RedactionMode::Drop };
        let redactor = Redactor::new(&redaction, None).unwrap();
        redactor.taken(&RawJson::of(payload), &RawJson::of(&json!({})))
    }

    fn check(taken: &TakenValues, added: &Value, expected: Option<Value>) {
        let hidden = taken.hidden_in(&RawJson::of(added)).map(|it| it.to_value());
        assert_eq!(hidden, expected, "{added}");
    }

    #[test]
    fn detected_values_are_hidden_in_every_form() {
        let payload = json!({ "a": "Jane@acme.com", "b": "call +49 30 901820", "c": "10.0.0.1" });
        let taken = taken(&[], &[Detector::All], &payload);
        check(&taken, &json!({ "role": "CTO", "n": 7 }), None);
        check(&taken, &json!({ "mail": "jane@ACME.com" }), Some(json!({ "mail": "[email]" })));
        check(
            &taken,
            &json!(["<jane@acme.com>", "+4930901820"]),
            Some(json!(["<[email]>", "[phone]"])),
        );
        check(&taken, &json!({ "10.0.0.1": 1 }), Some(json!({ "[ip]": 1 })));
        check(&taken, &json!({ "mail": "other@acme.com" }), None);
    }

    #[test]
    fn values_of_named_fields_are_hidden_within_texts_too() {
        let payload =
            json!({ "name": "Jane Doe", "n": 123_456, "plan": "x", "in": { "k": ["Berlin"] } });
        let taken =
            taken(&["payload.name", "payload.n", "payload.plan", "payload.in"], &[], &payload);
        let hidden = "[redacted]";
        check(
            &taken,
            &json!({ "title": "JANE DOE, CEO" }),
            Some(json!({ "title": format!("{hidden}, CEO") })),
        );
        check(&taken, &json!([123_456, "berlin", "x"]), Some(json!([hidden, hidden, "x"])));
        check(&taken, &json!({ "seats": 12 }), None);
    }
}
