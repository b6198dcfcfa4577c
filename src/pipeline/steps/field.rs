//! What steps add to a payload: one field more, or another value of a field.

use crate::model::{
    RawJson,
    json::{Object, ObjectWriter, scan, text},
};

/// An object with one more field, or with that field replaced. The values of all others stay byte for byte.
pub(super) fn with_field(object: Option<&RawJson>, name: &str, value: &RawJson) -> RawJson {
    let json = object.map_or("{}", |it| it.as_str().trim_ascii());
    let Some(inside) = json.strip_prefix('{').and_then(|it| it.strip_suffix('}')) else {
        return with_field(None, name, value);
    };
    let quoted = RawJson::of(name);
    let may_be_there = inside.contains(quoted.as_str()) || inside.contains('\\');
    // What is no JSON gets the field behind everything else, where the last of a name counts.
    if may_be_there
        && let Ok(fields) = scan::fields(json.as_bytes())
        && let Some(first) = fields.iter().position(|it| text::is(it.0, name))
    {
        let mut out = ObjectWriter::with_capacity(json.len() + value.bytes().len());
        for (place, (inner, old)) in fields.into_iter().enumerate() {
            if place == first {
                out.raw(inner, value.bytes());
            } else if !text::is(inner, name) {
                out.raw(inner, old);
            }
        }
        return out.finish();
    }
    let mut out = Vec::with_capacity(json.len() + quoted.bytes().len() + value.bytes().len() + 2);
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

/// A field of an object, as it is written there; the last of that name counts.
pub(super) fn field_of(object: &RawJson, name: &str) -> Option<RawJson> {
    let object = Object::read(object.bytes()).ok()?;
    Some(RawJson::trusted(object.get(name)?.to_vec()))
}

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
            (r#"{"p\u0065rson":2}"#, r#"{"p\u0065rson":1}"#),
            (r#"{"\ud800":2,"person":3}"#, r#"{"\ud800":2,"person":1}"#),
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
