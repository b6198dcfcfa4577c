//! JSON that is kept as the bytes in which it came, and the one reader for JSON of senders.
//!
//! Everything that looks into what a sender wrote goes through here: expressions, keys, lanes,
//! suppression and erasure, Segment's fields, `integrations`. The reader takes whatever JSON there is:
//! a name that is no text hides nothing beside it, a name that stands twice has its last value, and
//! numbers are of any size. It looks at bytes that were parsed as JSON when they came in.

mod object;
mod value;
pub mod scan;
pub mod text;

use std::{borrow::Cow, fmt};

use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize, Serializer, ser};
use serde_json::value::RawValue;

pub use self::{
    object::{Field, Object, ObjectWriter, is_object, value_at},
    scan::Unreadable,
    value::value,
};

/// What stands between the quotes of a string.
fn inner(json: &[u8]) -> &[u8] {
    let rest = json.strip_prefix(b"\"").unwrap_or(json);
    rest.strip_suffix(b"\"").unwrap_or(rest)
}

/// A string as text, half of a surrogate pair as U+FFFD. `None`: it is no string.
pub fn lossy_text(json: &[u8]) -> Option<Cow<'_, str>> {
    (json.first() == Some(&b'"')).then(|| text::lossy(inner(json)))
}

/// A string that is text. `None`: it is no string, or has half of a surrogate pair in it.
pub fn exact_text(json: &[u8]) -> Option<Cow<'_, str>> {
    if json.first() == Some(&b'"') { text::exact(inner(json)) } else { None }
}

/// A body without the mark of UTF-8 (a BOM) that some programs put before it, and that a reader may
/// skip (RFC 8259, section 8.1). All doors do.
pub fn without_mark(body: &[u8]) -> &[u8] {
    body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body)
}

/// Without the white space of JSON before and behind it. A form feed is none (RFC 8259, section 2), so
/// `trim_ascii` of the standard library takes too much.
pub fn trimmed(json: &[u8]) -> &[u8] {
    let is_black = |it: &u8| !matches!(it, b' ' | b'\t' | b'\n' | b'\r');
    let first = json.iter().position(is_black).unwrap_or(json.len());
    let end = json.iter().rposition(is_black).map_or(first, |it| it + 1);
    json.get(first..end).unwrap_or_default()
}

/// Valid JSON, whole and untouched: 1.50 stays 1.50, and keys stay in their order. Cheap to clone.
#[derive(Clone, PartialEq, Eq)]
pub struct RawJson(Bytes);

impl RawJson {
    /// `null`.
    pub const NULL: Self = Self(Bytes::from_static(b"null"));

    /// For bytes that were parsed as JSON before, or that a serialiser just wrote.
    pub fn trusted(bytes: impl Into<Bytes>) -> Self {
        Self(bytes.into())
    }

    pub fn parse(bytes: impl Into<Bytes>) -> Result<Self, serde_json::Error> {
        let bytes = bytes.into();
        serde_json::from_slice::<&RawValue>(&bytes)?;
        Ok(Self(bytes))
    }

    /// The JSON of any value that serialises without error, which is so for every type of ours.
    pub fn of<T: Serialize + ?Sized>(value: &T) -> Self {
        Self(serde_json::to_vec(value).unwrap_or_else(|_| b"null".to_vec()).into())
    }

    pub fn bytes(&self) -> &Bytes {
        &self.0
    }

    pub fn as_str(&self) -> &str {
        // JSON is UTF-8 by the check in `parse`; what a caller smuggled past it shows as nothing.
        std::str::from_utf8(&self.0).unwrap_or_default()
    }

    /// The same without line breaks: within a text they are escaped, and elsewhere a space will do.
    pub fn in_one_line(self) -> Self {
        let is_break = |it: &u8| matches!(it, b'\n' | b'\r');
        if !self.0.iter().any(is_break) {
            return self;
        }
        let bytes = self.0.iter().map(|it| if is_break(it) { b' ' } else { *it });
        Self(bytes.collect())
    }

    /// As a value; what such a value cannot hold is in it as the nearest that it can. See [`value`].
    pub fn to_value(&self) -> serde_json::Value {
        value(&self.0)
    }
}

impl fmt::Debug for RawJson {
    /// Payloads may hold personal data, and so never reach a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RawJson({} bytes)", self.0.len())
    }
}

impl Serialize for RawJson {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serde_json::from_slice::<&RawValue>(&self.0)
            .map_err(ser::Error::custom)?
            .serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for RawJson {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = Box::<RawValue>::deserialize(deserializer)?;
        Ok(Self(String::from(Box::<str>::from(raw)).into()))
    }
}

#[cfg(test)]
mod tests {
    use super::trimmed;

    #[test]
    fn only_the_white_space_of_json_is_trimmed() {
        for (json, left) in [
            (" \t\r\n1 \t\r\n", "1"),
            ("", ""),
            (" \n", ""),
            ("1", "1"),
            ("\u{c}1\u{c} ", "\u{c}1\u{c}"),
            ("\u{b}", "\u{b}"),
        ] {
            assert_eq!(trimmed(json.as_bytes()), left.as_bytes(), "{json:?}");
        }
    }
}
