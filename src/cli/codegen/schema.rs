//! From a JSON Schema (draft 4 to 2020-12) to types.
//!
//! A type is never narrower than its schema, so that nothing valid is refused, with one exception that is
//! meant: where a schema names properties and does not speak of others, others do not compile. That
//! is how a misspelt field is found.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::types::{ObjectType, Property, Tuple, Type};

/// Reads one schema, and gives names to those parts of it that it refers to.
pub struct SchemaReader<'a> {
    root: &'a Value,
    /// The name of the whole.
    name: &'a str,
    /// Gives out names that nobody has.
    free_name: &'a mut dyn FnMut(&str) -> String,
    /// The names of parts, by their JSON pointers.
    names: BTreeMap<String, String>,
    /// Parts that have a name and are not read yet, the first one last.
    unread: Vec<(String, &'a Value)>,
}

impl<'a> SchemaReader<'a> {
    pub fn new(
        root: &'a Value,
        name: &'a str,
        free_name: &'a mut dyn FnMut(&str) -> String,
    ) -> Self {
        Self { root, name, free_name, names: BTreeMap::new(), unread: Vec::new() }
    }

    pub fn whole(&mut self) -> Type {
        self.read(self.root)
    }

    /// The next of the parts that were referred to, with its name.
    pub fn next_part(&mut self) -> Option<(String, &'a Value, Type)> {
        let (name, schema) = self.unread.pop()?;
        let part = self.read(schema);
        Some((name, schema, part))
    }

    fn read(&mut self, schema: &'a Value) -> Type {
        let fields = match schema {
            Value::Object(fields) => fields,
            Value::Bool(false) => return Type::Never,
            // `true`, and what is no schema.
            _ => return Type::Unknown,
        };
        let mut all = Vec::new();
        if let Some(Value::String(reference)) = fields.get("$ref") {
            all.push(self.reference(reference));
        }
        all.push(self.own(fields));
        for word in ["anyOf", "oneOf"] {
            if let Some(Value::Array(members)) = fields.get(word) {
                let members: Vec<_> = members.iter().map(|it| self.read(it)).collect();
                all.push(Type::union(members));
            }
        }
        if let Some(Value::Array(members)) = fields.get("allOf") {
            all.extend(members.iter().map(|it| self.read(it)));
        }
        let read = Type::intersection(all);
        // OpenAPI's word, which JSON Schema does not have, and people write.
        match fields.get("nullable") {
            Some(Value::Bool(true)) => Type::union([read, Type::word("null")]),
            _ => read,
        }
    }

    /// What the schema says without other schemas beside it.
    fn own(&mut self, fields: &'a Map<String, Value>) -> Type {
        if let Some(value) = fields.get("const") {
            return Type::literal(value);
        }
        if let Some(Value::Array(values)) = fields.get("enum") {
            return Type::union(values.iter().map(Type::literal));
        }
        match fields.get("type") {
            Some(Value::String(word)) => self.typed(word, fields),
            Some(Value::Array(words)) => {
                let words = words.iter().filter_map(Value::as_str);
                let members: Vec<_> = words.map(|it| self.typed(it, fields)).collect();
                Type::union(members)
            }
            _ => {
                let has = |words: &[&str]| words.iter().any(|it| fields.contains_key(*it));
                if has(&["properties", "required", "additionalProperties", "patternProperties"]) {
                    self.object(fields)
                } else if has(&["items", "prefixItems"]) {
                    self.array(fields)
                } else {
                    Type::Unknown
                }
            }
        }
    }

    fn typed(&mut self, word: &str, fields: &'a Map<String, Value>) -> Type {
        match word {
            "integer" | "number" => Type::word("number"),
            "string" | "boolean" | "null" => Type::word(word),
            "array" => self.array(fields),
            "object" => self.object(fields),
            _ => Type::Unknown,
        }
    }

    fn object(&mut self, fields: &'a Map<String, Value>) -> Type {
        let required: Vec<&str> = match fields.get("required") {
            Some(Value::Array(names)) => names.iter().filter_map(Value::as_str).collect(),
            _ => Vec::new(),
        };
        let mut properties = Vec::new();
        if let Some(Value::Object(named)) = fields.get("properties") {
            for (name, schema) in named {
                properties.push(Property {
                    name: name.clone(),
                    value: self.read(schema),
                    optional: !required.contains(&name.as_str()),
                    comment: remarks(schema),
                });
            }
        }
        for name in required {
            if !properties.iter().any(|it| it.name == name) {
                let (name, value) = (name.to_owned(), Type::Unknown);
                properties.push(Property { name, value, optional: false, comment: Vec::new() });
            }
        }
        let rest = match fields.get("additionalProperties") {
            _ if fields.contains_key("patternProperties") => Some(Type::Unknown),
            None => properties.is_empty().then_some(Type::Unknown),
            Some(Value::Bool(false)) => properties.is_empty().then_some(Type::Never),
            Some(schema) => Some(self.read(schema)),
        };
        Type::Object(ObjectType { properties, rest: rest.map(Box::new) })
    }

    fn array(&mut self, fields: &'a Map<String, Value>) -> Type {
        let rest_of = |word: &str| fields.get(word).filter(|it| !it.is_null());
        let (items, rest) = match (fields.get("prefixItems"), fields.get("items")) {
            (Some(Value::Array(items)), _) => (items, rest_of("items")),
            (_, Some(Value::Array(items))) => (items, rest_of("additionalItems")),
            (_, item) => {
                let item = item.map_or(Type::Unknown, |it| self.read(it));
                return Type::Array(Box::new(item));
            }
        };
        let least = fields.get("minItems").and_then(Value::as_u64).unwrap_or(0);
        let rest = match rest.map_or(Type::Unknown, |it| self.read(it)) {
            Type::Never => None,
            rest => Some(Box::new(rest)),
        };
        Type::Tuple(Tuple {
            items: items.iter().map(|it| self.read(it)).collect(),
            required: usize::try_from(least).unwrap_or(usize::MAX).min(items.len()),
            rest,
        })
    }

    /// The type behind a reference within the schema. Others are not followed.
    fn reference(&mut self, reference: &str) -> Type {
        let Some(pointer) = pointer_of(reference) else { return Type::Unknown };
        if is_itself(self.root, &pointer) {
            return Type::Unknown;
        }
        if pointer.is_empty() {
            return Type::word(self.name);
        }
        if let Some(name) = self.names.get(&pointer) {
            return Type::word(name);
        }
        let Some(schema) = self.root.pointer(&pointer) else { return Type::Unknown };
        let last = pointer.rsplit('/').next().unwrap_or_default();
        let name = (self.free_name)(&format!("{}{}", self.name, pascal(last)));
        self.names.insert(pointer, name.clone());
        self.unread.insert(0, (name.clone(), schema));
        Type::Word(name)
    }
}

/// `#/$defs/a%20b` as the pointer `/$defs/a b`; nothing for what is no pointer into the schema itself.
fn pointer_of(reference: &str) -> Option<String> {
    let fragment = reference.strip_prefix('#')?;
    // In a query `+` is a space, and here it is not.
    let escaped = format!("p={}", fragment.replace('+', "%2B").replace('&', "%26"));
    let (_, pointer) = url::form_urlencoded::parse(escaped.as_bytes()).next()?;
    (pointer.is_empty() || pointer.starts_with('/')).then(|| pointer.into_owned())
}

/// Whether a schema is defined as itself, with no object or array between, which TypeScript cannot say
/// (and which allows everything).
fn is_itself(root: &Value, pointer: &str) -> bool {
    fn leads_to<'a>(
        root: &'a Value,
        schema: &'a Value,
        goal: &Value,
        seen: &mut Vec<*const Value>,
    ) -> bool {
        if seen.contains(&std::ptr::from_ref(schema)) {
            return false;
        }
        seen.push(schema);
        let reference = schema.get("$ref").and_then(Value::as_str).and_then(pointer_of);
        let referred = reference.and_then(|it| root.pointer(&it));
        let members = ["anyOf", "oneOf", "allOf"].iter().filter_map(|it| schema.get(*it));
        let members = members.filter_map(Value::as_array).flatten();
        referred
            .into_iter()
            .chain(members)
            .any(|it| std::ptr::eq(it, goal) || leads_to(root, it, goal, seen))
    }
    let schema = root.pointer(pointer);
    schema.is_some_and(|it| leads_to(root, it, it, &mut Vec::new()))
}

/// What a schema says for people, and what types cannot say but people should know.
pub fn remarks(schema: &Value) -> Vec<String> {
    let text = |word: &str| schema.get(word).and_then(Value::as_str).filter(|it| !it.is_empty());
    let mut lines: Vec<String> = Vec::new();
    lines.extend(text("description").or(text("title")).map(str::to_owned));
    if schema.get("type").is_some_and(|it| it == "integer") {
        lines.push("An integer.".to_owned());
    }
    lines.extend(text("format").map(|it| format!("Format: `{it}`")));
    lines.extend(text("pattern").map(|it| format!("Pattern: `{it}`")));
    lines.extend(schema.get("default").map(|it| format!("@default {it}")));
    if schema.get("deprecated") == Some(&Value::Bool(true)) {
        lines.push("@deprecated".to_owned());
    }
    lines
}

/// `user.signed_up` as `UserSignedUp`.
pub fn pascal(text: &str) -> String {
    let words = text.split(|it: char| !it.is_ascii_alphanumeric());
    words
        .map(|word| {
            let mut letters = word.chars();
            let first = letters.next().map(|it| it.to_ascii_uppercase());
            first.into_iter().chain(letters).collect::<String>()
        })
        .collect()
}
