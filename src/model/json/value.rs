//! JSON as a value of `serde_json`, which knows neither half of a surrogate pair nor numbers beyond a
//! double. Nothing else is lost for it.

use serde_json::{Map, Number, Value};

use super::{scan, text};

/// What is stored has at most 64 levels and those that Tidegate puts around it.
const DEEPEST: usize = 128;

/// In a name, half of a pair is shown as its escape; in a text, as U+FFFD. A number beyond a double is
/// the largest one. What is no JSON is `null`.
pub fn value(json: &[u8]) -> Value {
    // Nearly everything is as serde likes it.
    serde_json::from_slice(json).unwrap_or_else(|_| of(super::trimmed(json), DEEPEST))
}

fn of(json: &[u8], levels: usize) -> Value {
    match (json.first(), levels.checked_sub(1)) {
        (Some(b'{'), Some(levels)) => {
            let mut map = Map::new();
            for (name, value) in scan::fields(json).unwrap_or_default() {
                map.insert(text::shown_name(name).into_owned(), of(value, levels));
            }
            Value::Object(map)
        }
        (Some(b'['), Some(levels)) => {
            let elements = scan::elements(json).unwrap_or_default();
            Value::Array(elements.into_iter().map(|it| of(it, levels)).collect())
        }
        (Some(b'"'), _) => Value::String(text::lossy(super::inner(json)).into_owned()),
        _ => serde_json::from_slice(json).unwrap_or_else(|_| largest(json)),
    }
}

/// Of a number that is too large.
fn largest(json: &[u8]) -> Value {
    match json.first() {
        Some(b'-') => Number::from_f64(f64::MIN).map_or(Value::Null, Value::Number),
        Some(b'0'..=b'9') => Number::from_f64(f64::MAX).map_or(Value::Null, Value::Number),
        Some(_) | None => Value::Null,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn json_that_serde_refuses_is_still_a_value() {
        for (text, expected) in [
            (r#"{"a":1,"\ud800":2}"#, json!({ "a": 1, "\\ud800": 2 })),
            (r#"{"a":"x\ud800","a":"\udc00y"}"#, json!({ "a": "\u{fffd}y" })),
            (r#"[1e400,-1e400,7,"x"]"#, json!([f64::MAX, f64::MIN, 7, "x"])),
            (r#"{"a":{"\ud800":[{"b":null}]}}"#, json!({ "a": { "\\ud800": [{ "b": null }] } })),
            ("1e400", json!(f64::MAX)),
            (r#" "\ud800" "#, json!("\u{fffd}")),
            ("{", json!({})),
            ("", Value::Null),
        ] {
            assert_eq!(value(text.as_bytes()), expected, "{text}");
        }
    }
}
