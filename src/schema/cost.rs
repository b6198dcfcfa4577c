//! What a check costs, counted before it is made: one step for each keyword that is asked of each value.
//!
//! The count goes through schema and payload as the check does, but never stops early, so that no check
//! makes more steps than were counted. It stops itself when more are counted than there may be.

use serde_json::{Map, Value};

use super::bounds::resolve;

/// Steps that may still be made.
#[derive(Clone, Copy, Debug)]
pub struct SchemaBudget(pub u64);

impl SchemaBudget {
    /// Whether there was enough; what is left is then less by that.
    pub(super) fn take(&mut self, steps: usize) -> bool {
        let left = u64::try_from(steps).ok().and_then(|it| self.0.checked_sub(it));
        self.0 = left.unwrap_or(0);
        left.is_some()
    }
}

/// Bytes of a text that count as one step, where all of it is looked at.
const BYTES: usize = 32;

/// Takes what the check of a value costs. `false`: there is less than that, and then nothing is left.
pub(super) fn take(root: &Value, schema: &Value, value: &Value, budget: &mut SchemaBudget) -> bool {
    let Some(schema) = schema.as_object() else { return budget.take(1) };
    budget.take(1 + schema.len())
        && schema.iter().all(|(keyword, asked)| {
            let it = Keyword { root, schema, asked };
            it.of_value(keyword, value, budget)
                && it.of_members(keyword, value, budget)
                && it.of_elements(keyword, value, budget)
        })
}

/// One keyword, and what stands beside it.
struct Keyword<'a> {
    root: &'a Value,
    schema: &'a Map<String, Value>,
    asked: &'a Value,
}

impl Keyword<'_> {
    fn below(&self, schema: &Value, value: &Value, budget: &mut SchemaBudget) -> bool {
        take(self.root, schema, value, budget)
    }

    /// Keywords that are about the value itself.
    fn of_value(&self, keyword: &str, value: &Value, budget: &mut SchemaBudget) -> bool {
        let text = value.as_str().map_or(0, str::len);
        match keyword {
            "$ref" => {
                let target = self.asked.as_str().and_then(|it| resolve(self.root, it));
                target.is_none_or(|it| self.below(it, value, budget))
            }
            "const" | "enum" => match value {
                Value::Array(_) | Value::Object(_) => budget.take(size(self.asked)),
                _ => budget.take(self.asked.as_array().map_or(1, Vec::len) + text / BYTES),
            },
            "required" => budget.take(self.asked.as_array().map_or(0, Vec::len)),
            "pattern" => {
                budget.take(text.saturating_mul(weight(self.asked.as_str().unwrap_or(""))) / BYTES)
            }
            "format" | "minLength" | "maxLength" => budget.take(text / BYTES),
            "uniqueItems" => !value.is_array() || budget.take(size(value)),
            "not" | "if" | "then" | "else" => self.below(self.asked, value, budget),
            "allOf" | "anyOf" | "oneOf" => {
                let mut parts = self.asked.as_array().into_iter().flatten();
                parts.all(|it| self.below(it, value, budget))
            }
            "dependentSchemas" | "dependencies" | "dependentRequired" => {
                let mut parts = self.asked.as_object().into_iter().flatten().map(|it| it.1);
                parts.all(|it| match it {
                    Value::Array(names) => budget.take(1 + names.len()),
                    other => self.below(other, value, budget),
                })
            }
            _ => true,
        }
    }

    /// Keywords that are about the members of an object.
    fn of_members(&self, keyword: &str, value: &Value, budget: &mut SchemaBudget) -> bool {
        let Some(object) = value.as_object() else { return true };
        match keyword {
            "properties" => {
                let mut parts = self.asked.as_object().into_iter().flatten();
                parts.all(|(name, schema)| {
                    budget.take(1)
                        && object.get(name).is_none_or(|it| self.below(schema, it, budget))
                })
            }
            // Which of the names match is not known before the check: as if all did.
            "patternProperties" => {
                let mut parts = self.asked.as_object().into_iter().flatten();
                parts.all(|(pattern, schema)| {
                    let weight = weight(pattern);
                    object.iter().all(|(name, it)| {
                        budget.take(1 + name.len().saturating_mul(weight) / BYTES)
                            && self.below(schema, it, budget)
                    })
                })
            }
            "additionalProperties" => {
                let named = self.schema.get("properties").and_then(Value::as_object);
                let is_more = |name: &str| named.is_none_or(|it| !it.contains_key(name));
                let patterns = self.schema.get("patternProperties").and_then(Value::as_object);
                let patterns: usize = patterns.into_iter().flatten().map(|it| weight(it.0)).sum();
                object.iter().filter(|it| is_more(it.0)).all(|(name, it)| {
                    budget.take(1 + name.len().saturating_mul(patterns) / BYTES)
                        && self.below(self.asked, it, budget)
                })
            }
            "propertyNames" => object.keys().all(|name| {
                budget.take(1) && self.below(self.asked, &Value::from(name.as_str()), budget)
            }),
            _ => true,
        }
    }

    /// Keywords that are about the elements of a list.
    fn of_elements(&self, keyword: &str, value: &Value, budget: &mut SchemaBudget) -> bool {
        let Some(list) = value.as_array() else { return true };
        match (keyword, self.asked) {
            ("items" | "prefixItems", Value::Array(schemas)) => {
                schemas.iter().zip(list).all(|(schema, it)| self.below(schema, it, budget))
            }
            ("items" | "additionalItems" | "contains", schema) => {
                list.iter().all(|it| self.below(schema, it, budget))
            }
            _ => true,
        }
    }
}

/// The values in a value, itself included.
fn size(value: &Value) -> usize {
    1 + match value {
        Value::Array(list) => list.iter().map(size).sum(),
        Value::Object(map) => map.values().map(size).sum(),
        Value::String(text) => text.len() / BYTES,
        Value::Null | Value::Bool(_) | Value::Number(_) => 0,
    }
}

/// How much a byte of text may cost a pattern: its states, as far as its source tells them. `{3,40}` makes
/// forty of what is before it.
fn weight(pattern: &str) -> usize {
    const MOST: usize = 1 << 14;
    let states = pattern.split('{').skip(1).fold(pattern.len(), |states, it| {
        let counts = it.split(|it: char| !it.is_ascii_digit()).take(2);
        let most = counts.filter_map(|it| it.parse::<usize>().ok()).max();
        states.saturating_mul(most.unwrap_or(1).max(1))
    });
    // Most texts meet a few of the states only.
    (states / 8).clamp(1, MOST)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn cost(schema: &Value, value: &Value) -> u64 {
        let mut budget = SchemaBudget(1 << 40);
        assert!(take(schema, schema, value, &mut budget));
        (1 << 40) - budget.0
    }

    #[test]
    fn a_check_costs_what_its_keywords_are_asked() {
        let shapes: Vec<Value> = (0..6).map(|it| json!({ "required": [it.to_string()] })).collect();
        for (schema, value, expected) in [
            (json!(true), json!({ "a": [1, 2] }), 1),
            (json!({ "type": "string" }), json!("a"), 2),
            (json!({ "properties": { "a": { "type": "string" } } }), json!({ "a": 1, "b": 1 }), 5),
            (json!({ "items": { "type": "string" } }), json!([1, 2, 3]), 8),
            (json!({ "items": { "oneOf": shapes } }), json!([{}, {}]), 2 + 2 * (2 + 6 * 3)),
            (json!({ "enum": [1, 2, 3, 4] }), json!(1), 6),
            (json!({ "$ref": "#/$defs/a", "$defs": { "a": { "not": {} } } }), json!(1), 3 + 2 + 1),
            (json!({ "propertyNames": { "maxLength": 3 } }), json!({ "a": 1, "b": 1 }), 2 + 2 * 3),
        ] {
            assert_eq!(cost(&schema, &value), expected, "{schema} {value}");
        }
    }

    #[test]
    fn counting_ends_when_nothing_is_left() {
        let consts: Vec<Value> = (0..1500).map(|it| json!({ "const": it })).collect();
        let schema = json!({ "items": { "anyOf": consts } });
        let value = json!(vec![-1; 250_000]);
        let mut budget = SchemaBudget(1000);
        assert!(!take(&schema, &schema, &value, &mut budget));
        assert_eq!(budget.0, 0);
    }

    #[test]
    fn a_pattern_weighs_what_its_counts_make_of_it() {
        for (pattern, expected) in
            [("^a$", 1), ("^[a-z]{2,40}$", 65), ("(a{100}){100}", 16_250), ("{{{{{999}", 1123)]
        {
            assert_eq!(weight(pattern), expected, "{pattern}");
        }
    }
}
