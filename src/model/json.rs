//! A JSON value that is kept as the bytes in which it came, so that nothing of it is changed.

use std::fmt;

use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize, Serializer, ser};
use serde_json::value::RawValue;

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

    pub fn to_value(&self) -> serde_json::Value {
        serde_json::from_slice(&self.0).unwrap_or_default()
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
