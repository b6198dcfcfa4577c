//! JSON as ECMAScript writes it: exactly the bytes of `JSON.stringify(JSON.parse(text))`.
//!
//! Receivers of the SHA-1 schemes parse the body and write it again before they check its signature,
//! as the documents of those systems show them. So what is signed and sent must be what their writing
//! gives: numbers as doubles, integer-like keys first, of duplicate keys the last value at the first
//! one's place, and escapes only where they must be. It was compared with node itself:
//! `canonical_json_is_what_node_writes`.

use std::collections::HashMap;

use crate::model::json::scan::{self, Unreadable};

/// Levels of objects and lists, the outermost included. What is accepted has at most half of them.
pub const DEEPEST: usize = 128;

/// Why there is no canonical form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CanonicalError {
    #[error("the body has more than {DEEPEST} levels")]
    TooDeep,
    #[error("the body is not JSON")]
    NotJson,
}

impl From<Unreadable> for CanonicalError {
    fn from(_: Unreadable) -> Self {
        Self::NotJson
    }
}

/// Appends the canonical form of `json`. On an error, what was appended is good for nothing.
pub fn write(json: &[u8], out: &mut Vec<u8>) -> Result<(), CanonicalError> {
    let mut writer = CanonicalWriter { json, at: 0, out, fields: Vec::new(), spare: Vec::new() };
    writer.value(DEEPEST)?;
    scan::skip_space(json, &mut writer.at);
    if writer.at == json.len() { Ok(()) } else { Err(CanonicalError::NotJson) }
}

struct CanonicalWriter<'a> {
    json: &'a [u8],
    at: usize,
    out: &'a mut Vec<u8>,
    /// Of all objects that are open, the inner ones last.
    fields: Vec<CanonicalField>,
    spare: Vec<u8>,
}

/// A field of an object, by its places in `out`.
#[derive(Clone, Copy)]
struct CanonicalField {
    start: usize,
    /// Behind the key's closing quote.
    key_end: usize,
    end: usize,
    /// Keys of this kind come first, by their number.
    index: Option<u32>,
}

impl CanonicalField {
    /// Quotes included; two keys are the same exactly when their canonical forms are.
    fn key<'a>(&self, out: &'a [u8]) -> &'a [u8] {
        &out[self.start..self.key_end]
    }
}

impl CanonicalWriter<'_> {
    fn value(&mut self, levels: usize) -> Result<(), CanonicalError> {
        scan::skip_space(self.json, &mut self.at);
        match self.json.get(self.at) {
            Some(b'{') => self.object(levels.checked_sub(1).ok_or(CanonicalError::TooDeep)?),
            Some(b'[') => self.list(levels.checked_sub(1).ok_or(CanonicalError::TooDeep)?),
            Some(b'"') => self.text(),
            Some(_) => {
                let word = scan::skip_word(self.json, &mut self.at)?;
                self.out.extend_from_slice(match word {
                    b"true" | b"false" | b"null" => word,
                    _ => return self.number(word),
                });
                Ok(())
            }
            None => Err(CanonicalError::NotJson),
        }
    }

    fn list(&mut self, levels: usize) -> Result<(), CanonicalError> {
        self.at += 1;
        self.out.push(b'[');
        let start = self.out.len();
        while !scan::ends(self.json, &mut self.at, b']')? {
            if self.out.len() > start {
                self.out.push(b',');
            }
            self.value(levels)?;
        }
        self.out.push(b']');
        Ok(())
    }

    fn object(&mut self, levels: usize) -> Result<(), CanonicalError> {
        self.at += 1;
        self.out.push(b'{');
        let first = self.fields.len();
        let body = self.out.len();
        while !scan::ends(self.json, &mut self.at, b'}')? {
            if self.out.len() > body {
                self.out.push(b',');
            }
            let start = self.out.len();
            self.text()?;
            let key_end = self.out.len();
            scan::skip_colon(self.json, &mut self.at)?;
            self.out.push(b':');
            self.value(levels)?;
            let index = index(&self.out[start + 1..key_end - 1]);
            self.fields.push(CanonicalField { start, key_end, end: self.out.len(), index });
        }
        if !is_in_order(&self.fields[first..], self.out) {
            self.put_in_order(first, body);
        }
        self.fields.truncate(first);
        self.out.push(b'}');
        Ok(())
    }

    /// Writes the fields from `first` on again, in the order that ECMAScript gives them.
    fn put_in_order(&mut self, first: usize, body: usize) {
        let out = &*self.out;
        let mut numbered: Vec<(u32, CanonicalField)> = Vec::new();
        let mut named: Vec<CanonicalField> = Vec::new();
        let mut places: HashMap<&[u8], usize> = HashMap::new();
        for field in &self.fields[first..] {
            if let Some(index) = field.index {
                numbered.push((index, *field));
                continue;
            }
            let place = *places.entry(field.key(out)).or_insert(named.len());
            if place == named.len() {
                named.push(*field);
            } else {
                named[place] = *field;
            }
        }
        // Stable, so that of equal ones the last stays last: it is the one that counts.
        numbered.sort_by_key(|(index, _)| *index);
        self.spare.clear();
        for (place, (index, field)) in numbered.iter().enumerate() {
            if numbered.get(place + 1).is_none_or(|(next, _)| next != index) {
                self.spare.extend_from_slice(&out[field.start..field.end]);
                self.spare.push(b',');
            }
        }
        for field in named {
            self.spare.extend_from_slice(&out[field.start..field.end]);
            self.spare.push(b',');
        }
        self.spare.pop();
        self.out.truncate(body);
        self.out.extend_from_slice(&self.spare);
    }

    fn text(&mut self) -> Result<(), CanonicalError> {
        let inner = scan::skip_text(self.json, &mut self.at)?;
        self.out.push(b'"');
        let mut rest = inner;
        while let Some(length) = rest.iter().position(|it| *it == b'\\') {
            self.out.extend_from_slice(&rest[..length]);
            let used = self.escape(&rest[length + 1..])?;
            rest = &rest[length + 1 + used..];
        }
        self.out.extend_from_slice(rest);
        self.out.push(b'"');
        Ok(())
    }

    /// Writes what an escape stands for. Gives its length without the backslash.
    fn escape(&mut self, rest: &[u8]) -> Result<usize, CanonicalError> {
        match rest.first() {
            Some(b'/') => self.out.push(b'/'),
            Some(short @ (b'"' | b'\\' | b'b' | b'f' | b'n' | b'r' | b't')) => {
                self.out.extend_from_slice(&[b'\\', *short]);
            }
            Some(b'u') => {
                let unit = unit(rest.get(1..5))?;
                let is_pair = (0xd800..0xdc00).contains(&unit) && rest.get(5..7) == Some(br"\u");
                if is_pair
                    && let low @ 0xdc00..0xe000 = self::unit(rest.get(7..11))?
                    && let Some(it) =
                        char::from_u32(0x10000 + ((unit - 0xd800) << 10) + (low - 0xdc00))
                {
                    self.out.extend_from_slice(it.encode_utf8(&mut [0; 4]).as_bytes());
                    return Ok(11);
                }
                self.unit(unit);
                return Ok(5);
            }
            Some(_) | None => return Err(CanonicalError::NotJson),
        }
        Ok(1)
    }

    /// One UTF-16 unit that is no half of a pair here.
    fn unit(&mut self, unit: u32) {
        let short = match unit {
            0x08 => b'b',
            0x09 => b't',
            0x0a => b'n',
            0x0c => b'f',
            0x0d => b'r',
            0x22 => b'"',
            0x5c => b'\\',
            _ => 0,
        };
        if short != 0 {
            self.out.extend_from_slice(&[b'\\', short]);
        } else if let Some(it) = char::from_u32(unit).filter(|it| *it >= ' ') {
            self.out.extend_from_slice(it.encode_utf8(&mut [0; 4]).as_bytes());
        } else {
            // Control characters and surrogates without their other half.
            self.out.extend_from_slice(format!("\\u{unit:04x}").as_bytes());
        }
    }

    fn number(&mut self, word: &[u8]) -> Result<(), CanonicalError> {
        /// Every integer of so many digits is a double, and prints as its digits.
        const EXACT: usize = 15;
        let digits = word.strip_prefix(b"-").unwrap_or(word);
        if !digits.first().is_some_and(u8::is_ascii_digit) {
            return Err(CanonicalError::NotJson);
        }
        if digits.len() <= EXACT && digits.iter().all(u8::is_ascii_digit) && word != b"-0" {
            self.out.extend_from_slice(word);
            return Ok(());
        }
        let text = std::str::from_utf8(word).map_err(|_| CanonicalError::NotJson)?;
        let number: f64 = text.parse().map_err(|_| CanonicalError::NotJson)?;
        // What is too large for a double is read as infinity, and written as `null`.
        let written = if number.is_finite() {
            ryu_js::Buffer::new().format_finite(number).to_owned()
        } else {
            "null".to_owned()
        };
        self.out.extend_from_slice(written.as_bytes());
        Ok(())
    }
}

/// The UTF-16 unit of four hexadecimal digits.
fn unit(digits: Option<&[u8]>) -> Result<u32, CanonicalError> {
    let digits = digits.filter(|it| it.iter().all(u8::is_ascii_hexdigit));
    let text = digits.and_then(|it| std::str::from_utf8(it).ok()).ok_or(CanonicalError::NotJson)?;
    u32::from_str_radix(text, 16).map_err(|_| CanonicalError::NotJson)
}

/// The number of a key that is an array index: 0 to 2³² - 2, in plain digits.
fn index(key: &[u8]) -> Option<u32> {
    let is_plain = key.iter().all(u8::is_ascii_digit) && (key.len() == 1 || !key.starts_with(b"0"));
    if !is_plain || key.is_empty() || key.len() > 10 {
        return None;
    }
    let number = key.iter().fold(0, |sum, digit| sum * 10 + u64::from(digit - b'0'));
    u32::try_from(number).ok().filter(|it| *it < u32::MAX)
}

/// Whether the fields stand as they must, each key once.
fn is_in_order(fields: &[CanonicalField], out: &[u8]) -> bool {
    /// Up to here each key is compared with each.
    const FEW: usize = 12;
    let ascends = fields.windows(2).all(|pair| match (pair[0].index, pair[1].index) {
        (Some(one), Some(two)) => one < two,
        (_, None) => true,
        (None, Some(_)) => false,
    });
    if !ascends {
        return false;
    }
    if fields.len() <= FEW {
        return fields
            .iter()
            .enumerate()
            .all(|(place, field)| fields[..place].iter().all(|it| it.key(out) != field.key(out)));
    }
    let mut keys: Vec<_> = fields.iter().map(|it| it.key(out)).collect();
    keys.sort_unstable();
    keys.windows(2).all(|pair| pair[0] != pair[1])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn canonical(json: &str) -> Result<String, CanonicalError> {
        let mut out = Vec::new();
        write(json.as_bytes(), &mut out)?;
        Ok(String::from_utf8(out).unwrap())
    }

    // What node 20 printed for each.
    #[test]
    fn canonical_json_matches_node() {
        for (json, expected) in [
            (r#"{ "b" : 1.50 , "a":[ ] , "c":{ } }"#, r#"{"b":1.5,"a":[],"c":{}}"#),
            (
                "[1.0,1e3,1E+3,1e21,1e20,1e-7,0.000001,-0,-0.0]",
                "[1,1000,1000,1e+21,100000000000000000000,1e-7,0.000001,0,0]",
            ),
            (
                "[12345678901234567890,9007199254740993,1e400,-1e400,5e-324,1e-400]",
                "[12345678901234567000,9007199254740992,null,null,5e-324,0]",
            ),
            (
                r#"{"b":1,"4294967295":2,"4294967294":3,"01":1,"0":5,"-0":-0,"10":1,"9":2}"#,
                r#"{"0":5,"9":2,"10":1,"4294967294":3,"b":1,"4294967295":2,"01":1,"-0":0}"#,
            ),
            (r#"{"a":1,"b":2,"a":3,"5":1,"5":2,"\u0061":4}"#, r#"{"5":2,"a":4,"b":2}"#),
            (r#"{"__proto__":1,"":2,"constructor":3}"#, r#"{"__proto__":1,"":2,"constructor":3}"#),
            (
                r#""\/\u0041\u001F\u007f\u0008\u2028\ud83d\ude00""#,
                "\"/A\\u001f\u{7f}\\b\u{2028}😀\"",
            ),
            (
                r#"["\uD83D","\ud83dx","\uDE00\uD83D","\ud83d\ud83d\ude00","\ud83d\n"]"#,
                r#"["\ud83d","\ud83dx","\ude00\ud83d","\ud83d😀","\ud83d\n"]"#,
            ),
            (" \t\r\n[true , false,null]\n", "[true,false,null]"),
        ] {
            assert_eq!(canonical(json).as_deref(), Ok(expected), "{json}");
        }
    }

    #[test]
    fn many_keys_are_told_apart_too() {
        let fields = |order: &mut dyn Iterator<Item = usize>, value: usize| {
            order.map(|it| format!("\"k{it}\":{value}")).collect::<Vec<_>>().join(",")
        };
        let once = format!("{{{}}}", fields(&mut (0..200), 1));
        assert_eq!(canonical(&once), Ok(once.clone()));
        let twice = format!("{{{},{}}}", fields(&mut (0..200), 1), fields(&mut (0..200).rev(), 2));
        assert_eq!(canonical(&twice), Ok(format!("{{{}}}", fields(&mut (0..200), 2))));
    }

    #[test]
    fn depth_is_bounded_and_garbage_is_no_panic() {
        let nested = |levels| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
        assert!(canonical(&nested(DEEPEST)).is_ok());
        assert_eq!(canonical(&nested(DEEPEST + 1)), Err(CanonicalError::TooDeep));
        let whole = r#"{"a":["\ud83d\ude00",1.5e3,{"0":null}]}"#;
        for length in 0..whole.len() {
            assert_eq!(canonical(&whole[..length]), Err(CanonicalError::NotJson), "{length}");
        }
        for garbage in [
            "1 2",
            "[1",
            "{1:2}",
            r#""\x""#,
            r#""\u00g0""#,
            "nul",
            "+1",
            "inf",
            "NaN",
            "-",
            "{\"a\" 1}",
        ] {
            assert_eq!(canonical(garbage), Err(CanonicalError::NotJson), "{garbage}");
        }
    }
}
