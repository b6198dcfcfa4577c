//! A JSON object as its fields, each still as the bytes in which it came.

use serde::de::IgnoredAny;

use crate::{
    ingest::{event, shape},
    model::json::{self, Field, Object, scan},
    problem::{Kind, Problem, kind_of_json},
};

/// In the order in which they came. Of two with the same name, the last counts, at the place of the first.
#[derive(Debug, Default)]
pub struct MessageFields<'a> {
    object: Object<'a>,
    /// The whole of which they are the fields.
    whole: &'a [u8],
}

impl<'a> MessageFields<'a> {
    /// Of a body. Any JSON value will do; one that is no object has no fields.
    pub fn parse(body: &'a [u8]) -> Result<Self, Problem> {
        let whole = json::trimmed(json::without_mark(body));
        serde_json::from_slice::<IgnoredAny>(whole).map_err(|error| {
            let detail = match kind_of_json(whole) {
                found @ ("an object" | "an array" | "a string" | "nothing") => {
                    format!("{found} was begun: {}", event::syntax(&error))
                }
                found => format!("the body is {found}"),
            };
            Problem::new(Kind::InvalidJson).detail(detail)
        })?;
        if !json::is_object(whole) {
            return Ok(Self { whole, ..Self::default() });
        }
        let fields = scan::fields(whole).map_err(|_| Problem::new(Kind::InvalidJson))?;
        if fields.len() > shape::KEYS {
            let rule = shape::ShapeError::TooManyKeys.to_string();
            return Err(Problem::invalid_field("body", rule, "more"));
        }
        Ok(Self { object: Object::of(&fields), whole })
    }

    /// Of a message, whose shape was checked.
    pub fn of(whole: &'a [u8]) -> Self {
        // It is an object and JSON, by the check of the body that it is part of.
        Self { object: Object::read(whole).unwrap_or_default(), whole }
    }

    pub fn get(&self, name: &str) -> Option<&'a [u8]> {
        self.object.get(name)
    }

    /// A string that is text and not empty.
    pub fn text(&self, name: &str) -> Option<String> {
        let text = json::exact_text(self.get(name)?)?;
        Some(text.into_owned()).filter(|it| !it.is_empty())
    }

    pub fn iter(&self) -> impl Iterator<Item = &Field<'a>> {
        self.object.fields().iter()
    }

    /// The messages of a request: those of its `batch`, or the whole as one.
    pub fn messages(&self, is_batch: bool) -> Result<Vec<&'a [u8]>, Problem> {
        if !json::is_object(self.whole) {
            let found = kind_of_json(self.whole);
            return Err(Problem::invalid_field("body", "must be an object", found));
        }
        if !is_batch {
            return Ok(vec![self.whole]);
        }
        let batch = self.get("batch").unwrap_or_default();
        scan::elements(batch).map_err(|_| {
            let found = kind_of_json(batch);
            Problem::invalid_field("batch", "must be an array of messages", found)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_keep_their_bytes_and_the_last_of_a_name_counts() {
        let fields =
            MessageFields::parse(br#"{"a":1.50,"b":{"x" : 1},"\u0061":"z","\ud800":"a\udc00"}"#)
                .unwrap();
        let all: Vec<_> = fields.iter().map(|it| (it.inner, it.value)).collect();
        let expected: [(&[u8], &[u8]); 3] =
            [(br"\u0061", b"\"z\""), (b"b", br#"{"x" : 1}"#), (br"\ud800", br#""a\udc00""#)];
        assert_eq!(all, expected);
        assert_eq!((fields.text("a").as_deref(), fields.text("b")), (Some("z"), None));
    }

    #[test]
    fn a_batch_is_an_array_and_a_call_is_an_object() {
        let count = |json: &str, is_batch| {
            let fields = MessageFields::parse(json.as_bytes()).unwrap();
            fields.messages(is_batch).map(|it| it.len()).map_err(|it| it.errors[0].field.clone())
        };
        assert_eq!(count(r#"{"batch":[1,{}]}"#, true), Ok(2));
        assert_eq!(count(r#"{"batch":{}}"#, true), Err("batch".to_owned()));
        assert_eq!(count("{}", true), Err("batch".to_owned()));
        assert_eq!(count(r#"{"batch":[1,{}]}"#, false), Ok(1));
        assert_eq!(count("[]", false), Err("body".to_owned()));
    }

    #[test]
    fn a_body_of_too_many_fields_is_refused_before_it_is_taken_apart() {
        let keys = |count| {
            format!(
                "{{{}}}",
                (0..count).map(|it| format!("\"{it}\":1")).collect::<Vec<_>>().join(",")
            )
        };
        assert!(MessageFields::parse(keys(10_000).as_bytes()).is_ok());
        let problem = MessageFields::parse(keys(10_001).as_bytes()).unwrap_err();
        assert_eq!(
            (problem.kind(), problem.errors[0].field.as_str()),
            (Kind::InvalidRequest, "body")
        );
    }
}
