//! The same text as a reader takes it: `%40` and `＠` are an `@`.
//!
//! Values are looked for in that form too, and what is found has its place in the text as it was written.

use std::{borrow::Cow, ops::Range};

/// A text in which some characters had another spelling.
pub struct Folded {
    pub text: String,
    /// For each byte of it, and for its end, where it begins in the text as written.
    places: Vec<usize>,
}

/// `None`: it is spelt plainly.
pub fn folded(text: &str) -> Option<Folded> {
    let mut folded = Folded { text: String::with_capacity(text.len()), places: Vec::new() };
    let mut is_other = false;
    let mut at = 0;
    while let Some(character) = text[at..].chars().next() {
        let escaped = escape(&text.as_bytes()[at..]).map(|it| (it, 3));
        let wide = || plain(character).map(|it| (it, character.len_utf8()));
        let other = escaped.or_else(wide);
        is_other |= other.is_some();
        let (character, length) = other.unwrap_or((character, character.len_utf8()));
        folded.places.extend(std::iter::repeat_n(at, character.len_utf8()));
        folded.text.push(character);
        at += length;
    }
    folded.places.push(text.len());
    is_other.then_some(folded)
}

/// The text in its plain spelling.
pub fn plainly(text: &str) -> Cow<'_, str> {
    folded(text).map_or(Cow::Borrowed(text), |it| Cow::Owned(it.text))
}

impl Folded {
    /// Where a part of the folded text stands in the text as it was written.
    pub fn place(&self, range: &Range<usize>) -> Range<usize> {
        // The last character of the part is in it with all that it is written with.
        self.places[range.start]..self.places[range.end]
    }
}

/// The printable ASCII character of `%2E`.
fn escape(bytes: &[u8]) -> Option<char> {
    let [b'%', high, low, ..] = bytes else { return None };
    let digit = |it: &u8| char::from(*it).to_digit(16);
    let code = u8::try_from(digit(high)? * 16 + digit(low)?).ok()?;
    (0x20..0x7f).contains(&code).then(|| char::from(code))
}

/// The ASCII character that a wide, small or ideographic one stands for in an address.
fn plain(character: char) -> Option<char> {
    match character {
        '\u{ff01}'..='\u{ff5e}' => char::from_u32(u32::from(character) - 0xff01 + 0x21),
        '\u{3002}' | '\u{ff61}' | '\u{fe52}' => Some('.'),
        '\u{fe6b}' => Some('@'),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_spellings_are_one_and_keep_their_places() {
        for (text, expected) in [
            ("jane%40acme%2Ecom", "jane@acme.com"),
            ("ｊａｎｅ＠ａｃｍｅ．ｃｏｍ", "jane@acme.com"),
            ("jane﹫acme。com", "jane@acme.com"),
            ("jane%2540acme.com", "jane%40acme.com"),
            ("%00%c3%bc%4", "%00%c3%bc%4"),
            ("100 %", "100 %"),
        ] {
            assert_eq!(plainly(text), expected);
        }
        let folded = folded("ü a%40b．co!").unwrap();
        let start = folded.text.find("a@").unwrap();
        let place = folded.place(&(start..start + "a@b.co".len()));
        assert_eq!(&"ü a%40b．co!"[place], "a%40b．co");
    }
}
