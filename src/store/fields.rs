//! The fields of a row of the directory, put together.

use crate::model::{
    RawJson,
    json::{Object, ObjectWriter},
};

/// New fields over old ones, each as it was written. A field that is null goes.
pub(super) fn merged(before: Option<&RawJson>, fields: &RawJson) -> RawJson {
    // Rows are objects, by the check of who puts them; what is none has no fields.
    let old = before.map(|it| Object::read(it.bytes()).unwrap_or_default()).unwrap_or_default();
    let new = Object::read(fields.bytes()).unwrap_or_default();
    let size = before.map_or(0, |it| it.bytes().len()) + fields.bytes().len();
    let mut out = ObjectWriter::with_capacity(size);
    for field in old.fields() {
        match new.named(&field.name) {
            Some(b"null") => (),
            Some(value) => out.raw(field.inner, value),
            None => out.raw(field.inner, field.value),
        }
    }
    let added = new.fields().iter().filter(|it| old.named(&it.name).is_none());
    for field in added.filter(|it| it.value != b"null") {
        out.raw(field.inner, field.value);
    }
    out.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_keeps_what_serde_cannot_hold() {
        for (before, fields, expected) in [
            (None, r#"{"a":1.50}"#, r#"{"a":1.50}"#),
            (Some(r#"{"a":1,"b":2,"c":3}"#), r#"{"b":null,"d":4,"a":5}"#, r#"{"a":5,"c":3,"d":4}"#),
            (
                Some(r#"{"\ud800":1,"n":1e400,"a":1}"#),
                r#"{"\u0061":2,"t":"\udc00"}"#,
                r#"{"\ud800":1,"n":1e400,"a":2,"t":"\udc00"}"#,
            ),
        ] {
            let before = before.map(RawJson::trusted);
            let merged = merged(before.as_ref(), &RawJson::trusted(fields));
            assert_eq!(merged.as_str(), expected);
        }
    }
}
