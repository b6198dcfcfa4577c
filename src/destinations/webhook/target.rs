//! URLs whose path and query are written again for each message.

use std::fmt::Write as _;

use crate::{
    expr::{ExprError, Facts, Template},
    model::{EndpointUrl, Target},
};

/// Bytes of a URL after its templates are filled in.
const LONGEST: usize = 8 * 1024;

/// Why a URL with templates cannot be saved.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    #[error("{0}")]
    Expression(#[from] ExprError),
    #[error("a URL holds `{{{{ … }}}}` and no other tags")]
    Tag,
    #[error("a `{{{{` in a URL has no `}}}}` behind it")]
    Open,
}

/// Whether the templates in this URL compile.
pub fn check_target(target: &Target) -> Result<(), TargetError> {
    TargetTemplate::compile(target).map(|_| ())
}

/// Text and expressions by turns.
pub(in crate::destinations) struct TargetTemplate {
    origin: String,
    parts: Vec<TemplatePart>,
}

enum TemplatePart {
    Text(String),
    /// Its value is percent-encoded whole, so that it stays within its segment or parameter.
    Value {
        template: Template,
        is_in_path: bool,
    },
}

/// Why there is no URL for a message. For people; holds nothing of the event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(in crate::destinations) enum Unresolved {
    #[error("a template in the URL has no value for this event")]
    Failed,
    #[error("a template in the URL's path is empty for this event")]
    Empty,
    #[error("a template makes the URL's path climb with `.` or `..`")]
    Climbs,
    #[error("the URL is longer than 8 KiB for this event")]
    TooLong,
    #[error("the URL is not valid for this event")]
    Invalid,
}

impl TargetTemplate {
    pub fn compile(target: &Target) -> Result<Self, TargetError> {
        let mut rest = target.as_text();
        let mut parts = Vec::new();
        let mut is_in_path = true;
        while let Some((text, tag)) = rest.split_once("{{") {
            is_in_path &= !text.contains('?');
            let end = end_of_tag(tag).ok_or(TargetError::Open)?;
            parts.push(plain(text)?);
            let template = Template::compile(&format!("{{{{{}}}}}", &tag[..end]))?;
            parts.push(TemplatePart::Value { template, is_in_path });
            rest = &tag[end + 2..];
        }
        parts.push(plain(rest)?);
        Ok(Self { origin: target.origin(), parts })
    }

    /// The URL for this event. Scheme, host and port are those of the template.
    ///
    /// A value that would be empty in the path is refused: `DELETE /users/` is not what anyone meant.
    pub fn resolve(&self, facts: &Facts) -> Result<EndpointUrl, Unresolved> {
        let mut url = String::new();
        for part in &self.parts {
            match part {
                TemplatePart::Text(text) => url.push_str(text),
                TemplatePart::Value { template, is_in_path } => {
                    let value = template.render(facts).map_err(|_| Unresolved::Failed)?;
                    if value.is_empty() && *is_in_path {
                        return Err(Unresolved::Empty);
                    }
                    encode(&value, &mut url);
                }
            }
            if url.len() > LONGEST {
                return Err(Unresolved::TooLong);
            }
        }
        let climbs = |it: &str| matches!(it, "." | "..");
        let path = url.split('?').next().unwrap_or_default();
        if path.split('/').any(climbs) {
            return Err(Unresolved::Climbs);
        }
        let url = EndpointUrl::try_from(url).map_err(|_| Unresolved::Invalid)?;
        if url.origin() == self.origin { Ok(url) } else { Err(Unresolved::Invalid) }
    }
}

fn plain(text: &str) -> Result<TemplatePart, TargetError> {
    if text.contains("{%") || text.contains("{#") {
        return Err(TargetError::Tag);
    }
    Ok(TemplatePart::Text(text.to_owned()))
}

/// Where the tag's `}}` stands: not within a text in quotes.
fn end_of_tag(tag: &str) -> Option<usize> {
    let mut quote = None;
    let mut characters = tag.char_indices();
    while let Some((at, character)) = characters.next() {
        match (quote, character) {
            (None, '"' | '\'') => quote = Some(character),
            (Some(_), '\\') => drop(characters.next()),
            (Some(open), it) if it == open => quote = None,
            (None, '}') if tag[at..].starts_with("}}") => return Some(at),
            (None | Some(_), _) => (),
        }
    }
    None
}

/// Everything but the unreserved characters of RFC 3986 §2.3.
fn encode(value: &str, url: &mut String) {
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            url.push(char::from(byte));
        } else {
            // Writing to a `String` cannot fail.
            write!(url, "%{byte:02X}").ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::destinations::webhook::tests::message;

    fn resolved(target: &str, payload: &str) -> Result<String, Unresolved> {
        let target = Target::try_from(target.to_owned()).unwrap();
        let facts = Facts::new(message("{}", payload, None).event, None);
        let url = TargetTemplate::compile(&target).unwrap().resolve(&facts)?;
        Ok(url.as_url().to_string())
    }

    #[test]
    fn values_stay_within_their_segment_or_parameter() {
        for (target, payload, expected) in [
            ("https://a.com/u/{{ payload.id }}", r#"{"id":7}"#, "https://a.com/u/7"),
            (
                "https://a.com/u/{{payload.id}}/x",
                r#"{"id":"a/../b?c#d"}"#,
                "https://a.com/u/a%2F..%2Fb%3Fc%23d/x",
            ),
            (
                "https://a.com/u/{{ payload.id }}",
                r#"{"id":"ü %2e \\"}"#,
                "https://a.com/u/%C3%BC%20%252e%20%5C",
            ),
            (
                "https://a.com/?a={{ payload.id }}&b=1",
                r#"{"id":"x&b=2+3"}"#,
                "https://a.com/?a=x%26b%3D2%2B3&b=1",
            ),
            ("https://a.com/?a={{ payload.none }}", "{}", "https://a.com/?a="),
            (
                "https://a.com/?a={{ '}}' }}{{ \"\\\"}}\" }}",
                "{}",
                "https://a.com/?a=%7D%7D%22%7D%7D",
            ),
            (
                "https://a.com/{{ type }}-{{ payload.id | lower }}",
                r#"{"id":"X"}"#,
                "https://a.com/user.signed_up-x",
            ),
        ] {
            assert_eq!(resolved(target, payload).as_deref(), Ok(expected), "{target}");
        }
    }

    #[test]
    fn a_url_that_no_one_meant_is_refused() {
        let id = "https://a.com/u/{{ payload.id }}/x";
        let long = format!(r#"{{"id":"{}"}}"#, "x".repeat(LONGEST));
        for (target, payload, expected) in [
            (id, "{}", Unresolved::Empty),
            (id, r#"{"id":null}"#, Unresolved::Empty),
            (id, r#"{"id":""}"#, Unresolved::Empty),
            (id, r#"{"id":".."}"#, Unresolved::Climbs),
            (id, r#"{"id":"."}"#, Unresolved::Climbs),
            ("https://a.com/u/{{ payload.id }}./x", r#"{"id":"."}"#, Unresolved::Climbs),
            ("https://a.com/{{ 1 / payload.id }}", r#"{"id":"x"}"#, Unresolved::Failed),
            (id, &long, Unresolved::TooLong),
        ] {
            assert_eq!(resolved(target, payload), Err(expected), "{target} {payload}");
        }
    }

    #[test]
    fn templates_are_compiled_when_they_are_saved() {
        for (text, is_right) in [
            ("https://a.com/{{ payload.id }}", true),
            ("https://a.com/{{ payload.id", false),
            ("https://a.com/{{ '}}", false),
            ("https://a.com/{{ nonsense }}", false),
            ("https://a.com/{{ payload.id }}{% if 1 %}x{% endif %}", false),
            ("https://a.com/{{ }}", false),
        ] {
            let compiled = Target::try_from(text.to_owned()).map(|it| check_target(&it));
            assert_eq!(compiled.is_ok_and(|it| it.is_ok()), is_right, "{text}");
        }
    }
}
