//! The fields of a row of the directory, put together.

use serde_json::{Map, Value};

use crate::model::RawJson;

/// New fields over old ones. A field that is null goes.
pub(super) fn merged(before: Option<&RawJson>, fields: &RawJson) -> RawJson {
    let read = |it: &RawJson| serde_json::from_slice::<Map<String, Value>>(it.bytes()).ok();
    let mut all = before.and_then(read).unwrap_or_default();
    for (name, value) in read(fields).unwrap_or_default() {
        if value.is_null() {
            all.shift_remove(&name);
        } else {
            all.insert(name, value);
        }
    }
    RawJson::of(&all)
}
