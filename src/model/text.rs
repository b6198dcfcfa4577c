//! Short texts with rules: names, event types, idempotency keys. Parsed at the edge, trusted inside.

use std::{borrow::Borrow, fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Why a text is refused. `Display` states the rule, and never repeats the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{rule}")]
pub struct TextError {
    pub rule: &'static str,
}

/// A text that obeys the rule of `R`, shared when it is cloned.
pub struct Text<R> {
    text: Arc<str>,
    rule: std::marker::PhantomData<fn() -> R>,
}

pub trait Rule {
    const RULE: &'static str;

    fn holds(text: &str) -> bool;
}

/// The name of a resource, unique in its project among its kind.
pub type Name = Text<NameRule>;
/// The type of an event, such as `user.signed_up`.
pub type TypeName = Text<TypeRule>;
/// What a Segment client shows to say which source it writes to. It is public: browsers show it to
/// everybody.
pub type WriteKey = Text<WriteKeyRule>;
/// What makes two requests one event, for ever, in its project.
pub type IdempotencyKey = Text<KeyRule>;

pub enum NameRule {}
impl Rule for NameRule {
    const RULE: &'static str = "a name is 1 to 64 lower-case letters, digits, `-` or `_`, and starts with a letter or digit";

    fn holds(text: &str) -> bool {
        let is_allowed =
            |it: u8| it.is_ascii_lowercase() || it.is_ascii_digit() || it == b'-' || it == b'_';
        (1..=64).contains(&text.len())
            && text.bytes().all(is_allowed)
            && text.as_bytes()[0].is_ascii_alphanumeric()
    }
}

pub enum TypeRule {}
impl Rule for TypeRule {
    const RULE: &'static str = "an event type is 1 to 128 letters, digits, `.`, `-` or `_`";

    fn holds(text: &str) -> bool {
        let is_allowed = |it: u8| it.is_ascii_alphanumeric() || matches!(it, b'.' | b'-' | b'_');
        (1..=128).contains(&text.len()) && text.bytes().all(is_allowed)
    }
}

pub enum WriteKeyRule {}
impl Rule for WriteKeyRule {
    const RULE: &'static str = "a write key is 4 to 128 letters, digits, `-` or `_`";

    fn holds(text: &str) -> bool {
        let is_allowed = |it: u8| it.is_ascii_alphanumeric() || matches!(it, b'-' | b'_');
        (4..=128).contains(&text.len()) && text.bytes().all(is_allowed)
    }
}

pub enum KeyRule {}
impl Rule for KeyRule {
    const RULE: &'static str = "an idempotency key is 1 to 255 bytes without control characters";

    fn holds(text: &str) -> bool {
        (1..=255).contains(&text.len()) && !text.chars().any(char::is_control)
    }
}

impl IdempotencyKey {
    /// What keys begin with that the gateway makes itself. They mean deliveries and messages of other
    /// sources, and no sender of events can claim them.
    const RESERVED: [&'static str; 2] = ["webhook:", "messageId:"];

    /// A key that a sender of events gave.
    pub fn given(text: &str) -> Result<Self, TextError> {
        const RULE: &str = "must not begin with `webhook:` or `messageId:`, which begin the keys that \
                            Tidegate makes for events of other sources: put your own word before it";
        let key: Self = text.parse()?;
        if key.is_reserved() { Err(TextError { rule: RULE }) } else { Ok(key) }
    }

    pub fn is_reserved(&self) -> bool {
        Self::RESERVED.iter().any(|it| self.as_str().starts_with(it))
    }

    /// The same key in a space of its own, for one that an expression made of what a sender said.
    pub fn set_apart(&self) -> Self {
        let mut text = format!("key:{self}");
        while text.len() > 255 {
            text.pop();
        }
        Self::trusted(&text)
    }
}

impl<R> Text<R> {
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// For texts that the store gives back: they were checked when they came in.
    pub fn trusted(text: &str) -> Self {
        Self { text: text.into(), rule: std::marker::PhantomData }
    }
}

impl<R> AsRef<str> for Text<R> {
    fn as_ref(&self) -> &str {
        &self.text
    }
}

impl<R: Rule> FromStr for Text<R> {
    type Err = TextError;

    fn from_str(text: &str) -> Result<Self, TextError> {
        if R::holds(text) { Ok(Self::trusted(text)) } else { Err(TextError { rule: R::RULE }) }
    }
}

impl<R> Clone for Text<R> {
    fn clone(&self) -> Self {
        Self { text: self.text.clone(), rule: std::marker::PhantomData }
    }
}

impl<R> fmt::Display for Text<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl<R> fmt::Debug for Text<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.text, f)
    }
}

impl<R> PartialEq for Text<R> {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl<R> Eq for Text<R> {}

impl<R> PartialOrd for Text<R> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<R> Ord for Text<R> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.text.cmp(&other.text)
    }
}

impl<R> std::hash::Hash for Text<R> {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.text.hash(state);
    }
}

impl<R> Borrow<str> for Text<R> {
    fn borrow(&self) -> &str {
        &self.text
    }
}

impl<R> Serialize for Text<R> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

impl<'de, R: Rule> Deserialize<'de> for Text<R> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_rule_takes_what_it_says_and_nothing_else() {
        for (text, is_name, is_type, is_key) in [
            ("crm-webhook", true, true, true),
            ("user.signed_up", false, true, true),
            ("Order Completed", false, false, true),
            ("", false, false, false),
            ("_x", false, true, true),
            ("a\nb", false, false, false),
        ] {
            assert_eq!(text.parse::<Name>().is_ok(), is_name, "{text:?} as a name");
            assert_eq!(text.parse::<TypeName>().is_ok(), is_type, "{text:?} as a type");
            assert_eq!(text.parse::<IdempotencyKey>().is_ok(), is_key, "{text:?} as a key");
        }
    }
}
