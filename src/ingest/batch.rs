//! A request with many events: taken apart into texts, of which each is judged by itself.

use axum::http::{HeaderMap, header};
use serde_json::value::RawValue;

use super::event::{self, Draft, NoEvent};
use crate::{
    model::json,
    problem::{FieldError, Kind, Problem, kind_of_json},
};

/// Events in a batch.
pub const AT_MOST: usize = 1000;

/// How the events of a batch stand in its body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// One JSON array.
    Array,
    /// One event in each line (NDJSON).
    Lines,
}

impl Format {
    /// By the content type, or by how the body begins.
    pub fn of(headers: &HeaderMap, body: &[u8]) -> Self {
        let content_type = headers.get(header::CONTENT_TYPE).and_then(|it| it.to_str().ok());
        let essence = content_type.unwrap_or_default().split(';').next().unwrap_or_default().trim();
        let is = |name: &&str| essence.eq_ignore_ascii_case(name);
        if ["application/x-ndjson", "application/ndjson", "application/jsonl"].iter().any(is) {
            Self::Lines
        } else if is(&"application/json") || kind_of_json(body) != "an object" {
            Self::Array
        } else {
            Self::Lines
        }
    }
}

/// An event of a batch, or why it is none.
pub type Item<'a> = Result<Draft<'a>, Vec<FieldError>>;

/// Takes a batch apart. An array that is not JSON fails as a whole, since what follows the mistake
/// means nothing; in lines, only the line fails. An event has at most as many bytes as alone: `most`.
pub fn parse(body: &[u8], format: Format, most: usize) -> Result<Vec<Item<'_>>, Problem> {
    let texts: Vec<&[u8]> = match format {
        Format::Array => {
            if kind_of_json(body) != "an array" {
                let rule =
                    "must be an array of events, or one event per line (`application/x-ndjson`)";
                return Err(Problem::invalid_field("body", rule, kind_of_json(body)));
            }
            let texts: Vec<&RawValue> = serde_json::from_slice(body)
                .map_err(|error| Problem::new(Kind::InvalidJson).detail(event::syntax(&error)))?;
            texts.into_iter().map(|it| it.get().as_bytes()).collect()
        }
        Format::Lines => {
            let lines = body.split(|&byte| byte == b'\n');
            // One more than allowed is enough to know.
            lines.filter(|line| !is_blank(line)).take(AT_MOST + 1).collect()
        }
    };
    if texts.is_empty() || texts.len() > AT_MOST {
        let found = if texts.is_empty() { "none" } else { "more" };
        let error = FieldError::new("body", format!("must have 1 to {AT_MOST} events"), found);
        let kind = if texts.is_empty() { Kind::InvalidRequest } else { Kind::BodyTooLarge };
        return Err(Problem::new(kind).errors(vec![error]));
    }
    let numbered = texts.into_iter().enumerate();
    Ok(numbered.map(|(place, text)| item(place, text, most)).collect())
}

fn item(place: usize, text: &[u8], most: usize) -> Result<Draft<'_>, Vec<FieldError>> {
    let path = format!("events[{place}]");
    if json::trimmed(text).len() > most {
        let rule = format!("must have at most {most} bytes");
        return Err(vec![FieldError::new(path, rule, format!("{} bytes", text.len()))]);
    }
    event::parse(text, &path).map_err(|error| match error {
        NoEvent::Fields(errors) => errors,
        NoEvent::Json(detail) => {
            let rule = format!("must be valid JSON: {detail}");
            vec![FieldError::new(path, rule, kind_of_json(text))]
        }
    })
}

/// Whether nothing stands in a line, by what JSON calls white space.
fn is_blank(line: &[u8]) -> bool {
    line.iter().all(|it| matches!(it, b' ' | b'\t' | b'\r'))
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn the_format_goes_by_content_type_and_else_by_the_first_character() {
        for (content_type, body, expected) in [
            (None, " [", Format::Array),
            (None, "{", Format::Lines),
            (Some("application/x-www-form-urlencoded"), "{", Format::Lines),
            (Some("application/json; charset=utf-8"), "{", Format::Array),
            (Some("application/x-ndjson"), "[", Format::Lines),
        ] {
            let line = content_type.map(|it| (header::CONTENT_TYPE, HeaderValue::from_static(it)));
            let headers = line.into_iter().collect();
            assert_eq!(Format::of(&headers, body.as_bytes()), expected, "{content_type:?} {body}");
        }
    }

    #[test]
    fn a_bad_event_does_not_spoil_the_good_ones() {
        let good = r#"{"type":"a","payload":1}"#;
        let array = format!(r#"[{good},{{"type":1,"payload":1}},{good},7]"#);
        let lines = format!("{good}\r\n\n{{\"type\":1,\"payload\":1}}\n{good}\n{{\"type\":");
        for (body, format) in [(array, Format::Array), (lines, Format::Lines)] {
            let items = parse(body.as_bytes(), format, 1024).unwrap();
            let is_ok: Vec<_> = items.iter().map(Result::is_ok).collect();
            assert_eq!(is_ok, [true, false, true, false]);
            let field = |place: usize| items[place].as_ref().unwrap_err()[0].field.clone();
            assert_eq!((field(1).as_str(), field(3).as_str()), ("events[1].type", "events[3]"));
        }
    }

    #[test]
    fn an_event_of_a_batch_is_no_larger_than_one_alone() {
        let event = |length| format!(r#"{{"type":"a","payload":"{}"}}"#, "x".repeat(length));
        let (fits, large) = (event(75), event(76));
        assert_eq!((fits.len(), large.len()), (100, 101));
        let array = format!("[{fits},{large},{fits}]");
        let lines = format!("{fits}\r\n{large}\n  {fits}  ");
        for (body, format) in [(array, Format::Array), (lines, Format::Lines)] {
            let items = parse(body.as_bytes(), format, 100).unwrap();
            let wrong: Vec<_> = items.iter().map(|it| it.as_ref().err()).collect();
            assert!(wrong[0].is_none() && wrong[2].is_none());
            let error = &wrong[1].unwrap()[0];
            assert_eq!((&*error.field, &*error.rule), ("events[1]", "must have at most 100 bytes"));
        }
    }

    #[test]
    fn a_batch_has_one_to_a_thousand_events() {
        let lines =
            |count| r#"{"type":"a","payload":1}"#.to_owned().repeat(count).replace("}{", "}\n{");
        for (count, expected) in [
            (0, Some(Kind::InvalidRequest)),
            (1, None),
            (1000, None),
            (1001, Some(Kind::BodyTooLarge)),
        ] {
            let parsed = parse(lines(count).as_bytes(), Format::Lines, 1024).map(|it| it.len());
            assert_eq!(parsed.map_err(|it| it.kind()).err(), expected, "{count}");
        }
        assert!(parse(b"[]", Format::Array, 1024).is_err());
        assert!(parse(b"[1", Format::Array, 1024).is_err_and(|it| it.kind() == Kind::InvalidJson));
    }
}
