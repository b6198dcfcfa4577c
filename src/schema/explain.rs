//! What is wrong with a payload, at the most ten times, and without a list of everything that is.
//!
//! The validator collects every error before it tells the first, those of each branch of each `oneOf`
//! included. So it is asked only about parts of a payload with which it makes few steps, and whatever is
//! larger is taken apart here, down to such parts.

use jsonschema::{Validator, ValidatorMap};
use serde_json::{Map, Value};

use super::{
    Fault, MOST_FAULTS, bounds,
    cost::{self, SchemaBudget},
    fault, member, options,
};

/// Steps of a check whose errors the validator may collect: some MiB at the most.
const SMALL: u64 = 5000;
/// Steps that all of an explanation may make.
const STEPS: u64 = 2 * super::MOST_STEPS;
/// Parts within parts that are looked into.
const DEEPEST: usize = 16;

/// Keywords about the value itself, each of which makes one error.
const OWN: [&str; 17] = [
    "type",
    "const",
    "enum",
    "minimum",
    "maximum",
    "exclusiveMinimum",
    "exclusiveMaximum",
    "multipleOf",
    "minLength",
    "maxLength",
    "pattern",
    "format",
    "minItems",
    "maxItems",
    "minProperties",
    "maxProperties",
    "required",
];

/// The first faults of a payload that the validator has found not to be as the schema says.
pub(super) fn faults(schema: &Value, validator: &Validator, payload: &Value) -> Vec<Fault> {
    let mut explained =
        Explained { root: schema, parts: None, left: SchemaBudget(STEPS), faults: Vec::new() };
    let mut small = SchemaBudget(SMALL);
    if cost::take(schema, schema, payload, &mut small) {
        explained.collect(validator, payload, "");
    } else {
        // Compiled for this one payload: such ones are rare, and the map is large where its schema is.
        explained.parts = options().build_map(schema).ok();
        explained.apart(&SubSchema { schema, pointer: "#".to_owned() }, payload, "", 0);
    }
    if explained.faults.is_empty() {
        explained.add("", "it does not agree with the schema".to_owned());
    }
    explained.faults
}

struct Explained<'a> {
    root: &'a Value,
    /// Every schema within the schema.
    parts: Option<ValidatorMap>,
    left: SchemaBudget,
    faults: Vec<Fault>,
}

/// A schema within the schema, and where it is.
struct SubSchema<'a> {
    schema: &'a Value,
    pointer: String,
}

impl<'a> SubSchema<'a> {
    fn below(&self, schema: &'a Value, keyword: &str, name: Option<&str>) -> Self {
        let name = name.map(|it| format!("/{}", bounds::escaped(it)));
        let pointer = format!("{}/{keyword}{}", self.pointer, name.unwrap_or_default());
        Self { schema, pointer }
    }
}

impl<'a> Explained<'a> {
    fn is_full(&self) -> bool {
        self.faults.len() >= MOST_FAULTS || self.left.0 == 0
    }

    fn add(&mut self, path: &str, rule: String) {
        self.faults.push(Fault { path: path.to_owned(), rule });
    }

    /// Lets the validator tell the errors of something small.
    fn collect(&mut self, validator: &Validator, value: &Value, path: &str) {
        let room = MOST_FAULTS - self.faults.len();
        self.faults.extend(validator.iter_errors(value).take(room).map(|it| fault(&it, path)));
    }

    fn is_valid(&mut self, part: &SubSchema<'a>, value: &Value) -> bool {
        // Without steps left nothing more is reported, and so nothing needs to be known.
        let may_ask = cost::take(self.root, part.schema, value, &mut self.left);
        let validator = self.parts.as_ref().and_then(|it| it.get(&part.pointer));
        !may_ask || validator.is_none_or(|it| it.is_valid(value))
    }

    /// Tells what is wrong with a value, if it is.
    fn part(&mut self, part: &SubSchema<'a>, value: &Value, path: &str, depth: usize) {
        if self.is_full() {
            return;
        }
        let mut small = SchemaBudget(SMALL);
        if !cost::take(self.root, part.schema, value, &mut small) {
            if !self.is_valid(part, value) {
                self.apart(part, value, path, depth);
            }
            return;
        }
        let steps = usize::try_from(SMALL - small.0).unwrap_or(usize::MAX);
        if !self.left.take(steps) {
            return;
        }
        let Some(parts) = self.parts.take() else { return };
        if let Some(validator) = parts.get(&part.pointer) {
            self.collect(validator, value, path);
        }
        self.parts = Some(parts);
    }

    /// Takes a value apart that is not as its schema says.
    fn apart(&mut self, part: &SubSchema<'a>, value: &Value, path: &str, depth: usize) {
        let reported = self.faults.len();
        if let Some(schema) = part.schema.as_object().filter(|_| depth < DEEPEST) {
            self.own(schema, value, path);
            self.same(part, schema, value, path, depth);
            match value {
                Value::Object(members) => self.members(part, schema, members, path, depth),
                Value::Array(list) => self.elements(part, schema, list, path, depth),
                _ => (),
            }
        }
        if self.faults.len() == reported && self.faults.len() < MOST_FAULTS {
            self.add(path, "it does not agree with the schema there".to_owned());
        }
    }

    /// What the keywords say that are about the value itself.
    fn own(&mut self, schema: &Map<String, Value>, value: &Value, path: &str) {
        let mut own: Map<String, Value> = Map::new();
        let dialect = self.root.get("$schema").map(|it| ("$schema".to_owned(), it.clone()));
        own.extend(dialect);
        let named = schema.iter().filter(|it| OWN.contains(&it.0.as_str()));
        own.extend(named.map(|(name, it)| (name.clone(), it.clone())));
        if schema.get("additionalProperties") == Some(&Value::Bool(false)) {
            own.insert("additionalProperties".to_owned(), false.into());
            for keyword in ["properties", "patternProperties"] {
                let names = schema.get(keyword).and_then(Value::as_object).into_iter().flatten();
                let names: Map<String, Value> =
                    names.map(|it| (it.0.clone(), Value::Bool(true))).collect();
                own.insert(keyword.to_owned(), names.into());
            }
        }
        if let Ok(validator) = options().build(&own.into()) {
            self.collect(&validator, value, path);
        }
    }

    /// What the schemas say that are about the same value.
    fn same(
        &mut self,
        part: &SubSchema<'a>,
        schema: &'a Map<String, Value>,
        value: &Value,
        path: &str,
        depth: usize,
    ) {
        let target = schema.get("$ref").and_then(Value::as_str);
        if let Some((pointer, target)) =
            target.and_then(|it| Some((it, bounds::resolve(self.root, it)?)))
        {
            let target = SubSchema { schema: target, pointer: pointer.to_owned() };
            self.part(&target, value, path, depth + 1);
        }
        for (keyword, rule) in [
            ("allOf", None),
            ("anyOf", Some("it is not valid under any of the schemas of `anyOf`")),
            ("oneOf", Some("it is not valid under exactly one of the schemas of `oneOf`")),
        ] {
            let list = schema.get(keyword).and_then(Value::as_array);
            let Some(list) = list.filter(|_| !self.is_full()) else { continue };
            let parts: Vec<SubSchema<'a>> = list
                .iter()
                .enumerate()
                .map(|(place, it)| part.below(it, keyword, Some(&place.to_string())))
                .collect();
            let Some(rule) = rule else {
                parts.iter().for_each(|it| self.part(it, value, path, depth + 1));
                continue;
            };
            let count = parts.iter().filter(|it| self.is_valid(it, value)).count();
            if count == 0 || keyword == "oneOf" && count > 1 {
                self.add(path, rule.to_owned());
            }
        }
    }

    fn members(
        &mut self,
        part: &SubSchema<'a>,
        schema: &'a Map<String, Value>,
        members: &Map<String, Value>,
        path: &str,
        depth: usize,
    ) {
        let named = schema.get("properties").and_then(Value::as_object);
        for (name, below) in named.into_iter().flatten() {
            if let Some(value) = members.get(name) {
                let below = part.below(below, "properties", Some(name));
                self.part(&below, value, &format!("{path}{}", member(name)), depth + 1);
            }
        }
        let is_open = !schema.contains_key("patternProperties");
        let more = schema.get("additionalProperties").filter(|it| it.is_object() && is_open);
        let Some(more) = more else { return };
        let below = part.below(more, "additionalProperties", None);
        for (name, value) in members {
            if named.is_none_or(|it| !it.contains_key(name)) {
                self.part(&below, value, &format!("{path}{}", member(name)), depth + 1);
            }
        }
    }

    fn elements(
        &mut self,
        part: &SubSchema<'a>,
        schema: &'a Map<String, Value>,
        list: &[Value],
        path: &str,
        depth: usize,
    ) {
        let mut begun = 0;
        for keyword in ["prefixItems", "items"] {
            let first = schema.get(keyword).and_then(Value::as_array).into_iter().flatten();
            for ((place, below), value) in first.enumerate().zip(list) {
                begun = place + 1;
                let below = part.below(below, keyword, Some(&place.to_string()));
                self.part(&below, value, &format!("{path}[{place}]"), depth + 1);
            }
        }
        let Some(rest) = schema.get("items").filter(|it| !it.is_array()) else { return };
        let below = part.below(rest, "items", None);
        for (place, value) in list.iter().enumerate().skip(begun) {
            if self.is_full() {
                return;
            }
            self.part(&below, value, &format!("{path}[{place}]"), depth + 1);
        }
    }
}
