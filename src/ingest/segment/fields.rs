//! A JSON object as its fields, each still as the bytes in which it came.

use std::{borrow::Cow, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};
use serde_json::value::RawValue;

use crate::{
    ingest::shape,
    problem::{Problem, kind_of_json},
};

/// In the order in which they came. Of two with the same name, the last counts, at the place of the first.
#[derive(Debug, Default)]
pub struct Fields<'a> {
    all: Vec<(Cow<'a, str>, &'a RawValue)>,
    /// The object itself; `None` when it was made here.
    whole: Option<&'a RawValue>,
}

impl<'a> Fields<'a> {
    /// Any JSON value parses; one that is no object has no fields.
    pub fn parse(json: &'a [u8]) -> Result<Self, serde_json::Error> {
        let whole: &RawValue = serde_json::from_slice(json)?;
        Ok(Self { whole: Some(whole), ..Self::of(whole) })
    }

    pub fn of(value: &'a RawValue) -> Self {
        serde_json::from_str(value.get()).unwrap_or_default()
    }

    pub fn get(&self, name: &str) -> Option<&'a RawValue> {
        self.all.iter().find(|(it, _)| it == name).map(|(_, value)| *value)
    }

    /// A string that is not empty.
    pub fn text(&self, name: &str) -> Option<String> {
        let text: String = serde_json::from_str(self.get(name)?.get()).ok()?;
        Some(text).filter(|it| !it.is_empty())
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &'a RawValue)> {
        self.all.iter().map(|(name, value)| (name.as_ref(), *value))
    }

    /// The messages of a request: those of its `batch`, or the whole as one.
    pub fn messages(&self, is_batch: bool) -> Result<Vec<&'a RawValue>, Problem> {
        let Some(whole) = self.whole else { return Ok(Vec::new()) };
        let found = kind_of_json(whole.get().as_bytes());
        if found != "an object" {
            return Err(Problem::invalid_field("body", "it is an object", found));
        }
        if !is_batch {
            return Ok(vec![whole]);
        }
        let batch = self.get("batch").map_or("", RawValue::get);
        serde_json::from_str(batch).map_err(|_| {
            let found = if batch.is_empty() { "nothing" } else { kind_of_json(batch.as_bytes()) };
            Problem::invalid_field("batch", "it is an array of messages", found)
        })
    }

    /// Whether one value of it is too deep, or has too many keys.
    pub fn check_shape(value: &RawValue) -> Result<(), shape::ShapeError> {
        shape::check(value.get().as_bytes())
    }
}

impl<'de> Deserialize<'de> for Fields<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = Fields<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Fields<'de>, M::Error> {
                let mut fields = Fields::default();
                while let Some((Text(name), value)) = map.next_entry::<Text<'de>, _>()? {
                    match fields.all.iter_mut().find(|(it, _)| *it == name) {
                        Some((_, old)) => *old = value,
                        None => fields.all.push((name, value)),
                    }
                }
                Ok(fields)
            }
        }
        deserializer.deserialize_map(Reader)
    }
}

/// A name, borrowed where nothing in it is escaped.
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_keep_their_bytes_and_the_last_of_a_name_counts() {
        let fields = Fields::parse(br#"{"a":1.50,"b":{"x" : 1},"\u0061":"z"}"#).unwrap();
        let all: Vec<_> = fields.iter().map(|(name, value)| (name, value.get())).collect();
        assert_eq!(all, [("a", "\"z\""), ("b", r#"{"x" : 1}"#)]);
        assert_eq!((fields.text("a").as_deref(), fields.text("b")), (Some("z"), None));
    }

    #[test]
    fn a_batch_is_an_array_and_a_call_is_an_object() {
        let count = |json: &str, is_batch| {
            let fields = Fields::parse(json.as_bytes()).unwrap();
            fields.messages(is_batch).map(|it| it.len()).map_err(|it| it.errors[0].field.clone())
        };
        assert_eq!(count(r#"{"batch":[1,{}]}"#, true), Ok(2));
        assert_eq!(count(r#"{"batch":{}}"#, true), Err("batch".to_owned()));
        assert_eq!(count("{}", true), Err("batch".to_owned()));
        assert_eq!(count(r#"{"batch":[1,{}]}"#, false), Ok(1));
        assert_eq!(count("[]", false), Err("body".to_owned()));
    }
}
