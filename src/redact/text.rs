//! One JSON string: what its escapes mean, and which of its bytes are replaced.

use std::{borrow::Cow, ops::Range};

use super::{Redactor, detect::FoundValue};
use crate::model::RedactionMode;

/// A JSON string without its quotes, as text, with the way back to its bytes.
pub struct Decoded<'a> {
    pub text: Cow<'a, str>,
    /// For each byte of the text, and for its end, where it begins in the string; empty when nothing is
    /// escaped and both are the same.
    places: Vec<usize>,
}

impl<'a> Decoded<'a> {
    pub fn of(raw: &'a [u8]) -> Self {
        if !raw.contains(&b'\\') {
            return Self { text: String::from_utf8_lossy(raw), places: Vec::new() };
        }
        let (mut text, mut places) = (Vec::with_capacity(raw.len()), Vec::new());
        let mut at = 0;
        while at < raw.len() {
            let (character, length) = match raw[at] {
                b'\\' => escape(&raw[at..]),
                byte => {
                    text.push(byte);
                    places.push(at);
                    at += 1;
                    continue;
                }
            };
            let mut buffer = [0; 4];
            for byte in character.encode_utf8(&mut buffer).bytes() {
                text.push(byte);
                places.push(at);
            }
            at += length;
        }
        places.push(raw.len());
        // Bytes outside of escapes are UTF-8, as all JSON is.
        match String::from_utf8(text) {
            Ok(text) => Self { text: Cow::Owned(text), places },
            Err(_) => Self { text: String::from_utf8_lossy(raw), places: Vec::new() },
        }
    }

    /// The bytes of the string in which this part of the text stands.
    pub fn raw(&self, range: &Range<usize>) -> Range<usize> {
        match self.places.is_empty() {
            true => range.clone(),
            false => self.places[range.start]..self.places[range.end],
        }
    }
}

/// The character of an escape, and how long the escape is.
fn escape(raw: &[u8]) -> (char, usize) {
    let unit = |at: usize| -> Option<u32> {
        let digits = raw.get(at..at + 6)?.strip_prefix(b"\\u")?;
        u32::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
    };
    let simple = match raw.get(1) {
        Some(b'n') => '\n',
        Some(b't') => '\t',
        Some(b'r') => '\r',
        Some(b'b') => '\u{8}',
        Some(b'f') => '\u{c}',
        Some(b'u') => {
            let first = unit(0).unwrap_or(0xfffd);
            if (0xd800..0xdc00).contains(&first)
                && let Some(second @ 0xdc00..0xe000) = unit(6)
            {
                let pair = 0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00);
                return (char::from_u32(pair).unwrap_or('\u{fffd}'), 12);
            }
            // Half of a pair, alone, is no character.
            return (char::from_u32(first).unwrap_or('\u{fffd}'), 6);
        }
        Some(other) => char::from(*other),
        None => '\\',
    };
    (simple, 2)
}

/// What becomes of a text.
pub enum Cleaned {
    /// Nothing is found in it.
    Same,
    /// These parts of it are replaced.
    Parts(Vec<(Range<usize>, String)>),
    /// What is left after the first replacements looked like a value again.
    Whole(String),
}

impl Redactor {
    /// Replaces what is found in a text, until nothing is found any more.
    pub fn clean(&self, text: &str) -> Cleaned {
        /// Nobody needs more; what then still matches is given up as a whole.
        const ROUNDS: usize = 4;
        let found = self.detected(text);
        if found.is_empty() {
            return Cleaned::Same;
        }
        let (parts, mut left) = self.replace(text, found);
        let mut again = self.detected(&left);
        if again.is_empty() {
            return Cleaned::Parts(parts);
        }
        for _ in 0..ROUNDS {
            left = self.replace(&left, again).1;
            again = self.detected(&left);
            if again.is_empty() {
                return Cleaned::Whole(left);
            }
        }
        Cleaned::Whole("[redacted]".to_owned())
    }

    /// What is found, without addresses that are truncated already.
    fn detected(&self, text: &str) -> Vec<FoundValue> {
        let mut found = self.detectors.find(text);
        if self.mode == RedactionMode::Truncate {
            found.retain(|it| {
                let value = &text[it.range.clone()];
                self.replacement(it.kind, value) != value
            });
        }
        found
    }

    fn replace(&self, text: &str, found: Vec<FoundValue>) -> (Vec<(Range<usize>, String)>, String) {
        let mut left = String::with_capacity(text.len());
        let (mut parts, mut copied) = (Vec::with_capacity(found.len()), 0);
        for FoundValue { range, kind } in found {
            let new = self.replacement(kind, &text[range.clone()]);
            left.push_str(&text[copied..range.start]);
            left.push_str(&new);
            copied = range.end;
            parts.push((range, new));
        }
        left.push_str(&text[copied..]);
        (parts, left)
    }
}
