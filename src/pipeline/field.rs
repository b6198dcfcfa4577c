//! What steps add to a payload: one field more, or another value of a field.

use std::{borrow::Cow, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};
use serde_json::value::RawValue;

use crate::model::RawJson;

/// An object with one more field, or with that field replaced. The values of all others stay byte for byte.
pub(super) fn with_field(object: Option<&RawJson>, name: &str, value: &RawJson) -> RawJson {
    let text = object.map_or("{}", |it| it.as_str().trim_ascii());
    let Some(inside) = text.strip_prefix('{').and_then(|it| it.strip_suffix('}')) else {
        return with_field(None, name, value);
    };
    let quoted = RawJson::of(name);
    let may_be_there = inside.contains(quoted.as_str()) || inside.contains('\\');
    if may_be_there
        && let Ok(Parts(mut fields)) = serde_json::from_str::<Parts<'_>>(text)
        && fields.iter().any(|it| it.0 == name)
    {
        let mut is_first = true;
        fields.retain(|it| it.0 != name || std::mem::take(&mut is_first));
        return object_of(&fields, name, value);
    }
    let mut out = Vec::with_capacity(text.len() + quoted.bytes().len() + value.bytes().len() + 2);
    out.push(b'{');
    out.extend_from_slice(inside.as_bytes());
    if !inside.trim_ascii().is_empty() {
        out.push(b',');
    }
    out.extend_from_slice(quoted.bytes());
    out.push(b':');
    out.extend_from_slice(value.bytes());
    out.push(b'}');
    RawJson::trusted(out)
}

/// A field of an object, as it is written there; the first of that name.
pub(super) fn field_of(object: &RawJson, name: &str) -> Option<RawJson> {
    let Parts(fields) = serde_json::from_slice(object.bytes()).ok()?;
    let (_, raw) = fields.iter().find(|it| it.0 == name)?;
    Some(RawJson::trusted(raw.get().to_owned()))
}

/// These fields, of which the one of this name has another value.
fn object_of(fields: &[(Cow<'_, str>, &RawValue)], name: &str, value: &RawJson) -> RawJson {
    let size: usize = fields.iter().map(|it| it.0.len() + it.1.get().len() + 4).sum();
    let mut out = Vec::with_capacity(size + value.bytes().len() + 2);
    for (place, (key, raw)) in fields.iter().enumerate() {
        out.push(if place == 0 { b'{' } else { b',' });
        out.extend_from_slice(RawJson::of(key).bytes());
        out.push(b':');
        out.extend_from_slice(if key == name { value.bytes() } else { raw.get().as_bytes() });
    }
    out.push(b'}');
    RawJson::trusted(out)
}

/// The fields of an object, in their order, each as often as it is there.
struct Parts<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'de> Deserialize<'de> for Parts<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct All;

        impl<'de> Visitor<'de> for All {
            type Value = Parts<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Parts<'de>, A::Error> {
                let mut fields = Vec::new();
                while let Some(Key(key)) = map.next_key()? {
                    fields.push((key, map.next_value()?));
                }
                Ok(Parts(fields))
            }
        }

        deserializer.deserialize_map(All)
    }
}

#[derive(Deserialize)]
struct Key<'a>(#[serde(borrow)] Cow<'a, str>);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_added_to_an_object_which_else_stays_as_it_is() {
        for (object, expected) in [
            ("{}", r#"{"person":1}"#),
            (r#"{ "a": 1.50 }"#, r#"{ "a": 1.50 ,"person":1}"#),
            (r#"{"person":{"a":2},"b":1}"#, r#"{"person":1,"b":1}"#),
            (
                r#"{"a":1.50,"person":2, "b\"":{ "c":1e2 },"person":3}"#,
                r#"{"a":1.50,"person":1,"b\"":{ "c":1e2 }}"#,
            ),
            (r#"{"p\u0065rson":2}"#, r#"{"person":1}"#),
            (r#"{"a":"person"}"#, r#"{"a":"person","person":1}"#),
            (r#"{"a":{"person":2}}"#, r#"{"a":{"person":2},"person":1}"#),
            ("[]", r#"{"person":1}"#),
        ] {
            let object = RawJson::trusted(object);
            let found = with_field(Some(&object), "person", &RawJson::of(&1));
            assert_eq!(found.as_str(), expected);
        }
    }
}
