//! Where a field stands: `payload.users[*].email`.

/// What a path begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Root {
    Payload,
    Metadata,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Segment {
    Key(String),
    Index(usize),
    /// Every key of an object, or every element of a list.
    Any,
}

/// A field of an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldPath {
    pub root: Root,
    /// Empty: the whole of it.
    pub segments: Vec<Segment>,
}

/// The rule for people.
pub const RULE: &str = "must be a field such as `payload.email`, `metadata.ip`, \
     `payload.users[*].email` or `payload[\"two words\"]`";

impl FieldPath {
    pub fn parse(text: &str) -> Option<Self> {
        let end = text.find(['.', '[']).unwrap_or(text.len());
        let root = match &text[..end] {
            "payload" => Root::Payload,
            "metadata" => Root::Metadata,
            _ => return None,
        };
        let mut rest = &text[end..];
        let mut segments = Vec::new();
        while !rest.is_empty() {
            let (segment, after) = match rest.strip_prefix('.') {
                Some(rest) => {
                    let end = rest.find(['.', '[']).unwrap_or(rest.len());
                    let key = &rest[..end];
                    let segment = match key {
                        "" => return None,
                        "*" => Segment::Any,
                        _ => Segment::Key(key.to_owned()),
                    };
                    (segment, &rest[end..])
                }
                None => bracket(rest.strip_prefix('[')?)?,
            };
            segments.push(segment);
            rest = after;
        }
        Some(Self { root, segments })
    }
}

/// What stands behind a `[`, and what behind the `]` that closes it.
fn bracket(text: &str) -> Option<(Segment, &str)> {
    if text.starts_with('"') {
        let mut stream = serde_json::Deserializer::from_str(text).into_iter::<String>();
        let key = stream.next()?.ok()?;
        let rest = text[stream.byte_offset()..].strip_prefix(']')?;
        return Some((Segment::Key(key), rest));
    }
    let (inner, rest) = text.split_once(']')?;
    let segment = match inner {
        "*" => Segment::Any,
        digits => Segment::Index(digits.parse().ok()?),
    };
    Some((segment, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_keys_indexes_and_stars() {
        let key = |it: &str| Segment::Key(it.to_owned());
        for (text, expected) in [
            ("payload", Some(vec![])),
            ("payload.email", Some(vec![key("email")])),
            ("metadata.a[*].b[3]", Some(vec![key("a"), Segment::Any, key("b"), Segment::Index(3)])),
            (r#"payload["a.b]\u0041"].*"#, Some(vec![key("a.b]A"), Segment::Any])),
            ("email", None),
            ("payload.", None),
            ("payload..a", None),
            ("payload[", None),
            ("payload[x]", None),
            ("payload[\"a\"", None),
            ("payloads.a", None),
        ] {
            assert_eq!(FieldPath::parse(text).map(|it| it.segments), expected, "{text}");
        }
    }
}
