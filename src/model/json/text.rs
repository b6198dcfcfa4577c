//! The text of a JSON string: what its escapes stand for.
//!
//! JSON also has strings that are no text: half of a surrogate pair (`"\ud800"`). As a name, such a
//! half is kept in bytes of its own (WTF-8), so that it equals no text and hides nothing beside it.
//! As a value it reads as U+FFFD, as every program does that writes UTF-8.

use std::borrow::Cow;

/// The bytes that a name stands for. `inner` is what stands between the quotes. Text is UTF-8; half of
/// a pair has the three bytes that its number would have.
pub fn name(inner: &[u8]) -> Cow<'_, [u8]> {
    resolved(inner, |half, out| {
        let byte = |shift: u32, mask: u32| (half >> shift & mask) as u8;
        out.extend_from_slice(&[0xe0 | byte(12, 0xf), 0x80 | byte(6, 0x3f), 0x80 | byte(0, 0x3f)]);
    })
}

/// Whether a name is this word, however it is written.
pub fn is(inner: &[u8], word: &str) -> bool {
    match inner.contains(&b'\\') {
        true => *name(inner) == *word.as_bytes(),
        false => inner == word.as_bytes(),
    }
}

/// A name for people and programs that know only text: half of a pair is written as its escape, so
/// that names that differ still do.
pub fn shown_name(inner: &[u8]) -> Cow<'_, str> {
    utf8(resolved(inner, |half, out| out.extend_from_slice(format!("\\u{half:04x}").as_bytes())))
}

/// A value as text: half of a pair is U+FFFD.
pub fn lossy(inner: &[u8]) -> Cow<'_, str> {
    utf8(resolved(inner, |_, out| out.extend_from_slice("\u{fffd}".as_bytes())))
}

/// A value, if it is text.
pub fn exact(inner: &[u8]) -> Option<Cow<'_, str>> {
    let mut is_text = true;
    let bytes = resolved(inner, |_, _| is_text = false);
    is_text.then(|| utf8(bytes))
}

/// Outside of escapes, JSON is UTF-8; what is not was never JSON.
fn utf8(bytes: Cow<'_, [u8]>) -> Cow<'_, str> {
    match bytes {
        Cow::Borrowed(it) => String::from_utf8_lossy(it),
        Cow::Owned(it) => match String::from_utf8(it) {
            Ok(it) => Cow::Owned(it),
            Err(error) => Cow::Owned(String::from_utf8_lossy(error.as_bytes()).into_owned()),
        },
    }
}

/// The string with its escapes resolved. `half` writes what is half of a pair and stands alone.
fn resolved(inner: &[u8], mut half: impl FnMut(u32, &mut Vec<u8>)) -> Cow<'_, [u8]> {
    let mut rest = inner;
    let Some(mut length) = backslash(rest) else { return Cow::Borrowed(inner) };
    let mut out = Vec::with_capacity(inner.len());
    loop {
        out.extend_from_slice(&rest[..length]);
        rest = &rest[length + 1..];
        let used = match rest.first() {
            Some(b'u') => escaped_unit(rest, &mut out, &mut half),
            Some(short) => {
                out.push(match short {
                    b'b' => 0x08,
                    b'f' => 0x0c,
                    b'n' => b'\n',
                    b'r' => b'\r',
                    b't' => b'\t',
                    other => *other,
                });
                1
            }
            None => 0,
        };
        rest = &rest[used.min(rest.len())..];
        match backslash(rest) {
            Some(next) => length = next,
            None => break,
        }
    }
    out.extend_from_slice(rest);
    Cow::Owned(out)
}

fn backslash(bytes: &[u8]) -> Option<usize> {
    bytes.iter().position(|it| *it == b'\\')
}

/// Writes the character of `u1234`, or of two such that are a pair, and gives their length.
fn escaped_unit(rest: &[u8], out: &mut Vec<u8>, half: &mut impl FnMut(u32, &mut Vec<u8>)) -> usize {
    let unit_at = |at: usize| {
        let digits = rest.get(at..at + 4)?;
        let text = std::str::from_utf8(digits)
            .ok()
            .filter(|_| digits.iter().all(u8::is_ascii_hexdigit))?;
        u32::from_str_radix(text, 16).ok()
    };
    let Some(first) = unit_at(1) else { return 1 };
    let second = (rest.get(5..7) == Some(br"\u")).then(|| unit_at(7)).flatten();
    if let (0xd800..0xdc00, Some(second @ 0xdc00..0xe000)) = (first, second)
        && let Some(pair) = char::from_u32(0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00))
    {
        out.extend_from_slice(pair.encode_utf8(&mut [0; 4]).as_bytes());
        return 11;
    }
    match char::from_u32(first) {
        Some(it) => out.extend_from_slice(it.encode_utf8(&mut [0; 4]).as_bytes()),
        None => half(first, out),
    }
    5
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_compared_by_what_they_stand_for() {
        for (inner, word, expected) in [
            ("integrations", "integrations", true),
            (r"integr\u0061tions", "integrations", true),
            (r"a\/b\n\t\b\f\r\\\u0022", "a/b\n\t\u{8}\u{c}\r\\\"", true),
            (r"\ud83d\ude00", "😀", true),
            (r"\uD83D\uDE00x", "😀x", true),
            (r"\ud83d", "\u{fffd}", false),
            (r"\ud83dx", "x", false),
            (r"\ud83d\ud83d\ude00", "😀", false),
            ("", "", true),
        ] {
            assert_eq!(is(inner.as_bytes(), word), expected, "{inner}");
        }
        assert_eq!(name(br"\ud800"), name(br"\uD800"));
        assert!(name(br"\ud800") != name(br"\ud801"));
    }

    #[test]
    fn half_a_character_is_no_text_and_is_shown_as_what_it_is() {
        let inner = br"a\ud800b\udc00";
        assert_eq!(shown_name(inner), r"a\ud800b\udc00");
        assert_eq!(lossy(inner), "a\u{fffd}b\u{fffd}");
        assert_eq!((exact(inner), exact(br"a\u0062")), (None, Some("ab".into())));
    }
}
