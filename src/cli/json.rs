//! JSON as it came: 1.50 stays 1.50, and a number that no `f64` holds stays whole.

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Value, value::RawValue};

use super::error::{CliError, Result};
use crate::model::RawJson;

/// One JSON text.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Json(Box<RawValue>);

impl Json {
    pub fn parse(bytes: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(bytes).map(Self)
    }

    /// Any value of ours.
    pub fn of(value: &impl Serialize) -> Self {
        Self::parse(RawJson::of(value).bytes()).unwrap_or_default()
    }

    pub fn as_str(&self) -> &str {
        self.0.get()
    }

    /// As data of ours. What a gateway of another version adds is passed over.
    pub fn read<T: DeserializeOwned>(&self) -> Result<T> {
        serde_json::from_str(self.0.get()).map_err(|error| CliError::Answer {
            what: format!("the answer is not understood: {error}"),
        })
    }

    pub fn to_value(&self) -> Value {
        serde_json::from_str(self.0.get()).unwrap_or_default()
    }

    /// A field that is a text; empty where it is none.
    pub fn text(&self, name: &str) -> String {
        self.to_value().get(name).and_then(Value::as_str).unwrap_or_default().to_owned()
    }

    /// Without line breaks: JSON has them only between its tokens.
    pub fn line(&self) -> String {
        self.0.get().replace(['\n', '\r'], " ")
    }

    /// Indented by two for each level, one field or item on each line.
    pub fn pretty(&self) -> String {
        let mut text = String::with_capacity(self.0.get().len() * 2);
        let mut depth = 0;
        let mut letters = self.0.get().chars().filter(|it| !it.is_control()).peekable();
        while let Some(letter) = letters.next() {
            match letter {
                ' ' => (),
                '"' => {
                    text.push(letter);
                    while let Some(inside) = letters.next() {
                        text.push(inside);
                        match inside {
                            '\\' => text.extend(letters.next()),
                            '"' => break,
                            _ => (),
                        }
                    }
                }
                '{' | '[' => {
                    text.push(letter);
                    while letters.next_if_eq(&' ').is_some() {}
                    if let Some(end) = letters.next_if(|it| matches!(it, '}' | ']')) {
                        text.push(end);
                    } else {
                        depth += 1;
                        new_line(&mut text, depth);
                    }
                }
                '}' | ']' => {
                    depth -= 1;
                    new_line(&mut text, depth);
                    text.push(letter);
                }
                ',' => {
                    text.push(letter);
                    new_line(&mut text, depth);
                }
                ':' => text.push_str(": "),
                _ => text.push(letter),
            }
        }
        text
    }
}

impl Default for Json {
    /// `null`.
    fn default() -> Self {
        Self(RawValue::NULL.to_owned())
    }
}

fn new_line(text: &mut String, depth: usize) {
    text.push('\n');
    text.push_str(&"  ".repeat(depth));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pretty_json_is_the_same_json_with_its_numbers_as_they_were() {
        let text = "{\"a\": [ ],\t\"b\":{},\n\"c\":[1.50,12345678901234567890123,-0],\"d\":{\"e\\\"{\":\"x: [1, 2]\\\\\"},\"f\":null}";
        let expected = r#"{
  "a": [],
  "b": {},
  "c": [
    1.50,
    12345678901234567890123,
    -0
  ],
  "d": {
    "e\"{": "x: [1, 2]\\"
  },
  "f": null
}"#;
        let json = Json::parse(text.as_bytes()).unwrap();
        assert_eq!(json.pretty(), expected);
        assert_eq!(Json::parse(json.pretty().as_bytes()).unwrap().to_value(), json.to_value());
        assert!(!json.line().contains('\n'));
        for scalar in ["1.50", "\"a b\"", "null", "[]"] {
            assert_eq!(Json::parse(scalar.as_bytes()).unwrap().pretty(), scalar);
        }
    }
}
