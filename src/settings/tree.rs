//! Input as a tree that knows its places, and typed data out of it.
//!
//! YAML and JSON become the same tree first. So both give the same errors, which name the field, the
//! rule and what was found there, and never repeat a value: it may be a secret.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{
        self, DeserializeOwned, DeserializeSeed, EnumAccess, Expected, IntoDeserializer, MapAccess,
        SeqAccess, Unexpected, VariantAccess, Visitor,
    },
};
use serde_saphyr::Spanned;

use super::{
    Invalid,
    words::{self, listed, meant},
};

/// Where a value stands in its file, counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Location {
    pub line: u64,
    pub column: u64,
}

/// A value with its place. It has no `Debug`, since it may hold secrets.
pub struct TreeNode {
    /// `None` in what came as JSON.
    pub place: Option<Location>,
    pub value: Value,
}

pub enum Value {
    Null,
    Bool(bool),
    Number(serde_json::Number),
    Text(String),
    List(Vec<TreeNode>),
    Map(Vec<(String, TreeNode)>),
}

/// Limits on what a file may ask of us.
const LARGEST_FILE: usize = 4 * 1024 * 1024;

/// Reads YAML. An error says what is wrong and where, as far as that is known.
pub fn from_yaml(text: &str) -> Result<TreeNode, (Option<Location>, Invalid)> {
    if text.len() > LARGEST_FILE {
        let rule = format!("must have at most {LARGEST_FILE} bytes");
        return Err((None, Invalid::new("", rule, format!("{}", text.len()))));
    }
    let options = serde_saphyr::options! { strict_booleans: true, with_snippet: false };
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    serde_saphyr::from_str_with_options::<TreeNode>(text, options).map_err(|error| {
        let place = error
            .location()
            .filter(|it| it.line() > 0)
            .map(|it| Location { line: it.line(), column: it.column() });
        let (rule, found) = words::yaml(&error);
        (place, Invalid::new("", rule, found))
    })
}

pub fn from_json(bytes: &[u8]) -> Result<TreeNode, Invalid> {
    let bytes = crate::model::json::without_mark(bytes);
    serde_json::from_slice::<serde_json::Value>(bytes).map(TreeNode::from).map_err(|error| {
        let rule = format!("must be valid JSON: line {}, column {}", error.line(), error.column());
        Invalid { path: String::new(), rule, found: "something else".to_owned() }
    })
}

impl TreeNode {
    /// Typed data from this tree.
    pub fn read<T: DeserializeOwned>(&self) -> Result<T, Invalid> {
        T::deserialize(self).map_err(|refusal| Invalid {
            path: refusal.path,
            rule: refusal.rule,
            found: refusal.found,
        })
    }

    /// The node at a path such as `routes[0].when`, or the last one on the way there.
    pub fn at(&self, path: &str) -> &Self {
        let mut node = self;
        for part in path.split(['.', '[']).map(|it| it.trim_end_matches(']')) {
            let next = match &node.value {
                Value::Map(entries) => {
                    entries.iter().rfind(|(key, _)| key == part).map(|(_, value)| value)
                }
                Value::List(items) => part.parse().ok().and_then(|it: usize| items.get(it)),
                Value::Null | Value::Bool(_) | Value::Number(_) | Value::Text(_) => None,
            };
            let Some(next) = next else { break };
            node = next;
        }
        node
    }

    /// Calls `change` with the path and text of each string.
    pub fn each_text(&mut self, path: &str, change: &mut dyn FnMut(&str, &mut String)) {
        match &mut self.value {
            Value::Null | Value::Bool(_) | Value::Number(_) => (),
            Value::Text(text) => change(path, text),
            Value::List(items) => {
                for (place, item) in items.iter_mut().enumerate() {
                    item.each_text(&format!("{path}[{place}]"), change);
                }
            }
            Value::Map(entries) => {
                for (key, value) in entries {
                    let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                    value.each_text(&path, change);
                }
            }
        }
    }
}

impl From<serde_json::Value> for TreeNode {
    fn from(json: serde_json::Value) -> Self {
        let value = match json {
            serde_json::Value::Null => Value::Null,
            serde_json::Value::Bool(it) => Value::Bool(it),
            serde_json::Value::Number(it) => Value::Number(it),
            serde_json::Value::String(it) => Value::Text(it),
            serde_json::Value::Array(items) => {
                Value::List(items.into_iter().map(Self::from).collect())
            }
            serde_json::Value::Object(map) => {
                Value::Map(map.into_iter().map(|(key, it)| (key, Self::from(it))).collect())
            }
        };
        Self { place: None, value }
    }
}

impl<'de> Deserialize<'de> for TreeNode {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<Value>::deserialize(deserializer)?;
        let at = spanned.referenced;
        let place = (at.line() > 0).then(|| Location { line: at.line(), column: at.column() });
        Ok(Self { place, value: spanned.value })
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;

        impl<'de> Visitor<'de> for Any {
            type Value = Value;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value")
            }

            fn visit_unit<E>(self) -> Result<Value, E> {
                Ok(Value::Null)
            }

            fn visit_none<E>(self) -> Result<Value, E> {
                Ok(Value::Null)
            }

            fn visit_some<D: Deserializer<'de>>(self, it: D) -> Result<Value, D::Error> {
                Value::deserialize(it)
            }

            fn visit_bool<E>(self, it: bool) -> Result<Value, E> {
                Ok(Value::Bool(it))
            }

            fn visit_i64<E>(self, it: i64) -> Result<Value, E> {
                Ok(Value::Number(it.into()))
            }

            fn visit_u64<E>(self, it: u64) -> Result<Value, E> {
                Ok(Value::Number(it.into()))
            }

            fn visit_f64<E>(self, it: f64) -> Result<Value, E> {
                Ok(serde_json::Number::from_f64(it).map_or(Value::Null, Value::Number))
            }

            fn visit_str<E>(self, it: &str) -> Result<Value, E> {
                Ok(Value::Text(it.to_owned()))
            }

            fn visit_string<E>(self, it: String) -> Result<Value, E> {
                Ok(Value::Text(it))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = seq.next_element()? {
                    items.push(item);
                }
                Ok(Value::List(items))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry::<String, TreeNode>()? {
                    entries.push(entry);
                }
                Ok(Value::Map(entries))
            }
        }

        deserializer.deserialize_any(Any)
    }
}

/// Begins each part of an error that is carried by [`carry`]. No text of ours holds it.
const CARRIED: char = '\u{1f}';

/// An error of a type that reads a part of itself from a tree of its own: its path, rule and finding go through
/// serde's one text, and are the same when they come out of [`TreeNode::read`].
pub fn carry<E: de::Error>(invalid: &Invalid) -> E {
    let Invalid { path, rule, found } = invalid;
    E::custom(format_args!("{CARRIED}{path}{CARRIED}{rule}{CARRIED}{found}"))
}

/// Why a tree does not fit a type. The path grows on the way out.
#[derive(Debug)]
pub struct Refusal {
    path: String,
    rule: String,
    found: String,
}

impl Refusal {
    fn new(rule: String, found: &str) -> Self {
        Self { path: String::new(), rule, found: found.to_owned() }
    }

    fn in_field(mut self, key: &str) -> Self {
        let dot = if self.path.is_empty() || self.path.starts_with('[') { "" } else { "." };
        self.path = format!("{key}{dot}{}", self.path);
        self
    }

    fn in_item(mut self, place: usize) -> Self {
        let dot = if self.path.is_empty() || self.path.starts_with('[') { "" } else { "." };
        self.path = format!("[{place}]{dot}{}", self.path);
        self
    }

    fn found_at(mut self, node: &TreeNode) -> Self {
        if self.found.is_empty() {
            self.found = node.value.kind().to_owned();
        }
        self
    }
}

impl Value {
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "a boolean",
            Self::Number(_) => "a number",
            Self::Text(_) => "a string",
            Self::List(_) => "a list",
            Self::Map(_) => "a map",
        }
    }
}

impl std::error::Error for Refusal {}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}, found {}", self.path, self.rule, self.found)
    }
}

impl de::Error for Refusal {
    fn custom<T: fmt::Display>(message: T) -> Self {
        let text = message.to_string();
        let mut parts = text.strip_prefix(CARRIED).unwrap_or_default().splitn(3, CARRIED);
        match (parts.next(), parts.next(), parts.next()) {
            (Some(path), Some(rule), Some(found)) => {
                let (path, rule, found) = (path.to_owned(), rule.to_owned(), found.to_owned());
                Self { path, rule, found }
            }
            _ => Self::new(text, ""),
        }
    }

    fn invalid_type(_: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::new(format!("must be {}", words::kind(&expected.to_string())), "")
    }

    fn invalid_value(_: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::new(format!("must be {}", words::kind(&expected.to_string())), "")
    }

    fn invalid_length(_: usize, expected: &dyn Expected) -> Self {
        Self::new(format!("must have {expected}"), "")
    }

    fn unknown_variant(variant: &str, expected: &'static [&'static str]) -> Self {
        Self::new(format!("must be one of {}{}", listed(expected), meant(variant, expected)), "")
    }

    fn unknown_field(field: &str, expected: &'static [&'static str]) -> Self {
        let rule = if expected.is_empty() {
            "takes no settings".to_owned()
        } else {
            let meant = meant(field, expected);
            format!("is not a field here{meant}: there are {}", listed(expected))
        };
        Self::new(rule, "an unknown field").in_field(&words::printable(field))
    }

    fn missing_field(field: &'static str) -> Self {
        Self::new("is required".to_owned(), "nothing").in_field(field)
    }

    fn duplicate_field(field: &'static str) -> Self {
        Self::new("may stand here once".to_owned(), "it twice").in_field(field)
    }
}

impl<'de> Deserializer<'de> for &'de TreeNode {
    type Error = Refusal;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refusal> {
        match &self.value {
            Value::Null => visitor.visit_unit(),
            Value::Bool(it) => visitor.visit_bool(*it),
            Value::Number(it) => match (it.as_u64(), it.as_i64()) {
                (Some(it), _) => visitor.visit_u64(it),
                (None, Some(it)) => visitor.visit_i64(it),
                (None, None) => visitor.visit_f64(it.as_f64().unwrap_or_default()),
            },
            Value::Text(it) => visitor.visit_str(it),
            Value::List(items) => visitor.visit_seq(Items { items, place: 0 }),
            Value::Map(entries) => visitor.visit_map(Entries { entries, place: 0 }),
        }
        .map_err(|it: Refusal| it.found_at(self))
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refusal> {
        match &self.value {
            Value::Null => visitor.visit_none(),
            Value::Bool(_) | Value::Number(_) | Value::Text(_) | Value::List(_) | Value::Map(_) => {
                visitor.visit_some(self)
            }
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Refusal> {
        visitor.visit_newtype_struct(self).map_err(|it: Refusal| it.found_at(self))
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Refusal> {
        let (name, value) = match &self.value {
            Value::Text(name) => (name, None),
            Value::Map(entries) if entries.len() == 1 => (&entries[0].0, Some(&entries[0].1)),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::List(_) | Value::Map(_) => {
                let rule = format!("must be one of {}", listed(variants));
                return Err(Refusal::new(rule, self.value.kind()));
            }
        };
        visitor.visit_enum(Choice { name, value }).map_err(|it| it.found_at(self))
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refusal> {
        visitor.visit_unit()
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit
        unit_struct seq tuple tuple_struct map struct identifier
    }
}

struct Items<'de> {
    items: &'de [TreeNode],
    place: usize,
}

impl<'de> SeqAccess<'de> for Items<'de> {
    type Error = Refusal;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Refusal> {
        let place = self.place;
        let Some(item) = self.items.get(place) else { return Ok(None) };
        self.place += 1;
        seed.deserialize(item).map(Some).map_err(|it| it.found_at(item).in_item(place))
    }
}

struct Entries<'de> {
    entries: &'de [(String, TreeNode)],
    place: usize,
}

impl<'de> MapAccess<'de> for Entries<'de> {
    type Error = Refusal;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Refusal> {
        let Some((key, _)) = self.entries.get(self.place) else { return Ok(None) };
        let key: de::value::StrDeserializer<'_, Refusal> = key.as_str().into_deserializer();
        seed.deserialize(key).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Refusal> {
        let (key, value) = &self.entries[self.place];
        self.place += 1;
        seed.deserialize(value).map_err(|it| it.found_at(value).in_field(key))
    }
}

struct Choice<'de> {
    name: &'de str,
    value: Option<&'de TreeNode>,
}

impl<'de> EnumAccess<'de> for Choice<'de> {
    type Error = Refusal;
    type Variant = Self;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Self), Refusal> {
        let name: de::value::StrDeserializer<'_, Refusal> = self.name.into_deserializer();
        Ok((seed.deserialize(name)?, self))
    }
}

impl<'de> Choice<'de> {
    fn settings(&self) -> Result<&'de TreeNode, Refusal> {
        let missing =
            || Refusal::new(format!("`{}` needs its settings", self.name), "its name alone");
        self.value.ok_or_else(missing)
    }
}

impl<'de> VariantAccess<'de> for Choice<'de> {
    type Error = Refusal;

    fn unit_variant(self) -> Result<(), Refusal> {
        match self.value.map(|it| &it.value) {
            None | Some(Value::Null) => Ok(()),
            Some(it) => {
                Err(Refusal::new("takes no settings".to_owned(), it.kind()).in_field(self.name))
            }
        }
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, Refusal> {
        let node = self.settings()?;
        seed.deserialize(node).map_err(|it| it.found_at(node).in_field(self.name))
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, Refusal> {
        self.settings()?.deserialize_any(visitor).map_err(|it| it.in_field(self.name))
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Refusal> {
        self.settings()?.deserialize_any(visitor).map_err(|it| it.in_field(self.name))
    }
}
