//! Whether a part of an event came back as it was, as far as JavaScript can tell.
//!
//! A script gets `1.50` and gives back `1.5`: that is no change, and the event keeps its bytes. Both
//! texts are walked side by side, since to have the engine write the old one again costs as much as
//! the script.

/// Whether `JSON.stringify(JSON.parse(old))` is `new`. `None`: only the engine knows.
pub fn is_same(old: &str, new: &str) -> Option<bool> {
    if old == new {
        return Some(true);
    }
    let (mut before, mut after) = (Tokens::of(old), Tokens::of(new));
    loop {
        let is_equal = match (before.next(), after.next()) {
            (None, None) => return Some(true),
            (Some(Token::Mark(one)), Some(Token::Mark(other))) => one == other,
            (Some(Token::Text(one)), Some(Token::Text(other))) => {
                one == other || text(one)? == text(other)?
            }
            (Some(Token::Word(one)), Some(Token::Word(other))) => {
                one == other || is_same_number(one, other)
            }
            _ => false,
        };
        if !is_equal {
            // JavaScript writes some keys in another order, and of two that are the same, one.
            return if has_odd_keys(old) { None } else { Some(false) };
        }
    }
}

enum Token<'a> {
    /// A bracket, a comma or a colon.
    Mark(u8),
    /// With its quotes.
    Text(&'a str),
    /// A number, or `true`, `false`, `null`.
    Word(&'a str),
}

/// The parts of a text that is JSON.
struct Tokens<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Tokens<'a> {
    fn of(text: &'a str) -> Self {
        Self { text, at: 0 }
    }

    /// Up to the first of these, from here on.
    fn until(&mut self, is_end: impl Fn(u8) -> bool) -> &'a str {
        let start = self.at;
        let rest = &self.text.as_bytes()[start..];
        self.at += rest.iter().position(|it| is_end(*it)).unwrap_or(rest.len());
        &self.text[start..self.at]
    }

    fn quoted(&mut self) -> &'a str {
        let start = self.at;
        self.at += 1;
        loop {
            self.until(|it| it == b'"' || it == b'\\');
            let is_escape = self.text.as_bytes().get(self.at) == Some(&b'\\');
            self.at = (self.at + 1 + usize::from(is_escape)).min(self.text.len());
            if !is_escape {
                return &self.text[start..self.at];
            }
        }
    }
}

impl<'a> Iterator for Tokens<'a> {
    type Item = Token<'a>;

    fn next(&mut self) -> Option<Token<'a>> {
        self.until(|it| !it.is_ascii_whitespace());
        Some(match *self.text.as_bytes().get(self.at)? {
            mark @ (b'{' | b'}' | b'[' | b']' | b',' | b':') => {
                self.at += 1;
                Token::Mark(mark)
            }
            b'"' => Token::Text(self.quoted()),
            _ => Token::Word(self.until(|it| b"{}[],: \n\r\t\"".contains(&it))),
        })
    }
}

/// `None`: half of a pair, which no text of ours can hold.
fn text(quoted: &str) -> Option<String> {
    serde_json::from_str(quoted).ok()
}

fn is_same_number(old: &str, new: &str) -> bool {
    let Ok(before) = old.parse::<f64>() else { return false };
    match new.parse::<f64>() {
        Ok(after) => before == after,
        Err(_) => before.is_infinite() && new == "null",
    }
}

/// Whether an object has keys that JavaScript may move: numbers, and those that stand there twice.
fn has_odd_keys(json: &str) -> bool {
    /// Nobody compares each with each in an object with more keys.
    const MOST: usize = 64;
    // The keys of the objects that are open, and where those of each begin.
    let (mut keys, mut open): (Vec<&str>, Vec<usize>) = (Vec::new(), Vec::new());
    let mut last = None;
    for token in Tokens::of(json) {
        match token {
            Token::Mark(b'{') => open.push(keys.len()),
            Token::Mark(b'}') => keys.truncate(open.pop().unwrap_or(0)),
            Token::Mark(b':') => {
                let (Some(key), first) = (last, open.last().copied().unwrap_or(0)) else {
                    return true;
                };
                let key: &str = key;
                let is_number = key[1..key.len() - 1].bytes().all(|it| it.is_ascii_digit());
                let own = &keys[first..];
                if is_number || key.contains('\\') || own.len() >= MOST || own.contains(&key) {
                    return true;
                }
                keys.push(key);
            }
            Token::Mark(_) | Token::Word(_) => (),
            Token::Text(text) => last = Some(text),
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_equal_when_javascript_writes_them_alike() {
        for (old, new, expected) in [
            ("{}", "{}", Some(true)),
            (r#"{ "a" : [1.50, -0, 1e3] }"#, r#"{"a":[1.5,0,1000]}"#, Some(true)),
            ("12345678901234567890", "12345678901234567000", Some(true)),
            ("[1e400]", "[null]", Some(true)),
            (r#"["\u00e9\/"]"#, r#"["é/"]"#, Some(true)),
            (r#"{"a":1}"#, r#"{"a":1,"b":2}"#, Some(false)),
            (r#"{"a":1,"b":2}"#, r#"{"a":1}"#, Some(false)),
            ("[1]", "[2]", Some(false)),
            ("[1]", "[null]", Some(false)),
            ("[1]", r#"["1"]"#, Some(false)),
            ("true", "false", Some(false)),
            (r#"["a"]"#, r#"["b"]"#, Some(false)),
            // What only the engine knows.
            (r#"{"b":1,"2":1}"#, r#"{"2":1,"b":1}"#, None),
            (r#"{"a":1,"a":2}"#, r#"{"a":2}"#, None),
            (r#"["\ud800"]"#, r#"["\ud801"]"#, None),
            (r#"{"\u0061":1,"b":1}"#, r#"{"a":2,"b":1}"#, None),
        ] {
            assert_eq!(is_same(old, new), expected, "{old} {new}");
        }
    }
}
